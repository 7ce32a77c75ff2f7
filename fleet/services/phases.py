"""How sure we are of a host: healthy → suspect → unhealthy → recovered. Every change is a row of its timeline.

One failed look makes a host suspect: it takes no new relays. It is lost only when nothing has been heard of it for the
grace time: its engine silent in several looks, and none of its relays answering a probe either.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from derp_portal.lib.clock import now
from fleet.models import Server, ServerEvent

FAILED_LOOKS_UNTIL_LOST = 3
STEADY_AFTER = timedelta(seconds=60)
"""For so long a host that came back from the dead must answer before it counts as healthy again."""

Phase = Server.Phase
_STATUS = {
    Phase.HEALTHY: Server.Status.HEALTHY,
    Phase.SUSPECT: Server.Status.UNHEALTHY,
    Phase.UNHEALTHY: Server.Status.UNHEALTHY,
    Phase.RECOVERED: Server.Status.HEALTHY,
}


def grace() -> timedelta:
    """How long a host may be silent before its relays are moved: `FAILOVER_GRACE_SECONDS`."""
    return timedelta(seconds=settings.FAILOVER_GRACE_SECONDS)


def lead() -> timedelta:
    """So long before the grace ends a host is given up, for the new relays to answer by its end."""
    return min(timedelta(seconds=8), grace() / 4)


def last_sign_of_life(server: Server) -> datetime:
    """When the engine, or a relay of a silent engine, last answered; for a host never seen, when it was added."""
    signs = (server.last_seen_at, server.relays_answered_at, server.created_at)
    return max(sign for sign in signs if sign is not None)


def server_event(server: Server, kind: ServerEvent.Kind, detail: str = "") -> ServerEvent:
    """Write a line of the server's timeline."""
    return ServerEvent.objects.create(server=server, kind=kind, detail=detail[:255])


def enter(server: Server, phase: Server.Phase, detail: str = "") -> None:
    """Bring the locked server into that phase, and write it down. Being there already changes nothing."""
    if server.phase == phase:
        return
    server.phase, server.phase_since, server.status = phase, now(), _STATUS[phase]
    server.save(update_fields=["phase", "phase_since", "status"])
    server_event(server, ServerEvent.Kind(phase.value), detail)


def look_failed(server_id: int, *, code: str, detail: str) -> Server:
    """The engine did not answer, or what answered is not the host we know: suspect, with the reason."""
    with transaction.atomic():
        server = Server.objects.select_for_update(no_key=True).get(pk=server_id)
        server.failed_looks += 1
        server.error_code, server.error_detail = code, detail[:2000]
        server.error_since = server.error_since or now()
        server.save(update_fields=["failed_looks", "error_code", "error_detail", "error_since", "updated_at"])
        if server.phase != Phase.UNHEALTHY:
            enter(server, Phase.SUSPECT, code)
    return server


def look_succeeded(server_id: int) -> Server:
    """The engine answered and is the one we know. A lost host has to answer for a while before it is healthy."""
    with transaction.atomic():
        server = Server.objects.select_for_update(no_key=True).get(pk=server_id)
        server.failed_looks = 0
        server.error_code = server.error_detail = ""
        server.error_since, server.last_seen_at = None, now()
        server.save(update_fields=["failed_looks", "error_code", "error_detail", "error_since", "last_seen_at"])
        if server.phase == Phase.UNHEALTHY:
            enter(server, Phase.RECOVERED)
        elif server.phase == Phase.SUSPECT or _is_steady(server):
            enter(server, Phase.HEALTHY)
    return server


def _is_steady(server: Server) -> bool:
    since = server.phase_since
    return server.phase == Phase.RECOVERED and (since is None or now() - since >= STEADY_AFTER)


def judge(server_id: int, *, has_answering_relay: bool) -> bool:
    """Decide about a suspect whose engine has just failed to answer. True when it became lost at this very moment.

    `has_answering_relay` is the other angle: whether any of its relays has just answered a probe.
    """
    with transaction.atomic():
        server = Server.objects.select_for_update(no_key=True).get(pk=server_id)
        if has_answering_relay:
            server.relays_answered_at = now()
            server.save(update_fields=["relays_answered_at"])
            return False
        silent_for = now() - last_sign_of_life(server)
        if (
            server.phase != Phase.SUSPECT
            or server.failed_looks < FAILED_LOOKS_UNTIL_LOST
            or silent_for < grace() - lead()
        ):
            return False
        enter(server, Phase.UNHEALTHY, server.error_code)
    return True
