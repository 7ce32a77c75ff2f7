"""Becoming a reseller, and what the link has brought: customers, commissions, settlements."""

from __future__ import annotations

from datetime import date
from typing import Any

from django.conf import settings
from django.db.models import Count, Q, Sum
from django.http import Http404, HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Field, Query, Router, Schema

from accounts import ratelimit
from accounts.apikit import ErrorOut, Id, PageQuery, TokenAuth, page, reader_of, sees_everybody
from billing.api.amounts import both_ways
from billing.finance.days import month_named
from fleet.api import READ_REFUSALS, REFUSALS
from resellers import services
from resellers.access import reseller_for, settlement_for
from resellers.models import CommissionLine, LinkDay, Reseller, Settlement, Signup
from resellers.selectors import (
    balances_of,
    commissions_of,
    count_customers,
    customers_in_full,
    earned_by_customer,
    earnings_of,
    reseller_of_user,
    settlements_of,
    under_review,
)

from .fields import (
    MONTH,
    CommissionPage,
    CommissionQuery,
    CustomerPage,
    MeAnswer,
    MonthsAnswer,
    ResellerAnswer,
    SettlementAnswer,
    SettlementPage,
    amounts_of,
    link_of,
    show_commission,
    show_customer,
    show_earnings,
    show_reseller,
    show_settlement,
)

reseller = Router(tags=["reseller"])

TEN_MINUTES = 600
MOST_APPLICATIONS = 20
"""In ten minutes, of one account."""


class ApplyIn(Schema):
    """You want to be a reseller."""

    application: str = Field("", max_length=4000, description="How you mean to sell.")
    code: str = Field(
        "", max_length=32, description="Of your link: 3 to 32 small letters, digits and dashes. We choose one if empty."
    )
    accepts_terms: bool = Field(False, description="That you have read the terms and accept them.")


class OfReseller(Schema):
    """Whose; what is others' is for staff."""

    reseller_id: Id | None = None


class SettlementQuery(PageQuery):
    """Filters of the list; what is others' is for staff."""

    reseller_id: Id | None = None
    state: Settlement.State | None = None


@reseller.get("/me", response={200: MeAnswer, READ_REFUSALS: ErrorOut}, auth=TokenAuth("account"))
def me(request: HttpRequest) -> dict[str, Any]:
    """How your application stands, your link and what it has brought. 404 for one who has never applied."""
    reader = reader_of(request)
    seller = reseller_of_user(reader)
    if seller is None:
        raise Http404
    customers, paying = count_customers(seller)
    totals = {
        "clicks": LinkDay.objects.filter(reseller=seller).aggregate(sum=Sum("clicks"))["sum"] or 0,
        "signups": Signup.objects.filter(reseller=seller, verdict=Signup.Verdict.ATTRIBUTED).count(),
        "customers": customers,
        "paying_customers": paying,
        "orders_under_review": under_review(seller),
        "commission": [show_earnings(currency, earnings) for currency, earnings in earnings_of(seller).items()],
    }
    balance = amounts_of({code: left for code, left in balances_of(reader).items() if left})
    link = settings.PUBLIC_URL + link_of(seller)
    return {"success": True, "reseller": show_reseller(seller) | {"link": link, "balance": balance, "totals": totals}}


@reseller.post("/apply", response={200: ResellerAnswer, REFUSALS | {429}: ErrorOut}, auth=TokenAuth("account"))
def apply(request: HttpRequest, data: ApplyIn) -> dict[str, Any]:
    """Ask to become a reseller: staff decide, and mail you. Asking again before that changes what you said."""
    reader = reader_of(request)
    ratelimit.hit(scope="apply", key=str(reader.pk), limit=MOST_APPLICATIONS, window_seconds=TEN_MINUTES)
    applied = services.apply(
        user=reader, application=data.application, code=data.code, accepts_terms=data.accepts_terms
    )
    return {"success": True, "reseller": show_reseller(applied)}


@reseller.get("/customers", response={200: CustomerPage, READ_REFUSALS: ErrorOut}, auth=TokenAuth("reseller"))
def list_customers(request: HttpRequest, query: Query[PageQuery]) -> dict[str, Any]:
    """Who came by your link. You see how many there are and what they brought, not who they are."""
    seller = reseller_for(reader_of(request))
    answer = page(customers_in_full(seller), query.page, query.per_page)
    found = answer["items"]
    earned = earned_by_customer(seller, [one.user_id for one in found])
    return answer | {"items": [show_customer(one, earned.get(one.user_id, {})) for one in found]}


@reseller.get("/commissions", response={200: CommissionPage, READ_REFUSALS: ErrorOut}, auth=TokenAuth("reseller"))
def list_commissions(request: HttpRequest, query: Query[CommissionQuery]) -> dict[str, Any]:
    """What orders of your customers earned you, and what refunds took back."""
    found = commissions_of(reseller_for(reader_of(request)))
    if query.month:
        found = found.filter(settle_month=month_named(query.month))
    if query.kind:
        found = found.filter(kind=query.kind)
    if query.currency:
        found = found.filter(currency=query.currency)
    return page(found, query.page, query.per_page, show_commission)


@reseller.get(
    "/commission",
    response={200: MonthsAnswer, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("reseller", everybody="resellers.view_commissionline"),
)
def commission(request: HttpRequest, query: Query[OfReseller]) -> dict[str, Any]:
    """Your commission by month, and what became of it; with the staff scope and `reseller_id`, anybody's."""
    seller = _whose(request, query.reseller_id)
    return {"success": True, "reseller": seller.code, "months": _months_of(seller)}


@reseller.get(
    "/settlements",
    response={200: SettlementPage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("reseller", everybody="resellers.view_settlement"),
)
def list_settlements(request: HttpRequest, query: Query[SettlementQuery]) -> dict[str, Any]:
    """Your settlements; with the staff scope, everybody's."""
    if sees_everybody(request) and query.reseller_id is None:
        found = Settlement.objects.select_related("reseller").defer("reseller__payout_details")
    else:
        found = settlements_of(_whose(request, query.reseller_id))
    if query.state:
        found = found.filter(state=query.state)
    return page(found, query.page, query.per_page, show_settlement)


@reseller.get(
    "/settlement/{int:settlement_id}",
    response={200: SettlementAnswer, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("reseller", everybody="resellers.view_settlement"),
)
def show_one(request: HttpRequest, settlement_id: int) -> dict[str, Any]:
    """One of your settlements; with the staff scope, anybody's. `/commissions?month=` lists what it is made of."""
    if sees_everybody(request):
        found = get_object_or_404(Settlement.objects.select_related("reseller"), pk=settlement_id)
    else:
        found = settlement_for(reseller_for(reader_of(request)), settlement_id)
    return {"success": True, "settlement": show_settlement(found)}


def _whose(request: HttpRequest, reseller_id: int | None) -> Reseller:
    """The reseller that is asked about: oneself, or anybody for those who see everybody. Raises Http404."""
    if reseller_id is not None and sees_everybody(request):
        return get_object_or_404(Reseller, pk=reseller_id)
    seller = reseller_for(reader_of(request))
    if reseller_id not in (None, seller.pk):
        raise Http404
    return seller


def _months_of(seller: Reseller) -> list[dict[str, Any]]:
    """Two queries, the latest month first. A month that only carries something over has no lines, and is there too."""
    kinds = CommissionLine.Kind
    sums: dict[tuple[date, str], tuple[int, int, int]] = {
        (month, currency): (earned or 0, taken or 0, orders)
        for month, currency, earned, taken, orders in commissions_of(seller)
        .select_related(None)
        .order_by()
        .values_list("settle_month", "currency")
        .annotate(
            earned=Sum("amount", filter=Q(kind=kinds.EARNED)),
            taken=Sum("amount", filter=Q(kind=kinds.REVERSED)),
            orders=Count("id", filter=Q(kind=kinds.EARNED)),
        )
    }
    settled = {(one.month, one.currency): one for one in Settlement.objects.filter(reseller=seller)}
    months = []
    for month, currency in sorted(sums.keys() | settled.keys(), key=lambda key: (-key[0].toordinal(), key[1])):
        earned, taken, orders = sums.get((month, currency), (0, 0, 0))
        settlement = settled.get((month, currency))
        months.append(
            both_ways(currency, earned=earned, reversed=taken, amount=earned + taken)
            | {
                "month": month.strftime(MONTH),
                "orders": orders,
                "settlement_id": settlement.pk if settlement else None,
                "state": settlement.state if settlement else None,
            }
        )
    return months
