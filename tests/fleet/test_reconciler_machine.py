"""Whatever goes wrong, wherever a worker dies: once quiet comes, what is wanted runs. Hypothesis tries to disagree."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

import pytest
import time_machine
from django.db import connection, transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from accounts.models import User
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet import services
from fleet.models import Outage, Relay, RelayGroup, Server, Wanted
from fleet.reconciler import apply, volumes
from fleet.reconciler.loop import PASS_SECONDS, PassResult, reconcile
from fleet.runtimes.base import Rejected, RuntimeFailure, State, Unavailable
from fleet.selectors import groups_short_of_relays
from fleet.services import GroupTerms
from tests.fleet import fleet_parts
from tests.fleet.fake_engine import Box, FakeEngine, FakeRuntime, Worker, WorkerDied
from tests.parts import effort

START = datetime(2031, 1, 31, 12, tzinfo=UTC)
MOST_GROUPS = 5
EXAMPLES = effort(5, 40)
"""Forty in `.ci/run`, some in `make test` alone."""
QUIET_ROUNDS = 5

anything = st.integers(0, 999)
steps = st.integers(1, 14)
speeds = st.sampled_from([0, 1_000_000, 2_000_000])
servers = st.integers(0, 2)
failures = st.sampled_from(
    [
        Unavailable("timeout"),
        Unavailable("unreachable"),
        Unavailable("busy"),
        Rejected("refused"),
        Rejected("disk_full"),
        Rejected("not_found"),
    ]
)


class OneAtATime:
    """In place of the thread pool: the same order every time, on the thread that holds the test's transaction."""

    def __init__(self, *_args: object, **_options: object) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: type[BaseException] | BaseException | TracebackType | None) -> None: ...

    def submit(self, do: Callable[..., Any], *arguments: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(do(*arguments))
        except BaseException as error:  # noqa: BLE001 - a worker's death is one, and goes to whoever asks for the result
            done.set_exception(error)
        return done


@contextmanager
def dying_at_write(number: int, worker: Worker) -> Iterator[None]:
    """The worker dies just before its `number`-th INSERT, UPDATE or DELETE."""
    made = 0

    def run(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        nonlocal made
        made += sql.startswith(("INSERT", "UPDATE", "DELETE"))
        if made == number and not worker.is_dead:
            worker.is_dead = True
            raise WorkerDied
        return execute(sql, *rest)

    with connection.execute_wrapper(run):
        yield


def pick(what: list[Any], which: int) -> Any:
    """One of them, None when there is none."""
    return what[which % len(what)] if what else None


class Portal(RuleBasedStateMachine):
    """Customers, operators, hosts, time and death, in any order."""

    owner: User

    def __init__(self) -> None:
        super().__init__()
        self.travel = time_machine.travel(START, tick=False)
        self.clock = self.travel.start()
        self.savepoint = transaction.savepoint()
        self.servers = [
            fleet_parts.server(number, port_first=21000, port_last=21005, max_relays=5) for number in (1, 2, 3)
        ]
        self.engines = {server.pk: FakeEngine() for server in self.servers}
        self.granted: dict[int, datetime] = {}
        self.strangers = {key: self.put_strangers_on(engine) for key, engine in self.engines.items()}
        self.opened = pytest.MonkeyPatch()
        self.opened.setattr(volumes, "open_runtime", lambda server: self.engines[server.pk].runtime())

    def teardown(self) -> None:
        try:
            self.quiet_comes()
        finally:
            self.travel.stop()
            self.opened.undo()
            transaction.set_rollback(False)
            transaction.savepoint_rollback(self.savepoint)

    def put_strangers_on(self, engine: FakeEngine) -> Box:
        """Another portal's relay lives on every host."""
        spec = fleet_parts.strangers_spec()
        engine.boxes[spec.name] = box = Box(spec, State.RUNNING)
        engine.volumes[spec.volume] = spec.portal_id
        return box

    # What people do.

    @precondition(lambda self: len(self.groups()) < MOST_GROUPS)
    @rule(relays=st.integers(1, 3), speed=speeds, hours=st.integers(1, 48))
    def somebody_buys(self, relays: int, speed: int, hours: int) -> None:
        made = fleet_parts.group(self.owner, relays=relays, speed=speed, lasts=timedelta(hours=hours))
        self.granted[made.pk] = self.deadline_without_outages(made)

    @rule(which=anything, hours=st.integers(1, 48))
    def somebody_renews(self, which: int, hours: int) -> None:
        if group := pick(self.groups(), which):
            until = now() + timedelta(hours=hours)
            group = services.set_group(group_id=group.pk, wanted=Wanted.RUNNING, run_until=until, actor=None)
            self.granted[group.pk] = self.deadline_without_outages(group)

    @rule(which=anything, relays=st.integers(1, 3), speed=speeds)
    def a_plan_changes(self, which: int, relays: int, speed: int) -> None:
        if group := pick(self.groups(), which):
            terms = GroupTerms(relay_count=relays, speed=speed)
            services.set_group(group_id=group.pk, wanted=Wanted(group.wanted), terms=terms, actor=None)

    @rule(which=anything)
    def a_lease_ends(self, which: int) -> None:
        if group := pick(self.groups(), which):
            fleet_parts.stop(group)

    @rule(which=anything)
    def a_group_is_released(self, which: int) -> None:
        if group := pick(self.groups(), which):
            services.release_group(group_id=group.pk, actor=None)

    @rule(which=anything)
    def a_relay_is_released(self, which: int) -> None:
        if relay := pick(self.relays(), which):
            services.release_relay(relay_id=relay.pk, actor=None)

    @rule(which=anything)
    def a_relay_is_restarted(self, which: int) -> None:
        if relay := pick(self.relays(), which):
            services.restart_relay(relay_id=relay.pk, actor=None)

    @rule(which=anything, to=st.none() | servers)
    def a_relay_is_moved(self, which: int, to: int | None) -> None:
        if relay := pick(self.relays(), which):
            server_id = None if to is None else self.servers[to].pk
            with suppress(PortalError):
                services.move_relay(relay_id=relay.pk, server_id=server_id, actor=None)

    # What hosts do.

    @rule(where=servers, failure=failures)
    def a_host_gets_into_trouble(self, where: int, failure: RuntimeFailure) -> None:
        self.engine(where).fail(failure, *(() if failure.code == "unreachable" else ("create", "put_files", "start")))

    @rule(where=servers)
    def an_image_goes_missing(self, where: int) -> None:
        self.engine(where).is_image_there = False

    @rule(where=servers)
    def a_host_recovers(self, where: int) -> None:
        self.engine(where).heal()

    @rule(where=servers, which=anything, fate=st.sampled_from(["lost", "exited", "restarting"]))
    def a_container_suffers(self, where: int, which: int, fate: str) -> None:
        engine = self.engine(where)
        if name := pick([name for name in engine.boxes if not name.startswith("stranger")], which):
            if fate == "lost":
                del engine.boxes[name]
            elif engine.boxes[name].state != State.CREATED:
                engine.boxes[name].state = State(fate)

    @rule(where=servers, port=st.integers(21000, 21005))
    def a_program_takes_a_port(self, where: int, port: int) -> None:
        if not self.engine(where).holds(port):
            self.engine(where).foreign_ports.add(port)

    @rule(seconds=st.sampled_from([1, 5, 60, PASS_SECONDS + 1, 3600, 90_000]))
    def time_passes(self, seconds: int) -> None:
        self.clock.shift(seconds)

    # What the loop does, and how it dies.

    @rule(where=servers)
    def a_pass_is_made(self, where: int) -> None:
        self.one_pass(where, Worker())

    @rule()
    def relays_are_placed(self) -> None:
        for group_id in groups_short_of_relays(limit=100):
            services.ensure_relays(group_id=group_id)

    @rule(where=servers, step=steps, failure=failures, took_effect=st.booleans())
    def a_call_fails(self, where: int, step: int, failure: RuntimeFailure, took_effect: bool) -> None:
        def fail(number: int) -> None:
            if number == step:
                raise failure

        self.one_pass(where, Worker(after=fail) if took_effect else Worker(before=fail))

    @rule(where=servers, step=steps, took_effect=st.booleans())
    def the_worker_dies_at_a_call(self, where: int, step: int, took_effect: bool) -> None:
        worker = Worker()

        def die(number: int) -> None:
            if number == step:
                worker.is_dead = True
                raise WorkerDied

        setattr(worker, "after" if took_effect else "before", die)
        self.one_pass(where, worker)

    @rule(where=servers, write=st.integers(1, 25))
    def the_worker_dies_at_a_note(self, where: int, write: int) -> None:
        worker = Worker()
        with dying_at_write(write, worker):
            self.one_pass(where, worker)

    @rule(where=servers, step=steps)
    def two_passes_meet(self, where: int, step: int) -> None:
        """The first takes so long that its claim runs out, and another one overtakes it."""

        def overtake(number: int) -> None:
            if number == step:
                self.clock.shift(PASS_SECONDS + 1)
                self.one_pass(where, Worker())

        self.one_pass(where, Worker(before=overtake))

    @rule(
        where=servers, step=steps, which=anything, deed=st.sampled_from(["restart", "move", "release", "stop", "speed"])
    )
    def rows_change_during_a_pass(self, where: int, step: int, which: int, deed: str) -> None:
        deeds: dict[str, Callable[[], None]] = {
            "restart": lambda: self.a_relay_is_restarted(which),
            "move": lambda: self.a_relay_is_moved(which, None),
            "release": lambda: self.a_relay_is_released(which),
            "stop": lambda: self.a_lease_ends(which),
            "speed": lambda: self.a_plan_changes(which, 2, 1_000_000),
        }

        def meddle(number: int) -> None:
            if number == step:
                deeds[deed]()

        self.one_pass(where, Worker(before=meddle))

    # What must be true.

    @invariant()
    def strangers_are_left_alone(self) -> None:
        for key, engine in self.engines.items():
            box = self.strangers[key]
            assert engine.boxes.get(box.spec.name) is box
            assert (box.state, box.files) == (State.RUNNING, {})
            assert box.spec.volume in engine.volumes

    @rule()
    def quiet_comes(self) -> None:
        """Causes go, sweeps go on: then what runs is what is wanted."""
        for engine in self.engines.values():
            engine.heal()
        results: list[PassResult] = []
        for _ in range(QUIET_ROUNDS):
            self.clock.shift(PASS_SECONDS + 1)
            self.relays_are_placed()
            results = [self.one_pass(where, Worker()) for where in range(len(self.servers))]
        assert [result.outcomes for result in results] == [[], [], []], "the loop never rests"
        for server in self.servers:
            self.check_host(server)
        self.check_notes()

    def check_host(self, server: Server) -> None:
        """Exactly one container per relay that should run here, as it should be, and nothing else of ours."""
        engine = self.engines[server.pk]
        ours = {name: box for name, box in engine.boxes.items() if not name.startswith("stranger")}
        wanted = {
            relay.container_name: relay for relay in Relay.objects.filter(server=server) if self.should_run(relay)
        }
        assert set(ours) == set(wanted)
        for name, relay in wanted.items():
            box = ours[name]
            assert box.state == State.RUNNING
            assert (box.spec.relay_id, box.spec.port) == (relay.pk, relay.port.number)
            assert box.files["derper.key"]
            speed = json.loads(box.rate_in_force).get("PerClientRateLimitBytesPerSec", 0)
            assert speed == relay.group.speed_bytes_per_second
        assert len({box.spec.port for box in ours.values()}) == len(ours)
        volumes.reap_volumes(server)
        assert set(engine.volumes) == set(engine.boxes)

    def check_notes(self) -> None:
        """The rows say what is true, and every outage is over and was made up for."""
        for relay in Relay.objects.all():
            if self.should_run(relay):
                assert relay.is_running
                assert relay.trouble_code == ""
            else:
                assert relay.observed_state in (Relay.Observed.ABSENT, Relay.Observed.UNKNOWN)
        for group in RelayGroup.objects.all():
            is_open = group.outages.filter(ended_at=None).exists()
            should = [relay for relay in group.relays.filter(released_at=None) if self.should_run(relay)]
            assert not (is_open and should), "the clock stands although a relay runs"
            assert self.granted[group.pk] == self.deadline_without_outages(group)

    @staticmethod
    def should_run(relay: Relay) -> bool:
        group = relay.group
        has_time = group.run_until > now() or group.outages.filter(ended_at=None).exists()
        return relay.released_at is None and group.wanted == Wanted.RUNNING and bool(relay.server_id) and has_time

    # How it is done.

    def one_pass(self, where: int, worker: Worker) -> PassResult:
        server = self.servers[where]
        engine = self.engines[server.pk]
        try:
            return reconcile(server.pk, runtime_for=lambda _server: FakeRuntime(engine, worker))
        except (WorkerDied, transaction.TransactionManagementError):
            # Dying in a bulk write bars the transaction, and then giving the claim back fails as well.
            if not worker.is_dead:
                raise
            # The database undoes what a dead worker left half done; here the test's own transaction stands around it.
            transaction.set_rollback(False)
            # `finally` does not run in a process that was killed: its claim stays.
            until = now() + timedelta(seconds=PASS_SECONDS)
            Server.objects.filter(pk=server.pk).update(pass_token="of the dead", pass_until=until)
            return PassResult()

    def engine(self, where: int) -> FakeEngine:
        return self.engines[self.servers[where].pk]

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


def test_once_quiet_comes_exactly_what_is_wanted_runs(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "ThreadPoolExecutor", OneAtATime)
    monkeypatch.setattr(Portal, "owner", alice, raising=False)
    run_state_machine_as_test(
        Portal,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
