"""Relays that do not work where they are, although their host answers: a fresh container first, then another server."""

from __future__ import annotations

from datetime import timedelta

from django.db import transaction
from django.db.models import Count, Q

from derp_portal.lib.clock import now
from fleet.models import Move, MoveReason, Relay, RelayEvent, RelayGroup, RelayHealth, Rollout, Server, Wanted
from fleet.reconciler.desired import should_run

from .groups import restart_in_place
from .moves import set_up_elsewhere, start_move
from .phases import grace

RESCUES_A_DAY = 3
"""So often a relay is moved by itself because it does not work; then it stays, for somebody to look at."""

AT_ONCE = 100
"""So many relays one sweep takes up; the next one goes on."""

HOPELESS = ("secret_unreadable", "invalid_spec", "no_server", "no_room", "no_port", "quarantined")
"""Troubles that another server would share."""


def rescue_relays() -> list[int]:
    """Sweep: relays that do not work where they are, although their host answers, go elsewhere. Returns their ids.

    One that runs and fails its probes is first given a fresh container; only if that does not help either does it
    move. Where no other server has room it stays, and is tried again there. One that has been set up somewhere and
    never answered there is no better off than any other.
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
        .filter(should_run(), group__quarantined_at=None)
        .exclude(moves__state=Move.State.WAITING)
        .exclude(server=None)
        .exclude(server__phase=Server.Phase.UNHEALTHY)
        # What a new image has broken no other server would mend: the roll-out stops, and somebody looks.
        .exclude(image__in=Rollout.objects.filter(state__in=Rollout.OPEN).values("image"))
        .annotate(rescues=rescued_lately)
        .filter(rescues__lt=RESCUES_A_DAY)
        .order_by("-group__priority", "id")
    )
    found = list(ill.values_list("id", "group_id")[:AT_ONCE])
    return [relay_id for relay_id, group_id in found if _rescue(relay_id, group_id)]


def _rescue(relay_id: int, group_id: int) -> bool:
    with transaction.atomic():
        group = RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
        relay = Relay.objects.select_related("server", "health").get(pk=relay_id)
        if relay.released_at or relay.server is None or group.wanted != Wanted.RUNNING or group.quarantined_at:
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
