"""Reading the fleet: maps, states, lists. Every list comes with what its page needs, in a fixed number of queries."""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from django.conf import settings
from django.db.models import Case, Count, Exists, F, OuterRef, Prefetch, Q, QuerySet, Sum, Value, When
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from accounts.models import User
from derp_portal.lib.clock import now
from derp_portal.lib.secrets import fingerprint
from fleet.derp.map import NodeSpec, derp_map
from fleet.models import (
    Evacuation,
    Move,
    MoveReason,
    NodeKey,
    Outage,
    Region,
    Relay,
    RelayEvent,
    RelayGroup,
    RelayHealth,
    Server,
    Wanted,
)
from fleet.monitoring.uptime import with_uptime
from fleet.words import trouble

NEAR_ALLOWANCE = 9
"""The tenths of its monthly traffic from which on a server takes no more relays and the ones it has move away."""


class RelayState(StrEnum):
    """A relay in one word, as its owner sees it."""

    UP = "up"
    STARTING = "starting"
    TROUBLE = "trouble"
    STOPPED = "stopped"


STATE_WORDS: dict[RelayState, Promise] = {
    RelayState.UP: _("running"),
    RelayState.STARTING: _("starting"),
    RelayState.TROUBLE: _("we are on it"),
    RelayState.STOPPED: _("stopped"),
}


def relay_state(relay: Relay) -> RelayState:
    """The state of a relay from `live_relays()`. Needs `group`, `health`; queries nothing."""
    health = getattr(relay, "health", None)
    if relay.released_at or relay.wanted != Wanted.RUNNING:
        return RelayState.STOPPED
    if relay.group.run_until <= now() and not has_open_outage(relay.group):
        return RelayState.STOPPED
    if health and health.status == RelayHealth.Status.HEALTHY and relay.is_running:
        return RelayState.UP
    if relay.trouble_code or (health and health.status == RelayHealth.Status.UNHEALTHY):
        return RelayState.TROUBLE
    return RelayState.STARTING


def has_open_outage(group: RelayGroup) -> bool:
    """True while the group's clock stands. Uses `open_outages` when a selector prefetched it."""
    prefetched = getattr(group, "open_outages", None)
    return bool(prefetched) if prefetched is not None else group.outages.filter(ended_at=None).exists()


def in_state(queryset: QuerySet[Relay], state: RelayState) -> QuerySet[Relay]:
    """Those of which `relay_state` would say `state`, found by the database."""
    outage = Exists(Outage.objects.filter(group=OuterRef("group"), ended_at=None))
    is_over = Q(group__run_until__lte=now()) & ~outage
    is_stopped = Q(released_at__isnull=False) | ~Q(wanted=Wanted.RUNNING) | is_over
    is_running = Q(observed_state=Relay.Observed.RUNNING, observed_generation=F("generation"))
    is_troubled = ~Q(trouble_code="") | Q(health__status=RelayHealth.Status.UNHEALTHY)
    return queryset.annotate(
        state=Case(
            When(is_stopped, then=Value(RelayState.STOPPED.value)),
            When(is_running, health__status=RelayHealth.Status.HEALTHY, then=Value(RelayState.UP.value)),
            When(is_troubled, then=Value(RelayState.TROUBLE.value)),
            default=Value(RelayState.STARTING.value),
        )
    ).filter(state=state.value)


def in_trouble() -> Q:
    """Relays that should run and do not, or that probes do not reach."""
    is_troubled = ~Q(trouble_code="") | Q(health__status=RelayHealth.Status.UNHEALTHY)
    return Q(is_troubled, released_at=None, wanted=Wanted.RUNNING)


def relays() -> QuerySet[Relay]:
    """All relays with what lists show: group and its open outage, owner, server, region, port, health, latest move.

    And with `month_uptime` and `last_month_uptime`.
    """
    outages = Prefetch("group__outages", queryset=Outage.objects.filter(ended_at=None), to_attr="open_outages")
    found = Relay.objects.select_related("group", "owner", "server__region", "port", "health")
    return with_uptime(found.prefetch_related(outages, with_latest_move()))


def live_relays(owner: User | None = None) -> QuerySet[Relay]:
    """Relays that are not released, of one owner or of everybody."""
    queryset = relays().filter(released_at=None)
    return queryset.filter(owner=owner) if owner else queryset


def moves() -> QuerySet[Move]:
    """All moves with relay, owner, servers and regions, newest first."""
    return Move.objects.select_related("relay__owner", "evacuation", "from_server__region", "to_server__region")


def moves_seen_by(owner: User) -> QuerySet[Move]:
    """The moves of the owner's relays as he is told of them: called-off ones never led anywhere."""
    return moves().filter(relay__owner=owner).exclude(state=Move.State.CANCELLED)


def with_latest_move(lookup: str = "moves") -> Prefetch[str]:
    """For `prefetch_related`: what `latest_move` reads, one row for each relay."""
    happened = moves().exclude(state=Move.State.CANCELLED).order_by("-id")
    return Prefetch(lookup, queryset=happened[:1], to_attr="latest_moves")


def latest_move(relay: Relay) -> Move | None:
    """The relay's latest move, under way or done; needs `with_latest_move`. Queries nothing."""
    return next(iter(getattr(relay, "latest_moves", ())), None)


WHY_MOVED: dict[str, Promise] = {
    MoveReason.FAILURE: _("its server stopped answering"),
    MoveReason.DRAIN: _("maintenance"),
    MoveReason.ALLOWANCE: _("more room for your traffic"),
    MoveReason.RESCUE: _("it did not work well where it was"),
    MoveReason.HAND: _("moved by the operator"),
    MoveReason.ADDRESS: _("its server got another address"),
}


def why_it_moved(move: Move) -> str:
    """The move's reason as the relay's owner reads it."""
    return str(WHY_MOVED.get(move.reason, ""))


def evacuations() -> QuerySet[Any]:
    """Every failover and drain, newest first, with the number of its moves in each state (`waiting`, `placed`, …)."""
    counts = {state.value: Count("moves", filter=Q(moves__state=state)) for state in Move.State}
    return Evacuation.objects.select_related("server", "actor").annotate(**counts).order_by("-id")


def images_by_server() -> dict[int, dict[str, int]]:
    """For each server, how many of its relays are to run which image."""
    found: dict[int, dict[str, int]] = {}
    placed = Relay.objects.filter(released_at=None, server__isnull=False).values_list("server_id", "image")
    for server_id, image, number in placed.annotate(number=Count("id")).order_by("server_id", "image"):
        found.setdefault(server_id, {})[image] = number
    return found


def servers() -> QuerySet[Server]:
    """All servers with `carried` (relays placed now), `running` and their traffic totals in bytes."""
    live = Q(relays__released_at=None)
    found = Server.objects.select_related("region").annotate(
        carried=Count("relays", filter=live),
        running=Count("relays", filter=live & Q(relays__observed_state=Relay.Observed.RUNNING)),
        uploaded=Sum("relays__upload_bytes", default=0),
        downloaded=Sum("relays__download_bytes", default=0),
    )
    return found.order_by("name")  # Counting drops the model's own order.


def regions() -> QuerySet[Region]:
    """All regions with `servers_in`, the number of servers in each."""
    return Region.objects.annotate(servers_in=Count("servers")).order_by("code")


def region_named(text: str) -> Region | None:
    """The region with that code or name, in either language and any case."""
    return Region.objects.filter(Q(code__iexact=text) | Q(name__iexact=text) | Q(name_zh=text)).order_by("id").first()


def relay_events(owner: User) -> QuerySet[RelayEvent]:
    """Everything that ever happened to the owner's relays, newest first, released ones included."""
    return RelayEvent.objects.filter(relay__owner=owner).select_related("relay", "server__region")


def live_groups(owner: User) -> QuerySet[RelayGroup]:
    """The owner's groups that are not released."""
    return RelayGroup.objects.filter(owner=owner, released_at=None)


def node_keys(owner: User) -> QuerySet[NodeKey]:
    """The devices the owner has listed."""
    return NodeKey.objects.filter(owner=owner, is_removed=False)


def node_of(relay: Relay) -> NodeSpec | None:
    """The relay as the derp map names it; None while it has no place. Needs server, region and port."""
    port = getattr(relay, "port", None)
    if relay.server is None or port is None:
        return None
    address = ipaddress.ip_address(relay.server.ip)
    region = relay.server.region
    return NodeSpec(
        region_id=relay.region_id,
        region_code=f"{region.code}-{relay.region_id}",
        region_name=region.name,
        host_name=relay.host_name,
        cert_name=relay.pin,
        ipv4=str(address) if address.version == 4 else "",
        ipv6=str(address) if address.version == 6 else "",
        derp_port=port.number,
        stun_port=port.number,
        latitude=region.latitude or None,
        longitude=region.longitude or None,
    )


def nodes_of(group: RelayGroup) -> list[NodeSpec]:
    """The placed relays of the group, primary first, in one query."""
    placed = group.relays.filter(released_at=None, server__isnull=False).select_related("server__region", "port")
    return [node for relay in placed.order_by("slot") if (node := node_of(relay))]


def nodes_of_owner(user_id: int) -> list[NodeSpec]:
    """The placed relays of all the owner's groups that run, those of one region id once."""
    placed = Relay.objects.filter(owner=user_id, released_at=None, server__isnull=False, group__released_at=None)
    found = placed.select_related("server__region", "port").order_by("group_id", "slot")
    return list({node.region_id: node for relay in found if (node := node_of(relay))}.values())


def derp_map_of(group: RelayGroup) -> dict[str, Any] | None:
    """The group's map in Tailscale's JSON form; after its release the last one it had; None if it never had one.

    Never a map without regions: Headscale refuses to start on one.
    """
    nodes = nodes_of(group)
    return map_of_nodes(group, nodes) if nodes else group.last_map


def omits_default(group: RelayGroup, nodes: Sequence[NodeSpec]) -> bool:
    """Whether the map leaves Tailscale's own relays out: only while one of ours can fail without harm."""
    return group.omits_default and len(nodes) > 1


def map_of_nodes(group: RelayGroup, nodes: Sequence[NodeSpec]) -> dict[str, Any]:
    """The group's map of these nodes. Raises ValueError when there is none."""
    return derp_map(nodes, omits_default(group, nodes))


def map_digest(group: RelayGroup, nodes: Sequence[NodeSpec]) -> str:
    """What tells one version of the group's map from another."""
    return hashlib.sha256(json.dumps(map_of_nodes(group, nodes), sort_keys=True).encode()).hexdigest()


def is_map_stale(group: RelayGroup, nodes: Sequence[NodeSpec]) -> bool:
    """Whether the map that was pasted or pushed last is not the present one. Of one that is polled nothing is said."""
    is_known = group.taken_by in (RelayGroup.Taken.PASTE, RelayGroup.Taken.PUSH) and not polls_its_map(group)
    return bool(is_known and nodes and group.taken_digest != map_digest(group, nodes))


def group_by_map_token(token: str) -> RelayGroup | None:
    """The group whose secret map URL holds `token`; None for unknown and revoked ones."""
    return RelayGroup.objects.filter(map_token_hash=fingerprint(token)).first()


POLLED_WITHIN = timedelta(hours=24)
"""A map URL fetched so lately is polled by somebody: a change reaches him by itself."""


def polls_its_map(group: RelayGroup) -> bool:
    """Whether the group's owner lets a control plane poll the map URL, as far as one can tell."""
    return group.map_fetched_at is not None and now() - group.map_fetched_at < POLLED_WITHIN


def map_url_of(group: RelayGroup) -> str:
    """The secret address of the group's map, "" when it is turned off."""
    return f"{settings.PUBLIC_URL}/derpmap/{group.map_token}.json" if group.map_token else ""


def open_servers() -> QuerySet[Any]:
    """Servers that take new relays, full ones too: healthy, enabled, not being emptied, not near their allowance.

    With `carried`, their relays, and `promised`, the bytes per second that those may send to one device each.
    """
    found = Server.objects.filter(is_enabled=True, is_draining=False, status=Server.Status.HEALTHY)
    # Two servers that are emptied into each other would never be done.
    found = found.exclude(evacuations__state=Evacuation.State.RUNNING)
    found = found.exclude(
        allowance_bytes__isnull=False, allowance_used_bytes__gte=F("allowance_bytes") / 10 * NEAR_ALLOWANCE
    )
    live = Q(relays__released_at=None)
    return found.annotate(
        carried=Count("relays", filter=live),
        promised=Sum("relays__group__speed_bytes_per_second", filter=live, default=0),
    )


def groups_short_of_relays(limit: int) -> Iterable[int]:
    """Ids of running groups with fewer placed relays than they should have, for which something can be done.

    Those for which a server has room come first, then those without any relay, higher priorities, the oldest. Where
    none has, only groups with a relay that waits are named, so that it says the present reason. A group whose clock
    stands runs on past its deadline, or waiting too long would mean waiting for ever.
    """
    clock_stands = Exists(Outage.objects.filter(group=OuterRef("pk"), ended_at=None))
    live = Relay.objects.filter(group=OuterRef("pk"), released_at=None)
    return (
        RelayGroup.objects.filter(Q(run_until__gt=now()) | clock_stands, wanted=Wanted.RUNNING, released_at=None)
        .annotate(placed=Count("relays", filter=Q(relays__released_at=None, relays__server__isnull=False)))
        .filter(placed__lt=F("relay_count"))
        .annotate(has_room=Exists(_room_for_the_group()), waits=Exists(live.filter(server=None)))
        .filter(Q(has_room=True) | Q(waits=True))
        .order_by("-has_room", "placed", "-priority", "id")
        .values_list("id", flat=True)[:limit]
    )


def _room_for_the_group() -> QuerySet[Server]:
    """Servers that could take one more relay of the group in the query around this one."""
    with_room = open_servers().filter(carried__lt=F("max_relays")).values("pk")
    group = OuterRef(OuterRef("pk"))
    siblings = Relay.objects.filter(group=group, released_at=None, server__ip=OuterRef("ip"))
    limits = RelayGroup.servers.through.objects.filter(relaygroup=group)
    allowed = ~Exists(limits) | Exists(limits.filter(server=OuterRef("pk")))
    return Server.objects.filter(allowed, ~Exists(siblings), pk__in=with_room)


@dataclass(frozen=True, slots=True)
class Ownership:
    """Who holds a relay and where it runs: what a binding is verified against."""

    owner_id: int
    group_id: int
    server_id: int | None


def ownership_of(relay_code: str) -> Ownership | None:
    """Owner, group and server of a live relay by its code; None when there is none."""
    found = Relay.objects.filter(code=relay_code, released_at=None).first()
    return Ownership(found.owner_id, found.group_id, found.server_id) if found else None


def why_in_trouble(relay: Relay) -> str:
    """The relay's trouble in the reader's words, "" when there is none."""
    health = getattr(relay, "health", None)
    return trouble(relay.trouble_code or (health.error if health else ""))


def why_it_happened(event: RelayEvent) -> str:
    """The event's reason in the reader's words, "" when there is none; what an engine said is for operators."""
    if event.kind in (RelayEvent.Kind.TROUBLE, RelayEvent.Kind.UNHEALTHY):
        return trouble(event.detail.partition(" ")[0])
    return event.detail if event.kind == RelayEvent.Kind.PORT_CHANGED else ""


def traffic_of(owner: User) -> tuple[int, int]:
    """Bytes that all relays of the owner ever took in and gave out, released ones included."""
    totals = Relay.objects.filter(owner=owner).aggregate(
        uploaded=Sum("upload_bytes", default=0), downloaded=Sum("download_bytes", default=0)
    )
    return totals["uploaded"], totals["downloaded"]
