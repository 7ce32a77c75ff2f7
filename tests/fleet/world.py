"""A fleet of real hosts and the portal's loop over it, for tests that break hosts and look at what is left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from functools import partial
from typing import Any

from django.conf import settings
from django.db import close_old_connections, connection

from accounts.models import User
from derp_portal.lib.clock import now
from fleet import tasks
from fleet.models import Evacuation, Move, Relay, RelayGroup, Server
from fleet.monitoring.probing import probe_relays
from fleet.runtimes.base import State
from fleet.services.phases import STEADY_AFTER
from tests.fleet import fleet_parts
from tests.fleet.engines import wait_until
from tests.fleet.hosts import DockerHost

PORTS = (21000, 21019)


class World:
    """Server rows for real hosts, customers' groups, and the sweeps that beat would send, made one after the other."""

    def __init__(self, hosts: Sequence[DockerHost], *, max_relays: int = 20) -> None:
        self.hosts = list(hosts)
        self.servers = [self.enrol(host, number, max_relays) for number, host in enumerate(hosts, start=1)]
        self.identities: dict[str, tuple[str, ...]] = {}
        self.granted: dict[int, Any] = {}

    @staticmethod
    def enrol(host: DockerHost, number: int, max_relays: int = 20) -> Server:
        return fleet_parts.server(
            number,
            ip=host.ip,
            endpoint=host.tcp_endpoint,
            tls_ca=host.ca_pem,
            tls_certificate=host.cert_pem,
            tls_key=host.key_pem,
            port_first=PORTS[0],
            port_last=PORTS[1],
            max_relays=max_relays,
        )

    def host_of(self, relay: Relay) -> DockerHost:
        return next(host for host in self.hosts if relay.server and host.ip == relay.server.ip)

    def sell(self, owner: User, *, relays: int = 1, **terms: Any) -> RelayGroup:
        group = fleet_parts.group(owner, relays=relays, lasts=timedelta(days=30), **terms)
        self.granted[group.pk] = group.run_until
        for relay in self.relays():
            self.identities.setdefault(relay.code, self.identity(relay))
        return group

    @staticmethod
    def identity(relay: Relay) -> tuple[str, ...]:
        return (relay.host_name, relay.pin, relay.derper_key, relay.certificate, str(relay.region_id))

    @staticmethod
    def relays() -> list[Relay]:
        return list(Relay.objects.filter(released_at=None).select_related("group", "server", "port").order_by("id"))

    def tick(self, *, looks: bool = True) -> None:
        """Every sweep once: hosts are looked at side by side, as workers do; what runs is probed."""
        if looks:
            with ThreadPoolExecutor(len(self.servers)) as pool:
                list(pool.map(self._look, [server.pk for server in self.servers]))
        tasks.carry_on_evacuations()
        tasks.place_waiting()
        tasks.rescue()
        running = [relay for relay in self.relays() if relay.is_running and hasattr(relay, "port")]
        probe_relays(running, timeout=2)

    @staticmethod
    def _look(server_id: int) -> None:
        try:
            tasks.examine_suspect(server_id)
        finally:
            connection.close()

    def until(self, is_true: Callable[[], Any], *, seconds: float = 180, what: str = "the expected state") -> Any:
        """Tick until `is_true()`."""
        deadline = time.monotonic() + seconds
        while not (result := is_true()):
            assert time.monotonic() < deadline, f"{what} did not come within {seconds} s\n{self.story()}"
            self.tick()
        return result

    def story(self) -> str:
        """What the rows say, for the reader of a failure."""
        close_old_connections()
        lines = [f"{s.name} {s.phase} looks={s.failed_looks} {s.error_code}" for s in Server.objects.all()]
        lines += [
            f"{r.code}-{r.generation} on {r.server} {r.observed_state}/{r.observed_generation} {r.trouble_code}"
            for r in self.relays()
        ]
        lines += [f"{m.relay_id} {m.reason} {m.state} {m.from_server}→{m.to_server}" for m in Move.objects.all()]
        return "\n".join([*lines, *(f"{host.ip}: {self.boxes(host)}" for host in self.hosts if host.is_ready())])

    @staticmethod
    def boxes(host: DockerHost) -> dict[str, tuple[State, int]]:
        """Our containers on the host, past every cut: name → state and published port."""
        with closing(host.api()) as api:
            rows = api.containers(all=True, filters={"label": f"derp-portal.portal={settings.PORTAL_ID}"})
        return {
            row["Names"][0].lstrip("/"): (
                State(row["State"]),
                next((port["PublicPort"] for port in row["Ports"] if "PublicPort" in port), 0),
            )
            for row in rows
        }

    def serves(self, relay: Relay) -> bool:
        """Whether the relay answers a client at the place its row names."""
        fresh = Relay.objects.select_related("server", "port", "group").get(pk=relay.pk)
        return probe_relays([fresh], timeout=20)[0].healthy

    def is_settled(self) -> bool:
        """Every relay runs where its row says, and nothing else does; no move is under way."""
        if Move.objects.filter(state__in=Move.OPEN).exists() or Evacuation.objects.filter(state="running").exists():
            return False
        wanted: dict[str, set[str]] = {host.ip: set() for host in self.hosts}
        for relay in self.relays():
            if relay.server is None or not relay.is_running or relay.trouble_code:
                return False
            wanted[relay.server.ip].add(relay.container_name)
        have = {host.ip: self.boxes(host) for host in self.hosts}
        return all(
            set(have[ip]) == names and all(state == State.RUNNING for state, _port in have[ip].values())
            for ip, names in wanted.items()
        )

    def check(self) -> None:
        """What must hold at the end of every story, once everything is settled."""
        self.until(self.is_settled, what="a settled fleet")
        for relay in self.relays():
            assert self.identity(relay) == self.identities[relay.code]
            # A container that runs may have yet to listen.
            wait_until(partial(self.serves, relay), what=f"an answer of {relay.code}")
        for host in self.hosts:
            ports = Counter(port for _state, port in self.boxes(host).values())
            assert all(count == 1 for count in ports.values()), ports
        for group in RelayGroup.objects.all():
            lost = sum((o.ended_at - o.started_at for o in group.outages.all() if o.ended_at), timedelta())
            assert group.run_until - lost == self.granted[group.pk]
            assert not group.outages.filter(ended_at=None).exists()
            addresses = [relay.server.ip for relay in self.relays() if relay.group_id == group.pk and relay.server]
            assert len(set(addresses)) == len(addresses), "two relays of one map on one address"

    def forget_waiting(self) -> None:
        """As if a minute had passed: hosts that came back count as healthy, no back-off stands in the way."""
        Server.objects.filter(phase=Server.Phase.RECOVERED).update(phase_since=now() - STEADY_AFTER)
        Server.objects.update(pass_token="", pass_until=None)
        Relay.objects.update(next_try_at=None)
