"""Closing a month: its report is frozen, and nothing is booked into it any more."""

from __future__ import annotations

from datetime import date, timedelta

from django.db import transaction
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import record
from billing.models import ClosedMonth, Posting
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError

from .books import check_books
from .days import last_day_of, span_of
from .reports import make_report

SETTLED = timedelta(hours=1)
"""How long after its end a month can be closed: no transaction that began in it still writes by then."""


def may_be_closed(month: date) -> bool:
    """Whether the month (its first day) has been over for long enough."""
    _began, ended = span_of(month, last_day_of(month))
    return now() >= ended + SETTLED


def close_month(*, month: date, actor: User | None) -> ClosedMonth:
    """Freeze the month's report for good. `month` is any day of it; closing twice is fine.

    Raises PortalError `month_not_over`, `nothing_booked`, `earlier_month_open` (months are closed one after the other),
    `books_do_not_balance` (with the findings as `findings`); then nothing has changed.
    """
    month = month.replace(day=1)
    closed: ClosedMonth | None = ClosedMonth.objects.filter(month=month).first()
    if closed:
        return closed
    if not may_be_closed(month):
        raise PortalError(
            _("This month can be closed one hour after its end, not before."), code="month_not_over", status=409
        )
    if not Posting.objects.filter(booked_month__lte=month).exists():
        raise PortalError(_("Nothing was booked in this month or before it."), code="nothing_booked", status=409)
    if earlier := earliest_open_month(before=month):
        raise PortalError(
            _("%(month)s must be closed first.") % {"month": f"{earlier:%Y-%m}"},
            code="earlier_month_open",
            status=409,
            month=f"{earlier:%Y-%m}",
        )
    # Outside the transaction: it looks at the whole ledger, and nobody should wait to write meanwhile.
    if findings := check_books():
        raise PortalError(
            _("The books do not balance, so nothing was closed: %(first)s") % {"first": findings[0].words},
            code="books_do_not_balance",
            status=409,
            findings=[{"code": one.code, "message": one.words} for one in findings],
        )
    report = make_report(month)
    with transaction.atomic():
        row, is_new = ClosedMonth.objects.get_or_create(month=month, defaults={"report": report, "actor": actor})
        if is_new:
            record(actor=actor, event="month.closed", target=row, month=f"{month:%Y-%m}")
    return row


def earliest_open_month(*, before: date | None = None) -> date | None:
    """The first month with postings that is not closed (and lies before `before`); None when there is none."""
    last = ClosedMonth.objects.order_by("-month").values_list("month", flat=True).first()
    booked = Posting.objects.filter(booked_month__gt=last) if last else Posting.objects.all()
    if before:
        booked = booked.filter(booked_month__lt=before)
    return booked.order_by("booked_month").values_list("booked_month", flat=True).first()
