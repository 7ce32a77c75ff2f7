"""One relay on its way: the old container serves until the new one answers; who does not work is rescued."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from time_machine import Traveller

from accounts.models import Notification, User
from fleet import services
from fleet.models import Move, MoveReason, Outage, Port, Relay, RelayEvent, Server
from fleet.runtimes.base import Rejected
from fleet.selectors import derp_map_of
from fleet.services.moves import note_answers
from fleet.services.placement import SET_ASIDE, take_port
from fleet.services.rescue import RESCUES_A_DAY
from tests.fleet.fleet_parts import Fleet, group, only_relay, server


@pytest.fixture
def clock() -> Iterator[Traveller]:
    with time_machine.travel(datetime(2031, 3, 1, 9, tzinfo=UTC), tick=False) as travel:
        yield travel


def settle(fleet: Fleet, rounds: int = 3) -> None:
    for _ in range(rounds):
        fleet.sweep()


def sweep_for(fleet: Fleet, clock: Traveller, minutes: int, *, every: int = 30) -> None:
    for _ in range(minutes * 60 // every):
        clock.shift(every)
        fleet.sweep()


def move(relay: Relay) -> None:
    services.move_relay(relay_id=relay.pk, server_id=None, actor=None)


def test_the_old_container_serves_until_the_new_one_answers(alice: User) -> None:
    here, there = server(1), server(2)
    fleet = Fleet([here, there])
    relay = only_relay(group(alice))
    settle(fleet)
    move(relay)
    fleet.dark.add(there.pk)
    settle(fleet)
    assert fleet.on(here).boxes
    assert fleet.on(there).boxes
    assert not Notification.objects.filter(kind="relay_moved").exists()
    fleet.dark.clear()
    settle(fleet)
    assert not fleet.on(here).boxes
    assert Notification.objects.filter(kind="relay_moved").count() == 1
    assert not Outage.objects.exists()


def test_an_answer_from_the_place_it_has_left_is_not_one_from_the_new(alice: User) -> None:
    server(1)
    server(2)
    relay = only_relay(group(alice))
    move(relay)
    note_answers({relay.pk: relay.generation})
    assert Move.objects.get().state == Move.State.PLACED
    note_answers({relay.pk: relay.generation + 1})
    assert Move.objects.get().state == Move.State.ANSWERED


def test_the_port_it_leaves_is_nobodys_for_an_hour(alice: User, clock: Traveller) -> None:
    here = server(1, port_first=21000, port_last=21000)
    there = server(2)
    relay = only_relay(group(alice))
    move(relay)
    waiting = group(alice)
    waiting.servers.set([here])
    assert only_relay(waiting).server == there
    clock.shift(SET_ASIDE + timedelta(seconds=1))
    assert take_port(only_relay(waiting), here).number == 21000


@pytest.mark.both_databases
def test_a_relay_that_runs_and_does_not_answer_is_restarted_then_moved(alice: User, clock: Traveller) -> None:
    here, there = server(1), server(2)
    fleet = Fleet([here, there])
    bought = group(alice)
    settle(fleet)
    before = only_relay(bought)
    fleet.dark.add(here.pk)
    sweep_for(fleet, clock, 2)
    restarted = only_relay(bought)
    assert (restarted.server, restarted.generation) == (here, before.generation + 1)
    sweep_for(fleet, clock, 3)
    moved = only_relay(bought)
    assert (moved.server, moved.is_running) == (there, True)
    assert Move.objects.get().reason == MoveReason.RESCUE
    assert not fleet.on(here).boxes


def test_without_room_elsewhere_it_is_restarted_once_and_stays(alice: User, clock: Traveller) -> None:
    here = server(1)
    fleet = Fleet([here])
    bought = group(alice)
    settle(fleet)
    fleet.dark.add(here.pk)
    sweep_for(fleet, clock, 20)
    assert only_relay(bought).server == here
    assert RelayEvent.objects.filter(kind=RelayEvent.Kind.RESTARTED).count() == 1
    assert not Move.objects.exists()


def test_a_relay_that_cannot_start_where_it_is_goes_elsewhere(alice: User, clock: Traveller) -> None:
    here, there = server(1), server(2)
    fleet = Fleet([here, there])
    bought = group(alice)
    fleet.on(here).fail(Rejected("disk_full"), "create")
    sweep_for(fleet, clock, 3)
    assert (only_relay(bought).server, only_relay(bought).is_running) == (there, True)


def test_a_clock_that_stands_past_its_end_does_not_keep_a_relay_from_being_rescued(
    alice: User, clock: Traveller
) -> None:
    here = server(1)
    fleet = Fleet([here])
    bought = group(alice, lasts=timedelta(minutes=5))
    fleet.on(here).fail(Rejected("disk_full"), "create")
    sweep_for(fleet, clock, 10)
    there = server(2)
    fleet.add(there)
    sweep_for(fleet, clock, 2)
    assert (only_relay(bought).server, only_relay(bought).is_running) == (there, True)


def test_a_relay_is_rescued_a_few_times_a_day_and_then_left_to_people(alice: User, clock: Traveller) -> None:
    fleet = Fleet([server(number) for number in (1, 2, 3)])
    group(alice)
    settle(fleet)
    fleet.dark.update(fleet.engines)
    sweep_for(fleet, clock, 60, every=60)
    assert Move.objects.filter(reason=MoveReason.RESCUE).count() == RESCUES_A_DAY
    sweep_for(fleet, clock, 10)
    assert Move.objects.count() == RESCUES_A_DAY


def test_a_relay_on_its_way_to_a_host_that_cannot_start_it_is_taken_further_and_serves_meanwhile(
    alice: User, clock: Traveller
) -> None:
    here, broken = server(1), server(2)
    fleet = Fleet([here, broken])
    bought = group(alice)
    settle(fleet)
    before = only_relay(bought)
    fleet.on(broken).fail(Rejected("disk_full"), "create")
    services.drain_server(server_id=here.pk, actor=None)
    settle(fleet)
    assert only_relay(bought).trouble_code == "disk_full"
    spare = server(3)
    fleet.add(spare)
    while only_relay(bought).server != spare:
        assert before.container_name in fleet.on(here).boxes
        clock.shift(30)
        fleet.sweep()
    settle(fleet)
    assert only_relay(bought).is_running
    assert not fleet.on(here).boxes
    answered = Move.objects.get(state=Move.State.ANSWERED)
    assert (answered.from_ip, answered.to_ip) == (here.ip, spare.ip)


@pytest.mark.both_databases
def test_a_new_address_is_in_every_map_at_once_and_owners_are_told_when_it_answers(alice: User, bob: User) -> None:
    here = server(1)
    fleet = Fleet([here])
    groups = [group(alice), group(bob)]
    settle(fleet)
    generations = set(Relay.objects.values_list("id", "generation"))
    services.update_server(server_id=here.pk, ip="203.0.113.9", actor=None)
    assert all("203.0.113.9" in str(derp_map_of(one)) for one in groups)
    assert not Notification.objects.filter(kind="relay_moved").exists()
    settle(fleet)
    told = Notification.objects.filter(kind="relay_moved")
    assert {one.user for one in told} == {alice, bob}
    assert all("192.0.2.1" in one.body_text and "203.0.113.9" in one.body_text for one in told)
    assert set(Relay.objects.values_list("id", "generation")) == generations, "nothing was restarted"


def test_a_restart_before_the_new_address_answers_keeps_the_port(alice: User) -> None:
    here = server(1)
    fleet = Fleet([here])
    relay = only_relay(group(alice))
    settle(fleet)
    services.update_server(server_id=here.pk, ip="203.0.113.9", actor=None)
    services.restart_relay(relay_id=relay.pk, actor=None)
    settle(fleet)
    after = only_relay(relay.group)
    assert (after.is_running, after.port.number) == (True, relay.port.number)
    assert len(fleet.on(here).boxes) == 1


def test_a_new_name_changes_no_map_and_moves_nothing(alice: User) -> None:
    here = server(1)
    bought = group(alice)
    before = derp_map_of(bought)
    services.update_server(server_id=here.pk, name="another name", actor=None)
    assert derp_map_of(bought) == before
    assert not Move.objects.exists()


def test_the_fuller_uplink_counts_and_who_came_back_from_the_dead_comes_last(alice: User) -> None:
    narrow, wide = server(1, uplink_mbps=1), server(2, uplink_mbps=1000)
    assert [only_relay(group(alice, speed=1_000_000)).server for _ in range(4)] == [narrow, wide, wide, wide]
    back = server(3, phase=Server.Phase.RECOVERED)
    assert only_relay(group(alice, speed=1_000_000)).server == wide
    Server.objects.filter(pk__in=[narrow.pk, wide.pk]).update(is_enabled=False)
    assert only_relay(group(alice, speed=1_000_000)).server == back
    assert Port.objects.filter(server=back).count() == 1
