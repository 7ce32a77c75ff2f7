"""Hosts die, freeze, return with old disks; workers die or meet; time passes. Hypothesis looks for what does not heal.

Once quiet comes, with some hosts dead for good: one live container for each relay that should run or a stated lack of
room, none that nobody wants, identities and leases as they were.

`.ci/run` tries two hundred schedules, `make test` alone a tenth.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import time_machine
from django.db import transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from accounts.models import User
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet import services
from fleet.models import Alert, Move, Outage, Relay, RelayGroup, Server, ServerEvent, Wanted
from fleet.reconciler import apply
from fleet.reconciler.desired import should_run
from fleet.reconciler.loop import PASS_SECONDS
from fleet.runtimes.base import Rejected, State, Unavailable
from fleet.services import evacuations
from fleet.services.evacuations import carry_on_all
from fleet.services.phases import FAILED_LOOKS_UNTIL_LOST
from fleet.services.placement import NoPlace, candidates, sibling_addresses
from fleet.services.rescue import rescue_relays
from tests.fleet import fleet_parts
from tests.fleet.fake_engine import Box, FakeRuntime, Worker, WorkerDied
from tests.fleet.fleet_parts import Fleet
from tests.fleet.test_reconciler_machine import OneAtATime, dying_at_write, pick
from tests.parts import effort

START = datetime(2031, 1, 31, 12, tzinfo=UTC)
HOSTS = 4
MOST_GROUPS = 4
SCHEDULES = effort(20, 200)
PARTS = 4
QUIET_ROUNDS = 20
IDENTITY = ("code", "host_name", "derper_key", "certificate", "pin", "admission_hash", "region_id")
PHASES = {phase.value for phase in Server.Phase}

anything = st.integers(0, 999)
hosts = st.integers(0, HOSTS - 1)
acts = st.sampled_from(["examine", "carry_on", "rescue", "fail_over", "drain", "sweep", "place"])


class WatchedFleet(Fleet):
    """Its calls are made by a worker that may be told to die."""

    worker: Worker

    def open(self, where: Server) -> FakeRuntime:
        return FakeRuntime(self.engines[where.pk], self.worker)


class Survival(RuleBasedStateMachine):
    """A fleet, what befalls it, and what its operators and workers do meanwhile."""

    owner: User

    def __init__(self) -> None:
        super().__init__()
        self.travel = time_machine.travel(START, tick=False)
        self.clock = self.travel.start()
        self.savepoint = transaction.savepoint()
        self.hosts = [
            fleet_parts.server(number, port_first=21000, port_last=21019, max_relays=4)
            for number in range(1, HOSTS + 1)
        ]
        self.fleet = WatchedFleet(self.hosts)
        self.fleet.worker = Worker()
        self.disks: dict[int, tuple[dict[str, Box], dict[str, str]]] = {}
        self.granted: dict[int, datetime] = {}
        self.identities: dict[int, tuple[object, ...]] = {}
        for priority in (0, 1):
            self.somebody_buys(relays=2, priority=priority, hours=48)

    def teardown(self) -> None:
        try:
            # First those that are cut off stay dead, then they return.
            cut_off = {where for where, host in enumerate(self.hosts) if self.is_cut_off(host)}
            self.quiet_comes(dead=cut_off)
            if cut_off:
                self.quiet_comes(dead=set())
        finally:
            self.travel.stop()
            transaction.set_rollback(False)
            transaction.savepoint_rollback(self.savepoint)

    # What customers do.

    @precondition(lambda self: len(self.groups()) < MOST_GROUPS)
    @rule(relays=st.integers(1, 2), priority=st.integers(0, 2), hours=st.sampled_from([1, 48]))
    def somebody_buys(self, relays: int, priority: int, hours: int) -> None:
        made = fleet_parts.group(self.owner, relays=relays, priority=priority, lasts=timedelta(hours=hours))
        self.granted[made.pk] = self.deadline_without_outages(made)
        self.act("sweep")

    @rule(which=anything, wanted=st.sampled_from([Wanted.RUNNING, Wanted.STOPPED]))
    def a_lease_ends_or_is_renewed(self, which: int, wanted: Wanted) -> None:
        if group := pick(self.groups(), which):
            until = now() + timedelta(hours=24)
            services.set_group(group_id=group.pk, wanted=wanted, run_until=until, actor=None)
            self.granted[group.pk] = self.deadline_without_outages(group)

    @rule(which=anything)
    def a_group_is_released(self, which: int) -> None:
        if group := pick(self.groups(), which):
            services.release_group(group_id=group.pk, actor=None)

    # What befalls hosts.

    @rule(where=hosts)
    def a_host_is_cut_off(self, where: int) -> None:
        self.fleet.cut(self.hosts[where])

    @rule(where=hosts, write=st.integers(1, 40))
    def a_host_is_lost(self, where: int, write: int) -> None:
        """And so, perhaps, is the worker that says so."""
        self.fleet.cut(self.hosts[where])
        for _ in range(FAILED_LOOKS_UNTIL_LOST - 1):
            self.clock.shift(35)
            self.act("examine", where)
        self.a_worker_dies_at_a_write("examine", where, write)

    @rule(where=hosts)
    def a_server_is_drained(self, where: int) -> None:
        services.drain_server(server_id=self.hosts[where].pk, actor=None)
        carry_on_all()

    @rule(where=hosts, code=st.sampled_from(["connection_refused", "timeout"]))
    def an_engine_is_killed_or_frozen(self, where: int, code: str) -> None:
        """Its relays serve on."""
        self.fleet.on(self.hosts[where]).fail(Unavailable(code))

    @rule(where=hosts)
    def a_hosts_relays_cannot_be_reached(self, where: int) -> None:
        self.fleet.dark.add(self.hosts[where].pk)

    @rule(where=hosts, code=st.sampled_from(["disk_full", "refused"]))
    def a_host_starts_nothing(self, where: int, code: str) -> None:
        self.fleet.on(self.hosts[where]).fail(Rejected(code), "create", "put_files", "start")

    @rule(where=hosts)
    def a_host_heals(self, where: int) -> None:
        self.fleet.heal(self.hosts[where])

    @rule(where=hosts)
    def a_disk_is_copied(self, where: int) -> None:
        engine = self.fleet.on(self.hosts[where])
        self.disks[where] = deepcopy((engine.boxes, engine.volumes))

    @rule(where=hosts)
    def a_host_returns_with_its_old_disk(self, where: int) -> None:
        if where not in self.disks:
            return
        self.fleet.cut(self.hosts[where])
        self.time_passes(5)
        self.act("sweep")
        engine = self.fleet.on(self.hosts[where])
        engine.boxes, engine.volumes = deepcopy(self.disks[where])
        self.fleet.heal(self.hosts[where])

    @rule(where=hosts, most=st.integers(1, 4))
    def room_changes(self, where: int, most: int) -> None:
        Server.objects.filter(pk=self.hosts[where].pk).update(max_relays=most)

    # What operators do.

    @rule(where=hosts)
    def a_drain_ends(self, where: int) -> None:
        services.end_drain(server_id=self.hosts[where].pk, actor=None)

    @rule()
    def all_that_is_ill_fails_over(self) -> None:
        services.plan_failover(server_id=None)
        services.fail_over(server_id=None, actor=None)

    @rule(which=anything, is_quarantined=st.booleans())
    def a_group_is_quarantined_or_let_go(self, which: int, is_quarantined: bool) -> None:
        if group := pick(self.groups(), which):
            services.set_quarantine(group_id=group.pk, is_quarantined=is_quarantined, actor=None)

    @rule(which=anything, to=st.none() | hosts)
    def a_relay_is_moved_by_hand(self, which: int, to: int | None) -> None:
        if relay := pick(self.relays(), which):
            server_id = None if to is None else self.hosts[to].pk
            try:
                services.move_relay(relay_id=relay.pk, server_id=server_id, actor=None)
            except PortalError as error:
                assert error.code == "no_place"

    @rule(which=anything)
    def a_relay_is_restarted(self, which: int) -> None:
        if relay := pick(self.relays(), which):
            services.restart_relay(relay_id=relay.pk, actor=None)

    @rule(where=hosts, ending=st.integers(100, 104))
    def a_hosts_address_changes(self, where: int, ending: int) -> None:
        ip = f"192.0.2.{ending + 10 * where}"
        services.update_server(server_id=self.hosts[where].pk, ip=ip, actor=None)

    # What the schedule does, and how its workers die and meet.

    @rule(seconds=st.sampled_from([1, 5, 30, 61, PASS_SECONDS + 1, 4000]))
    def time_passes(self, seconds: int) -> None:
        self.clock.shift(seconds)

    @rule(rounds=st.integers(1, 4), seconds=st.sampled_from([5, 25]))
    def the_schedule_goes_on(self, rounds: int, seconds: int) -> None:
        for _ in range(rounds):
            self.clock.shift(seconds)
            self.act("sweep")

    @rule(act=acts, where=hosts)
    def somebody_acts(self, act: str, where: int) -> None:
        self.act(act, where)

    @rule(act=acts, where=hosts, step=st.integers(1, 14), took_effect=st.booleans())
    def a_worker_dies_at_a_call(self, act: str, where: int, step: int, took_effect: bool) -> None:
        worker = self.fleet.worker = Worker()

        def die(number: int) -> None:
            if number == step:
                worker.is_dead = True
                raise WorkerDied

        setattr(worker, "after" if took_effect else "before", die)
        self.until_death(act, where, worker)

    @rule(act=acts, where=hosts, write=st.integers(1, 40))
    def a_worker_dies_at_a_write(self, act: str, where: int, write: int) -> None:
        worker = self.fleet.worker = Worker()
        with dying_at_write(write, worker):
            self.until_death(act, where, worker)

    @rule(act=acts, other=acts, where=hosts, elsewhere=hosts, step=st.integers(1, 8), seconds=st.sampled_from([0, 121]))
    def two_workers_meet(self, act: str, other: str, where: int, elsewhere: int, step: int, seconds: int) -> None:
        """The second does all it does while the first waits for a host, perhaps for so long that its claim runs out."""

        def meet(number: int) -> None:
            if number == step:
                mine, self.fleet.worker = self.fleet.worker, Worker()
                self.clock.shift(seconds)
                self.act(other, elsewhere)
                self.fleet.worker = mine

        self.fleet.worker = Worker(before=meet)
        self.act(act, where)
        self.fleet.worker = Worker()

    @rule(other=acts, elsewhere=hosts, step=st.integers(1, 4))
    def two_workers_meet_between_two_moves(self, other: str, elsewhere: int, step: int) -> None:
        made, leave = 0, evacuations._leave

        def meet(*arguments: Any) -> bool:
            nonlocal made
            made += 1
            if made == step:
                self.act(other, elsewhere)
            return leave(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evacuations, "_leave", meet)
            carry_on_all()

    def act(self, act: str, where: int = 0) -> None:
        host = self.hosts[where]
        deeds: dict[str, Callable[[], object]] = {
            "examine": lambda: self.fleet.examine(host),
            "carry_on": carry_on_all,
            "rescue": rescue_relays,
            "fail_over": lambda: services.fail_over(server_id=host.pk, actor=None),
            "drain": lambda: services.drain_server(server_id=host.pk, actor=None),
            "sweep": self.fleet.sweep,
            "place": self.fleet.place,
        }
        deeds[act]()

    def until_death(self, act: str, where: int, worker: Worker) -> None:
        try:
            self.act(act, where)
        except (WorkerDied, transaction.TransactionManagementError):
            if not worker.is_dead:
                raise
            # The database undoes what a dead worker left half done; here the test's own transaction stands around it.
            transaction.set_rollback(False)
        finally:
            self.fleet.worker = Worker()

    # What must be true.

    @invariant()
    def identities_stay(self) -> None:
        for relay in Relay.objects.all():
            identity = tuple(getattr(relay, name) for name in IDENTITY)
            assert self.identities.setdefault(relay.pk, identity) == identity

    @invariant()
    def leases_move_by_their_outages_and_nothing_else(self) -> None:
        for group in RelayGroup.objects.all():
            assert self.deadline_without_outages(group) == self.granted[group.pk]
            for earlier, later in pairwise(group.outages.order_by("started_at", "id")):
                assert earlier.ended_at
                assert earlier.ended_at <= later.started_at, "time is given back twice"

    @invariant()
    def a_timeline_says_each_change_once(self) -> None:
        for host in self.hosts:
            kinds = (
                ServerEvent.objects.filter(server=host, kind__in=PHASES).order_by("id").values_list("kind", flat=True)
            )
            assert all(earlier != later for earlier, later in pairwise(kinds))

    @rule(dead=st.sets(hosts, max_size=2))
    def quiet_comes(self, dead: set[int]) -> None:
        """Some hosts stay dead, all others heal, sweeps go on."""
        for where, host in enumerate(self.hosts):
            if where in dead:
                self.fleet.cut(host)
            else:
                self.fleet.heal(host)
        self.clock.shift(PASS_SECONDS + 1)
        before: object = None
        for made in range(QUIET_ROUNDS):
            self.clock.shift(61)
            self.fleet.sweep()
            if before == (before := self.everything()) and made >= FAILED_LOOKS_UNTIL_LOST:
                break
        else:
            pytest.fail("it never rests")
        alive = [host for where, host in enumerate(self.hosts) if where not in dead]
        for relay in Relay.objects.filter(should_run()).select_related("group", "server", "port"):
            self.check_relay(relay, alive)
        for host in alive:
            self.check_host(Server.objects.get(pk=host.pk))
        self.check_alerts(dead)

    def everything(self) -> object:
        """What does not change any more once the fleet rests."""
        names = ("id", "server", "generation", "observed_state", "trouble_code", "tries", "released_at")
        return (
            list(Relay.objects.order_by("id").values_list(*names)),
            list(Move.objects.order_by("id").values_list("id", "state", "waits_for")),
            list(Server.objects.order_by("id").values_list("phase", flat=True)),
            {
                (key, name, box.state)
                for key, engine in self.fleet.engines.items()
                for name, box in engine.boxes.items()
            },
        )

    def check_relay(self, relay: Relay, alive: list[Server]) -> None:
        """It runs exactly once and answers, or there is a reason and the rows say it."""
        running = [
            name
            for host in alive
            for name, box in self.fleet.on(host).boxes.items()
            if box.spec.relay_id == relay.pk and box.state == State.RUNNING
        ]
        if relay.server in alive:
            assert running == [relay.container_name]
            assert self.fleet.answers(relay)
            assert (relay.is_running, relay.trouble_code) == (True, "")
            assert not relay.moves.filter(state=Move.State.PLACED).exists()
            assert not relay.group.outages.filter(ended_at=None).exists()
            return
        assert len(running) <= 1
        if relay.group.quarantined_at and relay.server:
            # Held on a dead host; or it had failed there already, and says how.
            assert relay.trouble_code in ("quarantined", "host_lost", "unreachable")
            return
        with pytest.raises(NoPlace):
            besides = {relay.server.ip} if relay.server else set()
            candidates(relay.group, apart_from=sibling_addresses(relay.group_id) | besides)
        if relay.server:
            assert relay.moves.get(state=Move.State.WAITING).waits_for in ("no_room", "no_server")
        else:
            assert relay.trouble_code in ("no_room", "no_server")
        assert Alert.objects.filter(alert_type=Alert.Kind.NO_ROOM, resolved=False).exists()

    def check_host(self, host: Server) -> None:
        """Nothing runs there that nobody wants, no port twice, and nothing is left where a drain is done."""
        boxes = self.fleet.on(host).boxes
        assert len({box.spec.port for box in boxes.values()}) == len(boxes)
        wanted = {relay.container_name for relay in Relay.objects.filter(should_run(), server=host)}
        # A quarantined relay whose new host died goes nowhere: what it left goes on serving.
        leaving = Move.objects.filter(state__in=Move.OPEN, from_server=host).select_related("relay")
        still_serving = {f"{move.relay.code}-{move.from_generation}" for move in leaving}
        assert wanted <= boxes.keys() <= wanted | still_serving
        assert host.phase == Server.Phase.HEALTHY
        if host.is_draining:
            left = host.relays.filter(released_at=None, group__quarantined_at=None)
            assert not left.exclude(moves__state=Move.State.WAITING).exists()

    def check_alerts(self, dead: set[int]) -> None:
        without = Relay.objects.filter(should_run(), server=None).count()
        is_short = bool(without or Move.objects.filter(state=Move.State.WAITING).count())
        assert Alert.objects.filter(alert_type=Alert.Kind.NO_ROOM, resolved=False).exists() == is_short
        lost = Alert.objects.filter(alert_type=Alert.Kind.SERVER_LOST, resolved=False)
        assert set(lost.values_list("server", flat=True)) == {self.hosts[where].pk for where in dead}

    # How it is done.

    def is_cut_off(self, host: Server) -> bool:
        return host.pk in self.fleet.dark and "list" in self.fleet.on(host).trouble

    @staticmethod
    def deadline_without_outages(group: RelayGroup) -> datetime:
        closed = Outage.objects.filter(group=group).exclude(ended_at=None)
        return RelayGroup.objects.get(pk=group.pk).run_until - sum(
            (outage.ended_at - outage.started_at for outage in closed if outage.ended_at), timedelta()
        )

    @staticmethod
    def groups() -> list[RelayGroup]:
        return list(RelayGroup.objects.filter(released_at=None).order_by("id"))

    @staticmethod
    def relays() -> list[Relay]:
        return list(Relay.objects.filter(released_at=None).order_by("id"))


@pytest.mark.parametrize("part", range(PARTS))
def test_any_fault_schedule_ends_with_one_live_relay_for_each_wanted_one(
    part: int, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "ThreadPoolExecutor", OneAtATime)
    monkeypatch.setattr(Survival, "owner", alice, raising=False)
    run_state_machine_as_test(
        Survival,
        settings=settings(
            max_examples=SCHEDULES // PARTS,
            stateful_step_count=18,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )
