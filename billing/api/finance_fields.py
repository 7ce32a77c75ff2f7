"""What the operations on finance take and answer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated, Any, Literal

from django.utils.translation import gettext as _
from ninja import Field, Schema
from pydantic import AfterValidator, WithJsonSchema

from accounts.apikit import Id, Ok, PageOut, PageQuery
from billing.finance.days import month_named
from billing.finance.figures import By, Part, Statistics
from billing.finance.sums import Sums
from billing.models import Account, Posting
from derp_portal.lib import money

from .amounts import CurrencyCode, Decimals, both_ways

OF_SHOP = "Code of an outside shop, or `own` for the portal's own shop."


def _is_month(text: str) -> str:
    try:
        month_named(text)
    except ValueError as error:
        raise ValueError(_("must be a month like 2026-12")) from error
    return text


Month = Annotated[
    str,
    AfterValidator(_is_month),
    WithJsonSchema({"type": "string", "description": "A month of the operator's calendar.", "examples": ["2026-12"]}),
]


class PeriodQuery(Schema):
    """Days of the operator's calendar, both included."""

    start: date | None = Field(None, alias="from", description="By default the first of this month.")
    end: date | None = Field(None, alias="to", description="By default today.")


class StatisticsQuery(PeriodQuery):
    """Filters of the figures."""

    currency: CurrencyCode | None = Field(None, description="By default the first that the shop ever took.")
    plan: str = Field("", description="Code of a plan.")
    channel: str = Field("", description=OF_SHOP)
    reseller: str = Field("", description="Name of a reseller.")
    by: By = By.DAY


class SumsOut(Schema):
    """Amounts, and counts."""

    revenue: Decimals
    revenue_minor: int
    wholesale: Decimals
    wholesale_minor: int
    gross: Decimals = Field(description="Revenue and wholesale.")
    gross_minor: int
    refunds: Decimals
    refunds_minor: int
    net: Decimals = Field(description="Gross less refunds.")
    net_minor: int
    fees: Decimals = Field(description="What gateways and shops kept.")
    fees_minor: int
    after_fees: Decimals
    after_fees_minor: int
    orders: int = Field(description="Orders that were paid.")
    units: int
    renewals: int
    first_orders: int = Field(description="Of customers who had paid none before.")


class StepOut(SumsOut):
    """One day, or a month by its first."""

    start: date


class PartOut(SumsOut):
    """What one plan, shop or reseller brought. Without `id`: traffic packs and fees, or the portal's own shop."""

    id: int | None
    code: str
    name: str


class ConversionOut(Schema):
    """Of the whole portal, whatever is filtered."""

    placed: int
    paid: int
    share: float | None = Field(description="Paid of placed; null when none was placed.")


class LeasesOut(Schema):
    """Of the whole portal, whatever is filtered."""

    active: int = Field(description="Now.")
    at_start: int = Field(description="That ran when the period began.")
    lost: int = Field(description="Of those, that ended in it and have not come back.")
    churn: float | None = Field(description="Lost of those at the start; null when there were none.")


class DeferredPartOut(Schema):
    """What of one plan is paid and still to be served."""

    id: int
    code: str
    name: str
    amount: Decimals
    amount_minor: int
    serials: int


class DeferredOut(Schema):
    """Days sold, not yet served, now."""

    total: Decimals
    total_minor: int
    plans: list[DeferredPartOut]


class StatisticsOut(Ok):
    """The figures of a period in one currency."""

    total_revenue: float = Field(description="Net revenue in the currency's own unit: 1000 is ¥1,000.00.")
    total_revenue_minor: int = Field(description="The same in minor units.")
    currency: str
    currencies: list[str] = Field(description="In which there are any figures.")
    start: date = Field(serialization_alias="from")
    end: date = Field(serialization_alias="to", description="Today at the latest.")
    by: By
    totals: SumsOut
    customers: int = Field(description="Different people who paid.")
    average: Decimals | None = Field(description="Net of the portal's own shop for each of them.")
    average_minor: int | None
    conversion: ConversionOut
    leases: LeasesOut
    deferred: DeferredOut
    series: list[StepOut]
    plans: list[PartOut]
    channels: list[PartOut]
    resellers: list[PartOut]


class ReportQuery(Schema):
    """Which month, and as what."""

    month: Month | None = Field(None, description="By default the present one.")
    format: Literal["json", "csv", "xlsx", "pdf"] = "json"


class ReportOut(Ok):
    """The month's report. All its amounts are minor units. Of a closed month it is the one that was frozen."""

    report: dict[str, Any]


class CloseIn(Schema):
    """Names a month."""

    month: Month


class CloseOut(Ok):
    """The month is closed."""

    month: str
    closed_at: datetime


class LedgerQuery(PageQuery, PeriodQuery):
    """Filters of the ledger."""

    month: Month | None = None
    currency: CurrencyCode | None = None
    account: Account | None = Field(None, description="On either side.")
    order: str = Field("", description="Number of an order.")
    method: str = Field("", description="Code of a payment method.")
    channel: str = Field("", description=OF_SHOP)
    key: str = Field("", max_length=80, description="What the key begins with, like `refund:`.")


class PostingOut(Schema):
    """So much from one account to another; never changed, only reversed."""

    id: int
    key: str
    debit: str
    credit: str
    amount: Decimals
    amount_minor: int
    currency: str
    booked_day: date
    order: str | None
    plan: str | None
    channel: str | None
    reseller: str | None
    method: str | None
    note: str
    created_at: datetime


class LedgerPage(PageOut):
    """A part of the ledger, newest first; 10,000 at most, so narrow the time to see what lies before."""

    items: list[PostingOut]


class PaymentsQuery(PageQuery, PeriodQuery):
    """Filters of the payments. The days are those on which orders were paid."""

    user_id: Id | None = None
    currency: CurrencyCode | None = None
    method: str = Field("", description="Code of a payment method.")
    channel: str = Field("", description=OF_SHOP)


class PaymentOut(Schema):
    """Who paid what, when, how. Outside shops do not say who."""

    order: str
    user_id: int | None
    username: str | None
    channel: str | None
    external_number: str
    method: str | None
    method_name: str | None
    state: str
    total: Decimals
    total_minor: int
    received: Decimals
    received_minor: int
    refunded: Decimals
    refunded_minor: int
    currency: str
    paid_at: datetime


class PaymentsPage(PageOut):
    """A part of the paid orders, the latest first; 10,000 at most."""

    items: list[PaymentOut]


def show_statistics(found: Statistics, by: By, currencies: Sequence[str]) -> dict[str, Any]:
    """As `StatisticsOut`."""
    code = found.currency
    average = {"average": None, "average_minor": None}
    if found.average is not None:
        average = both_ways(code, average=found.average)
    return {
        "success": True,
        # Amounts have far fewer digits than a float keeps exactly.
        "total_revenue": float(money.to_decimal(found.totals.net, code)),
        "total_revenue_minor": found.totals.net,
        "currencies": currencies,
        "start": found.start,
        "end": found.end,
        "by": by,
        "totals": _show_sums(found.totals, code),
        "customers": found.customers,
        **average,
        "currency": code,
        "conversion": {
            "placed": found.conversion.placed,
            "paid": found.conversion.paid,
            "share": found.conversion.share,
        },
        "leases": {
            "active": found.tenancy.active,
            "at_start": found.tenancy.at_start,
            "lost": found.tenancy.lost,
            "churn": found.tenancy.churn,
        },
        "deferred": {
            **both_ways(code, total=found.deferred_amount),
            "plans": [
                {
                    "id": plan.id,
                    "code": plan.code,
                    "name": plan.local_name,
                    "serials": one.serials,
                    **both_ways(code, amount=one.amount),
                }
                for plan, one in found.deferred
            ],
        },
        "series": [{"start": step.start, **_show_sums(step.sums, code)} for step in found.series],
        "plans": _show_parts(found.plans, code),
        "channels": _show_parts(found.channels, code),
        "resellers": _show_parts(found.resellers, code),
    }


def _show_sums(sums: Sums, code: str) -> dict[str, Any]:
    amounts = ("revenue", "wholesale", "gross", "refunds", "net", "fees", "after_fees")
    counts = ("orders", "units", "renewals", "first_orders")
    return both_ways(code, **{name: getattr(sums, name) for name in amounts}) | {
        name: getattr(sums, name) for name in counts
    }


def _show_parts(parts: Sequence[Part], code: str) -> list[dict[str, Any]]:
    return [
        {"id": part.of.id, "code": part.of.code, "name": part.of.local_name, **_show_sums(part.sums, code)}
        for part in parts
    ]


def show_posting(one: Posting) -> dict[str, Any]:
    """As `PostingOut`."""
    names = ("id", "key", "debit", "credit", "booked_day", "note", "created_at")
    return {name: getattr(one, name) for name in names} | {
        **both_ways(one.currency, amount=one.amount),
        "order": one.order.number if one.order else None,
        "plan": one.plan.code if one.plan else None,
        "channel": one.channel.code if one.channel else None,
        "reseller": one.reseller.username if one.reseller else None,
        "method": one.method.code if one.method else None,
    }


def show_payment(order: Any) -> dict[str, Any]:
    """As `PaymentOut`: an order with its payments that were `paid`."""
    payment = next(iter(order.paid), None)
    names = ("user_id", "external_number", "state", "paid_at")
    return {name: getattr(order, name) for name in names} | {
        **both_ways(order.currency, total=order.total, received=order.received, refunded=order.refunded),
        "order": order.number,
        "username": order.user.username if order.user else None,
        "channel": order.channel.code if order.channel else None,
        "method": payment.method.code if payment else None,
        "method_name": payment.method.local_name if payment else None,
    }
