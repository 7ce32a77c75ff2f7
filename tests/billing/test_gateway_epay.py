"""EPay (易支付): real signatures made here, a site on this machine, and everything that may be wrong with either."""

from __future__ import annotations

import hashlib
import logging
import threading
import traceback
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlencode, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.gateways import epay
from billing.gateways.base import (
    CallbackRefused,
    Demand,
    Gateway,
    GatewayFailure,
    Notice,
    Outcome,
    RawCallback,
    RefundDemand,
    Rejected,
    Unavailable,
)
from billing.gateways.epay import EpayGateway
from tests.billing.fake_site import Answer, Asked, Site, nobody, standing

KEY = "k3yThatNobodyMaySee0123456789abc"
PID = "1001"
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
REFERENCE = "P7Q2X9"


def gateway(url: str = "https://pay.example.com/", **settings: str) -> EpayGateway:
    return EpayGateway({"api_url": url, "pid": PID, "key": KEY, **settings})


def sign(parameters: dict[str, str], key: str = KEY) -> str:
    """As the protocol's page has it, written anew."""
    names = sorted(name for name in parameters if parameters[name] and name not in ("sign", "sign_type"))
    return hashlib.md5(("&".join(f"{name}={parameters[name]}" for name in names) + key).encode()).hexdigest()


def notice(**changed: str) -> dict[str, str]:
    """As 彩虹易支付 sends it, not signed yet; "-" leaves a parameter out."""
    parameters = {
        "pid": PID,
        "trade_no": "2026110112000012345",
        "out_trade_no": REFERENCE,
        "type": "alipay",
        "name": "私有中继 一个月",
        "money": "12.30",
        "trade_status": "TRADE_SUCCESS",
        **changed,
    }
    return {name: value for name, value in parameters.items() if value != "-"}


def called(
    parameters: dict[str, str], *, signature: str | None = None, sign_type: str = "MD5", by: str = "GET"
) -> RawCallback:
    return raw(urlencode({**parameters, "sign": signature or sign(parameters), "sign_type": sign_type}), by=by)


def raw(text: str, *, by: str = "GET", headers: dict[str, str] | None = None) -> RawCallback:
    if by == "GET":
        return RawCallback("GET", headers or {}, b"", text, NOW)
    form = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    return RawCallback(by, form if headers is None else headers, text.encode(), "", NOW)


def refused(callback: RawCallback, *, on: Gateway | None = None) -> CallbackRefused:
    with pytest.raises(CallbackRefused) as refusal:
        (on or gateway()).read_callback(callback)
    return refusal.value


PAID = Notice(REFERENCE, Outcome.PAID, "2026110112000012345", 1230, "CNY")


@pytest.mark.parametrize("by", ["GET", "POST"])
def test_a_signed_notice_is_believed(by: str) -> None:
    assert gateway().read_callback(called(notice(), by=by)) == PAID


def test_a_known_signature_of_the_protocol_is_the_same() -> None:
    """Computed with md5sum(1), so that the test's own signing is not the only witness."""
    link = {"pid": "1001", "money": "1.00", "name": "VIP会员", "out_trade_no": "20160806151343349", "param": ""}
    assert sign(link) == "7a72faf860cfbe1720cd14b133c9ded9"


def test_the_order_of_parameters_does_not_matter_and_empty_ones_are_not_signed() -> None:
    parameters = notice(param="", buyer="张三 +86 138")
    signature = sign({name: value for name, value in parameters.items() if value})
    for ordered in (parameters, dict(sorted(parameters.items())), dict(sorted(parameters.items(), reverse=True))):
        assert gateway().read_callback(called(ordered, signature=signature)) == replace(PAID, payer="张三 +86 138")


def test_a_site_that_says_who_paid_is_heard_in_notices_and_in_answers(there: Epay, site: Site) -> None:
    assert gateway().read_callback(called(notice(buyer="2088102000000001"))).payer == "2088102000000001"
    assert gateway().read_callback(called(notice())).payer == ""
    there.order(buyer=2088102000000001)
    assert gateway(site.url).query(REFERENCE).payer == "2088102000000001"
    forged = urlencode(notice(buyer="2088102000000002") | {"sign": sign(notice()), "sign_type": "MD5"})
    assert refused(raw(forged)).code == "bad_signature", "it is one of the signed words"


def test_names_are_read_as_php_writes_them() -> None:
    parameters = notice(name="relay 中继 ~ * ( )")
    text = "&".join(f"{name}={quote_plus(value, safe='')}" for name, value in parameters.items())
    assert "relay+" in text
    assert gateway().read_callback(raw(f"{text}&sign={sign(parameters)}&sign_type=MD5")) == PAID


@pytest.mark.parametrize("changed", [{"money": "0.01"}, {"out_trade_no": "OTHER1"}, {"name": "x"}, {"extra": "1"}])
def test_a_changed_notice_is_refused(changed: dict[str, str]) -> None:
    refusal = refused(called({**notice(), **changed}, signature=sign(notice())))
    assert refusal.code == "bad_signature"
    assert refusal.reference == changed.get("out_trade_no", REFERENCE)


def test_a_notice_signed_with_another_key_is_refused() -> None:
    assert refused(called(notice(), signature=sign(notice(), "another" + KEY))).code == "bad_signature"
    assert refused(called(notice(), signature=sign(notice()).upper())).code == "bad_signature"
    assert refused(called(notice(), signature="签名")).code == "bad_signature"


def test_a_parameter_left_out_after_signing_is_refused() -> None:
    whole = notice()
    assert refused(called(notice(type="-"), signature=sign(whole))).code == "bad_signature"


@pytest.mark.parametrize("name", ["pid", "trade_no", "out_trade_no", "money", "trade_status"])
@pytest.mark.parametrize("value", ["-", ""])
def test_a_notice_without_what_is_needed_is_refused(name: str, value: str) -> None:
    assert refused(called(notice(**{name: value}))).code == "malformed"


@pytest.mark.parametrize("sign_type", ["", "md5", "RSA", "MD5 "])
def test_only_md5_by_its_very_name_is_a_signature(sign_type: str) -> None:
    assert refused(called(notice(), sign_type=sign_type)).code == "malformed"


@pytest.mark.parametrize("name", ["money", "out_trade_no", "sign", "sign_type", "name", "else"])
@pytest.mark.parametrize("by", ["GET", "POST"])
def test_a_parameter_given_twice_is_refused(name: str, by: str) -> None:
    whole = urlencode({**notice(**{"else": "1"}), "sign": sign(notice(**{"else": "1"})), "sign_type": "MD5"})
    again = urlencode({name: dict(parse_qsl(whole))[name]})
    for text in (f"{whole}&{again}", f"{again}&{whole}", f"{whole}&{again.replace('=', '=9', 1)}"):
        assert refused(raw(text, by=by)).code == "malformed"


def test_a_notice_for_another_merchant_is_refused() -> None:
    assert refused(called(notice(pid="1002"))).code == "other_merchant"


@pytest.mark.parametrize(
    "money", ["0", "0.00", "-1.00", "+1", "1.005", "1e3", "1,00", "12.3.4", "١٢", "12.30 ", "NaN", "9" * 30, "1.", ".5"]
)
def test_money_that_is_no_plain_amount_is_refused(money: str) -> None:
    assert refused(called(notice(money=money))).code == "malformed"


@pytest.mark.parametrize(("money", "minor"), [("12.3", 1230), ("12", 1200), ("12.300", 1230), ("0.01", 1)])
def test_money_is_exact(money: str, minor: int) -> None:
    assert gateway().read_callback(called(notice(money=money))).amount == minor


@pytest.mark.parametrize("status", ["TRADE_CLOSED", "WAIT_BUYER_PAY", "trade_success", "TRADE_SUCCESS "])
def test_any_other_status_is_pending(status: str) -> None:
    assert gateway().read_callback(called(notice(trade_status=status))) == Notice(REFERENCE, Outcome.PENDING)


@pytest.mark.parametrize("reference", ["p7q2x9", "A" * 33, "A-B", "订单"])
def test_a_reference_that_is_none_of_ours_is_refused(reference: str) -> None:
    refusal = refused(called(notice(out_trade_no=reference)))
    assert (refusal.code, refusal.reference) == ("malformed", "")


@pytest.mark.parametrize(
    "callback",
    [
        raw(""),
        raw("&&&"),
        raw("%ff%fe=1"),
        raw("pid"),
        raw("a=1&" * 60 + "b=2"),
        raw("a=" + "x" * 20_000),
        raw("名=1"),
        raw("\ud800=1"),
        raw("{}", by="POST", headers={"content-type": "application/json"}),
        raw("a=1", by="POST", headers={}),
        raw("a=1", by="PUT"),
        RawCallback("POST", {"content-type": "application/x-www-form-urlencoded"}, b"\xff\x00", "", NOW),
    ],
)
def test_garbage_is_refused(callback: RawCallback) -> None:
    refusal = refused(callback)
    assert (refusal.code, refusal.reference) == ("malformed", "")


def test_a_form_beside_a_query_is_refused() -> None:
    good = called(notice(), by="POST")
    assert refused(RawCallback("POST", good.headers, good.body, "gateway=3", NOW)).code == "malformed"


def test_a_link_cannot_be_cut_into_a_notice() -> None:
    """What the payer can have signed is the link. Its text, cut elsewhere, is a notice with the same signature."""
    subject = f"x&out_trade_no={REFERENCE}&pid={PID}&trade_no=1&trade_status=TRADE_SUCCESS&zz=1"
    link = {
        "money": "0.01",
        "name": subject,
        "notify_url": "https://portal.example/n",
        "out_trade_no": "CHEAP1",
        "pid": PID,
        "return_url": "https://portal.example/r",
    }
    signature = sign(link)
    cut = {
        "money": "0.01",
        "name": "x",
        "out_trade_no": REFERENCE,
        "pid": PID,
        "trade_no": "1",
        "trade_status": "TRADE_SUCCESS",
        "zz": "1&notify_url=https://portal.example/n&out_trade_no=CHEAP1&pid=1001&return_url=https://portal.example/r",
    }
    assert sign(cut) == signature, "so it is to be refused for another reason"
    assert refused(called(cut, signature=signature)).code == "malformed"
    renamed = {name: value for name, value in cut.items() if name != "zz"} | {"zz=1&notify_url": "x"}
    assert refused(called(renamed)).code == "malformed"
    assert "&" not in dict(parse_qsl(urlsplit(gateway().start(demand(subject=subject)).redirect_url).query))["name"]


TEXTS = st.text(max_size=40)
NAMES = st.sampled_from([*notice(), "sign", "sign_type"]) | TEXTS


@given(
    st.sampled_from(["GET", "POST", "HEAD", ""]),
    st.dictionaries(st.sampled_from(["content-type", "x"]), TEXTS, max_size=2),
    st.binary(max_size=200),
    TEXTS | st.lists(st.tuples(NAMES, TEXTS)).map(lambda pairs: urlencode(pairs, errors="ignore")),
)
def test_no_input_does_more_than_be_refused(method: str, headers: dict[str, str], body: bytes, query: str) -> None:
    with pytest.raises(CallbackRefused):
        gateway().read_callback(RawCallback(method, headers, body, query, NOW))


@given(st.dictionaries(NAMES, TEXTS), st.sampled_from(["GET", "POST"]))
def test_nothing_that_is_really_signed_does_more_than_be_read_or_refused(extra: dict[str, str], by: str) -> None:
    encodable = {
        name.encode(errors="ignore").decode(): value.encode(errors="ignore").decode() for name, value in extra.items()
    }
    try:
        said = gateway().read_callback(called({**notice(), **encodable}, by=by))
    except CallbackRefused:
        return
    assert said.reference == {**notice(), **encodable}["out_trade_no"]


def demand(**changed: Any) -> Demand:
    fields: dict[str, Any] = {
        "reference": REFERENCE,
        "amount": 1230,
        "currency": "CNY",
        "subject": "私有中继",
        "expires_at": NOW + timedelta(hours=1),
        "return_url": f"https://portal.example/pay/{REFERENCE}",
        "notify_url": "https://portal.example/pay/callback/epay",
    }
    return Demand(**(fields | changed))


@pytest.mark.parametrize(
    "url", ["https://pay.example.com", "https://pay.example.com/", "https://pay.example.com/submit.php"]
)
def test_the_payer_is_sent_to_a_signed_link(url: str) -> None:
    opened = gateway(url, pay_type="wxpay").start(demand())
    assert (opened.qr_text, opened.gateway_id) == ("", "")
    assert opened.redirect_url.startswith("https://pay.example.com/submit.php?")
    sent = dict(parse_qsl(urlsplit(opened.redirect_url).query, strict_parsing=True))
    assert sent.pop("sign_type") == "MD5"
    assert sent.pop("sign") == sign(sent)
    assert sent == {
        "pid": PID,
        "type": "wxpay",
        "out_trade_no": REFERENCE,
        "notify_url": "https://portal.example/pay/callback/epay",
        "return_url": f"https://portal.example/pay/{REFERENCE}",
        "name": "私有中继",
        "money": "12.30",
    }
    assert KEY not in opened.redirect_url


def test_without_a_way_to_pay_the_payer_chooses() -> None:
    assert "type" not in dict(parse_qsl(urlsplit(gateway().start(demand()).redirect_url).query))


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("a&b=c", "a b c"),
        ('Alice\'s <b>"relay"</b>\n\t + 1', "Alice s b relay /b 1"),
        ("中" * 60, "中" * 42),
        ("&&&", REFERENCE),
        ("", REFERENCE),
    ],
)
def test_names_that_sites_stumble_over_are_made_plain(subject: str, name: str) -> None:
    sent = dict(parse_qsl(urlsplit(gateway().start(demand(subject=subject)).redirect_url).query))
    assert sent["name"] == name


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"currency": "USD"}, "currency"),
        ({"amount": 0}, "amount"),
        ({"notify_url": "https://portal.example/n?gateway=3"}, "address"),
        ({"return_url": "https://portal.example/r?a=1&b=2"}, "address"),
    ],
)
def test_what_cannot_be_asked_for_is_rejected(changed: dict[str, Any], code: str) -> None:
    with pytest.raises(Rejected) as refusal:
        gateway().start(demand(**changed))
    assert refusal.value.code == code


class Epay:
    """What 彩虹易支付's `api.php` answers, as its source has it."""

    def __init__(self) -> None:
        self.orders: dict[str, dict[str, Any]] = {}
        self.refunds: list[str] = []
        self.may_refund = True
        self.refund_answer: Answer | None = None

    def order(self, **changed: Any) -> None:
        self.orders[REFERENCE] = {
            "code": 1,
            "msg": "succ",
            "trade_no": "2026110112000012345",
            "out_trade_no": REFERENCE,
            "api_trade_no": "4200001234",
            "type": "alipay",
            "pid": PID,
            "addtime": "2026-11-01 12:00:00",
            "endtime": "2026-11-01 12:01:00",
            "name": "私有中继",
            "money": "12.30",
            "param": "",
            "buyer": None,
            "status": "1",
            "payurl": None,
            **changed,
        }

    def __call__(self, asked: Asked) -> Answer:
        assert asked.path == "/api.php"
        given = asked.query | asked.form
        if given["pid"] != PID or given["key"] != KEY:
            return 200, {"code": -3, "msg": f"商户密钥错误 {given['key']}"}
        if asked.query["act"] == "order":
            assert asked.method == "GET"
            return 200, self.orders.get(given["out_trade_no"], {"code": -1, "msg": "订单号不存在"})
        assert (asked.method, asked.query) == ("POST", {"act": "refund"})
        if not self.may_refund:
            return 200, {"code": -2, "msg": "商户未开启订单退款API接口"}
        self.refunds.append(given["money"])
        if given["money"] == self.orders[REFERENCE]["money"]:
            self.orders[REFERENCE]["status"] = "2"
        return self.refund_answer or (200, {"code": 0, "msg": f"退款成功！退款金额￥{given['money']}"})


@pytest.fixture
def there() -> Epay:
    return Epay()


@pytest.fixture
def site(there: Epay) -> Iterator[Site]:
    with standing(there) as site:
        yield site


@pytest.fixture(params=[str, int])
def written(request: pytest.FixtureRequest) -> type:
    """Versions write their numbers as text, or as numbers."""
    kind: type = request.param
    return kind


def test_a_paid_order_is_paid_however_numbers_are_written(there: Epay, site: Site, written: type) -> None:
    there.order(status=written(1), pid=written(PID), code=written(1))
    assert gateway(site.url).query(REFERENCE) == PAID


def test_money_as_a_number_is_exact(there: Epay, site: Site) -> None:
    there.order(money=12.3)
    assert gateway(site.url).query(REFERENCE) == PAID


@pytest.mark.parametrize(("status", "outcome"), [(0, "pending"), (3, "pending"), (None, "pending"), ("2", "closed")])
def test_an_order_that_is_not_paid_is_not(there: Epay, site: Site, status: Any, outcome: str) -> None:
    there.order(status=status)
    assert gateway(site.url).query(REFERENCE) == Notice(REFERENCE, Outcome(outcome))


def test_an_order_that_epay_does_not_know_is_pending(site: Site) -> None:
    assert gateway(site.url).query(REFERENCE) == Notice(REFERENCE, Outcome.PENDING)


@pytest.mark.parametrize("changed", [{"pid": "1002"}, {"out_trade_no": "OTHER1"}, {"pid": None}, {"out_trade_no": ""}])
def test_an_answer_about_another_order_is_not_believed(there: Epay, site: Site, changed: dict[str, Any]) -> None:
    there.order(**changed)
    with pytest.raises(Rejected) as refusal:
        gateway(site.url).query(REFERENCE)
    assert refusal.value.code == "other_payment"


@pytest.mark.parametrize("changed", [{"money": "1.005"}, {"money": None}, {"money": 1e9}, {"trade_no": "a b"}])
def test_a_paid_order_that_makes_no_sense_is_for_a_person(there: Epay, site: Site, changed: dict[str, Any]) -> None:
    there.order(**changed)
    if changed.get("money") == 1e9:
        assert gateway(site.url).query(REFERENCE).amount == 100_000_000_000
        return
    with pytest.raises(Rejected) as refusal:
        gateway(site.url).query(REFERENCE)
    assert refusal.value.code == "bad_answer"


def test_an_answer_with_a_byte_order_mark_is_read(there: Epay, site: Site) -> None:
    site.broken = (200, "\ufeff" + '{"code":-1,"msg":"订单号不存在"}')
    assert gateway(site.url).query(REFERENCE).outcome is Outcome.PENDING


def test_a_wrong_key_is_for_a_person_and_is_never_said(
    there: Epay, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="httpx")
    wrong = "w" + KEY
    with pytest.raises(Rejected) as refusal:
        gateway(site.url, key=wrong).query(REFERENCE)
    assert refusal.value.code == "denied"
    assert "商户密钥错误" in refusal.value.detail
    assert_unsaid(refusal.value, wrong, caplog)


def assert_unsaid(failure: BaseException, key: str, caplog: pytest.LogCaptureFixture) -> None:
    told = "".join(traceback.format_exception(failure)) + caplog.text
    told += "".join(str(record.args) for record in caplog.records)
    seen: BaseException | None = failure
    while seen is not None:
        told += repr(seen) + str(getattr(seen, "_request", ""))
        seen = seen.__cause__ or seen.__context__
    assert key not in told


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((500, "oops"), "failing"),
        ((502, "<html>"), "failing"),
        ((429, ""), "failing"),
        ((200, "<html>Checking your browser</html>"), "bad_answer"),
        ((200, "[]"), "bad_answer"),
        ((200, ""), "bad_answer"),
        ((200, "[" * 100_000), "bad_answer"),
        ((200, '{"code": ' + "1" * 5000 + "}"), "bad_answer"),
        ((200, " " * 300_000), "no_answer"),
    ],
)
def test_a_site_that_fails_is_asked_again_later(
    site: Site, answer: Answer, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    site.broken = answer
    with pytest.raises(Unavailable) as failure:
        gateway(site.url).query(REFERENCE)
    assert failure.value.code == code
    assert_unsaid(failure.value, KEY, caplog)


@pytest.mark.parametrize("status", [301, 302, 307, 403, 404])
def test_an_address_where_there_is_no_such_thing_is_for_a_person(site: Site, status: int) -> None:
    site.broken = (status, "")
    with pytest.raises(Rejected) as refusal:
        gateway(site.url).query(REFERENCE)
    assert refusal.value.code == "wrong_address"
    assert len(site.asked) == 1, "a redirect would carry the key elsewhere"


def test_nobody_at_the_address_is_asked_again_later(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(Unavailable) as failure:
        gateway(nobody()).query(REFERENCE)
    assert failure.value.code == "unreachable"
    assert_unsaid(failure.value, KEY, caplog)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epay, "SECONDS", 0.3)


@pytest.mark.usefixtures("impatient")
def test_a_silent_site_is_asked_again_later(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    site.hold = threading.Event()
    with pytest.raises(Unavailable) as failure:
        gateway(site.url).query(REFERENCE)
    assert failure.value.code == "no_answer"
    assert_unsaid(failure.value, KEY, caplog)


def test_the_environment_names_no_proxy(site: Site, there: Epay, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, nobody())
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    there.order()
    assert gateway(site.url).query(REFERENCE) == PAID


def back(amount: int = 1230, **changed: Any) -> RefundDemand:
    fields: dict[str, Any] = {
        "reference": REFERENCE,
        "transaction_id": "2026110112000012345",
        "paid_amount": 1230,
        "currency": "CNY",
    }
    return RefundDemand(refund_reference="F1", amount=amount, **(fields | changed))


def test_a_whole_payment_is_given_back_once_however_often_it_is_asked_for(there: Epay, site: Site) -> None:
    there.order()
    for _ in range(3):
        assert gateway(site.url).refund(back()).is_final
    assert there.refunds == ["12.30"]
    assert KEY not in str([asked.query for asked in site.asked if asked.method == "POST"])


def test_a_part_is_given_back(there: Epay, site: Site) -> None:
    there.order()
    there.refund_answer = (200, {"code": "1", "msg": "退款成功"})
    assert gateway(site.url).refund(back(200)).is_final
    assert there.refunds == ["2.00"]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"code": -2, "msg": "商户未开启订单退款API接口"}, "not_supported"),
        ({"code": -4, "msg": "未开启商户后台自助退款"}, "not_supported"),
        ({"code": -5, "msg": "No Act!"}, "not_supported"),
        ({"code": -1, "msg": "该通道不支持退款"}, "not_supported"),
        ({"code": 0, "msg": "refund is not supported"}, "not_supported"),
        ({"code": -1, "msg": "余额不足"}, "refused"),
        ({"code": 0, "msg": ""}, "refused"),
        ({}, "refused"),
        ({"code": -3, "msg": "商户密钥错误"}, "denied"),
    ],
)
def test_a_refund_that_is_refused_is_for_a_person(there: Epay, site: Site, answer: dict[str, Any], code: str) -> None:
    there.order()
    there.refund_answer = (200, answer)
    with pytest.raises(Rejected) as refusal:
        gateway(site.url).refund(back(200))
    assert (refusal.value.code, refusal.value.detail) == (code, answer.get("msg", ""))


@pytest.mark.parametrize("answer", [(500, ""), (200, "<html>")])
def test_a_whole_refund_in_doubt_is_asked_for_again_and_a_part_is_not(
    there: Epay, site: Site, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    there.order()
    there.refund_answer = answer
    with pytest.raises(Rejected) as refusal:
        gateway(site.url).refund(back(200))
    assert refusal.value.code == "unclear"
    assert_unsaid(refusal.value, KEY, caplog)
    with pytest.raises(Unavailable):
        gateway(site.url).refund(back())
    assert gateway(site.url).refund(back()).is_final, "it had gone through after all"
    assert there.refunds == ["2.00", "12.30"]


def test_a_refund_that_never_got_there_is_asked_for_again() -> None:
    with pytest.raises(Unavailable) as failure:
        gateway(nobody()).refund(back(200))
    assert failure.value.code == "unreachable"


@pytest.mark.parametrize(
    "changed", [{"currency": "USD"}, {"transaction_id": ""}, {"transaction_id": "a b"}, {"paid_amount": 1}]
)
def test_a_refund_that_cannot_be_is_rejected_unasked(site: Site, changed: dict[str, Any]) -> None:
    with pytest.raises(Rejected):
        gateway(site.url).refund(back(**changed))
    assert not site.asked


def test_closing_does_nothing_and_answers_are_words(site: Site) -> None:
    epay_gateway: Gateway = gateway(site.url)
    epay_gateway.close(REFERENCE)
    assert not site.asked
    assert (epay_gateway.answer(is_taken=True).body, epay_gateway.answer(is_taken=False).body) == ("success", "fail")


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"api_url": ""}, "missing"),
        ({"api_url": "pay.example.com"}, "address"),
        ({"api_url": "http://pay.example.com"}, "https"),
        ({"api_url": "https://pay.example.com/?a=b"}, "https"),
        ({"api_url": "ftp://pay.example.com/"}, "address"),
        ({"pid": ""}, "missing"),
        ({"pid": "a&b"}, "number"),
        ({"key": " "}, "missing"),
        ({"key": "short"}, "at least 16"),
        ({"key": "密钥" * 20}, "at least 16"),
        ({"key": "-----BEGIN PRIVATE KEY-----"}, "RSA"),
        ({"key": "MIIE" * 100}, "RSA"),
        ({"pay_type": "Alipay "}, "word"),
        ({"pay_type": "a&b"}, "word"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_words(changed: dict[str, str], word: str) -> None:
    with pytest.raises(ValueError, match=word) as refusal:
        EpayGateway({"api_url": "https://pay.example.com", "pid": PID, "key": KEY} | changed)
    assert not isinstance(refusal.value, GatewayFailure)
    assert len(changed.get("key", "")) < 17 or changed["key"] not in str(refusal.value)


def test_only_the_key_is_a_secret() -> None:
    assert [field.name for field in EpayGateway.fields if field.is_secret] == ["key"]
