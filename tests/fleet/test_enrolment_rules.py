"""Whose host it is: one that is enrolled already, another portal's, or with a wrong clock is not touched."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.conf import settings

from accounts.models import User
from fleet.models import Alert, Server
from fleet.services.alert_words import wording
from tests.fleet.fake_engine import Box, FakeEngine
from tests.fleet.fleet_parts import Fleet, group, only_relay, server, strangers_spec

UNTOUCHED = {"info", "claim"}


def newcomer(number: int = 1) -> Server:
    """A server that was just added: nobody has seen it yet."""
    return server(number, phase=Server.Phase.SUSPECT)


def code_of(here: Server) -> str:
    here.refresh_from_db()
    return here.error_code


def test_a_host_is_known_by_its_engine_after_the_first_pass(db: None) -> None:
    here = newcomer()
    fleet = Fleet([here])
    fleet.passes()
    here.refresh_from_db()
    assert (here.phase, here.engine_id) == (Server.Phase.HEALTHY, fleet.on(here).engine_id)
    assert fleet.on(here).owner == settings.PORTAL_ID
    assert here.hardware["cores"] == 1


def test_a_host_enrolled_twice_under_two_addresses_is_refused_the_second_time(alice: User) -> None:
    first = newcomer(1)
    fleet = Fleet([first])
    fleet.passes()
    relay = only_relay(group(alice))
    fleet.passes()
    second = newcomer(2)
    fleet.engines[second.pk] = fleet.on(first)
    fleet.passes(2)
    assert code_of(second) == "enrolled_twice"
    assert code_of(first) == ""
    assert set(fleet.on(first).boxes) == {relay.container_name}


def test_another_portals_host_is_not_touched_and_operators_are_told_once(root: User) -> None:
    here = newcomer()
    engine = FakeEngine(owner="another portal")
    box = engine.boxes["stranger-1"] = Box(strangers_spec())
    fleet = Fleet([here])
    fleet.engines[here.pk] = engine
    fleet.passes(3)
    assert code_of(here) == "foreign_portal"
    assert engine.boxes == {"stranger-1": box}
    assert set(engine.calls) <= UNTOUCHED
    alert = Alert.objects.get()
    assert (alert.alert_type, alert.resolved) == (Alert.Kind.FOREIGN_HOST, False)
    assert "another portal" in wording(alert)
    engine.owner = ""
    fleet.passes()
    alert.refresh_from_db()
    assert (alert.resolved, code_of(here)) == (True, "")


@time_machine.travel(datetime(2031, 3, 1, 9, tzinfo=UTC), tick=False)
def test_a_wrong_clock_keeps_a_new_host_out_and_is_only_shown_later_on(alice: User) -> None:
    here = newcomer()
    fleet = Fleet([here])
    fleet.on(here).clock_error = timedelta(minutes=-5)
    fleet.passes()
    assert code_of(here) == "clock_off"
    assert set(fleet.on(here).calls) == {"info"}
    fleet.on(here).clock_error = timedelta()
    fleet.passes()
    assert code_of(here) == ""
    relay = only_relay(group(alice))
    fleet.passes()
    fleet.on(here).clock_error = timedelta(minutes=-5)
    fleet.cut(here)
    fleet.passes()
    fleet.heal(here)
    fleet.passes()
    here.refresh_from_db()
    assert (here.phase, here.hardware["clock_off_seconds"]) == (Server.Phase.HEALTHY, "300")
    assert relay.container_name in fleet.on(here).boxes


@pytest.mark.parametrize("is_new_engine", [True, False], ids=["exchanged", "restarted"])
def test_an_exchanged_engine_is_written_down_and_filled_again(is_new_engine: bool, alice: User) -> None:
    here = newcomer()
    fleet = Fleet([here])
    fleet.passes()
    relay = only_relay(group(alice))
    fleet.passes()
    fleet.cut(here)
    fleet.passes()
    if is_new_engine:
        fleet.engines[here.pk] = FakeEngine()
    fleet.heal(here)
    fleet.passes()
    assert here.events.filter(kind="engine").count() == int(is_new_engine)
    assert set(fleet.on(here).boxes) == {relay.container_name}
