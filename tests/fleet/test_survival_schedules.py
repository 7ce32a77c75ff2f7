"""Random faults on real hosts, and workers killed in every step of a failover: what is left is always the same."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from typing import Any

import pytest

from accounts.models import User
from derp_portal.lib.errors import PortalError
from fleet import services
from fleet.models import Move, Relay, Server
from tests.fleet.doomed import work
from tests.fleet.hosts import DockerHost
from tests.fleet.world import World
from tests.parts import effort

pytestmark = [
    pytest.mark.xdist_group("docker-hosts"),
    pytest.mark.django_db(transaction=True),
]

SCHEDULES = effort(3, 20)
STEPS = 5
KILLS = effort(4, 12)

# Everything a worker does for a failover, in one process; it dies of its n-th write or call of an engine.
WORKER = """
import os, signal, sys
from django.db import connection
from fleet import engines, tasks
from fleet.models import Evacuation, Relay
from fleet.monitoring.probing import probe_relays
from fleet.reconciler import loop
from fleet.services.evacuations import fail_over

server_id, fatal = int(sys.argv[1]), int(sys.argv[2])
made = 0

def step():
    global made
    made += 1
    if made == fatal:
        os.kill(os.getpid(), signal.SIGKILL)

def write(execute, sql, *rest):
    if sql.startswith(("INSERT", "UPDATE", "DELETE")):
        step()
    return execute(sql, *rest)

class Counted:
    def __init__(self, runtime):
        self._runtime = runtime
    def __getattr__(self, name):
        method = getattr(self._runtime, name)
        def run(*args, **options):
            step()
            answer = method(*args, **options)
            step()
            return answer
        return run

def open_one(server):
    return Counted(engines.open_runtime(server))

with connection.execute_wrapper(write):
    [evacuation] = fail_over(server_id=server_id, actor=None)
    tasks.carry_on_evacuation(evacuation.pk)
    moved = Relay.objects.filter(moves__evacuation=evacuation).values_list("server_id", flat=True)
    for target in set(moved):
        loop.reconcile(target, runtime_for=open_one)
    probe_relays(Relay.objects.filter(moves__evacuation=evacuation).select_related("server", "port", "group"))
    tasks.carry_on_evacuation(evacuation.pk)
    loop.reconcile(server_id, runtime_for=open_one)
print(made)
"""


@pytest.fixture
def world(fresh_hosts: list[DockerHost], settings: Any, transactional_db: None) -> World:
    settings.FAILOVER_GRACE_SECONDS = 3
    settings.ADMISSION_URL = f"http://{fresh_hosts[0].gateway}:9"
    made = World(fresh_hosts)
    made.tick()
    return made


def test_a_worker_killed_in_any_step_of_a_failover_leaves_one_relay_of_each(world: World, alice: User) -> None:
    world.sell(alice, relays=2)
    world.sell(alice)
    world.until(world.is_settled)
    unharmed = work(WORKER, fullest().pk, 0)
    assert unharmed.returncode == 0, unharmed.stderr
    total = int(unharmed.stdout.split()[-1])
    assert total > KILLS
    world.check()
    for number in range(KILLS):
        fatal = 1 + number * (total - 1) // max(KILLS - 1, 1)
        done = work(WORKER, fullest().pk, fatal)
        # The number of steps varies by a few: how often a relay is asked depends on how fast it comes up.
        assert done.returncode in (-signal.SIGKILL, 0), done.stderr
        world.forget_waiting()
        world.check()


def fullest() -> Server:
    """The server with the most relays."""
    return max(Server.objects.all(), key=lambda server: server.relays.filter(released_at=None).count())


class Chaos:
    """One schedule: what may happen next, and how everything is brought to rest."""

    def __init__(self, world: World, owner: User, seed: int) -> None:
        self.world, self.owner, self.random = world, owner, random.Random(seed)
        self.done: list[str] = []

    def step(self) -> None:
        actions: list[Callable[[], None]] = [
            self.buy,
            self.cut,
            self.heal,
            self.kill_engine,
            self.freeze,
            self.lose_power,
            self.move,
            self.fail_over,
            self.drain,
            self.work,
        ]
        action = self.random.choice(actions)
        self.done.append(action.__name__)
        action()
        for _ in range(self.random.randint(0, 2)):
            self.world.tick()

    def host(self) -> DockerHost:
        return self.random.choice(self.world.hosts)

    def server(self) -> Server:
        return self.random.choice(self.world.servers)

    def buy(self) -> None:
        if len(self.world.relays()) < 8:
            self.world.sell(self.owner, relays=self.random.randint(1, 2), priority=self.random.randint(0, 2))

    def cut(self) -> None:
        self.host().cut()

    def heal(self) -> None:
        self.host().heal()

    def kill_engine(self) -> None:
        host = self.host()
        if host.is_engine_alive:
            host.kill9()

    def freeze(self) -> None:
        host = self.host()
        if host.is_engine_alive:
            host.freeze()

    def lose_power(self) -> None:
        host = self.host()
        if host.is_engine_alive:
            host.power_off()

    def move(self) -> None:
        if relays := self.world.relays():
            relay = self.random.choice(relays)
            try:
                services.move_relay(relay_id=relay.pk, server_id=None, actor=None)
            except PortalError as refusal:
                assert refusal.code == "no_place"

    def fail_over(self) -> None:
        services.fail_over(server_id=self.server().pk, actor=None)

    def drain(self) -> None:
        services.drain_server(server_id=self.server().pk, actor=None)

    def work(self) -> None:
        for _ in range(3):
            self.world.tick()

    def rest(self) -> None:
        """The operator repairs everything, and ends what he began."""
        for host in self.world.hosts:
            host.heal()
            host.thaw()
            host.start()
        for server in self.world.servers:
            services.end_drain(server_id=server.pk, actor=None)


@pytest.mark.parametrize("seed", range(SCHEDULES))
def test_after_any_schedule_of_faults_each_wanted_relay_runs_once(world: World, alice: User, seed: int) -> None:
    chaos = Chaos(world, alice, seed)
    chaos.buy()
    world.until(world.is_settled)
    for _ in range(STEPS):
        chaos.step()
    chaos.rest()
    world.forget_waiting()
    try:
        world.check()
    except AssertionError as error:
        raise AssertionError(f"after {chaos.done}") from error
    assert not Move.objects.filter(state__in=Move.OPEN).exists()
    assert Relay.objects.filter(released_at=None).exists()
