"""The books for operators: figures of a period, the month's report, closing a month, and the ledger itself."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlencode

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import RelatedDropdownFilter
from unfold.decorators import display

from billing.finance import asked
from billing.finance.charts import money_chart
from billing.finance.days import last_day_of, month_before, month_named
from billing.finance.exports import FORMATS, file_name, sections
from billing.finance.figures import By, Statistics, statistics
from billing.finance.gathering import currencies, in_order
from billing.finance.months import close_month, earliest_open_month, may_be_closed
from billing.finance.reports import report_of
from billing.models import ClosedMonth, DailyFigure, Posting
from billing.services.ledger import today
from derp_portal.lib import money
from derp_portal.lib.asking import Question, act
from derp_portal.lib.clock import next_month
from derp_portal.lib.errors import PortalError
from fleet.admin.base import HistoryAdmin, actor, link
from fleet.admin.overview import Chip

MONTHLY_FROM = 92
"""From so many days on the bars are months."""
SHOWN_MONTHS = 12


class Card(NamedTuple):
    """One figure, and what helps to read it."""

    title: str
    value: str
    note: str = ""


@admin.register(Posting)
class PostingAdmin(HistoryAdmin):
    """The ledger, and the way to the figures made of it."""

    list_display = ("booked_day", "key", "debit", "credit", "show_amount", "order", "plan", "channel", "reseller")
    list_filter = (
        "debit",
        "credit",
        "currency",
        ("booked_month", admin.DateFieldListFilter),
        ("plan", RelatedDropdownFilter),
        ("channel", RelatedDropdownFilter),
        ("method", RelatedDropdownFilter),
    )
    list_select_related = ("order", "plan", "channel", "reseller")
    search_fields = ("key__startswith", "order__number__startswith")
    search_help_text = gettext_lazy("The beginning of a key or of an order's number")
    sortable_by = ()

    def get_urls(self) -> list[URLPattern]:
        """With the figures, the report and its files, and closing a month."""
        view = self.admin_site.admin_view
        return [
            path("finance/", view(self.finance), name="billing_finance"),
            path("report/<str:month>/", view(self.report), name="billing_report"),
            path("report/<str:month>/close/", view(self.close), name="billing_close_month"),
            path("report/<str:month>/<str:kind>/", view(self.report_file), name="billing_report_file"),
            *super().get_urls(),
        ]

    def finance(self, request: HttpRequest) -> HttpResponseBase:
        """The figures of a period."""
        _may_look(self, request)
        return TemplateResponse(request, "admin/billing/finance.html", _context(self, request) | _finance(request))

    def report(self, request: HttpRequest, month: str) -> HttpResponseBase:
        """A month's report."""
        _may_look(self, request)
        first = _month_or_404(month)
        report = report_of(first)
        context = _context(self, request) | {
            "title": _("Report for %(month)s") % {"month": month},
            "month": month,
            "report": report,
            "sections": list(sections(report)),
            "files": _files(month),
            "previous": f"{month_before(first):%Y-%m}",
            "following": f"{next_month(first):%Y-%m}" if next_month(first) <= today() else "",
            "close_url": _close_url(request, first),
        }
        return TemplateResponse(request, "admin/billing/report.html", context)

    def report_file(self, request: HttpRequest, month: str, kind: str) -> HttpResponseBase:
        """The same as a file."""
        _may_look(self, request)
        if kind not in FORMATS:
            raise Http404
        report = report_of(_month_or_404(month))
        response = HttpResponse(FORMATS[kind].make(report), content_type=FORMATS[kind].content_type)
        response["Content-Disposition"] = f'attachment; filename="{file_name(report, kind)}"'
        return response

    def close(self, request: HttpRequest, month: str) -> HttpResponseBase:
        """Ask, then close the month."""
        if not request.user.has_perm("billing.add_closedmonth"):
            raise PermissionDenied
        first = _month_or_404(month)
        question = Question(
            title=_("Close %(month)s?") % {"month": month},
            lines=[
                _("The report is frozen as it is now, and nothing can be booked into this month any more."),
                _("The books are checked first; this may take a while. A closed month cannot be opened again."),
            ],
            button=_("Close the month"),
            back=reverse("admin:billing_report", args=[month]),
            is_dangerous=True,
        )

        def do() -> str:
            close_month(month=first, actor=actor(request))
            return _("%(month)s is closed.") % {"month": month}

        return act(self, request, question, do)

    @display(description=gettext_lazy("amount"))
    def show_amount(self, posting: Posting) -> str:
        """With its currency."""
        return money.for_people(posting.amount, posting.currency)


@admin.register(DailyFigure)
class DailyFigureAdmin(HistoryAdmin):
    """What single days brought: the roll-ups that figures are read from."""

    list_display = (
        *("day", "currency", "plan", "channel", "reseller", "revenue", "wholesale", "refunds", "fees"),
        *("orders", "units", "renewals", "first_orders"),
    )
    list_filter = ("currency", ("plan", RelatedDropdownFilter), ("channel", RelatedDropdownFilter), "day")
    list_select_related = ("plan", "channel", "reseller")
    sortable_by = ()


@admin.register(ClosedMonth)
class ClosedMonthAdmin(HistoryAdmin):
    """Months whose books are closed."""

    list_display = ("__str__", "actor", "created_at", "show_report")
    list_select_related = ("actor",)
    fields = ("month", "actor", "created_at", "show_report")
    readonly_fields = ("show_report",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ClosedMonth]:
        """Without the reports themselves: a year of days each."""
        found: QuerySet[ClosedMonth] = super().get_queryset(request)
        return found.defer("report")

    @display(description=gettext_lazy("report"))
    def show_report(self, closed: ClosedMonth) -> str:
        """The way to it."""
        return link(reverse("admin:billing_report", args=[str(closed)]), _("Open the report"))


def _may_look(model_admin: PostingAdmin, request: HttpRequest) -> None:
    if not model_admin.has_view_permission(request):
        raise PermissionDenied


def _context(model_admin: PostingAdmin, request: HttpRequest) -> dict[str, Any]:
    return {**model_admin.admin_site.each_context(request), "opts": model_admin.model._meta}


def _month_or_404(month: str) -> date:
    try:
        return month_named(month)
    except ValueError as error:
        raise Http404 from error


def _close_url(request: HttpRequest, month: date) -> str:
    """Where the month is closed; "" while it cannot be, or not by this reader."""
    is_next = earliest_open_month() == month and may_be_closed(month)
    may = request.user.has_perm("billing.add_closedmonth")
    return reverse("admin:billing_close_month", args=[f"{month:%Y-%m}"]) if is_next and may else ""


def _files(month: str) -> list[tuple[str, str]]:
    return [(kind.upper(), reverse("admin:billing_report_file", args=[month, kind])) for kind in FORMATS]


# --- the page of figures ----------------------------------------------------------------------------


def _finance(request: HttpRequest) -> dict[str, Any]:
    """By `period` or `from` and `to`, and `currency`, of the address; values that mean nothing mean this month."""
    known = currencies()
    asked_for = request.GET.get("currency", "")
    currency = asked_for if asked_for in known else next(iter(known), "CNY")
    choices = _periods()
    start, end, chosen = _period(request, choices)
    by = By.MONTH if (end - start).days >= MONTHLY_FROM else By.DAY
    found = statistics(start, end, currency, by=by)
    kept = {"period": chosen} if chosen else {"from": start.isoformat(), "to": end.isoformat()}
    month = (end if start.replace(day=1) == end.replace(day=1) else today()).replace(day=1)
    return {
        "title": _("Finance"),
        "found": found,
        "currency": currency,
        "start": start,
        "end": end,
        "period": chosen,
        "is_monthly": by == By.MONTH,
        "cards": _cards(found),
        "chart": money_chart(found.series),
        "period_chips": [
            Chip(label, _address(period=key, currency=currency), key == chosen) for key, label, _s, _e in choices
        ],
        "currency_chips": [
            Chip(code, _address(**kept, currency=code), code == currency) for code in in_order([*known, currency])
        ],
        "parts": [
            (_("By plan"), _("Plan"), found.plans, False),
            (_("By shop"), _("Shop"), found.channels, True),
            (_("By reseller"), _("Reseller"), found.resellers, True),
        ],
        "months": _months(),
        "month": f"{month:%Y-%m}",
        "files": _files(f"{month:%Y-%m}"),
        "to_close": _to_close(request),
    }


def _periods() -> list[tuple[str, str, date, date]]:
    """What the chips offer: key, words, first and last day."""
    day = today()
    this = day.replace(day=1)
    last = month_before(this)
    year = this.replace(year=this.year - 1)
    return [
        ("month", _("This month"), this, day),
        ("last", _("Last month"), last, last_day_of(last)),
        ("90d", _("90 days"), day - timedelta(days=89), day),
        ("12m", _("12 months"), next_month(year), day),
    ]


def _period(request: HttpRequest, choices: list[tuple[str, str, date, date]]) -> tuple[date, date, str]:
    """The first and last day, and the key of the chip; "" for days of the reader's own."""
    begin, until = request.GET.get("from", ""), request.GET.get("to", "")
    if begin or until:
        try:
            first = date.fromisoformat(begin) if begin else None
            last = date.fromisoformat(until) if until else None
            return *asked.period(first, last), ""
        except (ValueError, OverflowError, PortalError):
            pass  # Not worth a page of errors: the chips say what is shown instead.
    wanted = request.GET.get("period", "")
    key, _label, start, end = next((one for one in choices if one[0] == wanted), choices[0])
    return start, end, key


def _months() -> list[str]:
    """The latest months, for the way to their reports."""
    months = [today().replace(day=1)]
    while len(months) < SHOWN_MONTHS:
        months.append(month_before(months[-1]))
    return [f"{month:%Y-%m}" for month in months]


def _to_close(request: HttpRequest) -> tuple[str, str] | None:
    """The month that is to be closed next, and where, for whom may."""
    month = earliest_open_month()
    address = _close_url(request, month) if month else ""
    return (f"{month:%Y-%m}", address) if address else None


def _cards(found: Statistics) -> list[Card]:
    totals, code = found.totals, found.currency

    def amount(minor: int) -> str:
        return money.for_people(minor, code)

    def percent(share: float | None) -> str:
        return "–" if share is None else f"{100 * share:.1f} %"

    return [
        Card(_("Net revenue"), amount(totals.net), _("Sold %(gross)s") % {"gross": amount(totals.gross)}),
        Card(_("Wholesale"), amount(totals.wholesale), _("part of what was sold")),
        Card(_("Refunds"), amount(totals.refunds)),
        Card(_("Fees"), amount(totals.fees), _("Left after fees: %(left)s") % {"left": amount(totals.after_fees)}),
        Card(
            _("Orders"),
            f"{totals.orders:,}",
            _("%(units)s units, %(renewals)s renewals") % {"units": totals.units, "renewals": totals.renewals},
        ),
        Card(
            _("Paying customers"),
            f"{found.customers:,}",
            _("%(count)s ordered for the first time") % {"count": totals.first_orders},
        ),
        Card(_("Net for each customer"), "–" if found.average is None else amount(found.average), _("our own shop")),
        Card(
            _("Conversion"),
            percent(found.conversion.share),
            _("%(paid)s of %(placed)s orders, all currencies")
            % {"paid": found.conversion.paid, "placed": found.conversion.placed},
        ),
        Card(_("Active leases"), f"{found.tenancy.active:,}", _("now")),
        Card(
            _("Churn"),
            percent(found.tenancy.churn),
            _("%(lost)s of %(start)s leases did not come back")
            % {"lost": found.tenancy.lost, "start": found.tenancy.at_start},
        ),
        Card(_("Deferred revenue"), amount(found.deferred_amount), _("days sold, not yet served, now")),
    ]


def _address(**filters: str) -> str:
    return "?" + urlencode({name: value for name, value in filters.items() if value})
