"""Finished days are summed up once, so that a year of figures is read from a few thousand rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

from django.db import transaction
from django.db.models import Exists, Max, Min, OuterRef
from django.utils.translation import gettext as _

from billing.models import DailyFigure, Order, OrderLine, Posting, RolledDay
from derp_portal.lib.clock import local_day, now

from .days import days_between, operators_zone, span_of
from .sums import FIELDS, NOTHING, Key, Sums, counted

SETTLED = timedelta(minutes=15)
"""How long a day is left alone after its end: a transaction that began before midnight still writes into it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of one rolled day that is not what the books say."""

    key: Key
    figure: str
    rolled: int
    counted: int

    def __str__(self) -> str:
        said = {
            "day": self.key.day.isoformat(),
            "currency": self.key.currency,
            "figure": self.figure,
            "rolled": self.rolled,
            "counted": self.counted,
        }
        return _("%(day)s %(currency)s: %(figure)s is %(rolled)s in the roll-up and %(counted)s in the books.") % said


def placed_on(first: date, last: date) -> int:
    """How many orders were placed on these days, whatever became of them. Topping up a balance is no order here."""
    began, ended = span_of(first, last)
    tops_up = OrderLine.objects.filter(order=OuterRef("pk"), kind=OrderLine.Kind.TOP_UP)
    return Order.objects.filter(~Exists(tops_up), created_at__gte=began, created_at__lt=ended).count()


def roll_up_days() -> int:
    """Write the figures of every finished day that has none yet, oldest first; returns how many days were written.

    From the first day of the books on, also for days on which nothing was sold. Each day is one transaction. Twice
    is harmless and so is twice at once: the day's unique row in `rolled_days` decides whose figures stay.
    """
    first = first_day()
    last = local_day(now() - SETTLED, operators_zone()) - timedelta(days=1)
    if first is None:
        return 0
    rolled = set(RolledDay.objects.filter(day__gte=first).values_list("day", flat=True))
    return sum(_roll_up(day) for day in days_between(first, last) if day not in rolled)


def first_day() -> date | None:
    """The day on which the books begin: of the first order or posting; None while there is neither."""
    # One question each: several in one statement would go through all rows instead of to the end of an index.
    created = Order.objects.aggregate(first=Min("created_at"))["first"]
    booked = Order.objects.aggregate(first=Min("booked_day"))["first"]
    posted = Posting.objects.aggregate(first=Min("booked_day"))["first"]
    found = [local_day(created, operators_zone()) if created else None, booked, posted]
    return min((day for day in found if day), default=None)


def _roll_up(day: date) -> bool:
    with transaction.atomic():
        _row, is_new = RolledDay.objects.get_or_create(day=day, defaults={"placed": placed_on(day, day)})
        if is_new:
            DailyFigure.objects.bulk_create(
                (
                    DailyFigure(**key._asdict(), **{name: getattr(sums, name) for name in FIELDS})
                    for key, sums in counted(day, day).items()
                ),
                batch_size=500,
            )
    return is_new


def check_roll_ups(since: date | None = None) -> list[Difference]:
    """Where rolled days (all, or from `since` on) are not what the books say now. Three queries.

    Orders placed are not compared: on which day one was placed depends on the zone the operator has set.
    """
    days = RolledDay.objects.filter(day__gte=since) if since else RolledDay.objects.all()
    ends = days.aggregate(first=Min("day"), last=Max("day"))
    if ends["first"] is None:
        return []
    known = set(days.values_list("day", flat=True))
    rolled = _rolled(ends["first"], ends["last"])
    books = {key: sums for key, sums in counted(ends["first"], ends["last"]).items() if key.day in known}
    return [
        Difference(key, name, getattr(rolled.get(key, NOTHING), name), getattr(books.get(key, NOTHING), name))
        for key in sorted(rolled.keys() | books.keys(), key=str)
        for name in FIELDS
        if getattr(rolled.get(key, NOTHING), name) != getattr(books.get(key, NOTHING), name)
    ]


def _rolled(first: date, last: date) -> dict[Key, Sums]:
    rows = DailyFigure.objects.filter(day__range=(first, last)).order_by().values_list(*Key._fields, *FIELDS)
    found: dict[Key, Sums] = {}
    width = len(Key._fields)
    for row in rows.iterator(chunk_size=2000):
        key = Key(*row[:width])
        found[key] = found.get(key, NOTHING) + Sums(*row[width:])
    return found
