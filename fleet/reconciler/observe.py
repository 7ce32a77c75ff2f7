"""Looking at a host, and writing down what was seen: of the host, and of each relay that changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from django.conf import settings
from django.db.models import Count, F, FloatField, OuterRef, Subquery, Value
from django.db.models.functions import Cast, Coalesce, NullIf

from derp_portal.lib.clock import now
from fleet.models import Relay, RelayEvent, Server
from fleet.runtimes.base import Observed, Runtime, RuntimeFailure, State
from fleet.services.enrolment import know_again
from fleet.services.events import relay_event
from fleet.services.phases import look_failed, look_succeeded

from .desired import SECRETS, SPEED_UNKNOWN

OBSERVED = {
    State.CREATED: Relay.Observed.CREATED,
    State.RUNNING: Relay.Observed.RUNNING,
    State.RESTARTING: Relay.Observed.RESTARTING,
    State.EXITED: Relay.Observed.EXITED,
}


_LIVE_HERE = Relay.objects.filter(server=OuterRef("pk"), released_at=None).order_by().values("server")
_CARRIED = Coalesce(Subquery(_LIVE_HERE.annotate(live=Count("pk")).values("live")), 0)
LOAD = Coalesce(Cast(_CARRIED, FloatField()) / NullIf(Cast(F("max_relays"), FloatField()), Value(0.0)), Value(1.0))
"""Of a server: its relays as a share of the most it may carry; counted where it is written, for one query."""


def list_containers(server: Server, runtime: Runtime) -> list[Observed]:
    """Our containers on the host. Raises RuntimeFailure; then nothing may be concluded from it."""
    try:
        if server.phase != Server.Phase.HEALTHY or _is_unknown(server):
            know_again(server, runtime)
            if server.phase != Server.Phase.RECOVERED:
                # It may have come back with an older disk: every relay is told its limits again, once.
                Relay.objects.filter(server=server).update(applied_speed=SPEED_UNKNOWN)
        found = runtime.list(settings.PORTAL_ID)
    except RuntimeFailure as failure:
        look_failed(server.pk, code=failure.code, detail=failure.detail)
        raise
    return found


def _is_unknown(server: Server) -> bool:
    return server.runtime == Server.Runtime.DOCKER and not server.engine_id


def note_seen(server: Server, containers: int) -> None:
    """The host answered. `containers` is how many of ours there may be from now on.

    A host that is well costs one write; one that was not changes its phase.
    """
    seen = {"containers": containers, "load": LOAD}
    well = Server.objects.filter(pk=server.pk, phase=Server.Phase.HEALTHY, failed_looks=0)
    if not well.update(last_seen_at=now(), **seen):
        look_succeeded(server.pk)
        Server.objects.filter(pk=server.pk).update(**seen)


def note_containers(server: Server, containers: int) -> None:
    """At most so many containers of ours are on the host now."""
    Server.objects.filter(pk=server.pk).update(containers=containers)


def note_observed(rows: Iterable[Relay], observed: Iterable[Observed]) -> list[Relay]:
    """Write what was seen of each relay; only rows that differ are written. Returns the changed ones."""
    by_name = {container.name: container for container in observed}
    changed = []
    for relay in rows:
        container = by_name.get(relay.container_name)
        seen = (
            # A Docker engine's listing has no start times; then the moment at which we started it stands.
            (OBSERVED[container.state], relay.generation, container.id, container.started_at or relay.started_at)
            if container
            else (Relay.Observed.ABSENT, 0, "", None)
        )
        if seen != (relay.observed_state, relay.observed_generation, relay.container_id, relay.started_at):
            relay.observed_state, relay.observed_generation, relay.container_id, relay.started_at = seen
            relay.observed_at = now()
            changed.append(relay)
    Relay.objects.bulk_update(
        changed, ["observed_state", "observed_generation", "container_id", "started_at", "observed_at"]
    )
    return changed


def note_gone(server: Server, wanted: Collection[int], observed: Iterable[Observed]) -> None:
    """Relays that should not run here and do not: say so, if the pass that removed them died before it could."""
    present = {container.name for container in observed}
    believed = (
        Relay.objects.filter(server=server, observed_state__in=OBSERVED.values()).exclude(pk__in=wanted).defer(*SECRETS)
    )
    for relay in believed:
        if not present & names_of(relay):
            note_stopped(relay)


def note_removed(server: Server, relay_id: int, name: str) -> None:
    """The container is removed. Only a relay last seen in it has stopped; a replaced one is noted by its successor."""
    relay = Relay.objects.filter(pk=relay_id, server=server, observed_state__in=OBSERVED.values()).first()
    if relay and name in names_of(relay):
        note_stopped(relay)


def names_of(relay: Relay) -> set[str]:
    """The container it should have, and the one in which it was last seen."""
    return {relay.container_name, f"{relay.code}-{relay.observed_generation}"}


def note_stopped(relay: Relay) -> None:
    """The relay does not run any more, as wanted."""
    Relay.objects.filter(pk=relay.pk).update(
        observed_state=Relay.Observed.ABSENT,
        observed_generation=0,
        container_id="",
        started_at=None,
        observed_at=now(),
    )
    relay_event(relay, RelayEvent.Kind.STOPPED)
