"""Emptying a server: because it was lost, is drained, or has nearly used up its traffic; by itself or by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.db import transaction
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import record
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet.models import (
    Alert,
    Evacuation,
    Move,
    MoveReason,
    Outage,
    Relay,
    RelayEvent,
    RelayGroup,
    RelayHealth,
    Server,
    ServerEvent,
    Wanted,
)
from fleet.selectors import open_servers

from .alerts import raise_alert, resolve_alert
from .groups import restart_in_place
from .moves import end_move, set_up_elsewhere, start_move
from .outages import open_outage_if_down
from .phases import grace, last_sign_of_life, server_event
from .placement import load_of
from .wake import wake_evacuation

AT_A_TIME = 10
"""So many relays of a server that is well are on their way at once; the others go on serving meanwhile."""

RESCUES_A_DAY = 3
"""So often a relay is moved by itself because it does not work; then it stays, for somebody to look at."""

HOPELESS = ("secret_unreadable", "invalid_spec", "no_server", "no_room", "no_port", "quarantined")
"""Troubles that another server would share."""


def lose_server(server_id: int) -> Evacuation:
    """The server is lost: its relays are not running any more, and leave."""
    with transaction.atomic():
        server = Server.objects.select_for_update(no_key=True).get(pk=server_id)
        since = last_sign_of_life(server)
        evacuation = open_evacuation(server, MoveReason.FAILURE, actor=None)
        raise_alert(
            Alert.Kind.SERVER_LOST,
            severity=Alert.Severity.CRITICAL,
            subject=str(server.pk),
            server=server,
            since=f"{since:%Y-%m-%d %H:%M:%S} UTC",
        )
    relays = list(should_run_on(server_id).only("id", "group_id", "generation", "server_id"))
    Relay.objects.filter(pk__in=[relay.pk for relay in relays]).update(
        observed_state=Relay.Observed.UNKNOWN, trouble_code="host_lost", trouble_detail="", trouble_since=now()
    )
    RelayEvent.objects.bulk_create(
        RelayEvent(
            relay=relay,
            kind=RelayEvent.Kind.TROUBLE,
            server_id=server_id,
            generation=relay.generation,
            detail="host_lost",
        )
        for relay in relays
    )
    for group_id in {relay.group_id for relay in relays}:
        open_outage_if_down(group_id, "host_lost", since=since)
    return evacuation


def should_run_on(server_id: int) -> QuerySet[Relay]:
    """Relays placed there that are wanted running and have time left."""
    clock_stands = Exists(Outage.objects.filter(group=OuterRef("group"), ended_at=None))
    return Relay.objects.filter(
        Q(group__run_until__gt=now()) | clock_stands, server=server_id, released_at=None, wanted=Wanted.RUNNING
    )


def fail_over(*, server_id: int | None, actor: User | None) -> list[Evacuation]:
    """Move every relay off that server, or off all servers that are not healthy, now. Returns what was begun.

    Raises Server.DoesNotExist. Servers that carry nothing are left out; asking twice begins nothing anew.
    """
    begun = []
    for server in _to_fail_over(server_id):
        with transaction.atomic():
            locked = Server.objects.select_for_update(no_key=True).get(pk=server.pk)
            reason = MoveReason.HAND if locked.status == Server.Status.HEALTHY else MoveReason.FAILURE
            evacuation = open_evacuation(locked, reason, actor=actor)
            record(actor=actor, event="server.failover", target=locked, reason=reason)
        begun.append(evacuation)
    return begun


def _to_fail_over(server_id: int | None) -> list[Server]:
    if server_id is not None:
        return [Server.objects.get(pk=server_id)]
    unhealthy = Server.objects.filter(status=Server.Status.UNHEALTHY)
    return [server for server in unhealthy if should_run_on(server.pk).exists()]


def drain_server(*, server_id: int, actor: User | None) -> Evacuation:
    """Take no more relays there and move off all there are, running or not. Draining twice is fine."""
    with transaction.atomic():
        server = Server.objects.select_for_update(no_key=True).get(pk=server_id)
        evacuation = open_evacuation(server, MoveReason.DRAIN, actor=actor)
        if not server.is_draining:
            server.is_draining = True
            server.save(update_fields=["is_draining"])
            server_event(server, ServerEvent.Kind.DRAINING)
            record(actor=actor, event="server.drained", target=server)
    return evacuation


def end_drain(*, server_id: int, actor: User | None) -> Server:
    """Let the server take relays again; what has not left yet stays. Twice is fine."""
    with transaction.atomic():
        server = Server.objects.select_for_update(no_key=True).get(pk=server_id)
        if server.is_draining:
            server.is_draining = False
            server.save(update_fields=["is_draining"])
            server_event(server, ServerEvent.Kind.DRAIN_ENDED)
            record(actor=actor, event="server.drain_ended", target=server)
        for evacuation in server.evacuations.filter(state=Evacuation.State.RUNNING, reason=MoveReason.DRAIN):
            _call_off(evacuation)
    return server


def open_evacuation(server: Server, reason: MoveReason, *, actor: User | None) -> Evacuation:
    """The server's running evacuation, or a new one. What began as a drain becomes a failover when the host dies."""
    found = server.evacuations.filter(state=Evacuation.State.RUNNING).first()
    if found is None:
        found = Evacuation.objects.create(
            server=server, server_name=server.name, reason=reason, actor=actor, lost_at=last_sign_of_life(server)
        )
    elif reason in (MoveReason.FAILURE, MoveReason.HAND) and found.reason != reason:
        found.reason, found.lost_at = reason, last_sign_of_life(server)
        found.save(update_fields=["reason", "lost_at"])
    wake_evacuation(found.pk)
    return found


def _call_off(evacuation: Evacuation) -> None:
    for move in evacuation.moves.filter(state=Move.State.WAITING):
        end_move(move, Move.State.CANCELLED)
    _end(evacuation, Evacuation.State.CANCELLED)


def _end(evacuation: Evacuation, state: Evacuation.State) -> None:
    Evacuation.objects.filter(pk=evacuation.pk, state=Evacuation.State.RUNNING).update(state=state, ended_at=now())


def carry_on(evacuation_id: int) -> Evacuation:
    """Take the evacuation as far as it goes now. Safe to call at any time, by several at once.

    After a loss every relay goes at once, higher priorities first, then those whose customers have nothing else
    running. From a server that is well they go a few at a time, and never two of one customer's map together.
    """
    evacuation = Evacuation.objects.select_related("server").get(pk=evacuation_id)
    server = evacuation.server
    if evacuation.state != Evacuation.State.RUNNING:
        return evacuation
    if server is None:
        _end(evacuation, Evacuation.State.DONE)
        return evacuation
    is_lost = evacuation.reason == MoveReason.FAILURE
    if is_lost and server.status == Server.Status.HEALTHY:
        _call_off(evacuation)  # It came back before all had left: what is there serves again.
    else:
        _move_some(evacuation, server, is_gentle=not is_lost)
        _end_if_done(evacuation, server)
    evacuation.refresh_from_db()
    return evacuation


def _leaving(evacuation: Evacuation, server: Server) -> QuerySet[Relay]:
    """Relays that have yet to leave, in the order in which they should."""
    if evacuation.reason == MoveReason.DRAIN:
        leaving = Relay.objects.filter(server=server, released_at=None)
    else:
        leaving = should_run_on(server.pk)
    running_elsewhere = Relay.objects.filter(
        group=OuterRef("group"),
        released_at=None,
        observed_state=Relay.Observed.RUNNING,
        observed_generation=F("generation"),
    ).exclude(server=server)
    return (
        leaving.filter(group__quarantined_at=None)
        .exclude(moves__state=Move.State.PLACED)
        .annotate(has_other=Exists(running_elsewhere))
        .order_by("-group__priority", "has_other", "slot", "id")
    )


def _move_some(evacuation: Evacuation, server: Server, *, is_gentle: bool) -> None:
    leaving = _leaving(evacuation, server)
    if is_gentle:
        on_the_way = Move.objects.filter(relay__group=OuterRef("group"), state=Move.State.PLACED)
        under_way = evacuation.moves.filter(state=Move.State.PLACED).count()
        leaving = leaving.exclude(Exists(on_the_way))[: max(AT_A_TIME - under_way, 0)]
    groups_seen: set[int] = set()
    for relay_id, group_id in list(leaving.values_list("id", "group_id")):
        if is_gentle and group_id in groups_seen:
            continue
        groups_seen.add(group_id)
        _leave(relay_id, group_id, evacuation)


def _leave(relay_id: int, group_id: int, evacuation: Evacuation) -> None:
    with transaction.atomic():
        group = RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
        relay = Relay.objects.select_related("server").get(pk=relay_id)
        if relay.released_at or relay.server_id != evacuation.server_id or group.quarantined_at:
            return  # It has left, or must not, since we looked.
        relay.group = group
        move = start_move(relay, reason=MoveReason(evacuation.reason), evacuation=evacuation)
        set_up_elsewhere(move, relay)


def _end_if_done(evacuation: Evacuation, server: Server) -> None:
    if _leaving(evacuation, server).exists() or evacuation.moves.filter(state__in=Move.OPEN).exists():
        return
    _end(evacuation, Evacuation.State.DONE)
    if evacuation.reason == MoveReason.DRAIN:
        server_event(server, ServerEvent.Kind.DRAIN_ENDED)


def carry_on_all() -> None:
    """Sweep: every evacuation goes on; lost servers whose relays were wanted again later get one; room is watched."""
    for server in Server.objects.filter(phase=Server.Phase.UNHEALTHY).exclude(
        evacuations__state=Evacuation.State.RUNNING
    ):
        if should_run_on(server.pk).filter(group__quarantined_at=None).exists():
            with transaction.atomic():
                locked = Server.objects.select_for_update(no_key=True).get(pk=server.pk)
                open_evacuation(locked, MoveReason.FAILURE, actor=None)
    running = Evacuation.objects.filter(state=Evacuation.State.RUNNING)
    highest = Relay.objects.filter(server=OuterRef("server"), released_at=None).order_by("-group__priority")
    # Whose customers come first gets what room there is.
    for evacuation in running.annotate(priority=highest.values("group__priority")[:1]).order_by("-priority", "id"):
        carry_on(evacuation.pk)
    _watch_room()
    for alert in Alert.objects.filter(alert_type=Alert.Kind.SERVER_LOST, resolved=False).select_related("server"):
        if alert.server is None or alert.server.status == Server.Status.HEALTHY:
            resolve_alert(Alert.Kind.SERVER_LOST, subject=alert.subject)


def _watch_room() -> None:
    without = Relay.objects.filter(released_at=None, wanted=Wanted.RUNNING, server=None, group__run_until__gt=now())
    waiting = Move.objects.filter(state=Move.State.WAITING).count() + without.count()
    if waiting:
        raise_alert(Alert.Kind.NO_ROOM, severity=Alert.Severity.CRITICAL, subject="fleet", count=waiting)
    else:
        resolve_alert(Alert.Kind.NO_ROOM, subject="fleet")


def rescue_relays() -> list[int]:
    """Sweep: relays that do not work where they are, although their host answers, go elsewhere. Returns their ids.

    One that runs and fails its probes is first given a fresh container; only if that does not help either does it
    move. Where no other server has room it stays, and is tried again there.
    """
    patience = now() - grace()
    does_not_start = ~Q(trouble_code="") & ~Q(trouble_code__in=HOPELESS) & Q(trouble_since__lt=patience)
    does_not_answer = Q(health__status=RelayHealth.Status.UNHEALTHY, started_at__lt=patience) & (
        Q(health__healthy_at=None) | Q(health__healthy_at__lt=patience)
    )
    rescued_lately = Count(
        "moves", filter=Q(moves__reason=MoveReason.RESCUE, moves__created_at__gt=now() - timedelta(days=1))
    )
    ill = (
        Relay.objects.filter(does_not_start | does_not_answer)
        .filter(released_at=None, wanted=Wanted.RUNNING, group__run_until__gt=now(), group__quarantined_at=None)
        .exclude(moves__state__in=Move.OPEN)
        .exclude(server=None)
        .exclude(server__phase=Server.Phase.UNHEALTHY)
        .annotate(rescues=rescued_lately)
        .filter(rescues__lt=RESCUES_A_DAY)
        .order_by("-group__priority", "id")
    )
    return [relay_id for relay_id, group_id in ill.values_list("id", "group_id")[:100] if _rescue(relay_id, group_id)]


def _rescue(relay_id: int, group_id: int) -> bool:
    with transaction.atomic():
        group = RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
        relay = Relay.objects.select_related("server", "health").get(pk=relay_id)
        if relay.released_at or relay.server is None:
            return False
        relay.group = group
        if relay.is_running and relay.server.status == Server.Status.HEALTHY and not _was_restarted_lately(relay):
            restart_in_place(relay)
            return True
        try:
            with transaction.atomic():
                move = start_move(relay, reason=MoveReason.RESCUE)
                if not set_up_elsewhere(move, relay):
                    raise _NoRoomElsewhere
        except _NoRoomElsewhere:
            return False
    return True


class _NoRoomElsewhere(Exception):
    """Takes back the move that was only tried."""


def _was_restarted_lately(relay: Relay) -> bool:
    """Whether a fresh container was already tried since the relay last answered."""
    restarts = relay.events.filter(kind=RelayEvent.Kind.RESTARTED, server=relay.server)
    health = getattr(relay, "health", None)
    if health and health.healthy_at:
        restarts = restarts.filter(created_at__gt=health.healthy_at)
    return restarts.exists()


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
    for server in _to_fail_over(server_id):
        relays = should_run_on(server.pk).exclude(moves__state=Move.State.PLACED)
        leaving += relays.select_related("group", "owner", "server__region")
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


def set_quarantine(*, group_id: int, is_quarantined: bool, note: str = "", actor: User | None) -> RelayGroup:
    """Hold the group's relays where they are, whatever happens to their servers; or let them go again.

    Raises PortalError `released` for a group that has none any more. Saying the same twice changes nothing.
    """
    with transaction.atomic():
        group = RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
        if group.released_at:
            raise PortalError(_("Its relays have been released."), code="released", status=409)
        if bool(group.quarantined_at) == is_quarantined:
            return group
        group.quarantined_at = now() if is_quarantined else None
        group.quarantine_note = note[:200] if is_quarantined else ""
        group.save(update_fields=["quarantined_at", "quarantine_note"])
        if is_quarantined:
            for move in Move.objects.filter(relay__group=group, state=Move.State.WAITING):
                end_move(move, Move.State.CANCELLED)
        record(actor=actor, event="group.quarantined" if is_quarantined else "group.quarantine_ended", target=group)
    return group
