"""`/api/order/…`: a customer's purchases, from the price to the payment."""

from __future__ import annotations

from typing import Annotated, Any

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from ninja import Header, Query, Router

from accounts import ratelimit
from accounts.apikit import ErrorOut, TokenAuth, page, reader_of, sees_everybody
from accounts.models import User
from billing import services
from billing.access import order_for
from billing.models import Order, PaymentMethod
from billing.selectors import lookup_orders, orders_in_full, orders_of
from billing.services.pricing import slow_down_guessers
from derp_portal.lib.errors import PortalError
from fleet.api import READ_REFUSALS, REFUSALS, whose

from .order_fields import (
    LONGEST_KEY,
    BasketIn,
    CancelIn,
    CreatedAnswer,
    OrderAnswer,
    OrderIn,
    OrderPage,
    OrderQuery,
    PayAnswer,
    PayIn,
    QuoteAnswer,
    is_what_was_wanted,
    items_of,
    show_in_full,
    show_open_payment,
    show_order,
    show_quote,
)

order = Router(tags=["order"])

ORDER_REFUSALS = REFUSALS | {400, 429}
PAY_REFUSALS = REFUSALS | {429, 502}

TEN_MINUTES = 600
MOST_ORDERS, MOST_PAYMENTS = 120, 120
"""In ten minutes, of one account: more coupons is guessing, the others a program that has gone astray."""

IdempotencyKey = Annotated[
    str, Header("", alias="Idempotency-Key", max_length=LONGEST_KEY, description="Another name for `client_key`.")
]


@order.post("/quote", response={200: QuoteAnswer, ORDER_REFUSALS: ErrorOut}, auth=TokenAuth("orders"))
def quote(request: HttpRequest, data: BasketIn) -> dict[str, Any]:
    """What it would cost you now, with limits and coupon checked. Orders nothing and holds nothing back."""
    buyer = reader_of(request)
    slow_down_guessers(buyer, data.coupon)
    found = services.quote(user=buyer, items=items_of(data.items), coupon_code=data.coupon, currency=data.currency)
    return {"success": True, "quote": show_quote(found)}


@order.post("/create", response={200: CreatedAnswer, ORDER_REFUSALS: ErrorOut}, auth=TokenAuth("orders"))
def create(request: HttpRequest, data: OrderIn, idempotency_key: IdempotencyKey) -> dict[str, Any]:
    """Order at the prices of this moment. With a key of yours it is safe to send again: it orders once.

    With `pay_with` the answer says how to pay. Should that fail, the order stands: `payment_error` says why, and
    `/api/order/pay` tries again. What costs nothing is paid at once.
    """
    buyer = reader_of(request)
    key = the_one_key(idempotency_key, data.client_key)
    method = _method_named(data.pay_with) if data.pay_with else None
    ratelimit.hit(scope="order", key=str(buyer.pk), limit=MOST_ORDERS, window_seconds=TEN_MINUTES)
    slow_down_guessers(buyer, data.coupon)
    items = items_of(data.items)
    placed = services.place_order(
        user=buyer, items=items, coupon_code=data.coupon, currency=data.currency, client_key=key, actor=buyer
    )
    placed = orders_of(buyer).get(pk=placed.pk)
    if key and not is_what_was_wanted(placed, items, data.currency, data.coupon):
        raise PortalError(
            _("You have used this key before, for order %(order)s, which was of something else.")
            % {"order": placed.number},
            code="key_taken",
            status=409,
            number=placed.number,
        )
    answer: dict[str, Any] = {"success": True, "payment": None, "payment_error": None}
    if method and placed.state == Order.State.PENDING:
        try:
            answer["payment"] = _begin(placed, method, is_mobile=data.is_mobile, buyer=buyer)
        except PortalError as refusal:
            answer["payment_error"] = {"code": refusal.code, "message": str(refusal.message)}
        placed = orders_of(buyer).get(pk=placed.pk)
    return answer | {"order": show_order(placed)}


@order.post("/pay", response={200: PayAnswer, PAY_REFUSALS: ErrorOut}, auth=TokenAuth("orders"))
def pay(request: HttpRequest, data: PayIn) -> dict[str, Any]:
    """Begin to pay an order of yours, or go on with an attempt that is open.

    It is paid once its `state` says so, whatever the page says to which the gateway sends its payer back.
    """
    buyer = reader_of(request)
    ratelimit.hit(scope="pay", key=str(buyer.pk), limit=MOST_PAYMENTS, window_seconds=TEN_MINUTES)
    wanted, method = order_for(buyer, data.number), _method_named(data.method)
    return {"success": True, "payment": _begin(wanted, method, is_mobile=data.is_mobile, buyer=buyer)}


@order.post(
    "/cancel",
    response={200: OrderAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("orders", everybody="billing.change_order"),
)
def cancel(request: HttpRequest, data: CancelIn) -> dict[str, Any]:
    """Give up an order that is not paid; its coupon can be used again. Twice is fine. A paid one: 409 `order_paid`."""
    target = visible_order(request, data.number)
    services.cancel_order(order_id=target.pk, reason=data.reason, actor=reader_of(request))
    return order_answer(request, target.pk)


@order.get(
    "/list",
    response={200: OrderPage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("orders", everybody="billing.view_order"),
)
def list_orders(request: HttpRequest, query: Query[OrderQuery]) -> dict[str, Any]:
    """Your orders; with the staff scope, everybody's, those of outside shops too."""
    buyer = reader_of(request) if query.own else whose(request, query.user_id)
    found = orders_of(buyer)
    if query.state:
        found = found.filter(state=query.state)
    if query.channel:
        found = found.filter(channel__code=query.channel)
    if query.since:
        found = found.filter(created_at__gte=query.since)
    if query.until:
        found = found.filter(created_at__lt=query.until)
    if query.q:
        found = lookup_orders(found, query.q, is_of_one=buyer is not None)
    return page(found, query.page, query.per_page, show_order)


# Last: a number may be any word, and these are tried in order.
@order.get(
    "/{number}",
    response={200: OrderAnswer, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("orders", everybody="billing.view_order"),
)
def show(request: HttpRequest, number: str) -> dict[str, Any]:
    """An order with its payments, refunds and steps; the codes of serials to hand on only for whoever bought them."""
    return order_answer(request, visible_order(request, number).pk)


def visible_order(request: HttpRequest, number: str) -> Order:
    """The order of that number, if the reader may see it. Raises Http404."""
    if sees_everybody(request):
        return get_object_or_404(orders_in_full(), number=number)
    return order_for(reader_of(request), number)


def order_answer(request: HttpRequest, order_id: int) -> dict[str, Any]:
    """The order as it is now as `OrderAnswer`."""
    shown = orders_in_full().get(pk=order_id)
    full = show_in_full(shown, reader=reader_of(request), is_for_staff=sees_everybody(request))
    return {"success": True, "order": full}


def _begin(wanted: Order, method: PaymentMethod, *, is_mobile: bool, buyer: User) -> dict[str, Any]:
    begun = services.start_payment(order_id=wanted.pk, method=method, is_mobile=is_mobile, actor=buyer)
    return show_open_payment(begun)


def _method_named(code: str) -> PaymentMethod:
    """The payment method of that code; one that is not offered and one that nobody has are the same."""
    found = services.offered_methods().filter(code=code).first()
    if found is None:
        raise PortalError(_("This way to pay is not offered."), code="method_not_offered", status=409)
    return found


def the_one_key(in_header: str, in_body: str) -> str:
    """The caller's own key, which may come in a header or in the body. Raises PortalError when they differ."""
    if in_header and in_body and in_header != in_body:
        raise PortalError(
            _("Send your key once, or the same one twice: the header and client_key differ."),
            code="invalid_input",
            status=422,
        )
    return in_header or in_body
