"""Known bytes through real derpers, and the books afterwards: whatever happens to containers, hosts and workers."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from pytest_django.fixtures import Settings

from accounts.models import User
from derp_portal.lib.clock import now
from fleet import tasks
from fleet.metering import rounds
from fleet.metering.cross_check import compare_counters
from fleet.metering.reading import Question, ask
from fleet.models import Alert, Meter, Move, Relay, RelayGroup, Server, Wanted
from fleet.monitoring.probing import probe_relays
from fleet.reconciler.loop import reconcile
from fleet.runtimes.executables import IMAGE_DERPER
from fleet.services.quota_keeping import add_pack, keep_quotas
from fleet.services.quotas import usage_of
from fleet.services.relays import move_relay
from tests.fleet import fleet_parts, story
from tests.fleet.doomed import work
from tests.fleet.engines import Relayd, wait_until
from tests.fleet.hosts import DockerHost
from tests.fleet.world import World
from tests.parts import need
from tests.ports import free_port

pytestmark = pytest.mark.django_db(transaction=True)

PACKET = 10_000


class Devices:
    """Two devices of a customer that send each other packets, and what they know to have sent and received."""

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0

    def exchange(self, relay: Relay, packets: int = 20) -> None:
        """Send so many packets through the relay, one after the other, each seen to arrive."""
        relay = Relay.objects.select_related("group", "server", "port").get(pk=relay.pk)
        with ExitStack() as stack:
            phone, laptop = (stack.enter_context(story.client(relay, name)) for name in ("phone", "laptop"))
            for _number in range(packets):
                phone.send_packet(laptop.node_key, b"x" * PACKET)
                self.sent += PACKET
                assert laptop.recv().payload == b"x" * PACKET
                self.received += PACKET
            # derper counts a packet when it has written it. It writes the answer to this one after that.
            laptop.ping()


def read_all() -> None:
    """As if every reading were due."""
    Meter.objects.exclude(next_read_at=None).update(next_read_at=now())
    rounds.meter_due()


def booked(relay: Relay) -> tuple[int, int]:
    return Relay.objects.values_list("upload_bytes", "download_bytes").get(pk=relay.pk)


@pytest.fixture
def devices() -> Devices:
    return Devices()


@pytest.fixture
def here(relayd: Relayd, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server of processes that run the real derper; nobody is at its door, and derper then lets clients in."""
    need("derper")
    settings.RELAYD_SOCKET = relayd.socket
    settings.ADMISSION_URL = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setattr("fleet.reconciler.desired.relay_image", lambda _server: IMAGE_DERPER)
    monkeypatch.setattr("fleet.services.groups.fleet_image", lambda: IMAGE_DERPER)
    # The last reading of a relay, which is taken once, counts also where everything takes its time.
    monkeypatch.setattr(rounds, "LAST_READING_SECONDS", 60)
    port = free_port()
    return fleet_parts.server(
        ip="127.0.0.1", runtime=Server.Runtime.PROCESS, endpoint="", port_first=port, port_last=port
    )


@pytest.fixture
def relay(here: Server, alice: User) -> Relay:
    return started(fleet_parts.group(alice), here)


def started(group: RelayGroup, here: Server) -> Relay:
    reconcile(here.pk)
    relay = fleet_parts.only_relay(group)
    assert relay.is_running, (relay.trouble_code, relay.trouble_detail)
    wait_until(lambda: tells(relay), what="an answering relay")
    return relay


def tells(relay: Relay) -> bool:
    [reading] = ask([Question(relay, relay.generation, 0, "127.0.0.1", relay.port.number, None)])
    return reading.counters is not None


def test_the_books_hold_what_the_devices_sent_and_received(relay: Relay, devices: Devices) -> None:
    read_all()
    devices.exchange(relay)
    read_all()
    assert booked(relay) == (devices.sent, devices.received)


def test_probes_are_not_in_the_books(relay: Relay, devices: Devices) -> None:
    read_all()
    devices.exchange(relay, 1)
    for _time in range(5):
        assert probe_relays([Relay.objects.select_related("server", "port", "health").get(pk=relay.pk)])[0].healthy
    read_all()
    assert booked(relay) == (devices.sent, devices.received)


def test_a_planned_replacement_loses_nothing(relay: Relay, here: Server, devices: Devices) -> None:
    read_all()
    devices.exchange(relay)
    # Nobody has read since: the pass does, before it stops the old container.
    Relay.objects.filter(pk=relay.pk).update(generation=2)
    reconcile(here.pk)
    wait_until(lambda: tells(relay), what="the new one")
    devices.exchange(relay)
    read_all()
    assert booked(relay) == (devices.sent, devices.received)


def test_a_killed_relay_costs_what_was_not_yet_read_and_is_never_counted_twice(
    relay: Relay, relayd: Relayd, devices: Devices
) -> None:
    read_all()
    devices.exchange(relay)
    read_all()
    unread = Devices()
    unread.exchange(relay, 5)
    pid = relayd.main_pid(relay.container_name)
    # derper tells its start to the second; a process that follows within the same one looks like its predecessor.
    time.sleep(1.1)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: relayd.main_pid(relay.container_name) not in (0, pid), what="a new process")
    wait_until(lambda: tells(relay), what="an answer")
    devices.exchange(relay)
    read_all()
    assert booked(relay) == (devices.sent, devices.received)


WORKER = """
import os, signal, sys
from fleet.metering import books, rounds
from fleet.metering.cross_check import compare_counters

def die(*_arguments):
    os.kill(os.getpid(), signal.SIGKILL)

module, step = sys.argv[1:]
setattr({"books": books, "rounds": rounds}[module], step, die)
rounds.meter_due()
"""


@pytest.mark.parametrize(
    ("step", "has_booked"),
    [
        ("rounds.book", False),
        ("books._write", False),
        ("books._add_to_buckets", False),
        ("books._add_to_periods", False),
        # Everything is committed: what is over its quota is found by the sweep.
        ("rounds.judge_group", True),
    ],
)
def test_a_worker_killed_between_reading_and_writing_costs_nothing(
    here: Server, alice: User, devices: Devices, step: str, has_booked: bool
) -> None:
    group = fleet_parts.group(alice, quota_bytes=300_000, period=(now(), now() + timedelta(days=1)))
    relay = started(group, here)
    read_all()
    devices.exchange(relay, 20)
    Meter.objects.update(next_read_at=now())
    connection.close()
    done = work(WORKER, *step.split("."))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert booked(relay) == ((devices.sent, devices.received) if has_booked else (0, 0))
    read_all()
    keep_quotas()
    assert booked(relay) == (devices.sent, devices.received)
    group.refresh_from_db()
    assert (group.wanted, group.wanted_reason) == (Wanted.STOPPED, "over_quota")


def test_over_quota_by_no_more_than_passed_since_the_reading_before(
    here: Server, alice: User, devices: Devices
) -> None:
    group = fleet_parts.group(alice, quota_bytes=1_000_000, period=(now(), now() + timedelta(days=1)))
    relay = started(group, here)
    read_all()
    most = 0
    for _reading in range(10):
        before = devices.sent + devices.received
        devices.exchange(relay, 8)
        most = max(most, devices.sent + devices.received - before)
        read_all()
        group.refresh_from_db()
        if group.wanted == Wanted.STOPPED:
            break
    assert group.wanted_reason == "over_quota"
    assert 0 <= usage_of([group])[group.pk].used - 1_000_000 < most


def test_a_task_delivered_twice_at_once_counts_once(relay: Relay, devices: Devices) -> None:
    read_all()
    devices.exchange(relay)
    Meter.objects.update(next_read_at=now())
    together = threading.Barrier(2)

    def deliver() -> None:
        try:
            together.wait(60)
            tasks.meter_due()
        finally:
            connection.close()

    workers = [threading.Thread(target=deliver) for _number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert booked(relay) == (devices.sent, devices.received)


def test_over_quota_it_stops_at_the_next_reading_and_runs_again_with_a_pack(
    here: Server, alice: User, root: User, devices: Devices
) -> None:
    period = (now(), now() + timedelta(days=1))
    group = fleet_parts.group(alice, quota_bytes=300_000, period=period)
    relay = started(group, here)
    read_all()
    devices.exchange(relay, 20)
    read_all()
    group.refresh_from_db()
    assert (group.wanted, group.wanted_reason) == (Wanted.STOPPED, "over_quota")
    reconcile(here.pk)
    assert not tells(relay)
    add_pack(group_id=group.pk, extra_bytes=10**6, key="pack", actor=root)
    reconcile(here.pk)
    wait_until(lambda: tells(relay), what="running again, by itself")
    devices.exchange(relay, 5)
    read_all()
    assert booked(relay) == (devices.sent, devices.received)


@pytest.fixture
def world(fresh_hosts: list[DockerHost], settings: Settings, transactional_db: None) -> World:
    # No host is lost here, however long a busy machine takes to answer.
    settings.FAILOVER_GRACE_SECONDS = 600
    settings.ADMISSION_URL = f"http://{fresh_hosts[0].gateway}:9"
    made = World(fresh_hosts)
    made.tick()
    return made


def served(world: World, owner: User) -> Relay:
    group = world.sell(owner)
    world.until(world.is_settled)
    return fleet_parts.only_relay(group)


def assert_close(relay: Relay, devices: Devices) -> None:
    """Within half a percent of the truth, and never above it."""
    for counted, true in zip(booked(relay), (devices.sent, devices.received), strict=True):
        assert true * 0.995 <= counted <= true


@pytest.mark.xdist_group("docker-hosts")
def test_a_relay_that_moves_between_hosts_takes_its_books_along(world: World, alice: User, devices: Devices) -> None:
    relay = served(world, alice)
    read_all()
    devices.exchange(relay)
    move_relay(relay_id=relay.pk, server_id=None, actor=alice)
    world.until(lambda: Move.objects.get().state == Move.State.ANSWERED and world.is_settled())
    devices.exchange(relay)
    read_all()
    assert_close(relay, devices)


@pytest.mark.xdist_group("docker-hosts")
def test_a_real_engine_counts_more_than_the_books_and_tells_when_they_are_far_off(
    world: World, alice: User, devices: Devices
) -> None:
    relay = served(world, alice)
    assert relay.server_id is not None
    read_all()
    compare_counters(relay.server_id)
    devices.exchange(relay, 200)
    compare_counters(relay.server_id)
    meter = Meter.objects.get(relay=relay)
    # Below the truth only by probes that were noted and did not come through.
    assert_close(relay, devices)
    assert meter.booked_bytes == sum(booked(relay))
    assert meter.engine_bytes is not None
    assert meter.engine_bytes > meter.booked_bytes
    assert not Alert.objects.filter(alert_type=Alert.Kind.COUNTERS_DIFFER).exists()
    Meter.objects.filter(pk=meter.pk).update(booked_bytes=meter.booked_bytes + 50 * 1000**2)
    compare_counters(relay.server_id)
    assert Alert.objects.filter(alert_type=Alert.Kind.COUNTERS_DIFFER, resolved=False).count() == 1


@pytest.mark.xdist_group("docker-hosts")
@pytest.mark.parametrize("what", ["restart", "kill"])
def test_a_container_that_starts_anew_is_not_counted_twice(
    world: World, alice: User, devices: Devices, what: str
) -> None:
    relay = served(world, alice)
    devices.exchange(relay)
    read_all()
    # A process is told from the one before it by the second in which it started.
    started = Meter.objects.get(relay=relay).counts_since
    wait_until(lambda: time.time() >= started + 2, what="another second")
    with_api: Callable[..., Any] = world.host_of(relay).api
    api = with_api()
    try:
        getattr(api, what)(relay.container_name)
    finally:
        api.close()
    world.until(lambda: world.is_settled() and world.serves(relay))
    devices.exchange(relay)
    read_all()
    assert_close(relay, devices)


@pytest.mark.xdist_group("docker-hosts")
def test_what_passes_while_the_portal_cannot_reach_the_host_is_booked_when_it_can(
    world: World, alice: User, devices: Devices
) -> None:
    relay = served(world, alice)
    read_all()
    host = world.host_of(relay)
    devices.exchange(relay)
    host.cut()
    read_all()
    assert Meter.objects.get(relay=relay).failures == 1
    host.heal()
    devices.exchange(relay)
    read_all()
    assert_close(relay, devices)
