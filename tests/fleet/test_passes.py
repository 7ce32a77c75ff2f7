"""What a pass keeps to: its claim, a row that cannot be read, an address that changed, and what it notes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.db import connection
from time_machine import Traveller

from accounts.models import User
from derp_portal.lib.clock import now
from fleet.models import Outage, Relay, Server
from fleet.reconciler import apply
from fleet.reconciler.loop import PASS_SECONDS
from fleet.runtimes.base import State
from fleet.services.outages import BLIP, clear_trouble, note_trouble
from tests.fleet.engines import wait_until
from tests.fleet.fake_engine import FakeRuntime, Worker
from tests.fleet.fleet_parts import Fleet, group, only_relay, server


@pytest.fixture
def clock() -> Iterator[Traveller]:
    with time_machine.travel(datetime(2031, 3, 1, 9, tzinfo=UTC), tick=False) as travel:
        yield travel


@pytest.mark.django_db(transaction=True)
def test_a_pass_keeps_its_claim_however_long_the_host_takes(
    alice: User, clock: Traveller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "BEAT_SECONDS", 0.02)
    here = server()
    fleet = Fleet([here])
    group(alice)
    rivals: list[bool] = []

    def takes_its_time(_number: int) -> None:
        if len(rivals) == 3:
            return
        try:
            clock.shift(PASS_SECONDS - 1)
            wait_until(lambda: Server.objects.get().pass_until == now() + timedelta(seconds=PASS_SECONDS))
            rivals.append(fleet.one_pass(here).claimed)
        finally:
            connection.close()

    listing = fleet.on(here).runtime()
    calls = iter([listing])
    monkeypatch.setattr(
        fleet, "open", lambda _server: next(calls, FakeRuntime(fleet.on(here), Worker(before=takes_its_time)))
    )
    assert fleet.one_pass(here).claimed
    assert rivals == [False] * 3


def test_a_row_whose_key_cannot_be_read_stops_no_other(alice: User, bob: User) -> None:
    fleet = Fleet([server()])
    bad, good = group(alice), group(bob)
    Relay.objects.filter(group=bad).update(derper_key="what another key ring wrote")
    fleet.passes()
    assert only_relay(good).is_running
    assert (only_relay(bad).trouble_code, only_relay(bad).tries) == ("secret_unreadable", 1)
    assert Outage.objects.get().group == bad


def test_a_relay_whose_server_leaves_the_loopback_address_is_published_anew(alice: User) -> None:
    here = server(ip="127.0.0.1")
    fleet = Fleet([here])
    relay = only_relay(group(alice))
    fleet.passes()
    Server.objects.update(ip="192.0.2.1")
    fleet.passes()
    assert fleet.on(here).boxes[relay.container_name].spec.bind_ip == ""


def test_the_load_counts_what_is_placed_and_not_only_what_runs(alice: User, bob: User) -> None:
    here = server(max_relays=4)
    group(alice)
    stopped = group(bob)
    Relay.objects.filter(group=stopped).update(wanted="stopped")
    Fleet([here]).passes()
    assert Server.objects.get().load == 0.5


def test_a_relay_knows_since_when_it_runs_although_the_engine_does_not_say(alice: User, clock: Traveller) -> None:
    fleet = Fleet([server()])
    relay = only_relay(group(alice))
    started = now()
    for _ in range(3):
        fleet.passes()
        assert only_relay(relay.group).started_at == started
        clock.shift(60)
    fleet.on(relay).boxes[relay.container_name].state = State.EXITED
    fleet.passes()
    assert only_relay(relay.group).started_at == now()


def test_a_relay_that_falls_again_and_again_is_owed_all_the_time_it_was_down(alice: User, clock: Traveller) -> None:
    server()
    bought = group(alice)
    deadline, down = bought.run_until, timedelta(0)
    for _ in range(60):
        note_trouble(only_relay(bought), "exited")
        clock.shift(45)
        down += timedelta(seconds=45)
        clear_trouble(only_relay(bought))
        clock.shift(15)
    lengths = [outage.ended_at - outage.started_at for outage in Outage.objects.all() if outage.ended_at]
    assert sum((length for length in lengths if length >= BLIP), timedelta()) >= down
    bought.refresh_from_db()
    assert bought.run_until - deadline == sum(lengths, timedelta()), "the deadline moves by what the outages say"


def test_a_blip_of_long_ago_is_left_as_it_was(alice: User, clock: Traveller) -> None:
    server()
    bought = group(alice)
    for pause in (timedelta(minutes=5), timedelta(0)):
        note_trouble(only_relay(bought), "exited")
        clock.shift(30)
        clear_trouble(only_relay(bought))
        clock.shift(pause)
    assert Outage.objects.count() == 2
