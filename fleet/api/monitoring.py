"""`/api/monitoring/…`: how servers and relays are doing, and how they did."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, QuerySet, Sum
from django.http import HttpRequest
from ninja import Field, Query, Router, Schema

from accounts.apikit import ErrorOut, Id, Moment, Ok, PageOut, PageQuery, Start, TokenAuth, page
from derp_portal.lib.clock import now
from fleet.load_analysis import Analysis, analyse, current, servers_to_analyse
from fleet.models import Measurement, Metric, RelayHealth, Server, ServerLoad, Traffic
from fleet.monitoring.measuring import is_fresh
from fleet.words import trouble

from .common import MOST_ROWS, READ_REFUSALS

monitoring = Router(tags=["monitoring"])

MOST_IN_TROUBLE = 200

TRAFFIC_OVER = timedelta(hours=1)


class LogOut(Schema):
    """One value of one metric of a server; of hours and days the mean and the highest."""

    server_id: int
    metric: str = Field(
        description="`cpu`, `memory`, `disk` (percent), `load`, `network_in`, `network_out` (bytes per second) or "
        "`containers`"
    )
    span: str = Field(description="`reading`, `hour` or `day`")
    value: float
    highest: float
    timestamp: datetime = Field(description="Of hours and days their begin, in UTC.")


class LogPage(PageOut):
    """A part of the list, newest first; 10,000 at most, so narrow the time to see what lies before."""

    items: list[LogOut]


class LogQuery(PageQuery):
    """Filters of the list."""

    server_id: Id | None = None
    metric: Metric | None = None
    span: Measurement.Span = Field(
        Measurement.Span.READING,
        description="Readings are kept for 48 hours, hours for 90 days, days for ever.",
    )
    since: Start | None = None
    until: Moment | None = None


class Figures(Schema):
    """Percent or bytes per second; null: not known."""

    cpu: float | None
    memory: float | None
    disk: float | None
    load: float | None
    network_in: float | None
    network_out: float | None
    containers: float | None


class TrendOut(Schema):
    """Means of the last six hours and the six before."""

    recent: float | None
    before: float | None
    change: float | None


class HeadroomOut(Schema):
    """How many more relays fit: by free places, and by what CPU, memory and uplink allow. null: not known."""

    relays: int = Field(description="The least of the others.")
    limited_by: str = Field(description="`places`, `cpu`, `memory` or `uplink`")
    places: int
    cpu: int | None
    memory: int | None
    uplink: int | None


class AnalysisOut(Schema):
    """One server: how it is and was, how much room it has, and what to do."""

    server_id: int
    server: str
    region: str
    is_current: bool = Field(description="false: the figures are old, `error` says why.")
    error: str
    measured_at: datetime | None
    current: Figures
    p95: dict[str, float] = Field(description="Over the last 24 hours, by metric.")
    trend: dict[str, TrendOut] = Field(description="By metric.")
    relays: int = Field(description="Relays placed there.")
    running: int
    max_relays: int
    headroom: HeadroomOut
    advice: str = Field(description="`add_capacity`, `drain` or `fine`")
    reason: str | None = Field(description="What it is about: `places`, `cpu`, `memory`, `disk` or `uplink`.")
    words: str = Field(description="The advice in your language.")


class AnalysisPage(Ok):
    """A part of the servers, by name."""

    load_analysis: list[AnalysisOut]
    page: int
    pages: int
    total: int


class ServersQuery(PageQuery):
    """Filters of the list."""

    server_id: Id | None = None
    region: str = Field("", description="Code of a region.")


class RelayTraffic(Schema):
    """What relays carried in the last hour, as read off their counters."""

    upload_bytes: int
    download_bytes: int


class RealtimeOut(Schema):
    """The latest of one server."""

    server_id: int
    server: str
    region: str
    status: str
    phase: str
    is_current: bool = Field(description="false: the figures are old, `error` says why.")
    error_code: str
    error: str
    measured_at: datetime | None
    figures: Figures
    relays: int = Field(description="Relays placed there.")
    running: int = Field(description="Relays seen running.")
    traffic: RelayTraffic


class RealtimePage(PageOut):
    """A part of the servers, by name."""

    items: list[RealtimeOut]


class RelayHealthOut(Schema):
    """The latest probe of a relay."""

    container_id: int
    relay: str
    server_id: int | None
    status: str = Field(description="`starting`, `healthy` or `unhealthy`")
    tls_ok: bool
    derp_ok: bool
    packet_ok: bool
    stun_ok: bool
    latency_ms: float | None
    stun_ms: float | None
    connections: int | None
    version: str
    failures: int = Field(description="In a row.")
    error_code: str
    error: str
    checked_at: datetime | None
    healthy_at: datetime | None


class PhaseOut(Schema):
    """A server that is not plainly healthy."""

    server_id: int
    server: str
    status: str
    phase: str
    phase_since: datetime | None
    error_code: str
    error: str


class HealthPage(PageOut):
    """A part of the relays' health; `servers` are those in trouble, `phases` count all servers."""

    items: list[RelayHealthOut]
    phases: dict[str, int]
    servers: list[PhaseOut]


class HealthQuery(PageQuery):
    """Filters. `status` and `container_id` are the relays', the others narrow the servers too."""

    status: RelayHealth.Status | None = None
    container_id: Id | None = None
    server_id: Id | None = None
    region: str = Field("", description="Code of a region.")
    phase: Server.Phase | None = Field(None, description="Of the server.")


@monitoring.get(
    "/logs",
    response={200: LogPage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.view_measurement",)),
)
def list_logs(request: HttpRequest, query: Query[LogQuery]) -> dict[str, Any]:
    """What was measured of servers: readings, hours or days."""
    found = Measurement.objects.filter(span=query.span)
    if query.server_id is not None:
        # All its metrics, if none is named, so that the index by server and metric serves.
        found = found.filter(server_id=query.server_id, metric__in=[query.metric] if query.metric else list(Metric))
    elif query.metric:
        found = found.filter(metric=query.metric)
    if query.since:
        found = found.filter(timestamp__gte=query.since)
    if query.until:
        found = found.filter(timestamp__lte=query.until)
    return page(found[:MOST_ROWS], query.page, query.per_page)


@monitoring.get(
    "/load_analysis",
    response={200: AnalysisPage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.view_serverload",)),
)
def load_analysis(request: HttpRequest, query: Query[ServersQuery]) -> dict[str, Any]:
    """How much each server still has to give, and what to do."""
    part = page(_servers(query), query.page, query.per_page)
    return part | {"load_analysis": [_show_analysis(one) for one in analyse(part["items"])]}


@monitoring.get(
    "/realtime",
    response={200: RealtimePage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.view_serverload",)),
)
def realtime(request: HttpRequest, query: Query[ServersQuery]) -> dict[str, Any]:
    """The latest figures of each server, and what its relays carry."""
    part = page(_servers(query), query.page, query.per_page)
    traffic = _traffic([host.pk for host in part["items"]])
    return part | {"items": [_show_latest(host, traffic.get(host.pk, (0, 0))) for host in part["items"]]}


@monitoring.get(
    "/health",
    response={200: HealthPage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.view_relayhealth", "fleet.view_server")),
)
def health(request: HttpRequest, query: Query[HealthQuery]) -> dict[str, Any]:
    """The latest probe of every relay there is, and the phases of servers."""
    relays = RelayHealth.objects.filter(relay__released_at=None).select_related("relay").order_by("relay")
    # What is shown needs none of a relay's keys.
    relays = relays.only(*RELAY_FIELDS, "relay__code", "relay__server_id")
    hosts = Server.objects.all()
    if query.server_id is not None:
        relays, hosts = relays.filter(relay__server=query.server_id), hosts.filter(pk=query.server_id)
    if query.region:
        relays, hosts = relays.filter(relay__server__region__code=query.region), hosts.filter(region__code=query.region)
    if query.phase:
        relays, hosts = relays.filter(relay__server__phase=query.phase), hosts.filter(phase=query.phase)
    if query.status:
        relays = relays.filter(status=query.status)
    if query.container_id is not None:
        relays = relays.filter(relay=query.container_id)
    in_trouble = hosts.exclude(phase=Server.Phase.HEALTHY).only(*PHASE_FIELDS)[:MOST_IN_TROUBLE]
    return page(relays, query.page, query.per_page, _show_health) | {
        "phases": dict.fromkeys(Server.Phase.values, 0)
        | dict(hosts.order_by().values_list("phase").annotate(Count("id"))),
        "servers": [_show_phase(host) for host in in_trouble],
    }


RELAY_FIELDS = (
    *("status", "tls_ok", "derp_ok", "packet_ok", "stun_ok", "latency_ms", "stun_ms", "connections", "version"),
    *("failures", "error", "checked_at", "healthy_at"),
)
PHASE_FIELDS = ("name", "status", "phase", "phase_since", "error_code")


def _servers(query: ServersQuery) -> QuerySet[Any]:
    found = servers_to_analyse()
    if query.server_id is not None:
        found = found.filter(pk=query.server_id)
    return found.filter(region__code=query.region) if query.region else found


def _traffic(server_ids: Sequence[int]) -> dict[int | None, tuple[int, int]]:
    lately = Traffic.objects.filter(
        server__in=server_ids, span=Traffic.Span.READING, starts_at__gte=now() - TRAFFIC_OVER
    ).order_by()
    sums = lately.values_list("server_id").annotate(Sum("upload_bytes"), Sum("download_bytes"))
    return {server_id: (upload, download) for server_id, upload, download in sums}


def _show_analysis(one: Analysis) -> dict[str, Any]:
    room = one.headroom
    return {
        "server_id": one.server.pk,
        "server": one.server.name,
        "region": one.server.region.code,
        "is_current": one.is_current,
        "error": trouble(one.figures.error) if one.figures else "",
        "measured_at": one.figures.measured_at if one.figures else None,
        "current": current(one.figures),
        "p95": one.p95,
        "trend": {
            metric: {"recent": trend.recent, "before": trend.before, "change": trend.change}
            for metric, trend in one.trend.items()
        },
        "relays": one.server.carried,
        "running": one.server.running,
        "max_relays": one.server.max_relays,
        "headroom": {
            name: getattr(room, name) for name in ("relays", "limited_by", "places", "cpu", "memory", "uplink")
        },
        "advice": one.advice,
        "reason": one.reason,
        "words": one.words,
    }


def _show_latest(host: Any, traffic: tuple[int, int]) -> dict[str, Any]:
    latest: ServerLoad | None = getattr(host, "figures", None)
    return {
        "server_id": host.pk,
        "server": host.name,
        "region": host.region.code,
        "status": host.status,
        "phase": host.phase,
        "is_current": is_fresh(latest),
        "error_code": latest.error if latest else "",
        "error": trouble(latest.error) if latest else "",
        "measured_at": latest.measured_at if latest else None,
        "figures": current(latest),
        "relays": host.carried,
        "running": host.running,
        "traffic": {"upload_bytes": traffic[0], "download_bytes": traffic[1]},
    }


def _show_health(one: RelayHealth) -> dict[str, Any]:
    return {name: getattr(one, name) for name in RELAY_FIELDS} | {
        "container_id": one.relay_id,
        "relay": one.relay.code,
        "server_id": one.relay.server_id,
        "error_code": one.error,
        "error": trouble(one.error),
    }


def _show_phase(host: Server) -> dict[str, Any]:
    return {name: getattr(host, name) for name in ("status", "phase", "phase_since", "error_code")} | {
        "server_id": host.pk,
        "server": host.name,
        "error": trouble(host.error_code),
    }
