"""`/api/plan/list`, `/api/pack/list`, `/api/payment/methods`: what is on sale, for how much, and how it is paid."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from ninja import Field, Query, Router, Schema

from accounts import ratelimit, request_ip
from accounts.apikit import ErrorOut, PageOut, PageQuery, TokenAuth, page
from billing import gateways
from billing.models import PackOffer, PaymentMethod, Price
from billing.selectors import packs_on_sale
from billing.services import offered_methods
from billing.services.pricing import current_prices
from serials.api import PlanOut, show_plan
from serials.models import Plan
from serials.selectors import public_plans

from .amounts import CurrencyCode, Decimals, both_ways

plan = Router(tags=["plan"])
pack = Router(tags=["plan"])
payment = Router(tags=["payment"])


class PriceOut(Schema):
    """What one serial of a plan costs now."""

    currency: str
    amount: Decimals
    amount_minor: int = Field(description="In the smallest unit: 1990 is 19.90.")
    regular_amount: Decimals = Field(description="Without the sale.")
    regular_amount_minor: int
    sale_until: datetime | None = Field(description="When the sale ends, if there is one that does.")
    per_user_limit: int | None = Field(description="So many one account may buy in all; null means no limit.")
    is_trial: bool = Field(description="Once per person, for themselves.")


class PricedPlanOut(PlanOut):
    """What a term of this plan gives, and what it costs."""

    prices: list[PriceOut] = Field(description="One for each currency; none: it is not sold here.")


class PlanPage(PageOut):
    """A part of the list, in the shop's order."""

    items: list[PricedPlanOut]


class CurrencyQuery(PageQuery):
    """Filter of the list."""

    currency: CurrencyCode = "CNY"


class PackOfferOut(Schema):
    """More traffic for the quota period that runs when it is paid."""

    code: str
    name: str = Field(description="In the reader's language.")
    extra_bytes: int
    currency: str
    amount: Decimals
    amount_minor: int


class PackPage(PageOut):
    """A part of the list, in the shop's order."""

    items: list[PackOfferOut]


class MethodOut(Schema):
    """A way to pay."""

    code: str
    name: str = Field(description="In the reader's language.")
    kind: str = Field(description="Which gateway: `alipay`, `stripe`, `offline`, …")
    currency: str = Field(description="Pays orders in this currency.")
    is_automatic: bool = Field(description="Whether the order goes on by itself; else a person confirms the money.")


class MethodPage(PageOut):
    """A part of the list, in the shop's order."""

    items: list[MethodOut]


def _slow_down() -> None:
    """Raises RateLimited for an address that asks for prices all the time."""
    ratelimit.hit(scope="plans", key=request_ip.as_counted(request_ip.current()), limit=120, window_seconds=60)


@plan.get("/list", response={200: PlanPage, 422: ErrorOut, 429: ErrorOut}, auth=None)
def list_plans(request: HttpRequest, query: Query[PageQuery]) -> dict[str, Any]:
    """The plans on offer, with their prices. Needs no token."""
    _slow_down()
    answer = page(public_plans(), query.page, query.per_page)
    prices = _prices_of(answer["items"])
    return answer | {"items": [show_plan(one) | {"prices": prices[one.pk]} for one in answer["items"]]}


@pack.get("/list", response={200: PackPage, 422: ErrorOut, 429: ErrorOut}, auth=None)
def list_packs(request: HttpRequest, query: Query[CurrencyQuery]) -> dict[str, Any]:
    """The traffic packs on offer in a currency. Needs no token."""
    _slow_down()
    return page(packs_on_sale(query.currency), query.page, query.per_page, _show_pack)


@payment.get("/methods", response={200: MethodPage, frozenset({401, 403, 422}): ErrorOut}, auth=TokenAuth("orders"))
def list_methods(request: HttpRequest, query: Query[CurrencyQuery]) -> dict[str, Any]:
    """The ways to pay an order in a currency."""
    offered = offered_methods(query.currency).filter(kind__in=gateways.KINDS)
    return page(offered, query.page, query.per_page, _show_method)


def _prices_of(plans: list[Plan]) -> dict[int, list[dict[str, Any]]]:
    """By the plan's id, the price that counts now in each currency; one query."""
    counting: dict[tuple[int, str], Price] = {}
    for price in current_prices().filter(plan__in=plans):
        counting.setdefault((price.plan_id, price.currency), price)
    shown: dict[int, list[dict[str, Any]]] = {one.pk: [] for one in plans}
    for (plan_id, _currency), price in counting.items():
        shown[plan_id].append(_show_price(price))
    return shown


def _show_price(price: Price) -> dict[str, Any]:
    return both_ways(price.currency, amount=price.unit_amount(), regular_amount=price.amount) | {
        "sale_until": price.sale_until if price.is_on_sale() else None,
        "per_user_limit": price.per_user_limit,
        "is_trial": price.is_trial,
    }


def _show_pack(one: PackOffer) -> dict[str, Any]:
    return both_ways(one.currency, amount=one.amount) | {
        "code": one.code,
        "name": one.local_name,
        "extra_bytes": one.extra_bytes,
    }


def _show_method(one: PaymentMethod) -> dict[str, Any]:
    return {
        "code": one.code,
        "name": one.local_name,
        "kind": one.kind,
        "currency": one.currency,
        "is_automatic": gateways.KINDS[one.kind].is_automatic,
    }
