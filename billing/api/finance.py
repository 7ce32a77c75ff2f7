"""`/api/finance/…`: figures, the month's report, the ledger, who paid what."""

from __future__ import annotations

from typing import Any

from django.db.models import Prefetch, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from ninja import Query, Router

from accounts.apikit import ErrorOut, TokenAuth, page, reader_of
from billing.finance import asked
from billing.finance.days import month_named
from billing.finance.exports import FORMATS, file_name
from billing.finance.figures import statistics
from billing.finance.gathering import currencies
from billing.finance.months import close_month
from billing.finance.reports import report_of
from billing.models import Order, Payment, Posting
from billing.services.ledger import today
from fleet.api import READ_REFUSALS, REFUSALS

from .finance_fields import (
    CloseIn,
    CloseOut,
    LedgerPage,
    LedgerQuery,
    PaymentsPage,
    PaymentsQuery,
    ReportOut,
    ReportQuery,
    StatisticsOut,
    StatisticsQuery,
    show_payment,
    show_posting,
    show_statistics,
)

finance = Router(tags=["finance"])

MOST_ROWS = 10_000
"""So far long lists are counted and paged; their filters reach the rest."""

PAID = (Order.State.PAID, Order.State.FULFILLED, Order.State.REFUNDED)


@finance.get(
    "/statistics",
    response={200: StatisticsOut, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("billing.view_posting",)),
    by_alias=True,
)
def get_statistics(request: HttpRequest, query: Query[StatisticsQuery]) -> dict[str, Any]:
    """Revenue, orders, customers, leases and deferred revenue of a period, by day or month, plan, shop and reseller."""
    start, end = asked.period(query.start, query.end)
    only = asked.narrowing(plan=query.plan, channel=query.channel, reseller=query.reseller)
    currency = query.currency or asked.default_currency()
    return show_statistics(statistics(start, end, currency, only=only, by=query.by), query.by, currencies())


@finance.get(
    "/report",
    response={200: ReportOut, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("billing.view_posting",)),
)
def get_report(request: HttpRequest, query: Query[ReportQuery]) -> Any:
    """A month's report as JSON, or as a file: CSV, a workbook, paper."""
    report = report_of(month_named(query.month) if query.month else today())
    if query.format == "json":
        return {"success": True, "report": report}
    kind = FORMATS[query.format]
    response = HttpResponse(kind.make(report), content_type=kind.content_type)
    response["Content-Disposition"] = f'attachment; filename="{file_name(report, query.format)}"'
    return response


@finance.post(
    "/close_month",
    response={200: CloseOut, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("billing.add_closedmonth",)),
)
def post_close_month(request: HttpRequest, data: CloseIn) -> dict[str, Any]:
    """Freeze a month's report for good: nothing is booked into it any more. The same month twice is fine."""
    closed = close_month(month=month_named(data.month), actor=reader_of(request))
    return {"success": True, "month": f"{closed.month:%Y-%m}", "closed_at": closed.created_at}


@finance.get(
    "/ledger",
    response={200: LedgerPage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("billing.view_posting",)),
)
def get_ledger(request: HttpRequest, query: Query[LedgerQuery]) -> dict[str, Any]:
    """The postings."""
    found = _of_shop(Posting.objects.select_related("order", "plan", "channel", "reseller", "method"), query.channel)
    said = {
        "booked_day__gte": query.start,
        "booked_day__lte": query.end,
        "booked_month": month_named(query.month) if query.month else None,
        "currency": query.currency,
        "order__number": query.order or None,
        "method__code": query.method or None,
        "key__startswith": query.key or None,
    }
    found = found.filter(**{name: value for name, value in said.items() if value is not None})
    if query.account:
        found = found.filter(Q(debit=query.account) | Q(credit=query.account))
    return page(found.order_by("-id")[:MOST_ROWS], query.page, query.per_page, show_posting)


@finance.get(
    "/payments",
    response={200: PaymentsPage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("billing.view_order", "billing.view_payment")),
)
def get_payments(request: HttpRequest, query: Query[PaymentsQuery]) -> dict[str, Any]:
    """Who paid what."""
    paid = Payment.objects.filter(state=Payment.State.PAID).select_related("method").order_by("-paid_at", "-id")
    found = Order.objects.filter(state__in=PAID, received__gt=0).select_related("user", "channel")
    found = _of_shop(found, query.channel)
    said = {
        "booked_day__gte": query.start,
        "booked_day__lte": query.end,
        "user": query.user_id,
        "currency": query.currency,
    }
    found = found.filter(**{name: value for name, value in said.items() if value is not None})
    if query.method:
        found = found.filter(pk__in=paid.filter(method__code=query.method).order_by().values("order"))
    found = found.prefetch_related(Prefetch("payments", queryset=paid, to_attr="paid"))
    return page(found.order_by("-booked_day", "-id")[:MOST_ROWS], query.page, query.per_page, show_payment)


def _of_shop(rows: QuerySet[Any], code: str) -> QuerySet[Any]:
    return rows.filter(asked.narrowing(channel=code).where())
