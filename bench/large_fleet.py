"""Passes over a whole fleet whose engines speak the real API but run nothing: what one relay costs, few or many."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing

from django.conf import settings

from accounts.models import User
from bench.engine_simulator import simulated_engines
from bench.report import line
from derp_portal.lib.clock import days, now
from fleet.derp.identity import make_identity
from fleet.engines import fleet_image
from fleet.models import Port, Region, Relay, RelayGroup, Server
from fleet.reconciler.loop import reconcile
from fleet.runtimes.docker import DockerRuntime

RELAYS = 200
SIZES = (5, 50)
PASSES = 3


def measure() -> None:
    """The processor time of idle passes for each relay, over 1,000 and 10,000 of them, and of bare listings."""
    costs = {hosts: cost_of_a_relay(hosts) for hosts in SIZES}
    few, many = (costs[hosts] for hosts in SIZES)
    for hosts, (ours, bare) in costs.items():
        line(f"idle passes over {hosts} hosts × {RELAYS} relays, CPU a relay", ours, bare, "bare listing")
    line(
        f"CPU a relay at {SIZES[1] * RELAYS:,} relays",
        many[0],
        few[0],
        f"that at {SIZES[0] * RELAYS:,}",
    )


def cost_of_a_relay(hosts: int) -> tuple[float, float]:
    """Seconds of this process's CPU for each relay: of our passes, and of listing the engines alone."""
    with simulated_engines(hosts, images=[fleet_image()]) as endpoints:
        servers = [_fill(number, endpoint) for number, endpoint in enumerate(endpoints)]
        for server in servers:
            while len(reconcile(server.pk).outcomes):
                continue
        ours = _cpu(lambda: [reconcile(server.pk) for server in servers])
        bare = _cpu(lambda: sum(map(_listing, endpoints)))
        running = Relay.objects.filter(server__in=servers, observed_state=Relay.Observed.RUNNING).count()
        assert running == hosts * RELAYS, f"only {running} relays run"
        clear(servers)
    return ours / (hosts * RELAYS), bare / (hosts * RELAYS)


def _cpu(run: Callable[[], object]) -> float:
    taken = []
    for _ in range(PASSES):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return min(taken)


def _listing(endpoint: str) -> int:
    with closing(DockerRuntime(endpoint)) as runtime:
        return len(runtime.list(settings.PORTAL_ID))


def _fill(number: int, endpoint: str) -> Server:
    region, _made = Region.objects.get_or_create(code="bench", defaults={"name": "Bench"})
    server = Server.objects.create(
        name=f"simulated-{number}",
        ip=f"198.18.{number}.1",
        region=region,
        endpoint=endpoint,
        port_first=21000,
        port_last=21000 + RELAYS,
        max_relays=RELAYS,
    )
    owner, _made = User.objects.get_or_create(username="large", defaults={"email": "large@example.com"})
    groups = RelayGroup.objects.bulk_create(RelayGroup(owner=owner, run_until=now() + days(30)) for _ in range(RELAYS))
    # One identity for all: making ten thousand would take longer than everything measured.
    identity = make_identity("bench.relay.internal")
    relays = Relay.objects.bulk_create(
        Relay(
            code=f"b{server.pk}x{index}",
            group=group,
            owner=owner,
            slot=0,
            server=server,
            region_id=950,
            host_name="bench.relay.internal",
            derper_key=identity.private_key,
            certificate=identity.cert_pem,
            certificate_key=identity.key_pem,
            certificate_ends_at=identity.not_after,
            pin=identity.pin,
            admission_secret=f"{server.pk}-{index}",
            admission_hash=f"{server.pk}-{index}",
            debug_key="bench",
            image=fleet_image(),
        )
        for index, group in enumerate(groups)
    )
    Port.objects.bulk_create(
        Port(server=server, number=21000 + index, relay=relay) for index, relay in enumerate(relays)
    )
    return server


def clear(servers: Sequence[Server]) -> None:
    """Out of the way of what is measured next."""
    relays = Relay.objects.filter(server__in=servers)
    Port.objects.filter(server__in=servers).delete()
    relays.update(server=None, released_at=now(), wanted="absent")
    Server.objects.filter(pk__in=[server.pk for server in servers]).delete()
