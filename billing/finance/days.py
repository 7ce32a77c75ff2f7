"""Days and months of the books: the operator's calendar, whatever the reader's zone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from django.conf import settings

from derp_portal.lib.clock import end_of_day, next_month, start_of_day

FIRST_YEAR, LAST_YEAR = 2000, 2999
"""Months outside of these are typing mistakes."""


def operators_zone() -> ZoneInfo:
    """The zone whose days are the days of the books."""
    return ZoneInfo(settings.TIME_ZONE)


def days_between(first: date, last: date) -> Iterator[date]:
    """Every day from `first` to `last`, both included."""
    return (first + timedelta(days=number) for number in range((last - first).days + 1))


def span_of(first: date, last: date) -> tuple[datetime, datetime]:
    """The moments at which these days begin and have ended, for the operator."""
    zone = operators_zone()
    return start_of_day(first, zone), end_of_day(last, zone)


def last_day_of(month: date) -> date:
    """The last day of the month that `month` lies in."""
    return next_month(month) - timedelta(days=1)


def month_before(month: date) -> date:
    """The first day of the month before the one that `month` lies in."""
    return (month.replace(day=1) - timedelta(days=1)).replace(day=1)


def month_named(text: str) -> date:
    """The first day of the month written as 2027-01. Raises ValueError for what is none, or out of all reason."""
    if len(text) != len("2027-01"):
        raise ValueError(f"{text!r} is not a month")
    month = date.fromisoformat(f"{text}-01")
    # So that the months beside it exist too, in every zone.
    if not FIRST_YEAR <= month.year <= LAST_YEAR:
        raise ValueError(f"{text!r} is a month without any books")
    return month
