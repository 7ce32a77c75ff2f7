"""The built-in test gateway: no money, but everything else of a real one.

Its other side is `billing.sandbox`: a cashier page where one plays the payer, and callbacks that are signed, late,
repeated and out of order. Requests to it and callbacks from it carry an HMAC with a key of the method's own.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import urlencode, urlsplit

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from .base import (
    WINDOW,
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
)

SIGNATURE = "x-sandbox-signature"
CASHIER = "/pay/sandbox/"


def signature(key: str, moment: int, text: str) -> str:
    """Hex HMAC-SHA256 over a Unix time and a text."""
    return hmac.new(key.encode(), f"{moment}.{text}".encode(), hashlib.sha256).hexdigest()


class SandboxGateway:
    """Pays with nothing. Never offer it to real customers."""

    kind: ClassVar[str] = "sandbox"
    label: ClassVar[Promise | str] = _("Test gateway (no real money)")
    fields: ClassVar[tuple[SettingField, ...]] = (SettingField("key", _("Signing key")),)
    currencies: ClassVar[frozenset[str]] = frozenset()
    is_automatic: ClassVar[bool] = True
    can_refund: ClassVar[bool] = True
    knows_refunds: ClassVar[bool] = True
    names_payer_late: ClassVar[bool] = False

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._key = settings.get("key", "")
        if len(self._key) < 16:
            raise ValueError(str(_("The signing key needs at least 16 characters.")))

    def start(self, demand: Demand) -> Opened:
        """A signed link to the cashier, as the page payments of real gateways are."""
        asked = {
            "reference": demand.reference,
            "amount": str(demand.amount),
            "currency": demand.currency,
            "subject": demand.subject,
            "notify_url": demand.notify_url,
            "return_url": demand.return_url,
            "expires": str(int(demand.expires_at.timestamp())),
        }
        sign = signature(self._key, int(asked["expires"]), urlencode(sorted(asked.items())))
        site = urlsplit(demand.return_url)
        return Opened(redirect_url=f"{site.scheme}://{site.netloc}{CASHIER}?{urlencode(asked | {'sign': sign})}")

    def asked(self, query: Mapping[str, str]) -> dict[str, str]:
        """What a link to the cashier asks for. Raises CallbackRefused for one that we have not signed."""
        asked = {name: value for name, value in query.items() if name != "sign"}
        expires = asked.get("expires", "")
        if not expires.isdecimal():
            raise CallbackRefused("malformed")
        right = signature(self._key, int(expires), urlencode(sorted(asked.items())))
        if not hmac.compare_digest(right.encode(), query.get("sign", "").encode()):
            raise CallbackRefused("bad_signature")
        return asked

    def sign(self, body: str, moment: datetime) -> str:
        """The header of a callback with this body, sent at `moment`."""
        stamp = int(moment.timestamp())
        return f"t={stamp},v1={signature(self._key, stamp, body)}"

    def read_callback(self, callback: RawCallback) -> Notice:
        """See `Gateway.read_callback`."""
        text = callback.body.decode(errors="replace")
        said = _json_object(text)
        reference = str(said.get("reference", ""))
        parts = dict(part.partition("=")[::2] for part in callback.headers.get(SIGNATURE, "").split(","))
        stamp = parts.get("t", "")
        if not (stamp.isascii() and stamp.isdecimal() and len(stamp) < 12):
            raise CallbackRefused("bad_signature", reference=reference)
        right = signature(self._key, int(stamp), text)
        if not hmac.compare_digest(right.encode(), parts.get("v1", "").encode()):
            raise CallbackRefused("bad_signature", reference=reference)
        if abs(callback.received_at - datetime.fromtimestamp(int(stamp), UTC)) > WINDOW:
            raise CallbackRefused("stale", reference=reference)
        return _notice(said)

    def answer(self, *, is_taken: bool) -> CallbackAnswer:
        """See `Gateway.answer`."""
        return CallbackAnswer(200, "ok") if is_taken else CallbackAnswer(400, "again")

    def query(self, reference: str, *, gateway_id: str = "", currency: str = "") -> Notice:
        """See `Gateway.query`."""
        from billing import sandbox  # The other side of the wire; it needs the database, a gateway does not.

        return _notice(sandbox.said_of(reference))

    def close(self, reference: str, *, gateway_id: str = "") -> bool:
        """See `Gateway.close`."""
        from billing import sandbox

        if not sandbox.close(reference):
            raise Rejected("paid_already")
        return True

    def refund(self, demand: RefundDemand) -> RefundAnswer:
        """See `Gateway.refund`."""
        from billing import sandbox

        if not sandbox.give_back(demand.reference, demand.refund_reference, demand.amount):
            raise Rejected("more_than_was_paid")
        return RefundAnswer(is_final=True, gateway_id=f"sandbox-{demand.refund_reference}")


def _json_object(text: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CallbackRefused("malformed") from error
    if not isinstance(said, dict):
        raise CallbackRefused("malformed")
    return said


def _notice(said: Mapping[str, Any]) -> Notice:
    try:
        outcome = Outcome(said["outcome"])
        if outcome != Outcome.PAID:
            return Notice(str(said["reference"]), outcome)
        return Notice(
            reference=str(said["reference"]),
            outcome=outcome,
            transaction_id=str(said["transaction_id"]),
            amount=int(said["amount"]),
            currency=str(said["currency"]),
            fee=None,
            paid_at=datetime.fromisoformat(str(said["paid_at"])),
            payer=str(said.get("payer", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CallbackRefused("malformed") from error
