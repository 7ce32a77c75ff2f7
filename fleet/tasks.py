"""Thin tasks: an id in, one service called, safe to run twice. The sweeps are the truth; the rest wakes them early."""

from __future__ import annotations

import structlog
from celery import shared_task
from django.core.cache import cache

from fleet.models import Relay, Server
from fleet.monitoring.probing import probe_relays, relays_due_for_a_probe
from fleet.reconciler.loop import reconcile
from fleet.reconciler.volumes import reap_volumes
from fleet.runtimes.base import RuntimeFailure
from fleet.selectors import groups_short_of_relays
from fleet.services.groups import ensure_relays
from fleet.services.hosts import look_at_server

log = structlog.get_logger(__name__)

FRESH_PROBE_TRIES = 8
LOOK_AGAIN_SECONDS = 2


@shared_task
def reconcile_server(server_id: int) -> None:
    """One pass over one server; what was just started is probed at once, so that its owner sees it run."""
    if not Server.objects.filter(pk=server_id).exists():
        return
    result = reconcile(server_id)
    if not result.claimed:
        # Somebody else's pass may have read the rows before ours was committed: look again shortly. Once is enough for
        # all who ask meanwhile, or the messages would pile up behind a slow host.
        if cache.add(f"reconcile-again:{server_id}", True, LOOK_AGAIN_SECONDS):
            reconcile_server.apply_async((server_id,), countdown=LOOK_AGAIN_SECONDS)
        return
    for relay_id in result.started:
        probe_fresh.apply_async((relay_id,), countdown=0.2)


@shared_task
def reconcile_all() -> None:
    """Sweep: one pass for every server, each a task of its own so that a slow host delays no other."""
    for server_id in Server.objects.values_list("id", flat=True):
        reconcile_server.apply_async((server_id,), expires=15)


@shared_task
def probe_fresh(relay_id: int, tries: int = 0) -> None:
    """Probe a relay that has just started, again every half second until it answers or the sweep takes over."""
    relay = Relay.objects.select_related("server", "port", "health").filter(pk=relay_id, port__isnull=False).first()
    if relay is None or not relay.is_running:
        return
    [result] = probe_relays([relay])
    if not result.healthy and tries < FRESH_PROBE_TRIES:
        probe_fresh.apply_async((relay_id, tries + 1), countdown=0.5)


@shared_task
def probe_due() -> None:
    """Sweep: probe every running relay whose last probe is too old."""
    probe_relays(relays_due_for_a_probe(limit=500))


@shared_task
def place_waiting() -> None:
    """Sweep: find places for relays that wait for one, and standbys for groups that lack theirs."""
    for group_id in groups_short_of_relays(limit=500):
        ensure_relays(group_id=group_id)


@shared_task
def look_at_servers() -> None:
    """Sweep: read hardware and engine versions again, and drop volumes that nobody owns."""
    for server in Server.objects.filter(status=Server.Status.HEALTHY):
        try:
            look_at_server(server_id=server.pk)
            reap_volumes(server)
        except RuntimeFailure as failure:
            log.warning("look_failed", server=server.name, code=failure.code)
