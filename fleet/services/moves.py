"""Moving one relay: its identity stays, its address changes, and the old container serves until the new one answers."""

from __future__ import annotations

from collections.abc import Mapping

from django.db import transaction

from accounts.services import notify
from derp_portal.lib.clock import now
from fleet.models import Evacuation, Move, MoveReason, Port, Relay, RelayEvent, RelayGroup, Server, Wanted
from fleet.selectors import polls_its_map

from .events import relay_event
from .placement import NoPlace, place
from .wake import wake_evacuation, wake_server

State = Move.State


def start_move(relay: Relay, *, reason: MoveReason, evacuation: Evacuation | None = None) -> Move:
    """Write down that the relay has to leave its server. Call with its group locked.

    One that waits already goes on waiting, for this reason. Where it was being set up it has never answered: that is
    given up, and it still comes from where it last served, as the maps in people's hands say.
    """
    open_move = relay.moves.filter(state__in=Move.OPEN).first()
    if open_move and open_move.state == State.WAITING:
        open_move.reason, open_move.evacuation = reason, evacuation
        open_move.save(update_fields=["reason", "evacuation"])
        return open_move
    if open_move:
        end_move(open_move, State.CANCELLED)
        return Move.objects.create(
            relay=relay,
            evacuation=evacuation,
            reason=reason,
            from_server_id=open_move.from_server_id,
            from_ip=open_move.from_ip,
            from_port=open_move.from_port,
            from_generation=open_move.from_generation,
        )
    port = Port.objects.filter(relay=relay).first()
    return Move.objects.create(
        relay=relay,
        evacuation=evacuation,
        reason=reason,
        from_server_id=relay.server_id,
        from_ip=relay.server.ip if relay.server else None,
        from_port=port.number if port else None,
        from_generation=relay.generation,
    )


def set_up_elsewhere(move: Move, relay: Relay, *, on: Server | None = None) -> bool:
    """Find the waiting relay another place, and begin there. Call with its group locked. False when there is none.

    `on` names the server. The relay stays where it is, and says why, until there is room.
    """
    left_id = relay.server_id
    try:
        with transaction.atomic():
            relay.generation += 1
            relay.save(update_fields=["generation"])
            target = place(relay, on=on, apart_from={relay.server.ip} if relay.server else ())
    except NoPlace as error:
        relay.generation -= 1
        if move.waits_for != error.code:
            move.waits_for = error.code
            move.save(update_fields=["waits_for"])
        return False
    # What was seen of it was seen elsewhere.
    relay.observed_state, relay.observed_generation, relay.container_id = Relay.Observed.UNKNOWN, 0, ""
    relay.started_at = None
    relay.save(update_fields=["observed_state", "observed_generation", "container_id", "started_at"])
    move.state, move.waits_for, move.placed_at = State.PLACED, "", now()
    move.to_server, move.to_ip, move.to_port = target, target.ip, Port.objects.get(relay=relay).number
    move.to_generation = relay.generation
    move.save(update_fields=["state", "waits_for", "placed_at", "to_server", "to_ip", "to_port", "to_generation"])
    relay_event(relay, RelayEvent.Kind.MOVED, f"{move.from_server or ''} → {target}")
    if left_id:
        wake_server(left_id)
    if relay.group.wanted != Wanted.RUNNING:
        end_move(move, State.ANSWERED)  # Nothing runs, so nothing will answer.
    return True


def end_move(move: Move, state: Move.State) -> None:
    """Close an open move, for better or worse; the old container is then nobody's."""
    move.state, move.ended_at = state, now()
    move.save(update_fields=["state", "ended_at"])
    if move.from_server_id:
        wake_server(move.from_server_id)


def give_up_moves(relay: Relay) -> None:
    """The relay is released, or is to be somewhere else altogether: close what is open."""
    for move in relay.moves.filter(state__in=Move.OPEN):
        end_move(move, State.CANCELLED)


def note_answers(generations: Mapping[int, int]) -> None:
    """These relays, by id, have answered a probe in that generation: moves that led there are done, owners are told.

    The generation is the one that was probed: a relay may have been moved on while the probe was on its way.
    """
    done = Move.objects.filter(relay__in=generations, state=State.PLACED).values_list("pk", "relay__group_id")
    for move_id, group_id in done:
        with transaction.atomic():
            RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
            move = Move.objects.select_related("relay__server", "relay__owner", "to_server__region").get(pk=move_id)
            if move.state != State.PLACED or generations[move.relay_id] < (move.to_generation or 0):
                continue
            end_move(move, State.ANSWERED)
            _tell_owner(move)
            if move.evacuation_id:
                wake_evacuation(move.evacuation_id)


def _tell_owner(move: Move) -> None:
    relay = move.relay
    if move.from_ip is None or move.to_server is None:
        return
    notify(
        kind="relay_moved",
        dedup_key=f"relay_moved:{move.pk}",
        user=relay.owner,
        context={
            "relay": relay,
            "group": relay.group,
            "move": move,
            "region": move.to_server.region,
            "polls": polls_its_map(relay.group),
            "has_standby": relay.group.relays.filter(released_at=None).count() > 1,
        },
        button_url="/",
    )
