"""How sure we are of a host: one failed look is a suspicion, a loss takes many and the silence of its relays too."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext
from time_machine import Traveller

from accounts.models import User
from fleet import tasks
from fleet.models import Server
from fleet.runtimes.base import Unavailable
from fleet.services.phases import FAILED_LOOKS_UNTIL_LOST, STEADY_AFTER, grace, lead
from tests.fleet.fleet_parts import STATUS, Fleet, group, only_relay, server

Phase = Server.Phase


@pytest.fixture
def clock() -> Iterator[Traveller]:
    with time_machine.travel(datetime(2031, 3, 1, 9, tzinfo=UTC), tick=False) as travel:
        yield travel


@pytest.fixture
def fleet(alice: User, clock: Traveller) -> Fleet:
    """One host with one relay that answers."""
    made = Fleet([server(1)])
    group(alice)
    made.sweep()
    made.sweep()
    return made


def phase_of(number: int = 1) -> str:
    found = Server.objects.get(name=f"server-{number}")
    assert found.status == STATUS[Phase(found.phase)], "the customers' word follows the phase"
    return found.phase


def timeline() -> list[str]:
    return list(Server.objects.get().events.order_by("id").values_list("kind", flat=True))


def look(fleet: Fleet, times: int = 1) -> None:
    for _ in range(times):
        fleet.examine(Server.objects.get())


def test_one_failed_look_is_a_suspicion_and_one_good_one_ends_it(fleet: Fleet) -> None:
    fleet.cut(Server.objects.get())
    look(fleet)
    assert phase_of() == Phase.SUSPECT
    fleet.heal(Server.objects.get())
    look(fleet)
    assert phase_of() == Phase.HEALTHY
    assert timeline() == ["suspect", "healthy"]


def test_a_suspect_takes_no_new_relays(fleet: Fleet, alice: User) -> None:
    fleet.cut(Server.objects.get())
    look(fleet)
    assert group(alice).relays.get().trouble_code == "no_server"


def test_many_failed_looks_within_the_grace_time_lose_nothing(fleet: Fleet, clock: Traveller) -> None:
    fleet.cut(Server.objects.get())
    clock.shift((grace() - lead()).total_seconds() - 1)
    look(fleet, 10)
    assert phase_of() == Phase.SUSPECT


def test_a_long_silence_that_few_looks_found_loses_nothing(fleet: Fleet, clock: Traveller) -> None:
    fleet.cut(Server.objects.get())
    clock.shift(3600)
    look(fleet, FAILED_LOOKS_UNTIL_LOST - 1)
    assert phase_of() == Phase.SUSPECT
    look(fleet)
    assert phase_of() == Phase.UNHEALTHY


def test_a_host_whose_relays_answer_is_never_lost_however_long_its_engine_is_silent(
    fleet: Fleet, clock: Traveller
) -> None:
    fleet.on(Server.objects.get()).fail(Unavailable("timeout"))
    for _ in range(50):
        clock.shift(60)
        look(fleet)
    assert phase_of() == Phase.SUSPECT
    assert timeline() == ["suspect"]
    # Its relays' last answer was a sign of life: only from then on the grace time runs.
    fleet.cut(Server.objects.get())
    clock.shift((grace() - lead()).total_seconds() - 1)
    look(fleet, FAILED_LOOKS_UNTIL_LOST)
    assert phase_of() == Phase.SUSPECT
    clock.shift(1)
    look(fleet)
    assert phase_of() == Phase.UNHEALTHY


def test_who_comes_back_from_the_dead_is_recovered_until_it_has_been_steady(fleet: Fleet, clock: Traveller) -> None:
    fleet.cut(Server.objects.get())
    clock.shift(grace())
    look(fleet, FAILED_LOOKS_UNTIL_LOST + 2)
    fleet.heal(Server.objects.get())
    look(fleet)
    assert phase_of() == Phase.RECOVERED
    clock.shift(STEADY_AFTER.total_seconds() - 1)
    look(fleet)
    assert phase_of() == Phase.RECOVERED
    clock.shift(1)
    look(fleet)
    assert phase_of() == Phase.HEALTHY
    assert timeline() == ["suspect", "unhealthy", "recovered", "healthy"]


def test_the_reason_stands_on_the_server_and_goes_with_the_trouble(fleet: Fleet) -> None:
    fleet.on(Server.objects.get()).fail(Unavailable("timeout", "no answer in 10 s"))
    look(fleet, 2)
    found = Server.objects.get()
    assert (found.error_code, found.error_detail, found.failed_looks) == ("timeout", "no answer in 10 s", 2)
    fleet.heal(found)
    look(fleet)
    found.refresh_from_db()
    assert (found.error_code, found.error_since, found.failed_looks) == ("", None, 0)


def test_a_host_that_came_back_is_told_its_limits_again_but_not_at_every_pass(fleet: Fleet, clock: Traveller) -> None:
    here = Server.objects.get()
    fleet.cut(here)
    clock.shift(grace())
    look(fleet, FAILED_LOOKS_UNTIL_LOST)
    fleet.heal(here)
    fleet.on(here).calls.clear()
    look(fleet, 5)
    # And once more when the outage has moved the deadline.
    assert fleet.on(here).calls.count("reload") == 2


def test_the_sweep_that_watches_suspects_asks_one_question_however_many_hosts_are_well(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    monkeypatch.setattr(tasks, "send_examination", sent.append)
    ill = server(1, phase=Phase.SUSPECT)
    costs = []
    for first in (2, 12):
        for number in range(first, first + 10):
            server(number)
        with CaptureQueriesContext(connection) as queries:
            tasks.watch_suspects()
        costs.append(len(queries))
    assert costs == [1, 1]
    assert sent == [ill.pk, ill.pk]


def test_a_host_that_is_not_well_is_examined_by_workers_nobody_else_waits_for(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    monkeypatch.setattr(tasks.examine_suspect, "apply_async", lambda args, **_options: sent.append(args[0]))
    ill = server(1, phase=Phase.SUSPECT)
    for _ in range(5):
        tasks.reconcile_server(ill.pk)
    assert sent == [ill.pk], "and by one at a time"


def test_the_relay_of_a_silent_engine_is_believed_to_run_on(fleet: Fleet, clock: Traveller) -> None:
    here = Server.objects.get()
    fleet.on(here).fail(Unavailable("timeout"))
    clock.shift(3600)
    look(fleet, 5)
    relay = only_relay(here.relays.get().group)
    assert (relay.is_running, relay.trouble_code) == (True, "")
