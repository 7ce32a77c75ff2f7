"""Probes kept: health that does not flutter, the portal's own bytes, and costs that do not grow with the fleet."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.db.models import QuerySet
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st
from time_machine import Traveller

from accounts.models import User
from derp_portal.lib.clock import now
from fleet.derp.probe import PROBE_PAYLOAD_BYTES, ProbeResult, Target
from fleet.derp.varz import parse_varz
from fleet.models import Meter, Move, MoveReason, Relay, RelayEvent, RelayGroup, RelayHealth, RelayUptime, Server
from fleet.monitoring import probing
from fleet.monitoring.probing import (
    FAILURES_UNTIL_UNHEALTHY,
    PROBE_AGAIN_AFTER,
    PROBE_EVERY,
    START_GRACE,
    _note,
    any_relay_answers,
    keep,
    probe_relays,
    relays_due_for_a_probe,
    status_after,
)
from fleet.services import restart_relay
from tests.fleet.fleet_parts import GOOD, SILENT, Fleet, group, only_relay, server
from tests.serials.shop import at_once

STARTING, HEALTHY, UNHEALTHY = RelayHealth.Status.STARTING, RelayHealth.Status.HEALTHY, RelayHealth.Status.UNHEALTHY


@pytest.fixture
def clock() -> Iterator[Traveller]:
    with time_machine.travel(datetime(2031, 3, 1, 9, tzinfo=UTC), tick=False) as travel:
        yield travel


@pytest.fixture
def here(db: None) -> Server:
    return server(max_relays=100)


@pytest.fixture
def relay(alice: User, here: Server, clock: Traveller) -> Relay:
    """alice's relay, which runs and has had its time to start."""
    bought = group(alice)
    Fleet([here]).passes(2)
    clock.shift(START_GRACE)
    return only_relay(bought)


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> list[ProbeResult]:
    """What every probe says: the last of these."""
    answers = [GOOD]
    monkeypatch.setattr("fleet.monitoring.probing.probe", lambda _target, _timeout: answers[-1])
    return answers


def health_of(relay: Relay) -> RelayHealth:
    return RelayHealth.objects.get(relay=relay)


def statuses(relay: Relay, *results: ProbeResult) -> list[str]:
    """The status after each of these results."""
    found = []
    for result in results:
        keep([(relay, result)])
        found.append(health_of(relay).status)
    return found


# --- hysteresis -----------------------------------------------------------------------------------


def test_a_relay_that_starts_is_healthy_with_its_first_answer(relay: Relay) -> None:
    assert statuses(relay, GOOD) == [HEALTHY]


def test_it_takes_three_failures_to_be_ill_and_two_answers_to_be_well_again(relay: Relay) -> None:
    seen = statuses(relay, GOOD, SILENT, SILENT, SILENT, GOOD, SILENT, GOOD, GOOD)
    assert seen == [HEALTHY, HEALTHY, HEALTHY, UNHEALTHY, UNHEALTHY, UNHEALTHY, UNHEALTHY, HEALTHY]
    kinds = RelayEvent.objects.filter(relay=relay, kind__in=("healthy", "unhealthy")).order_by("id")
    assert list(kinds.values_list("kind", "detail")) == [("healthy", ""), ("unhealthy", "timeout"), ("healthy", "")]


def test_the_first_answer_of_an_ill_relay_is_noted_as_the_last_time_it_was_well(relay: Relay, clock: Traveller) -> None:
    statuses(relay, SILENT, SILENT, SILENT)
    clock.shift(PROBE_EVERY)
    assert statuses(relay, GOOD) == [UNHEALTHY]
    assert health_of(relay).healthy_at == now()


def test_a_relay_that_needs_a_moment_to_listen_is_starting_and_not_ill(
    alice: User, here: Server, clock: Traveller
) -> None:
    bought = group(alice)
    Fleet([here]).passes()
    relay = only_relay(bought)
    assert set(statuses(relay, *[SILENT] * 5)) == {STARTING}
    early = health_of(relay)
    assert (early.failures, early.error) == (0, "timeout")
    clock.shift(START_GRACE)
    assert statuses(relay, *[SILENT] * 3) == [STARTING, STARTING, UNHEALTHY]


@given(st.lists(st.booleans(), max_size=40))
def test_the_status_changes_only_after_as_many_equal_results_in_a_row(results: list[bool]) -> None:
    status, failures, successes, history = HEALTHY, 0, 0, [HEALTHY]
    for is_good in results:
        failures, successes = (0, successes + 1) if is_good else (failures + 1, 0)
        status = status_after(status, failures=failures, successes=successes)
        history.append(status)
    for position, (before, after) in enumerate(pairwise(history), start=1):
        if before != after:
            needed = FAILURES_UNTIL_UNHEALTHY if after == UNHEALTHY else 2
            assert results[position - needed : position] == [after == HEALTHY] * needed


@pytest.mark.parametrize(
    ("results", "is_due_soon"),
    [
        ([GOOD], False),
        ([GOOD, SILENT], True),
        ([SILENT], True),
        ([GOOD, SILENT, SILENT, SILENT], False),
        ([SILENT, SILENT, SILENT, GOOD], True),
        ([SILENT, SILENT, SILENT, GOOD, GOOD], False),
    ],
)
def test_who_may_be_about_to_change_is_asked_again_soon(
    relay: Relay, clock: Traveller, results: list[ProbeResult], is_due_soon: bool
) -> None:
    assert relays_due_for_a_probe(10) == [relay]
    statuses(relay, *results)
    clock.shift(PROBE_AGAIN_AFTER)
    assert relays_due_for_a_probe(10) == []
    clock.shift(1)
    assert relays_due_for_a_probe(10) == ([relay] if is_due_soon else [])
    clock.shift(PROBE_EVERY)
    assert relays_due_for_a_probe(10) == [relay]


# --- what the books are told ----------------------------------------------------------------------


def test_what_was_seen_of_the_container_before_says_nothing_about_its_successor(relay: Relay) -> None:
    statuses(relay, GOOD)
    restart_relay(relay_id=relay.pk, actor=None)
    assert statuses(relay, *[SILENT] * 5) == [HEALTHY] * 5
    assert (health_of(relay).error, RelayUptime.objects.get().probes) == ("", 1)


def test_the_portals_own_bytes_are_on_the_meter_before_they_pass(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    happened = []

    def look(_target: Target, _timeout: float) -> ProbeResult:
        happened.append("probe")
        return GOOD

    def listen(execute: Any, sql: str, *rest: Any) -> Any:
        if sql.startswith('UPDATE "fleet_meter"'):
            happened.append("meter")
        return execute(sql, *rest)

    monkeypatch.setattr("fleet.monitoring.probing.probe", look)
    Meter.objects.create(relay=relay, generation=relay.generation + 1, own_received=5)
    with connection.execute_wrapper(listen):
        probe_relays([relay])
        probe_relays([relay])
    assert happened == ["meter", "probe"] * 2
    own = dict(Meter.objects.values_list("generation", "own_received"))
    assert own == {relay.generation: 2 * PROBE_PAYLOAD_BYTES, relay.generation + 1: 5}
    assert Meter.objects.get(generation=relay.generation).own_sent == 2 * PROBE_PAYLOAD_BYTES


def test_a_look_at_the_host_through_its_relays_is_kept_but_is_no_measure_of_uptime(
    relay: Relay, here: Server, answer: list[ProbeResult]
) -> None:
    answer.append(SILENT)
    assert not any_relay_answers(here.pk)
    assert health_of(relay).failures == 1
    assert not RelayUptime.objects.exists()
    assert Meter.objects.get().own_sent == PROBE_PAYLOAD_BYTES


def test_the_first_answer_ends_a_move_although_an_ill_relay_needs_two(
    relay: Relay, here: Server, answer: list[ProbeResult]
) -> None:
    statuses(relay, *[SILENT] * 3)
    Move.objects.create(
        relay=relay,
        reason=MoveReason.HAND,
        state=Move.State.PLACED,
        from_generation=relay.generation - 1,
        to_server=here,
        to_generation=relay.generation,
    )
    probe_relays([relay])
    assert health_of(relay).status == UNHEALTHY
    assert Move.objects.get().state == Move.State.ANSWERED


# --- many at once ---------------------------------------------------------------------------------


def bought(owner: User, here: Server, count: int) -> list[Relay]:
    """That many relays more, running."""
    made: list[RelayGroup] = [group(owner) for _ in range(count)]
    Fleet([here]).passes(2)
    return list(Relay.objects.filter(group__in=made).select_related("server", "port").order_by("id"))


@pytest.mark.both_databases
@pytest.mark.parametrize("is_new", [True, False])
def test_a_batch_of_twenty_asks_no_more_of_the_database_than_one_relay(
    alice: User, here: Server, answer: list[ProbeResult], is_new: bool
) -> None:
    costs = []
    for count in (1, 20):
        relays = bought(alice, here, count)
        if not is_new:
            probe_relays(relays)
        with CaptureQueriesContext(connection) as queries:
            probe_relays(relays)
        costs.append(len(queries))
    assert costs[0] == costs[1] <= 20
    assert RelayHealth.objects.filter(status=HEALTHY).count() == 21


@pytest.fixture(params=[1])
def meeting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers that both get so far, within so many seconds, have read the same rows before either writes any."""
    barrier = threading.Barrier(2)

    def wait(health: RelayHealth, result: ProbeResult, moment: datetime, *, is_starting: bool) -> None:
        with suppress(threading.BrokenBarrierError):
            barrier.wait(request.param)
        _note(health, result, moment, is_starting=is_starting)

    monkeypatch.setattr(probing, "_note", wait)


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("meeting", [60], indirect=True)
def test_without_locks_one_of_two_probes_at_once_is_lost(
    alice: User, clock: Traveller, meeting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("needs postgresql: SQLite lets one writer in at a time, with or without row locks")
    [relay] = bought(alice, server(), 1)
    keep([(relay, GOOD)])
    monkeypatch.setattr(QuerySet, "select_for_update", lambda queryset, **_options: queryset.all())
    at_once([lambda: keep([(relay, GOOD)])] * 2)
    assert health_of(relay).successes == 2


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_with_locks_both_of_two_probes_at_once_count(alice: User, clock: Traveller, meeting: None) -> None:
    [relay] = bought(alice, server(), 1)
    keep([(relay, GOOD)])
    at_once([lambda: keep([(relay, GOOD)])] * 2)
    assert (health_of(relay).successes, RelayUptime.objects.get().probes) == (3, 3)


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_of_probes_by_several_workers_at_once_all_count(
    alice: User, clock: Traveller, answer: list[ProbeResult]
) -> None:
    here = server(max_relays=100)
    relays = bought(alice, here, 5)
    orders = [relays, relays[::-1]] * 3
    outcomes = at_once([lambda order=order: probe_relays(order) for order in orders])  # type: ignore[misc]
    assert [one for one in outcomes if isinstance(one, Exception)] == []
    assert list(RelayUptime.objects.values_list("probes", "answered")) == [(6, 6)] * 5
    assert list(RelayHealth.objects.values_list("successes", "status")) == [(6, "healthy")] * 5
    assert set(Meter.objects.values_list("own_received", "own_sent")) == {(6 * PROBE_PAYLOAD_BYTES,) * 2}
    assert RelayEvent.objects.filter(kind=RelayEvent.Kind.HEALTHY).count() == 5


def test_more_results_than_one_transaction_takes_are_all_kept(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.monitoring.probing.BATCH", 2)
    keep([(relay, SILENT)] * 5)
    assert health_of(relay).failures == 5


# --- versions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "shown"),
    [("1.102.3-ERR-BuildInfo", "1.102.3"), ("1.102.3", "1.102.3"), ("1.102.3-t1a2b", "1.102.3-t1a2b")],
)
def test_the_version_is_shown_without_the_builders_complaint(said: str, shown: str) -> None:
    counters = "derp_bytes_received derp_bytes_sent derp_current_connections derp_current_home_connections derp_accepts"
    lines = [f"# TYPE {name} gauge\n{name} 1" for name in [*counters.split(), "process_start_time_seconds"]]
    text = "\n".join([*lines, f'# TYPE version gauge\nversion{{version="{said}"}} 1', ""])
    assert parse_varz(text.encode()).version == shown
