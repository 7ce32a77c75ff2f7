"""What a failover by hand would do, without doing it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fleet.models import Relay, Server
from fleet.selectors import open_servers

from .evacuations import should_run_on, to_fail_over
from .placement import load_of


@dataclass(frozen=True, slots=True)
class PlannedMove:
    """What a failover would do with one relay. `to` is None, and `reason` says why, when it would stay."""

    relay: Relay
    to: Server | None
    reason: str = ""


@dataclass
class _Room:
    """A server with the relays it would have by then."""

    server: Server
    carried: int
    max_relays: int
    uplink_mbps: int | None
    promised: int


def plan_failover(*, server_id: int | None) -> list[PlannedMove]:
    """What `fail_over` would do now, changing nothing. The real one may find other servers by then."""
    leaving: list[Relay] = []
    for server in to_fail_over(server_id):
        relays = should_run_on(server.pk).select_related("group", "owner", "server__region")
        leaving += relays.prefetch_related("group__regions", "group__servers")
    leaving.sort(key=lambda relay: (-relay.group.priority, relay.slot, relay.pk))
    rooms = [
        _Room(server, server.carried, server.max_relays, server.uplink_mbps, server.promised)
        for server in open_servers().select_related("region")
    ]
    addresses = _addresses_by_group(leaving)
    planned = []
    for relay in leaving:
        taken = addresses[relay.group_id]
        choice = _best_room(relay, rooms, taken)
        if relay.group.quarantined_at:
            planned.append(PlannedMove(relay, None, "quarantined"))
        elif choice is None:
            planned.append(PlannedMove(relay, None, "no_room" if rooms else "no_server"))
        else:
            choice.carried += 1
            choice.promised += relay.group.speed_bytes_per_second
            taken.add(choice.server.ip)
            planned.append(PlannedMove(relay, choice.server))
    return planned


def _addresses_by_group(relays: Sequence[Relay]) -> dict[int, set[str]]:
    addresses: dict[int, set[str]] = {relay.group_id: set() for relay in relays}
    placed = Relay.objects.filter(group__in=addresses, released_at=None, server__isnull=False)
    for group_id, address in placed.values_list("group_id", "server__ip"):
        addresses[group_id].add(address)
    return addresses


def _best_room(relay: Relay, rooms: Iterable[_Room], taken: set[str]) -> _Room | None:
    wished_for = {region.pk for region in relay.group.regions.all()}
    allowed = {server.pk for server in relay.group.servers.all()}
    fitting = [
        room
        for room in rooms
        if room.carried < room.max_relays
        and room.server.ip not in taken
        and (not allowed or room.server.pk in allowed)
        and room.server.pk != relay.server_id
    ]
    return min(
        fitting,
        key=lambda room: (
            room.server.region_id not in wished_for,
            room.server.phase == Server.Phase.RECOVERED,
            load_of(room),
            room.server.pk,
        ),
        default=None,
    )
