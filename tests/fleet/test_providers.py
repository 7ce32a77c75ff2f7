"""What providers want: a reminder in good time, and relays that leave before the traffic is used up."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from time_machine import Traveller

from accounts.models import Notification, User
from fleet.models import Alert, Evacuation, Server, Traffic
from fleet.services.alerts import resolve_by_hand
from fleet.services.evacuations import set_quarantine
from fleet.services.providers import (
    count_allowances,
    last_reset,
    leave_servers_near_their_allowance,
    remind_of_renewals,
)
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


def carried(where: Server, owner: User, at: datetime, *, upload: int, download: int) -> None:
    """A day in the books of a relay of `owner` that ran on `where`."""
    Traffic.objects.create(
        relay=group(owner).relays.get(),
        server=where,
        span=Traffic.Span.DAY,
        starts_at=at.replace(hour=0, minute=0, second=0, microsecond=0),
        upload_bytes=upload,
        download_bytes=download,
    )


@pytest.mark.parametrize(
    ("direction", "used"),
    [
        (Server.BilledDirection.SUM, 70),
        (Server.BilledDirection.IN, 30),
        (Server.BilledDirection.OUT, 40),
        (Server.BilledDirection.LARGER, 40),
    ],
)
def test_what_a_server_carried_counts_against_its_allowance_as_its_provider_counts(
    direction: str, used: int, alice: User, clock: Traveller
) -> None:
    here, other = server(1, billed_direction=direction, allowance_reset_day=10), server(2)
    moment = datetime(2026, 5, 12, 8, tzinfo=UTC)
    clock.move_to(moment)
    carried(here, alice, moment, upload=20, download=30)
    carried(here, alice, moment - timedelta(days=2), upload=10, download=10)
    carried(here, alice, moment - timedelta(days=3), upload=1000, download=1000)
    count_allowances()
    here.refresh_from_db()
    other.refresh_from_db()
    assert (here.allowance_used_bytes, other.allowance_used_bytes) == (used, 0)
    clock.move_to(datetime(2026, 6, 10, 0, 1, tzinfo=UTC))
    count_allowances()
    here.refresh_from_db()
    assert here.allowance_used_bytes == 0, "it started anew"


@pytest.mark.parametrize(
    ("today", "day", "since"),
    [
        ((2026, 5, 12), 12, (2026, 5, 12)),
        ((2026, 5, 12), 13, (2026, 4, 13)),
        ((2026, 1, 5), 31, (2025, 12, 31)),
        ((2026, 3, 1), 31, (2026, 2, 28)),
        ((2028, 2, 29), 30, (2028, 2, 29)),
        ((2026, 4, 29), 30, (2026, 3, 30)),
    ],
)
def test_an_allowance_starts_anew_on_its_day_or_the_last_of_a_shorter_month(
    today: tuple[int, int, int], day: int, since: tuple[int, int, int]
) -> None:
    assert last_reset(datetime(*today, tzinfo=UTC), day) == datetime(*since, tzinfo=UTC)
