"""What staff do with orders and money that need a person: `/api/order/confirm`, `/api/payment/held` and the like.

Never an edit of money: every call books something new.
"""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Field, Query, Router, Schema

from accounts.apikit import ErrorOut, Id, Ok, PageOut, PageQuery, TokenAuth, page, reader_of
from billing import services
from billing.models import Order, PaymentMethod, Refund, Transfer
from billing.selectors import orders_in_full
from fleet.api import READ_REFUSALS, REFUSALS

from .amounts import WrittenAmount, in_minor_units
from .catalogue import payment
from .order_fields import (
    OrderAnswer,
    OrderInFull,
    OrderRef,
    RefundOut,
    TransferOut,
    show_in_full,
    show_refund,
    show_transfer,
)

desk = Router(tags=["order"])

DESK_REFUSALS = REFUSALS | {400}


class ConfirmIn(OrderRef):
    """Money that was seen on an account of the operator's."""

    method: str = Field(max_length=40, description="Code of the payment method it came by.")
    transaction_id: str = Field(min_length=1, max_length=128, description="The transfer's own number: it counts once.")
    amount: WrittenAmount = Field(description="What came in, in the order's currency.")
    evidence: str = Field(min_length=1, max_length=2000, description="What you have seen of it.")
    payer: str = Field(
        "", max_length=200, description="Number of the account that paid, if you see it whole; kept as a digest alone."
    )


class ConfirmAnswer(Ok):
    """What became of it."""

    verdict: str = Field(description="`counted`; `repeated`: known already; `held`: it does not fit, a person decides.")
    problem: str = Field(description="Why it is held; `other_payment`: it was counted elsewhere; else empty.")
    order: OrderInFull


class RefundIn(OrderRef):
    """How much of an order goes back, and why."""

    amount: WrittenAmount | None = Field(None, description="All that is left when left out.")
    takes_back: bool | None = Field(
        None, description="Whether what was delivered is taken back; giving back all that is left always does."
    )
    is_sent: bool = Field(False, description="The money has gone back already, outside the portal: nothing is sent.")
    reason: str = Field(min_length=1, max_length=200)
    refunded: WrittenAmount | None = Field(
        None,
        description="The order's `refunded` as you saw it: should it differ by now, nothing is given back. Send it, "
        "and the call can be sent again without giving back twice.",
    )


class RefundAnswer(Ok):
    """The refund that was decided, and the order."""

    refund: RefundOut
    order: OrderInFull


class SettleIn(Schema):
    """A refund that a person has sent."""

    refund: str = Field(max_length=32, description="Its number.")
    reference: str = Field(min_length=1, max_length=128, description="By which transfer.")


class RefundedAnswer(Ok):
    """The refund the call was about."""

    refund: RefundOut


class RefundQuery(PageQuery):
    """Filter of the list."""

    state: Refund.State | None = None


class RefundPage(PageOut):
    """A part of the list, newest first."""

    items: list[RefundOut]


class HeldOut(TransferOut):
    """Money that came in and does not fit."""

    order: str
    user_id: int | None
    reference: str = Field(description="Of the payment.")
    method: str
    evidence: str


class HeldPage(PageOut):
    """A part of the list, newest first."""

    items: list[HeldOut]


class TransferIn(Schema):
    """Which money, and why so."""

    transfer_id: Id
    reason: str = Field(min_length=1, max_length=200)


@desk.post(
    "/confirm",
    response={200: ConfirmAnswer, DESK_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("billing.change_order",)),
)
def confirm(request: HttpRequest, data: ConfirmIn) -> dict[str, Any]:
    """You have seen the money: the order is paid, if it is just what it costs. The same transaction counts once."""
    target = get_object_or_404(Order, number=data.number)
    taken = services.confirm_by_hand(
        order_id=target.pk,
        method=get_object_or_404(PaymentMethod, code=data.method),
        transaction_id=data.transaction_id,
        amount=in_minor_units(data.amount, target.currency, least=1),
        evidence=data.evidence,
        payer=data.payer,
        actor=reader_of(request),
    )
    return {"success": True, "verdict": taken.verdict, "problem": taken.problem, "order": _show(request, target.pk)}


@desk.post(
    "/refund",
    response={200: RefundAnswer, DESK_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("billing.change_order",)),
)
def refund(request: HttpRequest, data: RefundIn) -> dict[str, Any]:
    """Give back money of an order. All that is left takes back what was delivered: unused serials, days not served."""
    target = get_object_or_404(Order, number=data.number)
    amount = in_minor_units(data.amount, target.currency, least=1) if data.amount is not None else None
    seen = in_minor_units(data.refunded, target.currency, field="refunded") if data.refunded is not None else None
    decided = services.refund_order(
        order_id=target.pk,
        amount=amount,
        takes_back=data.takes_back,
        is_sent=data.is_sent,
        seen_refunded=seen,
        reason=data.reason,
        actor=reader_of(request),
    )
    shown = show_refund(decided, target, is_for_staff=True)
    return {"success": True, "refund": shown, "order": _show(request, target.pk)}


@desk.post(
    "/refund_settle",
    response={200: RefundedAnswer, DESK_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("billing.change_refund",)),
)
def settle(request: HttpRequest, data: SettleIn) -> dict[str, Any]:
    """You have sent a refund yourself, because the gateway cannot. Twice is fine; one that the gateway sends, or
    that was sent by another transfer: 409.
    """
    target = get_object_or_404(Refund, number=data.refund)
    done = services.settle_by_hand(refund_id=target.pk, reference=data.reference, actor=reader_of(request))
    return {"success": True, "refund": show_refund(done, done.order, is_for_staff=True)}


@desk.post(
    "/deliver",
    response={200: OrderAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("billing.change_order",)),
)
def deliver(request: HttpRequest, data: OrderRef) -> dict[str, Any]:
    """Try again to deliver a paid order; its `trouble` says why not, if it stays so. Delivered is never twice."""
    target = get_object_or_404(Order, number=data.number)
    services.deliver(order_id=target.pk, actor=reader_of(request))
    return {"success": True, "order": _show(request, target.pk)}


@payment.get(
    "/held",
    response={200: HeldPage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("billing.view_transfer",)),
)
def list_held(request: HttpRequest, query: Query[PageQuery]) -> dict[str, Any]:
    """Money that came in and does not fit: too little, too much, too late. `accept` it or `return` it."""
    found = Transfer.objects.filter(state=Transfer.State.HELD).select_related("payment__order", "method")
    return page(found, query.page, query.per_page, _show_held)


@payment.post(
    "/accept",
    response={200: OrderAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("billing.change_transfer",)),
)
def accept(request: HttpRequest, data: TransferIn) -> dict[str, Any]:
    """Count held money as the payment of its order all the same. What is too much goes back. Twice is fine."""
    target = get_object_or_404(Transfer, pk=data.transfer_id)
    paid = services.accept_transfer(transfer_id=target.pk, reason=data.reason, actor=reader_of(request))
    return {"success": True, "order": _show(request, paid.pk)}


@payment.post(
    "/return",
    response={200: RefundedAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("billing.change_transfer",)),
)
def give_back(request: HttpRequest, data: TransferIn) -> dict[str, Any]:
    """Give held money back, all of it. Once it is given back: 409 `not_refundable`."""
    target = get_object_or_404(Transfer, pk=data.transfer_id)
    decided = services.give_back_transfer(transfer_id=target.pk, reason=data.reason, actor=reader_of(request))
    return {"success": True, "refund": show_refund(decided, decided.order, is_for_staff=True)}


@payment.get(
    "/refunds",
    response={200: RefundPage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("billing.view_refund",)),
)
def list_refunds(request: HttpRequest, query: Query[RefundQuery]) -> dict[str, Any]:
    """Money that goes back; `state=by_hand` is what a person must send."""
    found = Refund.objects.select_related("order")
    if query.state:
        found = found.filter(state=query.state)
    return page(found, query.page, query.per_page, lambda one: show_refund(one, one.order, is_for_staff=True))


def _show(request: HttpRequest, order_id: int) -> dict[str, Any]:
    return show_in_full(orders_in_full().get(pk=order_id), reader=reader_of(request), is_for_staff=True)


def _show_held(transfer: Transfer) -> dict[str, Any]:
    return show_transfer(transfer) | {
        "order": transfer.payment.order.number,
        "user_id": transfer.payment.order.user_id,
        "reference": transfer.payment.reference,
        "method": transfer.method.code,
        "evidence": transfer.evidence,
    }
