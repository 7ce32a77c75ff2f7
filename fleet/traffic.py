"""Reading the books of traffic. Every question takes a fixed number of queries, and only the rates of the last minutes
look at single readings: all else comes from the hours and days that are booked with them.

A stretch without a row was measured and is nothing; what was not measured says so in `unmeasured_seconds`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.db.models import Count, DateTimeField, ExpressionWrapper, F, Max, Min, Q, QuerySet, Sum, Value
from django.db.models.functions import TruncDay, TruncHour

from accounts.models import User
from derp_portal.lib.clock import day_of, now
from fleet.metering.counting import READ_EVERY
from fleet.models import Meter, QuotaPeriod, Relay, RelayGroup, Server, Traffic, Wanted
from fleet.services.groups import OVER_QUOTA
from fleet.services.quotas import Usage, usage_of

RATE_OVER = timedelta(minutes=5)
"""Over how long a present rate is taken: a relay is read every minute, more often near its limit."""

LENGTHS = {Traffic.Span.HOUR: timedelta(hours=1), Traffic.Span.DAY: timedelta(days=1)}

SUMS = {
    "uploaded": Sum("upload_bytes", default=0),
    "downloaded": Sum("download_bytes", default=0),
    "unmeasured": Sum("unmeasured_seconds", default=0),
}


@dataclass(frozen=True, slots=True)
class Amount:
    """Bytes from customers to relays (`upload`) and back (`download`), and how long it was not measured."""

    upload: int = 0
    download: int = 0
    unmeasured_seconds: int = 0

    @property
    def total(self) -> int:
        return self.upload + self.download

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.upload + other.upload,
            self.download + other.download,
            self.unmeasured_seconds + other.unmeasured_seconds,
        )


NOTHING = Amount()


@dataclass(frozen=True, slots=True)
class Rate:
    """Bytes per second over the last minutes, up to the last reading (None = never read)."""

    upload: float = 0.0
    download: float = 0.0
    read_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Bucket:
    """One hour or day of a history."""

    starts_at: datetime
    amount: Amount
    is_present: bool = False
    """Still running, so there is more to come."""

    @property
    def has_gap(self) -> bool:
        return self.amount.unmeasured_seconds > 0

    @property
    def unmeasured_minutes(self) -> int:
        """Rounded up."""
        return -(-self.amount.unmeasured_seconds // 60)

    @property
    def day(self) -> date:
        """The day of UTC, whatever the reader's zone."""
        return self.starts_at.astimezone(UTC).date()


@dataclass(frozen=True, slots=True)
class RelayTraffic:
    """What one relay carried: today (UTC), in the present quota period of its group, and ever."""

    relay: Relay
    today: Amount
    period: Amount

    @property
    def ever(self) -> Amount:
        return Amount(self.relay.upload_bytes, self.relay.download_bytes)


@dataclass(frozen=True, slots=True)
class GroupTraffic:
    """A group's quota and what its relays carried. Relays that were released in this period are among them."""

    group: RelayGroup
    usage: Usage
    relays: list[RelayTraffic]

    @property
    def today(self) -> Amount:
        return sum((relay.today for relay in self.relays), NOTHING)

    @property
    def is_stopped(self) -> bool:
        """Whether it stands because its quota is used up."""
        return is_stopped_for_quota(self.group)

    @property
    def has_next_period(self) -> bool:
        """Whether another period follows by itself, or the grant ends with this one."""
        return self.group.run_until > self.usage.period.ends_at

    @property
    def tone(self) -> str:
        """How near the limit it is: "", `warn` from 80 %, `bad` from 95 %."""
        return tone_of(self.usage)


def tone_of(usage: Usage) -> str:
    """The colour that helps the words about a quota."""
    return "bad" if usage.reached >= 95 else "warn" if usage.reached else ""


def is_stopped_for_quota(group: RelayGroup) -> bool:
    """Whether the group stands for its quota alone."""
    return group.wanted == Wanted.STOPPED and group.wanted_reason == OVER_QUOTA


def today_of(relay_ids: Collection[int]) -> dict[int, Amount]:
    """What each of the relays carried today, by id; those that carried nothing are left out. One query."""
    rows = Traffic.objects.filter(relay__in=relay_ids, span=Traffic.Span.DAY, starts_at=day_of(now()))
    return _by(rows, "relay_id")


def in_period_of(relay_ids: Collection[int], periods: Iterable[QuotaPeriod]) -> dict[int, Amount]:
    """What each of the relays carried in the period among these that is its group's, by id. One query.

    To the hour, so that it may name a little of the hour before the period; the period itself is exact.
    """
    start = F("relay__group__periods__starts_at")
    just_before: Any = ExpressionWrapper(start - Value(timedelta(microseconds=1)), output_field=DateTimeField())
    first_whole_day = TruncDay(just_before, tzinfo=UTC) + Value(timedelta(days=1))
    whole_days = Q(span=Traffic.Span.DAY, starts_at__gte=start)
    first_hours = Q(
        span=Traffic.Span.HOUR,
        starts_at__gte=TruncHour(start, tzinfo=UTC),
        starts_at__lt=ExpressionWrapper(first_whole_day, output_field=DateTimeField()),
    )
    rows = Traffic.objects.filter(
        whole_days | first_hours, relay__in=relay_ids, relay__group__periods__in=[period.pk for period in periods]
    )
    return _by(rows, "relay_id")


def _by(rows: QuerySet[Traffic], field: str) -> dict[int, Amount]:
    found = rows.order_by().values(field).annotate(**SUMS)
    return {row[field]: _amount(row) for row in found}


def _amount(row: Mapping[str, Any]) -> Amount:
    return Amount(row["uploaded"], row["downloaded"], row["unmeasured"])


def traffic_of_groups(groups: Collection[RelayGroup]) -> list[GroupTraffic]:
    """Quota and relays of each group, in the groups' order. The number of queries does not depend on theirs."""
    usage = usage_of(groups)
    periods = {group_id: one.period for group_id, one in usage.items()}
    listed: dict[int, list[Relay]] = {group.pk: [] for group in groups}
    relays = Relay.objects.filter(group__in=listed).select_related("server__region").order_by("slot", "id")
    for relay in relays:
        if relay.released_at is None or relay.released_at > periods[relay.group_id].starts_at:
            listed[relay.group_id].append(relay)
    ids = [relay.pk for found in listed.values() for relay in found]
    today, period = today_of(ids), in_period_of(ids, periods.values())
    return [
        GroupTraffic(
            group,
            usage[group.pk],
            [
                RelayTraffic(relay, today.get(relay.pk, NOTHING), period.get(relay.pk, NOTHING))
                for relay in listed[group.pk]
            ],
        )
        for group in groups
    ]


def groups_with_traffic(owner: User) -> list[RelayGroup]:
    """The owner's groups that are not released, those that stand for their quota first, then the newest."""
    return list(
        RelayGroup.objects.filter(owner=owner, released_at=None).order_by(
            F("over_quota_since").asc(nulls_last=True), "-id"
        )
    )


def history(owner: User | None, *, span: Traffic.Span, count: int, group_id: int | None = None) -> list[Bucket]:
    """The last `count` hours or days, this one included, oldest first, without holes. One query.

    Of one owner's relays, released ones included, or of everybody's; of one group when asked for. `span` is HOUR
    (kept for 90 days) or DAY. `unmeasured_seconds` is that of the relay that was longest without a measure.
    """
    length = LENGTHS[span]
    moment = now().astimezone(UTC)
    present = day_of(moment) if span == Traffic.Span.DAY else moment.replace(minute=0, second=0, microsecond=0)
    first = present - (count - 1) * length
    rows = Traffic.objects.filter(span=span, starts_at__gte=first)
    if group_id is not None:
        rows = rows.filter(relay__group=group_id)
    if owner is not None:
        rows = rows.filter(relay__in=Relay.objects.filter(owner=owner).values("pk"))
    sums = SUMS | {"unmeasured": Max("unmeasured_seconds")}
    summed: QuerySet[Traffic, Any] = rows.order_by().values("starts_at").annotate(**sums)
    found = {row["starts_at"]: _amount(row) for row in summed}
    return _filled(found, [first + number * length for number in range(count)], length)


def _filled(found: dict[datetime, Amount], starts: list[datetime], length: timedelta) -> list[Bucket]:
    """A bucket for each start. A gap is booked where it began and may reach over those that follow."""
    buckets, carried, whole = [], 0, int(length.total_seconds())
    for start in starts:
        amount = found.get(start, NOTHING)
        unmeasured = max(carried, amount.unmeasured_seconds)
        carried = max(unmeasured - whole, 0)
        amount = replace(amount, unmeasured_seconds=min(unmeasured, whole))
        buckets.append(Bucket(start, amount, is_present=start == starts[-1]))
    return buckets


def daily_rows(owner: User) -> Iterator[dict[str, Any]]:
    """Every day of every relay of the owner, newest first, with `starts_at`, `relay__code` and the sums."""
    rows = Traffic.objects.filter(relay__in=Relay.objects.filter(owner=owner).values("pk"), span=Traffic.Span.DAY)
    fields = ("starts_at", "relay__code", "upload_bytes", "download_bytes", "unmeasured_seconds")
    yield from rows.order_by("-starts_at", "relay__code").values(*fields).iterator(chunk_size=1000)


def statistics(
    by: str, *, since: datetime, until: datetime, owner: User | None = None, server_id: int | None = None
) -> QuerySet[Traffic, Any]:
    """Sums of whole UTC days from that of `since` to that of `until`, as rows with `key`, `uploaded`, `downloaded`,
    `unmeasured`: by `relay`, `server`, `user` (ids, the largest sum first) or by `day` (its beginning, newest first).
    """
    fields = {"relay": "relay_id", "server": "server_id", "user": "relay__owner_id", "day": "starts_at"}
    rows = Traffic.objects.filter(span=Traffic.Span.DAY, starts_at__gte=day_of(since), starts_at__lt=until)
    if owner is not None:
        rows = rows.filter(relay__in=Relay.objects.filter(owner=owner).values("pk"))
    if server_id is not None:
        rows = rows.filter(server=server_id)
    summed = rows.order_by().values(key=F(fields[by])).annotate(**SUMS)
    if by == "day":
        return summed.order_by("-key")
    return summed.order_by(-(F("uploaded") + F("downloaded")), "key")


def rates_of_relays(relay_ids: Collection[int]) -> dict[int, Rate]:
    """The present rate of each of the relays, by id; those that were never read are left out. Two queries."""
    read_at = dict(
        Meter.objects.filter(relay__in=relay_ids, read_at__isnull=False)
        .order_by()
        .values_list("relay_id")
        .annotate(latest=Max("read_at"))
    )
    passed = _passed(Traffic.objects.filter(relay__in=relay_ids), "relay_id")
    return {relay_id: _rate(passed.get(relay_id), latest) for relay_id, latest in read_at.items()}


def rates_of_servers(server_ids: Collection[int]) -> dict[int, Rate]:
    """The present rate of each of the servers, by id; those of whose relays none was ever read are left out."""
    read_at = dict(
        Meter.objects.filter(relay__server__in=server_ids, relay__released_at=None, read_at__isnull=False)
        .order_by()
        .values_list("relay__server_id")
        .annotate(latest=Max("read_at"))
    )
    passed = _passed(Traffic.objects.filter(server__in=server_ids), "server_id")
    return {server_id: _rate(passed.get(server_id), latest) for server_id, latest in read_at.items()}


def _passed(rows: QuerySet[Traffic], field: str) -> dict[int, Mapping[str, Any]]:
    recent = rows.filter(span=Traffic.Span.READING, starts_at__gte=now() - RATE_OVER)
    summed = recent.order_by().values(field).annotate(**SUMS, first=Min("starts_at"))
    return {row[field]: row for row in summed}


def _rate(row: Mapping[str, Any] | None, read_at: datetime) -> Rate:
    if row is None:
        return Rate(read_at=read_at)
    # The readings of a steady flow begin within one interval of the window's start; before a later one it was quiet.
    since = min(row["first"], now() - RATE_OVER + READ_EVERY)
    seconds = max((read_at - since).total_seconds(), 1.0)
    return Rate(row["uploaded"] / seconds, row["downloaded"] / seconds, read_at)


def today_of_servers(server_ids: Collection[int]) -> dict[int, Amount]:
    """What the relays of each server carried today, by its id. One query."""
    rows = Traffic.objects.filter(server__in=server_ids, span=Traffic.Span.DAY, starts_at=day_of(now()))
    return _by(rows, "server_id")


def groups_over_quota() -> QuerySet[RelayGroup]:
    """The groups that stand for their quota, the longest first, with `live`, the number of their relays."""
    live = Count("relays", filter=Q(relays__released_at=None))
    over = RelayGroup.objects.filter(over_quota_since__isnull=False, released_at=None).select_related("owner")
    return over.annotate(live=live).order_by("over_quota_since", "id")


def servers_over_allowance() -> QuerySet[Server]:
    """The servers that have used up their provider's monthly traffic."""
    limited = Server.objects.filter(allowance_bytes__isnull=False, allowance_used_bytes__gte=F("allowance_bytes"))
    return limited.order_by("name")
