"""What time brings about: expiry, release, reminders. Twice is harmless, late is harmless."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import User
from derp_portal.lib.clock import now
from fleet.models import Port, Wanted
from fleet.selectors import map_url_of
from fleet.services import release_relay
from serials.models import Lease, Plan, Reminder, SerialNumber
from serials.services import (
    activate,
    advance_terms,
    compensate_outages,
    end_lease,
    expire_leases,
    expire_serials,
    release_ended_leases,
    renew_lease,
    send_reminders,
    sweeps,
)
from serials.tasks import sweep_leases
from tests.serials.shop import (
    START,
    assert_in_step,
    at_once,
    bring_up,
    mails,
    make_plan,
    new_code_of,
    new_codes,
    take_down,
)

DAY = timedelta(days=1)
pytestmark = pytest.mark.django_db


def place_of(lease: Lease) -> dict[str, Any]:
    """What a pasted map depends on."""
    [relay] = lease.relay_group.relays.filter(released_at=None)
    lease.relay_group.refresh_from_db()
    return {
        "relay": relay.code,
        "pin": relay.pin,
        "server": relay.server_id,
        "port": relay.port.number,
        "region id": relay.region_id,
        "map": map_url_of(lease.relay_group),
    }


def reminded() -> list[int]:
    """The days of the reminders sent, in order; the outbox agrees."""
    sent = list(Reminder.objects.order_by("id").values_list("days", flat=True))
    assert len(mails("lease_reminder")) == len(sent)
    return sent


# --- the end of a lease ----------------------------------------------------------------------------


def test_a_lease_ends_at_its_end_and_not_before(lease: Lease, alice: User, clock: time_machine.Traveller) -> None:
    clock.move_to(lease.ends_at - timedelta(seconds=1))
    assert expire_leases() == 0

    clock.move_to(lease.ends_at)
    assert expire_leases() == 1
    assert expire_leases() == 0

    lease.refresh_from_db()
    lease.relay_group.refresh_from_db()
    assert (lease.status, lease.end_reason, lease.ended_at) == (Lease.Status.EXPIRED, "expired", lease.ends_at)
    assert lease.relay_group.wanted == Wanted.STOPPED
    assert lease.terms.get().closed_at is None
    assert len(mails("lease_ended")) == 1
    assert_in_step(alice)
    assert alice.rental_expiry is None


def test_a_renewal_within_fourteen_days_needs_no_new_map(
    lease: Lease, alice: User, plan: Plan, clock: time_machine.Traveller
) -> None:
    before = place_of(lease)
    clock.move_to(lease.ends_at)
    sweep_leases()
    clock.shift(14 * DAY - timedelta(seconds=1))
    sweep_leases()

    _serial, renewed = activate(user=alice, code=new_code_of(plan))

    assert renewed == lease
    assert place_of(renewed) == before
    clock.shift(DAY)
    sweep_leases()
    renewed.refresh_from_db()
    assert renewed.is_active
    assert renewed.released_at is None


def test_after_fourteen_days_the_place_is_given_back_for_good(
    lease: Lease, alice: User, root: User, plan: Plan, clock: time_machine.Traveller
) -> None:
    clock.move_to(lease.ends_at)
    sweep_leases()
    clock.shift(14 * DAY)

    assert release_ended_leases() == 1
    assert release_ended_leases() == 0

    lease.refresh_from_db()
    lease.relay_group.refresh_from_db()
    assert lease.released_at == now()
    assert lease.relay_group.wanted == Wanted.ABSENT
    assert lease.relay_group.last_map
    assert not Port.objects.exists()
    _serial, fresh = activate(user=alice, code=new_code_of(plan))
    assert fresh != lease
    assert fresh.relay_group != lease.relay_group
    assert_in_step(alice)


def test_a_lease_whose_relays_were_released_by_hand_still_ends(
    lease: Lease, alice: User, root: User, plan: Plan, clock: time_machine.Traveller
) -> None:
    """Its group is gone for good, so nothing can be said to it any more; the lease must not hang on that."""
    activate(user=alice, code=new_code_of(make_plan(3)))
    release_relay(relay_id=lease.relay_group.relays.get().pk, actor=root)

    clock.move_to(START + 30 * DAY)
    assert advance_terms() == 1
    clock.move_to(START + 33 * DAY)
    sweep_leases()

    lease.refresh_from_db()
    assert lease.status == Lease.Status.EXPIRED
    assert_in_step(alice)
    assert activate(user=alice, code=new_code_of(plan))[1] != lease


def test_one_lease_that_cannot_be_ended_stops_no_other(
    lease: Lease, bob: User, plan: Plan, clock: time_machine.Traveller, monkeypatch: pytest.MonkeyPatch
) -> None:
    _serial, other = activate(user=bob, code=new_code_of(plan))
    end = end_lease

    def fail_for_alice(*, lease_id: int, **named: Any) -> Lease:
        if lease_id == lease.pk:
            raise RuntimeError("this one is broken")
        return end(lease_id=lease_id, **named)

    monkeypatch.setattr(sweeps, "end_lease", fail_for_alice)
    clock.move_to(START + 30 * DAY)

    assert expire_leases() == 1

    lease.refresh_from_db()
    other.refresh_from_db()
    assert (lease.is_active, other.is_active) == (True, False)
    monkeypatch.undo()
    assert expire_leases() == 1


# --- serials ---------------------------------------------------------------------------------------


def test_serials_expire_unused_at_their_last_day_and_used_at_the_end_of_their_term(
    lease: Lease, alice: User, plan: Plan, clock: time_machine.Traveller
) -> None:
    used = SerialNumber.objects.get()
    [unused] = SerialNumber.objects.filter(code=new_code_of(plan, activate_before=START + 10 * DAY))
    endless = SerialNumber.objects.get(code=new_code_of(plan))
    assert used.expires_at == lease.ends_at

    def states() -> list[str]:
        return [SerialNumber.objects.get(pk=serial.pk).status for serial in (used, unused, endless)]

    clock.move_to(START + 10 * DAY - timedelta(seconds=1))
    assert expire_serials() == 0
    clock.move_to(START + 10 * DAY)
    assert expire_serials() == 1
    assert states() == ["used", "expired", "unused"]
    clock.move_to(START + 30 * DAY)
    assert expire_serials() == 1
    assert expire_serials() == 0
    assert states() == ["expired", "expired", "unused"]


# --- reminders -------------------------------------------------------------------------------------


def test_reminders_go_out_at_seven_three_and_one_days_each_once(lease: Lease, clock: time_machine.Traveller) -> None:
    for hours in range(30 * 24):
        clock.move_to(START + timedelta(hours=hours))
        if hours % 6 == 0:
            send_reminders()
            expected = [days for days in (7, 3, 1) if now() >= lease.ends_at - days * DAY]
            assert reminded() == expected
    assert reminded() == [7, 3, 1]


def test_a_renewal_arms_the_reminders_again(lease: Lease, root: User, clock: time_machine.Traveller) -> None:
    clock.move_to(START + 29 * DAY)
    send_reminders()
    assert reminded() == [1]

    renew_lease(lease_id=lease.pk, until=START + 60 * DAY, actor=root)
    send_reminders()
    assert reminded() == [1]
    for days in (7, 3, 1):
        clock.move_to(START + (60 - days) * DAY)
        send_reminders()
        send_reminders()

    assert reminded() == [1, 7, 3, 1]


def test_making_up_for_an_outage_repeats_no_reminder(lease: Lease, clock: time_machine.Traveller) -> None:
    for days in (7, 3, 1):
        lease.refresh_from_db()
        clock.move_to(lease.ends_at - days * DAY)
        assert send_reminders() == 1
        take_down(lease.relay_group)
        clock.shift(timedelta(minutes=2))
        bring_up(lease.relay_group)
        assert compensate_outages() == 1
        for _look in range(3):
            assert send_reminders() == 0
            clock.shift(timedelta(minutes=2))

    assert reminded() == [7, 3, 1]


def test_a_lease_whose_clock_stands_or_that_is_owed_time_is_not_reminded(
    lease: Lease, clock: time_machine.Traveller
) -> None:
    clock.move_to(START + 22 * DAY)
    take_down(lease.relay_group)
    clock.move_to(START + 24 * DAY)
    send_reminders()
    assert reminded() == [], "its end moves"

    bring_up(lease.relay_group)
    send_reminders()
    assert reminded() == [], "its end is about to move"
    compensate_outages()
    send_reminders()
    assert reminded() == [], "its end is eight days away"
    clock.shift(DAY)
    send_reminders()

    assert reminded() == [7]


@pytest.mark.parametrize(("days", "expected"), [(1, []), (3, [1]), (5, [3, 1]), (7, [3, 1]), (8, [7, 3, 1])])
def test_a_short_lease_is_not_told_on_its_first_day_that_it_ends_soon(
    alice: User, plan: Plan, clock: time_machine.Traveller, days: int, expected: list[int]
) -> None:
    activate(user=alice, code=new_code_of(make_plan(days)))

    for hours in range(days * 24):
        clock.move_to(START + timedelta(hours=hours))
        send_reminders()

    assert reminded() == expected


@pytest.mark.parametrize(("hours_left", "expected"), [(7 * 24 - 1, [7]), (50, [3]), (12, [1]), (0, [])])
def test_a_worker_that_comes_late_sends_only_the_nearest_reminder(
    lease: Lease, clock: time_machine.Traveller, hours_left: int, expected: list[int]
) -> None:
    clock.move_to(lease.ends_at - timedelta(hours=hours_left))

    send_reminders()
    send_reminders()

    assert reminded() == expected


def test_an_ended_lease_reminds_of_nothing(lease: Lease, clock: time_machine.Traveller) -> None:
    clock.move_to(START + 28 * DAY)
    end_lease(lease_id=lease.pk, reason=Lease.EndReason.STAFF, actor=None)

    send_reminders()

    assert reminded() == []


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_two_sweeps_at_once_send_one_reminder(alice: User, plan: Plan) -> None:
    activate(user=alice, code=new_code_of(plan))
    with time_machine.travel(now() + 29 * DAY, tick=False):
        outcomes = at_once([send_reminders] * 4)

    assert [outcome for outcome in outcomes if isinstance(outcome, Exception)] == []
    assert reminded() == [1]


# --- cost ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sweep", [expire_serials, compensate_outages, advance_terms, expire_leases, release_ended_leases, send_reminders]
)
def test_a_sweep_that_finds_nothing_costs_the_same_however_much_there_is(
    sweep: Any, lease: Lease, bob: User, plan: Plan
) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            sweep()
        return len(queries)

    with_one = cost()
    for code in new_codes(plan, 5):
        activate(user=bob, code=code)

    assert cost() == with_one <= 5


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("sweep", "index"),
    [
        (expire_serials, "serials_to_expire"),
        (advance_terms, "current_terms_by_end"),
        (expire_leases, "active_leases_by_end"),
        (release_ended_leases, "ended_leases_to_release"),
        (send_reminders, "active_leases_by_end"),
    ],
)
def test_a_sweep_finds_its_work_by_an_index(sweep: Any, index: str, server: object) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("needs postgresql: the planner's word for which index it can use is asked for there")
    with CaptureQueriesContext(connection) as queries:
        sweep()
    plans = []
    with connection.cursor() as cursor:
        # On empty tables every index looks dearer than reading the table; the question is which one could serve.
        cursor.execute("SET LOCAL enable_seqscan = off")
        for query in queries.captured_queries:
            if query["sql"].startswith(("SELECT", "UPDATE")):
                cursor.execute(f"EXPLAIN {query['sql']}")
                plans += [row[0] for row in cursor.fetchall()]

    assert any(index in line for line in plans), "\n".join(plans)
