"""Alipay: a page to pay on (or, on a phone, a page that opens the app), or a code to scan. Signed with RSA2, both ways.

The SDK signs and verifies. Its HTTP is not used: it takes proxies from the environment, has no end of time for an
answer as a whole, and puts everything asked into the address.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from json import JSONDecoder
from typing import Any, ClassVar
from urllib.parse import parse_qsl

from alipay import AliPay
from alipay.exceptions import AliPayException, AliPayValidationError
from django.utils.functional import Promise
from django.utils.translation import gettext, gettext_lazy

from billing.gateways import wire
from billing.gateways.base import (
    CallbackAnswer,
    CallbackRefused,
    Demand,
    Notice,
    Opened,
    Outcome,
    RawCallback,
    RefundAnswer,
    RefundDemand,
    Rejected,
    SettingField,
    Unavailable,
)
from derp_portal.lib.money import to_minor, to_text

GATEWAY = "https://openapi.alipay.com/gateway.do"
CURRENCY = "CNY"
MOST_PARAMETERS = 100
MODES = ("page", "qr")

_TIME = "%Y-%m-%d %H:%M:%S"
_DONE = "10000"
_NO_SUCH_TRADE = "ACQ.TRADE_NOT_EXIST"
_COME_BACK = ("20000", "40005")
"""Service not available; called too often."""
_NOT_IN_SUBJECTS = str.maketrans(dict.fromkeys("/=&{}<>\\\r\n\t", " "))
_PAYER = ("buyer_id", "buyer_user_id", "buyer_open_id")
"""The account's number (a notice and an answer call it differently), or what newer applications are told in its place:
a name of the account that is this application's own. `buyer_logon_id` is masked and may change hands.
"""
_OUTCOMES = {
    "WAIT_BUYER_PAY": Outcome.PENDING,
    "TRADE_SUCCESS": Outcome.PAID,
    # A year on: it was paid, and can no longer be refunded.
    "TRADE_FINISHED": Outcome.PAID,
    # Either nobody paid in time, or all of it went back. Then the money is not ours: if we have booked the payment, a
    # close changes nothing about it, and if we have not (our notices got lost, and somebody refunded at Alipay), it
    # must not be delivered for. What was refunded in part only stays TRADE_SUCCESS.
    "TRADE_CLOSED": Outcome.CLOSED,
}


class _Sdk(AliPay):
    def __init__(self, *, app_id: str, private_pem: str, public_pem: str, gateway_url: str) -> None:
        super().__init__(
            appid=app_id,
            app_private_key_string=private_pem,
            alipay_public_key_string=public_pem,
            sign_type="RSA2",
        )
        self._gateway = gateway_url

    def build_body(self, method: str, biz_content: Any = None, **kwargs: Any) -> dict[str, Any]:
        # The SDK writes this machine's own time; Alipay reads it as China's.
        body: dict[str, Any] = super().build_body(method, biz_content, timestamp=_written(wire.now()), **kwargs)
        return body

    def verified_sync_response(self, data: dict[str, Any], response_type: str) -> dict[str, Any]:
        """What Alipay answers, its signature checked. Raises Unavailable, Rejected."""
        answer = wire.ask(
            "POST",
            f"{self._gateway}?charset=utf-8",
            headers={"Content-Type": "application/x-www-form-urlencoded;charset=utf-8"},
            content=self.sign_data(data).encode(),
        )
        if answer.status != 200:
            # It answers 200 to everything that it understands.
            raise Unavailable(f"status_{answer.status}")
        text = answer.body.decode(errors="replace")
        whole = wire.json_object(text)
        if whole is None:
            raise Unavailable("bad_answer")
        said = whole.get(response_type)
        if not isinstance(said, dict) or not isinstance(whole.get("sign"), str):
            raise _unsigned(said or whole.get("error_response"))
        try:
            said = self._verify_and_return_sync_response(text, response_type)
        except AliPayValidationError as error:
            raise Unavailable("bad_signature") from error
        except (AliPayException, AttributeError, TypeError, ValueError) as error:
            raise Unavailable("bad_answer") from error
        if not isinstance(said, dict):
            raise Unavailable("bad_answer")
        if said.get("code") != _DONE:
            raise _refusal(said)
        return said

    def _get_string_to_be_signed(self, raw_string: str, response_type: str) -> str:
        # The SDK counts brackets, those within texts too, and then fails on an honest answer.
        start = raw_string.find("{", raw_string.find(f'"{response_type}"'))
        _, end = JSONDecoder().raw_decode(raw_string, start)
        return raw_string[start:end]


class AlipayGateway:
    """See the protocol. Pays in yuan only."""

    kind: ClassVar[str] = "alipay"
    label: ClassVar[Promise | str] = gettext_lazy("Alipay")
    fields: ClassVar[tuple[SettingField, ...]] = (
        SettingField(
            "app_id",
            gettext_lazy("App ID"),
            gettext_lazy("The application's number at open.alipay.com, only digits."),
            is_secret=False,
        ),
        SettingField(
            "app_private_key",
            gettext_lazy("Application private key"),
            gettext_lazy("The one that you made for the application, RSA2 with 2048 bits: PEM or the bare text."),
            is_long=True,
        ),
        SettingField(
            "alipay_public_key",
            gettext_lazy("Alipay public key"),
            gettext_lazy("What the console shows after you uploaded your key. Not your application's public key."),
            is_secret=False,
            is_long=True,
        ),
        SettingField(
            "seller_id",
            gettext_lazy("Seller ID"),
            gettext_lazy("The account that is paid, beginning with 2088. When set, notices for others are refused."),
            is_secret=False,
            is_required=False,
        ),
        SettingField(
            "mode",
            gettext_lazy("Way of paying"),
            gettext_lazy("“page” (Alipay's own page, the default) or “qr” (a code to scan; face-to-face payment)."),
            is_secret=False,
            is_required=False,
        ),
        SettingField(
            "gateway_url",
            gettext_lazy("Gateway address"),
            gettext_lazy("Empty for the real one; for Alipay's sandbox the address that its console shows."),
            is_secret=False,
            is_required=False,
        ),
    )
    currencies: ClassVar[frozenset[str]] = frozenset({CURRENCY})
    is_automatic: ClassVar[bool] = True
    can_refund: ClassVar[bool] = True
    knows_refunds: ClassVar[bool] = True
    names_payer_late: ClassVar[bool] = False

    def __init__(self, settings: Mapping[str, str]) -> None:
        given = wire.settings_of(self.fields, settings)
        labels = {field.name: field.label for field in self.fields}
        self._app_id = given["app_id"]
        self._seller_id = given["seller_id"]
        for name in ("app_id", "seller_id"):
            if given[name] and not (given[name].isascii() and given[name].isdigit()):
                raise ValueError(gettext("“%(field)s” has only digits.") % {"field": labels[name]})
        self._mode = given["mode"].lower() or MODES[0]
        if self._mode not in MODES:
            raise ValueError(gettext("“%(field)s” is “page” or “qr”.") % {"field": labels["mode"]})
        self._gateway_url = wire.endpoint(given["gateway_url"], default=GATEWAY, label=labels["gateway_url"])
        ours = wire.private_key(given["app_private_key"], label=labels["app_private_key"])
        theirs = wire.public_key(given["alipay_public_key"], label=labels["alipay_public_key"], ours=ours)
        self._sdk = _Sdk(
            app_id=self._app_id,
            private_pem=wire.private_pem(ours),
            public_pem=wire.public_pem(theirs),
            gateway_url=self._gateway_url,
        )

    def start(self, demand: Demand) -> Opened:
        """A signed address, made without asking Alipay; in mode `qr` Alipay is asked for the code."""
        if demand.currency != CURRENCY:
            raise Rejected("currency", demand.currency)
        asked = {
            # What Alipay forbids in it would be refused in front of the payer.
            "subject": wire.clip(" ".join(demand.subject.translate(_NOT_IN_SUBJECTS).split()), 256) or demand.reference,
            "out_trade_no": demand.reference,
            "total_amount": to_text(demand.amount, demand.currency),
            "time_expire": _written(demand.expires_at),
            "notify_url": demand.notify_url,
        }
        if self._mode == "qr":
            said = self._sdk.api_alipay_trade_precreate(**asked)
            _check_about(said, demand.reference)
            code = said.get("qr_code")
            if not isinstance(code, str) or not code:
                raise Unavailable("bad_answer")
            return Opened(qr_text=code)
        if demand.is_mobile:
            # Where the payer goes who leaves the app without paying: the same page tells them what is open.
            query = self._sdk.api_alipay_trade_wap_pay(
                **asked, return_url=demand.return_url, quit_url=demand.return_url
            )
        else:
            query = self._sdk.api_alipay_trade_page_pay(**asked, return_url=demand.return_url)
        return Opened(redirect_url=f"{self._gateway_url}?{query}")

    def read_callback(self, callback: RawCallback) -> Notice:
        """A form that Alipay posts, signed as a whole."""
        said = _form(callback)
        reference = wire.reference_in(said.get("out_trade_no"))
        if not self._is_signed(said):
            raise CallbackRefused("bad_signature", reference=reference)
        signed_at = _moment(said.get("notify_time"))
        if signed_at is None:
            raise CallbackRefused("malformed", "notify_time", reference=reference)
        if said.get("app_id") != self._app_id:
            raise CallbackRefused("other_merchant", "app_id", reference=reference)
        if self._seller_id and said.get("seller_id") != self._seller_id:
            raise CallbackRefused("other_merchant", "seller_id", reference=reference)
        if not wire.is_near(signed_at, callback.received_at):
            raise CallbackRefused("stale", said["notify_time"], reference=reference)
        if said.get("notify_type", "trade_status_sync") != "trade_status_sync":
            raise CallbackRefused("unsupported", said["notify_type"], reference=reference)
        try:
            # A refund of a part is told in the same words as the payment, with `refund_fee` added: still TRADE_SUCCESS,
            # still the whole `total_amount`. It is read as what it says, that so much was paid, which is no news:
            # refunds are booked by whoever asks for them. Refusing it would make Alipay repeat it for a day, and if the
            # first notice got lost, this one is as good.
            return _notice(said, paid_at=said.get("gmt_payment"))
        except ValueError as error:
            raise CallbackRefused("malformed", str(error), reference=reference) from error

    def answer(self, *, is_taken: bool) -> CallbackAnswer:
        """The word that Alipay looks for."""
        return CallbackAnswer(200, "success") if is_taken else CallbackAnswer(400, "failure")

    def query(self, reference: str, *, gateway_id: str = "", currency: str = "") -> Notice:
        try:
            said = self._sdk.api_alipay_trade_query(out_trade_no=reference)
        except Rejected as refusal:
            if refusal.code == _NO_SUCH_TRADE:
                # Alipay hears of a trade when the payer has opened its page and signed in. Until `time_expire` that
                # may still happen; the caller knows when it has passed.
                return Notice(reference, Outcome.PENDING)
            raise
        _check_about(said, reference)
        try:
            return _notice(said, paid_at=said.get("send_pay_date"))
        except ValueError as error:
            raise Unavailable("bad_answer", str(error)) from error

    def close(self, reference: str, *, gateway_id: str = "") -> bool:
        """Closes what the payer has begun; what they have not, `time_expire` ends."""
        try:
            self._sdk.api_alipay_trade_close(out_trade_no=reference)
        except Rejected as refusal:
            if refusal.code == _NO_SUCH_TRADE:
                return False  # The signed address may still be opened.
            # "Wrong status" is said of paid and of closed ones.
            outcome = self.query(reference).outcome
            if outcome is Outcome.CLOSED:
                return True
            if outcome is Outcome.PAID:
                raise Rejected("paid", refusal.code) from refusal
            raise
        return True

    def refund(self, demand: RefundDemand) -> RefundAnswer:
        if demand.currency != CURRENCY:
            raise Rejected("currency", demand.currency)
        # Alipay prefers its own number where both are given.
        trade = {"out_trade_no": demand.reference, "trade_no": demand.transaction_id or None}
        said = self._sdk.api_alipay_trade_refund(
            refund_amount=to_text(demand.amount, demand.currency),
            out_request_no=demand.refund_reference,
            **trade,
            **({"refund_reason": wire.clip(demand.reason, 256)} if demand.reason else {}),
        )
        _check_about(said, demand.reference)
        if said.get("fund_change") == "Y":
            return RefundAnswer(is_final=True, detail=_texts(said, "refund_fee", "gmt_refund_pay"))
        # No money moved by this request: it was given back by an earlier one of the same name, or will be later.
        said = self._sdk.api_alipay_trade_fastpay_refund_query(out_request_no=demand.refund_reference, **trade)
        if said.get("refund_status") != "REFUND_SUCCESS":
            # Of one that has not arrived it says nothing at all.
            return RefundAnswer(is_final=False)
        _check_about(said, demand.reference)
        if said.get("out_request_no") != demand.refund_reference:
            raise Unavailable("bad_answer", "out_request_no")
        return RefundAnswer(is_final=True, detail=_texts(said, "refund_amount", "refund_status"))

    def _is_signed(self, said: Mapping[str, str]) -> bool:
        # Left to itself the SDK takes a missing sign_type for its own.
        if said.get("sign_type") != "RSA2" or not said.get("sign"):
            return False
        unsigned = {name: value for name, value in said.items() if name != "sign"}
        verify: Callable[[dict[str, str], str], bool] = self._sdk.verify
        try:
            return verify(unsigned, said["sign"])
        except ValueError:
            # Not base64, or letters that cannot be encoded.
            return False


def _form(callback: RawCallback) -> dict[str, str]:
    """The parameters that were posted, each once: of two, another reader might believe the other one."""
    if callback.method != "POST":
        raise CallbackRefused("malformed", "method")
    try:
        pairs = parse_qsl(
            callback.body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MOST_PARAMETERS,
        )
    except ValueError as error:
        raise CallbackRefused("malformed", "form") from error
    said = dict(pairs)
    if not pairs:
        raise CallbackRefused("malformed", "empty")
    if len(said) != len(pairs):
        raise CallbackRefused("malformed", "twice", reference=wire.reference_in(said.get("out_trade_no")))
    return said


def _notice(said: Mapping[str, Any], *, paid_at: object) -> Notice:
    """What signed words say of a trade. Raises ValueError."""
    reference = wire.reference_in(said.get("out_trade_no"))
    if not reference:
        raise ValueError("out_trade_no")
    outcome = _OUTCOMES.get(str(said.get("trade_status")))
    if outcome is None:
        raise ValueError("trade_status")
    if outcome is not Outcome.PAID:
        return Notice(reference, outcome)
    transaction_id = said.get("trade_no")
    if not isinstance(transaction_id, str) or not transaction_id:
        raise ValueError("trade_no")
    return Notice(
        reference,
        outcome,
        transaction_id=transaction_id,
        amount=to_minor(str(said.get("total_amount")), CURRENCY),
        currency=CURRENCY,
        paid_at=_moment(paid_at),
        payer=wire.payer_in(said, *_PAYER),
    )


def _check_about(said: Mapping[str, Any], reference: str) -> None:
    """An answer does not repeat what was asked, so an old one could be played again for another payment."""
    if said.get("out_trade_no") != reference:
        raise Unavailable("bad_answer", "out_trade_no")


def _unsigned(said: object) -> Unavailable | Rejected:
    """Alipay does not sign for those that it does not know: no such application, no such key.

    What it would have signed (a success, anything about a trade) is not believed.
    """
    if not isinstance(said, dict):
        return Unavailable("bad_answer")
    if said.get("code") == _DONE or str(said.get("sub_code", "")).startswith("ACQ."):
        return Unavailable("bad_signature")
    return _refusal(said)


def _refusal(said: Mapping[str, Any]) -> Unavailable | Rejected:
    code = str(said.get("code", ""))
    reason = str(said.get("sub_code") or code or "bad_answer")
    detail = str(said.get("sub_msg") or said.get("msg") or "")
    if code in _COME_BACK or not code or reason.endswith("SYSTEM_ERROR"):
        return Unavailable(reason, detail)
    return Rejected(reason, detail)


def _texts(said: Mapping[str, Any], *names: str) -> dict[str, str]:
    return {name: str(said[name]) for name in names if said.get(name)}


def _written(moment: datetime) -> str:
    return moment.astimezone(wire.CHINA).strftime(_TIME)


def _moment(text: object) -> datetime | None:
    if not isinstance(text, str):
        return None
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=wire.CHINA).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
