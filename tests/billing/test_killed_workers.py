"""Processes killed with -9 at every step between the money and what it bought: in the end all is there, once."""

from __future__ import annotations

import signal

import pytest
from django.db import connection

from accounts.models import User
from billing import services
from billing.finance.books import check_books
from billing.models import Account, Order, Posting, Refund, SandboxCharge, SoldSerial
from billing.services.fulfilment import deliver_paid
from billing.services.orders import expire_orders
from billing.services.payments import ask_gateways
from billing.services.refund_sending import send_due
from fleet.models import RelayGroup
from serials.models import Lease, LeaseTerm, SerialNumber
from tests.billing.till import Kind, balance, begin, call, callback_about, order_of, paid_order, priced_plan
from tests.fleet.doomed import work
from tests.serials.shop import assert_in_step, make_server

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db(transaction=True)]

WORKER = """
import importlib, os, signal, sys
from billing.services import fulfilment, payments, refund_sending
job, number, module, name, after = sys.argv[1:]
place = importlib.import_module(module)
owner, _dot, attribute = name.rpartition(".")
target = getattr(place, owner) if owner else place
step = getattr(target, attribute)
def die(*arguments, **options):
    if after == "after":
        step(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(target, attribute, die)
if job == "deliver":
    fulfilment.deliver(order_id=int(number))
elif job == "send":
    refund_sending.send(refund_id=int(number))
elif job == "ask":
    payments.ask_about(int(number))
"""


def killed(job: str, number: int, step: str, when: str = "after") -> None:
    """A process does the job and dies at that step."""
    module, _dot, name = step.partition(":")
    connection.close()
    done = work(WORKER, job, number, module, name, when)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    "step",
    [
        "serials.services:generate",
        "billing.services.fulfilment:sell",
        "serials.services:redeem",
        "billing.services.fulfilment:_tell",
    ],
)
def test_killed_at_any_step_of_a_delivery_it_is_delivered_once(alice: User, step: str) -> None:
    make_server()
    order = paid_order(alice, priced_plan(30), Kind.SELF)

    killed("deliver", order.pk, step)

    assert not SerialNumber.objects.exists(), "half a delivery was left behind"
    assert deliver_paid() == 1
    assert deliver_paid() == 0
    assert SoldSerial.objects.count() == SerialNumber.objects.count() == LeaseTerm.objects.count() == 1
    assert RelayGroup.objects.get().pk == Lease.objects.get().relay_group_id
    assert_in_step(alice)
    assert check_books() == []


def test_killed_between_payment_and_delivery_the_sweep_delivers(alice: User) -> None:
    order = order_of(alice, priced_plan(30))
    payment = begin(order)
    call(payment)
    # Nobody runs here whom the commit could have woken: the worker that was to deliver is dead.
    assert Order.objects.get().state == Order.State.PAID
    assert deliver_paid() == 1
    assert len(services.codes_of(order)) == 1


@pytest.mark.parametrize(
    "step", ["billing.services.receiving:_post_transfer", "billing.services.receiving:count_transfer"]
)
def test_killed_while_money_is_booked_nothing_is_booked_and_the_next_look_books_it(alice: User, step: str) -> None:
    payment = begin(order_of(alice, priced_plan(30)))
    SandboxCharge.objects.create(
        reference=payment.reference,
        method=payment.method,
        amount=payment.amount,
        paid_amount=payment.amount,
        currency=payment.currency,
        state="paid",
        transaction_id="tx",
        paid_at=payment.created_at,
    )

    killed("ask", payment.pk, step)

    assert not Posting.objects.exists()
    assert Order.objects.get().state == Order.State.PENDING
    type(payment).objects.update(next_query_at=payment.created_at)
    assert ask_gateways() == 1
    call(payment, callback_about(payment, transaction_id="tx"))
    assert Order.objects.get().state == Order.State.PAID
    assert balance(Account.REVENUE) == -1990
    assert check_books() == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_a_refund_is_sent_it_is_sent_once(alice: User, root: User, when: str) -> None:
    order = paid_order(alice, priced_plan(30))
    payment = order.payments.get()
    charge = SandboxCharge.objects.create(
        reference=payment.reference,
        method=payment.method,
        amount=payment.amount,
        paid_amount=payment.amount,
        currency=payment.currency,
        state="paid",
        transaction_id="tx",
        paid_at=payment.created_at,
    )
    refund = services.refund_order(order_id=order.pk, reason="asked for", actor=root)

    killed("send", refund.pk, "billing.sandbox:give_back", when)

    charge.refresh_from_db()
    assert len(charge.refunded) == (when == "after")
    assert Refund.objects.get().state == Refund.State.DUE
    Refund.objects.update(next_try_at=refund.created_at)
    assert send_due() == 1
    charge.refresh_from_db()
    assert charge.refunded == {refund.number: 1990}
    assert Refund.objects.get().state == Refund.State.DONE
    assert balance(Account.CASH) == balance(Account.REFUNDS_DUE) == 0
    assert check_books() == []


def test_killed_while_it_expires_an_order_is_not_half_given_up(alice: User) -> None:
    order = order_of(alice, priced_plan(30))
    Order.objects.filter(pk=order.pk).update(expires_at=order.created_at)
    connection.close()
    done = work(
        "import os, signal\n"
        "from billing.services import orders\n"
        "orders.notify = lambda **_mail: os.kill(os.getpid(), signal.SIGKILL)\n"
        "orders.expire_orders()\n"
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert Order.objects.get().state == Order.State.PENDING
    assert expire_orders() == 1
    assert Order.objects.get().transitions.count() == 2
