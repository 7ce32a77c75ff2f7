"""Probing relays as a client would, and keeping the latest result of each in `docker_health_status`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Case, F, Q, Value, When

from derp_portal.lib.clock import now
from fleet.derp.probe import PROBE_PAYLOAD_BYTES, ProbeResult, Target, probe
from fleet.models import Meter, Relay, RelayEvent, RelayHealth, Wanted
from fleet.reconciler.desired import SECRETS, should_run
from fleet.services.moves import note_answers

from .probe_keys import probe_keys
from .uptime import Counted, count_probes

PROBE_EVERY = timedelta(seconds=60)
PROBE_AGAIN_AFTER = timedelta(seconds=10)
"""So soon a relay is due again whose last probe may have been the first of a change."""
FAILURES_UNTIL_UNHEALTHY = 3
SUCCESSES_UNTIL_HEALTHY = 2
"""So many answers in a row make an unhealthy relay healthy; one that was only starting needs one."""
START_GRACE = timedelta(seconds=10)
"""For so long after its start a relay that does not answer is starting, not ill."""
TIMEOUT_SECONDS = 5.0
THREADS = 16
BATCH = 100
"""Results written in one transaction."""
SAMPLE = 5
SAMPLE_TIMEOUT_SECONDS = 2.0


def relays_due_for_a_probe(limit: int) -> list[Relay]:
    """Running relays not probed within `PROBE_EVERY`, longest unprobed first.

    Those of which one more probe may change the status, within `PROBE_AGAIN_AFTER`.
    """
    moment, ill = now(), RelayHealth.Status.UNHEALTHY
    has_begun_to_fail = Q(~Q(health__status=ill), ~Q(health__error=""))
    has_begun_to_answer = Q(health__status=ill, health__successes__gt=0)
    due = (
        Q(health=None)
        | Q(health__checked_at=None)
        | Q(health__checked_at__lt=moment - PROBE_EVERY)
        | Q(has_begun_to_fail | has_begun_to_answer, health__checked_at__lt=moment - PROBE_AGAIN_AFTER)
    )
    running = Relay.objects.filter(
        released_at=None, wanted=Wanted.RUNNING, observed_state=Relay.Observed.RUNNING, port__isnull=False
    )
    return list(
        running.filter(due)
        .select_related("server", "port", "health")
        .order_by(F("health__checked_at").asc(nulls_first=True), "id")[:limit]
    )


def probe_relays(
    relays: Iterable[Relay], *, timeout: float = TIMEOUT_SECONDS, is_counted: bool = True
) -> list[ProbeResult]:
    """Probe these relays (with server and port), several at a time, and keep the results; in their order.

    `is_counted` False keeps them out of the uptime. The number of queries does not depend on the number of relays, up
    to `BATCH`, but for those that were on their way.
    """
    listed = list(relays)
    targets = [_target(relay) for relay in listed]
    _note_own_bytes(listed)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="probe") as pool:
        results = list(pool.map(lambda target: probe(target, timeout), targets))
    probed = list(zip(listed, results, strict=True))
    keep(probed, is_counted=is_counted)
    note_answers({relay.pk: relay.generation for relay, result in probed if result.healthy})
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
    # Asked because of the host, far oftener than the others and with less patience: that is no measure of uptime.
    results = probe_relays(sample, timeout=SAMPLE_TIMEOUT_SECONDS, is_counted=False)
    return any(result.healthy for result in results)


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


def _note_own_bytes(relays: Sequence[Relay]) -> None:
    """Tell the meters what is about to pass, before it does: a customer never pays for the portal's own packets."""
    if not relays:
        return
    generations = {relay.pk: relay.generation for relay in relays}
    found = _meters_of(generations)
    if missing := sorted(generations.keys() - found.keys()):
        Meter.objects.bulk_create(
            [Meter(relay_id=relay_id, generation=generations[relay_id]) for relay_id in missing], ignore_conflicts=True
        )
        found = _meters_of(generations)
    with transaction.atomic():
        # In the order in which readings are booked, or the two could wait for each other.
        meters = Meter.objects.select_for_update(no_key=True).filter(pk__in=found.values()).order_by("pk")
        Meter.objects.filter(pk__in=list(meters.values_list("pk", flat=True))).update(
            own_received=F("own_received") + PROBE_PAYLOAD_BYTES, own_sent=F("own_sent") + PROBE_PAYLOAD_BYTES
        )


def _meters_of(generations: dict[int, int]) -> dict[int, int]:
    """The ids of the meters of these containers, by their relays' ids."""
    meters = Meter.objects.filter(relay__in=generations, generation__in=set(generations.values()))
    return {
        relay_id: pk
        for pk, relay_id, generation in meters.values_list("pk", "relay_id", "generation")
        if generations[relay_id] == generation
    }


def keep(probed: Sequence[tuple[Relay, ProbeResult]], *, is_counted: bool = True) -> None:
    """Write results down: the relays' health, what changed by them and, unless told not to, their uptime.

    What was seen of a container that has a successor by now says nothing about that one, and is dropped.
    """
    for first in range(0, len(probed), BATCH):
        _keep_batch(probed[first : first + BATCH], is_counted)


def _keep_batch(probed: Sequence[tuple[Relay, ProbeResult]], is_counted: bool) -> None:
    relay_ids = sorted({relay.pk for relay, _result in probed})
    known = set(RelayHealth.objects.filter(relay__in=relay_ids).values_list("relay_id", flat=True))
    # Outside the transaction: two probes of a new relay may end at once, and whoever made the row, it is locked below.
    RelayHealth.objects.bulk_create(
        [RelayHealth(relay_id=relay_id) for relay_id in relay_ids if relay_id not in known], ignore_conflicts=True
    )
    with transaction.atomic():
        locked = RelayHealth.objects.select_for_update(no_key=True).filter(relay__in=relay_ids).order_by("pk")
        rows = {health.relay_id: health for health in locked}
        wanted = Case(When(should_run(), then=Value(True)), default=Value(False))
        # Read after the lock, because they may have been stopped or moved on while the probes were on their way.
        relays = Relay.objects.filter(pk__in=relay_ids).annotate(is_wanted=wanted).defer(*SECRETS)
        present = {relay.pk: relay for relay in relays}
        moment = now()
        touched: dict[int, RelayHealth] = {}
        counted: list[Counted] = []
        events: list[RelayEvent] = []
        for probed_relay, result in probed:
            relay, health = present[probed_relay.pk], rows[probed_relay.pk]
            if relay.generation != probed_relay.generation:
                continue
            is_starting = relay.started_at is not None and moment - relay.started_at < START_GRACE
            before = health.status
            _note(health, result, moment, is_starting=is_starting)
            touched[relay.pk] = health
            if before != health.status:
                events.append(_event(relay, health))
            if is_counted and relay.is_wanted and (result.healthy or not is_starting):
                counted.append(Counted(relay.pk, result.healthy, result.derp_ms))
        RelayHealth.objects.bulk_update(touched.values(), HEALTH_FIELDS)
        RelayEvent.objects.bulk_create(events)
        count_probes(counted, moment)


HEALTH_FIELDS = [
    "status",
    "tls_ok",
    "derp_ok",
    "packet_ok",
    "stun_ok",
    "latency_ms",
    "stun_ms",
    "connections",
    "version",
    "error",
    "failures",
    "successes",
    "checked_at",
    "healthy_at",
]


def _note(health: RelayHealth, result: ProbeResult, moment: datetime, *, is_starting: bool) -> None:
    """Put the result into the row. A failure while the relay is starting does not count as one."""
    health.tls_ok, health.derp_ok = result.tls_ok, result.derp_ok
    health.packet_ok, health.stun_ok = result.packet_ok, bool(result.stun_ok)
    health.latency_ms, health.stun_ms = result.derp_ms, result.stun_ms
    health.connections, health.version = result.connections, result.server_version[:80]
    health.error, health.checked_at = result.error, moment
    if result.healthy:
        health.successes, health.failures, health.healthy_at = health.successes + 1, 0, moment
    else:
        health.successes = 0
        health.failures += 0 if is_starting else 1
    health.status = status_after(
        RelayHealth.Status(health.status), failures=health.failures, successes=health.successes
    )


def status_after(before: RelayHealth.Status, *, failures: int, successes: int) -> RelayHealth.Status:
    """The status after so many failures or successes in a row: one odd probe changes nothing but a start."""
    if failures >= FAILURES_UNTIL_UNHEALTHY:
        return RelayHealth.Status.UNHEALTHY
    needed = SUCCESSES_UNTIL_HEALTHY if before == RelayHealth.Status.UNHEALTHY else 1
    return RelayHealth.Status.HEALTHY if successes >= needed else before


def _event(relay: Relay, health: RelayHealth) -> RelayEvent:
    return RelayEvent(
        relay=relay,
        kind=RelayEvent.Kind(health.status),
        server_id=relay.server_id,
        generation=relay.generation,
        detail=health.error,
    )
