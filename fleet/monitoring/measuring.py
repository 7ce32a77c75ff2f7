"""How hosts are doing, asked of all of them at once: `server_load_status` is the latest, `monitoring_logs` the past."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import httpx
import structlog
from django.db import IntegrityError, transaction
from django.db.models import Count, Q

from derp_portal.lib.clock import now
from fleet.models import Measurement, Metric, Relay, Server, ServerLoad

from .figures import Figures, FiguresFailure, Snapshot, figures_between
from .local_figures import read_this_machine
from .node_exporter import open_client, read_exporter

log = structlog.get_logger(__name__)

DUE_AFTER = timedelta(seconds=25)
"""Less than the sweep's 30 seconds, so that one that comes a little early leaves nobody out."""

SILENT_DUE_AFTER = timedelta(minutes=2)
"""A host that is down already and gave no figures keeps a thread waiting for its whole time-out: ask less often."""

FRESH_FOR = timedelta(minutes=3)
"""Older figures say how the host was, not how it is."""

THREADS = 32
BATCH = 128
"""Asked and written together: with every host silent a batch takes 20 seconds, less than until it is due again."""

Answer = Snapshot | FiguresFailure
Reader = Callable[[httpx.Client, str], Snapshot]

METRICS: dict[Metric, str] = {
    Metric.CPU: "cpu_percent",
    Metric.MEMORY: "memory_percent",
    Metric.DISK: "disk_percent",
    Metric.LOAD: "load_average",
    Metric.NETWORK_IN: "network_in",
    Metric.NETWORK_OUT: "network_out",
    Metric.CONTAINERS: "containers_running",
}
"""Where the latest row keeps each metric."""

WRITTEN = [*METRICS.values(), "counters", "error", "measured_at", "looked_at"]


def measure_servers(*, read: Reader = read_exporter) -> int:
    """Ask every server that is due, and write down what it said; returns how many were asked.

    One that gives no figures keeps those it had, with the code of what went wrong. Two sweeps at once share the
    servers between them. For each batch the database is asked a fixed number of times.
    """
    began, asked = now(), 0
    _have_a_row_each()
    while rows := _claim(began):
        _keep(rows, _ask(rows, read))
        asked += len(rows)
    return asked


def is_fresh(load: ServerLoad | None) -> bool:
    """Whether these figures say how the server is at present."""
    return load is not None and load.measured_at is not None and load.measured_at > now() - FRESH_FOR


def is_on_this_machine(server: Server) -> bool:
    """Whether the host is the one the portal runs on."""
    is_process = server.runtime == Server.Runtime.PROCESS
    return is_process or server.is_loopback or server.endpoint.startswith("unix://")


def _have_a_row_each() -> None:
    new = Server.objects.filter(figures=None).values_list("pk", flat=True)
    ServerLoad.objects.bulk_create([ServerLoad(server_id=pk) for pk in new], ignore_conflicts=True)


def _claim(began: datetime) -> list[ServerLoad]:
    """Some of those that were due when the sweep began, longest unseen first; nobody else gets them."""
    silent = ~Q(error="") & Q(server__phase__in=(Server.Phase.SUSPECT, Server.Phase.UNHEALTHY))
    is_due = Q(looked_at=None) | Q(looked_at__lt=began - SILENT_DUE_AFTER)
    is_due |= Q(looked_at__lt=began - DUE_AFTER) & ~silent
    with transaction.atomic():
        due = ServerLoad.objects.select_for_update(skip_locked=True, of=("self",)).select_related("server")
        # The credentials of engines are not needed, and take long to decrypt.
        due = due.defer("server__tls_ca", "server__tls_certificate", "server__tls_key")
        rows = list(due.filter(is_due).order_by("looked_at", "pk")[:BATCH])
        moment = now()
        ServerLoad.objects.filter(pk__in=[row.pk for row in rows]).update(looked_at=moment)
    for row in rows:
        row.looked_at = moment
    return rows


def _ask(rows: Sequence[ServerLoad], read: Reader) -> list[Answer]:
    """An answer for each, in their order; touches no database. This machine is read once, however often it is named."""
    far = [row.server.ip for row in rows if not is_on_this_machine(row.server)]
    here = _answer(read_this_machine) if len(far) < len(rows) else None
    with open_client() as client, ThreadPoolExecutor(THREADS, thread_name_prefix="figures") as pool:
        told = pool.map(lambda ip: _answer(lambda: read(client, ip)), far)
        return [here if here and is_on_this_machine(row.server) else next(told) for row in rows]


def _answer(read: Callable[[], Snapshot]) -> Answer:
    try:
        return read()
    except FiguresFailure as failure:
        return failure


def _keep(rows: Sequence[ServerLoad], answers: Iterable[Answer]) -> None:
    running = _relays_running([row.server_id for row in rows])
    history: list[Measurement] = []
    for row, answer in zip(rows, answers, strict=True):
        if isinstance(answer, FiguresFailure):
            if row.error != answer.code:
                log.warning("no_figures", server=row.server.name, code=answer.code, detail=answer.detail)
            row.error = answer.code
            continue
        figures = figures_between(Snapshot.from_counters(row.counters), answer)
        _note(row, answer, figures, running.get(row.server_id, 0))
        history += _measurements(row)
    try:
        _write(rows, history)
    except IntegrityError:
        # One of them was deleted while we wrote: now it is not ours any more, and the others are written.
        _write(rows, history)


def _relays_running(server_ids: Sequence[int]) -> dict[int, int]:
    running = Relay.objects.filter(
        server__in=server_ids, released_at=None, observed_state=Relay.Observed.RUNNING
    ).order_by()
    return dict(running.values_list("server").annotate(Count("id")))


def _note(row: ServerLoad, snapshot: Snapshot, figures: Figures, running: int) -> None:
    for name, value in asdict(figures).items():
        setattr(row, name, value)
    row.containers_running = running
    row.counters = snapshot.counters()
    row.error = ""
    row.measured_at = datetime.fromtimestamp(snapshot.at, UTC)


def _measurements(row: ServerLoad) -> list[Measurement]:
    """What is known becomes history; what is not leaves a gap, never a zero."""
    assert row.measured_at is not None
    values = ((metric, getattr(row, name)) for metric, name in METRICS.items())
    return [
        Measurement(server_id=row.server_id, metric=metric, value=value, highest=value, timestamp=row.measured_at)
        for metric, value in values
        if value is not None
    ]


def _write(rows: Sequence[ServerLoad], history: Iterable[Measurement]) -> None:
    """Write what is still ours: servers may have been deleted, or claimed anew after a sweep that took far too long."""
    with transaction.atomic():
        held = ServerLoad.objects.select_for_update().filter(pk__in=[row.pk for row in rows]).order_by("pk")
        claims = dict(held.values_list("pk", "looked_at"))
        ours = [row for row in rows if row.pk in claims and claims[row.pk] == row.looked_at]
        ids = {row.server_id for row in ours}
        ServerLoad.objects.bulk_create(ours, update_conflicts=True, unique_fields=["server"], update_fields=WRITTEN)
        Measurement.objects.bulk_create([one for one in history if one.server_id in ids])
