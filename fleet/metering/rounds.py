"""Which containers to read now: those that are due, and those that are about to be stopped."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import structlog
from django.db.models import F, OuterRef, Q, QuerySet, Subquery
from django.db.utils import DatabaseError

from derp_portal.lib.clock import now
from fleet.models import Meter, Relay, Server, Wanted
from fleet.reconciler.desired import SECRETS
from fleet.runtimes.base import Observed
from fleet.services.quota_keeping import judge_group

from .books import BATCH, book
from .reading import Question, ask, ask_in_parts

log = structlog.get_logger(__name__)

ROUND_LIMIT = 2000
LAST_READING_SECONDS = 2.0

ASKED_WITH = (*("code", "group_id", "server_id", "generation", "observed_generation", "host_name", "pin", "debug_key"),)
"""Of a relay's row: its other secrets would take longer to decrypt than the relay to answer."""


def meter_due() -> int:
    """Read every running relay whose next reading has come, book it, and judge whoever crossed a threshold.

    Returns how many were read.
    """
    running: Any = _running()
    due = running.filter(Q(due_at=None) | Q(due_at__lte=now()))
    return _read(due.order_by("due_at", "pk")[:ROUND_LIMIT])


def read_server(server_id: int) -> None:
    """Read and book every running relay of the server now, due or not."""
    _read(_running().filter(server=server_id).order_by("pk"))


def _read(relays: QuerySet[Relay]) -> int:
    questions = _questions(relays)
    for readings in ask_in_parts(questions, BATCH):
        for group_id in book(readings):
            judge_group(group_id)
    return len(questions)


def _running() -> QuerySet[Relay]:
    """Relays that can be read: `due_at` and `stood_at` are when their meter is to be, and was, read."""
    meter = Meter.objects.filter(relay=OuterRef("pk"), generation=OuterRef("generation"))
    running = Relay.objects.filter(
        released_at=None, wanted=Wanted.RUNNING, observed_state=Relay.Observed.RUNNING, port__isnull=False
    )
    return running.only(*ASKED_WITH).annotate(
        due_at=Subquery(meter.values("next_read_at")),
        stood_at=Subquery(meter.values("read_at")),
        ip=F("server__ip"),
        port_number=F("port__number"),
    )


def _questions(relays: QuerySet[Relay]) -> list[Question]:
    rows: list[Any] = _readable(relays)
    return [
        Question(relay, relay.generation, relay.server_id, relay.ip, relay.port_number, relay.stood_at)
        for relay in rows
        if relay.server_id is not None and relay.observed_generation == relay.generation
    ]


def _readable(relays: QuerySet[Relay]) -> list[Relay]:
    """These relays but for any whose secrets cannot be decrypted: it must not keep the others from being read."""
    try:
        return list(relays)
    except ValueError:
        readable = []
        for relay in relays.defer(*SECRETS):
            try:
                _ = relay.debug_key
            except ValueError:
                log.warning("secret_unreadable", relay=relay.code)
            else:
                readable.append(relay)
        return readable


def read_before_stop(server: Server, containers: Collection[Observed]) -> None:
    """Book what these containers of the server counted, as they are about to go; their meters are closed.

    Never raises and takes a few seconds at most: a relay whose time is up is stopped whatever its counters say.
    """
    listed = {container.relay_id: container for container in containers if container.port}
    if not listed:
        return
    try:
        relays = {relay.pk: relay for relay in _readable(Relay.objects.filter(pk__in=listed).only(*ASKED_WITH))}
        meters = Meter.objects.filter(relay__in=relays)
        stood = {(meter.relay_id, meter.generation): meter.read_at for meter in meters}
        questions = [
            Question(
                relays[container.relay_id],
                container.generation,
                server.pk,
                server.ip,
                container.port,
                stood.get((container.relay_id, container.generation)),
            )
            for container in listed.values()
            if container.relay_id in relays
        ]
        for group_id in book(ask(questions, timeout=LAST_READING_SECONDS), is_last=True):
            judge_group(group_id)
    except DatabaseError:
        log.exception("last_reading_failed", server=server.name)
