"""The engines' counters as a second opinion on the books."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as some

from accounts.models import User
from fleet import tasks
from fleet.derp.errors import NetworkFailure
from fleet.derp.varz import Varz
from fleet.metering import reading
from fleet.metering.counting import is_far_off
from fleet.metering.cross_check import compare_counters
from fleet.models import Alert, Meter, Relay, Server
from fleet.runtimes.base import Unavailable
from fleet.services.alert_words import wording
from tests.fleet import fleet_parts
from tests.fleet.fake_engine import FakeEngine

MB = 1000**2
pytestmark = pytest.mark.django_db


@dataclass
class Host:
    """A server with an engine and one relay; what the relay counts itself, and what its engine saw."""

    server: Server
    relay: Relay
    engine: FakeEngine
    started: float = 1.0
    counted: int = 0
    answers: bool = True

    def passes(self, counted: int, carried: int) -> None:
        """So many bytes as the relay counts them, so many as the engine does."""
        self.counted += counted
        self.engine.boxes[self.relay.container_name].carried_bytes += carried

    def starts_anew(self) -> None:
        """Its counters and the engine's begin at zero."""
        self.started += 60
        self.counted = 0
        self.engine.boxes[self.relay.container_name].carried_bytes = 0

    def compare(self) -> None:
        compare_counters(self.server.pk, runtime_for=lambda _server: self.engine.runtime())

    def read(self, **_asked: object) -> Varz:
        if not self.answers:
            raise NetworkFailure("timeout")
        return Varz(self.counted, 0, 1, 1, 1, self.started, "")


@pytest.fixture
def host(alice: User, monkeypatch: pytest.MonkeyPatch) -> Host:
    server = fleet_parts.server()
    relay = fleet_parts.only_relay(fleet_parts.group(alice))
    fleet = fleet_parts.Fleet([server])
    fleet.passes(2)
    relay.refresh_from_db()
    assert relay.observed_state == Relay.Observed.RUNNING
    host = Host(server, relay, fleet.on(server))
    monkeypatch.setattr(reading, "read_varz", host.read)
    host.compare()
    return host


def open_alerts() -> list[Alert]:
    return list(Alert.objects.filter(alert_type=Alert.Kind.COUNTERS_DIFFER, resolved=False))


def test_books_and_engine_agree_when_headers_and_handshakes_come_on_top(host: Host) -> None:
    host.passes(500 * MB, 560 * MB)
    host.compare()
    assert Meter.objects.get().booked_bytes == 500 * MB
    assert open_alerts() == []


@pytest.mark.parametrize(("counted", "carried"), [(500, 300), (100, 800)])
def test_books_far_from_the_engine_raise_one_alarm_that_ends_by_itself(host: Host, counted: int, carried: int) -> None:
    host.passes(counted * MB, carried * MB)
    host.compare()
    [alert] = open_alerts()
    assert alert.server == host.server
    assert f"for {host.relay.code} {counted} MB were booked while {carried} MB passed" in wording(alert)
    host.passes(50 * MB, 55 * MB)
    host.compare()
    assert open_alerts() == []


def test_what_was_compared_once_is_not_compared_again(host: Host) -> None:
    host.passes(500 * MB, 520 * MB)
    host.compare()
    # Over both hours together this would be within the bounds.
    host.passes(40 * MB, 0)
    host.compare()
    assert len(open_alerts()) == 1


def test_a_relay_that_was_started_anew_is_compared_the_next_time(host: Host) -> None:
    host.passes(500 * MB, 520 * MB)
    host.compare()
    host.starts_anew()
    host.passes(700 * MB, 730 * MB)
    host.compare()
    assert open_alerts() == []
    host.passes(300 * MB, 0)
    host.compare()
    assert len(open_alerts()) == 1


def test_a_relay_that_does_not_answer_is_left_for_the_next_time(host: Host) -> None:
    host.passes(900 * MB, 950 * MB)
    host.answers = False
    host.compare()
    host.answers = True
    host.compare()
    assert open_alerts() == []


def test_an_engine_that_does_not_answer_changes_nothing(host: Host) -> None:
    host.passes(500 * MB, 0)
    host.engine.fail(Unavailable("unreachable"), "carried_bytes")
    host.compare()
    assert open_alerts() == []
    host.engine.heal()
    host.compare()
    assert len(open_alerts()) == 1


def test_a_container_that_is_gone_does_not_keep_the_others_from_being_compared(host: Host, bob: User) -> None:
    other = fleet_parts.only_relay(fleet_parts.group(bob))
    fleet = fleet_parts.Fleet([host.server])
    fleet.engines[host.server.pk] = host.engine
    fleet.passes(2)
    host.compare()
    host.engine.runtime().remove(host.relay.container_name)
    host.engine.boxes[other.container_name].carried_bytes += 900 * MB
    host.compare()
    [alert] = open_alerts()
    assert alert.params["relay"] == other.code


def test_the_sweep_asks_healthy_servers_only(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet_parts.server(2, status=Server.Status.UNHEALTHY, phase=Server.Phase.UNHEALTHY)
    asked: list[int] = []
    monkeypatch.setattr(tasks.compare_counters_of, "apply_async", lambda args, **_options: asked.append(args[0]))
    tasks.compare_counters()
    assert asked == [host.server.pk]
    # Of a server that was deleted meanwhile nothing is left to compare.
    tasks.compare_counters_of(10**6)


@given(payload=some.integers(0, 10**13), overhead=some.floats(0, 0.9))
def test_overhead_alone_raises_no_alarm(payload: int, overhead: float) -> None:
    assert not is_far_off(booked=payload, carried=int(payload * (1 + overhead)) + 50 * MB)
