"""Single relays: what an operator does by hand, and what a customer may choose."""

from __future__ import annotations

from datetime import datetime

from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import record
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet.models import MoveReason, Relay, RelayGroup, Server
from fleet.models.relays import REGION_ID_FIRST, REGION_ID_LAST
from fleet.words import trouble

from .groups import GroupTerms, create_group, release_group, release_one, restart_in_place
from .moves import set_up_elsewhere, start_move
from .placement import NoPlace, place


def _locked(relay_id: int) -> Relay:
    """The relay with its group's row locked first. Raises Relay.DoesNotExist, PortalError `relay_released`."""
    group_id = Relay.objects.values_list("group_id", flat=True).get(pk=relay_id)
    group = RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
    relay = Relay.objects.select_for_update(no_key=True).get(pk=relay_id)
    if relay.released_at:
        raise PortalError(_("This relay has been released."), code="relay_released", status=409)
    relay.group = group
    return relay


def restart_relay(*, relay_id: int, actor: User | None) -> Relay:
    """Replace the relay's container by a fresh one: same identity, same port, sessions are cut."""
    with transaction.atomic():
        relay = _locked(relay_id)
        restart_in_place(relay)
        record(actor=actor, event="relay.restarted", target=relay)
    return relay


def move_relay(*, relay_id: int, server_id: int | None, actor: User | None) -> Relay:
    """Move the relay to that server, or to the best other one. Identity stays; address and port change.

    The old container serves until the new one answers. A quarantined relay is moved too: somebody has decided it.

    Raises PortalError `no_place` and leaves it where it is when no server can take it.
    """
    with transaction.atomic():
        relay = _locked(relay_id)
        old = relay.server_id
        target = Server.objects.get(pk=server_id) if server_id else None
        if target and target.pk == old:
            return relay
        move = start_move(relay, reason=MoveReason.HAND)
        if not set_up_elsewhere(move, relay, on=target):
            raise PortalError(trouble(move.waits_for), code="no_place", status=409, reason=move.waits_for)
        record(actor=actor, event="relay.moved", target=relay, old=old, new=relay.server_id)
    return relay


def allocate(*, owner: User, server: Server | None, run_until: datetime, actor: User) -> Relay:
    """Give `owner` a relay by hand, with no grant behind it, until `run_until` (in the future).

    Raises PortalError `no_place`, `invalid_run_until`; then nothing was allocated.
    """
    if run_until <= now():
        raise PortalError(_("The end must lie in the future."), code="invalid_run_until")
    with transaction.atomic():
        group = create_group(
            owner=owner, label=_("by hand"), run_until=run_until, terms=GroupTerms(relay_count=1), actor=actor
        )
        relay = group.relays.get(slot=0)
        if server and relay.server_id != server.pk:
            relay.group = group
            try:
                place(relay, on=server)
            except NoPlace as error:
                raise PortalError(trouble(error.code), code="no_place", status=409, reason=error.code) from error
        if relay.server_id is None:
            raise PortalError(trouble(relay.trouble_code), code="no_place", status=409, reason=relay.trouble_code)
        record(actor=actor, event="relay.allocated", target=relay, owner=owner.pk)
    return relay


def release_relay(*, relay_id: int, actor: User | None) -> None:
    """Release one relay for good; a group left without any is released too. Releasing twice is fine."""
    with transaction.atomic():
        group_id = Relay.objects.values_list("group_id", flat=True).get(pk=relay_id)
        group = RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
        relay = Relay.objects.select_for_update(no_key=True).get(pk=relay_id)
        if relay.released_at:
            return
        if not group.relays.filter(released_at=None).exclude(pk=relay_id).exists():
            release_group(group_id=group_id, actor=actor)
        else:
            group.relay_count = max(group.relay_count - 1, 1)
            group.save(update_fields=["relay_count"])
            release_one(relay)
            # The others move up, or the group's next renewal would take the last slot's relay for surplus.
            for standby in group.relays.filter(released_at=None, slot__gt=relay.slot).order_by("slot"):
                standby.slot -= 1
                standby.save(update_fields=["slot"])
        record(actor=actor, event="relay.released", target=relay)


def choose_region_id(*, relay_id: int, region_id: int, actor: User) -> Relay:
    """Let the customer pick the id under which the relay stands in the map (950 to 998, once in a map).

    Raises PortalError `invalid_region_id` or `region_id_taken`.
    """
    if not REGION_ID_FIRST <= region_id <= REGION_ID_LAST:
        raise PortalError(
            _("A region id must be a number from %(first)s to %(last)s.")
            % {"first": REGION_ID_FIRST, "last": REGION_ID_LAST},
            code="invalid_region_id",
        )
    with transaction.atomic():
        relay = _locked(relay_id)
        relay.region_id = region_id
        try:
            with transaction.atomic():
                relay.save(update_fields=["region_id"])
        except IntegrityError as error:
            raise PortalError(
                _("Another relay of yours has that region id in the same map."), code="region_id_taken", status=409
            ) from error
        record(actor=actor, event="relay.region_id_chosen", target=relay, region_id=region_id)
    return relay
