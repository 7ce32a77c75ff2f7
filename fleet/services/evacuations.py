"""Emptying a server: because it was lost, is drained, or has nearly used up its traffic; by itself or by hand."""

from __future__ import annotations

from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import record
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet.models import Alert, Evacuation, Move, MoveReason, Relay, RelayGroup, Server, ServerEvent
from fleet.reconciler.desired import should_run
from fleet.selectors import open_servers

from .alerts import lasting, raise_alert, resolve_alert
from .moves import end_move, set_up_elsewhere, start_move
from .outages import note_trouble
from .phases import last_sign_of_life, server_event
from .wake import wake_evacuation

AT_A_TIME = 10
"""So many relays of a server that is well are on their way at once; the others go on serving meanwhile."""


def lose_server(server_id: int) -> Evacuation | None:
    """The server is lost: nothing on it is believed to run, customers without another relay stop paying, all leave.

    Safe to repeat, and repeated by the sweep until it is done. None when the server has come back meanwhile.
    """
    with transaction.atomic():
        server = Server.objects.select_for_update(no_key=True).get(pk=server_id)
        if server.phase != Server.Phase.UNHEALTHY:
            return None
        since = last_sign_of_life(server)
        evacuation = open_evacuation(server, MoveReason.FAILURE, actor=None)
        raise_alert(
            Alert.Kind.SERVER_LOST,
            severity=Alert.Severity.CRITICAL,
            subject=str(server.pk),
            server=server,
            since=f"{since:%Y-%m-%d %H:%M:%S} UTC",
        )
    for relay_id, group_id in list(should_run_on(server_id).values_list("id", "group_id")):
        with transaction.atomic():
            group = RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
            relay = Relay.objects.select_related("server").get(pk=relay_id)
            relay.group = group
            _believe_no_longer(relay, server_id)
    stopped = Relay.objects.filter(believed(), server=server_id, server__phase=Server.Phase.UNHEALTHY)
    stopped.exclude(pk__in=should_run_on(server_id).values("pk")).update(observed_state=Relay.Observed.UNKNOWN)
    return evacuation


def believed() -> Q:
    """Relays of which something was seen on their host, and is still taken for true."""
    return ~Q(observed_state__in=(Relay.Observed.UNKNOWN, Relay.Observed.ABSENT)) & Q(released_at=None)


def _believe_no_longer(relay: Relay, server_id: int) -> None:
    """Write down that the relay (group locked, server at hand) fell with its server. Once more changes nothing."""
    server = relay.server
    if server is None or server.pk != server_id or server.phase != Server.Phase.UNHEALTHY:
        return  # It has left, or its server is back.
    # One that did not run before the loss has had its outage begun by whoever found that out.
    since = last_sign_of_life(server) if relay.is_running else None
    code = "quarantined" if relay.group.quarantined_at else "host_lost"
    relay.observed_state = Relay.Observed.UNKNOWN
    relay.save(update_fields=["observed_state"])
    note_trouble(relay, code, since=since)


def should_run_on(server_id: int) -> QuerySet[Relay]:
    """Relays placed there that are wanted running and have time left, or a clock that stands."""
    return Relay.objects.filter(should_run(), server=server_id)


def fail_over(*, server_id: int | None, actor: User | None) -> list[Evacuation]:
    """Move every relay off that server, or off all servers that are not healthy, now. Returns what was begun.

    Raises Server.DoesNotExist. Servers that carry nothing are left out; asking twice begins nothing anew.
    """
    begun = []
    for server in to_fail_over(server_id):
        with transaction.atomic():
            locked = Server.objects.select_for_update(no_key=True).get(pk=server.pk)
            reason = MoveReason.HAND if locked.status == Server.Status.HEALTHY else MoveReason.FAILURE
            evacuation = open_evacuation(locked, reason, actor=actor)
            record(actor=actor, event="server.failover", target=locked, reason=reason)
        begun.append(evacuation)
    return begun


def to_fail_over(server_id: int | None) -> list[Server]:
    """That server, or all that are not healthy and carry something. Raises Server.DoesNotExist."""
    if server_id is not None:
        asked = [Server.objects.get(pk=server_id)]
    else:
        asked = list(Server.objects.filter(status=Server.Status.UNHEALTHY))
    return [server for server in asked if should_run_on(server.pk).exists()]


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
    """Let the server take relays again; what has not left yet stays, a move by hand included. Twice is fine."""
    with transaction.atomic():
        server = Server.objects.select_for_update(no_key=True).get(pk=server_id)
        if server.is_draining:
            server.is_draining = False
            server.save(update_fields=["is_draining"])
            server_event(server, ServerEvent.Kind.DRAIN_ENDED)
            record(actor=actor, event="server.drain_ended", target=server)
        wished_for = (MoveReason.DRAIN, MoveReason.HAND)
        for evacuation in server.evacuations.filter(state=Evacuation.State.RUNNING, reason__in=wished_for):
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
    if evacuation.state == Evacuation.State.RUNNING:
        if evacuation.reason == MoveReason.FAILURE:
            leave_lost_servers()
        _step(evacuation)
        evacuation.refresh_from_db()
    return evacuation


def _step(evacuation: Evacuation) -> None:
    """What the evacuation itself has to do; the relays of lost servers leave all together, whoever's they are."""
    server = evacuation.server
    if server is None:
        _end(evacuation, Evacuation.State.DONE)
        return
    is_lost = evacuation.reason == MoveReason.FAILURE
    if is_lost and server.status == Server.Status.HEALTHY:
        _call_off(evacuation)  # It came back before all had left: what is there serves again.
        return
    if not is_lost:
        _move_gently(evacuation, server)
    _end_if_done(evacuation, server)


def _leaving(evacuation: Evacuation, server: Server) -> QuerySet[Relay]:
    """Relays that have yet to leave, in the order in which they should."""
    if evacuation.reason == MoveReason.DRAIN:
        leaving = Relay.objects.filter(server=server, released_at=None)
    else:
        leaving = should_run_on(server.pk)
    return _in_order(leaving)


def _in_order(leaving: QuerySet[Relay]) -> QuerySet[Relay]:
    running_elsewhere = Relay.objects.filter(
        group=OuterRef("group"),
        released_at=None,
        observed_state=Relay.Observed.RUNNING,
        observed_generation=F("generation"),
    ).exclude(server=OuterRef("server"))
    return (
        leaving.filter(group__quarantined_at=None)
        .annotate(has_other=Exists(running_elsewhere))
        .order_by("-group__priority", "has_other", "slot", "id")
    )


def leave_lost_servers() -> None:
    """Find places for the relays of all lost servers, higher priorities first, from whichever server they come."""
    of_server = dict(
        Evacuation.objects.filter(
            state=Evacuation.State.RUNNING, reason=MoveReason.FAILURE, server__status=Server.Status.UNHEALTHY
        ).values_list("server", "pk")
    )
    if not of_server:
        return
    evacuations = Evacuation.objects.in_bulk(of_server.values())
    leaving = _in_order(Relay.objects.filter(should_run(), server__in=of_server))
    if not open_servers().filter(carried__lt=F("max_relays")).exists():
        # Nothing to try: those that wait already go on waiting, and cost nothing.
        leaving = leaving.exclude(moves__state=Move.State.WAITING)
    for relay_id, group_id, server_id in list(leaving.values_list("id", "group_id", "server_id")):
        _leave(relay_id, group_id, evacuations[of_server[server_id]])


def _move_gently(evacuation: Evacuation, server: Server) -> None:
    on_the_way = Move.objects.filter(should_answer(), state=Move.State.PLACED)
    of_their_group = on_the_way.filter(relay__group=OuterRef("group"))
    leaving = _leaving(evacuation, server).exclude(Exists(of_their_group))
    if not open_servers().filter(carried__lt=F("max_relays")).exists():
        leaving = leaving.exclude(moves__state=Move.State.WAITING)
    under_way = on_the_way.filter(evacuation=evacuation).count()
    groups_seen: set[int] = set()
    for relay_id, group_id in list(leaving.values_list("id", "group_id")):
        if under_way >= AT_A_TIME:
            return
        if group_id not in groups_seen and _leave(relay_id, group_id, evacuation):
            groups_seen.add(group_id)
            under_way += 1


def should_answer() -> Q:
    """Of moves: their relay should run, so that an answer is to be waited for."""
    return Q(relay__in=Relay.objects.filter(should_run()))


def _leave(relay_id: int, group_id: int, evacuation: Evacuation) -> bool:
    """Let one relay leave. True when it is on its way, and old and new place overlap for a while."""
    is_lost = evacuation.reason == MoveReason.FAILURE
    with transaction.atomic():
        group = RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
        relay = Relay.objects.select_related("server").get(pk=relay_id)
        if relay.released_at or relay.server_id != evacuation.server_id or group.quarantined_at:
            return False  # It has left, or must not, since we looked.
        if not is_lost and Move.objects.filter(should_answer(), relay__group=group, state=Move.State.PLACED).exists():
            return False  # Its sibling has gone since we looked.
        relay.group = group
        if is_lost:
            _believe_no_longer(relay, relay.server_id or 0)
        move = start_move(relay, reason=MoveReason(evacuation.reason), evacuation=evacuation)
        return set_up_elsewhere(move, relay) and move.is_open


def _end_if_done(evacuation: Evacuation, server: Server) -> None:
    leaving = _leaving(evacuation, server)
    for move in evacuation.moves.filter(state=Move.State.WAITING).exclude(relay__in=leaving.values("pk")):
        end_move(move, Move.State.CANCELLED)  # Stopped, or held where it is, since it began to wait.
    if leaving.exists() or evacuation.moves.filter(should_answer(), state__in=Move.OPEN).exists():
        return
    _end(evacuation, Evacuation.State.DONE)
    if evacuation.reason == MoveReason.DRAIN:
        server_event(server, ServerEvent.Kind.DRAIN_ENDED)


def carry_on_all() -> None:
    """Sweep: what was begun and cut short is begun again, every evacuation goes on, room is watched."""
    _finish_losses()
    _take_drains_up_again()
    leave_lost_servers()
    for evacuation in Evacuation.objects.filter(state=Evacuation.State.RUNNING).select_related("server").order_by("id"):
        _step(evacuation)
    _watch_room()
    for alert in lasting(Alert.Kind.SERVER_LOST).select_related("server"):
        if alert.server is None or alert.server.status == Server.Status.HEALTHY:
            resolve_alert(Alert.Kind.SERVER_LOST, subject=alert.subject)


def _finish_losses() -> None:
    """Lost servers whose worker died before it could say so, or whose relays were wanted again later."""
    here = Relay.objects.filter(server=OuterRef("pk"))
    is_left = Exists(Evacuation.objects.filter(server=OuterRef("pk"), state=Evacuation.State.RUNNING))
    wants_to_leave = Exists(here.filter(should_run(), group__quarantined_at=None)) & ~is_left
    # Of an empty one nothing else tells that its worker died before it could say anything.
    told = Q(resolved=False) | Q(created_at__gte=OuterRef("phase_since"))
    is_told = Exists(Alert.objects.filter(told, alert_type=Alert.Kind.SERVER_LOST, server=OuterRef("pk")))
    unfinished = wants_to_leave | Exists(here.filter(believed())) | ~is_told
    lost = Server.objects.filter(unfinished, phase=Server.Phase.UNHEALTHY)
    for server_id in lost.values_list("pk", flat=True):
        lose_server(server_id)


def _take_drains_up_again() -> None:
    """A drain that became a failover is a drain again once the server is back."""
    is_left = Evacuation.objects.filter(server=OuterRef("pk"), state=Evacuation.State.RUNNING)
    left = Relay.objects.filter(server=OuterRef("pk"), released_at=None, group__quarantined_at=None)
    forgotten = Server.objects.filter(~Exists(is_left), Exists(left), is_draining=True)
    for server_id in forgotten.values_list("pk", flat=True):
        with transaction.atomic():
            server = Server.objects.select_for_update(no_key=True).get(pk=server_id)
            if server.is_draining:
                open_evacuation(server, MoveReason.DRAIN, actor=None)


def _watch_room() -> None:
    without = Relay.objects.filter(should_run(), server=None)
    waiting = Move.objects.filter(state=Move.State.WAITING).count() + without.count()
    if waiting:
        raise_alert(Alert.Kind.NO_ROOM, severity=Alert.Severity.CRITICAL, subject="fleet", count=waiting)
    else:
        resolve_alert(Alert.Kind.NO_ROOM, subject="fleet")


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
