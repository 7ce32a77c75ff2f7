"""Where relays go: least loaded first, standbys apart, and never two on one port however many ask at once."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection
from django.db.models import QuerySet

from accounts.models import User
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet import services
from fleet.models import Port, Relay, RelayEvent, Server, Wanted
from fleet.selectors import groups_short_of_relays
from fleet.services import GroupTerms
from fleet.tasks import place_waiting
from tests.fleet.fleet_parts import group, only_relay, region, server
from tests.serials.shop import at_once


def test_the_least_loaded_server_is_taken_first(alice: User) -> None:
    big, small = server(1, max_relays=10), server(2, max_relays=2)
    places = [only_relay(group(alice)).server for _ in range(6)]
    # Shares of what each may carry, the older one first when they are level.
    assert places == [big, small, big, big, big, big]


def test_disabled_unhealthy_and_full_servers_are_left_out(alice: User) -> None:
    server(1, is_enabled=False)
    server(2, phase=Server.Phase.SUSPECT)
    server(3, max_relays=0)
    good = server(4, max_relays=1)
    assert only_relay(group(alice)).server == good
    assert group(alice).relays.get().trouble_code == "no_room"


@pytest.mark.both_databases
def test_a_server_that_takes_no_relays_does_not_break_the_ranking(alice: User) -> None:
    server(1, max_relays=0)
    assert group(alice).relays.get().trouble_code == "no_room"
    other = server(2)
    assert only_relay(group(alice)).server == other


def test_the_wished_for_region_comes_first_and_another_one_when_it_is_full(alice: User) -> None:
    near = server(1)
    far = server(2, region=region("far"), max_relays=3)
    wish = (region("far").pk,)
    assert [only_relay(group(alice, region_ids=wish)).server for _ in range(4)] == [far, far, far, near]


def test_a_standby_comes_only_with_a_second_address(alice: User) -> None:
    server(1)
    server(2, ip="192.0.2.1", name="same address")
    bought = group(alice, relays=2)
    assert [relay.slot for relay in bought.relays.all()] == [0]
    second = server(3)
    place_waiting()
    assert bought.relays.get(slot=1).server == second


def test_fewer_relays_release_the_standby_and_more_bring_a_new_one(alice: User) -> None:
    for number in (1, 2, 3):
        server(number)
    bought = group(alice, relays=3)
    primary = bought.relays.get(slot=0)
    for count in (1, 3, 2):
        services.set_group(group_id=bought.pk, wanted=Wanted.RUNNING, terms=GroupTerms(relay_count=count), actor=None)
        live = bought.relays.filter(released_at=None)
        assert [relay.slot for relay in live.order_by("slot")] == list(range(count))
        assert live.get(slot=0) == primary
        assert Port.objects.count() == count


def test_releasing_the_primary_lets_the_standby_take_its_place_for_good(alice: User) -> None:
    server(1)
    server(2)
    bought = group(alice, relays=2)
    primary, standby = bought.relays.order_by("slot")
    services.release_relay(relay_id=primary.pk, actor=None)
    services.set_group(group_id=bought.pk, wanted=Wanted.RUNNING, terms=GroupTerms(relay_count=2), actor=None)
    live = list(bought.relays.filter(released_at=None).order_by("slot"))
    assert [relay.slot for relay in live] == [0, 1]
    assert live[0] == standby
    assert Relay.objects.get(pk=standby.pk).generation == standby.generation


def test_a_move_keeps_the_identity_and_a_restart_the_place(alice: User) -> None:
    server(1)
    there = server(2)
    before = only_relay(group(alice))
    services.restart_relay(relay_id=before.pk, actor=None)
    after = only_relay(before.group)
    assert (after.generation, after.server, after.port) == (before.generation + 1, before.server, before.port)
    services.move_relay(relay_id=before.pk, server_id=None, actor=None)
    after = only_relay(before.group)
    assert (after.generation, after.server) == (before.generation + 2, there)
    for name in ("code", "host_name", "pin", "derper_key", "certificate", "admission_hash", "region_id"):
        assert getattr(after, name) == getattr(before, name)
    # Maps pasted before the move still name the old one: for an hour it is nobody else's.
    assert [port.number for port in Port.objects.filter(relay=None)] == [before.port.number]
    assert Port.objects.filter(relay=after).count() == 1


def test_a_move_that_finds_no_place_changes_nothing(alice: User) -> None:
    here = server(1)
    relay = only_relay(group(alice))
    full = server(2, max_relays=0)
    for target in (None, full.pk):
        with pytest.raises(PortalError) as caught:
            services.move_relay(relay_id=relay.pk, server_id=target, actor=None)
        assert caught.value.code == "no_place"
    after = only_relay(relay.group)
    assert (after.server, after.generation, after.port) == (here, relay.generation, relay.port)
    assert not RelayEvent.objects.filter(kind=RelayEvent.Kind.MOVED).exists()


def test_a_move_to_where_it_is_does_nothing(alice: User) -> None:
    here = server(1)
    relay = only_relay(group(alice))
    services.move_relay(relay_id=relay.pk, server_id=here.pk, actor=None)
    assert only_relay(relay.group).generation == relay.generation


@pytest.mark.parametrize(
    "unfit",
    [{"ip": "192.0.2.2"}, {"is_enabled": False}, {"phase": Server.Phase.SUSPECT}],
    ids=["a sibling's address", "takes no relays", "ill"],
)
def test_a_relay_is_not_moved_by_hand_to_a_server_that_does_not_fit(unfit: dict[str, Any], alice: User) -> None:
    server(1)
    server(2)
    primary = group(alice, relays=2).relays.get(slot=0)
    target = server(3, **unfit)
    with pytest.raises(PortalError) as caught:
        services.move_relay(relay_id=primary.pk, server_id=target.pk, actor=None)
    assert caught.value.code == "no_place"
    assert Relay.objects.get(pk=primary.pk).server == primary.server


def test_a_move_to_the_best_other_server_takes_the_next_best_when_that_one_has_no_port(alice: User) -> None:
    server(1)
    relay = only_relay(group(alice))
    best = server(2, port_first=21000, port_last=21000)
    Port.objects.create(server=best, number=21000, set_aside_until=now() + timedelta(hours=1))
    next_best = server(3)
    assert services.move_relay(relay_id=relay.pk, server_id=None, actor=None).server == next_best


def test_a_standby_that_has_no_place_costs_no_identity(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    server(1)
    bought = group(alice, relays=2)
    monkeypatch.setattr("fleet.services.groups.make_identity", None)
    place_waiting()
    services.ensure_relays(group_id=bought.pk)
    assert bought.relays.count() == 1


@pytest.mark.both_databases
def test_groups_nothing_can_be_done_for_do_not_keep_others_waiting(alice: User) -> None:
    closed, far = server(9, is_enabled=False), server(2, ip="192.0.2.1", is_enabled=False, max_relays=1)
    waiting = [group(alice) for _ in range(4)]
    for bought, only in zip(waiting, (closed, closed, far, far), strict=True):
        bought.servers.set([only])
    server(1)
    for _ in range(2):
        group(alice, relays=2)  # No second address for the standbys.
    Server.objects.filter(pk=far.pk).update(is_enabled=True)
    place_waiting()
    assert only_relay(waiting[2]).server == far
    assert len(list(groups_short_of_relays(limit=10))) == 3, "standbys without a place are left out"
    Server.objects.filter(max_relays=1).update(max_relays=2)
    assert list(groups_short_of_relays(limit=1)) == [waiting[3].pk], "although others are older"
    second = server(3)
    assert len(list(groups_short_of_relays(limit=10))) == 5
    place_waiting()
    assert Relay.objects.filter(server=second, slot=1).count() == 2
    assert only_relay(waiting[3]).server == far


def test_a_freed_port_is_not_at_once_somebody_elses(alice: User) -> None:
    """Numbers are drawn at random, so that pasted maps do not lead to strangers."""
    server(1, port_first=21000, port_last=21999)
    freed = set()
    for _ in range(3):
        bought = group(alice)
        freed.add(only_relay(bought).port.number)
        services.release_group(group_id=bought.pk, actor=None)
    assert len(freed) > 1


def buyers(count: int) -> list[User]:
    return User.objects.bulk_create(
        User(username=f"buyer{number}", email=f"buyer{number}@example.com", password="!") for number in range(count)
    )


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_many_placements_at_once_share_no_port_and_keep_to_the_servers_room() -> None:
    here = server(1, port_first=21000, port_last=21011, max_relays=9)
    made = at_once([partial(group, buyer) for buyer in buyers(12)])
    assert not [one for one in made if isinstance(one, Exception)]
    placed = Relay.objects.filter(server=here)
    assert placed.count() == 9
    assert set(Relay.objects.filter(server=None).values_list("trouble_code", flat=True)) == {"no_room"}
    assert Port.objects.values("number").distinct().count() == Port.objects.count() == 9


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_without_locks_room_is_exceeded_and_ports_still_are_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the lock keeps the count, the constraint the ports."""
    if connection.vendor != "postgresql":
        pytest.skip("needs postgresql: SQLite lets one writer in at a time, with or without row locks")
    monkeypatch.setattr(QuerySet, "select_for_update", lambda queryset, **_options: queryset.all())
    here = server(1, port_first=21000, port_last=21024, max_relays=4)
    at_once([partial(group, buyer) for buyer in buyers(20)])
    assert Relay.objects.filter(server=here).count() > 4
    assert Port.objects.values("number").distinct().count() == Port.objects.count()
