"""What every way to pay is to the rest of the house: one small protocol, three kinds of failure.

A gateway knows nothing of orders and of the database. It is made from its settings, asks for money, reads what the
other side says of it, and gives it back. Whether a notice counts is for `billing.services.receiving` to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import ClassVar, Protocol

from django.utils.functional import Promise

WINDOW = timedelta(minutes=5)
"""How far the time that a callback was signed with may lie from ours, either way."""

REFERENCE_LENGTH = 32
"""Our references are at most so many of A–Z and 0–9: every gateway takes those."""


class GatewayFailure(Exception):
    """A gateway did not do what it was asked. `code` is stable, `detail` what the other side said (never a secret)."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail[:500]


class Unavailable(GatewayFailure):
    """No answer, or one that says to come back: try again."""


class Rejected(GatewayFailure):
    """It said no. Trying again cannot help; a person must look."""


class CallbackRefused(GatewayFailure):
    """What came in is not to be believed.

    Codes: `malformed` (not the gateway's shape), `bad_signature`, `stale` (signed outside WINDOW), `other_merchant`
    (for another account), `unsupported` (a kind of event that says nothing about payments).
    `reference` is what it claims to be about, "" if that cannot be read; we may ask the gateway about it.
    """

    def __init__(self, code: str, detail: str = "", *, reference: str = "") -> None:
        super().__init__(code, detail)
        self.reference = reference[:REFERENCE_LENGTH]


@dataclass(frozen=True, slots=True)
class SettingField:
    """One of a gateway's settings, as the operator's form shows it."""

    name: str
    label: Promise | str
    help: Promise | str = ""
    is_secret: bool = True
    is_long: bool = False
    is_required: bool = True


@dataclass(frozen=True, slots=True)
class Demand:
    """What the payer is asked for."""

    reference: str
    """Ours; the gateway says it back in everything about this payment."""
    amount: int
    """Minor units, more than 0."""
    currency: str
    subject: str
    """What the payer reads at the gateway."""
    expires_at: datetime
    return_url: str
    """Where the payer's browser comes back to; says nothing about having paid."""
    notify_url: str
    """Where the gateway calls back."""
    client_ip: str = ""
    is_mobile: bool = False
    language: str = "en"


@dataclass(frozen=True, slots=True)
class Opened:
    """How the payer pays: a page to be sent to, a text to be shown as a QR code, or (offline) neither."""

    redirect_url: str = ""
    qr_text: str = ""
    gateway_id: str = ""
    """The gateway's own name of this attempt, where it has one before anything is paid."""


class Outcome(StrEnum):
    """What the gateway knows of a payment."""

    PAID = "paid"
    PENDING = "pending"
    CLOSED = "closed"
    """It will not be paid any more: expired, cancelled, failed, or never heard of long after."""
    INQUIRED = "inquired"
    """It was paid, and the payer's bank asks what for; no money has moved."""
    DISPUTED = "disputed"
    """It was paid, and the payer's bank has taken the money back until somebody answers."""
    DISPUTE_WON = "dispute_won"
    DISPUTE_LOST = "dispute_lost"
    REFUND_FAILED = "refund_failed"
    """Money that was given back did not arrive, though the gateway had said it was done."""


SETBACKS = frozenset(
    {Outcome.INQUIRED, Outcome.DISPUTED, Outcome.DISPUTE_WON, Outcome.DISPUTE_LOST, Outcome.REFUND_FAILED}
)


@dataclass(frozen=True, slots=True)
class Notice:
    """What a gateway said about one payment, its signature and time already checked.

    For PAID, `transaction_id`, `amount` and `currency` say what was really paid, for `SETBACKS` how much of which
    transaction it is about; else they are empty.
    """

    reference: str
    """Ours; "" in a setback, which names the transaction."""
    outcome: Outcome
    transaction_id: str = ""
    amount: int = 0
    currency: str = ""
    fee: int | None = None
    """What the gateway keeps, in minor units of the same currency; None where it does not say."""
    paid_at: datetime | None = None
    payer: str = field(default="", repr=False)
    """Which account paid, by the gateway's own lasting name of it (no mail address, no name of a person); "" where it
    does not say. Kept nowhere as it is, and in no log: see `billing.services.payers`.
    """
    refund_reference: str = ""
    """Of REFUND_FAILED: ours."""
    setback_id: str = ""
    """Of a setback: the gateway's own name of the dispute or refund."""
    why: str = ""
    """Of a setback: the gateway's own word for it."""


@dataclass(frozen=True, slots=True)
class RawCallback:
    """A request as it came in. Header names are lower case; `query` is the raw query string."""

    method: str
    headers: Mapping[str, str]
    body: bytes
    query: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class CallbackAnswer:
    """What the gateway wants to read. Anything else makes it call again."""

    status: int
    body: str
    content_type: str = "text/plain"


@dataclass(frozen=True, slots=True)
class RefundDemand:
    """Money to be given back. The same `refund_reference` is given back once, however often it is asked for."""

    refund_reference: str
    reference: str
    """Of the payment."""
    transaction_id: str
    amount: int
    paid_amount: int
    """What the payment was in all; some gateways want to hear it."""
    currency: str
    reason: str = ""
    notify_url: str = ""
    gateway_id: str = ""


@dataclass(frozen=True, slots=True)
class RefundAnswer:
    """`is_final` False: it is on its way; asking again with the same reference tells when it is done."""

    is_final: bool
    gateway_id: str = ""
    detail: Mapping[str, str] = field(default_factory=dict)


class Gateway(Protocol):
    """One way to pay, made from its settings: `AlipayGateway({"app_id": …})`.

    The constructor raises ValueError, in words for the operator, for settings that cannot work (a key that is none).
    """

    kind: ClassVar[str]
    label: ClassVar[Promise | str]
    fields: ClassVar[tuple[SettingField, ...]]
    currencies: ClassVar[frozenset[str]]
    """Empty means any."""
    is_automatic: ClassVar[bool]
    """Whether the gateway itself tells of payments; else a person confirms them."""
    can_refund: ClassVar[bool]
    """Whether money can be given back through it; else a person does, and says so."""
    knows_refunds: ClassVar[bool]
    """Whether it knows a refund by our number, so that asking for it again gives back once."""
    names_payer_late: ClassVar[bool]
    """Whether only its answer to a question says which account paid, never its callback."""

    def __init__(self, settings: Mapping[str, str]) -> None: ...

    def start(self, demand: Demand) -> Opened:
        """Ask for the money. Raises Unavailable, Rejected. The same reference may be started again."""

    def read_callback(self, callback: RawCallback) -> Notice:
        """What the callback says. Asks nobody. Raises CallbackRefused."""

    def answer(self, *, is_taken: bool) -> CallbackAnswer:
        """What to answer to a callback that was taken (also one seen before), or refused."""

    def query(self, reference: str, *, gateway_id: str = "", currency: str = "") -> Notice:
        """Ask what became of a payment. Raises Unavailable, Rejected."""

    def close(self, reference: str, *, gateway_id: str = "") -> bool:
        """Let it not be paid any more; False where the gateway cannot promise that. Raises Unavailable; Rejected if it
        was paid already.
        """

    def refund(self, demand: RefundDemand) -> RefundAnswer:
        """Give money back. Raises Unavailable, Rejected."""
