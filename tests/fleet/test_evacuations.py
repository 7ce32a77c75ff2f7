"""Emptying servers: after a loss all at once and in order, in a drain a few at a time and never a whole map."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext
from time_machine import Traveller

from accounts.models import Notification, User
from derp_portal.lib.clock import now
from fleet import services
from fleet.models import Alert, Evacuation, Move, MoveReason, Outage, Relay, RelayGroup, Server, Wanted
from fleet.runtimes.base import State, Unavailable
from fleet.selectors import derp_map_of
from fleet.services.evacuations import AT_A_TIME, carry_on, carry_on_all, lose_server
from fleet.services.phases import FAILED_LOOKS_UNTIL_LOST, grace, judge, look_failed
from tests.fleet.fleet_parts import Fleet, group, only_relay, server, stop

IDENTITY = ("code", "host_name", "derper_key", "certificate", "pin", "admission_hash", "region_id")


@pytest.fixture
def clock() -> Iterator[Traveller]:
    with time_machine.travel(datetime(2031, 3, 1, 9, tzinfo=UTC), tick=False) as travel:
        yield travel


def settle(fleet: Fleet, rounds: int = 3) -> None:
    for _ in range(rounds):
        fleet.sweep()


def lose(fleet: Fleet, here: Server, clock: Traveller) -> None:
    """Cut the host off and wait until everybody is sure."""
    fleet.cut(here)
    clock.shift(grace())
    for _ in range(FAILED_LOOKS_UNTIL_LOST):
        fleet.examine(here)


def only_open(*servers: Server) -> None:
    """Let these alone take relays."""
    Server.objects.update(is_enabled=False)
    Server.objects.filter(pk__in=[one.pk for one in servers]).update(is_enabled=True)


def is_alerted(kind: Alert.Kind) -> bool:
    return Alert.objects.filter(alert_type=kind, resolved=False).exists()


# --- failover ------------------------------------------------------------------------------------------


def test_a_lost_relay_lives_on_elsewhere_as_the_same_one(alice: User, clock: Traveller) -> None:
    here, there = server(1), server(2)
    fleet = Fleet([here, there])
    bought = group(alice)
    settle(fleet)
    before, deadline, old_map = only_relay(bought), bought.run_until, derp_map_of(bought)
    lose(fleet, here, clock)
    settle(fleet)
    after = only_relay(bought)
    assert (after.server, after.generation, after.is_running) == (there, before.generation + 1, True)
    assert [getattr(after, name) for name in IDENTITY] == [getattr(before, name) for name in IDENTITY]
    assert derp_map_of(bought) != old_map
    outage = Outage.objects.get()
    assert (outage.started_at, outage.cause) == (clock_start(), "host_lost"), "since its last sign of life"
    assert outage.ended_at == clock_start() + grace()
    assert after.group.run_until == deadline + grace(), "made up for, once"
    assert Evacuation.objects.get().state == Evacuation.State.DONE
    move = Move.objects.get()
    assert (move.from_server, move.to_server, move.state) == (here, there, Move.State.ANSWERED)


def clock_start() -> datetime:
    return datetime(2031, 3, 1, 9, tzinfo=UTC)


def test_its_owner_is_told_once_and_operators_until_the_server_is_back(
    alice: User, root: User, clock: Traveller
) -> None:
    here = server(1)
    fleet = Fleet([here, server(2)])
    group(alice)
    settle(fleet)
    lose(fleet, here, clock)
    settle(fleet, 4)
    assert Notification.objects.filter(kind="relay_moved", user=alice).count() == 1
    assert Notification.objects.filter(kind="alert", user=root).count() == 1
    assert is_alerted(Alert.Kind.SERVER_LOST)
    fleet.heal(here)
    settle(fleet)
    assert not is_alerted(Alert.Kind.SERVER_LOST)


def test_stale_containers_are_reaped_when_the_host_returns(alice: User, clock: Traveller) -> None:
    here, there = server(1), server(2)
    fleet = Fleet([here, there])
    bought = group(alice)
    settle(fleet)
    lose(fleet, here, clock)
    settle(fleet)
    assert len(fleet.on(here).boxes) == 1, "nobody can reach it there"
    fleet.heal(here)
    settle(fleet)
    assert not fleet.on(here).boxes
    assert set(fleet.on(there).boxes) == {only_relay(bought).container_name}


def test_a_standby_elsewhere_means_no_outage(alice: User, clock: Traveller) -> None:
    here, there, spare = server(1), server(2), server(3)
    fleet = Fleet([here, there, spare])
    bought = group(alice, relays=2)
    settle(fleet)
    lose(fleet, here, clock)
    settle(fleet)
    assert not Outage.objects.exists()
    assert set(bought.relays.values_list("server", flat=True)) == {there.pk, spare.pk}


@pytest.mark.both_databases
def test_with_room_for_half_the_higher_priorities_of_all_lost_servers_go_first(alice: User, clock: Traveller) -> None:
    first, second, spare = server(1), server(2), server(3, max_relays=2, is_enabled=False)
    fleet = Fleet([first, second, spare])
    bought: dict[int, RelayGroup] = {}
    for priority in (5, 3, 1, 4):
        bought[priority] = group(alice, priority=priority)
        only_open(*((second,) if priority in (5, 1) else (first, second)))
    settle(fleet)
    only_open(spare)
    lose(fleet, first, clock)
    lose(fleet, second, clock)
    carry_on_all()
    assert {priority for priority, one in bought.items() if one.relays.get().server == spare} == {5, 4}
    waiting = Move.objects.filter(state=Move.State.WAITING)
    assert set(waiting.values_list("waits_for", flat=True)) == {"no_room"}
    settle(fleet)
    assert Alert.objects.get(alert_type=Alert.Kind.NO_ROOM, resolved=False).params == {"count": "2"}
    Server.objects.filter(pk=spare.pk).update(max_relays=3)
    settle(fleet)
    assert only_relay(bought[3]).server == spare
    assert is_alerted(Alert.Kind.NO_ROOM)
    Server.objects.filter(pk=spare.pk).update(max_relays=4)
    settle(fleet)
    assert only_relay(bought[1]).is_running
    assert not is_alerted(Alert.Kind.NO_ROOM)
    assert not Outage.objects.filter(ended_at=None).exists()


def test_room_that_appears_goes_to_who_lost_his_relay_before_it_goes_to_newcomers(
    alice: User, bob: User, clock: Traveller
) -> None:
    here = server(1, max_relays=1)
    spare = server(2, max_relays=1, is_enabled=False)
    fleet = Fleet([here, spare])
    lost = group(alice)
    settle(fleet)
    lose(fleet, here, clock)
    settle(fleet)
    newcomer = group(bob)
    Server.objects.filter(pk=spare.pk).update(is_enabled=True)
    fleet.place()
    assert only_relay(lost).server == spare
    assert newcomer.relays.get().trouble_code == "no_room"


def test_a_host_that_returns_in_time_keeps_the_relays_that_found_no_place(alice: User, clock: Traveller) -> None:
    here = server(1)
    fleet = Fleet([here])
    bought = group(alice)
    settle(fleet)
    before = only_relay(bought)
    lose(fleet, here, clock)
    settle(fleet)
    fleet.heal(here)
    settle(fleet)
    after = only_relay(bought)
    assert (after.server, after.generation, after.is_running, after.trouble_code) == (
        here,
        before.generation,
        True,
        "",
    )
    assert Evacuation.objects.get().state == Evacuation.State.CANCELLED
    assert Move.objects.get().state == Move.State.CANCELLED
    assert not Alert.objects.filter(resolved=False).exists()


def test_a_quarantined_group_stays_and_leaves_once_it_is_let_go(alice: User, clock: Traveller) -> None:
    here, there = server(1), server(2)
    fleet = Fleet([here, there])
    bought = group(alice)
    settle(fleet)
    services.set_quarantine(group_id=bought.pk, is_quarantined=True, actor=None)
    lose(fleet, here, clock)
    settle(fleet)
    stays = only_relay(bought)
    assert (stays.server, stays.trouble_code) == (here, "quarantined")
    assert Outage.objects.get().ended_at is None
    services.set_quarantine(group_id=bought.pk, is_quarantined=False, actor=None)
    settle(fleet)
    assert only_relay(bought).server == there


def test_relays_go_to_the_servers_their_group_is_allowed_on_or_wait(alice: User, clock: Traveller) -> None:
    here, other, allowed = server(1), server(2), server(3, max_relays=1, is_enabled=False)
    fleet = Fleet([here, other, allowed])
    bought = group(alice)
    bought.servers.set([here, allowed])
    settle(fleet)
    lose(fleet, here, clock)
    settle(fleet)
    assert Move.objects.get().waits_for == "no_server"
    Server.objects.filter(pk=allowed.pk).update(is_enabled=True)
    settle(fleet)
    assert only_relay(bought).server == allowed


def test_a_relay_that_was_on_its_way_to_a_server_that_dies_too_goes_on_to_the_next(
    alice: User, clock: Traveller
) -> None:
    here, second, third = server(1), server(2), server(3, is_enabled=False)
    fleet = Fleet([here, second, third])
    bought = group(alice)
    settle(fleet)
    before = only_relay(bought)
    fleet.cut(second)  # Nobody has noticed yet.
    services.drain_server(server_id=here.pk, actor=None)
    carry_on_all()
    assert only_relay(bought).server == second
    only_open(third)
    clock.shift(grace())
    for _ in range(FAILED_LOOKS_UNTIL_LOST):
        fleet.examine(second)
    fleet.examine(here)
    assert set(fleet.on(here).boxes) == {before.container_name}, "it serves there until another one answers"
    carry_on_all()
    fleet.examine(third)
    fleet.examine(here)
    assert set(fleet.on(here).boxes) == {before.container_name}
    settle(fleet)
    assert only_relay(bought).server == third
    assert not fleet.on(here).boxes
    told = Notification.objects.filter(kind="relay_moved")
    assert told.count() == 1
    answered = Move.objects.get(state=Move.State.ANSWERED)
    assert (answered.from_ip, answered.to_ip) == (here.ip, third.ip), "the line in the map changed from here to there"


@pytest.mark.both_databases
def test_a_worker_that_dies_after_its_verdict_leaves_the_rest_to_the_sweep(
    alice: User, root: User, clock: Traveller
) -> None:
    here, there = server(1), server(2)
    fleet = Fleet([here, there])
    bought = group(alice)
    settle(fleet)
    deadline = bought.run_until
    fleet.cut(here)
    clock.shift(grace())
    for _ in range(FAILED_LOOKS_UNTIL_LOST):
        look_failed(here.pk, code="timeout", detail="")
    assert judge(here.pk, has_answering_relay=False)
    clock.shift(15)
    settle(fleet)
    assert is_alerted(Alert.Kind.SERVER_LOST)
    after = only_relay(bought)
    assert (after.server, after.is_running) == (there, True)
    assert after.group.run_until == deadline + grace() + timedelta(seconds=15)


def test_losing_the_same_server_again_changes_nothing(alice: User, root: User, clock: Traveller) -> None:
    here = server(1)
    fleet = Fleet([here])
    bought = group(alice)
    settle(fleet)
    lose(fleet, here, clock)
    for _ in range(3):
        clock.shift(5)
        lose_server(here.pk)
        settle(fleet, 1)
    assert (Evacuation.objects.count(), Move.objects.count(), Outage.objects.count()) == (1, 1, 1)
    assert Notification.objects.filter(kind="alert").count() == 2, "one for the server, one for the lack of room"
    assert bought.relays.get().events.filter(kind="trouble").count() == 1


def test_a_server_that_came_back_before_it_was_given_up_is_not_lost(alice: User) -> None:
    here = server(1)
    fleet = Fleet([here])
    bought = group(alice)
    settle(fleet)
    assert lose_server(here.pk) is None
    assert only_relay(bought).is_running
    assert not Evacuation.objects.exists()


def test_a_lease_renewed_while_its_server_is_dead_is_owed_no_time_from_before(alice: User, clock: Traveller) -> None:
    here = server(1)
    fleet = Fleet([here])
    bought = group(alice)
    settle(fleet)
    stop(bought)
    lose(fleet, here, clock)
    settle(fleet)
    clock.shift(timedelta(days=5))
    services.set_group(
        group_id=bought.pk,
        wanted=Wanted.RUNNING,
        run_until=clock_start() + timedelta(days=30),
        actor=None,
    )
    settle(fleet)
    server(2)
    assert Outage.objects.get().started_at == clock_start() + grace() + timedelta(days=5)


def test_moving_by_hand_all_that_is_ill_says_beforehand_what_it_will_do(alice: User, clock: Traveller) -> None:
    here, there = server(1), server(2, max_relays=1, is_enabled=False)
    fleet = Fleet([here, there])
    low, high = group(alice), group(alice, priority=1)
    held = group(alice)
    services.set_quarantine(group_id=held.pk, is_quarantined=True, actor=None)
    settle(fleet)
    fleet.cut(here)
    fleet.examine(here)
    Server.objects.filter(pk=there.pk).update(is_enabled=True)
    planned = services.plan_failover(server_id=None)
    assert {(one.relay.group_id, one.to, one.reason) for one in planned} == {
        (high.pk, there, ""),
        (low.pk, None, "no_room"),
        (held.pk, None, "quarantined"),
    }
    assert not Move.objects.exists()
    [evacuation] = services.fail_over(server_id=None, actor=None)
    assert services.fail_over(server_id=None, actor=None) == [evacuation]
    carry_on(evacuation.pk)
    placed = {relay.group_id: relay.server for relay in Relay.objects.all()}
    assert placed == {high.pk: there, low.pk: here, held.pk: here}


# --- drain ---------------------------------------------------------------------------------------------


@pytest.mark.both_databases
def test_a_drain_never_takes_both_relays_of_a_map_and_never_stops_one_before_its_successor_answers(
    alice: User,
) -> None:
    here, there = server(1), server(2)
    spares = [server(3), server(4)]
    fleet = Fleet([here, there, *spares])
    bought = group(alice, relays=2)
    settle(fleet)
    for one in (here, there):
        services.drain_server(server_id=one.pk, actor=None)
    only_open(*spares)
    for _ in range(8):
        on_the_way = Move.objects.filter(state=Move.State.PLACED).count()
        assert on_the_way <= 1
        for engine in fleet.engines.values():
            assert all(box.state == State.RUNNING for box in engine.boxes.values())
        assert sum(len(engine.boxes) for engine in fleet.engines.values()) >= 2
        settle(fleet, 1)
    assert set(bought.relays.values_list("server", flat=True)) == {one.pk for one in spares}
    assert not fleet.on(here).boxes
    assert not fleet.on(there).boxes
    assert not Outage.objects.exists()
    assert set(Evacuation.objects.values_list("state", flat=True)) == {Evacuation.State.DONE}


def test_a_few_are_on_their_way_at_once_and_the_stopped_ones_go_too(alice: User) -> None:
    here, there = server(1), server(2, is_enabled=False)
    fleet = Fleet([here, there])
    groups = [group(alice) for _ in range(AT_A_TIME + 3)]
    stopped = group(alice)
    settle(fleet)
    stop(stopped)
    settle(fleet)
    evacuation = services.drain_server(server_id=here.pk, actor=None)
    Server.objects.filter(pk=there.pk).update(is_enabled=True)
    for _ in range(3):
        carry_on(evacuation.pk)
        assert Move.objects.filter(state=Move.State.PLACED).count() == AT_A_TIME
    settle(fleet, 4)
    assert not here.relays.filter(released_at=None).exists()
    assert stopped.relays.get().server == there
    assert all(only_relay(one).is_running for one in groups)
    evacuation.refresh_from_db()
    assert evacuation.state == Evacuation.State.DONE
    assert list(here.events.filter(kind__startswith="drain").order_by("id").values_list("kind", flat=True)) == [
        "draining",
        "drain_ended",
    ]


def test_relays_that_may_not_go_anywhere_do_not_hold_up_the_others(alice: User) -> None:
    here, there = server(1), server(2, is_enabled=False)
    fleet = Fleet([here, there])
    for _ in range(AT_A_TIME):
        group(alice, priority=1).servers.set([here])
    free = group(alice)
    settle(fleet)
    services.drain_server(server_id=here.pk, actor=None)
    Server.objects.filter(pk=there.pk).update(is_enabled=True)
    settle(fleet)
    assert only_relay(free).server == there
    assert Move.objects.filter(state=Move.State.WAITING).count() == AT_A_TIME
    services.end_drain(server_id=here.pk, actor=None)
    assert not Move.objects.filter(state__in=Move.OPEN).exists()
    assert only_relay(free).server == there


def test_a_drain_whose_server_dies_and_returns_goes_on(alice: User, clock: Traveller) -> None:
    here = server(1)
    fleet = Fleet([here])
    bought = group(alice)
    settle(fleet)
    services.drain_server(server_id=here.pk, actor=None)
    lose(fleet, here, clock)
    settle(fleet)
    assert Evacuation.objects.get().reason == MoveReason.FAILURE
    fleet.heal(here)
    settle(fleet)
    there = server(2)
    fleet.add(there)
    settle(fleet)
    assert only_relay(bought).server == there


def test_a_lease_that_ends_while_its_relay_waits_for_a_place_does_not_hold_up_the_end(
    alice: User, clock: Traveller
) -> None:
    here = server(1)
    fleet = Fleet([here])
    bought = group(alice)
    settle(fleet)
    lose(fleet, here, clock)
    settle(fleet)
    assert is_alerted(Alert.Kind.NO_ROOM)
    stop(bought)
    settle(fleet)
    assert Evacuation.objects.get().state == Evacuation.State.DONE
    assert not is_alerted(Alert.Kind.NO_ROOM)


@pytest.mark.both_databases
def test_a_sweep_with_nothing_to_do_asks_the_same_few_questions_however_large_the_fleet(alice: User) -> None:
    costs = []
    fleet = Fleet([])
    for first in (1, 4):
        fleet.add(*[server(number) for number in range(first, first + 3)])
        for _ in range(3):
            group(alice)
        settle(fleet, 2)
        with CaptureQueriesContext(connection) as queries:
            carry_on_all()
        costs.append(len(queries))
    assert costs[0] == costs[1] <= 10


def test_an_engine_that_is_silent_while_its_relays_answer_is_not_evacuated(alice: User, clock: Traveller) -> None:
    here = server(1)
    fleet = Fleet([here, server(2)])
    bought = group(alice)
    settle(fleet)
    fleet.on(here).fail(Unavailable("timeout"))
    for _ in range(20):
        clock.shift(30)
        fleet.sweep()
    assert only_relay(bought).server == here
    assert not Move.objects.exists()


def test_two_servers_emptied_by_hand_are_not_emptied_into_each_other(alice: User) -> None:
    here, there, spare = server(1), server(2), server(3, is_enabled=False, max_relays=1)
    fleet = Fleet([here, there, spare])
    groups = [group(alice), group(alice)]
    settle(fleet)
    for one in (here, there):
        services.fail_over(server_id=one.pk, actor=None)
    settle(fleet, 5)
    assert [only_relay(one).generation for one in groups] == [1, 1]
    assert set(Move.objects.values_list("state", "waits_for")) == {(Move.State.WAITING, "no_server")}
    Server.objects.filter(pk=spare.pk).update(is_enabled=True)
    settle(fleet)
    assert [only_relay(one).server for one in groups].count(spare) == 1
    for one in (here, there):
        services.end_drain(server_id=one.pk, actor=None)
    assert not Move.objects.filter(state__in=Move.OPEN).exists()
    assert not Evacuation.objects.filter(state=Evacuation.State.RUNNING).exists()


def test_an_empty_server_whose_worker_died_before_it_could_say_so_is_told_of_once(root: User) -> None:
    lost = server(1, phase=Server.Phase.UNHEALTHY, phase_since=now())
    for _sweep in range(3):
        carry_on_all()
    assert Alert.objects.get(alert_type=Alert.Kind.SERVER_LOST).server == lost
    assert Evacuation.objects.count() <= 1
    Alert.objects.update(resolved=True)
    carry_on_all()
    assert not Alert.objects.filter(alert_type=Alert.Kind.SERVER_LOST, resolved=False).exists(), "seen to by hand"
