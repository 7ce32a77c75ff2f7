"""Figures past a threshold for long enough are alerts: raised, reminded of, and closed when the figure is back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q

from derp_portal.lib.clock import now
from fleet.models import Alert, AlertRule, Breach, Metric, Server, ServerLoad

from .alert_delivery import is_silenced, queue_deliveries, silences_now
from .alerts import lasting, raise_alert, resolve_alert

FRESH = timedelta(minutes=3)
"""Older figures say nothing about now: they neither raise nor close."""

CRITICAL_EVERY = timedelta(hours=24)
"""How often operators are reminded of what is critical and comes from no rule."""

FIELDS = {
    Metric.CPU: "cpu_percent",
    Metric.MEMORY: "memory_percent",
    Metric.DISK: "disk_percent",
    Metric.LOAD: "load_average",
    Metric.NETWORK_IN: "network_in",
    Metric.NETWORK_OUT: "network_out",
    Metric.CONTAINERS: "containers_running",
}
UNITS = {
    Metric.CPU: "%",
    Metric.MEMORY: "%",
    Metric.DISK: "%",
    Metric.LOAD: "",
    Metric.NETWORK_IN: "bytes/s",
    Metric.NETWORK_OUT: "bytes/s",
    Metric.CONTAINERS: "",
}

Pair = tuple[int, int]
"""A rule and a server, by their ids."""


@dataclass(frozen=True, slots=True)
class Scope:
    """A rule, and where it holds. Nothing chosen means everywhere; both chosen means both must fit."""

    rule: AlertRule
    servers: frozenset[int]
    regions: frozenset[int]

    def covers(self, server: Server) -> bool:
        """Whether the rule is about this server."""
        return (not self.servers or server.pk in self.servers) and (
            not self.regions or server.region_id in self.regions
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What fresh figures say: which pairs are past their threshold, with the figure, and which are well."""

    past: Mapping[Pair, float]
    well: frozenset[Pair]


def judge(scopes: Iterable[Scope], figures: Iterable[ServerLoad]) -> Verdict:
    """Compare every figure with every rule that covers its server. A figure that is missing says nothing."""
    past: dict[Pair, float] = {}
    well: set[Pair] = set()
    loads = list(figures)
    for scope in scopes:
        for load in loads:
            value = getattr(load, FIELDS[Metric(scope.rule.metric)])
            if value is None or not scope.covers(load.server):
                continue
            if is_past(scope.rule, value):
                past[scope.rule.pk, load.server_id] = value
            else:
                well.add((scope.rule.pk, load.server_id))
    return Verdict(past, frozenset(well))


def is_past(rule: AlertRule, value: float) -> bool:
    """Whether the figure is over (or under) the threshold; at the threshold is well."""
    return value > rule.threshold if rule.comparison == AlertRule.Comparison.OVER else value < rule.threshold


def watch_rules() -> None:
    """Sweep: notice figures past their thresholds, raise what has lasted, close what is over, remind of the rest.

    Two may run at once. As long as nothing changes it asks the database the same few questions for any fleet.
    """
    scopes = {scope.rule.pk: scope for scope in _scopes()}
    figures = ServerLoad.objects.filter(measured_at__gte=now() - FRESH).select_related("server")
    loads = {load.server_id: load for load in figures}
    verdict = judge(scopes.values(), loads.values())
    since = _note_breaches(verdict, loads)
    _close(scopes, verdict)
    known = set(lasting(Alert.Kind.METRIC).values_list("subject", flat=True))
    for (rule_id, server_id), value in verdict.past.items():
        rule, load = scopes[rule_id].rule, loads[server_id]
        began = since.get((rule_id, server_id))
        if began is None or load.measured_at is None or subject_of(rule_id, server_id) in known:
            continue
        if load.measured_at - began >= timedelta(seconds=rule.for_seconds):
            _raise(rule, load.server, value)
    remind()


def remind() -> int:
    """Tell again of open alerts that nobody has acknowledged, each in its time; the number told."""
    critical = Q(rule=None, severity=Alert.Severity.CRITICAL, created_at__lte=now() - CRITICAL_EVERY)
    waiting = Alert.objects.filter(critical | Q(rule__remind_seconds__gt=0), resolved=False, acknowledged_at=None)
    silences = silences_now()
    told = 0
    for alert in list(waiting.select_related("rule")):
        every = timedelta(seconds=alert.rule.remind_seconds) if alert.rule else CRITICAL_EVERY
        if (alert.told_at or alert.created_at) + every <= now() and not is_silenced(alert, silences):
            told += _remind_of(alert)
    return told


def subject_of(rule_id: int, server_id: int) -> str:
    """What an alert of that rule about that server is about."""
    return f"rule:{rule_id}:server:{server_id}"


def _scopes() -> list[Scope]:
    rules = AlertRule.objects.filter(is_enabled=True).prefetch_related("servers", "regions")
    return [
        Scope(rule, frozenset(s.pk for s in rule.servers.all()), frozenset(r.pk for r in rule.regions.all()))
        for rule in rules
    ]


def _note_breaches(verdict: Verdict, loads: Mapping[int, ServerLoad]) -> dict[Pair, datetime]:
    """Keep since when each pair is past its threshold; one whose figure is not fresh is not known to have lasted."""
    rows = list(Breach.objects.all())
    since = {(row.rule_id, row.server_id): row.since for row in rows}
    if ended := [row.pk for row in rows if (row.rule_id, row.server_id) not in verdict.past]:
        Breach.objects.filter(pk__in=ended).delete()
    if new := [pair for pair in verdict.past if pair not in since]:
        began = {pair: loads[pair[1]].measured_at or now() for pair in new}
        Breach.objects.bulk_create(
            (Breach(rule_id=rule, server_id=server, since=moment) for (rule, server), moment in began.items()),
            ignore_conflicts=True,
        )
        since |= began
    return since


def _close(scopes: Mapping[int, Scope], verdict: Verdict) -> None:
    """Alerts whose figure is back, or whose rule is not in force for that server any more."""
    well = {subject_of(*pair) for pair in verdict.well}
    for alert in lasting(Alert.Kind.METRIC).select_related("server"):
        scope = scopes.get(alert.rule_id or 0)
        is_watched = scope is not None and alert.server is not None and scope.covers(alert.server)
        if not is_watched or alert.subject in well:
            resolve_alert(Alert.Kind.METRIC, subject=alert.subject)


def _raise(rule: AlertRule, server: Server, value: float) -> None:
    metric = Metric(rule.metric)
    raise_alert(
        Alert.Kind.METRIC,
        severity=Alert.Severity(rule.severity),
        subject=subject_of(rule.pk, server.pk),
        server=server,
        rule=rule,
        metric=metric.value,
        value=_shown(value),
        threshold=_shown(rule.threshold),
        unit=UNITS[metric],
    )


def _shown(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _remind_of(alert: Alert) -> bool:
    """Queue it again, unless another worker just did, or somebody has seen to it meanwhile."""
    with transaction.atomic():
        mine = Alert.objects.filter(pk=alert.pk, resolved=False, acknowledged_at=None, told_at=alert.told_at)
        # Writing takes the row, so of two workers the second finds another moment here.
        return bool(mine.update(told_at=now())) and queue_deliveries(alert)
