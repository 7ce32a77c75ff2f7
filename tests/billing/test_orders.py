"""From order to delivery: what is bought arrives, once, and the books say so."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import time_machine

from accounts.models import User
from billing import services
from billing.admin.words import words_for
from billing.gateways.base import Demand, Opened
from billing.gateways.sandbox import SandboxGateway
from billing.models import Account, GatewayCallback, Order, OrderLine, Payment, SoldSerial, Transfer
from billing.services.callbacks import handle_callback
from billing.services.fulfilment import deliver, deliver_paid
from billing.services.orders import expire_orders
from billing.services.payments import ASKED_FOR, ask_gateways
from billing.services.pricing import Item
from derp_portal.lib.errors import PortalError
from serials.models import Lease, SerialNumber
from tests.billing.till import (
    Kind,
    balance,
    begin,
    call,
    callback_about,
    make_bank,
    make_method,
    order_of,
    paid_order,
    priced_plan,
    verdicts,
)
from tests.serials.shop import START, assert_in_step, mails, make_server

pytestmark = pytest.mark.django_db


@time_machine.travel(START, tick=False)
def test_a_serial_bought_for_oneself_is_redeemed_at_once(alice: User) -> None:
    make_server()
    order = paid_order(alice, priced_plan(30), Kind.SELF)
    assert order.state == Order.State.PAID

    order = deliver(order_id=order.pk)

    assert order.state == Order.State.FULFILLED
    lease = Lease.objects.get(user=alice)
    assert lease.ends_at - lease.started_at == timedelta(days=30)
    assert SoldSerial.objects.get().amount == 1990
    assert services.codes_of(order) == []
    assert [step.to_state for step in order.transitions.all()] == ["pending", "paid", "fulfilled"]
    assert_in_step(alice)


def test_what_is_made_for_a_customer_speaks_their_language(bob: User) -> None:
    make_server()
    deliver(order_id=paid_order(bob, priced_plan(30), Kind.SELF).pk)
    assert Lease.objects.get(user=bob).name == "我的中继"


def test_a_gift_shows_its_codes_and_touches_no_lease(alice: User) -> None:
    order = deliver(order_id=paid_order(alice, priced_plan(30), Kind.GIFT, 3).pk)
    codes = services.codes_of(order)
    assert len(codes) == 3
    assert not Lease.objects.exists()
    assert [one.amount for one in SoldSerial.objects.all()] == [1990, 1990, 1990]


def test_a_renewal_adds_its_days_to_the_lease_it_was_bought_for(alice: User) -> None:
    make_server()
    plan = priced_plan(30)
    deliver(order_id=paid_order(alice, plan, Kind.SELF).pk)
    lease = Lease.objects.get()
    end = lease.ends_at

    deliver(order_id=paid_order(alice, plan, Kind.RENEWAL, 2, lease_id=lease.pk).pk)

    lease.refresh_from_db()
    assert lease.ends_at - end == timedelta(days=60)


def test_a_renewal_of_a_lease_that_is_gone_leaves_the_code(alice: User) -> None:
    make_server()
    plan = priced_plan(30)
    deliver(order_id=paid_order(alice, plan, Kind.SELF).pk)
    lease = Lease.objects.get()
    order = paid_order(alice, plan, Kind.RENEWAL, lease_id=lease.pk)
    Lease.objects.filter(pk=lease.pk).update(released_at=lease.started_at)

    order = deliver(order_id=order.pk)

    assert order.state == Order.State.FULFILLED
    assert order.lines.get().problem == "lease_not_found"
    assert len(services.codes_of(order)) == 1


def test_delivering_twice_delivers_once(alice: User) -> None:
    order = paid_order(alice, priced_plan(30))
    deliver(order_id=order.pk)
    deliver(order_id=order.pk)
    assert deliver_paid() == 0
    assert SerialNumber.objects.count() == SoldSerial.objects.count() == 1
    assert len(mails("order_delivered")) == 1


def test_the_books_follow_the_money(alice: User) -> None:
    make_method(fee_basis_points=60)
    paid_order(alice, priced_plan(30, 10_000))
    assert balance(Account.CASH) == 10_000 - 60
    assert balance(Account.GATEWAY_FEES) == 60
    assert balance(Account.CUSTOMER_FUNDS) == 0
    assert balance(Account.REVENUE) == -10_000


def test_a_callback_that_comes_again_changes_nothing(alice: User) -> None:
    order = order_of(alice, priced_plan(30))
    payment = begin(order)
    answers = [call(payment) for _time in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert verdicts() == ["counted", "repeated", "repeated"]
    assert Transfer.objects.count() == 1


def test_two_methods_on_one_account_take_each_others_callbacks_and_book_nothing(alice: User) -> None:
    payment, other = begin(order_of(alice, priced_plan(30))), make_method("euro", currency="EUR")
    strange = callback_about(payment, reference="NOBODYS")
    for callback, status, verdict in ((callback_about(payment), 200, "noted"), (strange, 400, "refused")):
        assert handle_callback(method=other, callback=callback, ip=None).status == status
        assert verdicts()[-1] == verdict
    kept = GatewayCallback.objects.get(verdict="noted")
    assert (kept.method, kept.payment, words_for(kept.reason) != kept.reason) == (other, payment, True)
    assert not Transfer.objects.exists()
    call(payment)
    assert Order.objects.get().state == Order.State.PAID


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"amount": 1989}, "partial"),
        ({"amount": 1991}, "over"),
        ({"currency": "USD"}, "other_currency"),
    ],
)
def test_money_that_does_not_fit_goes_to_a_person(alice: User, said: dict[str, Any], problem: str) -> None:
    payment = begin(order_of(alice, priced_plan(30)))
    call(payment, callback_about(payment, **said))
    order = Order.objects.get()
    assert order.state == Order.State.PENDING
    assert Transfer.objects.get().problem == problem
    assert len(mails("payment_held")) == 1
    currency = str(said.get("currency", "CNY"))
    assert balance(Account.CUSTOMER_FUNDS, currency) == -Transfer.objects.get().amount


def test_an_order_expires_and_money_that_comes_late_still_counts(alice: User) -> None:
    with time_machine.travel(START, tick=False) as clock:
        order = order_of(alice, priced_plan(30))
        payment = begin(order)
        clock.shift(timedelta(minutes=31))
        assert expire_orders() == 1
        assert len(mails("order_expired")) == 1
        call(payment)
    order.refresh_from_db()
    assert order.state == Order.State.PAID


def test_money_that_comes_late_counts_all_lines_of_a_plan_against_its_limit(alice: User) -> None:
    plan = priced_plan(30, per_user_limit=3)
    with time_machine.travel(START, tick=False) as clock:
        both = [Item(Kind.GIFT, plan=plan), Item(Kind.SELF, plan=plan)]
        payment = begin(services.place_order(user=alice, items=both, actor=alice))
        clock.shift(timedelta(minutes=31))
        expire_orders()
        order_of(alice, plan, quantity=2)
        call(payment)
    assert Transfer.objects.get().problem == "per_user_limit"


def test_a_payment_nobody_called_about_is_found_by_asking(alice: User) -> None:
    from billing.models import SandboxCharge

    with time_machine.travel(START, tick=False) as clock:
        order = order_of(alice, priced_plan(30))
        payment = begin(order)
        SandboxCharge.objects.create(
            reference=payment.reference,
            method=payment.method,
            amount=payment.amount,
            paid_amount=payment.amount,
            currency="CNY",
            state="paid",
            transaction_id="quiet",
            paid_at=START,
        )
        assert ask_gateways() == 0
        clock.shift(timedelta(seconds=31))
        assert ask_gateways() == 1
    order.refresh_from_db()
    assert order.state == Order.State.PAID
    assert Transfer.objects.get().source == Transfer.Source.QUERY


def test_no_gateway_takes_money_for_longer_than_it_is_asked_about(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    demands: list[Demand] = []
    start = SandboxGateway.start

    def watched(gateway: SandboxGateway, demand: Demand) -> Opened:
        demands.append(demand)
        return start(gateway, demand)

    monkeypatch.setattr(SandboxGateway, "start", watched)
    with time_machine.travel(START, tick=False):
        order = order_of(alice, priced_plan(30))
        begin(order)
        begin(order, make_bank())
        begin(order, make_method("second"))
        order.refresh_from_db()
    assert order.expires_at == START + timedelta(days=3)
    assert [demand.expires_at - START for demand in demands] == [timedelta(minutes=30), ASKED_FOR]


def test_what_costs_nothing_is_paid_at_once_and_only_once_a_person(alice: User) -> None:
    plan = priced_plan(3, 0, is_trial=True)
    order = order_of(alice, plan, Kind.SELF)
    assert order.state == Order.State.PAID
    with pytest.raises(PortalError) as refusal:
        order_of(alice, plan, Kind.SELF)
    assert refusal.value.code == "trial_used"
    assert not Payment.objects.exists()


def test_a_full_refund_takes_back_what_was_delivered(alice: User, root: User) -> None:
    make_server()
    order = deliver(order_id=paid_order(alice, priced_plan(30), Kind.SELF).pk)
    refund = services.refund_order(order_id=order.pk, reason="asked for", actor=root)
    order.refresh_from_db()
    assert order.state == Order.State.REFUNDED
    assert Lease.objects.get().end_reason == Lease.EndReason.TAKEN_BACK
    assert refund.amount == 1990
    assert balance(Account.REFUNDS) == 1990
    assert balance(Account.REFUNDS_DUE) == -1990
    assert OrderLine.objects.count() == 1
