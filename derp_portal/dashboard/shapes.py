"""What the operator's home is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, QuerySet, Window
from django.urls import reverse

SHOWN = 5
SOON = timedelta(days=7)
PACE = timedelta(days=30)
"""How far back the pace is taken at which places fill."""


@dataclass(frozen=True, slots=True)
class Item:
    """Something that needs attention."""

    title: str
    reason: str
    link: str
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Attention:
    """Things of one kind that need attention: the first few, how many there are, and where the rest is."""

    title: str
    icon: str
    link: str
    count: int
    items: list[Item]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of today, with where it comes from."""

    title: str
    value: str
    link: str
    note: str = ""
    spark: str = ""
    """A line of the last days, as a path that is `SPARK_DAYS` - 1 wide and 100 high."""


@dataclass(slots=True)
class RegionRoom:
    """Places for relays in one region: taken of those there are, and in how many days they are full at this pace."""

    name: str
    servers: int = 0
    taken: int = 0
    places: int = 0
    pace: int = field(default=0, repr=False)

    @property
    def share(self) -> int:
        """Percent taken, 100 at most."""
        return min(round(100 * self.taken / self.places), 100) if self.places else 100

    @property
    def days_left(self) -> int | None:
        """None when it does not fill, or not within a year."""
        if not self.pace or not self.places:
            return None
        left = max(self.places - self.taken, 0) * PACE.days // self.pace
        return left if left <= 365 else None


def list_link(name: str, query: str = "") -> str:
    return reverse(f"admin:{name}_changelist") + (f"?{query}" if query else "")


def page_link(name: str, pk: int) -> str:
    return reverse(f"admin:{name}_change", args=[pk])


def count_and_first(found: QuerySet[Any]) -> tuple[int, list[Any]]:
    """How many there are and the first few of them, in one query."""
    rows = list(found.annotate(of_all=Window(Count("pk")))[:SHOWN])
    return (rows[0].of_all if rows else 0), rows
