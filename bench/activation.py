"""From redeeming a serial to the first good probe, against creating, starting and probing a container bare."""

from __future__ import annotations

import time
from itertools import count
from typing import Any

from accounts.models import User
from bench.report import line, median_seconds
from fleet.models import Region, Relay, Server
from fleet.monitoring.probing import probe_relays
from fleet.reconciler.desired import full_spec
from fleet.reconciler.loop import reconcile
from fleet.runtimes.base import RelaySpec, Runtime
from serials.models import Plan
from serials.services import activate, generate
from tests.fleet.engines import answers, relay_spec, wait_until
from tests.ports import free_port

RUNS = 8
_numbers = count()


def measure(runtime_name: str, host: Any) -> None:
    """`host` gives runtimes by `runtime()`; both sides run the same relay program on it."""
    server = make_server(runtime_name)
    warm_up = activated_relay(server, host)
    image = full_spec(warm_up).image

    ours = median_seconds(lambda: activated_relay(server, host) for _run in range(RUNS))
    baseline = median_seconds(lambda: bare(host.runtime(), image, runtime_name) for _run in range(RUNS))
    line(f"redeem to first good probe ({runtime_name})", ours, baseline, "bare create + start + answer")
    # The next measurement enrols the same engine anew.
    server.is_enabled, server.engine_id = False, ""
    server.save(update_fields=["is_enabled", "engine_id"])


def make_server(runtime_name: str) -> Server:
    """A server row for a host on this machine."""
    region, _made = Region.objects.get_or_create(code="bench", defaults={"name": "Bench"})
    return Server.objects.create(
        name=f"bench {runtime_name} {next(_numbers)}",
        ip="127.0.0.1",
        region=region,
        runtime=runtime_name,
        port_first=21000,
        port_last=22999,
        max_relays=1000,
    )


def activated_relay(server: Server, host: Any) -> Relay:
    """Redeem a fresh serial for a fresh customer, run the pass and probe until the relay answers well."""
    number = next(_numbers)
    user = User.objects.create(username=f"bench{number}", email=f"bench{number}@example.com")
    serial = generate(count=1, plan=Plan.objects.get(code="3-days"), actor=None).serials.get()
    activate(user=user, code=serial.code)
    reconcile(server.pk, runtime_for=lambda _server: host.runtime())
    relay = Relay.objects.select_related("group", "server", "port").get(owner=user)
    deadline = time.monotonic() + 20
    while not probe_relays([relay])[0].healthy:
        if time.monotonic() > deadline:
            raise TimeoutError(f"relay {relay} never answered: {relay.trouble_code}")
        time.sleep(0.02)
    return relay


def bare(runtime: Runtime, image: str, runtime_name: str) -> RelaySpec:
    """The same container without the portal: create, fill, start, wait until it answers TLS."""
    listen = "127.0.0.1" if runtime_name == "process" else ""
    spec = relay_spec(image=image, listen=listen, port=free_port(), bind_ip="127.0.0.1")
    runtime.create(spec)
    runtime.put_files(spec)
    runtime.start(spec.name)
    wait_until(lambda: answers(spec.port), what="the bare relay")
    return spec
