"""How much a group may use, over which stretch of time, and how much it has. Acting on it is `quota_keeping`'s."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Sum
from django.utils import timezone

from derp_portal.lib.clock import now
from fleet.models import QuotaPeriod, RelayGroup, TrafficPack, UserLimit

NOTICES = (80, 95, 100)
"""Percent of the limit at which a group's owner is told."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a group used in its present period, and how much it may: None for no limit. Packs are in `limit`."""

    period: QuotaPeriod
    limit: int | None
    packs: int = 0

    @property
    def used(self) -> int:
        return self.period.used_bytes

    @property
    def left(self) -> int | None:
        return None if self.limit is None else max(self.limit - self.used, 0)

    @property
    def is_over(self) -> bool:
        return self.limit is not None and self.used >= self.limit

    @property
    def percent(self) -> int:
        """Whole percent of the limit, at least 100 when it is reached; 0 where there is none."""
        if self.limit is None:
            return 0
        return 100 if self.limit == 0 else self.used * 100 // self.limit

    @property
    def reached(self) -> int:
        """The highest of `NOTICES` that has been reached; 0 for none."""
        return max((percent for percent in NOTICES if self.percent >= percent), default=0)


def window(group: RelayGroup, moment: datetime) -> tuple[datetime, datetime]:
    """From when to when the group's traffic is counted together. A group without a term counts by the month.

    A month is the operator's, in the portal's own time zone.
    """
    if group.period_start and group.period_end and not group.is_monthly:
        return group.period_start, group.period_end
    first = timezone.localtime(moment, timezone.get_default_timezone()).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0
    )
    following = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    return first, following


def present_periods(groups: Iterable[RelayGroup]) -> dict[int, QuotaPeriod]:
    """The period each group is in now, by group id; made, or given its new end, where that is missing."""
    moment = now()
    windows = {group.pk: window(group, moment) for group in groups}
    found = _find(windows)
    missing = {pk: bounds for pk, bounds in windows.items() if pk not in found}
    if missing:
        QuotaPeriod.objects.bulk_create(
            [QuotaPeriod(group_id=pk, starts_at=start, ends_at=end) for pk, (start, end) in missing.items()],
            ignore_conflicts=True,
        )
        found |= _find(missing)
    moved = [period for period in found.values() if period.ends_at != windows[period.group_id][1]]
    for period in moved:
        period.ends_at = windows[period.group_id][1]
    if moved:
        QuotaPeriod.objects.bulk_update(moved, ["ends_at"])
    return found


def _find(windows: dict[int, tuple[datetime, datetime]]) -> dict[int, QuotaPeriod]:
    starts = {start for start, _end in windows.values()}
    periods = QuotaPeriod.objects.filter(group__in=windows, starts_at__in=starts)
    return {period.group_id: period for period in periods if period.starts_at == windows[period.group_id][0]}


def usage_of(groups: Iterable[RelayGroup]) -> dict[int, Usage]:
    """What each of the groups used and may use, by group id. The number of queries does not depend on theirs."""
    listed = list(groups)
    periods = present_periods(listed)
    packs: dict[int, int] = defaultdict(int)
    for row in (
        TrafficPack.objects.filter(period__in=periods.values())
        .order_by()
        .values("group_id")
        .annotate(extra=Sum("extra_bytes"))
    ):
        packs[row["group_id"]] = row["extra"]
    overrides = dict(
        UserLimit.objects.filter(owner__in={group.owner_id for group in listed}).values_list("owner_id", "quota_bytes")
    )
    usage = {}
    for group in listed:
        quota = overrides.get(group.owner_id, group.quota_bytes)
        limit = None if quota is None else quota + packs[group.pk]
        usage[group.pk] = Usage(periods[group.pk], limit, packs[group.pk])
    return usage
