"""What staff decide about money that came in or goes back, and what they see of callbacks."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.test import Client

from accounts.models import AuditEntry, User
from billing import services
from billing.models import (
    Account,
    GatewayCallback,
    Order,
    PaymentMethod,
    Refund,
    SandboxCharge,
    Transfer,
    TrialUse,
)
from billing.services.orders import expire_orders
from derp_portal.lib.clock import now
from serials.models import Plan
from tests.billing.desk import confirm_form, everything, held_order, offered, page, told, transfer_method
from tests.billing.till import (
    Kind,
    balance,
    begin,
    call,
    order_of,
    paid_order,
    priced_plan,
)

State = Order.State


@pytest.fixture
def roots(client: Client, root: User) -> Client:
    """root's browser."""
    client.force_login(root)
    return client


@pytest.fixture
def sold(db: None) -> Plan:
    """A plan of thirty days for ¥19.90."""
    return priced_plan(30, 1990)


def test_the_gateway_is_asked_and_believed(roots: Client, sold: Plan, alice: User) -> None:
    payment = begin(order_of(alice, sold))
    SandboxCharge.objects.create(
        reference=payment.reference,
        method=payment.method,
        amount=1990,
        paid_amount=1990,
        currency="CNY",
        state="paid",
        transaction_id="quiet",
        paid_at=now(),
    )
    roots.get(page("payment_ask", payment.pk))
    assert not Transfer.objects.exists()
    answer = roots.post(page("payment_ask", payment.pk), follow=True)
    assert "It was paid: the order is paid now" in told(answer)
    again = roots.post(page("payment_ask", payment.pk), follow=True)
    assert "as we knew already" in told(again)
    assert Transfer.objects.get().source == Transfer.Source.QUERY


def test_a_gateway_that_knows_nothing_changes_nothing(roots: Client, sold: Plan, alice: User) -> None:
    payment = begin(order_of(alice, sold))
    before = everything()
    answer = roots.post(page("payment_ask", payment.pk), follow=True)
    assert "It has not been paid." in told(answer)
    PaymentMethod.objects.filter(pk=payment.method_id).update(settings=json.dumps({"key": "x"}))
    answer = roots.post(page("payment_ask", payment.pk), follow=True)
    assert "does not answer" in told(answer)
    assert everything()[:-1] == before[:-1]


def test_nobody_is_asked_about_a_bank_transfer(roots: Client, sold: Plan, alice: User) -> None:
    payment = begin(order_of(alice, sold), transfer_method())
    assert offered(roots, page("payment_change", payment.pk)) == set()


@pytest.mark.parametrize(
    ("amount", "words", "received", "refunded"),
    [(1000, "are missing", 1000, 0), (2500, "too much are given back", 1990, 510)],
)
def test_held_money_is_counted(
    roots: Client, sold: Plan, alice: User, amount: int, words: str, received: int, refunded: int
) -> None:
    order = held_order(alice, sold, amount)
    transfer = Transfer.objects.get()
    assert offered(roots, page("transfer_change", transfer.pk)) == {"accept", "give-back"}
    assert words in told(roots.get(page("transfer_accept", transfer.pk)))
    roots.post(page("transfer_accept", transfer.pk), {"reason": "a good customer"})
    order.refresh_from_db()
    transfer.refresh_from_db()
    assert (order.state, order.received, transfer.state) == (State.PAID, received, Transfer.State.COUNTED)
    assert sum(refund.amount for refund in Refund.objects.all()) == refunded
    assert AuditEntry.objects.get(event="transfer.accepted").actor_label == "root"
    assert offered(roots, page("transfer_change", transfer.pk)) == set()


def test_held_money_is_given_back(roots: Client, sold: Plan, alice: User) -> None:
    order = held_order(alice, sold, 1000)
    transfer = Transfer.objects.get()
    answer = roots.post(page("transfer_give_back", transfer.pk), {"reason": "wrong sum"})
    refund = Refund.objects.get()
    assert answer.headers["Location"] == page("refund_change", refund.pk)
    transfer.refresh_from_db()
    order.refresh_from_db()
    assert (refund.amount, transfer.state, order.state) == (1000, Transfer.State.RETURNED, State.PENDING)
    assert balance(Account.CUSTOMER_FUNDS) == 0
    again = roots.post(page("transfer_give_back", transfer.pk), {"reason": "wrong sum"}, follow=True)
    assert "This was decided before: given back." in told(again)
    assert Refund.objects.count() == 1


def test_money_for_an_order_that_was_paid_before_can_only_be_given_back(roots: Client, sold: Plan, alice: User) -> None:
    order = paid_order(alice, sold)
    roots.post(page("order_confirm", order.pk), confirm_form(order))
    transfer = Transfer.objects.get(state=Transfer.State.HELD)
    assert offered(roots, page("transfer_change", transfer.pk)) == {"give-back"}
    answer = roots.post(page("transfer_accept", transfer.pk), {"reason": "x"})
    assert "It can only be given back." in told(answer)
    assert "you send it yourself" in told(roots.get(page("transfer_give_back", transfer.pk)))


@pytest.mark.parametrize("action", ["accept", "give_back"])
def test_decisions_about_money_need_a_reason(roots: Client, sold: Plan, alice: User, action: str) -> None:
    held_order(alice, sold, 1000)
    before = everything()
    answer = roots.post(page(f"transfer_{action}", Transfer.objects.get().pk), {"reason": " "})
    assert list(answer.context["question"].form.errors) == ["reason"]
    assert everything() == before


def test_late_money_whose_trial_was_used_elsewhere_can_still_be_counted(roots: Client, alice: User) -> None:
    plan = priced_plan(3, 100, is_trial=True)
    late = order_of(alice, plan, Kind.SELF)
    payment = begin(late)
    Order.objects.filter(pk=late.pk).update(expires_at=now() - timedelta(minutes=1))
    expire_orders()
    paid_order(alice, plan, Kind.SELF)
    call(payment)
    transfer = Transfer.objects.get(problem="trial_used")
    roots.post(page("transfer_accept", transfer.pk), {"reason": "our mistake"})
    late.refresh_from_db()
    assert late.state == State.PAID
    assert TrialUse.objects.filter(is_given_back=False).count() == 1


def test_a_refund_that_a_person_sent_is_said_to_be_done(roots: Client, sold: Plan, alice: User, root: User) -> None:
    order = order_of(alice, sold)
    roots.post(page("order_confirm", order.pk), confirm_form(order))
    refund = services.refund_order(order_id=order.pk, reason="x", actor=root)
    assert offered(roots, page("refund_change", refund.pk)) == set()
    early = roots.post(page("refund_sent", refund.pk), {"reference": "B-1"})
    assert "The gateway is sending this refund." in told(early)
    Refund.objects.update(state=Refund.State.BY_HAND, problem="by_hand")
    assert offered(roots, page("refund_change", refund.pk)) == {"sent"}
    assert list(roots.post(page("refund_sent", refund.pk), {}).context["question"].form.errors) == ["reference"]
    roots.post(page("refund_sent", refund.pk), {"reference": "B-1"})
    refund.refresh_from_db()
    assert (refund.state, refund.reference) == (Refund.State.DONE, "B-1")
    assert balance(Account.CASH) == 0
    twice = roots.post(page("refund_sent", refund.pk), {"reference": "B-2"})
    assert "This refund was sent before, by B-1." in told(twice)
    refund.refresh_from_db()
    assert refund.reference == "B-1"


def test_callbacks_are_shown_as_text_and_found_by_what_they_said(roots: Client, sold: Plan, alice: User) -> None:
    payment = begin(order_of(alice, sold))
    call(payment)
    evil = '{"reference": "<script>alert(1)</script>"}'
    odd = GatewayCallback.objects.create(
        method=payment.method,
        verdict="refused",
        reason="bad_signature",
        http_method="POST",
        body=evil,
        headers={"x-evil": "<b>bold</b>"},
        ip="192.0.2.99",
    )
    text = told(roots.get(page("gatewaycallback_change", odd.pk)))
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "&lt;b&gt;bold" in text
    assert "The signature is wrong." in text
    for word in ("alert(1)", "192.0.2.99", "BAD_SIGNATURE"):
        found = roots.get(page("gatewaycallback_changelist"), {"q": word}).context["cl"].result_list
        assert list(found) == [odd], word
    found = roots.get(page("gatewaycallback_changelist"), {"q": payment.reference}).context["cl"].result_list
    assert [one.payment for one in found] == [payment]
