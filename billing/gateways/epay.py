"""易支付 (EPay): sites that take Alipay and WeChat Pay for others, by the protocol of 彩虹易支付, version 1 (MD5)."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlencode

import httpx
from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

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
from billing.gateways.wire import clip, endpoint, payer_in, reference_in, settings_of
from derp_portal.lib import money

SECONDS = 15
SHORTEST_KEY = 16
LONGEST_CALLBACK = 16 * 1024
LONGEST_ANSWER = 256 * 1024
LONGEST_NAME = 127
"""Bytes; EPay cuts longer ones, some versions before they check the signature."""

_CNY = "CNY"
_TRADE = re.compile(r"[0-9A-Za-z_.|-]{1,64}")
_PAY_TYPE = re.compile(r"[0-9a-z_]{0,20}")
_DOUBTFUL = re.compile(r"[\x00-\x1f\x7f&=<>\"'\\+%#]+")
"""`&` and `=` would be taken for the signed text's own; the others some versions escape before they sign."""
_REFUSED_STATUS = frozenset({401, 403, 404, 405, 410})
_NO_SUCH_CALL = frozenset({-2, -4, -5})
"""To refunds: not opened for this account, not opened at all, not known."""


class EpayGateway:
    """A signed link to the site's payment page; the site calls back by GET, some by POST.

    Three weaknesses of the protocol to know about:

    - Callbacks carry no time. One that was signed once is good for ever, and whoever pays sees it (it is in the
      address that they come back by): staleness cannot be read from it. The caller must bound it, and believes
      notices only of payments opened within the last seven days.
    - Values are signed one after another without any escaping, with one key for both directions: text with `&` in it
      can be cut into other parameters, so that the link that the payer was given would pass for a callback. So none
      with `&` is signed here, and none with `&` is believed.
    - A refund has no name of its own, so EPay cannot tell that one was asked for before: see `refund`.

    The notify address must have no query of its own: all that is given there was signed.
    """

    kind: ClassVar[str] = "epay"
    label: ClassVar[Promise | str] = _("EPay (易支付)")
    fields: ClassVar[tuple[SettingField, ...]] = (
        SettingField(
            "api_url",
            _("Address"),
            _("The interface address on the API page of your account there, like https://pay.example.com/."),
            is_secret=False,
        ),
        SettingField("pid", _("Merchant ID (pid)"), _("On the same page."), is_secret=False),
        SettingField(
            "key",
            _("Merchant key (MD5)"),
            _("On the same page; the one for MD5 signatures, also called version 1."),
        ),
        SettingField(
            "pay_type",
            _("Way to pay"),
            _("alipay or wxpay. Leave it empty to let the payer choose there."),
            is_secret=False,
            is_required=False,
        ),
    )
    currencies: ClassVar[frozenset[str]] = frozenset({_CNY})
    is_automatic: ClassVar[bool] = True
    can_refund: ClassVar[bool] = True
    knows_refunds: ClassVar[bool] = False
    names_payer_late: ClassVar[bool] = False

    def __init__(self, settings: Mapping[str, str]) -> None:
        given = settings_of(self.fields, settings)
        # People paste the address of the page that the payer is sent to.
        url = re.sub(r"/(?:submit|mapi|api)\.php$", "/", given["api_url"])
        self._url = endpoint(url, default="", label=self.fields[0].label).rstrip("/")
        self._pid, self._key, self._pay_type = given["pid"], given["key"], given["pay_type"]
        if not re.fullmatch(r"[0-9A-Za-z]{1,32}", self._pid):
            raise ValueError(gettext("The merchant ID is a number, like 1001."))
        if "-----BEGIN" in self._key or len(self._key) > 128:
            raise ValueError(gettext("This is an RSA key; the MD5 key is needed, a short line of letters and digits."))
        if not self._key.isascii() or not self._key.isprintable() or len(self._key) < SHORTEST_KEY:
            raise ValueError(
                gettext(
                    "The merchant key must have at least %(count)d letters and digits: who guesses it pays nothing."
                )
                % {"count": SHORTEST_KEY}
            )
        if not _PAY_TYPE.fullmatch(self._pay_type):
            raise ValueError(gettext("The way to pay is a word like alipay or wxpay, or empty."))

    def start(self, demand: Demand) -> Opened:
        """The link. Nobody is asked, so it cannot fail but for the currency; EPay opens its order when it is followed.

        The link does not expire, and has no id.
        """
        if demand.currency != _CNY:
            raise Rejected("currency", f"not in {demand.currency[:3]!a}")
        if demand.amount <= 0:
            raise Rejected("amount")
        if "&" in demand.return_url or set("?&") & set(demand.notify_url):
            raise Rejected("address", "with a query")
        asked = {
            "pid": self._pid,
            "type": self._pay_type,
            "out_trade_no": demand.reference,
            "notify_url": demand.notify_url,
            "return_url": demand.return_url,
            "name": _name(demand.subject) or demand.reference,
            "money": money.to_text(demand.amount, _CNY),
        }
        given = {name: value for name, value in asked.items() if value}
        signed = given | {"sign": _signature(given, self._key), "sign_type": "MD5"}
        return Opened(redirect_url=f"{self._url}/submit.php?{urlencode(signed)}")

    def read_callback(self, callback: RawCallback) -> Notice:
        """What it says, at whatever time it was signed (see the class)."""
        given = _parameters(callback)
        reference = reference_in(given.get("out_trade_no"))
        needed = ("pid", "trade_no", "out_trade_no", "money", "trade_status", "sign", "sign_type")
        if any(not given.get(name) for name in needed) or given["sign_type"] != "MD5":
            raise CallbackRefused("malformed", reference=reference)
        if any("&" in value for value in given.values()) or any(set(name) & set("&=") for name in given):
            raise CallbackRefused("malformed", "&", reference=reference)
        if given["pid"] != self._pid:
            raise CallbackRefused("other_merchant", reference=reference)
        if not hmac.compare_digest(_signature(given, self._key).encode(), given["sign"].encode()):
            raise CallbackRefused("bad_signature", reference=reference)
        if not reference or not _TRADE.fullmatch(given["trade_no"]):
            raise CallbackRefused("malformed", reference=reference)
        try:
            amount = _minor(given["money"])
        except ValueError:
            raise CallbackRefused("malformed", "money", reference=reference) from None
        if given["trade_status"] != "TRADE_SUCCESS":
            return Notice(reference, Outcome.PENDING)
        return Notice(reference, Outcome.PAID, given["trade_no"], amount, _CNY, payer=payer_in(given, "buyer"))

    def answer(self, *, is_taken: bool) -> CallbackAnswer:
        """EPay looks for the word in the text."""
        return CallbackAnswer(200, "success") if is_taken else CallbackAnswer(400, "fail")

    def query(self, reference: str, *, gateway_id: str = "", currency: str = "") -> Notice:
        """Ask by our reference. An order that EPay does not know is pending: its page was never opened."""
        order = self._order(reference)
        status = _integer(order.get("status"))
        if status == 2:
            # Given back there: whatever was paid is not with us any more.
            return Notice(reference, Outcome.CLOSED)
        if status != 1:
            return Notice(reference, Outcome.PENDING)
        trade = str(order.get("trade_no", ""))
        try:
            amount = _minor(str(order.get("money")))
        except ValueError:
            raise Rejected("bad_answer", "money") from None
        if not _TRADE.fullmatch(trade):
            raise Rejected("bad_answer", "trade_no")
        return Notice(reference, Outcome.PAID, trade, amount, _CNY, payer=payer_in(order, "buyer"))

    def close(self, reference: str, *, gateway_id: str = "") -> bool:
        """Nothing to do: the protocol has no word for it, and the link stays good."""
        return False

    def refund(self, demand: RefundDemand) -> RefundAnswer:
        """Give back, where the site lets its merchants do so by program (most ask for it to be opened).

        EPay does not know our `refund_reference`. A whole payment is given back once anyhow: it is looked up first,
        and EPay says that it was. Of a part nobody can say so; if it is not clear what became of one, that is Rejected
        as `unclear`, for a person to look, and not Unavailable: asking again might pay twice.
        """
        if demand.currency != _CNY:
            raise Rejected("currency", f"not in {demand.currency[:3]!a}")
        if not _TRADE.fullmatch(demand.transaction_id):
            raise Rejected("unknown")
        if not 0 < demand.amount <= demand.paid_amount:
            raise Rejected("amount")
        is_whole = demand.amount == demand.paid_amount
        if is_whole and _integer(self._order(demand.reference).get("status")) == 2:
            return RefundAnswer(is_final=True, detail={"seen": "before"})
        asked = {
            "pid": self._pid,
            "key": self._key,
            "trade_no": demand.transaction_id,
            "out_trade_no": demand.reference,
            "money": money.to_text(demand.amount, _CNY),
        }
        try:
            said = self._ask("POST", {"act": "refund"}, asked)
        except Unavailable as failure:
            if failure.code == "unreachable" or is_whole:
                raise
            raise Rejected("unclear", failure.code) from None
        return self._refund_answer(said)

    def _refund_answer(self, said: Mapping[str, Any]) -> RefundAnswer:
        code, words = _integer(said.get("code")), self._words(said)
        # 1 by the book; newer versions say 0, and in words that it went well.
        if code == 1 or (code == 0 and "成功" in words):
            return RefundAnswer(is_final=True, detail={"said": words})
        if code == -3:
            raise Rejected("denied", words)
        is_closed = any(hint in words.lower() for hint in ("未开启", "不支持", "not supported", "no act"))
        raise Rejected("not_supported" if code in _NO_SUCH_CALL or is_closed else "refused", words)

    def _order(self, reference: str) -> dict[str, Any]:
        """EPay's order for our reference, {} if it knows none. Raises Unavailable, Rejected."""
        if not reference_in(reference):
            raise Rejected("unknown")
        order = self._ask("GET", {"act": "order", "pid": self._pid, "key": self._key, "out_trade_no": reference})
        code = _integer(order.get("code"))
        if code == -3:
            raise Rejected("denied", self._words(order))
        if code != 1:
            return {}
        if str(order.get("pid")) != self._pid or str(order.get("out_trade_no")) != reference:
            raise Rejected("other_payment")
        return order

    def _words(self, said: Mapping[str, Any]) -> str:
        """What EPay said; it is not beyond saying our key back."""
        words = said.get("msg")
        return words.replace(self._key, "…")[:200] if isinstance(words, str) else ""

    def _ask(self, method: str, query: Mapping[str, str], form: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The JSON object that `api.php` answers.

        Raises Unavailable: `unreachable` if nothing was asked, `no_answer`, `failing` or `bad_answer` if it may have
        been done. Raises Rejected for addresses where there is no such thing.

        The address has our key in it: no exception that knows it may get out of here, not even as another's cause.
        """
        status, body, code = 0, b"", ""
        try:
            status, body = self._fetch(method, query, form)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL):
            code = "unreachable"
        except httpx.HTTPError:
            code = "no_answer"
        if code:
            raise Unavailable(code)
        if status in _REFUSED_STATUS or 300 <= status < 400:
            raise Rejected("wrong_address", f"status {status}")
        if status != 200:
            raise Unavailable("failing", f"status {status}")
        return _json_object(body)

    def _fetch(self, method: str, query: Mapping[str, str], form: Mapping[str, str] | None) -> tuple[int, bytes]:
        request = httpx.Request(
            method,
            f"{self._url}/api.php",
            params=dict(query),
            data=dict(form) if form is not None else None,
            headers={"Accept": "application/json", "User-Agent": "derp-portal"},
            extensions={"timeout": httpx.Timeout(SECONDS).as_dict()},
        )
        ends = time.monotonic() + SECONDS
        # Not through a client: httpx.Client writes every address into the log. So there are no redirects either, and
        # nothing from the environment.
        with httpx.HTTPTransport(trust_env=False) as transport:
            response = transport.handle_request(request)
            try:
                body = b""
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > LONGEST_ANSWER or time.monotonic() > ends:
                        raise httpx.ReadError("too large or too slow")
            finally:
                response.close()
        return response.status_code, body


def _name(subject: str) -> str:
    return clip(" ".join(_DOUBTFUL.sub(" ", subject).split()), LONGEST_NAME).strip()


def _signature(given: Mapping[str, str], key: str) -> str:
    """MD5, in small letters, over all that was given but empty values, in the order of the names, and the key."""
    signed = sorted((name, value) for name, value in given.items() if value and name not in ("sign", "sign_type"))
    text = "&".join(f"{name}={value}" for name, value in signed) + key
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _parameters(callback: RawCallback) -> dict[str, str]:
    """Each parameter at most once, from the query of a GET or the form of a POST. Raises CallbackRefused."""
    if callback.method == "GET":
        text = callback.query
    elif callback.method == "POST" and not callback.query:
        kind = callback.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            raise CallbackRefused("malformed", "content type")
        text = callback.body.decode("latin-1")
    else:
        raise CallbackRefused("malformed", "method")
    if not text.isascii() or len(text) > LONGEST_CALLBACK:
        raise CallbackRefused("malformed")
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=50)
    except ValueError:
        raise CallbackRefused("malformed") from None
    given = dict(pairs)
    if len(given) != len(pairs):
        raise CallbackRefused("malformed", "given twice")
    return given


def _minor(text: str) -> int:
    """Raises ValueError for what is not a plain amount of more than nothing."""
    if not re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", text):
        raise ValueError("not an amount")
    amount = money.to_minor(text, _CNY)
    if amount <= 0:
        raise ValueError("nothing")
    return amount


def _integer(value: Any) -> int | None:
    """Versions differ in whether they write numbers as such or as text."""
    text = str(value)
    return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else None


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        # Some sites' files begin with a byte order mark, and so do their answers.
        found = json.loads(body.decode("utf-8-sig"), parse_float=Decimal)
    except (ValueError, RecursionError):
        raise Unavailable("bad_answer") from None
    if not isinstance(found, dict):
        raise Unavailable("bad_answer")
    return found
