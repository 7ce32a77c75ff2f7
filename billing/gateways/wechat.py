"""WeChat Pay: a code that the payer scans (Native). API v3, verified with WeChat's public key and no certificates.

The SDK signs, verifies and decrypts. Its HTTP is not used: it takes proxies and passwords from the environment,
guesses the encoding of what it verifies, and fetches certificates when a signature names a key that it lacks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

from django.utils.functional import Promise
from django.utils.translation import gettext, gettext_lazy
from wechatpayv3 import WeChatPay, WeChatPayType
from wechatpayv3.core import Core
from wechatpayv3.type import RequestType
from wechatpayv3.utils import aes_decrypt, build_authorization

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

SERVER = "https://api.mch.weixin.qq.com"
CURRENCY = "CNY"

_SIGNED_WITH = ("signature", "timestamp", "nonce", "serial", "signature-type")
_UNKNOWN = ("ORDER_NOT_EXIST", "ORDERNOTEXIST")
_CLOSED = ("ORDER_CLOSED", "ORDERCLOSED")
_COME_BACK = ("SYSTEM_ERROR", "SYSTEMERROR", "FREQUENCY_LIMITED", "FREQUENCY_LIMIT_EXCEED", "RATELIMIT_EXCEEDED")
_OUTCOMES = {
    "SUCCESS": Outcome.PAID,
    "NOTPAY": Outcome.PENDING,
    "USERPAYING": Outcome.PENDING,
    "ACCEPT": Outcome.PENDING,
    # A try that failed; the code may be scanned again until it expires.
    "PAYERROR": Outcome.PENDING,
    "CLOSED": Outcome.CLOSED,
    "REVOKED": Outcome.CLOSED,
}


class _Core(Core):
    """What the SDK made for itself, with other HTTP. (Keys are slow to read: they are not read again.)"""

    def __init__(self, made: Core, *, server: str) -> None:
        self.__dict__.update(made.__dict__)
        self._gate_way = server

    def request(
        self, path: str, method: RequestType = RequestType.GET, data: dict[str, Any] | None = None
    ) -> tuple[int, str]:
        """Status and text; that of a good answer is signed by WeChat. Raises Unavailable.

        A bad one's signature is not checked: WeChat does not sign for those that it does not know, and no error makes
        us believe that anything was paid.
        """
        body = json.dumps(data) if data else ""
        authorization = build_authorization(
            path, method.value, self._mchid, self._cert_serial_no, self._private_key, data=body
        )
        answer = wire.ask(
            method.value,
            self._gate_way + path,
            headers={
                "Accept": "application/json",
                "Authorization": authorization,
                "Content-Type": "application/json",
                "User-Agent": "derp-portal",
                # Says with which of its keys WeChat shall sign the answer.
                "Wechatpay-Serial": self._public_key_id,
            },
            content=body.encode() if body else None,
        )
        text = answer.body.decode(errors="replace")
        if 200 <= answer.status < 300:
            signed_at = self.signed_at(answer.headers, text)
            if signed_at is None or not wire.is_near(signed_at, wire.now()):
                raise Unavailable("bad_signature")
        return answer.status, text

    def signed_at(self, headers: Mapping[str, str], text: str) -> datetime | None:
        """When WeChat signed it; None if WeChat did not. `headers` by lower-case name."""
        marks = {f"wechatpay-{name}": headers.get(f"wechatpay-{name}", "") for name in _SIGNED_WITH}
        stamp = marks["wechatpay-timestamp"]
        if not re.fullmatch("[0-9]{1,11}", stamp):
            return None
        # The SDK would go and look for a certificate of any other name.
        if marks["wechatpay-serial"] != self._public_key_id:
            return None
        try:
            is_signed = self._verify_signature(marks, text)
        except Exception:  # noqa: BLE001 - it raises bare ones for an algorithm, and others for letters, it cannot use.
            return None
        return datetime.fromtimestamp(int(stamp), UTC) if is_signed else None

    def _update_certificates(self) -> None:
        """None are used, and nothing is to be fetched because a stranger's message names one."""


class WechatGateway:
    """See the protocol. Pays in yuan only."""

    kind: ClassVar[str] = "wechat"
    label: ClassVar[Promise | str] = gettext_lazy("WeChat Pay")
    fields: ClassVar[tuple[SettingField, ...]] = (
        SettingField(
            "mch_id",
            gettext_lazy("Merchant ID"),
            gettext_lazy("The merchant's number at pay.weixin.qq.com, only digits."),
            is_secret=False,
        ),
        SettingField(
            "app_id",
            gettext_lazy("App ID"),
            gettext_lazy("An app, official account or mini program that is bound to the merchant, beginning with wx."),
            is_secret=False,
        ),
        SettingField(
            "private_key",
            gettext_lazy("Merchant private key"),
            gettext_lazy("What is in apiclient_key.pem."),
            is_long=True,
        ),
        SettingField(
            "cert_serial_no",
            gettext_lazy("Merchant certificate serial number"),
            gettext_lazy("Of the API certificate that belongs to the private key: 40 digits and letters A to F."),
            is_secret=False,
        ),
        SettingField("api_v3_key", gettext_lazy("API v3 key"), gettext_lazy("32 letters and digits; you chose them.")),
        SettingField(
            "public_key",
            gettext_lazy("WeChat Pay public key"),
            gettext_lazy("What is in pub_key.pem, from the merchant console's page on API security."),
            is_secret=False,
            is_long=True,
        ),
        SettingField(
            "public_key_id",
            gettext_lazy("WeChat Pay public key ID"),
            gettext_lazy("Shown beside the public key; begins with PUB_KEY_ID_."),
            is_secret=False,
        ),
        SettingField(
            "base_url",
            gettext_lazy("Server address"),
            gettext_lazy("Empty for the real one."),
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
        self._mch_id, self._app_id, self._api_v3_key = given["mch_id"], given["app_id"], given["api_v3_key"]
        # They go into a header, and from the console they are often copied with colons.
        serial = given["cert_serial_no"].replace(":", "").upper()
        for name, value, pattern, words in (
            ("mch_id", self._mch_id, "[0-9]{6,32}", gettext("“%(field)s” has only digits.")),
            ("app_id", self._app_id, "wx[0-9A-Za-z]{1,30}", gettext("“%(field)s” begins with wx.")),
            ("cert_serial_no", serial, "[0-9A-F]{8,64}", gettext("“%(field)s” has only digits and letters A to F.")),
            ("api_v3_key", self._api_v3_key, "[!-~]{32}", gettext("“%(field)s” must have exactly 32 letters.")),
            (
                "public_key_id",
                given["public_key_id"],
                "PUB_KEY_ID_[0-9A-Za-z]{1,64}",
                gettext("“%(field)s” begins with PUB_KEY_ID_."),
            ),
        ):
            if not re.fullmatch(pattern, value):
                raise ValueError(words % {"field": labels[name]})
        server = wire.endpoint(given["base_url"], default=SERVER, label=labels["base_url"]).rstrip("/")
        ours = wire.private_key(given["private_key"], label=labels["private_key"])
        theirs = wire.public_key(given["public_key"], label=labels["public_key"], ours=ours)
        self._sdk = WeChatPay(
            wechatpay_type=WeChatPayType.NATIVE,
            mchid=self._mch_id,
            private_key=wire.private_pem(ours),
            cert_serial_no=serial,
            appid=self._app_id,
            apiv3_key=self._api_v3_key,
            # With these two it fetches no certificates.
            public_key=wire.public_pem(theirs),
            public_key_id=given["public_key_id"],
        )
        self._core = self._sdk._core = _Core(self._sdk._core, server=server)

    def start(self, demand: Demand) -> Opened:
        """Asks WeChat for the text of the code."""
        if demand.currency != CURRENCY:
            raise Rejected("currency", demand.currency)
        said = _said(
            self._sdk.pay(
                description=wire.clip(demand.subject, 127) or demand.reference,
                out_trade_no=demand.reference,
                amount={"total": demand.amount, "currency": demand.currency},
                time_expire=demand.expires_at.astimezone(wire.CHINA).isoformat(timespec="seconds"),
                notify_url=demand.notify_url,
            )
        )
        code = said.get("code_url")
        if not isinstance(code, str) or not code:
            raise Unavailable("bad_answer", "code_url")
        return Opened(qr_text=code)

    def read_callback(self, callback: RawCallback) -> Notice:
        """A signed envelope, and in it what happened, encrypted with the API v3 key."""
        text, envelope = _envelope(callback)
        resource = self._opened(envelope)
        # What opens with our key was sealed with it, so even a refused message may say what it is about.
        reference = wire.reference_in((resource or {}).get("out_trade_no"))
        signed_at = self._core.signed_at(callback.headers, text)
        if signed_at is None:
            raise CallbackRefused("bad_signature", reference=reference)
        # WeChat signs each try anew. The SDK never looks at the time.
        if not wire.is_near(signed_at, callback.received_at):
            raise CallbackRefused("stale", signed_at.isoformat(), reference=reference)
        event = envelope.get("event_type")
        if event != "TRANSACTION.SUCCESS":
            # Refunds tell of themselves too; whoever asks for one asks again what became of it.
            raise CallbackRefused("unsupported", str(event), reference=reference)
        if resource is None:
            raise CallbackRefused("bad_signature", "It does not open with the API v3 key.")
        if resource.get("mchid") != self._mch_id:
            raise CallbackRefused("other_merchant", "mchid", reference=reference)
        if resource.get("appid") != self._app_id:
            raise CallbackRefused("other_merchant", "appid", reference=reference)
        try:
            notice = _notice(resource)
        except ValueError as error:
            raise CallbackRefused("malformed", str(error), reference=reference) from error
        if notice.outcome is not Outcome.PAID:
            raise CallbackRefused("malformed", "trade_state", reference=reference)
        return notice

    def answer(self, *, is_taken: bool) -> CallbackAnswer:
        """Not a 5xx: strangers' rubbish is no fault of this server."""
        status, code, message = (200, "SUCCESS", "OK") if is_taken else (400, "FAIL", "refused")
        return CallbackAnswer(status, json.dumps({"code": code, "message": message}), "application/json")

    def query(self, reference: str, *, gateway_id: str = "", currency: str = "") -> Notice:
        try:
            said = _said(self._sdk.query(out_trade_no=reference))
        except Rejected as refusal:
            if refusal.code in _UNKNOWN:
                # It never heard our demand, or has not yet; the caller knows when it is too late for it.
                return Notice(reference, Outcome.PENDING)
            raise
        if said.get("out_trade_no") != reference or said.get("mchid") != self._mch_id:
            raise Unavailable("bad_answer", "out_trade_no")
        if said.get("trade_state") == "REFUND":
            # It was paid and all or some of it went back; how much, WeChat tells only who knows the refund's name.
            # One that asks whether to deliver must hear neither yes nor no.
            raise Rejected("refunded", str(said.get("trade_state_desc") or ""))
        try:
            return _notice(said)
        except ValueError as error:
            raise Unavailable("bad_answer", str(error)) from error

    def close(self, reference: str, *, gateway_id: str = "") -> bool:
        try:
            _said(self._sdk.close(out_trade_no=reference))
        except Rejected as refusal:
            if refusal.code in (*_UNKNOWN, *_CLOSED):
                return True
            if refusal.code in ("ORDERPAID", "ORDER_PAID"):
                raise Rejected("paid", refusal.detail) from refusal
            raise
        return True

    def refund(self, demand: RefundDemand) -> RefundAnswer:
        """No notice is asked for: it would say what asking again says too."""
        if demand.currency != CURRENCY:
            raise Rejected("currency", demand.currency)
        said = _said(
            self._sdk.refund(
                out_refund_no=demand.refund_reference,
                amount={"refund": demand.amount, "total": demand.paid_amount, "currency": demand.currency},
                transaction_id=demand.transaction_id or None,
                out_trade_no=demand.reference,
                reason=wire.clip(demand.reason, 80) or None,
            )
        )
        if said.get("status") == "PROCESSING":
            # Asking again may repeat what was answered first; a look tells for certain whether it has arrived.
            try:
                said = _said(self._sdk.query_refund(out_refund_no=demand.refund_reference))
            except (Unavailable, Rejected):
                return RefundAnswer(is_final=False, gateway_id=str(said.get("refund_id") or ""))
        if said.get("out_refund_no") != demand.refund_reference:
            raise Unavailable("bad_answer", "out_refund_no")
        status = said.get("status")
        if status in ("ABNORMAL", "CLOSED"):
            raise Rejected(f"refund_{status.lower()}", str(said.get("user_received_account") or ""))
        if status not in ("SUCCESS", "PROCESSING"):
            raise Unavailable("bad_answer", "status")
        return RefundAnswer(
            is_final=status == "SUCCESS",
            gateway_id=str(said.get("refund_id") or ""),
            detail={name: str(said[name]) for name in ("status", "success_time", "channel") if said.get(name)},
        )

    def _opened(self, envelope: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the envelope holds; None if it is not sealed with our key."""
        resource = envelope.get("resource")
        if not isinstance(resource, dict) or resource.get("algorithm") != "AEAD_AES_256_GCM":
            return None
        parts = [resource.get("nonce"), resource.get("ciphertext"), resource.get("associated_data") or ""]
        nonce, ciphertext, associated = parts
        if not (isinstance(nonce, str) and isinstance(ciphertext, str) and isinstance(associated, str)):
            return None
        try:
            text = aes_decrypt(nonce, ciphertext, associated, self._api_v3_key)
        except ValueError:
            return None
        return None if text is None else wire.json_object(text)


def _envelope(callback: RawCallback) -> tuple[str, dict[str, Any]]:
    if callback.method != "POST":
        raise CallbackRefused("malformed", "method")
    try:
        text = callback.body.decode()
    except UnicodeDecodeError as error:
        raise CallbackRefused("malformed", "encoding") from error
    envelope = wire.json_object(text)
    if envelope is None or not isinstance(envelope.get("resource"), dict):
        raise CallbackRefused("malformed", "envelope")
    return text, envelope


def _said(result: tuple[int, str]) -> dict[str, Any]:
    """What a good answer says. Raises Unavailable, Rejected."""
    status, text = result
    if status == 204:
        return {}
    said = wire.json_object(text)
    if 200 <= status < 300:
        if said is None:
            raise Unavailable("bad_answer")
        return said
    code = str((said or {}).get("code") or "")
    detail = str((said or {}).get("message") or "")
    # An error without a code comes from something between us and WeChat.
    if status >= 500 or status == 429 or not code or code in _COME_BACK:
        raise Unavailable(code or f"status_{status}", detail)
    raise Rejected(code, detail)


def _notice(said: Mapping[str, Any]) -> Notice:
    """What signed words say of a payment. Raises ValueError."""
    reference = wire.reference_in(said.get("out_trade_no"))
    if not reference:
        raise ValueError("out_trade_no")
    outcome = _OUTCOMES.get(str(said.get("trade_state")))
    if outcome is None:
        raise ValueError("trade_state")
    if outcome is not Outcome.PAID:
        return Notice(reference, outcome)
    transaction_id, money = said.get("transaction_id"), said.get("amount")
    if not isinstance(transaction_id, str) or not transaction_id:
        raise ValueError("transaction_id")
    payer = said.get("payer")
    # `total` is the price; `payer_total` is less where WeChat pays a coupon's part of it.
    amount = money.get("total") if isinstance(money, dict) else None
    currency = money.get("currency", CURRENCY) if isinstance(money, dict) else None
    if not isinstance(amount, int) or isinstance(amount, bool) or amount < 0 or not isinstance(currency, str):
        raise ValueError("amount")
    return Notice(
        reference,
        outcome,
        transaction_id=transaction_id,
        amount=amount,
        currency=currency,
        paid_at=_moment(said.get("success_time")),
        payer=wire.payer_in(payer if isinstance(payer, dict) else {}, "openid"),
    )


def _moment(text: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(text))
        return (found if found.tzinfo else found.replace(tzinfo=wire.CHINA)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
