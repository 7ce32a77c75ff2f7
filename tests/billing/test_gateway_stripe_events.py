"""Stripe's events, signed here as its page says and checked by its own SDK."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st

from billing.gateways.base import (
    WINDOW,
    CallbackRefused,
    Notice,
    Outcome,
    RawCallback,
)
from billing.gateways.stripe_checkout import StripeGateway
from tests.billing.fake_stripe import (
    INTENT,
    NOW,
    REFERENCE,
    SECRET,
    about,
    event,
    gateway,
    session,
    signed,
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
