"""Moments and days. Everything stored is UTC; a day of a lease is exactly 24 hours."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from django.utils import timezone

FURTHEST = datetime(2100, 1, 1, tzinfo=UTC)
"""Later ends are typing mistakes, and the latest ones cannot even be shown in every zone."""


def now() -> datetime:
    """The present moment, aware and in UTC. Tests move it with time-machine."""
    return timezone.now()


def days(count: int) -> timedelta:
    """`count` days of exactly 24 hours: month ends, leap days and zone changes add or lose nothing."""
    return timedelta(days=count)


def end_of_day(day: date, zone: ZoneInfo) -> datetime:
    """The last moment of `day` as people in `zone` see it: the next local midnight."""
    return datetime.combine(day + timedelta(days=1), time.min, tzinfo=zone)


def hour_of(moment: datetime) -> datetime:
    """The beginning of its hour, UTC."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def day_of(moment: datetime) -> datetime:
    """The beginning of its day, UTC."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def local_day(moment: datetime, zone: ZoneInfo) -> date:
    """The calendar day of `moment` for people in `zone`."""
    return moment.astimezone(zone).date()


def start_of_day(day: date, zone: ZoneInfo) -> datetime:
    """The first moment of `day` for people in `zone`."""
    return datetime.combine(day, time.min, tzinfo=zone)


def next_month(month: date) -> date:
    """The first day of the month after the one that `month` lies in."""
    return (month.replace(day=1) + timedelta(days=32)).replace(day=1)
