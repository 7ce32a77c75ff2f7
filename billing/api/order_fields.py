"""What the operations on orders take and answer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from django.utils.translation import get_language
from django.utils.translation import gettext as _
from ninja import Field, Schema
from pydantic import model_validator

from accounts.apikit import Id, Moment, Ok, PageOut, PageQuery, Start
from accounts.models import User
from billing.gateways.offline import OfflineGateway
from billing.models import Order, OrderLine, OrderTransition, PackOffer, Payment, Refund, Transfer
from billing.services import Quote, codes_of, gateway_of
from billing.services.pricing import MOST_AT_ONCE, MOST_LINES, Item, QuotedLine
from billing.services.words import name_of
from serials.models import Plan

from .amounts import CurrencyCode, Decimals, both_ways

Kind = OrderLine.Kind
LONGEST_KEY = 80


class OrderRef(Schema):
    """Names an order."""

    number: str = Field(max_length=24, examples=["310531ABCDEFGHJK"])


class ItemIn(Schema):
    """Something to buy: serials of a plan, or a traffic pack."""

    kind: Literal["self", "renewal", "gift", "pack", "wholesale"] = Field(
        "self",
        description="`self`: serials of `plan`, redeemed for you at once; `renewal`: the same, for `lease_id`; `gift`: "
        "serials to hand on; `pack`: traffic for `lease_id`; `wholesale`: many serials, for resellers.",
    )
    plan: str = Field("", max_length=80, description="Code of a plan.", examples=["30-days"])
    pack: str = Field("", max_length=80, description="Code of a traffic pack.")
    quantity: int = Field(1, ge=1, le=MOST_AT_ONCE[Kind.WHOLESALE])
    lease_id: Id | None = Field(None, description="Which of your leases it is for.")
    new_lease: bool = Field(False, description="Of `self`: a lease of its own beside those you have.")

    @model_validator(mode="after")
    def _says_what_and_for_which_lease(self) -> ItemIn:
        if self.kind == "pack" and (not self.pack or self.plan):
            raise ValueError(_("a pack is named by pack"))
        if self.kind != "pack" and (not self.plan or self.pack):
            raise ValueError(_("serials are named by plan"))
        if self.kind in ("renewal", "pack") and self.lease_id is None:
            raise ValueError(_("a renewal and a pack need lease_id"))
        if self.kind in ("gift", "wholesale") and self.lease_id is not None:
            raise ValueError(_("what is handed on has no lease_id"))
        if self.new_lease and (self.kind != "self" or self.lease_id is not None):
            raise ValueError(_("new_lease is for kind self, without lease_id"))
        return self


class BasketIn(Schema):
    """What to buy, in which currency, with which coupon."""

    items: list[ItemIn] = Field(min_length=1, max_length=MOST_LINES)
    coupon: str = Field("", max_length=40)
    currency: CurrencyCode = "CNY"


class OrderIn(BasketIn):
    """An order."""

    client_key: str = Field(
        "",
        max_length=LONGEST_KEY,
        description="Your own name for this order: the same one orders once. Or send it as header `Idempotency-Key`.",
    )
    pay_with: str = Field("", max_length=40, description="Code of a payment method: begins to pay at once.")
    is_mobile: bool = Field(False, description="Whether the one who pays holds a phone: some gateways have two pages.")


class PayIn(OrderRef):
    """Which order is paid, and how."""

    method: str = Field(max_length=40, description="Code of a payment method.")
    is_mobile: bool = Field(False, description="Whether the one who pays holds a phone: some gateways have two pages.")


class CancelIn(OrderRef):
    """Which order is given up."""

    reason: str = Field("", max_length=200)


class OrderQuery(PageQuery):
    """Filters of the list; what is others' is for staff."""

    state: Order.State | None = None
    q: str = Field(
        "", max_length=200, description="Part of a number, of a plan's name, or of a payment's or transfer's."
    )
    own: bool = Field(False, description="Your own only, also for staff.")
    user_id: Id | None = None
    channel: str = Field("", max_length=40, description="Code of an outside shop.")
    since: Start | None = Field(None, description="Ordered at this moment or later.")
    until: Moment | None = Field(None, description="Ordered before this.")


class QuotedLineOut(Schema):
    """An item with its price."""

    kind: OrderLine.Kind
    name: str = Field(description="In the reader's language.")
    plan: str | None
    pack: str | None
    lease_id: int | None
    quantity: int
    currency: str
    unit_amount: Decimals
    unit_amount_minor: int
    amount: Decimals = Field(description="After its part of the discount.")
    amount_minor: int


class QuoteOut(Schema):
    """What the order would cost now."""

    currency: str
    subtotal: Decimals
    subtotal_minor: int
    discount: Decimals
    discount_minor: int
    total: Decimals
    total_minor: int
    coupon: str | None
    lines: list[QuotedLineOut]


class QuoteAnswer(Ok):
    """The price of a basket."""

    quote: QuoteOut


class LineOut(QuotedLineOut):
    """One thing that was ordered, as it was on sale then."""

    problem: str = Field(description="Why it was delivered otherwise than ordered: then `codes` holds it. Else empty.")


class OrderOut(Schema):
    """An order. Its prices are those of the moment in which it was placed."""

    number: str
    state: Order.State
    user_id: int | None = Field(description="null when an outside shop sold it.")
    channel: str | None = Field(description="Code of that shop.")
    external_number: str = Field(description="The shop's order number.")
    client_key: str
    coupon: str | None
    currency: str
    subtotal: Decimals
    subtotal_minor: int
    discount: Decimals
    discount_minor: int
    total: Decimals
    total_minor: int
    received: Decimals = Field(description="What was counted as payment.")
    received_minor: int
    refunded: Decimals
    refunded_minor: int
    trouble: str = Field(description="Why a paid order is not delivered yet, else empty; a person looks into it.")
    created_at: datetime
    expires_at: datetime | None = Field(description="Until when it can be paid.")
    paid_at: datetime | None
    fulfilled_at: datetime | None
    closed_at: datetime | None
    lines: list[LineOut]


class OrderPage(PageOut):
    """A part of the list, newest first."""

    items: list[OrderOut]


class TransferOut(Schema):
    """Money that came in."""

    transfer_id: int
    transaction_id: str
    currency: str
    amount: Decimals
    amount_minor: int
    state: Transfer.State
    problem: str = Field(description="Why it could not simply be counted, else empty.")
    paid_at: datetime


class AttemptOut(Schema):
    """One attempt to pay."""

    reference: str
    method: str
    state: Payment.State
    problem: str
    currency: str
    amount: Decimals
    amount_minor: int
    created_at: datetime
    paid_at: datetime | None


class AttemptInFull(AttemptOut):
    """One attempt to pay, with what came in for it."""

    transfers: list[TransferOut]


class OpenPayment(AttemptOut):
    """How to pay: a page to go to, a text to show as a QR code, or instructions for a transfer."""

    redirect_url: str | None
    qr_text: str | None
    instructions: str | None = Field(description="Of a transfer: where to, beside the amount and the reference.")
    expires_at: datetime | None = Field(description="Until when the order can be paid.")


class RefundOut(Schema):
    """Money that goes back."""

    number: str
    order: str
    kind: Refund.Kind
    state: Refund.State
    currency: str
    amount: Decimals
    amount_minor: int
    takes_back: bool = Field(description="Whether what was delivered was taken back.")
    created_at: datetime
    done_at: datetime | None
    reason: str | None = Field(description="For staff.")
    problem: str | None = Field(description="Why a person must send it; for staff.")
    reference: str | None = Field(description="By which transfer it was sent; for staff.")


class OrderStepOut(Schema):
    """From one state to the next."""

    from_state: Order.State | None
    to_state: Order.State
    created_at: datetime
    by: Literal["customer", "staff", "system"]
    actor_id: int | None = Field(description="For staff.")
    reason: str | None = Field(description="For staff.")


class OrderInFull(OrderOut):
    """An order with all that happened to it."""

    payments: list[AttemptInFull]
    refunds: list[RefundOut]
    steps: list[OrderStepOut]
    codes: list[str] | None = Field(
        description="Serials to hand on that nobody has redeemed yet; null for everybody but the customer."
    )


class OrderAnswer(Ok):
    """The order the call was about."""

    order: OrderInFull


class Failure(Schema):
    """Why the payment could not be begun; the order stands and can be paid."""

    code: str
    message: str


class CreatedAnswer(Ok):
    """The order and, with `pay_with`, how to pay it."""

    order: OrderOut
    payment: OpenPayment | None
    payment_error: Failure | None


class PayAnswer(Ok):
    """How to pay."""

    payment: OpenPayment


# --- from and to the house's own ---------------------------------------------------------------------


def items_of(wanted: Sequence[ItemIn]) -> list[Item]:
    """The items of a basket; a code that is not known names nothing, which is not on sale."""
    plans = {one.code: one for one in Plan.objects.filter(code__in=[item.plan for item in wanted if item.plan])}
    packs = {one.code: one for one in PackOffer.objects.filter(code__in=[item.pack for item in wanted if item.pack])}
    return [
        Item(
            Kind(item.kind),
            plan=plans.get(item.plan),
            pack=packs.get(item.pack),
            quantity=item.quantity,
            lease_id=item.lease_id,
            is_new_lease=item.new_lease,
        )
        for item in wanted
    ]


def is_what_was_wanted(order: Order, items: Sequence[Item], currency: str, coupon: str) -> bool:
    """Whether the order is of just these items: a key that is sent again with others is a slip of the pen."""
    ordered = [
        (line.kind, line.plan_id, line.pack_id, line.quantity, line.lease_id, line.snapshot.get("new_lease", False))
        for line in order.lines.all()
    ]
    wanted = [
        (
            item.kind.value,
            item.plan.pk if item.plan else None,
            item.pack.pk if item.pack else None,
            item.quantity,
            item.lease_id,
            item.is_new_lease,
        )
        for item in items
    ]
    code = order.coupon.code if order.coupon else ""
    return (ordered, order.currency, code) == (wanted, currency, coupon.strip().upper())


def show_quote(quote: Quote) -> dict[str, Any]:
    """A quote as `QuoteOut`."""
    totals = both_ways(quote.currency, subtotal=quote.subtotal, discount=quote.discount, total=quote.total)
    return totals | {
        "coupon": quote.coupon.code if quote.coupon else None,
        "lines": [_show_quoted(line, quote.currency) for line in quote.lines],
    }


def _show_quoted(line: QuotedLine, currency: str) -> dict[str, Any]:
    thing = line.item.pack or line.item.plan
    return both_ways(currency, unit_amount=line.unit_amount, amount=line.amount) | {
        "kind": line.item.kind,
        "name": thing.local_name if thing else "",
        "plan": line.item.plan.code if line.item.plan else None,
        "pack": line.item.pack.code if line.item.pack else None,
        "lease_id": line.lease.pk if line.lease else None,
        "quantity": line.item.quantity,
    }


def show_order(order: Order) -> dict[str, Any]:
    """An order from `orders_of()` as `OrderOut`; queries nothing."""
    names = (
        *("number", "state", "user_id", "external_number", "client_key", "trouble"),
        *("created_at", "expires_at", "paid_at", "fulfilled_at", "closed_at"),
    )
    amounts = {name: getattr(order, name) for name in ("subtotal", "discount", "total", "received", "refunded")}
    return (
        {name: getattr(order, name) for name in names}
        | both_ways(order.currency, **amounts)
        | {
            "channel": order.channel.code if order.channel else None,
            "coupon": order.coupon.code if order.coupon else None,
            "lines": [_show_line(line, order.currency) for line in order.lines.all()],
        }
    )


def _show_line(line: OrderLine, currency: str) -> dict[str, Any]:
    return both_ways(currency, unit_amount=line.unit_amount, amount=line.amount) | {
        "kind": line.kind,
        "name": name_of(line),
        "plan": line.plan.code if line.plan else None,
        "pack": line.pack.code if line.pack else None,
        "lease_id": line.lease_id,
        "quantity": line.quantity,
        "problem": line.problem,
    }


def show_in_full(order: Order, *, reader: User, is_for_staff: bool) -> dict[str, Any]:
    """An order from `orders_in_full()` as `OrderInFull`, its codes if they are the reader's."""
    return show_order(order) | {
        "payments": [
            _show_payment(one) | {"transfers": [show_transfer(each) for each in one.transfers.all()]}
            for one in order.payments.all()
        ],
        "refunds": [show_refund(one, order, is_for_staff=is_for_staff) for one in order.refunds.all()],
        "steps": [_show_step(one, order, is_for_staff=is_for_staff) for one in order.transitions.all()],
        "codes": codes_of(order) if order.user_id == reader.pk else None,
    }


def _show_payment(payment: Payment) -> dict[str, Any]:
    names = ("reference", "state", "problem", "created_at", "paid_at")
    return (
        {name: getattr(payment, name) for name in names}
        | both_ways(payment.currency, amount=payment.amount)
        | {"method": payment.method.code}
    )


def show_open_payment(payment: Payment) -> dict[str, Any]:
    """A payment that was just begun as `OpenPayment`."""
    gateway = gateway_of(payment.method)
    return _show_payment(payment) | {
        "redirect_url": payment.redirect_url or None,
        "qr_text": payment.qr_text or None,
        "instructions": gateway.instructions(get_language() or "") if isinstance(gateway, OfflineGateway) else None,
        "expires_at": payment.order.expires_at,
    }


def show_transfer(transfer: Transfer) -> dict[str, Any]:
    """A transfer as `TransferOut`."""
    return both_ways(transfer.currency, amount=transfer.amount) | {
        "transfer_id": transfer.pk,
        "transaction_id": transfer.transaction_id,
        "state": transfer.state,
        "problem": transfer.problem,
        "paid_at": transfer.paid_at,
    }


def show_refund(refund: Refund, order: Order, *, is_for_staff: bool) -> dict[str, Any]:
    """A refund as `RefundOut`."""
    names = ("number", "kind", "state", "takes_back", "created_at", "done_at")
    return (
        {name: getattr(refund, name) for name in names}
        | both_ways(refund.currency, amount=refund.amount)
        | {"order": order.number}
        | {name: getattr(refund, name) if is_for_staff else None for name in ("reason", "problem", "reference")}
    )


def _show_step(step: OrderTransition, order: Order, *, is_for_staff: bool) -> dict[str, Any]:
    by = "system" if step.actor_id is None else "customer" if step.actor_id == order.user_id else "staff"
    return {
        "from_state": step.from_state or None,
        "to_state": step.to_state,
        "created_at": step.created_at,
        "by": by,
        "actor_id": step.actor_id if is_for_staff else None,
        "reason": step.reason if is_for_staff else None,
    }
