"""`/api/serial/pickup`, `refund` and `stock`: what outside shops fetch, each with a token of its own.

A shop's token opens nothing else, and nobody else's token opens these.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.utils.translation import gettext as _
from ninja import Field, Router, Schema
from ninja.security import HttpBearer
from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from accounts import ratelimit, request_ip
from accounts.apikit import ErrorOut, Ok
from billing import services
from billing.models import SalesChannel
from billing.services.channels import StockLevel
from serials.codes import grouped

from .amounts import CurrencyCode, WrittenAmount, in_minor_units

shop = Router(tags=["outside shop"])

SHOP_REFUSALS = frozenset({401, 409, 410, 422, 429, 503})

MINUTE = 60
MOST_CALLS, MOST_WRONG_TOKENS = 600, 60
"""In a minute: of one shop, and of one address."""


class ChannelAuth(HttpBearer):
    """`Authorization: Bearer dps_…`, the token of an enabled outside shop. Sets `request.auth` to the shop."""

    def authenticate(self, request: HttpRequest, token: str) -> SalesChannel | None:
        """The shop, or None (401) when the token is no shop's. Raises RateLimited."""
        found = services.channel_of_token(token)
        if found is None:
            ip = request_ip.as_counted(request_ip.current())
            ratelimit.hit(scope="shop-token", key=ip, limit=MOST_WRONG_TOKENS, window_seconds=MINUTE)
            return None
        ratelimit.hit(scope="shop", key=str(found.pk), limit=MOST_CALLS, window_seconds=MINUTE)
        return found


FOR_SHOPS = ChannelAuth()


def _as_text(value: object) -> object:
    """Many shops count their orders in plain numbers."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _readable(number: str) -> str:
    if not number.strip().isprintable() or not number.strip():
        raise ValueError(_("Send your order number, 80 characters at most."))
    return number.strip()


OrderNumber = Annotated[
    str,
    BeforeValidator(_as_text),
    Field(max_length=80),
    AfterValidator(_readable),
    WithJsonSchema(
        {"type": "string", "maxLength": 80, "description": "The shop's own.", "examples": ["TB-20310531-7"]}
    ),
]


class PickupIn(Schema):
    """An order of the shop that was paid there."""

    order_no: OrderNumber
    plan: str = Field("", max_length=80, description="Code of a plan; not needed by a shop that has just one.")
    amount: WrittenAmount | None = Field(None, description="What the shop took; the portal's own price when left out.")
    currency: CurrencyCode = "CNY"


class PickupOut(Ok):
    """The code for that order. However often it is asked for, the answer is the same to the letter."""

    code: str
    order_no: str
    plan: str
    duration_days: int


class ShopRefundIn(Schema):
    """An order whose money the shop has given back."""

    order_no: OrderNumber
    reason: str = Field("", max_length=200)


class ShopRefundOut(Ok):
    """What became of the code."""

    order_no: str
    status: Literal["revoked", "days_taken"] = Field(
        description="`revoked`: nobody had redeemed it; `days_taken`: the days not yet served are gone from the lease."
    )
    redeemed_by: str | None
    redeemed_at: datetime | None


class LevelOut(Schema):
    """What is left of a plan."""

    plan: str
    left: int
    low_stock: int = Field(description="Below this it is low; 0: never.")
    is_low: bool
    makes_serials: bool = Field(description="Whether a pickup makes a new code when none is left.")


class StockOut(Ok):
    """The shop's stock."""

    items: list[LevelOut]


@shop.post("/pickup", response={200: PickupOut, SHOP_REFUSALS: ErrorOut}, auth=FOR_SHOPS)
def pick_up(request: HttpRequest, data: PickupIn) -> dict[str, Any]:
    """One code for one order of the shop, for ever the same, however often and by how many at once it is asked for.

    503 `out_of_stock` says in `Retry-After` when to ask again, with the same number.
    """
    order, serial = services.pick_up(
        channel=shop_of(request),
        external_number=data.order_no,
        plan_code=data.plan,
        amount=in_minor_units(data.amount, data.currency) if data.amount is not None else None,
        currency=data.currency,
    )
    # As it was sold: the plan may have another name by now.
    kept = order.lines.get().snapshot
    return {
        "success": True,
        "code": grouped(serial.code),
        "order_no": order.external_number,
        "plan": kept["code"],
        "duration_days": kept["days"],
    }


@shop.post("/refund", response={200: ShopRefundOut, frozenset({401, 404, 409, 422, 429}): ErrorOut}, auth=FOR_SHOPS)
def refund(request: HttpRequest, data: ShopRefundIn) -> dict[str, Any]:
    """Take back what was handed out for an order. Says who had redeemed it, and when. Twice is fine."""
    done = services.refund_outside(channel=shop_of(request), external_number=data.order_no, reason=data.reason)
    return {
        "success": True,
        "order_no": done.order.external_number,
        "status": "days_taken" if done.was_used else "revoked",
        "redeemed_by": done.serial.user.username if done.serial.user else None,
        "redeemed_at": done.serial.used_at,
    }


@shop.get("/stock", response={200: StockOut, frozenset({401, 429}): ErrorOut}, auth=FOR_SHOPS)
def stock(request: HttpRequest) -> dict[str, Any]:
    """How many codes of each of its plans the shop has left."""
    return {"success": True, "items": [_show_level(level) for level in services.stock_levels([shop_of(request)])]}


def shop_of(request: HttpRequest) -> SalesChannel:
    """The shop whose token opened this endpoint."""
    channel = getattr(request, "auth", None)
    if not isinstance(channel, SalesChannel):
        raise PermissionDenied
    return channel


def _show_level(level: StockLevel) -> dict[str, Any]:
    return {
        "plan": level.plan.code,
        "left": level.left,
        "low_stock": level.channel.low_stock,
        "is_low": level.is_low,
        "makes_serials": level.channel.makes_serials,
    }
