"""What staff decide about orders: asked first, by services only, and never by editing an amount."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from accounts.models import AuditEntry, User
from billing import services
from billing.models import (
    Account,
    Order,
    OrderLine,
    PackOffer,
    Payment,
    PaymentMethod,
    Refund,
    Transfer,
)
from serials.models import Lease, Plan, SerialNumber
from serials.services import generate
from tests.billing.desk import confirm_form, everything, held_order, make_shop, offered, page, told, transfer_method
from tests.billing.till import (
    Kind,
    balance,
    begin,
    call,
    make_method,
    order_of,
    paid_order,
    priced_plan,
)
from tests.conftest import make_user
from tests.serials.shop import make_server

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


def test_a_payment_is_confirmed_with_its_evidence(roots: Client, sold: Plan, alice: User) -> None:
    order = order_of(alice, sold)
    payment = begin(order, transfer_method())
    question = roots.get(page("order_confirm", order.pk))
    assert question.context["question"].form["amount"].value() == "19.90"
    answer = roots.post(page("order_confirm", order.pk), confirm_form(order), follow=True)
    assert "The order is paid." in told(answer)
    transfer = Transfer.objects.get()
    assert (transfer.payment, transfer.amount, transfer.source) == (payment, 1990, Transfer.Source.STAFF)
    assert (transfer.evidence, str(transfer.actor)) == ("statement of 3 May, line 12", "root")
    order.refresh_from_db()
    assert order.state == State.PAID
    assert AuditEntry.objects.filter(event="payment.confirmed", actor_label="root").exists()
    text = told(roots.get(page("order_change", order.pk)))
    assert "T-1" in text


@pytest.mark.parametrize(
    ("more", "beside"),
    [
        ({"amount": "19.905"}, "amount"),
        ({"amount": "0"}, "amount"),
        ({"evidence": " "}, "evidence"),
        ({"transaction_id": ""}, "transaction_id"),
        ({"method": ""}, "method"),
    ],
)
def test_nothing_is_confirmed_without_evidence_and_amount(
    roots: Client, sold: Plan, alice: User, more: dict[str, Any], beside: str
) -> None:
    order = order_of(alice, sold)
    form = confirm_form(order, **more)
    before = everything()
    answer = roots.post(page("order_confirm", order.pk), form)
    assert list(answer.context["question"].form.errors) == [beside]
    assert everything() == before


def test_the_same_transfer_is_not_confirmed_twice(roots: Client, sold: Plan, alice: User, bob: User) -> None:
    first, second = order_of(alice, sold), order_of(bob, sold)
    form = confirm_form(first)
    roots.post(page("order_confirm", first.pk), form)
    before = everything()
    answer = roots.post(page("order_confirm", second.pk), form)
    assert "nothing was counted again" in told(answer)
    again = roots.post(page("order_confirm", first.pk), form)
    assert "nothing was counted again" in told(again)
    assert everything() == before
    second.refresh_from_db()
    assert second.state == State.PENDING


def test_another_sum_is_held_for_a_decision(roots: Client, sold: Plan, alice: User) -> None:
    order = order_of(alice, sold)
    answer = roots.post(page("order_confirm", order.pk), confirm_form(order, "19.89"), follow=True)
    assert "Less came than the order costs." in told(answer)
    assert Transfer.objects.get().state == Transfer.State.HELD
    assert Order.objects.get().state == State.PENDING
    assert "money to look at" in told(roots.get(page("order_changelist")))


def test_the_test_gateway_and_other_currencies_are_not_offered_for_confirming(
    roots: Client, sold: Plan, alice: User
) -> None:
    order = order_of(alice, sold)
    tests, dollars = make_method(), transfer_method("usd")
    PaymentMethod.objects.filter(pk=dollars.pk).update(currency="USD")
    for method in (tests, dollars):
        answer = roots.post(page("order_confirm", order.pk), confirm_form(order, method=method.pk))
        assert list(answer.context["question"].form.errors) == ["method"]
    assert not Transfer.objects.exists()


def test_an_unpaid_order_is_cancelled(roots: Client, sold: Plan, alice: User) -> None:
    order = order_of(alice, sold)
    roots.post(page("order_cancel", order.pk), {"reason": "asked by phone"})
    order.refresh_from_db()
    assert order.state == State.CANCELLED
    last = order.transitions.last()
    assert last is not None
    assert (last.reason, str(last.actor)) == ("asked by phone", "root")


def test_a_paid_order_is_not_cancelled(roots: Client, sold: Plan, alice: User) -> None:
    order = paid_order(alice, sold)
    answer = roots.post(page("order_cancel", order.pk), {"reason": ""})
    assert "ask for a refund" in told(answer)
    order.refresh_from_db()
    assert order.state == State.PAID


def test_a_refund_says_first_what_is_lost(roots: Client, sold: Plan, alice: User) -> None:
    make_server()
    order = services.deliver(order_id=paid_order(alice, sold, Kind.SELF).pk)
    gift = services.deliver(order_id=paid_order(alice, sold, Kind.GIFT, 2).pk)
    text = told(roots.get(page("order_refund", order.pk)))
    assert "CN¥19.90 can be given back. Of that CN¥19" in text
    assert "the days of 1 redeemed serial" in text
    assert 'value="19.90"' in text
    assert "Taking back revokes 2 codes" in told(roots.get(page("order_refund", gift.pk)))


def test_all_of_an_order_is_given_back_and_taken_back(roots: Client, sold: Plan, alice: User) -> None:
    make_server()
    order = services.deliver(order_id=paid_order(alice, sold, Kind.SELF).pk)
    answer = roots.post(page("order_refund", order.pk), {"amount": "19.90", "reason": "too slow"}, follow=True)
    assert "will be given back" in told(answer)
    order.refresh_from_db()
    assert (order.state, order.refunded) == (State.REFUNDED, 1990)
    refund = Refund.objects.get()
    assert (refund.takes_back, refund.reason, str(refund.actor)) == (True, "too slow", "root")
    assert Lease.objects.get().status == Lease.Status.ENDED
    assert balance(Account.REVENUE) + balance(Account.REFUNDS) == 0
    assert refund.number in told(roots.get(page("order_change", order.pk)))


@pytest.mark.parametrize("takes_back", [True, False])
def test_a_part_takes_back_what_was_delivered_only_when_asked_to(
    roots: Client, sold: Plan, alice: User, takes_back: bool
) -> None:
    order = services.deliver(order_id=paid_order(alice, sold).pk)
    form = {"amount": "5", "reason": "sorry"} | ({"takes_back": "on"} if takes_back else {})
    roots.post(page("order_refund", order.pk), form)
    assert Refund.objects.get().amount == 500
    revoked = SerialNumber.objects.filter(status=SerialNumber.Status.REVOKED).exists()
    assert revoked is takes_back


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"amount": "19.91", "reason": "x"}, "At most"),
        ({"amount": "0", "reason": "x"}, "At least"),
        ({"amount": "1.999", "reason": "x"}, "such as"),
        ({"amount": "19.90", "reason": ""}, "required"),
    ],
)
def test_a_refund_that_cannot_be_changes_nothing(
    roots: Client, sold: Plan, alice: User, form: dict[str, str], words: str
) -> None:
    order = paid_order(alice, sold)
    before = everything()
    answer = roots.post(page("order_refund", order.pk), form)
    assert words in told(answer)
    assert everything() == before


def test_nothing_is_given_back_of_what_was_not_paid(roots: Client, sold: Plan, alice: User) -> None:
    order = order_of(alice, sold)
    answer = roots.post(page("order_refund", order.pk), {"amount": "19.90", "reason": "x"})
    assert "There is nothing to give back of this order." in told(answer)
    assert not Refund.objects.exists()


def test_an_order_in_trouble_is_delivered_again(roots: Client, sold: Plan, alice: User) -> None:
    order = paid_order(alice, sold)
    Order.objects.filter(pk=order.pk).update(trouble="released")
    assert "The lease that it was for is gone" in told(roots.get(page("order_deliver_again", order.pk)))
    roots.post(page("order_deliver_again", order.pk))
    order.refresh_from_db()
    assert (order.state, order.trouble) == (State.FULFILLED, "")


def test_an_order_that_still_cannot_be_delivered_says_why(roots: Client, sold: Plan, alice: User) -> None:
    make_server()
    services.deliver(order_id=paid_order(alice, sold, Kind.SELF).pk)
    lease = Lease.objects.get()
    order = paid_order(alice, sold)
    pack = PackOffer.objects.create(code="p", name="p", extra_bytes=1, amount=990)
    OrderLine.objects.create(
        order=order, kind=Kind.PACK, pack=pack, lease=lease, unit_amount=0, amount=0, snapshot={"extra_bytes": 1}
    )
    answer = roots.post(page("order_deliver_again", order.pk), follow=True)
    assert "still cannot be delivered. The traffic of the lease is not limited any more." in told(answer)
    assert SerialNumber.objects.count() == 1


def test_only_what_makes_sense_is_offered(roots: Client, sold: Plan, alice: User) -> None:
    order = order_of(alice, sold)
    assert offered(roots, page("order_change", order.pk)) == {"confirm", "cancel"}
    call(begin(order))
    assert offered(roots, page("order_change", order.pk)) == {"confirm", "refund", "deliver"}
    services.deliver(order_id=order.pk)
    assert offered(roots, page("order_change", order.pk)) == {"confirm", "refund"}
    services.refund_order(order_id=order.pk, reason="x", actor=alice)
    assert offered(roots, page("order_change", order.pk)) == {"confirm"}


def test_an_order_of_a_shop_is_not_confirmed_but_can_be_refunded(roots: Client, sold: Plan, root: User) -> None:
    channel = make_shop(sold)
    services.add_stock(channel_id=channel.pk, batch=generate(count=1, plan=sold, actor=root), actor=root)
    order, _serial = services.pick_up(channel=channel, external_number="X-1")
    assert offered(roots, page("order_change", order.pk)) == {"refund"}
    assert "The shop was paid" in told(roots.post(page("order_confirm", order.pk), confirm_form(order)))
    assert "you send the money yourself" in told(roots.get(page("order_refund", order.pk)))
    assert not Transfer.objects.exists()


def test_an_order_is_found_by_all_it_is_known_by(roots: Client, sold: Plan, alice: User, root: User) -> None:
    order = paid_order(alice, sold)
    other = order_of(make_user("carol"), sold)
    channel = make_shop(sold)
    services.add_stock(channel_id=channel.pk, batch=generate(count=1, plan=sold, actor=root), actor=root)
    outside, _serial = services.pick_up(channel=channel, external_number="TB-77")
    payment = Payment.objects.get()
    for text in (order.number, order.number.lower(), "alice", "alice@", payment.reference, f"tx-{payment.reference}"):
        answer = roots.get(page("order_changelist"), {"q": text})
        assert list(answer.context["cl"].result_list) == [order], text
    found = roots.get(page("order_changelist"), {"q": "TB-77"}).context["cl"].result_list
    assert list(found) == [outside]
    assert list(roots.get(page("order_changelist"), {"q": other.number[:16]}).context["cl"].result_list) == [other]


def test_the_list_is_narrowed_to_what_waits(roots: Client, sold: Plan, alice: User) -> None:
    waits = order_of(alice, sold)
    begin(waits, transfer_method())
    stuck = paid_order(alice, sold)
    Order.objects.filter(pk=stuck.pk).update(trouble="released")
    odd = held_order(alice, sold, 1000)
    for value, order in {"confirm": waits, "trouble": stuck, "held": odd}.items():
        answer = roots.get(page("order_changelist"), {"waits": value})
        assert list(answer.context["cl"].result_list) == [order], value
    by_method = roots.get(page("order_changelist"), {"payments__method__id__exact": make_method().pk})
    assert set(by_method.context["cl"].result_list) == {stuck, odd}
