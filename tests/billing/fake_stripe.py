"""Stripe as tests meet it: events signed as its page says, and a small Stripe on this machine."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

from billing.gateways.base import (
    RawCallback,
)
from billing.gateways.stripe_checkout import StripeGateway
from tests.billing.fake_site import Answer, Asked

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
