"""A metering round over 1,000 relays, with booking, against the same requests with nothing around them."""

from __future__ import annotations

import ssl
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.client import HTTPSConnection

from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import User
from bench.large_fleet import clear
from bench.relay_simulator import ADDRESS, GROWTH, simulated_relays
from bench.report import line
from derp_portal.lib.clock import days, now
from fleet.derp.identity import Identity, make_identity
from fleet.metering.reading import THREADS, TIMEOUT_SECONDS
from fleet.metering.rounds import meter_due
from fleet.models import Meter, Port, Region, Relay, RelayGroup, Server, Traffic

HOSTS, RELAYS = 5, 200
RUNS = 7
HOST_NAME = "bench.relay.internal"
DEBUG_KEY = "bench"

Cost = tuple[float, float]
"""Seconds on the clock, and of this process's CPU."""


def measure() -> None:
    """Print what a round costs over the bare requests, on the clock and in processor time."""
    # One identity for all: a handshake costs the same whoever else has the certificate.
    identity = make_identity(HOST_NAME)
    with simulated_relays(RELAYS, identity) as ports:
        servers = [_fill(number, identity, ports) for number in range(HOSTS)]
        _a_round()  # The first reading of a relay is where the next one counts from.
        asked = ports * HOSTS
        # Taken in turn, so that whatever else slows the machine slows both.
        pairs = [(_cost(lambda: _ask(asked)), _cost(_a_round, _make_due)) for _ in range(RUNS)]
        _make_due()
        with CaptureQueriesContext(connection) as queries:
            _a_round()
        _check()
    clear(servers)
    bare, ours = (tuple(map(statistics.median, zip(*costs, strict=True))) for costs in zip(*pairs, strict=True))
    what = f"metering {HOSTS * RELAYS:,} relays"
    line(what, ours[0], bare[0], "the bare requests", f"{len(queries)} queries")
    line(f"{what}, CPU", ours[1], bare[1], "the bare requests")


def _cost(run: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> Cost:
    prepare()
    clock, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - clock, time.process_time() - cpu


def _ask(ports: Sequence[int]) -> None:
    """The bare requests: the standard library's client, as many at a time, whoever it is that answers."""
    context = ssl._create_unverified_context()

    def answer(port: int) -> tuple[int, bytes]:
        asked = HTTPSConnection(ADDRESS, port, timeout=TIMEOUT_SECONDS, context=context)
        try:
            asked.request("GET", f"/debug/varz?debugkey={DEBUG_KEY}")
            said = asked.getresponse()
            return said.status, said.read()
        finally:
            asked.close()

    with ThreadPoolExecutor(THREADS) as pool:
        for status, body in pool.map(answer, ports):
            assert status == 200
            assert b"derp_bytes_received" in body


def _a_round() -> None:
    read = meter_due()
    assert read == HOSTS * RELAYS, f"only {read} relays were read"


def _make_due() -> None:
    Meter.objects.update(next_read_at=now() - timedelta(seconds=1))


def _check() -> None:
    """What was measured must have been the whole work: every reading booked, none failed."""
    assert not Meter.objects.exclude(error="").exists()
    assert Traffic.objects.filter(span=Traffic.Span.READING).count() == HOSTS * RELAYS * (RUNS + 2)
    assert Relay.objects.filter(server__name__startswith="metered-", upload_bytes__gte=RUNS * GROWTH).count() == (
        HOSTS * RELAYS
    )


def _fill(number: int, identity: Identity, ports: Sequence[int]) -> Server:
    region, _made = Region.objects.get_or_create(code="bench", defaults={"name": "Bench"})
    owner, _made = User.objects.get_or_create(username="metered", defaults={"email": "metered@example.com"})
    server = Server.objects.create(name=f"metered-{number}", ip=ADDRESS, region=region, port_first=1024)
    # One group each: what is booked by group is then the most it can be.
    groups = RelayGroup.objects.bulk_create(
        RelayGroup(owner=owner, run_until=now() + days(30), quota_bytes=10**15) for _port in ports
    )
    relays = Relay.objects.bulk_create(
        Relay(
            code=f"m{server.pk}x{index}",
            group=group,
            owner=owner,
            slot=0,
            server=server,
            region_id=950,
            host_name=HOST_NAME,
            derper_key=identity.private_key,
            certificate=identity.cert_pem,
            certificate_key=identity.key_pem,
            certificate_ends_at=identity.not_after,
            pin=identity.pin,
            admission_secret=f"{server.pk}-{index}",
            admission_hash=f"metered-{server.pk}-{index}",
            debug_key=DEBUG_KEY,
            observed_state=Relay.Observed.RUNNING,
            observed_generation=1,
        )
        for index, group in enumerate(groups)
    )
    Port.objects.bulk_create(
        Port(server=server, number=port, relay=relay) for port, relay in zip(ports, relays, strict=True)
    )
    return server
