"""Stripe, by its own payment page (Checkout): cards, and whatever else the operator switched on at Stripe."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar, TypeGuard

import requests
import stripe
from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from stripe.params.checkout import SessionListParams

from billing.gateways.base import (
    CallbackAnswer,
    CallbackRefused,
    Demand,
    GatewayFailure,
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
from billing.gateways.wire import endpoint, is_near, json_object, payer_in, reference_in, settings_of
from derp_portal.lib import clock, money

# Else the SDK tells Stripe about this machine, and writes a file into the home of whoever runs the portal to do so.
stripe.enable_telemetry = False

SECONDS = 15
SHORTEST, LONGEST = timedelta(minutes=31), timedelta(hours=23, minutes=59)
"""How long a session may be open: Stripe's half an hour and day, and a minute for clocks that differ."""

_SECRET_KEY = re.compile(r"(?:sk|rk)_(test|live)_[0-9A-Za-z_]{8,300}")
_WEBHOOK_SECRET = re.compile(r"whsec_[0-9A-Za-z+/=_-]{8,200}")
_HEADER = re.compile(r"[0-9A-Za-z_]{1,20}=[0-9A-Za-z]{1,256}(?:,[0-9A-Za-z_]{1,20}=[0-9A-Za-z]{1,256}){1,30}")
_SESSION = re.compile(r"cs_[0-9A-Za-z_]{1,250}")
_INTENT = re.compile(r"pi_[0-9A-Za-z_]{1,250}")
_NAME = re.compile(r"[0-9A-Za-z_]{1,64}")
_CURRENCY = re.compile(r"[a-z]{3}")
_WORD = re.compile(r"[0-9a-z_.]{1,80}")

_WHOLE = frozenset(
    {"BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF"}
)
"""Currencies whose units Stripe counts. It counts hundredths of all others, also of those that we count in units."""
_UNCLEAR = frozenset({"UGX"})
"""Stripe's page lists it among the currencies counted in units, and says below that it is counted in hundredths."""

_DONE = "checkout.session.completed"
_PAID_LATER = "checkout.session.async_payment_succeeded"
_CLOSED = frozenset({"checkout.session.async_payment_failed", "checkout.session.expired"})
_DISPUTED, _DISPUTE_OVER = "charge.dispute.created", "charge.dispute.closed"
_FUNDS_TAKEN = "charge.dispute.funds_withdrawn"
_REFUND_CHANGED = frozenset({"refund.failed", "refund.updated", "charge.refund.updated"})
"""Accounts differ in which of them they are sent; all say the refund's state."""
_REFUND_LOST = ("failed", "canceled")


class StripeGateway:
    """A Checkout Session for each payment, named by our reference.

    The account may serve other shops too: of sessions, only those count that carry our reference where only the owner
    of the secret key can have put it. (`client_reference_id` alone is not that: the visitor of a Payment Link sets it
    by the address.)
    """

    kind: ClassVar[str] = "stripe"
    label: ClassVar[Promise | str] = _("Stripe")
    fields: ClassVar[tuple[SettingField, ...]] = (
        SettingField(
            "secret_key",
            _("Secret key"),
            _(
                "In Stripe's dashboard under Developers, API keys. It begins with sk_live_, or rk_live_ for a "
                "restricted key that may write Checkout Sessions and Refunds and read Payment Intents, Charges and "
                "Balance Transactions."
            ),
        ),
        SettingField(
            "webhook_secret",
            _("Signing secret of the webhook"),
            _(
                "In Stripe's dashboard under Developers, Webhooks, in the endpoint that calls this portal. It begins "
                "with whsec_."
            ),
        ),
        SettingField(
            "api_base",
            _("Address of the API"),
            _("Leave it empty, unless Stripe is reached through a server of your own."),
            is_secret=False,
            is_required=False,
        ),
    )
    currencies: ClassVar[frozenset[str]] = frozenset()
    is_automatic: ClassVar[bool] = True
    can_refund: ClassVar[bool] = True
    knows_refunds: ClassVar[bool] = True
    names_payer_late: ClassVar[bool] = True

    def __init__(self, settings: Mapping[str, str]) -> None:
        given = settings_of(self.fields, settings)
        key, secret, api_base = given["secret_key"], given["webhook_secret"], given["api_base"]
        mode = _SECRET_KEY.fullmatch(key)
        if mode is None:
            raise ValueError(_wrong_key(key))
        if not _WEBHOOK_SECRET.fullmatch(secret):
            raise ValueError(gettext("The signing secret of a webhook begins with whsec_; this is something else."))
        self._secrets = (key, secret)
        self._webhook_secret = secret
        self._is_live = mode[1] == "live"
        session = requests.Session()
        # From the environment would come proxies, and a .netrc that takes the place of the key.
        session.trust_env = False
        session.max_redirects = 0
        self._stripe = stripe.StripeClient(
            key,
            base_addresses={"api": _api(api_base)} if api_base else {},
            # The caller knows better when to ask again.
            max_network_retries=0,
            http_client=stripe.RequestsClient(timeout=SECONDS, session=session),
        )

    def start(self, demand: Demand) -> Opened:
        """The session's page. Started again within a day, the same session while it is open.

        It can be paid until `expires_at`, but always for half an hour and never for more than a day: Stripe has it so.
        Not to be started again once it was closed.
        """
        amount = _to_stripe(demand.amount, demand.currency)
        now = clock.now()
        expires_at = min(max(demand.expires_at, now + SHORTEST), now + LONGEST)
        named = {"reference": demand.reference}
        subject = demand.subject[:250].strip() or demand.reference
        try:
            session = self._ask(
                lambda: self._stripe.v1.checkout.sessions.create(
                    {
                        "mode": "payment",
                        "line_items": [
                            {
                                "price_data": {
                                    "currency": demand.currency.lower(),
                                    "unit_amount": amount,
                                    "product_data": {"name": subject},
                                },
                                "quantity": 1,
                            }
                        ],
                        "client_reference_id": demand.reference,
                        "metadata": named,
                        "payment_intent_data": {"metadata": named, "description": subject},
                        # Else Stripe may ask for another amount in the payer's own currency.
                        "adaptive_pricing": {"enabled": False},
                        "success_url": demand.return_url,
                        "cancel_url": demand.return_url,
                        "expires_at": int(expires_at.timestamp()),
                        "locale": "zh" if demand.language.lower().partition("-")[0] == "zh" else "auto",
                    },
                    {"idempotency_key": f"start-{demand.reference}"},
                )
            )
        except Rejected as refusal:
            if refusal.code != "idempotency_error":
                raise
            # Started before in other words: another language, or an end that had to be put off. Two open sessions
            # for one reference could both be paid, so it is the first one again.
            session = self._open_session(demand.reference, refusal)
        url, session_id = session.get("url"), session.get("id")
        if not isinstance(url, str) or not url.startswith("https://") or not _is(session_id, _SESSION):
            raise Unavailable("bad_answer")
        return Opened(redirect_url=url, gateway_id=session_id)

    def read_callback(self, callback: RawCallback) -> Notice:
        """What an event says of one of our sessions, or of a dispute or failed refund of what was paid in it.

        Other events are `unsupported`: to be taken, and forgotten.
        """
        event = json_object(callback.body)
        if event is None:
            raise CallbackRefused("malformed")
        session = _dict(_dict(event, "data"), "object")
        reference = _reference(session)
        signed_at = self._signed_at(callback, reference)
        # The SDK would hold it against the time of reading, and has nothing against times to come.
        if not is_near(signed_at, callback.received_at):
            raise CallbackRefused("stale", reference=reference)
        if event.get("object") != "event" or not isinstance(event.get("type"), str):
            raise CallbackRefused("malformed", reference=reference)
        if event.get("livemode") is not self._is_live or event.get("account"):
            # Of the test mode, which costs nothing to pay in, or of an account connected to ours.
            raise CallbackRefused("other_merchant", reference=reference)
        kind = event["type"]
        if setback := _setback(kind, session):
            return setback
        if kind not in (_DONE, _PAID_LATER, *_CLOSED) or session.get("mode") != "payment" or not reference:
            raise CallbackRefused("unsupported", kind if _WORD.fullmatch(kind) else "")
        if kind in _CLOSED:
            return Notice(reference, Outcome.CLOSED)
        if kind == _DONE and session.get("payment_status") == "unpaid":
            return Notice(reference, Outcome.PENDING)
        if session.get("payment_status") != "paid":
            raise CallbackRefused("unsupported", "payment_status", reference=reference)
        try:
            return _paid(session, reference, paid_at=_moment(event.get("created")))
        except ValueError as error:
            raise CallbackRefused("malformed", str(error), reference=reference) from error

    def answer(self, *, is_taken: bool) -> CallbackAnswer:
        """Stripe reads the status alone, and calls again for three days after any that is not a good one."""
        return CallbackAnswer(200, "ok") if is_taken else CallbackAnswer(400, "refused")

    def query(self, reference: str, *, gateway_id: str = "", currency: str = "") -> Notice:
        """Ask by the session's id; Stripe does not know sessions by our reference. Without an id nobody was ever shown
        its page, so nobody has paid.
        """
        if not gateway_id:
            return Notice(reference, Outcome.PENDING)
        session = self._session(reference, gateway_id)
        status, intent = session.get("status"), _dict(session, "payment_intent")
        if session.get("payment_status") == "paid":
            charge = _dict(intent, "latest_charge")
            try:
                return _paid(session, reference, paid_at=_moment(charge.get("created")), charge=charge)
            except ValueError as error:
                raise Rejected("bad_answer", str(error)) from error
        # What takes days and then fails leaves the session complete, and the intent where it began.
        has_failed = status == "complete" and intent.get("status") in ("requires_payment_method", "canceled")
        return Notice(reference, Outcome.CLOSED if status == "expired" or has_failed else Outcome.PENDING)

    def close(self, reference: str, *, gateway_id: str = "") -> bool:
        """Expire the session. Without an id nobody was ever shown its page, so there is nothing to close."""
        if not gateway_id:
            return True
        try:
            self._ask(lambda: self._stripe.v1.checkout.sessions.expire(_checked(_SESSION, gateway_id)))
        except Rejected:
            # Only an open session can be expired, and Stripe has no code for it.
            outcome = self.query(reference, gateway_id=gateway_id).outcome
            if outcome is Outcome.CLOSED:
                return True
            if outcome is Outcome.PAID:
                raise Rejected("paid") from None
            raise
        return True

    def refund(self, demand: RefundDemand) -> RefundAnswer:
        """Give back, or say what became of it if it was asked for before.

        Stripe remembers an idempotency key for a day, and answers with what it said then; so the refund is looked for
        first.
        """
        intent = _checked(_INTENT, demand.transaction_id)
        amount = _to_stripe(demand.amount, demand.currency)
        made = self._ask(lambda: self._stripe.v1.refunds.list({"payment_intent": intent, "limit": 100}))
        refund = next(
            (
                entry
                for entry in _dicts(made, "data")
                if _dict(entry, "metadata").get("refund_reference") == demand.refund_reference
            ),
            None,
        )
        if refund is None:
            refund = self._ask(
                lambda: self._stripe.v1.refunds.create(
                    {
                        "payment_intent": intent,
                        "amount": amount,
                        "metadata": {"reference": demand.reference, "refund_reference": demand.refund_reference},
                    },
                    {"idempotency_key": f"refund-{demand.refund_reference}"},
                )
            )
        return _refund_answer(refund)

    def _signed_at(self, callback: RawCallback, reference: str) -> datetime:
        """When the body was signed with our secret. Raises CallbackRefused."""
        header = callback.headers.get("stripe-signature", "")
        # The SDK takes other things for numbers, and stumbles over letters that are not ASCII.
        parts = [part.partition("=") for part in header.split(",")] if _HEADER.fullmatch(header) else []
        times = [value for name, _sign, value in parts if name == "t"]
        if len(times) != 1 or not re.fullmatch(r"[0-9]{1,11}", times[0]):
            raise CallbackRefused("bad_signature", "header", reference=reference)
        try:
            # No tolerance: the time is for the caller of this, and no one else's clock.
            stripe.WebhookSignature.verify_header(callback.body, header, self._webhook_secret)
        except (stripe.SignatureVerificationError, UnicodeDecodeError):
            raise CallbackRefused("bad_signature", reference=reference) from None
        return datetime.fromtimestamp(int(times[0]), UTC)

    def _session(self, reference: str, gateway_id: str) -> dict[str, Any]:
        """The session, with what was paid and kept. Raises Rejected, also if it is that of another payment."""
        session_id = _checked(_SESSION, gateway_id)
        session = self._ask(
            lambda: self._stripe.v1.checkout.sessions.retrieve(
                session_id, {"expand": ["payment_intent.latest_charge.balance_transaction"]}
            )
        )
        if session.get("id") != session_id:
            raise Unavailable("bad_answer")
        if _reference(session) != reference:
            raise Rejected("other_payment")
        return session

    def _open_session(self, reference: str, refusal: Rejected) -> dict[str, Any]:
        """The open session with that reference, or what Stripe said instead."""
        after = ""
        for _page in range(20):
            page = self._ask(lambda: self._stripe.v1.checkout.sessions.list(_listed(after)))  # noqa: B023
            sessions = _dicts(page, "data")
            found = next((session for session in sessions if _reference(session) == reference), None)
            if found is not None:
                return found
            after = str(sessions[-1].get("id", "")) if sessions else ""
            if page.get("has_more") is not True or not after:
                break
        raise refusal

    def _ask(self, call: Callable[[], stripe.StripeObject]) -> dict[str, Any]:
        """What Stripe answers. Raises Unavailable, Rejected."""
        try:
            answer = call()
        except (stripe.APIConnectionError, stripe.RateLimitError, stripe.APIError) as error:
            raise self._failure(Unavailable, error) from error
        except stripe.StripeError as error:
            raise self._failure(Rejected, error) from error
        except (AttributeError, TypeError, ValueError) as error:
            # The SDK itself stumbles over answers that are not Stripe's.
            raise Unavailable("bad_answer", type(error).__name__) from None
        if not isinstance(answer, stripe.StripeObject):
            raise Unavailable("bad_answer")
        return answer.to_dict()

    def _failure(self, failure: type[GatewayFailure], error: stripe.StripeError) -> GatewayFailure:
        said = _dict(error.json_body if isinstance(error.json_body, dict) else {}, "error")
        names = (_CLASS_CODES.get(type(error)), error.code, said.get("code"), said.get("type"))
        code = next((name for name in names if _is(name, _WORD)), "refused")
        detail = str(error.user_message or "")
        for secret in self._secrets:
            detail = detail.replace(secret, "…")
        return failure(code, detail)


def _listed(after: str) -> SessionListParams:
    """The open ones of the last day, on from one of them."""
    since = int((clock.now() - timedelta(days=1, hours=1)).timestamp())
    params: SessionListParams = {"status": "open", "created": {"gte": since}, "limit": 100}
    return {**params, "starting_after": after} if after else params


_CLASS_CODES: dict[type[stripe.StripeError], str] = {
    stripe.APIConnectionError: "unreachable",
    stripe.APIError: "failing",
    stripe.RateLimitError: "busy",
    stripe.AuthenticationError: "denied",
    stripe.PermissionError: "denied",
    stripe.IdempotencyError: "idempotency_error",
}
"""For those whose answer has no code of its own, or none that is always there."""


def _api(address: str) -> str:
    return endpoint(address, default="", label=StripeGateway.fields[-1].label).rstrip("/")


def _wrong_key(key: str) -> str:
    if key.startswith("pk_"):
        return gettext("This is the publishable key, which is for browsers; the secret key begins with sk_ or rk_.")
    if key.startswith("whsec_"):
        return gettext("This is the signing secret of a webhook; the secret key begins with sk_ or rk_.")
    if key.startswith("sk_org_"):
        return gettext("This is the key of an organization; take one of the account that is to be paid.")
    return gettext(
        "A secret key of Stripe begins with sk_live_, rk_live_, sk_test_ or rk_test_; this is something else."
    )


def _places(currency: str) -> int:
    """How many decimal places Stripe counts in. Raises ValueError for currencies that are left to people."""
    if not _CURRENCY.fullmatch(currency.lower()) or currency in _UNCLEAR or money.exponent(currency) > 2:
        # With three places Stripe wants the last to be 0, and rounds its own amounts: sums would not agree.
        raise ValueError(f"not in {currency[:3]!a}")
    return 0 if currency in _WHOLE else 2


def _to_stripe(amount: int, currency: str) -> int:
    """Our minor units as Stripe counts them: 500 yen are 500, 500 Icelandic krónur are 50000. Raises Rejected."""
    try:
        counted = money.to_decimal(amount, currency).scaleb(_places(currency))
    except ValueError as error:
        raise Rejected("currency", str(error)) from error
    if counted <= 0 or counted != counted.to_integral_value():
        raise Rejected("amount")
    return int(counted)


def _from_stripe(amount: Any, currency: str) -> int:
    """Stripe's amount in our minor units. Raises ValueError for what is no amount of money."""
    if type(amount) is not int or amount < 0:
        raise ValueError("amount")
    return money.to_minor(f"{Decimal(amount).scaleb(-_places(currency)):f}", currency)


def _paid(
    session: Mapping[str, Any], reference: str, *, paid_at: datetime | None, charge: Mapping[str, Any] | None = None
) -> Notice:
    """Raises ValueError for a paid session that does not say by what and how much."""
    intent, currency = session.get("payment_intent"), session.get("currency")
    if isinstance(intent, dict):
        intent = intent.get("id")
    if not isinstance(intent, str) or not _INTENT.fullmatch(intent):
        raise ValueError("payment_intent")
    if not isinstance(currency, str) or not _CURRENCY.fullmatch(currency):
        raise ValueError("currency")
    amount = _from_stripe(session.get("amount_total"), currency.upper())
    if amount <= 0:
        raise ValueError("amount")
    fee = _fee(charge or {}, currency)
    return Notice(reference, Outcome.PAID, intent, amount, currency.upper(), fee, paid_at, payer=_payer(charge or {}))


def _payer(charge: Mapping[str, Any]) -> str:
    """The fingerprint of the card, or of whatever account it was: Stripe's own name of it, the same for each payment.

    Whose mail address the payer typed says nothing about that.
    """
    details = _dict(charge, "payment_method_details")
    return payer_in(_dict(details, str(details.get("type"))), "fingerprint")


def _fee(charge: Mapping[str, Any], currency: str) -> int | None:
    """What Stripe kept, if it keeps its books in the payment's currency and counts the fee in our coins."""
    transaction = _dict(charge, "balance_transaction")
    if transaction.get("currency") != currency:
        return None
    try:
        return _from_stripe(transaction.get("fee"), currency.upper())
    except ValueError:
        return None


def _refund_answer(refund: Mapping[str, Any]) -> RefundAnswer:
    status, refund_id = refund.get("status"), refund.get("id")
    if not isinstance(refund_id, str) or not isinstance(status, str):
        raise Unavailable("bad_answer")
    if status in _REFUND_LOST:
        raise Rejected(f"refund_{status}", str(refund.get("failure_reason") or ""))
    return RefundAnswer(is_final=status == "succeeded", gateway_id=refund_id, detail={"status": status})


def _setback(kind: str, said: Mapping[str, Any]) -> Notice | None:
    """What an event says of money that did not stay where it was; None where it says no such thing."""
    outcome = _dispute(kind, str(said.get("status")))
    why, refund_reference = said.get("reason"), ""
    if kind in _REFUND_CHANGED and said.get("status") in _REFUND_LOST:
        outcome, why = Outcome.REFUND_FAILED, said.get("failure_reason")
        refund_reference = reference_in(_dict(said, "metadata").get("refund_reference"))
    named, intent, currency = said.get("id"), said.get("payment_intent"), said.get("currency")
    if outcome is None or not _is(named, _NAME) or not _is(intent, _INTENT) or not _is(currency, _CURRENCY):
        return None
    try:
        amount = _from_stripe(said.get("amount"), currency.upper())
    except ValueError:
        return None
    return Notice(
        "",
        outcome,
        intent,
        amount,
        currency.upper(),
        refund_reference=refund_reference,
        setback_id=named,
        why=why if _is(why, _WORD) else "",
    )


def _dispute(kind: str, status: str) -> Outcome | None:
    # What Stripe calls a warning is an inquiry: the money stays until it becomes a dispute.
    if kind == _DISPUTED:
        return Outcome.INQUIRED if status.startswith("warning_") else Outcome.DISPUTED
    if kind == _FUNDS_TAKEN:
        return Outcome.DISPUTED
    if kind == _DISPUTE_OVER:
        return Outcome.DISPUTE_LOST if status == "lost" else Outcome.DISPUTE_WON
    return None


def _reference(session: Mapping[str, Any]) -> str:
    """Ours, or "" if the session is none of ours."""
    reference = _dict(session, "metadata").get("reference")
    is_ours = session.get("object") == "checkout.session" and session.get("client_reference_id") == reference
    return reference_in(reference) if is_ours else ""


def _checked(pattern: re.Pattern[str], gateway_id: str) -> str:
    if not pattern.fullmatch(gateway_id):
        raise Rejected("unknown")
    return gateway_id


def _is(value: Any, pattern: re.Pattern[str]) -> TypeGuard[str]:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _moment(seconds: Any) -> datetime | None:
    # Four-digit years; a JSON true is an int to Python.
    return datetime.fromtimestamp(seconds, UTC) if type(seconds) is int and 0 <= seconds < 10**11 else None


def _dict(holder: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = holder.get(name)
    return value if isinstance(value, dict) else {}


def _dicts(holder: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    value = holder.get(name)
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
