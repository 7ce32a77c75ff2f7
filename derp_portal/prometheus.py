"""`/metrics` for Prometheus: how the whole portal is, read from database and broker, so that any web worker knows it.

However many rows there are, a scrape asks the database a fixed number of times.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from ipaddress import ip_address
from typing import Any

import redis
import structlog
from django.conf import settings
from django.db import DatabaseError
from django.db.models import Count, Q, QuerySet, Sum
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from accounts.models import TaskFailure, Ticket, User
from derp_portal.lib.clock import now
from fleet.models import Alert, Evacuation, Meter, Move, Relay, RelayHealth, Server, Wanted
from serials.models import Lease

logger = structlog.get_logger(__name__)

SOON = timedelta(days=7)
OVERDUE = timedelta(minutes=5)
"""A relay's counters are read every few seconds; one whose turn is so long over is not being measured."""

LATELY = timedelta(hours=1)
BROKER_SECONDS = 2.0
FORWARDED = ("X-Forwarded-For", "X-Real-IP", "Forwarded")


@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """The figures in the format that the asker likes best. 404 for whom they do not concern."""
    if not _may_read(request):
        raise Http404
    registry = CollectorRegistry(auto_describe=False)
    registry.register(PortalCollector())
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(registry), content_type=content_type)


def _may_read(request: HttpRequest) -> bool:
    """Whoever sends the token. Where none is set, a program on this machine. Operators always."""
    kind, _space, secret = request.headers.get("Authorization", "").partition(" ")
    if settings.METRICS_TOKEN:
        if kind.lower() == "bearer" and constant_time_compare(secret.strip(), settings.METRICS_TOKEN):
            return True
    elif _is_from_this_machine(request):
        return True
    return bool(request.user.is_active and request.user.is_staff and request.user.has_perm("fleet.view_server"))


def _is_from_this_machine(request: HttpRequest) -> bool:
    # A proxy beside us connects from here too, on behalf of anybody.
    if any(name in request.headers for name in FORWARDED):
        return False
    address: str | None = getattr(request, "client_ip", None)
    return address is not None and ip_address(address).is_loopback


class PortalCollector(Collector):
    """Reads everything anew at each scrape. Figures of a part that does not answer are left out, never nought."""

    def describe(self) -> list[Metric]:
        """Nothing: registering must not ask the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family of figures."""
        yield _labelled("derp_portal_info", "The portal and its version.", "version", {_version(): 1})
        parts = {"database": 1, "broker": 1}
        try:
            yield from list(_from_database())
        except DatabaseError as error:
            logger.error("metrics_without_database", error=str(error))
            parts["database"] = 0
        try:
            lengths = _queue_lengths()
        except redis.RedisError as error:
            logger.error("metrics_without_broker", error=type(error).__name__)
            parts["broker"] = 0
        else:
            yield _labelled("derp_portal_queue_length", "Tasks that wait for a worker.", "queue", lengths)
        yield _labelled("derp_portal_up", "Whether the portal reaches what it stands on.", "part", parts)


def _from_database() -> Iterator[Metric]:
    yield from _fleet()
    yield from _traffic()
    yield from _people()


def _fleet() -> Iterator[Metric]:
    live = Relay.objects.filter(released_at=None)
    due = Q(wanted=Wanted.RUNNING, group__run_until__gt=now())
    relays = live.aggregate(
        due=Count("id", filter=due),
        up=Count("id", filter=due & Q(observed_state=Relay.Observed.RUNNING)),
        unplaced=Count("id", filter=due & Q(server=None)),
        unhealthy=Count("id", filter=due & Q(health__status=RelayHealth.Status.UNHEALTHY)),
    )
    phases = _counted(Server.objects.all(), "phase", Server.Phase.values)
    states = _counted(live, "observed_state", Relay.Observed.values)
    severities = _counted(Alert.objects.filter(resolved=False), "severity", Alert.Severity.values)
    evacuations = Evacuation.objects.filter(state=Evacuation.State.RUNNING).count()
    moves = Move.objects.filter(state__in=Move.OPEN).count()
    yield _labelled("derp_portal_servers", "Servers by phase.", "phase", phases)
    yield _labelled("derp_portal_relays", "Relays that are not released, by what was last seen.", "observed", states)
    yield _gauge("derp_portal_relays_wanted_running", "Relays that should run now.", relays["due"])
    yield _gauge("derp_portal_relays_running", "Relays that should run now and do.", relays["up"])
    yield _gauge("derp_portal_relays_unplaced", "Relays that should run and have no server.", relays["unplaced"])
    yield _gauge("derp_portal_relays_unhealthy", "Relays that should run and fail their probes.", relays["unhealthy"])
    yield _labelled("derp_portal_alerts_open", "Open alerts by severity.", "severity", severities)
    yield _gauge("derp_portal_evacuations_open", "Servers whose relays are leaving.", evacuations)
    yield _gauge("derp_portal_moves_open", "Relays on their way to another server.", moves)


def _traffic() -> Iterator[Metric]:
    # Released relays too: a counter must never fall.
    carried = Relay.objects.aggregate(upload=Sum("upload_bytes", default=0), download=Sum("download_bytes", default=0))
    overdue = Meter.objects.filter(next_read_at__lt=now() - OVERDUE).count()
    words = "Bytes relays carried: upload from customers to relays, download back."
    family = CounterMetricFamily("derp_portal_traffic_bytes", words, labels=["direction"])
    for direction, count in carried.items():
        family.add_metric([direction], count)
    yield family
    yield _gauge("derp_portal_meters_overdue", "Relays not measured although due for five minutes.", overdue)


def _people() -> Iterator[Metric]:
    active = Q(status=Lease.Status.ACTIVE)
    leases = Lease.objects.filter(active).aggregate(
        all=Count("id"), soon=Count("id", filter=Q(ends_at__lte=now() + SOON))
    )
    roles = _counted(User.objects.filter(is_active=True), "role", User.Role.values)
    failures = TaskFailure.objects.filter(created_at__gt=now() - LATELY).count()
    yield _gauge("derp_portal_leases_active", "Active leases.", leases["all"])
    yield _gauge("derp_portal_leases_ending", "Active leases that end within seven days.", leases["soon"])
    yield _labelled("derp_portal_users", "Active users by role.", "role", roles)
    queues = dict(
        Ticket.objects.filter(queue__in=[Ticket.Queue.STAFF, Ticket.Queue.FIRST_LINE])
        .order_by()
        .values_list("queue")
        .annotate(n=Count("pk"))
    )
    waiting = {"operator": queues.get(Ticket.Queue.STAFF, 0), "seller": queues.get(Ticket.Queue.FIRST_LINE, 0)}
    yield _labelled("derp_portal_tickets_waiting", "Tickets that wait for an answer, by whose it is.", "of", waiting)
    yield _gauge("derp_portal_task_failures", "Background tasks that failed in the last hour.", failures)


def _counted(rows: QuerySet[Any], field: str, values: list[str]) -> dict[str, int]:
    """How many rows have each of the values, those that none has included."""
    found = dict(rows.order_by().values_list(field).annotate(count=Count("pk")))
    return {value: found.get(value, 0) for value in values}


def _queue_lengths() -> dict[str, int]:
    """Raises redis.RedisError when the broker does not answer in time."""
    queues = (*settings.CELERY_QUEUES, *settings.CELERY_SLOW_QUEUES)
    prefix = str(settings.CELERY_BROKER_TRANSPORT_OPTIONS["global_keyprefix"])
    with (
        redis.Redis.from_url(
            settings.REDIS_URL, socket_timeout=BROKER_SECONDS, socket_connect_timeout=BROKER_SECONDS
        ) as broker,
        broker.pipeline(transaction=False) as pipeline,
    ):
        for queue in queues:
            pipeline.llen(prefix + queue)
        return dict(zip(queues, pipeline.execute(), strict=True))


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(name, words, value=value)


def _labelled(name: str, words: str, label: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(name, words, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


@cache
def _version() -> str:
    """The project's own, "unknown" for a portal that was laid out without its project file."""
    project = settings.BASE_DIR / "pyproject.toml"
    if not project.exists():
        return "unknown"
    version: str = tomllib.loads(project.read_text())["project"]["version"]
    return version
