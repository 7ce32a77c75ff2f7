"""Real hosts that are cut off, killed, frozen and brought back, and what is left when all is quiet again."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import Any

import pytest
from django.db import connection

from accounts.models import User
from derp_portal.lib.clock import now
from fleet import services, tasks
from fleet.models import Alert, Evacuation, Move, Outage, Relay, Server, ServerEvent
from fleet.monitoring import probing
from fleet.runtimes.base import Rejected
from fleet.selectors import derp_map_of
from fleet.services.enrolment import look_at_server
from tests.fleet.engines import relay_spec
from tests.fleet.fleet_parts import only_relay
from tests.fleet.hosts import DockerHost
from tests.fleet.world import World

pytestmark = [
    pytest.mark.xdist_group("docker-hosts"),
    pytest.mark.django_db(transaction=True),
]


@pytest.fixture
def world(fresh_hosts: list[DockerHost], settings: Any, transactional_db: None) -> World:
    settings.FAILOVER_GRACE_SECONDS = 3
    # Nobody listens there, and derper lets clients in when its door does not answer.
    settings.ADMISSION_URL = f"http://{fresh_hosts[0].gateway}:9"
    made = World(fresh_hosts)
    made.tick()
    return made


def running(world: World, owner: User, relays: int = 1) -> Relay:
    group = world.sell(owner, relays=relays)
    world.until(world.is_settled)
    return group.relays.select_related("group", "server", "port").get(slot=0)


def test_a_host_that_is_cut_off_loses_its_relays_to_another_and_is_tidied_when_it_returns(
    world: World, alice: User
) -> None:
    relay = running(world, alice)
    host, old_map = world.host_of(relay), derp_map_of(relay.group)
    host.cut()
    world.until(lambda: Move.objects.filter(state=Move.State.ANSWERED).exists(), what="a failover")
    moved = only_relay(relay.group)
    assert moved.server_id != relay.server_id and moved.generation > relay.generation
    assert world.serves(moved)
    assert derp_map_of(relay.group) != old_map
    assert world.boxes(host), "the cut host still runs the old one, and nobody can tell it"
    lost = Server.objects.get(pk=relay.server_id or 0)
    assert (lost.phase, lost.status) == (Server.Phase.UNHEALTHY, Server.Status.UNHEALTHY)
    assert Outage.objects.get().ended_at
    world.until(lambda: Evacuation.objects.get().state == Evacuation.State.DONE)
    host.heal()
    world.until(lambda: not world.boxes(host), what="the stale container reaped")
    world.check()
    kinds = list(ServerEvent.objects.filter(server=lost).order_by("id").values_list("kind", flat=True))
    assert kinds[-3:] == ["suspect", "unhealthy", "recovered"]
    world.forget_waiting()
    world.tick()
    assert Server.objects.get(pk=lost.pk).phase == Server.Phase.HEALTHY


def test_a_standby_serves_while_the_primary_is_on_its_way(world: World, alice: User) -> None:
    relay = running(world, alice, relays=2)
    standby = relay.group.relays.select_related("server").get(slot=1)
    assert standby.server and relay.server and standby.server.ip != relay.server.ip
    world.host_of(relay).cut()
    world.until(lambda: Server.objects.filter(phase=Server.Phase.UNHEALTHY).exists())
    assert world.serves(standby)
    assert not Outage.objects.exists(), "the customer's clock runs on: one relay of the map always served"
    world.until(lambda: Move.objects.filter(state=Move.State.ANSWERED).exists())
    world.host_of(relay).heal()
    world.check()


@pytest.mark.parametrize("fault", ["kill9", "freeze", "cut_portal_only"])
def test_a_silent_engine_whose_relays_answer_is_no_reason_to_move_them(
    world: World, alice: User, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # They do answer, however busy this machine is.
    monkeypatch.setattr(probing, "SAMPLE_TIMEOUT_SECONDS", 30.0)
    relay = running(world, alice)
    host = world.host_of(relay)
    getattr(host, fault)()
    quiet = time.monotonic() + 8
    while time.monotonic() < quiet:
        world.tick()
    assert Server.objects.get(pk=relay.server_id or 0).phase == Server.Phase.SUSPECT
    assert not Move.objects.exists()
    assert world.serves(relay)
    host.heal()
    host.thaw()
    host.start()
    world.check()
    world.until(lambda: Server.objects.get(pk=relay.server_id or 0).phase == Server.Phase.HEALTHY)
    assert only_relay(relay.group).server_id == relay.server_id


def test_a_host_that_loses_power_comes_back_empty_handed(world: World, alice: User) -> None:
    relay = running(world, alice)
    host = world.host_of(relay)
    host.power_off()
    world.until(lambda: Move.objects.filter(state=Move.State.ANSWERED).exists(), what="a failover")
    host.power_on()
    world.check()
    assert world.boxes(host) == {}


def test_a_host_that_comes_back_with_an_old_disk_ends_up_as_wanted(world: World, alice: User, bob: User) -> None:
    for owner in (alice, bob, alice, bob):
        world.sell(owner)
    world.until(world.is_settled)
    relay = world.relays()[0]
    host = world.host_of(relay)
    host.snapshot_disk()
    services.move_relay(relay_id=relay.pk, server_id=None, actor=None)
    world.until(world.is_settled, what="the move")
    host.restore_disk()
    assert relay.container_name in host.containers(), "the old disk has the container that had left"
    world.forget_waiting()
    world.check()


def test_with_every_host_down_nothing_moves_and_everything_comes_back(world: World, alice: User) -> None:
    relay = running(world, alice, relays=2)
    standby = relay.group.relays.get(slot=1)
    for host in world.hosts:
        host.cut()
    world.until(lambda: Server.objects.filter(phase=Server.Phase.UNHEALTHY).count() == 3)
    world.tick()
    assert Alert.objects.filter(alert_type=Alert.Kind.NO_ROOM, resolved=False).exists()
    assert not Move.objects.filter(state=Move.State.PLACED).exists()
    for host in world.hosts:
        host.heal()
    world.check()
    assert {one.server_id for one in world.relays()} == {relay.server_id, standby.server_id}
    assert not Alert.objects.filter(resolved=False).exists()


def test_where_there_is_room_for_half_the_more_important_half_runs(world: World, alice: User, bob: User) -> None:
    Server.objects.filter(pk=world.servers[2].pk).update(is_enabled=False)
    for number in range(4):
        world.sell(alice if number % 2 else bob, priority=number)
    world.until(world.is_settled)
    first, second = world.servers[0], world.servers[1]
    on_first = list(Relay.objects.filter(server=first).order_by("-group__priority"))
    assert len(on_first) == 2
    Server.objects.filter(pk=second.pk).update(max_relays=3)
    world.hosts[0].cut()
    world.until(lambda: Move.objects.filter(state=Move.State.ANSWERED).exists(), what="one failover")
    important, other = (Relay.objects.get(pk=relay.pk) for relay in on_first)
    assert important.server_id == second.pk
    assert other.server_id == first.pk
    assert Move.objects.get(relay=other).waits_for == "no_room"
    Server.objects.filter(pk=second.pk).update(max_relays=4)
    world.until(lambda: Move.objects.filter(relay=other, state=Move.State.ANSWERED).exists(), what="the other failover")
    world.hosts[0].heal()
    world.check()


def test_two_portals_workers_at_once_make_one_relay_of_each(world: World, alice: User) -> None:
    for _ in range(4):
        world.sell(alice, relays=2)
    world.until(world.is_settled)
    world.hosts[0].cut()
    over = threading.Event()

    def second_worker() -> None:
        try:
            while not over.is_set():
                world.tick()
        finally:
            connection.close()

    other = threading.Thread(target=second_worker)
    other.start()
    try:
        world.until(lambda: not Relay.objects.filter(server=world.servers[0]).exists())
        world.hosts[0].heal()
        time.sleep(3)
    finally:
        over.set()
        other.join(180)
    assert not other.is_alive()
    world.forget_waiting()
    world.check()


def test_with_the_portal_stopped_relays_serve_on_until_their_deadline(world: World, alice: User) -> None:
    relay = running(world, alice)
    world.host_of(relay).kill9()
    world.host_of(relay).start()
    assert world.serves(relay), "neither the portal nor the engine is needed"


def test_one_engine_under_two_addresses_is_refused_in_words_and_nothing_is_touched(world: World, alice: User) -> None:
    relay = running(world, alice)
    host = world.host_of(relay)
    twin = World.enrol(host, 9)
    Server.objects.filter(pk=twin.pk).update(ip="192.0.2.99")
    with pytest.raises(Rejected, match="enrolled_twice"):
        look_at_server(server_id=twin.pk)
    tasks.reconcile_server(twin.pk)
    assert Server.objects.get(pk=twin.pk).error_code == "enrolled_twice"
    assert list(world.boxes(host)) == [relay.container_name]
    assert world.serves(relay)


def test_another_portals_host_is_refused_and_left_alone(world: World, settings: Any, alice: User) -> None:
    relay = running(world, alice)
    host = world.host_of(relay)
    theirs = world.boxes(host)
    settings.PORTAL_ID = "ffffffffffff"
    Server.objects.filter(pk=relay.server_id or 0).update(engine_id="")
    Relay.objects.update(generation=9)
    tasks.reconcile_server(relay.server_id)
    assert Server.objects.get(pk=relay.server_id or 0).error_code == "foreign_portal"
    settings.PORTAL_ID = relay_portal(host)
    assert world.boxes(host) == theirs


def relay_portal(host: DockerHost) -> str:
    """The portal whose relays the host carries."""
    api = host.api()
    try:
        return str(next(row["Labels"]["derp-portal.portal"] for row in api.containers(all=True)))
    finally:
        api.close()


def test_an_engine_that_was_restarted_still_knows_whose_its_volumes_are(fresh_hosts: list[DockerHost]) -> None:
    host = fresh_hosts[0]
    with closing(host.runtime()) as runtime:
        assert runtime.claim("ours") == "ours"
        spec = relay_spec(image=host.image, portal_id="ours")
        runtime.create(spec)
        runtime.remove(spec.name)
    host.power_off()
    host.power_on()
    with closing(host.runtime()) as runtime:
        assert runtime.claim("theirs") == "ours"
        assert runtime.create(spec), "its volume was left over, and is its own"


def test_the_time_from_cut_to_answer_stays_within_the_grace(world: World, alice: User, settings: Any) -> None:
    """Not a benchmark (`make bench` prints the figure): the order of magnitude, on a machine of any speed."""
    relay = running(world, alice)
    cut_at = now()
    world.host_of(relay).cut()
    world.until(lambda: Move.objects.filter(state=Move.State.ANSWERED).exists())
    move = Move.objects.get()
    assert move.ended_at and (move.ended_at - cut_at).total_seconds() < 180
    world.host_of(relay).heal()
