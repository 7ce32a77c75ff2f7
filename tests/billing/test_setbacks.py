"""Money that did not stay: disputes and refunds that did not arrive, as Stripe tells of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client

from accounts.models import AuditEntry, User
from billing.finance.books import check_books
from billing.gateways.base import Notice, Outcome, RefundAnswer, RefundDemand
from billing.gateways.stripe_checkout import StripeGateway
from billing.models import GatewayCallback, Order, Payment, PaymentMethod, Refund, Transfer
from billing.services import callbacks, refund_order
from billing.services.callbacks import handle_callback
from billing.services.fulfilment import deliver
from billing.services.refund_sending import finish, send, settle_by_hand
from fleet.models import Alert
from fleet.services.alert_words import wording
from tests.billing.desk import page, told
from tests.billing.fake_stripe import INTENT, KEY, REFERENCE, SECRET, about, event, gateway, signed
from tests.billing.till import make_method, order_of, priced_plan
from tests.serials.shop import mails

pytestmark = pytest.mark.django_db
Dispute = Transfer.Dispute


def dispute(kind: str = "charge.dispute.created", **changed: Any) -> dict[str, Any]:
    said = {
        "id": "dp_1",
        "object": "dispute",
        "amount": 1990,
        "currency": "usd",
        "payment_intent": INTENT,
        "reason": "fraudulent",
        "status": "needs_response",
    }
    return event(kind, data={"object": said | changed})


def lost_refund(number: str, kind: str = "refund.failed", **changed: Any) -> dict[str, Any]:
    said = {
        "id": "re_1",
        "object": "refund",
        "amount": 500,
        "currency": "usd",
        "failure_reason": "expired_or_canceled_card",
        "metadata": {"refund_reference": number},
        "payment_intent": INTENT,
        "status": "failed",
    }
    return event(kind, data={"object": said | changed})


@pytest.fixture
def stripe() -> PaymentMethod:
    settings = json.dumps({"secret_key": KEY, "webhook_secret": SECRET})
    return make_method("stripe", kind="stripe", name="Card", currency="USD", settings=settings)


@pytest.fixture
def order(alice: User, stripe: PaymentMethod) -> Order:
    """Paid through Stripe's event, and delivered."""
    order = order_of(alice, priced_plan(30, 1990, currency="USD"), currency="USD")
    Payment.objects.create(order=order, method=stripe, reference=REFERENCE, amount=1990, currency="USD")
    assert arrives(stripe, about(amount_total=1990)) == "counted"
    return deliver(order_id=order.pk)


def arrives(method: PaymentMethod, said: dict[str, Any]) -> str:
    """The gateway calls; what was made of it."""
    assert handle_callback(method=method, callback=signed(said), ip=None).status == 200
    return GatewayCallback.objects.latest("id").verdict


def alerts() -> list[str]:
    """What staff are being told now."""
    return [wording(alert) for alert in Alert.objects.filter(resolved=False).order_by("id")]


def beginnings() -> list[str]:
    """The same without what staff are to do about it."""
    return [text.partition(": ")[0] for text in alerts()]


def test_stripe_tells_of_disputes_and_of_refunds_that_did_not_arrive() -> None:
    told = {
        Outcome.INQUIRED: [dispute(status="warning_needs_response")],
        Outcome.DISPUTED: [dispute(), dispute("charge.dispute.funds_withdrawn")],
        Outcome.DISPUTE_LOST: [dispute("charge.dispute.closed", status="lost")],
        Outcome.DISPUTE_WON: [dispute("charge.dispute.closed", status=how) for how in ("won", "warning_closed")],
    }
    for outcome, events in told.items():
        for said in events:
            read = gateway().read_callback(signed(said))
            assert read == Notice("", outcome, INTENT, 1990, "USD", setback_id="dp_1", why="fraudulent")
    for said in (lost_refund("R1"), lost_refund("R1", "charge.refund.updated", status="canceled")):
        read = gateway().read_callback(signed(said))
        named: dict[str, Any] = {"refund_reference": "R1", "setback_id": "re_1", "why": "expired_or_canceled_card"}
        assert read == Notice("", Outcome.REFUND_FAILED, INTENT, 500, "USD", **named)


@pytest.mark.parametrize(
    "said",
    [
        dispute("charge.dispute.updated"),
        dispute(payment_intent=None),
        dispute(payment_intent={"id": INTENT}),
        dispute(currency="dollars"),
        dispute(amount="1990"),
        lost_refund("R1", "refund.updated", status="succeeded"),
        lost_refund("R1", "refund.created"),
    ],
)
def test_events_that_say_no_such_thing_are_passed_over(stripe: PaymentMethod, order: Order, said: Any) -> None:
    assert arrives(stripe, said) == "refused"
    assert GatewayCallback.objects.latest("id").reason == "unsupported"
    assert not alerts()


def test_a_dispute_is_told_to_staff_once_and_is_over_when_it_is_won(
    stripe: PaymentMethod, order: Order, root: User
) -> None:
    for _time in range(2):
        assert arrives(stripe, dispute()) == "noted"
    assert beginnings() == [f"The payer of order {order.number} has 19.90 USD taken back by their bank (fraudulent)"]
    assert AuditEntry.objects.filter(event="dispute.open").count() == 1
    assert Transfer.objects.get().dispute == Dispute.OPEN

    arrives(stripe, dispute("charge.dispute.closed", status="won"))
    assert arrives(stripe, dispute()) == "noted", "the news of its beginning comes late"
    assert Transfer.objects.get().dispute == Dispute.WON
    assert not alerts()
    assert check_books() == []


def test_an_inquiry_becomes_a_dispute_and_staff_are_told_of_both(
    stripe: PaymentMethod, order: Order, root: User
) -> None:
    arrives(stripe, dispute(status="warning_needs_response"))
    assert beginnings() == [f"The bank of the payer of order {order.number} asks about 19.90 USD (fraudulent)"]
    for _time in range(2):
        arrives(stripe, dispute("charge.dispute.funds_withdrawn"))
    arrives(stripe, dispute(status="warning_needs_response"))
    assert beginnings() == [f"The payer of order {order.number} has 19.90 USD taken back by their bank (fraudulent)"]


def test_another_dispute_about_the_same_money_is_one_of_its_own(
    stripe: PaymentMethod, order: Order, root: User
) -> None:
    arrives(stripe, dispute(status="warning_needs_response"))
    arrives(stripe, dispute("charge.dispute.closed", status="warning_closed"))
    arrives(stripe, dispute(id="dp_2"))
    arrives(stripe, dispute("charge.dispute.closed", status="won"))
    assert Transfer.objects.get().dispute == Dispute.OPEN, "how the first one ended says nothing about the second"
    assert len(alerts()) == 1


def test_a_lost_dispute_is_booked_as_a_refund_that_was_sent(stripe: PaymentMethod, order: Order, root: User) -> None:
    arrives(stripe, dispute())
    arrives(stripe, dispute("charge.dispute.closed", status="lost"))
    assert beginnings() == [f"The dispute about order {order.number} is lost (19.90 USD)"]
    roots = Client()
    roots.force_login(root)
    shown = told(roots.get(page("transfer_changelist")))
    assert "dispute lost" in shown
    form = {"amount": "19.90", "is_sent": "on", "reason": "dispute lost", "seen_refunded": "0", "confirm": "yes"}
    answer = told(roots.post(page("order_refund", order.pk), form, follow=True))
    assert "is written down as given back" in answer
    assert Refund.objects.get().state == Refund.State.DONE
    assert not alerts()
    assert check_books() == []


def test_a_refund_that_did_not_arrive_waits_to_be_sent_by_hand(stripe: PaymentMethod, order: Order, root: User) -> None:
    refund = refund_order(order_id=order.pk, amount=500, reason="slow", actor=root)
    assert arrives(stripe, lost_refund(refund.number)) == "noted"
    assert not alerts(), "while it is on its way the gateway is asked, and a person told then"

    finish(refund, reference="re_1", actor=None)
    for _time in range(2):
        assert arrives(stripe, lost_refund(refund.number)) == "noted"
    assert beginnings() == [
        f"Refund {refund.number} of order {order.number} (5.00 USD) did not arrive (expired_or_canceled_card)"
    ]
    assert AuditEntry.objects.filter(event="refund.bounced").count() == 1
    refund.refresh_from_db()
    assert (refund.state, refund.problem) == (Refund.State.BY_HAND, "bounced")
    assert check_books() == []

    settle_by_hand(refund_id=refund.pk, reference="bank 7", actor=root)
    assert arrives(stripe, lost_refund(refund.number)) == "noted", "late: it is about the transfer before"
    refund.refresh_from_db()
    assert (refund.state, refund.reference, refund.problem) == (Refund.State.DONE, "bank 7", "")
    assert len(mails("refund_done")) == 2, "they are told of the one that has arrived"
    assert not alerts()
    assert check_books() == []


def test_news_that_a_refund_came_back_may_overtake_the_answer_that_it_is_sent(
    monkeypatch: pytest.MonkeyPatch, stripe: PaymentMethod, order: Order, root: User
) -> None:
    refund = refund_order(order_id=order.pk, amount=500, reason="slow", actor=root)

    def slow(_gateway: StripeGateway, demand: RefundDemand) -> RefundAnswer:
        assert arrives(stripe, lost_refund(demand.refund_reference)) == "noted"
        return RefundAnswer(True, "re_1")

    monkeypatch.setattr(StripeGateway, "refund", slow)
    assert send(refund_id=refund.pk).state == Refund.State.BY_HAND
    assert beginnings() == [f"Refund {refund.number} of order {order.number} cannot be sent by the gateway"]
    refund.refresh_from_db()
    assert (refund.state, refund.problem, refund.done_at) == (Refund.State.BY_HAND, "bounced", None)
    assert mails("refund_done") == []
    assert check_books() == []

    settle_by_hand(refund_id=refund.pk, reference="bank 7", actor=root)
    assert not alerts()
    assert check_books() == []


def test_a_dispute_about_other_trade_of_the_operator_is_passed_over(stripe: PaymentMethod, order: Order) -> None:
    assert arrives(stripe, dispute(payment_intent="pi_another")) == "noted"
    assert GatewayCallback.objects.latest("id").payment is None
    assert Transfer.objects.get().dispute == ""
    assert not alerts()


@pytest.mark.parametrize("is_held", [False, True])
def test_a_dispute_that_is_heard_of_before_its_payment_is_told_with_it(
    alice: User, stripe: PaymentMethod, root: User, is_held: bool
) -> None:
    order = order_of(alice, priced_plan(30, 1990, currency="USD"), currency="USD")
    Payment.objects.create(order=order, method=stripe, reference=REFERENCE, amount=1990, currency="USD")
    for said in (dispute(payment_intent="pi_another"), dispute()):
        assert arrives(stripe, said) == "noted"
    assert not alerts()
    amount = 1000 if is_held else 1990
    assert arrives(stripe, about(amount_total=amount)) == ("held" if is_held else "counted")
    assert Transfer.objects.get().dispute == Dispute.OPEN
    assert sum("taken back by their bank" in text for text in alerts()) == 1


def test_a_dispute_that_came_first_is_told_when_only_the_repeated_call_gets_through(
    alice: User, stripe: PaymentMethod, root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = order_of(alice, priced_plan(30, 1990, currency="USD"), currency="USD")
    Payment.objects.create(order=order, method=stripe, reference=REFERENCE, amount=1990, currency="USD")
    arrives(stripe, dispute())

    def stumble(*_arguments: Any) -> None:
        raise RuntimeError("the database went away")

    with monkeypatch.context() as patched:
        patched.setattr(callbacks, "catch_up", stumble)
        assert handle_callback(method=stripe, callback=signed(about(amount_total=1990)), ip=None).status == 400
    assert arrives(stripe, about(amount_total=1990)) == "repeated"
    assert Transfer.objects.get().dispute == Dispute.OPEN


def test_a_disputed_payment_stands_on_the_first_page(stripe: PaymentMethod, order: Order, root: User) -> None:
    arrives(stripe, dispute())
    roots = Client()
    roots.force_login(root)
    shown = told(roots.get("/admin/"))
    assert "Disputed payments" in shown
    assert order.number in shown
    where = page("transfer_changelist") + "?dispute__in=asked,open"
    assert where in shown
    assert INTENT in told(roots.get(where))
