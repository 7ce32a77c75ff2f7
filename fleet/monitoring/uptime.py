"""How much of the time relays answered: counted by day (UTC) as they are probed, read by month."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from django.db.models import F, FloatField, OuterRef, Q, QuerySet, Subquery, Sum
from django.db.models.functions import Cast, NullIf
from django.utils.formats import number_format

from derp_portal.lib.clock import now
from fleet.models import Relay, RelayUptime


class Counted(NamedTuple):
    """One probe of a relay that should have run, and how long its ping took where it was measured."""

    relay_id: int
    has_answered: bool
    latency_ms: float | None


def count_probes(probes: Iterable[Counted], moment: datetime) -> None:
    """Add the probes to their relays' day. Call with the relays' health rows locked: nothing else guards these rows.

    The number of queries does not depend on the number of probes.
    """
    listed = list(probes)
    day = moment.astimezone(UTC).date()
    relay_ids = {probe.relay_id for probe in listed}
    rows = {row.relay_id: row for row in RelayUptime.objects.filter(day=day, relay__in=relay_ids)}
    for probe in listed:
        row = rows.setdefault(probe.relay_id, RelayUptime(relay_id=probe.relay_id, day=day))
        row.probes += 1
        if probe.has_answered:
            row.answered += 1
            row.latency_sum_ms += probe.latency_ms or 0
    RelayUptime.objects.bulk_create([row for row in rows.values() if row.pk is None])
    RelayUptime.objects.bulk_update(
        [row for row in rows.values() if row.pk is not None], ["probes", "answered", "latency_sum_ms"]
    )


@dataclass(frozen=True, slots=True)
class Uptime:
    """Shares of answered probes, 0 to 1, in a month and in the one before; None where nothing was measured."""

    month: float | None = None
    month_before: float | None = None


def uptime_of(relay_ids: Collection[int], month: date | None = None) -> dict[int, Uptime]:
    """The uptime of each of the relays in the month of that day (by default the present one). One query."""
    return _uptime_by("relay_id", relay_ids, month)


def uptime_of_servers(server_ids: Collection[int], month: date | None = None) -> dict[int, Uptime]:
    """The uptime of all relays that are on each of the servers now, wherever they were before. One query."""
    return _uptime_by("relay__server_id", server_ids, month)


def with_uptime(relays: QuerySet[Relay]) -> QuerySet[Any]:
    """The relays with `month_uptime` and `last_month_uptime`, as in `Uptime`."""
    this, last = _months(None)
    annotated: QuerySet[Any] = relays.annotate(month_uptime=_share_in(*this), last_month_uptime=_share_in(*last))
    return annotated


def percent(share: float | None) -> str:
    """The share as people read it, "" for None. Rounded down: only what never failed is 100 %."""
    if share is None:
        return ""
    # A share such as 0.9998 may be a hair below it as a float.
    hundredths = math.floor(share * 10_000 + 1e-6)
    return f"{number_format(hundredths / 100, 0 if hundredths == 10_000 else 2)} %"


def _share(within: Q | None = None) -> Any:
    answered, probes = Sum("answered", filter=within), Sum("probes", filter=within)
    return Cast(answered, FloatField()) / NullIf(probes, 0)


def _share_in(start: date, end: date) -> Subquery:
    days = RelayUptime.objects.filter(relay=OuterRef("pk"), day__gte=start, day__lt=end).order_by()
    return Subquery(days.values("relay").annotate(share=_share()).values("share"), output_field=FloatField())


def _uptime_by(key: str, ids: Collection[int], month: date | None) -> dict[int, Uptime]:
    this, last = _months(month)
    days = RelayUptime.objects.filter(**{f"{key}__in": ids}, day__gte=last[0], day__lt=this[1]).order_by()
    rows = (
        days.values(owner=F(key))
        .annotate(month=_share(Q(day__gte=this[0])), month_before=_share(Q(day__lt=this[0])))
        .values_list("owner", "month", "month_before")
    )
    return dict.fromkeys(ids, Uptime()) | {owner: Uptime(month, before) for owner, month, before in rows}


def _months(day: date | None) -> tuple[tuple[date, date], tuple[date, date]]:
    """First day and the day after the last, of the day's month and of the one before."""
    first = (day or now().astimezone(UTC).date()).replace(day=1)
    following = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    previous = first.replace(year=first.year - (first.month == 1), month=(first.month - 2) % 12 + 1)
    return (first, following), (previous, first)
