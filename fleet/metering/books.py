"""Writing readings into the books: difference, totals, buckets, period and the new baseline in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

import structlog
from django.db import connection, transaction
from django.db.models import Field, Model

from derp_portal.lib.clock import day_of, hour_of
from fleet.models import Meter, QuotaPeriod, Relay, RelayGroup, Traffic
from fleet.services.quotas import Usage, usage_of

from .counting import READ_EVERY, Counters, Difference, difference, next_reading
from .reading import Reading

log = structlog.get_logger(__name__)

BATCH = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """What one reading adds to the books: `start` is when the bytes began to pass."""

    relay_id: int
    group_id: int
    server_id: int
    start: datetime
    counted: Difference

    @property
    def total(self) -> int:
        return self.counted.upload + self.counted.download

    @property
    def unmeasured_seconds(self) -> int:
        return int(self.counted.unmeasured / timedelta(seconds=1))


def book(readings: Iterable[Reading], *, is_last: bool = False) -> set[int]:
    """Book every reading whose meter stands as it stood when the question was asked; the others are dropped.

    So a task delivered twice, or two workers at once, count once. `is_last` closes the meters: their containers are
    about to go. Returns the ids of the groups that crossed a threshold of their quota.
    """
    due: set[int] = set()
    listed = list(readings)
    for first in range(0, len(listed), BATCH):
        due |= _book_batch(listed[first : first + BATCH], is_last)
    return due


def _book_batch(readings: Sequence[Reading], is_last: bool) -> set[int]:
    by_key = {(reading.question.relay.pk, reading.question.generation): reading for reading in readings}
    relay_ids = sorted({relay_id for relay_id, _generation in by_key})
    # Outside the transaction: whoever made the row first, it is locked below. One that was read is there already.
    new = sorted(key for key, reading in by_key.items() if reading.question.stood_at is None)
    Meter.objects.bulk_create(
        [Meter(relay_id=relay_id, generation=generation) for relay_id, generation in new], ignore_conflicts=True
    )
    with transaction.atomic():
        # Everything below belongs to one group each, and is written under its group's lock only.
        group_ids = {reading.question.relay.group_id for reading in readings}
        locked = RelayGroup.objects.select_for_update(no_key=True).filter(pk__in=group_ids).order_by("pk")
        groups = {group.pk: group for group in locked.only(*QUOTA_FIELDS)}
        usage = usage_of(groups.values())
        group_of = dict(Relay.objects.filter(pk__in=relay_ids).order_by().values_list("pk", "group_id"))
        # Locked as well, because a probe notes its own bytes here without the group.
        meters = Meter.objects.select_for_update().filter(relay__in=relay_ids).order_by("pk")
        entries: list[Entry] = []
        touched: list[Meter] = []
        for meter in meters:
            reading = by_key.get((meter.relay_id, meter.generation))
            if reading is None or meter.read_at != reading.question.stood_at or reading.at == meter.read_at:
                continue
            group = groups[group_of[meter.relay_id]]
            entry = _take(meter, reading, group, usage[group.pk], is_last)
            touched.append(meter)
            if entry:
                entries.append(entry)
        _write(touched, METER_FIELDS)
        _add_to_relays(entries)
        _add_to_buckets(entries)
        return _add_to_periods(entries, usage)


QUOTA_FIELDS = ("owner_id", "quota_bytes", "is_monthly", "period_start", "period_end", "speed_bytes_per_second")
METER_FIELDS = [
    "counts_since",
    "raw_received",
    "raw_sent",
    "read_at",
    "next_read_at",
    "own_received",
    "own_sent",
    "booked_bytes",
    "failures",
    "error",
]


def _take(meter: Meter, reading: Reading, group: RelayGroup, usage: Usage, is_last: bool) -> Entry | None:
    """Move the meter to the reading. Returns what that adds, or None when there was no answer."""
    question = reading.question
    if reading.counters is None:
        meter.failures += 1
        meter.error = reading.error
        was_closed = meter.next_read_at is None
        meter.next_read_at = None if is_last else reading.at + READ_EVERY
        if not is_last or was_closed or meter.read_at is None:
            return None
        # Its container goes unread: what it carried since the last reading is unknown.
        lost = Difference(0, 0, reading.at - meter.read_at)
        return Entry(meter.relay_id, group.pk, question.server_id, meter.read_at, lost)
    before = Counters(meter.counts_since, meter.raw_received, meter.raw_sent) if meter.read_at else None
    counted, left = difference(
        before,
        reading.counters,
        # A meter that was closed knows all that its last process carried.
        read_before=meter.read_at if meter.next_read_at else None,
        own=(meter.own_received, meter.own_sent),
    )
    start = meter.read_at or reading.at
    meter.counts_since = reading.counters.counts_since
    meter.raw_received, meter.raw_sent = reading.counters.received, reading.counters.sent
    meter.own_received, meter.own_sent = left
    meter.failures, meter.error, meter.read_at = 0, "", reading.at
    entry = Entry(meter.relay_id, group.pk, question.server_id, start, counted)
    meter.booked_bytes += entry.total
    wait = next_reading(
        left=None if usage.left is None else usage.left - entry.total,
        passed=entry.total,
        took=reading.at - start,
        speed=group.speed_bytes_per_second,
    )
    meter.next_read_at = None if is_last else reading.at + wait
    return entry


def _add_to_relays(entries: Iterable[Entry]) -> None:
    _add(
        Relay,
        ["upload_bytes", "download_bytes"],
        [(entry.counted.upload, entry.counted.download, entry.relay_id) for entry in entries if entry.total],
    )


def _add_to_buckets(entries: Iterable[Entry]) -> None:
    """Hours and days are added to together with the readings, so that no roll-up can count anything twice."""
    values = [
        (entry.relay_id, entry.server_id, span.value, _stored(start), *_amounts(entry))
        for entry in entries
        if entry.total or entry.counted.unmeasured
        for span, start in (
            (Traffic.Span.READING, entry.start),
            (Traffic.Span.HOUR, hour_of(entry.start)),
            (Traffic.Span.DAY, day_of(entry.start)),
        )
    ]
    if not values:
        return
    place = [_field(Traffic, name) for name in ("relay", "server", "span", "starts_at")]
    amounts = [_field(Traffic, name) for name in ("upload_bytes", "download_bytes", "unmeasured_seconds")]
    quoted = connection.ops.quote_name
    table = quoted(Traffic._meta.db_table)
    sums = ", ".join("{0} = {1}.{0} + excluded.{0}".format(quoted(str(field.column)), table) for field in amounts)
    with connection.cursor() as cursor:
        cursor.executemany(
            # Names of our own table and columns; every value is a parameter. Readings are in no unique index, so each
            # of them is a row of its own.
            f"INSERT INTO {table} ({_columns([*place, *amounts])}) VALUES (%s, %s, %s, %s, %s, %s, %s)"  # noqa: S608
            f" ON CONFLICT ({_columns(place)}) WHERE NOT (span = '{Traffic.Span.READING}') DO UPDATE SET {sums}",
            values,
        )


def _amounts(entry: Entry) -> tuple[int, int, int]:
    return entry.counted.upload, entry.counted.download, entry.unmeasured_seconds


def _columns(fields: Iterable[Field[Any, Any]]) -> str:
    return ", ".join(connection.ops.quote_name(str(field.column)) for field in fields)


def _add_to_periods(entries: Iterable[Entry], usage: dict[int, Usage]) -> set[int]:
    """Add to the period in which the bytes began to pass, so that a new one never starts with the last one's bytes."""
    added = [entry for entry in entries if entry.total]
    late = {entry.group_id for entry in added if entry.start < usage[entry.group_id].period.starts_at}
    earlier = list(QuotaPeriod.objects.filter(group__in=late)) if late else []
    changed: dict[int, QuotaPeriod] = {}
    due = set()
    for entry in added:
        present = usage[entry.group_id].period
        period = _period_at(entry, present, earlier)
        period.used_bytes += entry.total
        changed[period.pk] = period
        if period is present and usage[entry.group_id].reached > present.noticed_percent:
            present.is_due = True
            due.add(entry.group_id)
    _write(list(changed.values()), ["used_bytes", "is_due"])
    return due


def _period_at(entry: Entry, present: QuotaPeriod, earlier: Sequence[QuotaPeriod]) -> QuotaPeriod:
    if entry.start >= present.starts_at:
        return present
    before = [
        period
        for period in earlier
        if period.group_id == entry.group_id and period.pk != present.pk and period.starts_at <= entry.start
    ]
    return max(before, key=lambda period: period.starts_at) if before else present


def _write(rows: Sequence[Model], names: Sequence[str]) -> None:
    """Save these fields of rows of one table, which the caller has locked.

    `bulk_update` builds a CASE of every field and row, and takes longer over it than reading the relays does.
    """
    if not rows:
        return
    fields = [_field(rows[0], name) for name in names]
    of_row = attrgetter(*(field.attname for field in fields), "pk")
    values = [tuple(map(_stored, of_row(row))) for row in rows]
    _update(rows[0], fields, "{column} = %s", values)


def _stored(value: Any) -> Any:
    """As the database takes it; only its moments have a form of their own among what is written here."""
    return connection.ops.adapt_datetimefield_value(value) if isinstance(value, datetime) else value


def _add(model: type[Model], names: Sequence[str], amounts: Sequence[tuple[int, ...]]) -> None:
    """Add to these fields: of each row the amounts in their order, and its id."""
    if amounts:
        _update(model, [_field(model, name) for name in names], "{column} = {column} + %s", amounts)


def _field(model: type[Model] | Model, name: str) -> Field[Any, Any]:
    field = model._meta.get_field(name)
    assert isinstance(field, Field)
    return field


def _update(
    model: type[Model] | Model, fields: Iterable[Field[Any, Any]], assignment: str, values: Sequence[tuple[Any, ...]]
) -> None:
    quoted = connection.ops.quote_name
    assignments = ", ".join(assignment.format(column=quoted(str(field.column))) for field in fields)
    with connection.cursor() as cursor:
        cursor.executemany(
            # Names of our own tables and columns; every value is a parameter.
            f"UPDATE {quoted(model._meta.db_table)} SET {assignments} WHERE id = %s",  # noqa: S608
            values,
        )
