"""Regions, servers, groups and passes for tests of the fleet, in as few words as a story needs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from accounts.models import User
from derp_portal.lib.clock import now
from fleet import services
from fleet.derp.probe import ProbeResult
from fleet.models import Region, Relay, RelayGroup, Server, Wanted
from fleet.monitoring.probing import keep
from fleet.reconciler.loop import PassResult, reconcile
from fleet.runtimes.base import RelaySpec, Runtime, State, Unavailable
from fleet.selectors import groups_short_of_relays
from fleet.services import GroupTerms
from fleet.services.evacuations import carry_on_all, leave_lost_servers, lose_server
from fleet.services.moves import note_answers
from fleet.services.phases import judge
from fleet.services.rescue import rescue_relays
from tests.fleet.fake_engine import FakeEngine

STATUS = {
    Server.Phase.HEALTHY: Server.Status.HEALTHY,
    Server.Phase.SUSPECT: Server.Status.UNHEALTHY,
    Server.Phase.UNHEALTHY: Server.Status.UNHEALTHY,
    Server.Phase.RECOVERED: Server.Status.HEALTHY,
}
GOOD = ProbeResult(tls_ok=True, derp_ok=True, packet_ok=True, stun_ok=True)
SILENT = ProbeResult(error="timeout")


def region(code: str = "here") -> Region:
    return Region.objects.get_or_create(code=code, defaults={"name": code.title()})[0]


def server(number: int = 1, **fields: Any) -> Server:
    """A server with an address of its own from the range kept for documentation."""
    values: dict[str, Any] = {
        "name": f"server-{number}",
        "ip": f"192.0.2.{number}",
        "region": region(),
        "port_first": 21000,
        "port_last": 21099,
    }
    if "phase" in fields:
        values["status"] = STATUS[fields["phase"]]
    return Server.objects.create(**{**values, **fields})


def group(owner: User, *, relays: int = 1, lasts: timedelta = timedelta(days=1), **terms: Any) -> RelayGroup:
    return services.create_group(
        owner=owner,
        label="",
        run_until=now() + lasts,
        terms=GroupTerms(relay_count=relays, **terms),
        actor=owner,
    )


def only_relay(of: RelayGroup) -> Relay:
    return of.relays.select_related("group", "server", "port").get(released_at=None)


def stop(what: RelayGroup) -> None:
    services.set_group(group_id=what.pk, wanted=Wanted.STOPPED, actor=None)


def run_again(what: RelayGroup, *, lasts: timedelta = timedelta(days=1)) -> None:
    services.set_group(group_id=what.pk, wanted=Wanted.RUNNING, run_until=now() + lasts, actor=None)


class Fleet:
    """Servers with a fake engine each, passes over them, and probes of what runs there.

    Nobody reaches the relays of a host in `dark`; of one that is cut off, nobody reaches the engine either.
    """

    def __init__(self, servers: Iterable[Server]) -> None:
        self.engines: dict[int, FakeEngine] = {}
        self.add(*servers)
        self.dark: set[int] = set()

    def add(self, *servers: Server) -> None:
        """Give each of these an engine of its own."""
        self.engines |= {one.pk: FakeEngine() for one in servers}

    def on(self, where: Server | Relay) -> FakeEngine:
        key = where.pk if isinstance(where, Server) else where.server_id
        assert key is not None
        return self.engines[key]

    def one_pass(self, where: Server | Relay) -> PassResult:
        key = where.pk if isinstance(where, Server) else where.server_id
        assert key is not None
        return reconcile(key, runtime_for=self.open)

    def passes(self, count: int = 1) -> None:
        """That many passes over every server."""
        for _ in range(count):
            for key in self.engines:
                reconcile(key, runtime_for=self.open)

    def cut(self, *where: Server) -> None:
        """Cut these hosts off, engines and relays."""
        for one in where:
            self.dark.add(one.pk)
            self.on(one).fail(Unavailable("unreachable"))

    def heal(self, *where: Server) -> None:
        """Let these hosts be reached again."""
        for one in where:
            self.dark.discard(one.pk)
            self.on(one).heal()

    def answers(self, relay: Relay) -> bool:
        """Whether a probe of the relay where its row says it is would reach it."""
        if relay.server_id is None or relay.server_id in self.dark:
            return False
        box = self.engines[relay.server_id].boxes.get(relay.container_name)
        return box is not None and box.state == State.RUNNING and box.spec.port == relay.port.number

    def probe(self) -> None:
        """Probe every relay that its host last showed running, as the sweep does."""
        relays = Relay.objects.filter(released_at=None, observed_state=Relay.Observed.RUNNING, port__isnull=False)
        self.probe_these(relays.select_related("server", "port", "health"))

    def probe_these(self, relays: Iterable[Relay]) -> bool:
        """Keep what probes of these relays say, and whether any has answered."""
        probed = [(relay, GOOD if self.answers(relay) else SILENT) for relay in relays]
        keep(probed)
        answered = {relay.pk: relay.generation for relay, result in probed if result.healthy}
        note_answers(answered)
        return bool(answered)

    def examine(self, where: Server) -> None:
        """One pass over a server, and what follows when it does not answer: what `examine_suspect` does."""
        result = self.one_pass(where)
        if result.claimed and not result.reachable:
            there = Relay.objects.filter(server=where, observed_state=Relay.Observed.RUNNING, port__isnull=False)
            answer = self.probe_these(there.select_related("server", "port", "health"))
            if judge(where.pk, has_answering_relay=answer):
                lose_server(where.pk)

    def sweep(self) -> None:
        """Everything the schedule does once: passes, probes, evacuations, places, rescues."""
        for one in Server.objects.filter(pk__in=self.engines):
            self.examine(one)
        self.probe()
        carry_on_all()
        self.place()
        rescue_relays()

    def place(self) -> None:
        """Find places for relays that wait for one: what `place_waiting` does."""
        leave_lost_servers()
        for group_id in groups_short_of_relays(limit=100):
            services.ensure_relays(group_id=group_id)

    def open(self, where: Server) -> Runtime:
        return self.engines[where.pk].runtime()


def strangers_spec() -> RelaySpec:
    """A relay of another portal that shares our host."""
    return RelaySpec(
        name="stranger-1",
        volume="stranger-1",
        portal_id="another portal",
        relay_id=1,
        generation=1,
        digest="",
        image="",
        args=(),
        env={},
        files={},
        port=20999,
    )
