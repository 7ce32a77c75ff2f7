"""Buying wholesale, at which prices; giving back what is not sold."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.http import HttpRequest
from django.utils.translation import gettext as _
from ninja import Field, Query, Schema

from accounts import ratelimit
from accounts.apikit import ErrorOut, Ok, PageOut, PageQuery, TokenAuth, page, reader_of
from billing.api.amounts import CurrencyCode, Decimals, both_ways
from billing.api.order_fields import LONGEST_KEY, OrderOut, RefundOut, is_what_was_wanted, show_order, show_refund
from billing.api.orders import MOST_ORDERS, IdempotencyKey, the_one_key
from billing.models import OrderLine
from billing.selectors import orders_of, wholesale_tiers
from billing.services.pricing import MOST_WHOLESALE_UNITS, Item
from derp_portal.lib.errors import PortalError
from fleet.api import READ_REFUSALS, REFUSALS
from resellers import services
from resellers.access import reseller_for
from serials.models import Plan

from .own import TEN_MINUTES, reseller
from .stock import MOST_CODES, ids_of

TRADE_REFUSALS = REFUSALS | {400, 429}


class TierOut(Schema):
    """What each serial costs when at least so many are bought at once."""

    from_quantity: int
    amount: Decimals
    amount_minor: int
    currency: str


class PriceOut(Schema):
    """A plan that you can buy wholesale."""

    plan: str = Field(description="Its code.")
    name: str = Field(description="In the reader's language.")
    days: int
    currency: str
    tiers: list[TierOut]


class PriceQuery(PageQuery):
    """Filter of the list."""

    currency: CurrencyCode = "CNY"


class PricePage(PageOut):
    """A part of the list, in the shop's order."""

    items: list[PriceOut]


class BuyIn(Schema):
    """Serials to buy wholesale."""

    plan: str = Field(max_length=80, description="Code of a plan.", examples=["30-days"])
    quantity: int = Field(ge=1, le=MOST_WHOLESALE_UNITS)
    currency: CurrencyCode = "CNY"
    from_balance: bool = Field(False, description="Pay it from the prepaid balance at once; or nothing is ordered.")
    client_key: str = Field(
        "",
        max_length=LONGEST_KEY,
        description="Your own name for this order: the same one orders once. Or send it as header `Idempotency-Key`.",
    )


class BoughtAnswer(Ok):
    """The order. Pay it with `/api/order/pay` unless it is paid; its serials are in the stock once it is delivered."""

    order: OrderOut


class RecallIn(Schema):
    """Serials to give back."""

    codes: list[str] = Field(min_length=1, max_length=MOST_CODES)


class RecallAnswer(Ok):
    """What was given back, and the money that comes back for it: one refund for each order."""

    recalled: int
    refunds: list[RefundOut]


@reseller.get("/prices", response={200: PricePage, READ_REFUSALS: ErrorOut}, auth=TokenAuth("reseller"))
def list_prices(request: HttpRequest, query: Query[PriceQuery]) -> dict[str, Any]:
    """What you pay for serials, by how many you buy at once."""
    seller = reseller_for(reader_of(request))
    tiers = wholesale_tiers(seller.user, query.currency)
    plans = Plan.objects.filter(pk__in=tiers).order_by("position", "id")
    return page(plans, query.page, query.per_page, lambda plan: _show_prices(plan, tiers[plan.pk], query.currency))


@reseller.post("/buy", response={200: BoughtAnswer, TRADE_REFUSALS: ErrorOut}, auth=TokenAuth("reseller"))
def buy(request: HttpRequest, data: BuyIn, idempotency_key: IdempotencyKey) -> dict[str, Any]:
    """Order serials wholesale, at your prices of this moment. With a key of yours it is safe to send again."""
    seller = reseller_for(reader_of(request))
    key = the_one_key(idempotency_key, data.client_key)
    ratelimit.hit(scope="order", key=str(seller.user_id), limit=MOST_ORDERS, window_seconds=TEN_MINUTES)
    plan = Plan.objects.filter(code=data.plan).first()
    if plan is None:
        raise PortalError(_("This plan is not on sale."), code="not_on_sale", status=409)
    with transaction.atomic():
        bought = services.buy_stock(
            reseller=seller,
            plan=plan,
            quantity=data.quantity,
            currency=data.currency,
            from_balance=data.from_balance,
            client_key=key,
        )
        bought = orders_of(seller.user).get(pk=bought.pk)
        wanted = [Item(OrderLine.Kind.WHOLESALE, plan=plan, quantity=data.quantity)]
        if key and not is_what_was_wanted(bought, wanted, data.currency, ""):
            # Undoes a payment from the balance too, which was meant for something else.
            raise PortalError(
                _("You have used this key before, for order %(order)s, which was of something else.")
                % {"order": bought.number},
                code="key_taken",
                status=409,
                number=bought.number,
            )
    return {"success": True, "order": show_order(bought)}


@reseller.post("/recall", response={200: RecallAnswer, TRADE_REFUSALS: ErrorOut}, auth=TokenAuth("reseller"))
def recall(request: HttpRequest, data: RecallIn) -> dict[str, Any]:
    """Give back serials that nobody has redeemed and you have not sold: all of them or none. The money goes back."""
    reader = reader_of(request)
    seller = reseller_for(reader)
    serial_ids = ids_of(seller, data.codes)
    refunds = services.recall(reseller=seller, serial_ids=serial_ids, actor=reader)
    shown = [show_refund(one, one.order, is_for_staff=False) for one in refunds]
    return {"success": True, "recalled": len(set(serial_ids)), "refunds": shown}


def _show_prices(plan: Plan, tiers: list[Any], currency: str) -> dict[str, Any]:
    return {
        "plan": plan.code,
        "name": plan.local_name,
        "days": plan.days,
        "currency": currency,
        "tiers": [
            both_ways(tier.currency, amount=tier.amount) | {"from_quantity": tier.from_quantity} for tier in tiers
        ],
    }
