"""Stripe: events signed here as its page says and checked by its own SDK, and a small Stripe on this machine."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st

from billing.gateways import stripe_checkout
from billing.gateways.base import (
    WINDOW,
    CallbackRefused,
    Demand,
    Gateway,
    Notice,
    Outcome,
    RawCallback,
    RefundDemand,
    Rejected,
    Unavailable,
)
from billing.gateways.stripe_checkout import StripeGateway
from tests.billing.fake_site import Answer, Asked, Site, nobody, standing

KEY = "sk_test_51NobodyMaySeeThisKey"
SECRET = "whsec_NobodyMaySeeThisEither"
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
REFERENCE = "P7Q2X9"
SESSION = "cs_test_a1b2c3"
INTENT = "pi_3NabcDEF"


def gateway(**settings: str) -> StripeGateway:
    return StripeGateway({"secret_key": KEY, "webhook_secret": SECRET, **settings})


def session(**changed: Any) -> dict[str, Any]:
    """A paid session, as Stripe tells of it in an event."""
    return {
        "id": SESSION,
        "object": "checkout.session",
        "adaptive_pricing": {"enabled": False},
        "amount_subtotal": 1230,
        "amount_total": 1230,
        "client_reference_id": REFERENCE,
        "created": int(NOW.timestamp()) - 60,
        "currency": "usd",
        "customer_details": {"email": "alice@example.com", "name": "阿丽丝"},
        "expires_at": int(NOW.timestamp()) + 3600,
        "livemode": False,
        "metadata": {"reference": REFERENCE},
        "mode": "payment",
        "payment_intent": INTENT,
        "payment_status": "paid",
        "status": "complete",
        "url": None,
        **changed,
    }


def event(kind: str = "checkout.session.completed", **changed: Any) -> dict[str, Any]:
    return {
        "id": "evt_1Nabc",
        "object": "event",
        "api_version": "2024-06-20",
        "created": int(NOW.timestamp()) - 5,
        "data": {"object": session()},
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": kind,
        **changed,
    }


def about(kind: str = "checkout.session.completed", **changed: Any) -> dict[str, Any]:
    """An event about a session with these changes."""
    return event(kind, data={"object": session(**changed)})


def mac(body: bytes, at: int, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()


def signed(said: Any, *, at: datetime = NOW, header: str = "t={t},v1={v1}", secret: str = SECRET) -> RawCallback:
    body = said if isinstance(said, bytes) else json.dumps(said, ensure_ascii=False, indent=2).encode()
    t = int(at.timestamp())
    return RawCallback(
        "POST", {"stripe-signature": header.format(t=t, v1=mac(body, t, secret)), "host": "x"}, body, "", NOW
    )


def refused(callback: RawCallback) -> CallbackRefused:
    with pytest.raises(CallbackRefused) as refusal:
        gateway().read_callback(callback)
    return refusal.value


PAID = Notice(REFERENCE, Outcome.PAID, INTENT, 1230, "USD", None, NOW - timedelta(seconds=5))


@pytest.mark.parametrize("kind", ["checkout.session.completed", "checkout.session.async_payment_succeeded"])
def test_a_signed_event_is_believed(kind: str) -> None:
    assert gateway().read_callback(signed(event(kind))) == PAID


def test_the_sdks_own_signature_is_believed() -> None:
    body = json.dumps(event())
    header = stripe.WebhookSignature.generate_signature_header(body, SECRET, int(NOW.timestamp()))
    assert gateway().read_callback(RawCallback("POST", {"stripe-signature": header}, body.encode(), "", NOW)) == PAID


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (about(payment_status="unpaid"), Outcome.PENDING),
        (about("checkout.session.async_payment_failed", payment_status="unpaid"), Outcome.CLOSED),
        (about("checkout.session.expired", status="expired", payment_status="unpaid"), Outcome.CLOSED),
    ],
)
def test_what_is_not_paid_is_not(said: dict[str, Any], outcome: Outcome) -> None:
    assert gateway().read_callback(signed(said)) == Notice(REFERENCE, outcome)


@pytest.mark.parametrize(
    "said",
    [
        event("payment_intent.succeeded", data={"object": {"object": "payment_intent", "id": INTENT}}),
        event("charge.refunded"),
        event("some words & 字"),
        about(mode="subscription"),
        about(payment_status="no_payment_required"),
        about(metadata={}),
        about(metadata=None),
        about(metadata={"reference": "OTHER1"}),
        about(client_reference_id=None),
        about(client_reference_id="lower", metadata={"reference": "lower"}),
        about(object="payment_link"),
    ],
)
def test_events_that_say_nothing_about_our_payments_are_unsupported(said: dict[str, Any]) -> None:
    assert refused(signed(said)).code == "unsupported"


def test_a_payment_link_that_carries_our_reference_pays_nothing() -> None:
    """Whoever opens a Payment Link of the same account chooses its `client_reference_id`, but not its metadata."""
    assert refused(signed(about(payment_link="plink_1", metadata={}, amount_total=50))).code == "unsupported"


def test_a_changed_event_is_refused() -> None:
    good = signed(event())
    for body in (good.body.replace(b"1230", b"9999"), good.body + b" ", good.body.replace(b"usd", b"USD")):
        refusal = refused(RawCallback("POST", good.headers, body, "", NOW))
        assert (refusal.code, refusal.reference) == ("bad_signature", REFERENCE)


def test_an_event_signed_with_another_secret_is_refused() -> None:
    assert refused(signed(event(), secret="whsec_another")).code == "bad_signature"


@pytest.mark.parametrize(
    "header",
    ["t={t},v1=" + "0" * 64 + ",v1={v1}", "t={t},v1={v1},v1=" + "0" * 64, "t={t},v0=abc,v1={v1}", "v1={v1},t={t}"],
)
def test_one_right_signature_among_several_is_enough(header: str) -> None:
    """Stripe signs with both secrets while one is being replaced."""
    assert gateway().read_callback(signed(event(), header=header)) == PAID


@pytest.mark.parametrize(
    "header",
    [
        "",
        "v1={v1}",
        "t={t}",
        "t={t},v1=",
        "t={t},v0={v1}",
        "t={t},v1={v1}0",
        "t={t}, v1={v1}",
        "t={t},t={t},v1={v1}",
        "t=0{t}0,v1={v1}",
        "t=1_7,v1={v1}",
        "t=+{t},v1={v1}",
        "t=١٢,v1={v1}",
        "t=nan,v1={v1}",
        "t={t},v1=签名",
        "t={t},v1=\ud800",
        ",,,===",
        "t=" + "9" * 5000 + ",v1={v1}",
    ],
)
def test_a_header_that_is_none_is_refused(header: str) -> None:
    refusal = refused(signed(event(), header=header))
    assert (refusal.code, refusal.reference) == ("bad_signature", REFERENCE)


def test_a_missing_header_is_refused() -> None:
    assert refused(RawCallback("POST", {}, signed(event()).body, "", NOW)).code == "bad_signature"


@pytest.mark.parametrize("off", [WINDOW, -WINDOW, timedelta(0)])
def test_an_event_signed_just_within_the_window_is_believed(off: timedelta) -> None:
    assert gateway().read_callback(signed(event(), at=NOW + off)) == PAID


@pytest.mark.parametrize(
    "off", [WINDOW + timedelta(seconds=1), -WINDOW - timedelta(seconds=1), timedelta(days=1), -timedelta(days=9999)]
)
def test_an_event_signed_long_before_or_after_it_came_is_stale(off: timedelta) -> None:
    refusal = refused(signed(event(), at=NOW + off))
    assert (refusal.code, refusal.reference) == ("stale", REFERENCE)


def test_the_time_that_counts_is_when_it_came_in_and_not_when_it_is_read() -> None:
    assert abs(datetime.now(UTC) - NOW) > WINDOW, "the test's moment is not the present one"
    assert gateway().read_callback(signed(event())) == PAID
    assert refused(signed(event(), at=datetime.now(UTC))).code == "stale"


@pytest.mark.parametrize("changed", [{"livemode": True}, {"account": "acct_1"}, {"livemode": None}, {"livemode": 0}])
def test_an_event_of_the_other_mode_or_account_is_refused(changed: dict[str, Any]) -> None:
    assert refused(signed(event(**changed))).code == "other_merchant"


def test_a_payment_in_test_mode_is_none_to_a_live_gateway() -> None:
    live = gateway(secret_key="sk_live_51NobodyMaySeeThisKey")
    with pytest.raises(CallbackRefused, match="other_merchant"):
        live.read_callback(signed(event()))
    assert live.read_callback(signed(event(livemode=True))) == PAID


@pytest.mark.parametrize(
    "said",
    [
        about(amount_total=None),
        about(amount_total="1230"),
        about(amount_total=12.3),
        about(amount_total=True),
        about(amount_total=0),
        about(amount_total=-5),
        about(amount_total=10**40),
        about(currency=None),
        about(currency="dollars"),
        about(currency="kwd"),
        about(currency="ugx"),
        about(currency="isk", amount_total=123),
        about(payment_intent=None),
        about(payment_intent="ch_1"),
        about(payment_intent={"id": 5}),
        {**event(), "object": "list"},
        {**event(), "type": None},
    ],
)
def test_a_signed_event_that_makes_no_sense_is_malformed(said: dict[str, Any]) -> None:
    refusal = refused(signed(said))
    assert (refusal.code, refusal.reference) == ("malformed", REFERENCE)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"a=1&b=2", b"[" * 100_000, b'{"a":' + b"1" * 5000 + b"}"]
)
def test_garbage_is_malformed_signed_or_not(body: bytes) -> None:
    assert refused(RawCallback("POST", {"stripe-signature": "t=1,v1=a"}, body, "", NOW)).code == "malformed"
    assert refused(signed(body)).code == "malformed"


def test_an_event_in_another_encoding_is_refused() -> None:
    assert refused(signed(json.dumps(event()).encode("utf-16"))).code == "bad_signature"


def test_times_that_make_no_sense_are_left_out() -> None:
    assert gateway().read_callback(signed(event(created=10**30))).paid_at is None


@pytest.mark.parametrize(
    ("currency", "theirs", "ours"),
    [("jpy", 500, 500), ("cny", 1230, 1230), ("isk", 50_000, 500), ("rsd", 50_000, 500), ("huf", 1230, 1230)],
)
def test_amounts_are_in_our_units(currency: str, theirs: int, ours: int) -> None:
    notice = gateway().read_callback(signed(about(currency=currency, amount_total=theirs)))
    assert (notice.amount, notice.currency) == (ours, currency.upper())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary(max_size=100) | JSON.map(lambda said: json.dumps(said).encode()), st.text(max_size=80), st.text())
def test_no_input_does_more_than_be_refused(body: bytes, header: str, query: str) -> None:
    for headers in ({}, {"stripe-signature": header}):
        with pytest.raises(CallbackRefused):
            gateway_for_all().read_callback(RawCallback("POST", headers, body, query, NOW))


@given(
    st.dictionaries(st.sampled_from(list(event())), JSON, max_size=2),
    st.dictionaries(st.sampled_from(list(session())), JSON, max_size=2),
)
def test_nothing_that_is_really_signed_does_more_than_be_read_or_refused(
    outer: dict[str, Any], inner: dict[str, Any]
) -> None:
    said = {**event(data={"object": session(**inner)}), **outer}
    try:
        notice = gateway_for_all().read_callback(signed(json.dumps(said).encode()))
    except CallbackRefused:
        return
    assert (notice.reference, notice.outcome in Outcome) == (REFERENCE, True)


_one = gateway()


def gateway_for_all() -> StripeGateway:
    return _one


class Stripe:
    """What Stripe's API answers, in the shapes of its reference, with its idempotency and its rules on expiry."""

    def __init__(self) -> None:
        self.sessions: dict[str, dict[str, Any]] = {}
        self.refunds: list[dict[str, Any]] = []
        self.refund_status = "succeeded"
        self.refund_error: Answer | None = None
        self.intent: dict[str, Any] | None = None
        self.remembered: dict[str, tuple[dict[str, str], Answer]] = {}

    def __call__(self, asked: Asked) -> Answer:
        if asked.headers["authorization"] != f"Bearer {KEY}":
            return 401, error("invalid_request_error", f"Invalid API Key provided: {KEY}")
        name = asked.headers.get("idempotency-key", "")
        if asked.method == "POST" and name in self.remembered:
            form, answer = self.remembered[name]
            if form == asked.form:
                return answer
            return 400, error(
                "idempotency_error",
                "Keys for idempotent requests can only be used with the same parameters they were first used with.",
            )
        answer = self.do(asked)
        if asked.method == "POST" and answer[0] == 200:
            self.remembered[name] = (asked.form, json.loads(json.dumps(answer)))
        return answer

    def do(self, asked: Asked) -> Answer:
        match asked.method, asked.path.removeprefix("/v1/").split("/"):
            case "POST", ["checkout", "sessions"]:
                return self.create(asked.form)
            case "GET", ["checkout", "sessions"]:
                return self.listed(asked.query)
            case "GET", ["checkout", "sessions", name] if name in self.sessions:
                expanded = asked.query.get("expand[0]") == "payment_intent.latest_charge.balance_transaction"
                return 200, self.sessions[name] | ({"payment_intent": self.intent} if expanded else {})
            case "POST", ["checkout", "sessions", name, "expire"] if name in self.sessions:
                return self.expire(self.sessions[name])
            case "GET", ["refunds"]:
                found = [refund for refund in self.refunds if refund["payment_intent"] == asked.query["payment_intent"]]
                return 200, {"object": "list", "data": found, "has_more": False, "url": "/v1/refunds"}
            case "POST", ["refunds"]:
                return self.refund(asked.form)
        return 404, error("invalid_request_error", "No such thing", code="resource_missing")

    def create(self, form: dict[str, str]) -> Answer:
        lasts = int(form["expires_at"]) - datetime.now(UTC).timestamp()
        if not 30 * 60 <= lasts <= 24 * 3600:
            return 400, error("invalid_request_error", "expires_at must be between 30 minutes and 24 hours from now")
        name = f"cs_test_{len(self.sessions) + 1:04}"
        self.sessions[name] = session(
            id=name,
            client_reference_id=form["client_reference_id"],
            metadata={"reference": form["metadata[reference]"]},
            amount_total=int(form["line_items[0][price_data][unit_amount]"]),
            currency=form["line_items[0][price_data][currency]"],
            payment_intent=None,
            payment_status="unpaid",
            status="open",
            url=f"https://checkout.stripe.com/c/pay/{name}#fid",
        )
        return 200, self.sessions[name]

    def listed(self, query: dict[str, str]) -> Answer:
        assert query["status"] == "open"
        assert int(query["created[gte]"]) < datetime.now(UTC).timestamp() - 24 * 3600
        names = [name for name, entry in sorted(self.sessions.items(), reverse=True) if entry["status"] == "open"]
        if "starting_after" in query:
            names = names[names.index(query["starting_after"]) + 1 :]
        data = [self.sessions[name] for name in names[:2]]
        return 200, {"object": "list", "data": data, "has_more": len(names) > 2, "url": "/v1/checkout/sessions"}

    def expire(self, entry: dict[str, Any]) -> Answer:
        if entry["status"] != "open":
            return 400, error(
                "invalid_request_error",
                'Only Checkout Sessions with a status in ["open"] can be expired. '
                f"This Checkout Session has a status of `{entry['status']}`.",
            )
        entry |= {"status": "expired", "url": None}
        return 200, entry

    def refund(self, form: dict[str, str]) -> Answer:
        if self.refund_error is not None:
            return self.refund_error
        self.refunds.append(
            {
                "id": f"re_{len(self.refunds) + 1}",
                "object": "refund",
                "amount": int(form["amount"]),
                "currency": "usd",
                "metadata": {
                    "reference": form["metadata[reference]"],
                    "refund_reference": form["metadata[refund_reference]"],
                },
                "payment_intent": form["payment_intent"],
                "status": self.refund_status,
            }
        )
        return 200, self.refunds[-1]

    def pay(self, name: str = SESSION, *, fee_currency: str = "usd", **changed: Any) -> None:
        self.sessions[name] = session(id=name, **changed)
        charge = {
            "id": "ch_1",
            "object": "charge",
            "created": int(NOW.timestamp()),
            "balance_transaction": {
                "id": "txn_1",
                "object": "balance_transaction",
                "currency": fee_currency,
                "fee": 66,
                "net": 1164,
            },
        }
        self.intent = {"id": INTENT, "object": "payment_intent", "status": "succeeded", "latest_charge": charge}


def error(kind: str, message: str, *, code: str | None = None) -> dict[str, Any]:
    fields = {"type": kind, "message": message, "request_log_url": "https://dashboard.stripe.com/logs/req_1"}
    return {"error": fields | ({"code": code} if code else {})}


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


@pytest.mark.parametrize("gateway_id", ["", "cs_test_unknown", "../refunds", "cs_test_a/expire"])
def test_a_session_that_stripe_does_not_know_is_rejected(ours: StripeGateway, gateway_id: str) -> None:
    with pytest.raises(Rejected) as refusal:
        ours.query(REFERENCE, gateway_id=gateway_id)
    assert refusal.value.code in ("unknown", "resource_missing")


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
