"""Stripe's API, as a small Stripe on this machine answers."""

from __future__ import annotations

import logging
import os
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stripe

from billing.gateways import stripe_checkout
from billing.gateways.base import (
    Demand,
    Gateway,
    Notice,
    Outcome,
    RefundDemand,
    Rejected,
    Unavailable,
)
from billing.gateways.stripe_checkout import StripeGateway
from tests.billing.fake_site import Answer, Site, nobody, standing
from tests.billing.fake_stripe import (
    INTENT,
    KEY,
    NOW,
    REFERENCE,
    SECRET,
    SESSION,
    Stripe,
    error,
    event,
    gateway,
    session,
    signed,
)


@pytest.fixture
def there() -> Stripe:
    return Stripe()


@pytest.fixture
def site(there: Stripe) -> Iterator[Site]:
    with standing(there) as site:
        yield site


@pytest.fixture
def ours(site: Site) -> StripeGateway:
    return gateway(api_base=site.url)


def demand(**changed: Any) -> Demand:
    fields: dict[str, Any] = {
        "reference": REFERENCE,
        "amount": 1230,
        "currency": "USD",
        "subject": "Private relays, 私有中继",
        "expires_at": datetime.now(UTC) + timedelta(hours=1),
        "return_url": f"https://portal.example/pay/{REFERENCE}",
        "notify_url": "https://portal.example/pay/callback/stripe",
        "language": "zh-hans",
    }
    return Demand(**(fields | changed))


def test_the_payer_is_sent_to_a_session_of_our_reference(ours: StripeGateway, site: Site) -> None:
    wanted = demand()
    opened = ours.start(wanted)
    assert opened.redirect_url == "https://checkout.stripe.com/c/pay/cs_test_0001#fid"
    assert (opened.gateway_id, opened.qr_text) == ("cs_test_0001", "")
    [asked] = site.asked
    assert asked.headers["idempotency-key"] == f"start-{REFERENCE}"
    assert asked.form == {
        "mode": "payment",
        "line_items[0][price_data][currency]": "usd",
        "line_items[0][price_data][unit_amount]": "1230",
        "line_items[0][price_data][product_data][name]": "Private relays, 私有中继",
        "line_items[0][quantity]": "1",
        "client_reference_id": REFERENCE,
        "metadata[reference]": REFERENCE,
        "payment_intent_data[metadata][reference]": REFERENCE,
        "payment_intent_data[description]": "Private relays, 私有中继",
        "adaptive_pricing[enabled]": "false",
        "success_url": wanted.return_url,
        "cancel_url": wanted.return_url,
        "expires_at": str(int(wanted.expires_at.timestamp())),
        "locale": "zh",
    }
    assert not [name for name in asked.headers if "telemetry" in name]


@pytest.mark.parametrize("lasts", [timedelta(minutes=-5), timedelta(minutes=10), timedelta(days=3)])
def test_an_end_too_near_or_too_far_is_put_where_stripe_takes_it(ours: StripeGateway, lasts: timedelta) -> None:
    assert ours.start(demand(expires_at=datetime.now(UTC) + lasts)).gateway_id


@pytest.mark.parametrize(("currency", "ours_", "theirs"), [("JPY", 500, "500"), ("ISK", 500, "50000")])
def test_stripe_is_asked_in_its_units(ours: StripeGateway, site: Site, currency: str, ours_: int, theirs: str) -> None:
    ours.start(demand(currency=currency, amount=ours_))
    assert site.asked[0].form["line_items[0][price_data][unit_amount]"] == theirs


@pytest.mark.parametrize("changed", [{"currency": "KWD"}, {"currency": "UGX"}, {"currency": "US"}, {"amount": 0}])
def test_what_cannot_be_asked_for_is_rejected_unasked(ours: StripeGateway, site: Site, changed: dict[str, Any]) -> None:
    with pytest.raises(Rejected):
        ours.start(demand(**changed))
    assert not site.asked


def test_started_again_it_is_the_same_session(ours: StripeGateway, there: Stripe) -> None:
    wanted = demand()
    assert len({ours.start(wanted) for _ in range(3)}) == 1
    assert len(there.sessions) == 1


def test_started_again_in_other_words_it_is_the_same_session_while_it_is_open(
    ours: StripeGateway, there: Stripe, site: Site
) -> None:
    first = ours.start(demand())
    for number in range(4):
        ours.start(demand(reference=f"OTHER{number}"))
    assert ours.start(demand(language="en")) == first
    assert len(there.sessions) == 5
    assert len([asked for asked in site.asked if asked.method == "GET"]) == 3, "it was on the third page"
    there.sessions[first.gateway_id]["status"] = "complete"
    with pytest.raises(Rejected) as refusal:
        ours.start(demand(language="en"))
    assert refusal.value.code == "idempotency_error"


def test_a_paid_session_is_paid_and_says_what_was_kept(ours: StripeGateway, there: Stripe) -> None:
    there.pay()
    assert ours.query(REFERENCE, gateway_id=SESSION) == Notice(REFERENCE, Outcome.PAID, INTENT, 1230, "USD", 66, NOW)


@pytest.mark.parametrize(
    ("details", "payer"),
    [
        (
            {"type": "card", "card": {"brand": "visa", "fingerprint": "Xt5EWLLDS7FJjR1c", "last4": "4242"}},
            "Xt5EWLLDS7FJjR1c",
        ),
        ({"type": "alipay", "alipay": {"fingerprint": "Ab1", "buyer_id": "2088"}}, "Ab1"),
        ({"type": "card", "card": {"fingerprint": None}}, ""),
        ({"type": "wechat_pay", "card": {"fingerprint": "Xt5E"}}, ""),
        ({}, ""),
    ],
)
def test_a_paid_session_says_which_card_paid_when_asked(
    ours: StripeGateway, there: Stripe, details: dict[str, Any], payer: str
) -> None:
    there.pay(customer_details={"email": "alice@example.com"})
    assert there.intent is not None
    there.intent["latest_charge"]["payment_method_details"] = details
    assert ours.query(REFERENCE, gateway_id=SESSION).payer == payer
    assert gateway().read_callback(signed(event())).payer == "", "an event does not"


def test_a_fee_in_another_currency_is_not_known(ours: StripeGateway, there: Stripe) -> None:
    there.pay(fee_currency="eur")
    assert ours.query(REFERENCE, gateway_id=SESSION).fee is None


@pytest.mark.parametrize(
    ("changed", "intent", "outcome"),
    [
        ({"status": "open"}, None, Outcome.PENDING),
        ({"status": "expired"}, None, Outcome.CLOSED),
        ({"status": "complete"}, {"status": "processing"}, Outcome.PENDING),
        ({"status": "complete"}, {"status": "requires_action"}, Outcome.PENDING),
        ({"status": "complete"}, {"status": "requires_payment_method"}, Outcome.CLOSED),
        ({"status": "complete"}, {"status": "canceled"}, Outcome.CLOSED),
    ],
)
def test_a_session_that_is_not_paid_is_not(
    ours: StripeGateway, there: Stripe, changed: dict[str, Any], intent: dict[str, Any] | None, outcome: Outcome
) -> None:
    there.sessions[SESSION] = session(payment_status="unpaid", **changed)
    there.intent = intent
    assert ours.query(REFERENCE, gateway_id=SESSION) == Notice(REFERENCE, outcome)


@pytest.mark.parametrize("gateway_id", ["cs_test_unknown", "../refunds", "cs_test_a/expire"])
def test_a_session_that_stripe_does_not_know_is_rejected(ours: StripeGateway, gateway_id: str) -> None:
    with pytest.raises(Rejected) as refusal:
        ours.query(REFERENCE, gateway_id=gateway_id)
    assert refusal.value.code in ("unknown", "resource_missing")


def test_a_session_that_never_began_waits_to_be_closed(ours: StripeGateway, site: Site) -> None:
    assert ours.query(REFERENCE) == Notice(REFERENCE, Outcome.PENDING)
    assert ours.close(REFERENCE)
    assert not site.asked


def test_a_session_of_another_payment_is_rejected(ours: StripeGateway, there: Stripe) -> None:
    there.pay()
    with pytest.raises(Rejected) as refusal:
        ours.query("OTHER1", gateway_id=SESSION)
    assert refusal.value.code == "other_payment"


def test_a_paid_session_that_makes_no_sense_is_for_a_person(ours: StripeGateway, there: Stripe) -> None:
    there.pay(amount_total=None)
    with pytest.raises(Rejected) as refusal:
        ours.query(REFERENCE, gateway_id=SESSION)
    assert refusal.value.code == "bad_answer"


def test_closing_expires_the_session_and_twice_is_fine(ours: StripeGateway, there: Stripe, site: Site) -> None:
    opened = ours.start(demand())
    for _ in range(2):
        ours.close(REFERENCE, gateway_id=opened.gateway_id)
    assert there.sessions[opened.gateway_id]["status"] == "expired"
    asked = len(site.asked)
    ours.close(REFERENCE)
    assert len(site.asked) == asked, "what has no id was never shown to anybody"


def test_a_paid_session_is_not_closed(ours: StripeGateway, there: Stripe) -> None:
    there.pay()
    with pytest.raises(Rejected) as refusal:
        ours.close(REFERENCE, gateway_id=SESSION)
    assert refusal.value.code == "paid"


def test_a_session_whose_money_is_on_its_way_is_not_closed(ours: StripeGateway, there: Stripe) -> None:
    there.sessions[SESSION] = session(payment_status="unpaid")
    there.intent = {"status": "processing"}
    with pytest.raises(Rejected, match="Only Checkout Sessions"):
        ours.close(REFERENCE, gateway_id=SESSION)


def back(**changed: Any) -> RefundDemand:
    fields: dict[str, Any] = {
        "refund_reference": "F1",
        "reference": REFERENCE,
        "transaction_id": INTENT,
        "amount": 500,
        "paid_amount": 1230,
        "currency": "USD",
    }
    return RefundDemand(**(fields | changed))


def test_money_is_given_back_once_however_often_it_is_asked_for(ours: StripeGateway, there: Stripe) -> None:
    for _ in range(3):
        answer = ours.refund(back())
        assert (answer.is_final, answer.gateway_id, answer.detail) == (True, "re_1", {"status": "succeeded"})
        # Stripe forgets idempotency keys after a day.
        there.remembered.clear()
    assert [refund["amount"] for refund in there.refunds] == [500]
    assert ours.refund(back(refund_reference="F2")).gateway_id == "re_2"


def test_two_that_ask_at_once_are_one_refund(ours: StripeGateway, there: Stripe) -> None:
    ours.refund(back())
    made = there.refunds.copy()
    # As the second sees it, who looked before the first had asked.
    there.refunds = []
    assert ours.refund(back()).gateway_id == made[0]["id"]
    assert not there.refunds


def test_a_refund_on_its_way_is_told_as_it_stands_when_asked_again(ours: StripeGateway, there: Stripe) -> None:
    there.refund_status = "pending"
    assert not ours.refund(back()).is_final
    assert not ours.refund(back()).is_final
    there.refunds[0]["status"] = "succeeded"
    assert ours.refund(back()).is_final
    assert len(there.refunds) == 1


@pytest.mark.parametrize("status", ["failed", "canceled"])
def test_a_refund_that_failed_is_for_a_person(ours: StripeGateway, there: Stripe, status: str) -> None:
    there.refund_status = "pending"
    ours.refund(back())
    there.refunds[0] |= {"status": status, "failure_reason": "lost_or_stolen_card"}
    with pytest.raises(Rejected) as refusal:
        ours.refund(back())
    assert (refusal.value.code, refusal.value.detail) == (f"refund_{status}", "lost_or_stolen_card")


def test_a_refund_that_stripe_refuses_is_for_a_person(ours: StripeGateway, there: Stripe) -> None:
    said = error("invalid_request_error", "Charge ch_1 has already been refunded.", code="charge_already_refunded")
    there.refund_error = (400, said)
    with pytest.raises(Rejected) as refusal:
        ours.refund(back())
    assert refusal.value.code == "charge_already_refunded"


@pytest.mark.parametrize("changed", [{"transaction_id": ""}, {"transaction_id": "ch_1"}, {"amount": 0}])
def test_a_refund_that_cannot_be_is_rejected_unasked(ours: StripeGateway, site: Site, changed: dict[str, Any]) -> None:
    with pytest.raises(Rejected):
        ours.refund(back(**changed))
    assert not site.asked


def every_call(ours: StripeGateway) -> list[Any]:
    return [
        lambda: ours.start(demand()),
        lambda: ours.query(REFERENCE, gateway_id=SESSION),
        lambda: ours.close(REFERENCE, gateway_id=SESSION),
        lambda: ours.refund(back()),
    ]


def assert_unsaid(failure: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    told = "".join(traceback.format_exception(failure)) + caplog.text + repr(failure) + str(failure.args)
    assert KEY not in told
    assert SECRET not in told


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((500, error("api_error", "Something went wrong")), "failing"),
        ((503, "<html>"), "failing"),
        ((409, error("idempotency_error", "in use", code="idempotency_key_in_use")), "failing"),
        ((429, error("invalid_request_error", "Too many requests", code="rate_limit")), "busy"),
        ((200, "<html>Welcome</html>"), "failing"),
        ((200, "[]"), "bad_answer"),
        ((400, {"error": "words"}), "bad_answer"),
        ((302, ""), "unreachable"),
    ],
)
def test_a_stripe_that_fails_is_asked_again_later(
    ours: StripeGateway, site: Site, answer: Answer, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    site.broken = answer
    for call in every_call(ours):
        with pytest.raises(Unavailable) as failure:
            call()
        assert failure.value.code == code
        assert_unsaid(failure.value, caplog)


def test_a_redirect_is_not_followed(ours: StripeGateway, site: Site) -> None:
    site.broken = (302, "")
    with pytest.raises(Unavailable):
        ours.query(REFERENCE, gateway_id=SESSION)
    assert len(site.asked) == 1


def test_an_answer_that_says_nothing_is_asked_for_again(ours: StripeGateway, site: Site) -> None:
    site.broken = (200, {})
    start, query, _close, refund = every_call(ours)
    for call in (start, query, refund):
        with pytest.raises(Unavailable, match="bad_answer"):
            call()


def test_nobody_there_is_asked_again_later() -> None:
    for call in every_call(gateway(api_base=nobody())):
        with pytest.raises(Unavailable) as failure:
            call()
        assert failure.value.code == "unreachable"


def test_a_silent_stripe_is_asked_again_later(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripe_checkout, "SECONDS", 0.2)
    site.hold = threading.Event()
    for call in every_call(gateway(api_base=site.url)):
        with pytest.raises(Unavailable) as failure:
            call()
        assert failure.value.code == "unreachable"


def test_a_wrong_key_is_for_a_person_and_is_never_said(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    site.broken = (401, error("invalid_request_error", f"Invalid API Key provided: {KEY}"))
    for call in every_call(gateway(api_base=site.url)):
        with pytest.raises(Rejected) as refusal:
            call()
        assert (refusal.value.code, refusal.value.detail) == ("denied", "Invalid API Key provided: …")
        assert KEY not in str(refusal.value)


@pytest.mark.parametrize(
    ("status", "said", "code"),
    [
        (403, error("invalid_request_error", "no"), "denied"),
        (402, error("card_error", "no", code="card_declined"), "card_declined"),
        (400, error("invalid_request_error", "no"), "invalid_request_error"),
        (400, error("invalid_request_error", "no", code="amount_too_large"), "amount_too_large"),
        (400, error("invalid_request_error", "no", code="a code that is none"), "invalid_request_error"),
    ],
)
def test_a_stripe_that_says_no_is_for_a_person(
    ours: StripeGateway, site: Site, status: int, said: dict[str, Any], code: str
) -> None:
    site.broken = (status, said)
    for call in every_call(ours):
        with pytest.raises(Rejected) as refusal:
            call()
        assert refusal.value.code == code


def test_the_environment_names_no_proxy_and_no_other_key(
    ours: StripeGateway, there: Stripe, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, nobody())
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "netrc").write_text("default login x password y\n")
    monkeypatch.setenv("NETRC", os.fspath(tmp_path / "netrc"))
    there.pay()
    assert ours.query(REFERENCE, gateway_id=SESSION).outcome is Outcome.PAID


def test_two_gateways_keep_their_own_keys(ours: StripeGateway, there: Stripe, site: Site) -> None:
    other = gateway(api_base=site.url, secret_key="sk_test_51AnotherAccountsKey")
    there.pay()
    with pytest.raises(Rejected, match="denied"):
        other.query(REFERENCE, gateway_id=SESSION)
    assert ours.query(REFERENCE, gateway_id=SESSION).outcome is Outcome.PAID
    assert stripe.api_key is None


def test_an_answer_is_a_status() -> None:
    any_gateway: Gateway = gateway()
    assert (any_gateway.answer(is_taken=True).status, any_gateway.answer(is_taken=False).status) == (200, 400)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"secret_key": ""}, "missing"),
        ({"secret_key": "pk_live_51NobodyMaySeeThisKey"}, "publishable"),
        ({"secret_key": SECRET}, "webhook"),
        ({"secret_key": "sk_org_live_51NobodyMaySee"}, "organization"),
        ({"secret_key": "hunter2"}, "begins with"),
        ({"secret_key": KEY + "\r\nX-Evil: 1"}, "begins with"),
        ({"secret_key": KEY + "密"}, "begins with"),
        ({"webhook_secret": " "}, "missing"),
        ({"webhook_secret": KEY}, "whsec_"),
        ({"webhook_secret": "we_1Nabc"}, "whsec_"),
        ({"api_base": "api.stripe.com"}, "address"),
        ({"api_base": "http://api.stripe.com"}, "https"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_words(changed: dict[str, str], word: str) -> None:
    with pytest.raises(ValueError, match=word) as refusal:
        gateway(**changed)
    assert KEY not in str(refusal.value)


def test_a_restricted_key_and_blanks_around_are_fine() -> None:
    StripeGateway({"secret_key": " rk_live_51NobodyMaySeeThis\n", "webhook_secret": f"{SECRET} "})
    assert [field.name for field in StripeGateway.fields if field.is_secret] == ["secret_key", "webhook_secret"]
