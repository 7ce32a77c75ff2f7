"""Probing relays as a client would, and keeping the latest result of each in `docker_health_status`."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from django.conf import settings
from django.db.models import Q

from derp_portal.lib.clock import now
from fleet.derp.keys import derive_private, format_node_key, public_of
from fleet.derp.probe import ProbeResult, Target, probe
from fleet.models import Relay, RelayEvent, RelayHealth, Wanted
from fleet.services.events import relay_event
from fleet.services.moves import note_answers

PROBE_EVERY = timedelta(seconds=60)
FAILURES_UNTIL_UNHEALTHY = 3
START_GRACE = timedelta(seconds=10)
"""For so long after its start a relay that does not answer is starting, not ill."""
TIMEOUT_SECONDS = 5.0
THREADS = 16
SAMPLE = 5
SAMPLE_TIMEOUT_SECONDS = 2.0


def probe_keys(relay: Relay) -> tuple[bytes, bytes]:
    """The private keys of the portal's two clients for this relay: the same at every probe, known to nobody else."""
    secret = settings.FIELD_KEYS[-1].encode()
    return derive_private(secret, f"probe-a:{relay.code}"), derive_private(secret, f"probe-b:{relay.code}")


def probe_node_keys(relay: Relay) -> set[str]:
    """The node keys of the portal's own probe, which the relay's door lets in whatever devices are listed."""
    return {format_node_key(public_of(private)) for private in probe_keys(relay)}


def relays_due_for_a_probe(limit: int) -> list[Relay]:
    """Running relays not probed within `PROBE_EVERY`, longest unprobed first."""
    unprobed = Q(health=None) | Q(health__checked_at=None) | Q(health__checked_at__lt=now() - PROBE_EVERY)
    running = Relay.objects.filter(
        released_at=None, wanted=Wanted.RUNNING, observed_state=Relay.Observed.RUNNING, port__isnull=False
    )
    return list(
        running.filter(unprobed).select_related("server", "port", "health").order_by("health__checked_at", "id")[:limit]
    )


def probe_relays(relays: Iterable[Relay], *, timeout: float = TIMEOUT_SECONDS) -> list[ProbeResult]:
    """Probe these relays (with server and port), several at a time, and keep the results."""
    listed = list(relays)
    targets = [_target(relay) for relay in listed]
    with ThreadPoolExecutor(THREADS, thread_name_prefix="probe") as pool:
        results = list(pool.map(lambda target: probe(target, timeout), targets))
    for relay, result in zip(listed, results, strict=True):
        keep(relay, result)
    note_answers({relay.pk: relay.generation for relay, result in zip(listed, results, strict=True) if result.healthy})
    return results


def any_relay_answers(server_id: int) -> bool:
    """Whether any of a few relays of a server whose engine is silent still answers a probe: the other angle."""
    running = Relay.objects.filter(
        server=server_id,
        released_at=None,
        wanted=Wanted.RUNNING,
        observed_state=Relay.Observed.RUNNING,
        port__isnull=False,
    )
    sample = running.select_related("server", "port", "health").order_by("?")[:SAMPLE]
    return any(result.healthy for result in probe_relays(sample, timeout=SAMPLE_TIMEOUT_SECONDS))


def _target(relay: Relay) -> Target:
    key_a, key_b = probe_keys(relay)
    assert relay.server is not None
    return Target(
        ip=relay.server.ip,
        port=relay.port.number,
        stun_port=relay.port.number,
        host_name=relay.host_name,
        pin=relay.pin,
        key_a=key_a,
        key_b=key_b,
        debug_key=relay.debug_key,
    )


def keep(relay: Relay, result: ProbeResult) -> RelayHealth:
    """Write the result down. Unhealthy takes several failures in a row after the start, healthy one success."""
    # Two probes of a new relay may end at once.
    health, _created = RelayHealth.objects.get_or_create(relay=relay)
    before = health.status
    health.tls_ok, health.derp_ok = result.tls_ok, result.derp_ok
    health.packet_ok, health.stun_ok = result.packet_ok, bool(result.stun_ok)
    health.latency_ms, health.stun_ms = result.derp_ms, result.stun_ms
    health.connections, health.version = result.connections, result.server_version[:80]
    health.error, health.checked_at = result.error, now()
    if result.healthy:
        health.status, health.failures, health.healthy_at = RelayHealth.Status.HEALTHY, 0, health.checked_at
    elif relay.started_at is None or now() - relay.started_at >= START_GRACE:
        health.failures += 1
        if health.failures >= FAILURES_UNTIL_UNHEALTHY:
            health.status = RelayHealth.Status.UNHEALTHY
    health.save()
    if before != health.status:
        relay_event(relay, RelayEvent.Kind(health.status), health.error)
    return health
