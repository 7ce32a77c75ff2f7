"""The stock bought wholesale: what is left, what became of a serial, what it was sold on for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

from django.db.models import Q
from django.http import Http404, HttpRequest
from django.utils.translation import gettext as _
from ninja import Field, Query, Schema
from pydantic import model_validator

from accounts.apikit import ErrorOut, Ok, PageOut, PageQuery, TokenAuth, page, reader_of
from billing.api.amounts import CurrencyCode, Decimals, WrittenAmount, both_ways, in_minor_units
from billing.api.finance_fields import Month
from billing.finance.days import month_named
from billing.models import SoldSerial
from billing.services.ledger import today
from derp_portal.lib.clock import next_month
from derp_portal.lib.errors import PortalError
from fleet.api import READ_REFUSALS, REFUSALS, RelayStatus, relay_brief
from resellers import services
from resellers.access import reseller_for, sold_for
from resellers.models import Resale, Reseller
from resellers.selectors import leases_sold_by, recallable_among, sales_by_month, sales_of
from resellers.services import stock_of
from serials.api.numbers import CodeIn
from serials.codes import canonical, grouped
from serials.models import Lease, SerialNumber
from serials.selectors import lease_card

from .own import reseller

MOST_CODES = 5000
"""In one call."""


class StockQuery(PageQuery):
    """Filters of the list."""

    status: SerialNumber.Status | None = None
    plan: str = Field("", max_length=80, description="Code of a plan.")
    q: str = Field(
        "",
        max_length=120,
        description="Beginning or end of a serial, an order's number, or part of a customer's name.",
    )


class SaleOut(Schema):
    """What you wrote down of a sale. `cost` and `margin` are in the currency you bought it in."""

    code: str
    plan: str = Field(description="Code of the plan.")
    order: str = Field(description="Number of the order that you bought it with.")
    customer: str
    sold_on: date
    note: str
    currency: str
    price: Decimals
    price_minor: int
    cost_currency: str
    cost: Decimals
    cost_minor: int
    margin: Decimals | None = Field(description="null when it was bought in another currency, or given back.")
    margin_minor: int | None


class StockOut(Schema):
    """A serial that you bought."""

    code: str
    plan: str = Field(description="Code of the plan.")
    days: int
    status: SerialNumber.Status
    order: str = Field(description="Number of the order that you bought it with.")
    bought_at: datetime | None
    used_at: datetime | None
    expires_at: datetime | None = Field(description="The last moment to redeem it; of a used one, the end of its term.")
    taken_back_at: datetime | None
    is_recallable: bool = Field(description="Whether it can be given back now.")
    currency: str
    cost: Decimals
    cost_minor: int
    sale: SaleOut | None


class StockPage(PageOut):
    """A part of the list, newest first."""

    items: list[StockOut]


class RefusalOut(Schema):
    """The last device that a relay turned away, within thirty days."""

    at: datetime
    reason: str


class SoldRelay(Schema):
    """One relay, in a word."""

    status: RelayStatus


class SoldLease(Schema):
    """The lease that the serial went to, while its customer is yours."""

    status: Lease.Status
    ends_at: datetime
    relays: list[SoldRelay]
    last_refusal: RefusalOut | None


class SerialOut(StockOut):
    """A serial that you bought, and what became of it."""

    lease: SoldLease | None


class SerialAnswer(Ok):
    """The serial that the call was about."""

    serial: SerialOut


class SaleIn(CodeIn):
    """A sale of a serial of your stock. Written again, it is what was written last."""

    price: WrittenAmount
    currency: CurrencyCode = "CNY"
    sold_on: date | None = Field(None, description="Today when left out.")
    customer: str = Field("", max_length=120)
    note: str = Field("", max_length=200)


class SalesIn(Schema):
    """Several sales, or one: its fields may stand here by themselves, without `sales`."""

    sales: list[SaleIn] = Field(min_length=1, max_length=MOST_CODES)

    @model_validator(mode="before")
    @classmethod
    def _one_alone(cls, data: Any) -> Any:
        sent = getattr(data, "_obj", data)
        return {"sales": [sent]} if isinstance(sent, dict) and "sales" not in sent and "code" in sent else data


class RecordedAnswer(Ok):
    """How many were written down."""

    recorded: int


class RemovedAnswer(Ok):
    """Whether there was one to remove."""

    removed: bool = Field(description="false when no sale of it was written down.")


class SalesQuery(PageQuery):
    """Filters of the list."""

    month: Month | None = None
    plan: str = Field("", max_length=80, description="Code of a plan.")
    q: str = Field("", max_length=120, description="Beginning or end of a serial, or part of a customer's name.")


class ProfitOut(Schema):
    """What all sales of a month brought, in one currency. What was given back since does not count."""

    month: str = Field(examples=["2026-12"])
    currency: str
    revenue: Decimals
    revenue_minor: int
    cost: Decimals
    cost_minor: int
    margin: Decimals
    margin_minor: int


class SalesPage(PageOut):
    """A part of the list, latest first; and the profit by month, of all your sales or of the `month` asked for."""

    items: list[SaleOut]
    months: list[ProfitOut]


@reseller.get("/stock", response={200: StockPage, READ_REFUSALS: ErrorOut}, auth=TokenAuth("reseller"))
def list_stock(request: HttpRequest, query: Query[StockQuery]) -> dict[str, Any]:
    """The serials that you bought wholesale, and what became of them."""
    seller = reseller_for(reader_of(request))
    found = stock_of(seller)
    if query.status:
        found = found.filter(serial__status=query.status)
    if query.plan:
        found = found.filter(serial__plan__code=query.plan)
    if query.q.strip():
        text = query.q.strip()
        named = Q(resale__customer__icontains=text) | Q(line__order__number__iexact=text)
        found = found.filter(named | _by_code("serial__code", text))
    answer = page(found, query.page, query.per_page)
    rows = answer["items"]
    recallable = recallable_among(seller, rows)
    return answer | {"items": [_show_stock(sold, recallable) for sold in rows]}


@reseller.get("/serial", response={200: SerialAnswer, READ_REFUSALS: ErrorOut}, auth=TokenAuth("reseller"))
def show_serial(request: HttpRequest, query: Query[CodeIn]) -> dict[str, Any]:
    """What became of a serial of your own stock: until when its lease runs, whether its relays do, who was refused."""
    seller = reseller_for(reader_of(request))
    found = SerialNumber.objects.filter(code=canonical(query.code)).values_list("pk", flat=True).first()
    if found is None:
        raise Http404
    sold = sold_for(seller, found)
    shown = _show_stock(sold, recallable_among(seller, [sold]))
    return {"success": True, "serial": shown | {"lease": _lease_of(seller, sold)}}


@reseller.post("/sales", response={200: RecordedAnswer, REFUSALS: ErrorOut}, auth=TokenAuth("reseller"))
def record_sales(request: HttpRequest, data: SalesIn) -> dict[str, Any]:
    """Write down what you sold serials for, all of them or none. Who owns its lease sees the last price."""
    reader = reader_of(request)
    sales = [
        services.Sale(
            code=one.code,
            price=in_minor_units(one.price, one.currency, field=f"sales.{number}.price"),
            currency=one.currency,
            sold_on=one.sold_on or today(),
            customer=one.customer,
            note=one.note,
        )
        for number, one in enumerate(data.sales)
    ]
    return {
        "success": True,
        "recorded": services.record_sales(reseller=reseller_for(reader), sales=sales, actor=reader),
    }


@reseller.post("/sale/remove", response={200: RemovedAnswer, REFUSALS: ErrorOut}, auth=TokenAuth("reseller"))
def remove_sale(request: HttpRequest, data: CodeIn) -> dict[str, Any]:
    """Strike out a sale that you wrote down. The serial stays as it is. Twice is fine."""
    reader = reader_of(request)
    removed = services.remove_sale(reseller=reseller_for(reader), code=data.code, actor=reader)
    return {"success": True, "removed": removed}


@reseller.get("/sales", response={200: SalesPage, READ_REFUSALS: ErrorOut}, auth=TokenAuth("reseller"))
def list_sales(request: HttpRequest, query: Query[SalesQuery]) -> dict[str, Any]:
    """Your sales with what each brought, and the profit by month."""
    seller = reseller_for(reader_of(request))
    found, month = sales_of(seller), month_named(query.month) if query.month else None
    if month:
        found = found.filter(sold_on__gte=month, sold_on__lt=next_month(month))
    if query.plan:
        found = found.filter(sold__serial__plan__code=query.plan)
    if query.q.strip():
        text = query.q.strip()
        found = found.filter(Q(customer__icontains=text) | _by_code("sold__serial__code", text))
    answer = page(found, query.page, query.per_page, _show_sale)
    return answer | {"months": _profit(seller, month)}


def ids_of(seller: Reseller, codes: Sequence[str]) -> list[int]:
    """The serials of these codes in the reseller's own stock. Raises PortalError `not_your_stock` (404)."""
    wanted = {canonical(code): code for code in codes}
    own = dict(stock_of(seller).order_by().filter(serial__code__in=wanted).values_list("serial__code", "serial_id"))
    if missing := [typed for code, typed in wanted.items() if code not in own]:
        raise PortalError(
            _("“%(code)s” is not in your stock. Nothing was changed.") % {"code": missing[0][:40]},
            code="not_your_stock",
            status=404,
        )
    return list(own.values())


def _by_code(field: str, text: str) -> Q:
    """By the beginning or the end of a code, as people type codes."""
    code = canonical(text)
    return Q(**{f"{field}__startswith": code}) | Q(**{f"{field}__endswith": code}) if code else Q(pk__in=[])


def _lease_of(seller: Reseller, sold: SoldSerial) -> dict[str, Any] | None:
    """None before it is redeemed, and once staff have given the customer to somebody else."""
    lease = leases_sold_by(seller).filter(terms__serial=sold.serial_id).first()
    if lease is None:
        return None
    refused: Any = lease
    card = lease_card(lease)
    return {
        "status": lease.status,
        "ends_at": lease.ends_at,
        "relays": [{"status": relay_brief(each.relay)["status"]} for each in card.relays],
        "last_refusal": {"at": refused.refused_at, "reason": refused.refused_why} if refused.refused_at else None,
    }


def _show_stock(sold: SoldSerial, recallable: set[int]) -> dict[str, Any]:
    serial, order = sold.serial, sold.line.order
    resale: Resale | None = getattr(sold, "resale", None)
    return both_ways(order.currency, cost=sold.cost) | {
        "code": grouped(serial.code),
        "plan": serial.plan.code,
        "days": serial.duration_days,
        "status": serial.status,
        "order": order.number,
        "bought_at": order.paid_at,
        "used_at": serial.used_at,
        "expires_at": serial.expires_at,
        "taken_back_at": sold.taken_back_at,
        "is_recallable": serial.pk in recallable,
        "sale": _show_sale(resale, sold) if resale else None,
    }


def _show_sale(resale: Resale, sold: SoldSerial | None = None) -> dict[str, Any]:
    sold = sold or resale.sold
    cost = both_ways(sold.line.order.currency, cost=sold.cost)
    margin: dict[str, Any] = {"margin": None, "margin_minor": None}
    if cost["currency"] == resale.currency and sold.taken_back_at is None:
        margin = both_ways(resale.currency, margin=resale.price - sold.cost)
    names = ("customer", "sold_on", "note")
    return (
        {name: getattr(resale, name) for name in names}
        | cost
        | margin
        | both_ways(resale.currency, price=resale.price)
        | {
            "cost_currency": cost["currency"],
            "code": grouped(sold.serial.code),
            "plan": sold.serial.plan.code,
            "order": sold.line.order.number,
        }
    )


def _profit(seller: Reseller, only: date | None) -> list[dict[str, Any]]:
    return [
        both_ways(
            currency,
            revenue=sums.revenue.get(currency, 0),
            cost=sums.cost.get(currency, 0),
            margin=margin,
        )
        | {"month": f"{month:%Y-%m}"}
        for month, sums in sales_by_month(seller).items()
        if only in (None, month)
        for currency, margin in sums.margin.items()
    ]
