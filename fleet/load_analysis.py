"""How much each server still has to give, and what an operator should do about it.

However many servers are asked about, the database is asked three questions at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from enum import StrEnum
from typing import Any

from django.db.models import Avg, Count, F, FloatField, Q, QuerySet, Window
from django.db.models.functions import Ceil, RowNumber
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from derp_portal.lib.clock import now
from fleet.models import Measurement, Metric, ServerLoad
from fleet.monitoring.measuring import METRICS, is_fresh
from fleet.runtimes.base import RelaySpec
from fleet.selectors import servers

ANALYSED = (Metric.CPU, Metric.MEMORY, Metric.NETWORK_IN, Metric.NETWORK_OUT)
P95_OVER = timedelta(hours=24)
TREND_OVER = timedelta(hours=6)

FULL, OVERFULL = 80.0, 95.0
"""Percent that may be used for long, and from which on customers feel it."""

FEW_PLACES = 0.1
"""The share of its places from which on a server is nearly full."""

RELAY_MEMORY_BYTES = next(one.default for one in fields(RelaySpec) if one.name == "memory_bytes")
"""The most memory one relay may take."""

ENOUGH_RELAYS = 5
"""Of fewer relays the host's own needs would be taken for theirs."""


class Advice(StrEnum):
    ADD_CAPACITY = "add_capacity"
    DRAIN = "drain"
    FINE = "fine"


class Resource(StrEnum):
    """What a server can run out of."""

    PLACES = "places"
    CPU = "cpu"
    MEMORY = "memory"
    DISK = "disk"
    UPLINK = "uplink"


RESOURCE_WORDS: dict[Resource, Promise] = {
    Resource.PLACES: gettext_lazy("places for relays"),
    Resource.CPU: gettext_lazy("CPU"),
    Resource.MEMORY: gettext_lazy("memory"),
    Resource.DISK: gettext_lazy("disk"),
    Resource.UPLINK: gettext_lazy("uplink"),
}


@dataclass(frozen=True, slots=True)
class Trend:
    """Means of the last six hours and of the six before."""

    recent: float | None
    before: float | None

    @property
    def change(self) -> float | None:
        """How much it rose; None when one of the two is not known."""
        return None if self.recent is None or self.before is None else self.recent - self.before


@dataclass(frozen=True, slots=True)
class Headroom:
    """How many more relays each resource allows; None is not known. The least of them is what there is."""

    places: int
    cpu: int | None
    memory: int | None
    uplink: int | None

    @property
    def relays(self) -> int:
        """How many more relays the server can take."""
        return min(room for room in (self.places, self.cpu, self.memory, self.uplink) if room is not None)

    @property
    def limited_by(self) -> Resource:
        """What ends first."""
        rooms = {
            Resource.PLACES: self.places,
            Resource.CPU: self.cpu,
            Resource.MEMORY: self.memory,
            Resource.UPLINK: self.uplink,
        }
        return next(resource for resource, room in rooms.items() if room == self.relays)


@dataclass(frozen=True, slots=True)
class Analysis:
    """One server: how it is, how it was, how it goes on, and what to do."""

    server: Any
    figures: ServerLoad | None
    is_current: bool
    p95: dict[Metric, float]
    trend: dict[Metric, Trend]
    headroom: Headroom
    advice: Advice
    reason: Resource | None

    @property
    def words(self) -> str:
        """The advice as people read it."""
        if self.server.is_draining:
            return _("It is being drained: nothing to do.")
        if self.reason is None:
            count = self.headroom.relays
            said = ngettext(
                "All is well: room for %(count)s more relay.", "All is well: room for %(count)s more relays.", count
            )
            return said % {"count": count}
        what = {"what": RESOURCE_WORDS[self.reason]}
        if self.advice == Advice.DRAIN:
            return _("Customers feel it (%(what)s): move relays away from here.") % what
        return _("Soon full (%(what)s): add a server in this region.") % what


def servers_to_analyse() -> QuerySet[Any]:
    """Servers as `analyse` needs them: with region, latest figures, `carried` and `running`."""
    return servers().select_related("region", "figures").defer("tls_ca", "tls_certificate", "tls_key")


def analyse(hosts: Sequence[Any]) -> list[Analysis]:
    """One analysis for each of these rows of `servers_to_analyse()`, in their order. Two questions to the database."""
    ids = [host.pk for host in hosts]
    p95, trends = _p95(ids), _trends(ids)
    return [_analyse_one(host, p95.get(host.pk, {}), trends.get(host.pk, {})) for host in hosts]


def advise(
    headroom: Headroom, *, places: int, used: dict[Resource, float], rising: dict[Resource, float]
) -> tuple[Advice, Resource | None]:
    """What to do, and because of what. `used` are percent (p95), `rising` by how many they rose. Pure."""
    if used and max(used.values()) >= OVERFULL:
        return Advice.DRAIN, max(used, key=lambda resource: used[resource])
    soon = {resource: share + max(rising.get(resource, 0.0), 0.0) for resource, share in used.items()}
    if soon and max(soon.values()) >= FULL:
        return Advice.ADD_CAPACITY, max(soon, key=lambda resource: soon[resource])
    if headroom.relays <= places * FEW_PLACES:
        return Advice.ADD_CAPACITY, headroom.limited_by
    return Advice.FINE, None


def _analyse_one(host: Any, p95: dict[Metric, float], trend: dict[Metric, Trend]) -> Analysis:
    figures: ServerLoad | None = getattr(host, "figures", None)
    uplink = (host.uplink_mbps or 0) * 125_000
    used = {Resource(metric.value): p95[metric] for metric in (Metric.CPU, Metric.MEMORY) if metric in p95}
    if figures and is_fresh(figures) and figures.disk_percent is not None:
        used[Resource.DISK] = figures.disk_percent
    line = max((p95[metric] for metric in (Metric.NETWORK_IN, Metric.NETWORK_OUT) if metric in p95), default=None)
    if uplink and line is not None:
        used[Resource.UPLINK] = 100 * line / uplink
    headroom = _headroom(host, figures, used)
    advice, reason = Advice.FINE, None
    if not host.is_draining:
        advice, reason = advise(headroom, places=host.max_relays, used=used, rising=_rising(trend, uplink))
    return Analysis(host, figures, is_fresh(figures), p95, trend, headroom, advice, reason)


def _headroom(host: Any, figures: ServerLoad | None, used: dict[Resource, float]) -> Headroom:
    memory_bytes = figures.counters.get("memory_bytes") if figures else None
    memory = None
    if memory_bytes and Resource.MEMORY in used:
        memory = int(max(FULL - used[Resource.MEMORY], 0.0) / 100 * memory_bytes // RELAY_MEMORY_BYTES)
    return Headroom(
        places=max(host.max_relays - host.carried, 0),
        cpu=_more_relays(used.get(Resource.CPU), host.running),
        memory=memory,
        uplink=_more_relays(used.get(Resource.UPLINK), host.running),
    )


def _more_relays(used: float | None, running: int) -> int | None:
    """How many more fit below `FULL` if each takes what each takes now."""
    if not used or running < ENOUGH_RELAYS:
        return None
    return int(max(FULL - used, 0.0) // (used / running))


def _rising(trend: dict[Metric, Trend], uplink: float) -> dict[Resource, float]:
    """By how many percent each resource's use rose within six hours."""
    changes = {metric: one.change for metric, one in trend.items() if one.change is not None}
    rising = {Resource(metric.value): changes[metric] for metric in (Metric.CPU, Metric.MEMORY) if metric in changes}
    lines = [changes[metric] for metric in (Metric.NETWORK_IN, Metric.NETWORK_OUT) if metric in changes]
    if uplink and lines:
        rising[Resource.UPLINK] = 100 * max(lines) / uplink
    return rising


def _readings(ids: Sequence[int], since: timedelta) -> QuerySet[Measurement]:
    return Measurement.objects.filter(
        server__in=ids, metric__in=ANALYSED, span=Measurement.Span.READING, timestamp__gte=now() - since
    ).order_by()


def _p95(ids: Sequence[int]) -> dict[int, dict[Metric, float]]:
    """By server and metric the value that 95 of 100 readings do not exceed (nearest rank), found by the database."""
    group = [F("server"), F("metric")]
    ranked = _readings(ids, P95_OVER).annotate(
        rank=Window(RowNumber(), partition_by=group, order_by=F("value").asc()),
        number=Window(Count("id"), partition_by=group),
    )
    chosen = ranked.filter(rank=Ceil(F("number") * 0.95, output_field=FloatField()))
    found: dict[int, dict[Metric, float]] = {}
    for server_id, metric, value in chosen.values_list("server_id", "metric", "value"):
        found.setdefault(server_id, {})[Metric(metric)] = value
    return found


def _trends(ids: Sequence[int]) -> dict[int, dict[Metric, Trend]]:
    middle = now() - TREND_OVER
    means = (
        _readings(ids, 2 * TREND_OVER)
        .values_list("server_id", "metric")
        .annotate(
            recent=Avg("value", filter=Q(timestamp__gte=middle)), before=Avg("value", filter=Q(timestamp__lt=middle))
        )
    )
    found: dict[int, dict[Metric, Trend]] = {}
    for server_id, metric, recent, before in means:
        found.setdefault(server_id, {})[Metric(metric)] = Trend(recent, before)
    return found


def current(figures: ServerLoad | None) -> dict[Metric, float | None]:
    """The latest value of each metric."""
    return {metric: getattr(figures, name, None) for metric, name in METRICS.items()}
