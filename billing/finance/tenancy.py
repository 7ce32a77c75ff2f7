"""How many rent, and how many stopped."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from django.db.models import Count, Exists, OuterRef, Q
from django.db.models.functions import Coalesce

from serials.models import Lease, LeaseTerm

from .days import span_of


@dataclass(frozen=True, slots=True)
class Tenancy:
    """`active` leases now; of those `at_start` of a period, how many were `lost` in it."""

    active: int
    at_start: int
    lost: int

    @property
    def churn(self) -> float | None:
        """The share that was lost, 0 to 1; None when there was nobody to lose."""
        return self.lost / self.at_start if self.at_start else None


def tenancy(first: date, last: date) -> Tenancy:
    """Leases of the days from `first` to `last`, whoever granted them. Two queries.

    A lease was there at the start when it was active at the first moment of `first`. It was lost when it ended before
    `last` was over and has not come back since: one that was renewed after its end, while its place was reserved, is
    not lost, however late that was. So a figure of last month may still become better.
    """
    began, ended = span_of(first, last)
    may_have_run = Q(status=Lease.Status.ACTIVE) | Q(ended_at__gt=began)
    # Of one that has come back to life since, only its terms say whether it was alive then.
    ran = LeaseTerm.objects.annotate(closes_at=Coalesce("closed_at", "ends_at")).filter(
        lease=OuterRef("pk"), starts_at__lte=began, ends_at__gt=began, closes_at__gt=began
    )
    was_there = Q(active_since__lte=began) | (Q(started_at__lte=began) & Exists(ran))
    counts = Lease.objects.filter(may_have_run, was_there).aggregate(
        at_start=Count("pk"),
        lost=Count("pk", filter=~Q(status=Lease.Status.ACTIVE) & Q(ended_at__lt=ended)),
    )
    active = Lease.objects.filter(status=Lease.Status.ACTIVE).count()
    return Tenancy(active=active, at_start=counts["at_start"], lost=counts["lost"])
