"""What the operations on resellers, their customers and commissions answer."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from django.urls import reverse
from ninja import Field, Schema

from accounts.apikit import Ok, PageOut, PageQuery
from accounts.words import masked
from billing.api.amounts import CurrencyCode, Decimals, both_ways
from billing.api.finance_fields import Month
from resellers.models import Attribution, CommissionLine, Reseller, Settlement, Suspicion
from resellers.selectors import Earnings

MONTH = "%Y-%m"


class AmountOut(Schema):
    """An amount of one currency."""

    currency: str
    amount: Decimals
    amount_minor: int


class ResellerBrief(Schema):
    """A reseller, or somebody who wants to be one."""

    id: int
    code: str = Field(description="Of the link `/r/<code>`.")
    state: Reseller.State
    level: str = Field(description="Code of the level.")
    contact: str
    created_at: datetime = Field(description="When they first applied.")
    decided_at: datetime | None
    decision_reason: str


class CommissionTotals(Schema):
    """Where the commission of one currency is. `held`, `open` and `paid` together are all that was ever earned."""

    currency: str
    month: Decimals = Field(description="Earned this month, less what was taken back.")
    month_minor: int
    held: Decimals = Field(description="Not due yet.")
    held_minor: int
    open: Decimals = Field(description="Due: in settlements that are not paid yet, or to be settled with the next run.")
    open_minor: int
    paid: Decimals
    paid_minor: int


class Totals(Schema):
    """What the link and the customers have brought."""

    clicks: int
    signups: int
    customers: int
    paying_customers: int
    orders_under_review: int = Field(description="Earn nothing until a person has looked at them.")
    commission: list[CommissionTotals] = Field(description="One for each currency.")


class MeOut(ResellerBrief):
    """Yourself as a reseller."""

    link: str
    balance: list[AmountOut] = Field(description="Paid in and not spent, in each currency that there is any of.")
    totals: Totals


class MeAnswer(Ok):
    """Yourself as a reseller."""

    reseller: MeOut


class ResellerAnswer(Ok):
    """The reseller that the call was about."""

    reseller: ResellerBrief


class CustomerOut(Schema):
    """A customer who came by your link."""

    id: int
    customer: str = Field(description="Masked.", examples=["al***@e***.com"])
    since: datetime
    orders: int = Field(description="That they have paid since.")
    commission: list[AmountOut] = Field(description="What they have earned you, less what was taken back.")


class CustomerPage(PageOut):
    """A part of the list, newest first."""

    items: list[CustomerOut]


class CommissionQuery(PageQuery):
    """Filters of the list."""

    month: Month | None = Field(None, description="That it is settled with.")
    kind: CommissionLine.Kind | None = None
    currency: CurrencyCode | None = None


class CommissionOut(Schema):
    """What an order earned, or a refund of it took back."""

    id: int
    kind: CommissionLine.Kind
    order: str = Field(description="Number of the customer's order.")
    customer: str = Field(description="Masked.")
    currency: str
    base: Decimals = Field(description="Received, or given back.")
    base_minor: int
    amount: Decimals = Field(description="The commission; negative when it was taken back.")
    amount_minor: int
    due_on: date
    month: str = Field(description="That it is settled with.", examples=["2026-12"])
    created_at: datetime


class CommissionPage(PageOut):
    """A part of the list, newest first."""

    items: list[CommissionOut]


class MonthOut(Schema):
    """What was earned with one month in one currency, and what became of it."""

    month: str = Field(examples=["2026-12"])
    currency: str
    earned: Decimals
    earned_minor: int
    reversed: Decimals = Field(description="Taken back by refunds; not positive.")
    reversed_minor: int
    amount: Decimals = Field(description="Both together.")
    amount_minor: int
    orders: int = Field(description="That earned.")
    settlement_id: int | None = Field(description="null while the month has not been run.")
    state: Settlement.State | None = Field(description="Of the settlement.")


class MonthsAnswer(Ok):
    """The latest months first."""

    reseller: str = Field(description="Link code.")
    months: list[MonthOut]


class SettlementOut(Schema):
    """What a month came to."""

    id: int
    reseller: str = Field(description="Link code.")
    month: str = Field(examples=["2026-12"])
    state: Settlement.State
    currency: str
    amount: Decimals = Field(description="The sum of its commissions.")
    amount_minor: int
    carried_in: Decimals = Field(description="Left of months before.")
    carried_in_minor: int
    payable: Decimals
    payable_minor: int
    lines: int
    carried_to_id: int | None = Field(description="The settlement it was carried into.")
    reason: str = Field(description="Why it was rejected, else empty.")
    reference: str = Field(description="By which transfer it was paid, else empty.")
    approved_at: datetime | None
    paid_at: datetime | None
    created_at: datetime


class SettlementPage(PageOut):
    """A part of the list, latest month first."""

    items: list[SettlementOut]


class SettlementAnswer(Ok):
    """The settlement that the call was about."""

    settlement: SettlementOut


class SuspicionOut(Schema):
    """An order that may be the reseller's own."""

    id: int
    order: str
    user_id: int | None
    reseller: str = Field(description="Link code.")
    signals: list[str] = Field(description="`same_person`, `same_address`, `same_payer`, `same_device`, `circle`.")
    state: Suspicion.State
    reason: str
    created_at: datetime
    decided_at: datetime | None


class SuspicionPage(PageOut):
    """A part of the list, newest first."""

    items: list[SuspicionOut]


class SuspicionAnswer(Ok):
    """The suspicion that the call was about."""

    suspicion: SuspicionOut


class AttributionOut(Schema):
    """Whose customer somebody is."""

    user_id: int
    reseller_code: str | None
    since: datetime | None


class AttributionAnswer(Ok):
    """Whose customer they are now."""

    attribution: AttributionOut


def amounts_of(by_currency: dict[str, int]) -> list[dict[str, Any]]:
    """Amounts as `AmountOut`, by currency."""
    return [both_ways(currency, amount=amount) for currency, amount in sorted(by_currency.items())]


def show_reseller(seller: Reseller) -> dict[str, Any]:
    """A reseller with their level as `ResellerBrief`."""
    names = ("id", "code", "state", "contact", "created_at", "decided_at", "decision_reason")
    return {name: getattr(seller, name) for name in names} | {"level": seller.level.code}


def link_of(seller: Reseller) -> str:
    """The path of the reseller's link."""
    return reverse("referral", args=[seller.code])


def show_earnings(currency: str, earnings: Earnings) -> dict[str, Any]:
    """Where commission is, as `CommissionTotals`."""
    return both_ways(
        currency,
        month=earnings.this_month,
        held=earnings.held,
        open=earnings.due + earnings.waiting,
        paid=earnings.paid,
    )


def show_customer(attribution: Attribution, earned: dict[str, int]) -> dict[str, Any]:
    """One from `customers_in_full()` as `CustomerOut`."""
    return {
        "id": attribution.pk,
        "customer": masked(attribution.user.email),
        "since": attribution.since,
        "orders": attribution.paid_orders,  # type: ignore[attr-defined]
        "commission": amounts_of(earned),
    }


def show_commission(line: CommissionLine) -> dict[str, Any]:
    """A line from `commissions_of()` as `CommissionOut`."""
    return both_ways(line.currency, base=line.base, amount=line.amount) | {
        "id": line.pk,
        "kind": line.kind,
        "order": line.order.number,
        "customer": masked(line.order.user.email) if line.order.user else "",
        "due_on": line.due_on,
        "month": line.settle_month.strftime(MONTH),
        "created_at": line.created_at,
    }


def show_settlement(settlement: Settlement) -> dict[str, Any]:
    """A settlement as `SettlementOut`."""
    names = ("id", "state", "lines", "carried_to_id", "reason", "approved_at", "paid_at", "created_at")
    amounts = {name: getattr(settlement, name) for name in ("amount", "carried_in", "payable")}
    return (
        {name: getattr(settlement, name) for name in names}
        | both_ways(settlement.currency, **amounts)
        | {
            "reseller": settlement.reseller.code,
            "month": settlement.month.strftime(MONTH),
            "reference": settlement.payout_reference,
        }
    )


def show_suspicion(suspicion: Suspicion) -> dict[str, Any]:
    """A suspicion as `SuspicionOut`."""
    names = ("id", "signals", "state", "reason", "created_at", "decided_at")
    return {name: getattr(suspicion, name) for name in names} | {
        "order": suspicion.order.number,
        "user_id": suspicion.order.user_id,
        "reseller": suspicion.reseller.code,
    }
