"""Alipay with real signatures: what is asked, what is believed, what is refused."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from billing.gateways import wire
from billing.gateways.alipay import GATEWAY, AlipayGateway
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
from tests.billing.fake_cn_gateways import (
    APP_ID,
    FakeAlipay,
    bare,
    new_key,
    private_pem,
    public_pem,
    raw,
    sign,
)
from tests.billing.fake_site import nobody

AT = datetime(2026, 5, 1, 4, 0, tzinfo=UTC)
"""Noon in China."""
REFERENCE = "P7Q2M4X9K1"


@pytest.fixture(scope="module")
def merchant() -> RSAPrivateKey:
    return new_key()


@pytest.fixture(scope="module")
def own() -> RSAPrivateKey:
    """Alipay's."""
    return new_key()


@pytest.fixture(scope="module")
def server(merchant: RSAPrivateKey, own: RSAPrivateKey) -> Iterator[FakeAlipay]:
    with FakeAlipay(merchant, own) as fake:
        yield fake


@pytest.fixture(scope="module")
def gateway(server: FakeAlipay) -> AlipayGateway:
    return AlipayGateway(server.settings())


@pytest.fixture(autouse=True)
def alipay(server: FakeAlipay, settings: Settings) -> FakeAlipay:
    settings.OUTBOUND_ALLOWED_NETWORKS = ["127.0.0.1/32"]
    server.reset()
    return server


def demand(**changed: Any) -> Demand:
    return replace(
        Demand(
            reference=REFERENCE,
            amount=1234,
            currency="CNY",
            subject="三十天 relay / pro & more",
            expires_at=AT + timedelta(minutes=30),
            return_url="https://portal.example.com/orders/7",
            notify_url="https://portal.example.com/pay/alipay/notify",
        ),
        **changed,
    )


def refund_demand(alipay: FakeAlipay, **changed: Any) -> RefundDemand:
    return replace(
        RefundDemand(
            refund_reference="R1",
            reference=REFERENCE,
            transaction_id=alipay.trades[REFERENCE].transaction_id,
            amount=1000,
            paid_amount=1234,
            currency="CNY",
            reason="not wanted",
        ),
        **changed,
    )


@pytest.fixture
def begun(alipay: FakeAlipay, gateway: AlipayGateway) -> FakeAlipay:
    """The payer has opened the page."""
    alipay.open(gateway.start(demand()).redirect_url)
    return alipay


@pytest.fixture
def paid(begun: FakeAlipay) -> FakeAlipay:
    begun.pay(REFERENCE)
    return begun


def refusal(gateway: AlipayGateway, callback: RawCallback) -> tuple[str, str]:
    with pytest.raises(CallbackRefused) as caught:
        gateway.read_callback(callback)
    return caught.value.code, caught.value.reference


# --- asking for money ---


def test_it_is_a_gateway(gateway: AlipayGateway) -> None:
    as_protocol: Gateway = gateway
    assert as_protocol.kind == "alipay"
    assert as_protocol.currencies == {"CNY"}
    assert as_protocol.is_automatic
    assert as_protocol.can_refund


def test_a_payer_at_a_desk_is_sent_to_a_page_whose_address_we_signed(
    alipay: FakeAlipay, gateway: AlipayGateway
) -> None:
    opened = gateway.start(demand())
    asked = alipay.open(opened.redirect_url).asked
    assert asked["method"] == "alipay.trade.page.pay"
    assert asked["product_code"] == "FAST_INSTANT_TRADE_PAY"
    assert asked["total_amount"] == "12.34"
    assert asked["time_expire"] == "2026-05-01 12:30:00"
    assert asked["subject"] == "三十天 relay pro more", "what Alipay forbids in it is gone"
    assert asked["return_url"] == "https://portal.example.com/orders/7"
    assert asked["notify_url"] == "https://portal.example.com/pay/alipay/notify"
    assert alipay.asked == [], "nothing was asked over the network"
    assert opened.qr_text == ""


def test_a_payer_on_a_phone_gets_the_page_that_opens_the_app(alipay: FakeAlipay, gateway: AlipayGateway) -> None:
    asked = alipay.open(gateway.start(demand(is_mobile=True)).redirect_url).asked
    assert asked["method"] == "alipay.trade.wap.pay"
    assert asked["quit_url"] == "https://portal.example.com/orders/7"


def test_in_mode_qr_the_payer_gets_a_code(alipay: FakeAlipay) -> None:
    opened = AlipayGateway(alipay.settings(mode="qr")).start(demand())
    assert opened.qr_text == "https://qr.alipay.com/p7q2m4x9k1"
    assert opened.redirect_url == ""
    [(method, asked)] = alipay.asked
    assert (method, asked["total_amount"], asked["notify_url"]) == (
        "alipay.trade.precreate",
        "12.34",
        "https://portal.example.com/pay/alipay/notify",
    )


def test_without_an_address_of_its_own_it_is_the_real_alipay(alipay: FakeAlipay) -> None:
    url = AlipayGateway(alipay.settings(gateway_url="")).start(demand()).redirect_url
    assert url.startswith(f"{GATEWAY}?")


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Shanghai"])
def test_the_machines_own_time_zone_does_not_matter(
    gateway: AlipayGateway, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        said = dict(parse_qsl(urlsplit(gateway.start(demand()).redirect_url).query))
    time.tzset()
    sent = datetime.strptime(said["timestamp"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=wire.CHINA)
    # The nearest wrong zone is an hour off.
    assert abs(datetime.now(UTC) - sent) < timedelta(minutes=10)


def test_other_money_than_yuan_is_refused(gateway: AlipayGateway) -> None:
    with pytest.raises(Rejected, match="currency"):
        gateway.start(demand(currency="USD"))


# --- what Alipay posts ---


def test_a_payment_is_believed(paid: FakeAlipay, gateway: AlipayGateway) -> None:
    assert gateway.read_callback(paid.notification(REFERENCE, at=AT)) == Notice(
        REFERENCE,
        Outcome.PAID,
        transaction_id=paid.trades[REFERENCE].transaction_id,
        amount=1234,
        currency="CNY",
        paid_at=AT - timedelta(seconds=5),
    )


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        ("TRADE_FINISHED", Outcome.PAID),
        ("TRADE_CLOSED", Outcome.CLOSED),
        ("WAIT_BUYER_PAY", Outcome.PENDING),
    ],
)
def test_every_state_of_a_trade_is_understood(
    begun: FakeAlipay, gateway: AlipayGateway, state: str, outcome: Outcome
) -> None:
    notice = gateway.read_callback(begun.notification(REFERENCE, at=AT, trade_status=state))
    assert (notice.reference, notice.outcome) == (REFERENCE, outcome)
    assert (notice.amount == 1234) == (outcome is Outcome.PAID)


def test_a_refund_of_a_part_says_again_that_the_whole_was_paid(paid: FakeAlipay, gateway: AlipayGateway) -> None:
    first = gateway.read_callback(paid.notification(REFERENCE, at=AT))
    told = {"refund_fee": "10.00", "gmt_refund": "2026-05-01 11:59:59.123", "out_biz_no": "R1"}
    assert gateway.read_callback(paid.notification(REFERENCE, at=AT, **told)) == first


def test_money_that_all_went_back_before_we_heard_of_it_is_not_delivered_for(
    paid: FakeAlipay, gateway: AlipayGateway
) -> None:
    told = {"refund_fee": "12.34", "gmt_refund": "2026-05-01 11:59:59.123", "trade_status": "TRADE_CLOSED"}
    assert gateway.read_callback(paid.notification(REFERENCE, at=AT, **told)).outcome is Outcome.CLOSED


def test_a_key_signed_the_wrong_way_round_is_not_believed(
    paid: FakeAlipay, gateway: AlipayGateway, merchant: RSAPrivateKey
) -> None:
    imposter = FakeAlipay(paid.own, merchant)
    imposter.trades = paid.trades
    assert refusal(gateway, imposter.notification(REFERENCE, at=AT)) == ("bad_signature", REFERENCE)


@pytest.mark.parametrize(
    ("added", "code"),
    [
        ({"total_amount": "1234.00"}, "bad_signature"),
        ({"trade_status": "TRADE_FINISHED"}, "bad_signature"),
        ({"out_trade_no": "P7Q2M4X9K2"}, "bad_signature"),
        ({"refund_fee": "0.01"}, "bad_signature"),
        ({"buyer_logon_id": None}, "bad_signature"),
        ({"sign": None}, "bad_signature"),
        ({"sign": ""}, "bad_signature"),
        ({"sign": "AAAA"}, "bad_signature"),
        ({"sign": "not base64 at all é"}, "bad_signature"),
        ({"sign_type": None}, "bad_signature"),
        ({"sign_type": "RSA"}, "bad_signature"),
        ({"sign_type": "MD5"}, "bad_signature"),
        ({"sign_type": "rsa2"}, "bad_signature"),
    ],
)
def test_a_form_changed_after_it_was_signed_is_refused(
    paid: FakeAlipay, gateway: AlipayGateway, added: dict[str, str | None], code: str
) -> None:
    said = dict(parse_qsl(paid.notification(REFERENCE, at=AT).body.decode()))
    del said["sign"], said["sign_type"]
    assert gateway.read_callback(paid.posted(said, at=AT)).outcome is Outcome.PAID
    assert refusal(gateway, paid.posted(said, at=AT, **added))[0] == code


def test_the_old_signature_is_refused_even_when_it_is_right(paid: FakeAlipay, gateway: AlipayGateway) -> None:
    said = dict(parse_qsl(paid.notification(REFERENCE, at=AT).body.decode()))
    del said["sign"], said["sign_type"]
    text = "&".join(f"{name}={said[name]}" for name in sorted(said))
    old = {"sign_type": "RSA", "sign": sign(paid.own, text, is_old=True)}
    assert refusal(gateway, raw(urlencode(said | old).encode(), at=AT)) == ("bad_signature", REFERENCE)


def test_a_parameter_that_comes_twice_is_refused(paid: FakeAlipay, gateway: AlipayGateway) -> None:
    callback = paid.notification(REFERENCE, at=AT)
    for more in (b"&total_amount=12.34", b"&total_amount=0.01", b"&trade_status=TRADE_SUCCESS"):
        assert refusal(gateway, replace(callback, body=callback.body + more))[0] == "malformed"
        assert refusal(gateway, replace(callback, body=more[1:] + b"&" + callback.body))[0] == "malformed"


@pytest.mark.parametrize(
    ("late", "is_taken"),
    [
        (timedelta(seconds=300), True),
        (timedelta(seconds=301), False),
        (timedelta(days=1), False),
        (timedelta(seconds=-300), True),
        (timedelta(seconds=-301), False),
        (timedelta(hours=-8), False),
    ],
)
def test_a_notice_is_believed_for_five_minutes_either_way(
    paid: FakeAlipay, gateway: AlipayGateway, late: timedelta, is_taken: bool
) -> None:
    callback = replace(paid.notification(REFERENCE, at=AT), received_at=AT + late)
    if is_taken:
        assert gateway.read_callback(callback).outcome is Outcome.PAID
    else:
        assert refusal(gateway, callback) == ("stale", REFERENCE)


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"app_id": "2021000123456780"}, "other_merchant"),
        ({"app_id": None}, "other_merchant"),
        ({"seller_id": "2088000000000000"}, "other_merchant"),
        ({"seller_id": None}, "other_merchant"),
        ({"notify_time": None}, "malformed"),
        ({"notify_time": "yesterday"}, "malformed"),
        ({"notify_type": "dut_user_sign"}, "unsupported"),
        ({"trade_status": "TRADE_PENDING"}, "malformed"),
        ({"trade_status": None}, "malformed"),
        ({"trade_no": None}, "malformed"),
        ({"out_trade_no": None}, "malformed"),
        ({"out_trade_no": "somebody's"}, "malformed"),
        ({"total_amount": None}, "malformed"),
        ({"total_amount": "12.345"}, "malformed"),
        ({"total_amount": "1e3"}, "malformed"),
        ({"total_amount": "NaN"}, "malformed"),
    ],
)
def test_a_signed_notice_that_is_not_for_us_or_makes_no_sense_is_refused(
    paid: FakeAlipay, gateway: AlipayGateway, changed: dict[str, str | None], code: str
) -> None:
    assert refusal(gateway, paid.notification(REFERENCE, at=AT, **changed))[0] == code


def test_who_is_paid_is_not_looked_at_when_the_operator_did_not_say(paid: FakeAlipay) -> None:
    gateway = AlipayGateway(paid.settings(seller_id=""))
    assert gateway.read_callback(paid.notification(REFERENCE, at=AT, seller_id="2088000000000000")).amount == 1234


@pytest.mark.parametrize(
    "body",
    [b"", b"garbage", b"\xff\xfe", "付款=1".encode(), b"a=1&&b", b"a=%ff&b=2", b'{"app_id": "1"}', b"&" * 500],
)
def test_what_is_no_form_is_malformed(gateway: AlipayGateway, body: bytes) -> None:
    assert refusal(gateway, raw(body, at=AT)) == ("malformed", "")


def test_a_notice_cut_short_is_refused_wherever_the_cut_is(paid: FakeAlipay, gateway: AlipayGateway) -> None:
    callback = paid.notification(REFERENCE, at=AT)
    for size in range(0, len(callback.body), 37):
        assert refusal(gateway, replace(callback, body=callback.body[:size]))[0] in ("malformed", "bad_signature")


def test_only_a_post_is_a_notice(paid: FakeAlipay, gateway: AlipayGateway) -> None:
    callback = paid.notification(REFERENCE, at=AT)
    assert refusal(gateway, replace(callback, method="GET", query=callback.body.decode()))[0] == "malformed"


@effort(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.one_of(
        st.binary(max_size=200),
        st.dictionaries(
            st.sampled_from(["sign", "sign_type", "app_id", "notify_time", "out_trade_no", "trade_status", "x"]),
            st.one_of(st.text(), st.sampled_from(["RSA2", APP_ID, "2026-05-01 12:00:00", "AAAA"])),
        ).map(lambda said: urlencode(said, errors="surrogatepass").encode()),
    )
)
def test_whatever_is_posted_is_refused_and_nothing_else_goes_wrong(gateway: AlipayGateway, body: bytes) -> None:
    refusal(gateway, raw(body, at=AT))


@effort(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(min_value=0, max_value=10**6), letter=st.sampled_from(b"0189azAZ%&=+-."))
def test_no_letter_of_a_notice_can_be_changed(
    paid: FakeAlipay, gateway: AlipayGateway, place: int, letter: int
) -> None:
    callback = paid.notification(REFERENCE, at=AT)
    changed = bytearray(callback.body)
    changed[place % len(changed)] = letter
    # "%2b" is "%2B": another spelling of the same form is no change.
    if in_one_spelling(bytes(changed)) != in_one_spelling(callback.body):
        refusal(gateway, replace(callback, body=bytes(changed)))


def in_one_spelling(body: bytes) -> list[tuple[str, str | bytes]]:
    """The form's words; the signature by its bytes, for base64 leaves its last bits and its padding unread."""

    def read(name: str, value: str) -> str | bytes:
        if name == "sign":
            with suppress(ValueError):
                return base64.b64decode(value)
        return value

    return [(name, read(name, value)) for name, value in parse_qsl(body.decode(), keep_blank_values=True)]


def test_alipay_hears_the_word_it_looks_for(gateway: AlipayGateway) -> None:
    taken, refused = gateway.answer(is_taken=True), gateway.answer(is_taken=False)
    assert (taken.status, taken.body) == (200, "success")
    assert refused.status >= 400
    assert refused.body == "failure"


# --- which account paid ---


@pytest.mark.parametrize(
    ("said", "payer"),
    [
        ({"buyer_id": "2088102000000001"}, "2088102000000001"),
        ({"buyer_open_id": "01501o8f93I3nJAGB1jG4ONtfPR"}, "01501o8f93I3nJAGB1jG4ONtfPR"),
        ({"buyer_id": "2088102000000001", "buyer_open_id": "01501o8f93I3"}, "2088102000000001"),
        ({"buyer_id": " "}, ""),
        ({}, ""),
    ],
)
def test_a_notice_says_which_account_paid(
    paid: FakeAlipay, gateway: AlipayGateway, said: dict[str, str], payer: str
) -> None:
    notice = gateway.read_callback(paid.notification(REFERENCE, at=AT, **said))
    assert notice.payer == payer
    # In words of its own: transaction ids are digits by chance.
    assert all(value not in repr(notice) for value in said.values() if value.strip()), "it gets into no log"


def test_an_answer_says_which_account_paid_too(paid: FakeAlipay, gateway: AlipayGateway) -> None:
    paid.trades[REFERENCE].payer = {"buyer_user_id": "2088102000000001"}
    assert gateway.query(REFERENCE).payer == "2088102000000001"
    notice = gateway.read_callback(paid.notification(REFERENCE, at=AT, buyer_id="2088102000000001"))
    assert notice.payer == gateway.query(REFERENCE).payer, "both call it the same"


def test_who_paid_is_never_logged(
    paid: FakeAlipay, gateway: AlipayGateway, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    paid.trades[REFERENCE].payer = {"buyer_user_id": "2088102000000001"}
    gateway.query(REFERENCE)
    gateway.read_callback(paid.notification(REFERENCE, at=AT, buyer_id="2088102000000001"))
    refusal(gateway, paid.notification(REFERENCE, at=AT, app_id="1", buyer_id="2088102000000001"))
    assert "2088102000000001" not in caplog.text + "".join(capfd.readouterr())


# --- asking what became of it ---


def test_a_query_tells_what_was_paid(paid: FakeAlipay, gateway: AlipayGateway) -> None:
    assert gateway.query(REFERENCE) == Notice(
        REFERENCE,
        Outcome.PAID,
        transaction_id=paid.trades[REFERENCE].transaction_id,
        amount=1234,
        currency="CNY",
        paid_at=AT,
    )


def test_a_query_tells_of_a_payer_who_has_not_paid_yet(begun: FakeAlipay, gateway: AlipayGateway) -> None:
    assert gateway.query(REFERENCE) == Notice(REFERENCE, Outcome.PENDING)


def test_a_payer_who_has_not_opened_the_page_may_still_do_so(alipay: FakeAlipay, gateway: AlipayGateway) -> None:
    gateway.start(demand())
    assert gateway.query(REFERENCE) == Notice(REFERENCE, Outcome.PENDING)


def test_what_is_closed_is_closed_and_closing_twice_is_fine(begun: FakeAlipay, gateway: AlipayGateway) -> None:
    gateway.close(REFERENCE)
    assert gateway.query(REFERENCE) == Notice(REFERENCE, Outcome.CLOSED)
    gateway.close(REFERENCE)
    assert begun.trades[REFERENCE].state == "TRADE_CLOSED"


def test_what_nobody_opened_needs_no_closing(alipay: FakeAlipay, gateway: AlipayGateway) -> None:
    gateway.close(REFERENCE)
    assert [method for method, _ in alipay.asked] == ["alipay.trade.close"]


def test_what_was_paid_cannot_be_closed(paid: FakeAlipay, gateway: AlipayGateway) -> None:
    with pytest.raises(Rejected) as caught:
        gateway.close(REFERENCE)
    assert caught.value.code == "paid"
    assert paid.trades[REFERENCE].state == "TRADE_SUCCESS"


def test_an_answer_about_another_payment_is_not_believed(
    paid: FakeAlipay, gateway: AlipayGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = paid.act
    monkeypatch.setattr(paid, "act", lambda method, asked: real(method, {**asked, "out_trade_no": REFERENCE}))
    with pytest.raises(Unavailable, match="bad_answer"):
        gateway.query("P7Q2M4X9K2")


# --- giving money back ---


def test_money_is_given_back_once_however_often_it_is_asked_for(paid: FakeAlipay, gateway: AlipayGateway) -> None:
    first = gateway.refund(refund_demand(paid))
    again = gateway.refund(refund_demand(paid))
    assert first.is_final
    assert again.is_final
    assert paid.trades[REFERENCE].refunds == {"R1": 1000}
    assert gateway.refund(refund_demand(paid, refund_reference="R2", amount=234)).is_final
    assert paid.trades[REFERENCE].refunds == {"R1": 1000, "R2": 234}
    assert paid.asked[0][1]["refund_amount"] == "10.00"


def test_a_refund_that_takes_its_time_is_not_final_until_it_is(paid: FakeAlipay, gateway: AlipayGateway) -> None:
    paid.refund_answer = "N"
    assert not gateway.refund(refund_demand(paid)).is_final
    paid.refund_answer = "Y"
    assert gateway.refund(refund_demand(paid)).is_final
    assert paid.trades[REFERENCE].refunds == {"R1": 1000}


def test_a_refund_of_what_was_never_paid_is_rejected(begun: FakeAlipay, gateway: AlipayGateway) -> None:
    with pytest.raises(Rejected) as caught:
        gateway.refund(refund_demand(begun))
    assert (caught.value.code, caught.value.detail) == ("ACQ.TRADE_STATUS_ERROR", "交易状态不合法")


def test_an_account_without_money_is_for_a_person_to_look_at(paid: FakeAlipay, gateway: AlipayGateway) -> None:
    paid.refusal = ("ACQ.SELLER_BALANCE_NOT_ENOUGH", "卖家余额不足")
    with pytest.raises(Rejected, match=r"ACQ\.SELLER_BALANCE_NOT_ENOUGH"):
        gateway.refund(refund_demand(paid))


# --- when it goes wrong ---

ASK: list[Callable[[AlipayGateway, FakeAlipay], object]] = [
    lambda gateway, alipay: gateway.query(REFERENCE),
    lambda gateway, alipay: gateway.close(REFERENCE),
    lambda gateway, alipay: gateway.refund(refund_demand(alipay)),
    lambda gateway, alipay: AlipayGateway(alipay.settings(mode="qr")).start(demand()),
]
each_question = pytest.mark.parametrize("ask", ASK, ids=["query", "close", "refund", "start"])


@each_question
@pytest.mark.parametrize(
    ("mood", "code"),
    [
        ("500", "status_500"),
        ("garbage", "bad_answer"),
        ("bad_signature", "bad_signature"),
        ("unsigned", "bad_signature"),
        ("hangs", "timeout"),
    ],
)
def test_trouble_on_the_way_means_to_try_again(
    begun: FakeAlipay,
    gateway: AlipayGateway,
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable[[AlipayGateway, FakeAlipay], object],
    mood: str,
    code: str,
) -> None:
    if mood == "hangs":
        monkeypatch.setattr(wire, "SECONDS", 0.2)
    begun.mood = mood
    begun.trades[REFERENCE].state = "TRADE_SUCCESS"
    with pytest.raises(Unavailable) as caught:
        ask(gateway, begun)
    assert caught.value.code == code


def test_nobody_there_means_to_try_again(alipay: FakeAlipay) -> None:
    gateway = AlipayGateway(alipay.settings(gateway_url=f"{nobody()}/gateway.do"))
    with pytest.raises(Unavailable) as caught:
        gateway.query(REFERENCE)
    assert caught.value.code == "unreachable"


@each_question
@pytest.mark.parametrize("code", ["ACQ.SYSTEM_ERROR", "isp.unknow-error"])
def test_alipays_own_trouble_means_to_try_again(
    begun: FakeAlipay, gateway: AlipayGateway, ask: Callable[[AlipayGateway, FakeAlipay], object], code: str
) -> None:
    begun.refusal = (code, "系统繁忙")
    with pytest.raises(Unavailable) as caught:
        ask(gateway, begun)
    assert caught.value.code == code


@each_question
def test_a_no_is_a_no(
    begun: FakeAlipay, gateway: AlipayGateway, ask: Callable[[AlipayGateway, FakeAlipay], object]
) -> None:
    begun.refusal = ("ACQ.INVALID_PARAMETER", "参数无效")
    with pytest.raises(Rejected) as caught:
        ask(gateway, begun)
    assert (caught.value.code, caught.value.detail) == ("ACQ.INVALID_PARAMETER", "参数无效")


def test_an_unsigned_word_that_there_is_no_such_trade_is_not_believed(
    alipay: FakeAlipay, gateway: AlipayGateway
) -> None:
    alipay.mood = "unsigned"
    for ask in (gateway.query, gateway.close):
        with pytest.raises(Unavailable, match="bad_signature"):
            ask(REFERENCE)


def test_alipay_tells_an_application_with_the_wrong_key_so(alipay: FakeAlipay) -> None:
    with pytest.raises(Rejected) as caught:
        AlipayGateway(alipay.settings(app_private_key=private_pem(new_key()))).query(REFERENCE)
    assert caught.value.code == "isv.invalid-signature"


def test_a_proxy_in_the_environment_is_not_used(
    paid: FakeAlipay, gateway: AlipayGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert gateway.query(REFERENCE).outcome is Outcome.PAID


def test_no_key_is_ever_logged(
    paid: FakeAlipay, gateway: AlipayGateway, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    gateway.query(REFERENCE)
    gateway.refund(refund_demand(paid))
    refusal(gateway, paid.notification(REFERENCE, at=AT, app_id="1"))
    seen = caplog.text + "".join(capfd.readouterr())
    key = bare(private_pem(paid.merchant))
    assert not any(key[place : place + 40] in seen for place in range(0, len(key) - 40, 40))


# --- settings ---


@pytest.mark.parametrize(
    "written",
    [
        private_pem,
        lambda key: private_pem(key, PrivateFormat.TraditionalOpenSSL),
        lambda key: bare(private_pem(key)),
        lambda key: bare(private_pem(key, PrivateFormat.TraditionalOpenSSL)),
        lambda key: private_pem(key).replace("\n", "\\n"),
        lambda key: private_pem(key).replace("\n", " "),
        lambda key: "\r\n  " + private_pem(key).replace("\n", "\r\n"),
    ],
    ids=["pkcs8", "pkcs1", "bare pkcs8", "bare pkcs1", "escaped", "one line", "windows"],
)
def test_keys_are_read_however_they_were_pasted(
    alipay: FakeAlipay, merchant: RSAPrivateKey, own: RSAPrivateKey, written: Callable[[RSAPrivateKey], str]
) -> None:
    gateway = AlipayGateway(alipay.settings(app_private_key=written(merchant), alipay_public_key=bare(public_pem(own))))
    alipay.open(gateway.start(demand()).redirect_url)
    assert gateway.query(REFERENCE).outcome is Outcome.PENDING


def locked(key: RSAPrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")).decode()


def elliptic() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (lambda a: {"app_id": ""}, "“App ID” is missing"),
        (lambda a: {"app_id": "my app"}, "“App ID” has only digits"),
        (lambda a: {"seller_id": "me@example.com"}, "“Seller ID” has only digits"),
        (lambda a: {"mode": "fax"}, "“page” or “qr”"),
        (lambda a: {"gateway_url": "ftp://example.com"}, "web address"),
        (lambda a: {"gateway_url": "http://example.com/gateway.do"}, "https"),
        (lambda a: {"app_private_key": ""}, "“Application private key” is missing"),
        (lambda a: {"app_private_key": "hunter2!"}, "is not a key"),
        (lambda a: {"app_private_key": "aGVsbG8="}, "not a private key that can be read"),
        (lambda a: {"app_private_key": private_pem(a.merchant)[:400]}, "is not a key"),
        (lambda a: {"app_private_key": public_pem(a.merchant)}, "must be a private key"),
        (lambda a: {"app_private_key": locked(a.merchant)}, "locked with a password"),
        (lambda a: {"app_private_key": elliptic()}, "not an RSA key"),
        (lambda a: {"app_private_key": private_pem(new_key(1024))}, "2048 bits"),
        (lambda a: {"alipay_public_key": private_pem(a.own)}, "must be a public key"),
        (lambda a: {"alipay_public_key": public_pem(a.merchant)}, "belongs to your own private key"),
        (
            lambda a: {"alipay_public_key": "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----"},
            "is a certificate",
        ),
        (lambda a: {"alipay_public_key": "aGVsbG8="}, "not a public key that can be read"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_words(
    alipay: FakeAlipay, changed: Callable[[FakeAlipay], dict[str, str]], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        AlipayGateway(alipay.settings(**changed(alipay)))
    assert "hunter2" not in str(caught.value)
    assert alipay.asked == []


def test_what_we_ask_is_json_that_any_encoding_carries(paid: FakeAlipay, gateway: AlipayGateway) -> None:
    gateway.refund(refund_demand(paid, reason="不要了"))
    asked = paid.asked[0][1]
    assert asked["refund_reason"] == "不要了"
    assert asked["biz_content"].isascii()
    assert json.loads(asked["biz_content"])["out_request_no"] == "R1"
