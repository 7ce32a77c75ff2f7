"""What providers want: a reminder in good time, and relays that leave before the traffic is used up."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from time_machine import Traveller

from accounts.models import Notification, User
from fleet.models import Alert, Evacuation, Server
from fleet.services.alerts import resolve_by_hand
from fleet.services.evacuations import set_quarantine
from fleet.services.providers import leave_servers_near_their_allowance, remind_of_renewals
from tests.fleet.fleet_parts import Fleet, group, only_relay, server, stop

NOON = datetime(2031, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def clock() -> Iterator[Traveller]:
    with time_machine.travel(NOON, tick=False) as travel:
        yield travel


def open_alerts() -> int:
    return Alert.objects.filter(resolved=False).count()


def test_operators_are_reminded_a_week_before_and_once(root: User, clock: Traveller) -> None:
    server(1, provider="Cheap & Cheerful", provider_renews_on=(NOON + timedelta(days=8)).date())
    remind_of_renewals()
    assert open_alerts() == 0
    clock.shift(timedelta(days=1))
    for _ in range(3):
        remind_of_renewals()
    alert = Alert.objects.get()
    assert "Cheap & Cheerful" in alert.message
    assert Notification.objects.filter(kind="alert", user=root).count() == 1


def test_a_reminder_ends_when_the_date_is_moved_on_or_somebody_has_seen_to_it(root: User, clock: Traveller) -> None:
    here = server(1, provider_renews_on=NOON.date())
    remind_of_renewals()
    resolve_by_hand(alert_id=Alert.objects.get().pk, actor=root)
    remind_of_renewals()
    assert (open_alerts(), Alert.objects.count()) == (0, 1)
    Server.objects.filter(pk=here.pk).update(provider_renews_on=NOON.date() + timedelta(days=3))
    remind_of_renewals()
    assert open_alerts() == 1, "the next date is another matter"
    Server.objects.filter(pk=here.pk).update(provider_renews_on=NOON.date() + timedelta(days=33))
    remind_of_renewals()
    assert open_alerts() == 0


def test_near_the_allowance_relays_leave_and_the_old_ones_serve_until_the_new_ones_answer(
    alice: User, root: User
) -> None:
    here, there = server(1), server(2, max_relays=1000)
    there_only_later = Server.objects.filter(pk=there.pk)
    there_only_later.update(is_enabled=False)
    fleet = Fleet([here, there])
    relay = only_relay(group(alice))
    fleet.sweep()
    fleet.sweep()
    Server.objects.filter(pk=here.pk).update(allowance_bytes=1000, allowance_used_bytes=900)
    there_only_later.update(is_enabled=True)
    leave_servers_near_their_allowance()
    for _ in range(4):
        fleet.sweep()
        assert sum(len(engine.boxes) for engine in fleet.engines.values()) >= 1
    after = only_relay(relay.group)
    assert (after.server, after.is_running) == (there, True)
    assert not fleet.on(here).boxes
    assert Alert.objects.get().params["percent"] == "90"
    Server.objects.filter(pk=here.pk).update(allowance_used_bytes=0)
    leave_servers_near_their_allowance()
    assert open_alerts() == 0


def test_a_server_near_its_allowance_takes_no_new_relays(alice: User) -> None:
    server(1, allowance_bytes=1000, allowance_used_bytes=901)
    assert group(alice).relays.get().trouble_code == "no_server"


@pytest.mark.parametrize("why", ["stopped", "quarantined"])
def test_relays_that_use_nothing_or_must_stay_begin_no_move_sweep_after_sweep(why: str, alice: User) -> None:
    here = server(1)
    bought = group(alice)
    if why == "stopped":
        stop(bought)
    else:
        set_quarantine(group_id=bought.pk, is_quarantined=True, actor=None)
    Server.objects.filter(pk=here.pk).update(allowance_bytes=1000, allowance_used_bytes=1000)
    for _ in range(3):
        leave_servers_near_their_allowance()
    assert not Evacuation.objects.exists()
    assert only_relay(bought).server == here
