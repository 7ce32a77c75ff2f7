"""Refunds: how much, what is taken back, how it is sent, and what the books say of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import time_machine

from accounts.models import User
from billing import services
from billing.admin.words import words_for
from billing.finance.books import check_books
from billing.gateways import sandbox as sandbox_gateway
from billing.gateways.base import RefundAnswer, Rejected, Unavailable
from billing.models import Account, Order, Payment, Refund, SandboxCharge, SoldSerial, Transfer, WholesalePrice
from billing.services.fulfilment import deliver
from billing.services.pricing import Item
from billing.services.refund_sending import MOST_ATTEMPTS, MOST_LOOKS, send, send_due, settle_by_hand
from billing.services.refunds import refund_order, worth_of
from derp_portal.lib.errors import PortalError
from fleet.models import Alert, TrafficPack
from serials.models import Lease, SerialNumber
from serials.services import activate
from tests.billing.till import Kind, balance, begin, call, callback_about, order_of, paid_order, priced_plan
from tests.serials.shop import START, mails, make_server

pytestmark = pytest.mark.django_db


@pytest.fixture
def delivered(alice: User) -> Order:
    """Three codes to hand on, for 1990 each."""
    return deliver(order_id=paid_order(alice, priced_plan(30), Kind.GIFT, 3).pk)


def charge_for(payment: Payment) -> SandboxCharge:
    """The test gateway knows of the money."""
    return SandboxCharge.objects.create(
        reference=payment.reference,
        method=payment.method,
        amount=payment.amount,
        paid_amount=payment.amount,
        currency=payment.currency,
        state="paid",
        transaction_id="tx",
        paid_at=payment.created_at,
    )


def refused(code: str, call: object) -> None:
    with pytest.raises(PortalError) as refusal:
        call()  # type: ignore[operator]
    assert refusal.value.code == code


def test_a_part_is_given_back_without_taking_anything(delivered: Order, root: User) -> None:
    refund_order(order_id=delivered.pk, amount=500, reason="goodwill", actor=root)
    delivered.refresh_from_db()
    assert (delivered.state, delivered.refunded, delivered.refundable) == (Order.State.FULFILLED, 500, 5470)
    assert SerialNumber.objects.filter(status=SerialNumber.Status.UNUSED).count() == 3
    assert check_books() == []


def test_a_part_may_take_back_too(delivered: Order, root: User) -> None:
    refund_order(order_id=delivered.pk, amount=500, takes_back=True, reason="fraud", actor=root)
    assert SerialNumber.objects.filter(status=SerialNumber.Status.REVOKED).count() == 3


def test_the_rest_takes_back_whatever_one_says(delivered: Order, root: User) -> None:
    refund_order(order_id=delivered.pk, amount=500, reason="goodwill", actor=root)
    refund_order(order_id=delivered.pk, takes_back=False, reason="all of it", actor=root)
    delivered.refresh_from_db()
    assert (delivered.state, delivered.refunded) == (Order.State.REFUNDED, 5970)
    assert SerialNumber.objects.filter(status=SerialNumber.Status.REVOKED).count() == 3
    assert balance(Account.REFUNDS) == 5970
    assert services.codes_of(delivered) == []
    assert check_books() == []


def test_what_is_not_there_cannot_be_given_back(delivered: Order, alice: User, root: User) -> None:
    refused("invalid_amount", lambda: refund_order(order_id=delivered.pk, amount=5971, reason="x", actor=root))
    refused("invalid_amount", lambda: refund_order(order_id=delivered.pk, amount=0, reason="x", actor=root))
    refused("reason_needed", lambda: refund_order(order_id=delivered.pk, reason=" ", actor=root))
    unpaid = order_of(alice, priced_plan(30))
    refused("not_refundable", lambda: refund_order(order_id=unpaid.pk, reason="x", actor=root))
    refund_order(order_id=delivered.pk, reason="all", actor=root)
    refused("not_refundable", lambda: refund_order(order_id=delivered.pk, reason="again", actor=root))


def test_what_was_handed_on_is_taken_from_whoever_redeemed_it(delivered: Order, bob: User, root: User) -> None:
    make_server()
    activate(user=bob, code=services.codes_of(delivered)[0])
    refund_order(order_id=delivered.pk, reason="stolen card", actor=root)
    assert Lease.objects.get(user=bob).end_reason == Lease.EndReason.TAKEN_BACK


def test_the_worth_is_what_has_not_been_served(alice: User) -> None:
    make_server()
    with time_machine.travel(START, tick=False) as clock:
        order = deliver(order_id=paid_order(alice, priced_plan(30, 3000), Kind.SELF).pk)
        clock.shift(timedelta(days=10))
        worth = worth_of(order)
    assert (worth.refundable, worth.unserved, worth.converted) == (3000, 2000, 0)


def test_paid_and_not_delivered_is_not_delivered_any_more(alice: User, root: User) -> None:
    order = paid_order(alice, priced_plan(30))
    assert worth_of(order).unserved == 1990
    refund_order(order_id=order.pk, reason="changed their mind", actor=root)
    assert deliver(order_id=order.pk).state == Order.State.REFUNDED
    assert not SerialNumber.objects.exists()


def test_each_line_gives_back_its_part(alice: User, root: User) -> None:
    from billing.services.orders import place_order

    items = [Item(Kind.GIFT, plan=priced_plan(30, 1990)), Item(Kind.GIFT, plan=priced_plan(3, 301))]
    order = place_order(user=alice, items=items, actor=alice)
    call(begin(order))
    for amount in (1, 7, 1000, None):
        refund_order(order_id=order.pk, amount=amount, reason="bit by bit", actor=root)
    for line in order.lines.all():
        postings = order.postings.filter(line=line)
        given = sum(postings.filter(debit=Account.REFUNDS).values_list("amount", flat=True))
        assert given == line.amount
    assert check_books() == []


def test_what_was_given_back_before_the_delivery_lowers_what_stock_has_cost(rita: User, root: User) -> None:
    plan = priced_plan(30)
    WholesalePrice.objects.create(plan=plan, amount=1000)
    order = paid_order(rita, plan, Kind.WHOLESALE, 5)
    refund_order(order_id=order.pk, amount=1000, reason="was slow", actor=root)
    deliver(order_id=order.pk)
    assert set(SoldSerial.objects.values_list("amount", "cost")) == {(1000, 800)}
    assert check_books() == []


def test_a_lost_dispute_about_a_balance_that_was_spent_leaves_it_below_nothing(rita: User, root: User) -> None:
    plan = priced_plan(30)
    WholesalePrice.objects.create(plan=plan, amount=1000)

    def paid_in() -> Order:
        order = services.place_order(user=rita, items=[Item(Kind.TOP_UP, amount=1500)], actor=rita)
        call(begin(order))
        return deliver(order_id=order.pk)

    disputed = paid_in()
    deliver(order_id=services.pay_from_balance(order_id=order_of(rita, plan, Kind.WHOLESALE).pk, actor=rita).pk)
    refused("balance_spent", lambda: refund_order(order_id=disputed.pk, reason="asked", actor=root))
    refund = refund_order(order_id=disputed.pk, reason="dispute lost", actor=root, is_sent=True)
    assert (refund.state, services.balance_of(rita, "CNY")) == (Refund.State.DONE, -1000)
    assert check_books() == []
    again = paid_in()
    refused("balance_spent", lambda: refund_order(order_id=again.pk, reason="asked", actor=root))
    stock = order_of(rita, plan, Kind.WHOLESALE)
    refused("balance_too_small", lambda: services.pay_from_balance(order_id=stock.pk, actor=rita))
    assert services.balance_of(rita, "CNY") == 500
    assert check_books() == []


# --- sending ----------------------------------------------------------------------------------------


def test_the_gateway_gives_it_back_and_the_customer_hears_of_it(delivered: Order, root: User) -> None:
    charge = charge_for(delivered.payments.get())
    refund = refund_order(order_id=delivered.pk, amount=500, reason="goodwill", actor=root)
    assert send(refund_id=refund.pk).state == Refund.State.DONE
    charge.refresh_from_db()
    assert charge.refunded == {refund.number: 500}
    assert balance(Account.CASH) == 5970 - 500
    assert balance(Account.REFUNDS_DUE) == 0
    assert [len(mails(kind)) for kind in ("refund_decided", "refund_done")] == [1, 1]
    assert send(refund_id=refund.pk).attempts == 1


def test_a_gateway_that_does_not_answer_is_asked_again_and_in_the_end_a_person_is(
    delivered: Order, root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_arguments: object) -> RefundAnswer:
        raise Unavailable("timeout")

    monkeypatch.setattr(sandbox_gateway.SandboxGateway, "refund", away)
    with time_machine.travel(START + timedelta(days=600), tick=False) as clock:
        refund = refund_order(order_id=delivered.pk, amount=500, reason="goodwill", actor=root)
        for _try in range(MOST_ATTEMPTS):
            assert Refund.objects.get().state == Refund.State.DUE
            assert send_due() == 1
            assert send_due() == 0, "it is not asked twice at once"
            clock.shift(timedelta(hours=4))
        assert Refund.objects.get().state == Refund.State.BY_HAND
        assert Alert.objects.filter(resolved=False).count() == 1
        settle_by_hand(refund_id=refund.pk, reference="bank 42", actor=root)
        settle_by_hand(refund_id=refund.pk, reference="bank 42", actor=root)
    assert Refund.objects.get().state == Refund.State.DONE
    assert not Alert.objects.filter(resolved=False).exists()
    assert balance(Account.REFUNDS_DUE) == 0


def test_a_gateway_that_refuses_leaves_it_to_a_person_at_once(
    delivered: Order, root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no(*_arguments: object) -> RefundAnswer:
        raise Rejected("too_late", "the transaction is closed")

    monkeypatch.setattr(sandbox_gateway.SandboxGateway, "refund", no)
    refund = refund_order(order_id=delivered.pk, amount=500, reason="goodwill", actor=root)
    refused("not_by_hand", lambda: settle_by_hand(refund_id=refund.pk, reference="x", actor=root))
    send(refund_id=refund.pk)
    refund.refresh_from_db()
    assert (refund.state, "too_late" in refund.problem) == (Refund.State.BY_HAND, True)
    refused("reference_needed", lambda: settle_by_hand(refund_id=refund.pk, reference=" ", actor=root))


def test_one_that_is_on_its_way_is_looked_after_until_it_has_arrived(
    delivered: Order, root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([RefundAnswer(is_final=False), RefundAnswer(is_final=True, gateway_id="r-1")])
    monkeypatch.setattr(sandbox_gateway.SandboxGateway, "refund", lambda *_demand: next(answers))
    refund = refund_order(order_id=delivered.pk, amount=500, reason="goodwill", actor=root)
    assert send(refund_id=refund.pk).state == Refund.State.DUE
    Refund.objects.update(next_try_at=refund.created_at)
    assert send(refund_id=refund.pk).reference == "r-1"


@pytest.mark.parametrize("gateway_id", ["r-1", ""])
def test_one_that_the_gateway_has_taken_on_outlasts_its_silence(
    delivered: Order, root: User, monkeypatch: pytest.MonkeyPatch, gateway_id: str
) -> None:
    def away(*_arguments: object) -> RefundAnswer:
        raise Unavailable("timeout")

    on_its_way = RefundAnswer(is_final=False, gateway_id=gateway_id)
    monkeypatch.setattr(sandbox_gateway.SandboxGateway, "refund", lambda *_demand: on_its_way)
    refund = refund_order(order_id=delivered.pk, amount=500, reason="goodwill", actor=root)
    send(refund_id=refund.pk)
    monkeypatch.setattr(sandbox_gateway.SandboxGateway, "refund", away)
    for attempts, state in ((MOST_ATTEMPTS, "due"), (MOST_LOOKS - 2, "due"), (MOST_LOOKS - 1, "by_hand")):
        Refund.objects.update(next_try_at=refund.created_at, attempts=attempts)
        assert send(refund_id=refund.pk).state == state, "staff would pay what the gateway still pays"


# --- money that was never counted -------------------------------------------------------------------


def held(alice: User, **said: Any) -> Transfer:
    payment = begin(order_of(alice, priced_plan(30)))
    call(payment, callback_about(payment, **said))
    charge_for(payment)
    return Transfer.objects.get(state=Transfer.State.HELD)


def test_too_little_can_be_accepted(alice: User, root: User) -> None:
    transfer = held(alice, amount=1980)
    order = services.accept_transfer(transfer_id=transfer.pk, reason="close enough", actor=root)
    assert (order.state, order.received) == (Order.State.PAID, 1980)
    assert deliver(order_id=order.pk).state == Order.State.FULFILLED
    assert balance(Account.REVENUE) == -1980
    assert balance(Account.CUSTOMER_FUNDS) == 0
    assert not Alert.objects.filter(resolved=False).exists()
    assert check_books() == []


def test_too_much_is_accepted_and_the_rest_goes_back(alice: User, root: User) -> None:
    transfer = held(alice, amount=2090)
    SandboxCharge.objects.update(paid_amount=2090)
    order = services.accept_transfer(transfer_id=transfer.pk, reason="they typed it", actor=root)
    assert order.received == 1990
    refund = Refund.objects.get()
    assert (refund.kind, refund.amount) == (Refund.Kind.TRANSFER, 100)
    assert balance(Account.CUSTOMER_FUNDS) == 0
    send(refund_id=refund.pk)
    assert check_books() == []
    # All of it can still be given back, and no more than that.
    refund_order(order_id=order.pk, reason="all", actor=root)
    refused("not_refundable", lambda: services.give_back_transfer(transfer_id=transfer.pk, reason="x", actor=root))


def test_it_can_be_given_back_whole_and_once(alice: User, root: User) -> None:
    transfer = held(alice, amount=1)
    services.give_back_transfer(transfer_id=transfer.pk, reason="no", actor=root)
    transfer.refresh_from_db()
    assert transfer.state == Transfer.State.RETURNED
    assert transfer.payment.state == Payment.State.HELD or transfer.payment.state == Payment.State.CLOSED
    refused("not_refundable", lambda: services.give_back_transfer(transfer_id=transfer.pk, reason="x", actor=root))
    refused("not_acceptable", lambda: services.accept_transfer(transfer_id=transfer.pk, reason="x", actor=root))
    assert check_books() == []


def test_a_second_payment_cannot_be_accepted_only_given_back(alice: User, root: User) -> None:
    payment = begin(order_of(alice, priced_plan(30)))
    call(payment)
    call(payment, callback_about(payment, transaction_id="twice"))
    second = Transfer.objects.get(state=Transfer.State.HELD)
    assert second.problem == "paid_before"
    refused("not_acceptable", lambda: services.accept_transfer(transfer_id=second.pk, reason="x", actor=root))
    services.give_back_transfer(transfer_id=second.pk, reason="paid twice", actor=root)
    assert check_books() == []


# --- what stays --------------------------------------------------------------------------------------


def test_a_pack_for_a_lease_that_has_ended_waits_for_a_person(alice: User, root: User) -> None:
    from billing.models import PackOffer
    from billing.services.orders import place_order
    from serials.services import end_lease

    make_server()
    plan = priced_plan(30)
    plan.quota_bytes = 10**9
    plan.save()
    deliver(order_id=paid_order(alice, plan, Kind.SELF).pk)
    lease = Lease.objects.get()
    offer = PackOffer.objects.create(code="pack", name="Pack", extra_bytes=10**9, amount=500)

    def buy() -> Order:
        order = place_order(user=alice, items=[Item(Kind.PACK, pack=offer, lease_id=lease.pk)], actor=alice)
        call(begin(order))
        return deliver(order_id=order.pk)

    assert buy().state == Order.State.FULFILLED
    assert TrafficPack.objects.get().extra_bytes == 10**9
    order = place_order(user=alice, items=[Item(Kind.PACK, pack=offer, lease_id=lease.pk)], actor=alice)
    call(begin(order))
    end_lease(lease_id=lease.pk, reason=Lease.EndReason.STAFF, actor=root)
    lease.relay_group.refresh_from_db()
    assert lease.relay_group.released_at is None, "its relays outlast it for a while"
    stuck = deliver(order_id=order.pk)
    assert (stuck.state, stuck.trouble) == (Order.State.PAID, "lease_ended")
    assert words_for(stuck.trouble) != stuck.trouble
    assert TrafficPack.objects.count() == 1
    assert Alert.objects.filter(resolved=False).count() == 1
    refund_order(order_id=order.pk, reason="could not be delivered", actor=root)
    assert not Alert.objects.filter(resolved=False).exists()
