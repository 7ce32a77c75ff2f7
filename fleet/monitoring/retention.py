"""Old readings become hours, hours become days, and what is too old is forgotten.

Readings are kept for 48 hours, hours for 90 days, days for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import transaction
from django.db.models import Avg, Max, QuerySet

from derp_portal.lib.clock import day_of, hour_of, now
from fleet.models import Measurement, Traffic

log = structlog.get_logger(__name__)

READINGS_KEPT = timedelta(hours=48)
HOURS_KEPT = timedelta(days=90)

SETTLED_AFTER = timedelta(minutes=5)
"""For so long after its end an hour may still get readings from a sweep that was slow."""

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
BATCH = 5000
MOST_BATCHES = 400
"""Rows deleted by one statement, and statements in one run: the rest waits for the next run and blocks nobody."""


def forget_old_readings() -> None:
    """Sweep: roll up what has settled, then delete what is too old. Nothing is deleted before it was rolled up."""
    roll_up()
    moment = now()
    # Whole hours and days only, so that what is left of one can never be taken for all of it.
    readings_until, hours_until = hour_of(moment - READINGS_KEPT), day_of(moment - HOURS_KEPT)
    for finer in (
        Measurement.objects.filter(span=Measurement.Span.READING, timestamp__lt=readings_until).order_by("timestamp"),
        Measurement.objects.filter(span=Measurement.Span.HOUR, timestamp__lt=hours_until).order_by("timestamp"),
        Traffic.objects.filter(span=Traffic.Span.READING, starts_at__lt=readings_until).order_by("starts_at"),
        Traffic.objects.filter(span=Traffic.Span.HOUR, starts_at__lt=hours_until).order_by("starts_at"),
    ):
        delete_in_batches(finer)


def roll_up() -> None:
    """Make hours of settled readings and days of settled hours, from where the last run got to."""
    _roll_up_new(Measurement.Span.READING, Measurement.Span.HOUR, hour_of, HOUR, roll_up_hour)
    _roll_up_new(Measurement.Span.HOUR, Measurement.Span.DAY, day_of, DAY, roll_up_day)


def roll_up_hour(start: datetime) -> None:
    """Mean and highest of every metric of every server in that hour. Doing it again gives the same rows."""
    _roll_up(Measurement.Span.READING, Measurement.Span.HOUR, start, HOUR)


def roll_up_day(start: datetime) -> None:
    """The same of a day (UTC), from its hours: each counts alike, however many readings it had."""
    _roll_up(Measurement.Span.HOUR, Measurement.Span.DAY, start, DAY)


def delete_in_batches(rows: QuerySet[Any], *, batch: int = BATCH, most_batches: int = MOST_BATCHES) -> int:
    """Delete these rows, a few thousand in each transaction; returns how many. Other writers never wait for long."""
    deleted: int = 0
    for _ in range(most_batches):
        # Read first: told them by a subquery, PostgreSQL goes through the whole table for each batch.
        ids = list(rows.values_list("pk", flat=True)[:batch])
        count, _by_model = rows.model._default_manager.filter(pk__in=ids).delete()
        deleted += count
        if len(ids) < batch:
            return deleted
    log.warning("more_to_forget", table=rows.model._meta.db_table, deleted=deleted)
    return deleted


def _roll_up_new(
    finer: Measurement.Span,
    coarser: Measurement.Span,
    bucket_of: Callable[[datetime], datetime],
    length: timedelta,
    roll: Callable[[datetime], None],
) -> None:
    """Every settled bucket after the newest there is. Only once: of older ones the finer rows may be gone in part."""
    newest = Measurement.objects.filter(span=coarser).aggregate(at=Max("timestamp"))["at"]
    waiting = Measurement.objects.filter(span=finer).order_by("timestamp")
    after = newest + length if newest else None
    while True:
        first = (waiting.filter(timestamp__gte=after) if after else waiting).values_list("timestamp", flat=True).first()
        if first is None or bucket_of(first) + length + SETTLED_AFTER > now():
            return
        start = bucket_of(first)
        roll(start)
        after = start + length


def _roll_up(finer: Measurement.Span, coarser: Measurement.Span, start: datetime, length: timedelta) -> None:
    rows = Measurement.objects.filter(span=finer, timestamp__gte=start, timestamp__lt=start + length).order_by()
    with transaction.atomic():
        means = rows.values_list("server", "metric").annotate(Avg("value"), Max("highest"))
        made = [
            Measurement(server_id=server, metric=metric, span=coarser, value=mean, highest=highest, timestamp=start)
            for server, metric, mean, highest in means
        ]
        # Replaced, not updated: a constraint with a condition cannot be named as what an upsert runs into.
        Measurement.objects.filter(span=coarser, timestamp=start).delete()
        Measurement.objects.bulk_create(made, ignore_conflicts=True)
