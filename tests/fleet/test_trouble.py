"""A relay that cannot run says why, its owner's clock stands, and it heals by itself when the cause goes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
import time_machine
from time_machine import Traveller

from accounts.models import User
from derp_portal.lib.clock import now
from fleet import selectors, services
from fleet.models import Outage, Port, Relay, RelayEvent, RelayGroup, Server, Wanted
from fleet.runtimes.base import Rejected, RuntimeFailure, State, Unavailable
from fleet.selectors import RelayState, derp_map_of, relay_state, why_in_trouble
from fleet.services.placement import change_port
from fleet.tasks import place_waiting
from fleet.words import TROUBLE
from tests.fleet.fleet_parts import Fleet, group, only_relay, region, run_again, server, stop

CALLS_OF_A_START = ("create", "put_files", "start")


@pytest.fixture
def clock() -> Iterator[Traveller]:
    with time_machine.travel(datetime(2031, 3, 1, 9, tzinfo=UTC), tick=False) as travel:
        yield travel


@pytest.fixture
def fleet(db: None) -> Fleet:
    return Fleet([server()])


def events(relay: Relay, kind: RelayEvent.Kind) -> int:
    return RelayEvent.objects.filter(relay=relay, kind=kind).count()


@pytest.mark.parametrize(
    "failure",
    [
        Rejected("disk_full", "write /relay: no space left on device"),
        Rejected("image_missing", "derper"),
        Rejected("refused", "no"),
        Unavailable("timeout"),
    ],
    ids=lambda failure: failure.code,
)
def test_a_host_that_refuses_is_named_and_the_clock_stands_until_it_relents(
    failure: RuntimeFailure, fleet: Fleet, alice: User, clock: Traveller
) -> None:
    bought = group(alice, lasts=timedelta(hours=5))
    deadline = bought.run_until
    relay = only_relay(bought)
    fleet.on(relay).fail(failure, *CALLS_OF_A_START)
    # Far past the deadline: a clock that stands keeps the relay wanted.
    for _ in range(10):
        fleet.one_pass(relay)
        clock.shift(timedelta(hours=1))
    relay = only_relay(bought)
    assert (relay.trouble_code, relay_state(relay)) == (failure.code, RelayState.TROUBLE)
    assert why_in_trouble(relay) == str(TROUBLE[failure.code])
    assert Outage.objects.filter(group=bought).count() == 1
    assert events(relay, RelayEvent.Kind.TROUBLE) == 1
    fleet.on(relay).heal()
    fleet.one_pass(relay)
    relay = only_relay(bought)
    assert (relay.trouble_code, relay.is_running) == ("", True)
    assert relay.group.run_until == deadline + timedelta(hours=10)
    assert events(relay, RelayEvent.Kind.RECOVERED) == 1


def test_a_host_that_fails_is_left_in_peace_for_longer_and_longer(fleet: Fleet, alice: User, clock: Traveller) -> None:
    relay = only_relay(group(alice))
    engine = fleet.on(relay)
    engine.fail(Rejected("disk_full"), "create")
    tries = []
    for second in range(240):
        before = engine.calls.count("create")
        fleet.one_pass(relay)
        if engine.calls.count("create") > before:
            tries.append(second)
        clock.shift(1)
    waits = [later - earlier for earlier, later in pairwise(tries)]
    assert waits == [2, 5, 10, 20, 30, 60, 60]


def test_a_relay_that_runs_is_not_taken_down_while_its_replacement_has_to_wait(
    fleet: Fleet, alice: User, clock: Traveller
) -> None:
    bought = group(alice)
    relay = only_relay(bought)
    fleet.one_pass(relay)
    services.set_group(group_id=bought.pk, wanted=Wanted.RUNNING, terms=services.GroupTerms(speed=1000), actor=None)
    fleet.on(relay).fail(Unavailable("timeout"), "reload")
    fleet.one_pass(relay)
    relay = only_relay(bought)
    assert (relay.trouble_code, relay.is_running) == ("", True), "it serves on at the old speed"
    assert not Outage.objects.exists()
    Relay.objects.update(pin="sha256-raw:new")
    fleet.one_pass(relay)
    assert len(fleet.on(relay).boxes) == 1
    fleet.on(relay).heal()
    clock.shift(3)
    fleet.one_pass(relay)
    assert only_relay(bought).is_running


def test_a_replacement_that_fails_is_trouble_although_the_old_one_was_seen_running(fleet: Fleet, alice: User) -> None:
    bought = group(alice)
    relay = only_relay(bought)
    fleet.one_pass(relay)
    Relay.objects.update(pin="sha256-raw:new")
    fleet.on(relay).is_image_there = False
    fleet.one_pass(relay)
    relay = only_relay(bought)
    assert (relay.trouble_code, relay.is_running) == ("image_missing", False)
    assert selectors.has_open_outage(bought)


def test_a_port_taken_by_a_foreign_program_is_set_aside_and_the_map_follows(
    fleet: Fleet, alice: User, clock: Traveller
) -> None:
    bought = group(alice)
    relay = only_relay(bought)
    taken = relay.port.number
    fleet.on(relay).foreign_ports.add(taken)
    before = derp_map_of(bought)
    fleet.one_pass(relay)
    relay = only_relay(bought)
    assert relay.port.number != taken
    assert Port.objects.get(number=taken).relay is None
    assert derp_map_of(bought) != before
    clock.shift(3)
    fleet.one_pass(relay)
    assert only_relay(bought).is_running
    assert events(relay, RelayEvent.Kind.PORT_CHANGED) == 1


def test_a_port_that_the_relays_own_old_container_holds_is_kept(fleet: Fleet, alice: User, clock: Traveller) -> None:
    relay = only_relay(group(alice))
    fleet.one_pass(relay)
    services.restart_relay(relay_id=relay.pk, actor=None)
    fleet.on(relay).fail(Unavailable("timeout"), "remove")
    fleet.one_pass(relay)
    assert only_relay(relay.group).trouble_code == "port_taken"
    fleet.on(relay).heal()
    clock.shift(3)
    fleet.one_pass(relay)
    after = only_relay(relay.group)
    assert (after.is_running, after.port.number) == (True, relay.port.number)


def test_with_every_port_taken_the_relay_waits_and_starts_when_one_is_free(
    alice: User, bob: User, clock: Traveller
) -> None:
    fleet = Fleet([server(port_first=21000, port_last=21001)])
    first, _second = group(alice), group(bob)
    waiting = group(bob, lasts=timedelta(hours=2))
    deadline = waiting.run_until
    relay = waiting.relays.get()
    assert (relay.server, relay.trouble_code) == (None, "no_port")
    assert selectors.has_open_outage(waiting)
    clock.shift(timedelta(hours=3))
    place_waiting()
    services.release_group(group_id=first.pk, actor=None)
    place_waiting()
    fleet.passes()
    relay = only_relay(waiting)
    assert (relay.is_running, relay.trouble_code) == (True, "")
    assert relay.group.run_until == deadline + timedelta(hours=3)


def test_with_no_server_a_customer_waits_and_the_first_server_serves_him(alice: User, clock: Traveller) -> None:
    bought = group(alice, lasts=timedelta(minutes=30))
    assert bought.relays.get().trouble_code == "no_server"
    clock.shift(timedelta(hours=1))
    fleet = Fleet([server(max_relays=0)])
    place_waiting()
    assert bought.relays.get().trouble_code == "no_room"
    Server.objects.update(max_relays=1)
    place_waiting()
    fleet.passes()
    assert only_relay(bought).is_running
    assert RelayGroup.objects.get(pk=bought.pk).run_until == now() + timedelta(minutes=30)


@pytest.mark.both_databases
def test_groups_that_only_lack_a_standby_do_not_keep_others_waiting(alice: User) -> None:
    here = server(max_relays=1)
    complete = group(alice, relays=2)
    waiting = group(alice)
    assert list(selectors.groups_short_of_relays(limit=1)) == [waiting.pk]
    assert complete.relays.get().server == here


def test_a_standby_in_trouble_is_no_outage_while_the_primary_runs(alice: User, clock: Traveller) -> None:
    fleet = Fleet([server(1), server(2)])
    bought = group(alice, relays=2)
    primary, standby = bought.relays.order_by("slot")
    fleet.one_pass(primary)
    fleet.on(standby).fail(Rejected("disk_full"), "create")
    fleet.one_pass(standby)
    assert bought.relays.get(slot=1).trouble_code == "disk_full"
    assert not Outage.objects.exists()
    # Now the primary falls too, and the standby is the first that comes back.
    fleet.on(primary).boxes.clear()
    fleet.on(primary).fail(Rejected("disk_full"), "create")
    fleet.one_pass(primary)
    assert selectors.has_open_outage(bought)
    fleet.on(standby).heal()
    clock.shift(60)
    fleet.one_pass(standby)
    fleet.one_pass(primary)
    assert not selectors.has_open_outage(bought)
    assert bought.relays.get(slot=0).trouble_code == "disk_full"


def test_a_relay_that_keeps_stopping_is_in_trouble_until_it_stays_up(
    fleet: Fleet, alice: User, clock: Traveller
) -> None:
    bought = group(alice)
    relay = only_relay(bought)
    fleet.one_pass(relay)
    box = fleet.on(relay).boxes[relay.container_name]
    box.state = State.RESTARTING
    for _ in range(3):
        fleet.one_pass(relay)
        clock.shift(60)
    assert only_relay(bought).trouble_code == "exited"
    assert events(relay, RelayEvent.Kind.TROUBLE) == 1
    box.state = State.RUNNING
    fleet.one_pass(relay)
    assert not selectors.has_open_outage(bought)
    assert only_relay(bought).group.run_until == bought.run_until + timedelta(minutes=3)


def test_relays_that_run_on_an_unreachable_host_are_believed_and_new_ones_are_not(
    fleet: Fleet, alice: User, bob: User
) -> None:
    running = group(alice)
    fleet.passes()
    new = group(bob)
    fleet.on(only_relay(new)).fail(Unavailable("unreachable"))
    fleet.passes(2)
    assert only_relay(running).trouble_code == ""
    assert not selectors.has_open_outage(running)
    assert only_relay(new).trouble_code == "unreachable"
    assert selectors.has_open_outage(new)
    fleet.on(only_relay(new)).heal()
    fleet.passes()
    assert not Outage.objects.filter(ended_at=None).exists()
    assert Server.objects.get().status == Server.Status.HEALTHY


@pytest.mark.parametrize("ending", ["expiry", "stop", "release"])
def test_a_lease_that_ends_while_the_host_is_away_for_an_hour_ends_when_it_returns(
    ending: str, fleet: Fleet, alice: User, clock: Traveller
) -> None:
    bought = group(alice, lasts=timedelta(minutes=30))
    relay = only_relay(bought)
    fleet.one_pass(relay)
    fleet.on(relay).fail(Unavailable("unreachable"))
    if ending == "stop":
        stop(bought)
    elif ending == "release":
        services.release_group(group_id=bought.pk, actor=None)
    for _ in range(60):
        clock.shift(60)
        fleet.one_pass(relay)
    assert len(fleet.on(relay).boxes) == 1
    fleet.on(relay).heal()
    fleet.one_pass(relay)
    assert not fleet.on(relay).boxes
    fleet.one_pass(relay)
    relay.refresh_from_db()
    assert relay.observed_state == Relay.Observed.ABSENT
    assert events(relay, RelayEvent.Kind.STOPPED) == 1


def test_a_container_that_was_removed_by_a_pass_that_died_is_noted_by_the_next(fleet: Fleet, alice: User) -> None:
    bought = group(alice)
    relay = only_relay(bought)
    fleet.one_pass(relay)
    stop(bought)
    fleet.on(relay).boxes.clear()
    fleet.passes(2)
    relay.refresh_from_db()
    assert relay.observed_state == Relay.Observed.ABSENT
    assert events(relay, RelayEvent.Kind.STOPPED) == 1


def test_an_expired_relay_stops_although_nobodys_secrets_can_be_read(
    fleet: Fleet, alice: User, bob: User, clock: Traveller
) -> None:
    expired = group(alice, lasts=timedelta(hours=1))
    fleet.passes()
    clock.shift(timedelta(hours=2))
    new = group(bob)
    relay = only_relay(new)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fleet.reconciler.loop.full_spec", _no_key_fits)
        fleet.one_pass(relay)
    assert not fleet.on(relay).boxes
    assert expired.relays.get().observed_state == Relay.Observed.ABSENT
    assert only_relay(new).trouble_code == "secret_unreadable"
    clock.shift(3)
    fleet.one_pass(relay)
    assert only_relay(new).is_running


def _no_key_fits(_relay: Relay) -> None:
    raise ValueError("no key fits")


def test_a_strangers_container_of_the_same_name_is_in_the_way_and_stays(
    fleet: Fleet, alice: User, clock: Traveller
) -> None:
    bought = group(alice)
    relay = only_relay(bought)
    fleet.one_pass(relay)
    engine = fleet.on(relay)
    box = engine.boxes[relay.container_name]
    # As after a copy of the database went to another machine that uses the same host.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("django.conf.settings.PORTAL_ID", "the other portal")
        fleet.one_pass(relay)
        assert only_relay(bought).trouble_code == "name_taken"
        assert engine.boxes == {relay.container_name: box}
    clock.shift(60)
    fleet.one_pass(relay)
    assert only_relay(bought).is_running


def test_two_portals_on_one_host_leave_each_other_alone(fleet: Fleet, alice: User) -> None:
    ours, theirs = group(alice), group(alice)
    relay = only_relay(ours)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("django.conf.settings.PORTAL_ID", "the other portal")
        Relay.objects.filter(group=ours).update(wanted=Wanted.STOPPED)
        fleet.one_pass(relay)
    Relay.objects.filter(group=ours).update(wanted=Wanted.RUNNING)
    Relay.objects.filter(group=theirs).update(wanted=Wanted.STOPPED)
    fleet.passes(2)
    assert set(fleet.on(relay).boxes) == {relay.container_name, theirs.relays.get().container_name}


def test_moving_away_and_back_leaves_one_container(alice: User) -> None:
    here, there = server(1), server(2)
    fleet = Fleet([here, there])
    relay = only_relay(group(alice))
    fleet.passes()
    fleet.on(here).fail(Unavailable("unreachable"))
    services.move_relay(relay_id=relay.pk, server_id=there.pk, actor=None)
    fleet.one_pass(there)
    services.move_relay(relay_id=relay.pk, server_id=here.pk, actor=None)
    fleet.on(here).heal()
    fleet.passes()
    fleet.probe()
    fleet.passes()
    relay = only_relay(relay.group)
    assert set(fleet.on(here).boxes) == {relay.container_name}
    assert not fleet.on(there).boxes


def test_a_port_refused_to_a_relay_that_was_released_meanwhile_is_not_taken_again(fleet: Fleet, alice: User) -> None:
    bought = group(alice)
    relay = only_relay(bought)
    services.release_group(group_id=bought.pk, actor=None)
    change_port(relay.pk, relay.port.number)
    assert not Port.objects.exists()


def test_whoever_wishes_for_a_region_without_servers_is_served_from_another(alice: User) -> None:
    here = server()
    bought = group(alice, region_ids=(region("elsewhere").pk,))
    assert bought.relays.get().server == here


def test_a_renewal_after_the_end_brings_back_the_same_place(fleet: Fleet, alice: User) -> None:
    bought = group(alice)
    fleet.passes()
    before = derp_map_of(bought)
    stop(bought)
    fleet.passes()
    assert not fleet.on(only_relay(bought)).boxes
    run_again(bought)
    fleet.passes()
    assert derp_map_of(bought) == before
    assert only_relay(bought).is_running
