"""The same deaths as in the state machine, a few of them, with a real worker process and a real Docker engine."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.conf import settings

from accounts.models import User
from derp_portal.lib.clock import now
from fleet.models import Relay, Server
from fleet.reconciler.loop import PASS_SECONDS, reconcile
from fleet.reconciler.volumes import reap_volumes
from fleet.runtimes.base import State
from tests.fleet.doomed import work
from tests.fleet.engines import DockerEngine, wait_until
from tests.fleet.fleet_parts import group, only_relay, server, stop
from tests.ports import free_port

pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.django_db(transaction=True)]

WORKER = """
import os, signal, sys
from fleet.engines import open_runtime
from fleet.reconciler.loop import reconcile

server_id, call, moment = int(sys.argv[1]), sys.argv[2], sys.argv[3]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Doomed:
    def __init__(self, runtime):
        self._runtime = runtime
    def __getattr__(self, name):
        method = getattr(self._runtime, name)
        def run(*args, **options):
            if (name, moment) == (call, "before"):
                die()
            answer = method(*args, **options)
            if (name, moment) == (call, "after"):
                die()
            return answer
        return run

reconcile(server_id, runtime_for=lambda server: Doomed(open_runtime(server)))
"""


@pytest.fixture
def here(docker_engine: DockerEngine, transactional_db: None) -> Iterator[Server]:
    with closing(docker_engine.runtime()) as runtime:
        runtime.ensure_image(docker_engine.image)
    port = free_port()
    yield server(ip="127.0.0.1", endpoint=docker_engine.endpoint, port_first=port, port_last=port)
    docker_engine.sweep()


def worker_that_dies(here: Server, call: str, moment: str) -> None:
    """A pass in a process of its own, killed with -9 before or after its first such call."""
    done = work(WORKER, here.pk, call, moment)
    assert done.returncode == -signal.SIGKILL, done.stderr


def passes_later(here: Server, count: int = 2) -> None:
    """Passes after the dead worker's claim ran out."""
    with time_machine.travel(now() + timedelta(seconds=PASS_SECONDS + 1)):
        for _ in range(count):
            assert reconcile(here.pk).claimed


def on(engine: DockerEngine) -> dict[str, State]:
    with closing(engine.runtime()) as runtime:
        return {box.name: box.state for box in runtime.list(settings.PORTAL_ID)}


@pytest.mark.parametrize(
    ("call", "moment"),
    [("list", "after"), ("create", "before"), ("create", "after"), ("put_files", "after"), ("start", "after")],
)
def test_a_worker_killed_while_creating_leaves_one_relay_in_the_end(
    call: str, moment: str, docker_engine: DockerEngine, here: Server, alice: User
) -> None:
    relay = only_relay(group(alice))
    worker_that_dies(here, call, moment)
    assert not reconcile(here.pk).claimed
    passes_later(here)
    assert on(docker_engine) == {relay.container_name: State.RUNNING}
    relay = only_relay(relay.group)
    assert (relay.is_running, relay.trouble_code, relay.tries) == (True, "", 0)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_worker_killed_while_removing_leaves_nothing_in_the_end(
    moment: str, docker_engine: DockerEngine, here: Server, alice: User
) -> None:
    bought = group(alice)
    assert reconcile(here.pk).started
    stop(bought)
    worker_that_dies(here, "remove", moment)
    passes_later(here)
    assert on(docker_engine) == {}
    assert only_relay(bought).observed_state == Relay.Observed.ABSENT
    assert reap_volumes(here) == []


def test_an_engine_killed_between_create_and_start_ends_with_one_relay(
    docker_engine: DockerEngine, here: Server, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = only_relay(group(alice))

    def doomed(_server: Server) -> Any:
        runtime = docker_engine.runtime()
        start = runtime.start

        def kill_and_start(name: str) -> None:
            docker_engine.kill9()
            start(name)

        monkeypatch.setattr(runtime, "start", kill_and_start)
        return runtime

    reconcile(here.pk, runtime_for=doomed)
    assert only_relay(relay.group).trouble_code == "connection_refused"
    docker_engine.start()
    passes_later(here)
    assert on(docker_engine) == {relay.container_name: State.RUNNING}
    assert only_relay(relay.group).trouble_code == ""


def test_a_lease_that_ends_while_the_engine_is_away_for_an_hour_ends_when_it_returns(
    docker_engine: DockerEngine, here: Server, alice: User
) -> None:
    bought = group(alice, lasts=timedelta(minutes=20))
    assert reconcile(here.pk).started
    docker_engine.kill9()
    try:
        for minutes in (5, 30, 60):
            with time_machine.travel(now() + timedelta(minutes=minutes)):
                assert not reconcile(here.pk).reachable
    finally:
        docker_engine.start()
    assert on(docker_engine), "it ran on while nobody could stop it"
    with time_machine.travel(now() + timedelta(minutes=61)):
        wait_until(lambda: reconcile(here.pk).reachable and not on(docker_engine), what="an empty host")
    assert only_relay(bought).observed_state == Relay.Observed.ABSENT
