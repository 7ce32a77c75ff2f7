"""WeChat Pay with real signatures: what is asked, what is believed, what is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import PrivateFormat
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from billing.gateways import wire
from billing.gateways.base import (
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
from billing.gateways.wechat import WechatGateway
from tests.billing.fake_cn_gateways import API_V3_KEY, FakeWechat, bare, new_key, private_pem, public_pem, raw
from tests.billing.fake_site import nobody

AT = datetime(2026, 5, 1, 4, 0, tzinfo=UTC)
"""Noon in China."""
REFERENCE = "P7Q2M4X9K1"


@pytest.fixture(scope="module")
def merchant() -> RSAPrivateKey:
    return new_key()


@pytest.fixture(scope="module")
def own() -> RSAPrivateKey:
    """WeChat's."""
    return new_key()


@pytest.fixture(scope="module")
def server(merchant: RSAPrivateKey, own: RSAPrivateKey) -> Iterator[FakeWechat]:
    with FakeWechat(merchant, own) as fake:
        yield fake


@pytest.fixture(scope="module")
def gateway(server: FakeWechat) -> WechatGateway:
    return WechatGateway(server.settings())


@pytest.fixture(autouse=True)
def wechat(server: FakeWechat, settings: Settings) -> FakeWechat:
    settings.OUTBOUND_ALLOWED_NETWORKS = ["127.0.0.1/32"]
    server.reset()
    return server


def demand(**changed: Any) -> Demand:
    return replace(
        Demand(
            reference=REFERENCE,
            amount=1234,
            currency="CNY",
            subject="三十天 relay",
            expires_at=AT + timedelta(minutes=30),
            return_url="https://portal.example.com/orders/7",
            notify_url="https://portal.example.com/pay/wechat/notify",
        ),
        **changed,
    )


def refund_demand(wechat: FakeWechat, **changed: Any) -> RefundDemand:
    return replace(
        RefundDemand(
            refund_reference="R1",
            reference=REFERENCE,
            transaction_id=wechat.trades[REFERENCE].transaction_id,
            amount=1000,
            paid_amount=1234,
            currency="CNY",
            reason="不要了",
            notify_url="https://portal.example.com/pay/wechat/notify",
        ),
        **changed,
    )


@pytest.fixture
def begun(wechat: FakeWechat, gateway: WechatGateway) -> FakeWechat:
    """The payer sees the code."""
    gateway.start(demand())
    wechat.asked.clear()
    return wechat


@pytest.fixture
def paid(begun: FakeWechat) -> FakeWechat:
    begun.pay(REFERENCE)
    return begun


def refusal(gateway: WechatGateway, callback: RawCallback) -> tuple[str, str]:
    with pytest.raises(CallbackRefused) as caught:
        gateway.read_callback(callback)
    return caught.value.code, caught.value.reference


# --- asking for money ---


def test_it_is_a_gateway(gateway: WechatGateway) -> None:
    as_protocol: Gateway = gateway
    assert as_protocol.kind == "wechat"
    assert as_protocol.currencies == {"CNY"}
    assert as_protocol.is_automatic
    assert as_protocol.can_refund


def test_the_payer_gets_a_code_to_scan(wechat: FakeWechat, gateway: WechatGateway) -> None:
    opened = gateway.start(demand())
    assert (opened.qr_text, opened.redirect_url) == (f"weixin://wxpay/bizpayurl?pr={REFERENCE}", "")
    [(path, asked)] = wechat.asked
    assert path == "POST /v3/pay/transactions/native"
    assert asked["amount"] == {"total": 1234, "currency": "CNY"}
    assert asked["time_expire"] == "2026-05-01T12:30:00+08:00"
    assert asked["description"] == "三十天 relay"
    assert asked["notify_url"] == "https://portal.example.com/pay/wechat/notify"


def test_the_same_payment_may_be_started_again(wechat: FakeWechat, gateway: WechatGateway) -> None:
    assert gateway.start(demand()) == gateway.start(demand())
    assert len(wechat.trades) == 1


def test_a_long_subject_is_cut_between_letters(wechat: FakeWechat, gateway: WechatGateway) -> None:
    gateway.start(demand(subject="租" * 100))
    assert wechat.asked[0][1]["description"] == "租" * 42


def test_other_money_than_yuan_is_refused(gateway: WechatGateway) -> None:
    with pytest.raises(Rejected, match="currency"):
        gateway.start(demand(currency="USD"))


# --- which account paid ---


def test_notices_and_answers_say_which_account_paid(paid: FakeWechat, gateway: WechatGateway) -> None:
    assert gateway.query(REFERENCE).payer == ""
    paid.trades[REFERENCE].payer = {"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"}
    notices = [gateway.read_callback(paid.notification(REFERENCE, at=AT)), gateway.query(REFERENCE)]
    assert [notice.payer for notice in notices] == ["oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"] * 2
    assert "oUpF8" not in repr(notices), "it gets into no log"


@pytest.mark.parametrize("payer", [None, "oUpF8", [], {}, {"openid": None}, {"openid": {"a": 1}}])
def test_a_payer_that_makes_no_sense_is_nobody(paid: FakeWechat, gateway: WechatGateway, payer: Any) -> None:
    assert gateway.read_callback(paid.notification(REFERENCE, at=AT, payer=payer)).payer == ""


# --- what WeChat posts ---


def test_a_payment_is_believed(paid: FakeWechat, gateway: WechatGateway) -> None:
    assert gateway.read_callback(paid.notification(REFERENCE, at=AT)) == Notice(
        REFERENCE,
        Outcome.PAID,
        transaction_id=paid.trades[REFERENCE].transaction_id,
        amount=1234,
        currency="CNY",
        paid_at=AT,
    )
    assert paid.asked == [], "nobody was asked"


@pytest.mark.parametrize(
    ("late", "is_taken"),
    [
        (timedelta(seconds=300), True),
        (timedelta(seconds=301), False),
        (timedelta(days=1), False),
        (timedelta(seconds=-300), True),
        (timedelta(seconds=-301), False),
        (timedelta(days=-365), False),
    ],
)
def test_a_notice_is_believed_for_five_minutes_either_way(
    paid: FakeWechat, gateway: WechatGateway, late: timedelta, is_taken: bool
) -> None:
    callback = replace(paid.notification(REFERENCE, at=AT), received_at=AT + late)
    if is_taken:
        assert gateway.read_callback(callback).outcome is Outcome.PAID
    else:
        assert refusal(gateway, callback) == ("stale", REFERENCE)


@pytest.mark.parametrize(
    "marks",
    [
        {"signature": ""},
        {"signature": "AAAA"},
        {"signature": "not base64 é"},
        {"timestamp": str(int(AT.timestamp()) + 1)},
        {"timestamp": ""},
        {"timestamp": "now"},
        {"timestamp": "9" * 40},
        {"timestamp": "１２３"},
        {"nonce": "another"},
        {"nonce": ""},
        {"serial": ""},
        {"serial": "PUB_KEY_ID_0000000000000000000000000000000001"},
        {"serial": "5157F09EFDC096DE15EBE81A47057A7232F1B8E1"},
        {"serial": "no number"},
        {"signature_type": ""},
        {"signature_type": "WECHATPAY2-SM2-WITH-SM3"},
    ],
)
def test_a_notice_with_other_marks_than_it_was_signed_with_is_refused(
    paid: FakeWechat, gateway: WechatGateway, marks: dict[str, str]
) -> None:
    envelope = paid.envelope(paid._told(REFERENCE))
    assert refusal(gateway, paid.posted(envelope, at=AT, **marks)) == ("bad_signature", REFERENCE)
    assert paid.asked == [], "and no certificate was fetched for it"


def test_a_notice_without_any_marks_is_refused(paid: FakeWechat, gateway: WechatGateway) -> None:
    callback = paid.notification(REFERENCE, at=AT)
    assert refusal(gateway, replace(callback, headers={}))[0] == "bad_signature"
    # As Django names headers; the SDK would take them from there.
    meta = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in callback.headers.items()}
    assert refusal(gateway, replace(callback, headers=meta))[0] == "bad_signature"


def test_a_notice_signed_by_another_is_refused(
    paid: FakeWechat, gateway: WechatGateway, merchant: RSAPrivateKey
) -> None:
    imposter = FakeWechat(paid.own, merchant)
    imposter.trades = paid.trades
    assert refusal(gateway, imposter.notification(REFERENCE, at=AT))[0] == "bad_signature"


def test_an_envelope_changed_after_it_was_signed_is_refused(paid: FakeWechat, gateway: WechatGateway) -> None:
    callback = paid.notification(REFERENCE, at=AT)
    for old, new in ((b"TRANSACTION.SUCCESS", b"TRANSACTION.success"), (b"}", b" }"), (b'"summary"', b'"Summary"')):
        assert old in callback.body
        assert refusal(gateway, replace(callback, body=callback.body.replace(old, new, 1)))[0] == "bad_signature"


def test_what_was_sealed_with_another_key_is_refused(paid: FakeWechat, gateway: WechatGateway) -> None:
    envelope = paid.envelope(paid._told(REFERENCE), key="another key that has 32 letters!")
    assert refusal(gateway, paid.posted(envelope, at=AT)) == ("bad_signature", "")
    other = WechatGateway(paid.settings(api_v3_key=API_V3_KEY[::-1]))
    assert refusal(other, paid.notification(REFERENCE, at=AT)) == ("bad_signature", "")


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"mchid": "1900000000"}, "other_merchant"),
        ({"mchid": None}, "other_merchant"),
        ({"appid": "wx0000000000000000"}, "other_merchant"),
        ({"trade_state": "NOTPAY"}, "malformed"),
        ({"trade_state": "CLOSED"}, "malformed"),
        ({"trade_state": None}, "malformed"),
        ({"out_trade_no": None}, "malformed"),
        ({"out_trade_no": "somebody's"}, "malformed"),
        ({"transaction_id": None}, "malformed"),
        ({"amount": None}, "malformed"),
        ({"amount": {}}, "malformed"),
        ({"amount": {"total": "1234", "currency": "CNY"}}, "malformed"),
        ({"amount": {"total": 12.34, "currency": "CNY"}}, "malformed"),
        ({"amount": {"total": True, "currency": "CNY"}}, "malformed"),
        ({"amount": {"total": -1, "currency": "CNY"}}, "malformed"),
        ({"amount": {"total": 1234, "currency": 156}}, "malformed"),
    ],
)
def test_a_signed_notice_that_is_not_for_us_or_makes_no_sense_is_refused(
    paid: FakeWechat, gateway: WechatGateway, changed: dict[str, Any], code: str
) -> None:
    assert refusal(gateway, paid.notification(REFERENCE, at=AT, **changed))[0] == code


def test_a_currency_is_told_as_it_is(paid: FakeWechat, gateway: WechatGateway) -> None:
    notice = gateway.read_callback(
        paid.notification(REFERENCE, at=AT, amount={"total": 1234, "currency": "HKD"}, success_time="soon")
    )
    assert (notice.amount, notice.currency, notice.paid_at) == (1234, "HKD", None)


@pytest.mark.parametrize("event", ["REFUND.SUCCESS", "REFUND.ABNORMAL", "REFUND.CLOSED", "PAYSCORE.USER_PAID", None])
def test_an_event_of_another_kind_says_nothing_about_payments(
    paid: FakeWechat, gateway: WechatGateway, event: str | None
) -> None:
    envelope = paid.envelope(paid._told(REFERENCE), event_type=event)
    assert refusal(gateway, paid.posted(envelope, at=AT)) == ("unsupported", REFERENCE)


@pytest.mark.parametrize(
    "body",
    [b"", b"garbage", b"\xff\xfe", b"{", b"[]", b"null", b"{}", b'{"resource": []}', b"[" * 100_000, b"9" * 10_000],
)
def test_what_is_no_envelope_is_malformed_even_when_signed(
    wechat: FakeWechat, gateway: WechatGateway, body: bytes
) -> None:
    assert refusal(gateway, raw(body, at=AT)) == ("malformed", "")
    assert refusal(gateway, wechat.posted(body, at=AT)) == ("malformed", "")


@pytest.mark.parametrize(
    "resource",
    [
        {},
        {"algorithm": "AEAD_AES_256_GCM"},
        {"algorithm": "AEAD_AES_256_GCM", "nonce": "", "ciphertext": ""},
        {"algorithm": "AEAD_AES_256_GCM", "nonce": "x" * 12, "ciphertext": "not base64 é"},
        {"algorithm": "AEAD_AES_256_GCM", "nonce": 7, "ciphertext": ["x"], "associated_data": {}},
        {"algorithm": "AEAD_AES_256_GCM", "nonce": "\ud800" * 12, "ciphertext": "AAAA"},
        {"algorithm": "none", "nonce": "x" * 12, "ciphertext": "e30="},
    ],
)
def test_a_seal_that_makes_no_sense_is_refused(
    wechat: FakeWechat, gateway: WechatGateway, resource: dict[str, Any]
) -> None:
    body = json.dumps(wechat.envelope({}, resource=resource)).encode()
    assert refusal(gateway, wechat.posted(body, at=AT)) == ("bad_signature", "")


@pytest.mark.parametrize("sealed", [[], "text", None, 7])
def test_a_seal_around_something_else_is_refused(wechat: FakeWechat, gateway: WechatGateway, sealed: object) -> None:
    assert refusal(gateway, wechat.posted(wechat.envelope(sealed), at=AT))[0] == "bad_signature"


def test_a_notice_cut_short_is_refused_wherever_the_cut_is(paid: FakeWechat, gateway: WechatGateway) -> None:
    callback = paid.notification(REFERENCE, at=AT)
    for size in range(0, len(callback.body), 53):
        assert refusal(gateway, replace(callback, body=callback.body[:size])) == ("malformed", "")


def test_only_a_post_is_a_notice(paid: FakeWechat, gateway: WechatGateway) -> None:
    assert refusal(gateway, replace(paid.notification(REFERENCE, at=AT), method="GET"))[0] == "malformed"


_words = st.one_of(st.none(), st.integers(), st.text(max_size=30), st.sampled_from(["AEAD_AES_256_GCM", "AAAA"]))


@effort(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.one_of(
        st.binary(max_size=200),
        st.fixed_dictionaries(
            {
                "event_type": st.one_of(_words, st.just("TRANSACTION.SUCCESS")),
                "resource": st.one_of(
                    _words,
                    st.dictionaries(
                        st.sampled_from(["algorithm", "nonce", "ciphertext", "associated_data"]), _words
                    ).map(lambda said: {"algorithm": "AEAD_AES_256_GCM", **said}),
                ),
            }
        ).map(lambda said: json.dumps(said).encode()),
    ),
    marks=st.dictionaries(
        st.sampled_from(["signature", "timestamp", "nonce", "serial", "signature_type"]), st.text(max_size=20)
    ),
)
def test_whatever_is_posted_is_refused_and_nothing_else_goes_wrong(
    wechat: FakeWechat, gateway: WechatGateway, body: bytes, marks: dict[str, str]
) -> None:
    refusal(gateway, wechat.posted(body, at=AT, **marks))


def test_wechat_hears_what_its_documentation_says(gateway: WechatGateway) -> None:
    taken, refused = gateway.answer(is_taken=True), gateway.answer(is_taken=False)
    assert (taken.status, taken.content_type) == (200, "application/json")
    assert json.loads(taken.body)["code"] == "SUCCESS"
    assert 400 <= refused.status < 600
    assert json.loads(refused.body)["code"] == "FAIL"


# --- asking what became of it ---


def test_a_query_tells_what_was_paid(paid: FakeWechat, gateway: WechatGateway) -> None:
    assert gateway.query(REFERENCE) == Notice(
        REFERENCE,
        Outcome.PAID,
        transaction_id=paid.trades[REFERENCE].transaction_id,
        amount=1234,
        currency="CNY",
        paid_at=AT,
    )


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        ("NOTPAY", Outcome.PENDING),
        ("USERPAYING", Outcome.PENDING),
        ("PAYERROR", Outcome.PENDING),
        ("CLOSED", Outcome.CLOSED),
        ("REVOKED", Outcome.CLOSED),
    ],
)
def test_every_state_of_a_payment_is_understood(
    begun: FakeWechat, gateway: WechatGateway, state: str, outcome: Outcome
) -> None:
    begun.trades[REFERENCE].state = state
    assert gateway.query(REFERENCE) == Notice(REFERENCE, outcome)


def test_what_wechat_never_heard_of_may_still_be_paid(wechat: FakeWechat, gateway: WechatGateway) -> None:
    assert gateway.query(REFERENCE) == Notice(REFERENCE, Outcome.PENDING)


def test_money_that_went_back_is_for_a_person_to_look_at(paid: FakeWechat, gateway: WechatGateway) -> None:
    gateway.refund(refund_demand(paid))
    with pytest.raises(Rejected) as caught:
        gateway.query(REFERENCE)
    assert caught.value.code == "refunded"


def test_a_state_nobody_has_heard_of_is_not_taken_for_another(begun: FakeWechat, gateway: WechatGateway) -> None:
    begun.trades[REFERENCE].state = "NEW"
    with pytest.raises(Unavailable, match="bad_answer"):
        gateway.query(REFERENCE)


def test_what_is_closed_is_closed_and_closing_twice_is_fine(begun: FakeWechat, gateway: WechatGateway) -> None:
    gateway.close(REFERENCE)
    gateway.close(REFERENCE)
    assert gateway.query(REFERENCE) == Notice(REFERENCE, Outcome.CLOSED)


def test_what_wechat_never_heard_of_needs_no_closing(wechat: FakeWechat, gateway: WechatGateway) -> None:
    gateway.close(REFERENCE)
    assert wechat.trades == {}


def test_what_was_paid_cannot_be_closed(paid: FakeWechat, gateway: WechatGateway) -> None:
    with pytest.raises(Rejected) as caught:
        gateway.close(REFERENCE)
    assert caught.value.code == "paid"


def test_an_answer_about_another_payment_is_not_believed(
    paid: FakeWechat, gateway: WechatGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paid, "act", lambda method, path, asked: (200, paid._told(REFERENCE)))
    with pytest.raises(Unavailable, match="bad_answer"):
        gateway.query("P7Q2M4X9K2")


# --- giving money back ---


def test_money_is_given_back_once_however_often_it_is_asked_for(paid: FakeWechat, gateway: WechatGateway) -> None:
    first, again = gateway.refund(refund_demand(paid)), gateway.refund(refund_demand(paid))
    assert first == again
    assert (first.is_final, first.gateway_id) == (True, "503R1")
    assert paid.trades[REFERENCE].refunds == {"R1": 1000}
    asked = paid.asked[0][1]
    assert asked["amount"] == {"refund": 1000, "total": 1234, "currency": "CNY"}
    assert asked["reason"] == "不要了"
    assert "notify_url" not in asked


def test_a_refund_that_takes_its_time_is_not_final_until_it_is(paid: FakeWechat, gateway: WechatGateway) -> None:
    paid.refund_state = "PROCESSING"
    answer = gateway.refund(refund_demand(paid))
    assert (answer.is_final, answer.gateway_id) == (False, "503R1")
    paid.refund_state_later = "SUCCESS"
    assert gateway.refund(refund_demand(paid)).is_final
    assert paid.trades[REFERENCE].refunds == {"R1": 1000}


@pytest.mark.parametrize("state", ["ABNORMAL", "CLOSED"])
def test_a_refund_that_failed_is_for_a_person_to_look_at(paid: FakeWechat, gateway: WechatGateway, state: str) -> None:
    paid.refund_state = "PROCESSING"
    paid.refund_state_later = state
    with pytest.raises(Rejected) as caught:
        gateway.refund(refund_demand(paid))
    assert caught.value.code == f"refund_{state.lower()}"


def test_another_amount_under_the_same_name_is_rejected(paid: FakeWechat, gateway: WechatGateway) -> None:
    gateway.refund(refund_demand(paid))
    with pytest.raises(Rejected, match="INVALID_REQUEST"):
        gateway.refund(refund_demand(paid, amount=1))


# --- when it goes wrong ---

ASK: list[Callable[[WechatGateway, FakeWechat], object]] = [
    lambda gateway, wechat: gateway.start(demand()),
    lambda gateway, wechat: gateway.query(REFERENCE),
    lambda gateway, wechat: gateway.close(REFERENCE),
    lambda gateway, wechat: gateway.refund(refund_demand(wechat)),
]
each_question = pytest.mark.parametrize("ask", ASK, ids=["start", "query", "close", "refund"])


@each_question
@pytest.mark.parametrize(
    ("mood", "code"),
    [
        ("500", "status_500"),
        ("garbage", "bad_signature"),
        ("bad_signature", "bad_signature"),
        ("unsigned", "bad_signature"),
        ("hangs", "timeout"),
    ],
)
def test_trouble_on_the_way_means_to_try_again(
    begun: FakeWechat,
    gateway: WechatGateway,
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable[[WechatGateway, FakeWechat], object],
    mood: str,
    code: str,
) -> None:
    if mood == "hangs":
        monkeypatch.setattr(wire, "SECONDS", 0.2)
    begun.trades[REFERENCE].transaction_id = "42"
    begun.mood = mood
    with pytest.raises(Unavailable) as caught:
        ask(gateway, begun)
    assert caught.value.code == code


def test_nobody_there_means_to_try_again(wechat: FakeWechat) -> None:
    gateway = WechatGateway(wechat.settings(base_url=nobody()))
    with pytest.raises(Unavailable) as caught:
        gateway.query(REFERENCE)
    assert caught.value.code == "unreachable"


def test_an_answer_from_yesterday_is_not_believed(paid: FakeWechat, gateway: WechatGateway) -> None:
    paid.signed_ago = timedelta(days=1)
    with pytest.raises(Unavailable, match="bad_signature"):
        gateway.query(REFERENCE)


@each_question
@pytest.mark.parametrize(
    ("status", "code"), [("500", "SYSTEM_ERROR"), ("429", "FREQUENCY_LIMITED"), ("400", "SYSTEM_ERROR")]
)
def test_wechats_own_trouble_means_to_try_again(
    begun: FakeWechat,
    gateway: WechatGateway,
    ask: Callable[[WechatGateway, FakeWechat], object],
    status: str,
    code: str,
) -> None:
    begun.trades[REFERENCE].transaction_id = "42"
    begun.refusal = (status, code)
    with pytest.raises(Unavailable) as caught:
        ask(gateway, begun)
    assert (caught.value.code, caught.value.detail) == (code, "不行")


@each_question
@pytest.mark.parametrize(("status", "code"), [("403", "NOT_ENOUGH"), ("400", "PARAM_ERROR"), ("403", "NO_AUTH")])
def test_a_no_is_a_no(
    begun: FakeWechat,
    gateway: WechatGateway,
    ask: Callable[[WechatGateway, FakeWechat], object],
    status: str,
    code: str,
) -> None:
    begun.trades[REFERENCE].transaction_id = "42"
    begun.refusal = (status, code)
    with pytest.raises(Rejected) as caught:
        ask(gateway, begun)
    assert (caught.value.code, caught.value.detail) == (code, "不行")


def test_wechat_tells_a_merchant_with_the_wrong_key_so(wechat: FakeWechat) -> None:
    with pytest.raises(Rejected) as caught:
        WechatGateway(wechat.settings(private_key=private_pem(new_key()))).query(REFERENCE)
    assert caught.value.code == "SIGN_ERROR"


def test_nothing_in_the_environment_is_used(
    paid: FakeWechat, gateway: WechatGateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    # The SDK's own HTTP would put this in place of our signature.
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login alice password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert gateway.query(REFERENCE).outcome is Outcome.PAID


def test_no_key_is_ever_logged(
    paid: FakeWechat, gateway: WechatGateway, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    gateway.query(REFERENCE)
    gateway.read_callback(paid.notification(REFERENCE, at=AT))
    seen = caplog.text + "".join(capfd.readouterr())
    key = bare(private_pem(paid.merchant))
    assert API_V3_KEY not in seen
    assert not any(key[place : place + 40] in seen for place in range(0, len(key) - 40, 40))


# --- settings ---


def test_making_a_gateway_asks_nobody(wechat: FakeWechat) -> None:
    WechatGateway(wechat.settings(cert_serial_no="44:4f:48:64:ea:9b:34:41:5a:7b:1d:e3:ed:e5:5a:4b:a8:a9:a3:8e"))
    assert wechat.asked == []


def test_keys_are_read_however_they_were_pasted(wechat: FakeWechat) -> None:
    for key in (
        bare(private_pem(wechat.merchant)),
        private_pem(wechat.merchant, PrivateFormat.TraditionalOpenSSL),
        private_pem(wechat.merchant).replace("\n", "\r\n"),
    ):
        gateway = WechatGateway(wechat.settings(private_key=key, public_key=bare(public_pem(wechat.own))))
        assert gateway.start(demand()).qr_text


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (lambda w: {"mch_id": ""}, "“Merchant ID” is missing"),
        (lambda w: {"mch_id": "shop"}, "“Merchant ID” has only digits"),
        (lambda w: {"app_id": "2021000123456789"}, "begins with wx"),
        (lambda w: {"cert_serial_no": "PUB_KEY_ID_1"}, "digits and letters A to F"),
        (lambda w: {"cert_serial_no": 'AB12"\r\nX: 1'}, "digits and letters A to F"),
        (lambda w: {"api_v3_key": API_V3_KEY[:-1]}, "exactly 32"),
        (lambda w: {"api_v3_key": "密" * 32}, "exactly 32"),
        (lambda w: {"public_key_id": "444F4864"}, "begins with PUB_KEY_ID_"),
        (lambda w: {"base_url": "nowhere"}, "web address"),
        (lambda w: {"base_url": "http://example.com"}, "https"),
        (lambda w: {"private_key": "x"}, "is not a key"),
        (lambda w: {"private_key": private_pem(new_key(1024))}, "2048 bits"),
        (lambda w: {"public_key": public_pem(w.merchant)}, "belongs to your own private key"),
        (lambda w: {"public_key": private_pem(w.own)}, "must be a public key"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_words(
    wechat: FakeWechat, changed: Callable[[FakeWechat], dict[str, str]], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        WechatGateway(wechat.settings(**changed(wechat)))
    assert wechat.asked == []
