"""The tasks around a pass: thin, safe to run twice, and never a crowd behind a slow host."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from accounts.models import User
from derp_portal.lib.clock import now
from fleet import tasks
from fleet.derp.probe import ProbeResult
from fleet.models import Server
from tests.fleet.fleet_parts import Fleet, group, only_relay, server


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What the tasks send instead of doing, by name and arguments."""
    messages: list[tuple[str, Any]] = []
    for task in (tasks.reconcile_server, tasks.probe_fresh):
        name = task.name.rsplit(".", 1)[-1]
        monkeypatch.setattr(task, "apply_async", lambda args, name=name, **_o: messages.append((name, args)))
    return messages


def test_whoever_finds_a_pass_under_way_looks_again_later_but_only_once(
    db: None, sent: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "LOOK_AGAIN_SECONDS", 60)  # All who ask meanwhile: that must be all five.
    busy = server(pass_token="somebody", pass_until=now() + timedelta(minutes=1))
    for _ in range(5):
        tasks.reconcile_server(busy.pk)
    assert sent == [("reconcile_server", (busy.pk,))]


def test_a_claim_that_ran_out_stops_nobody(alice: User) -> None:
    here = server(pass_token="the dead", pass_until=now() - timedelta(seconds=1))
    fleet = Fleet([here])
    relay = only_relay(group(alice))
    assert fleet.one_pass(here).started == [relay.pk]
    assert Server.objects.get().pass_until is None


def test_a_server_that_was_deleted_meanwhile_is_no_error(db: None, sent: list[tuple[str, Any]]) -> None:
    tasks.reconcile_server(10**6)
    tasks.probe_fresh(10**6)
    assert sent == []


def test_a_fresh_relay_is_probed_until_it_answers_or_the_sweep_takes_over(
    alice: User, sent: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = server()
    relay = only_relay(group(alice))
    Fleet([here]).passes()
    monkeypatch.setattr("fleet.monitoring.probing.probe", lambda *_args: ProbeResult(error="timeout"))
    tasks.probe_fresh(relay.pk, tasks.FRESH_PROBE_TRIES - 1)
    assert sent == [("probe_fresh", (relay.pk, tasks.FRESH_PROBE_TRIES))]
    tasks.probe_fresh(relay.pk, tasks.FRESH_PROBE_TRIES)
    assert len(sent) == 1
