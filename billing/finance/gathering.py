"""Figures of a period: finished days from their roll-ups, days that are not rolled up yet from the books.

Which of the two a day comes from changes nothing but the time it takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import NamedTuple

from django.db.models import Max, Min, Sum

from billing.models import CURRENCIES, DailyFigure, Order, Posting, RolledDay

from .roll_up import placed_on
from .sums import EVERYTHING, FIELDS, NOTHING, Narrowing, Sums, counted

_SUMMED = {f"all_{name}": Sum(name, default=0) for name in FIELDS}


class Whose(NamedTuple):
    """Of which plan, shop and reseller a sum is; None is none: a pack, the portal's own shop."""

    plan_id: int | None
    channel_id: int | None
    reseller_id: int | None


@dataclass(frozen=True, slots=True)
class Gathered:
    """`of_days` and `whose` hold what was asked for; `placed` and `paid` are orders of the whole portal."""

    of_days: dict[date, Sums]
    whose: dict[Whose, Sums]
    placed: int
    paid: int


def gather(start: date, end: date, currency: str, only: Narrowing = EVERYTHING) -> Gathered:
    """What the days from `start` to `end` brought. At most eight queries, however many rows there are."""
    seam, placed = _seam(start, end)
    of_days: dict[date, Sums] = {}
    whose: dict[Whose, Sums] = {}
    paid = 0
    rolled = DailyFigure.objects.filter(day__gte=start, day__lt=seam).order_by()
    if seam > start:
        wanted = rolled.filter(only.where(), currency=currency)
        for day, *values in wanted.values_list("day").annotate(**_SUMMED):
            of_days[day] = Sums(*values)
        for named in wanted.values_list(*Whose._fields).annotate(**_SUMMED):
            whose[Whose(*named[:3])] = Sums(*named[3:])
        paid = rolled.aggregate(paid=Sum("orders", default=0))["paid"]
    if seam <= end:
        placed += placed_on(seam, end)
        for key, sums in counted(seam, end).items():
            paid += sums.orders
            if key.currency == currency and only.holds(key):
                of_days[key.day] = of_days.get(key.day, NOTHING) + sums
                mine = Whose(key.plan_id, key.channel_id, key.reseller_id)
                whose[mine] = whose.get(mine, NOTHING) + sums
    return Gathered(of_days, whose, placed, paid)


def _seam(start: date, end: date) -> tuple[date, int]:
    """The first day that is not read from roll-ups (the one after `end` if all are), and orders placed before it.

    Days are rolled up oldest first, from the first of the books on, so before the first rolled day there is nothing.
    Should one be missing in between, all from it on is read from the books.
    """
    known = RolledDay.objects.aggregate(first=Min("day"))["first"]
    if known is None:
        return start, 0
    day, placed = max(start, min(known, end + timedelta(days=1))), 0
    rolled = RolledDay.objects.filter(day__range=(day, end)).order_by("day").values_list("day", "placed")
    for found, count in rolled:
        if found != day:
            break
        day, placed = day + timedelta(days=1), placed + count
    return day, placed


def currencies() -> list[str]:
    """The currencies in which anything was ever sold or booked, in the order the shop names them."""
    last = RolledDay.objects.aggregate(last=Max("day"))["last"] or date.min
    rolled = DailyFigure.objects.order_by().values_list("currency")
    booked = Posting.objects.filter(booked_day__gt=last).order_by().values_list("currency")
    paid = Order.objects.filter(booked_day__gt=last).order_by().values_list("currency")
    return in_order(code for (code,) in rolled.union(booked, paid))


def in_order(codes: Iterable[str]) -> list[str]:
    """Currencies in the order the shop names them, each once."""
    names = [code for code, _name in CURRENCIES]
    return sorted(set(codes), key=lambda code: (names.index(code) if code in names else len(names), code))
