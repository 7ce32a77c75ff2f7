"""Where a relay goes: a healthy, enabled server with room, away from its siblings, least loaded first."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Case, Q, When

from derp_portal.lib.clock import now
from fleet.models import Port, Relay, RelayEvent, RelayGroup, Server
from fleet.selectors import open_servers

from .events import relay_event
from .wake import wake_server

SET_ASIDE = timedelta(hours=1)
"""For so long nobody gets a port that was refused, or that maps pasted before a move still name."""

OVERBOOKING = 10
"""How many customers' speed limits share one: they are hardly ever used to the full at the same moment."""


@dataclass(frozen=True, slots=True)
class NoPlace(Exception):
    """No server can take the relay now. `code` is one of `no_server`, `no_room`, `no_port`."""

    code: str


def candidates(group: RelayGroup, *, apart_from: Collection[str]) -> Sequence[Server]:
    """Servers that may take a relay of `group`, best first; none with an address in `apart_from`.

    Wished-for regions come first, hosts that have just come back from the dead last, then the least loaded. Raises
    NoPlace when there is none.
    """
    servers = open_servers().exclude(ip__in=apart_from)
    allowed = list(group.servers.values_list("id", flat=True))
    if allowed:
        servers = servers.filter(pk__in=allowed)
    wished_for = Q(region__in=list(group.regions.values_list("id", flat=True)))
    ranked = sorted(
        servers.annotate(is_wished_for=Case(When(wished_for, then=True), default=False)),
        key=lambda server: (
            not server.is_wished_for,
            server.phase == Server.Phase.RECOVERED,
            load_of(server),
            server.pk,
        ),
    )
    if not ranked:
        raise NoPlace("no_server")
    with_room = [server for server in ranked if server.carried < server.max_relays]
    if not with_room:
        raise NoPlace("no_room")
    return with_room


def load_of(server: Any) -> float:
    """How full a server from `open_servers()` is, 0 to 1 and beyond: of relays, or of what they may send at once."""
    of_relays = server.carried / server.max_relays if server.max_relays else 1.0
    uplink = (server.uplink_mbps or 0) * 125_000 * OVERBOOKING
    return max(of_relays, server.promised / uplink if uplink else 0.0)


def sibling_addresses(group_id: int, *, besides: int = 0) -> set[str]:
    """Where the group's relays are, but for relay `besides`: two on one address would fall together."""
    siblings = Relay.objects.filter(group_id=group_id, released_at=None, server__isnull=False).exclude(pk=besides)
    return set(siblings.values_list("server__ip", flat=True))


def place(relay: Relay, *, on: Server | None = None, apart_from: Collection[str] = ()) -> Server:
    """Give the relay a server and a port, and wake that server. Call with the group's row locked.

    `on` names the server instead of searching; in any region, but it must be open and none of its siblings'. The
    search also leaves out addresses in `apart_from`. Raises NoPlace and leaves the relay as it was.
    """
    siblings = sibling_addresses(relay.group_id, besides=relay.pk)
    if on is None:
        found = candidates(relay.group, apart_from=siblings | set(apart_from))
    else:
        found = list(open_servers().filter(pk=on.pk).exclude(ip__in=siblings))
    reason = NoPlace("no_room" if found else "no_server")
    for server in found:
        try:
            with transaction.atomic():
                locked = Server.objects.select_for_update(no_key=True).get(pk=server.pk)
                carried = locked.relays.filter(released_at=None).exclude(pk=relay.pk).count()
                if carried >= locked.max_relays:
                    raise NoPlace("no_room")
                take_port(relay, locked)
        except NoPlace as error:
            reason = error
            continue
        relay.server = locked
        relay.trouble_code = relay.trouble_detail = ""
        relay.trouble_since = relay.next_try_at = None
        relay.tries = 0
        relay.save(update_fields=["server", "trouble_code", "trouble_detail", "trouble_since", "tries", "next_try_at"])
        relay_event(relay, RelayEvent.Kind.PLACED)
        wake_server(locked.pk)
        return locked
    raise reason


def take_port(relay: Relay, server: Server) -> Port:
    """Take a free port of `server` for `relay`; the one it had is set aside. Raises NoPlace("no_port").

    The number is drawn at random from the free ones, so that a freed port is not at once somebody else's
    while pasted maps still name it.
    """
    Port.objects.filter(server=server, relay=None, set_aside_until__lt=now()).delete()
    taken = set(Port.objects.filter(server=server).values_list("number", flat=True))
    free = [number for number in range(server.port_first, server.port_last + 1) if number not in taken]
    Port.objects.filter(relay=relay).update(relay=None, set_aside_until=now() + SET_ASIDE)
    while free:
        number = free.pop(secrets.randbelow(len(free)))
        try:
            with transaction.atomic():
                return Port.objects.create(server=server, number=number, relay=relay)
        except IntegrityError:
            continue  # Taken since we looked: the constraint decides, we try the next one.
    raise NoPlace("no_port")


def change_port(relay_id: int, refused: int) -> None:
    """The relay's host refused that port: set it aside for an hour and take another one.

    When none is left the relay keeps the old number and tries again with it. Nothing happens to a relay that was
    released, moved or given another port since the host was asked.
    """
    with transaction.atomic():
        group_id = Relay.objects.values_list("group_id", flat=True).get(pk=relay_id)
        RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
        port = Port.objects.filter(relay_id=relay_id, relay__released_at=None, number=refused).first()
        if port is None:
            return
        server = Server.objects.select_for_update(no_key=True).get(pk=port.server_id)
        relay = Relay.objects.get(pk=relay_id)
        try:
            with transaction.atomic():
                taken = take_port(relay, server)
        except NoPlace:
            return
        relay_event(relay, RelayEvent.Kind.PORT_CHANGED, f"{refused} → {taken.number}")
        wake_server(server.pk)
