"""An outage stops a lease's clock, and what was lost is made up for: once, and exactly."""

from __future__ import annotations

from datetime import timedelta

import pytest
import time_machine

from accounts.models import User
from derp_portal.lib.clock import now
from fleet.models import Outage
from serials.models import Lease, LeaseTerm, Plan
from serials.services import activate, compensate_outages, end_lease, start_next_term
from serials.tasks import sweep_leases
from tests.serials.shop import START, assert_in_step, at_once, bring_up, mails, new_code_of, take_down

DAY = timedelta(days=1)
pytestmark = pytest.mark.django_db


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_two_sweeps_at_once_end_and_make_up_once(alice: User, plan: Plan) -> None:
    _serial, lease = activate(user=alice, code=new_code_of(plan))
    bring_up(lease.relay_group)
    start = now()
    with time_machine.travel(start, tick=False) as clock:
        take_down(lease.relay_group)
        clock.shift(timedelta(hours=2))
        bring_up(lease.relay_group)
        at_once([compensate_outages] * 4)
        assert LeaseTerm.objects.filter(source=LeaseTerm.Source.COMPENSATION).count() == 1
        clock.move_to(start + 31 * DAY)
        outcomes = at_once([sweep_leases] * 4)

    assert [outcome for outcome in outcomes if isinstance(outcome, Exception)] == []
    assert len(mails("lease_ended")) == 1
    assert_in_step(alice)


def test_time_that_was_made_up_for_brings_no_fresh_quota(
    lease: Lease, alice: User, clock: time_machine.Traveller
) -> None:
    clock.shift(DAY)
    take_down(lease.relay_group)
    clock.shift(timedelta(hours=5))
    bring_up(lease.relay_group)
    compensate_outages()
    clock.move_to(START + 30 * DAY + timedelta(hours=1))
    sweep_leases()
    term = lease.terms.get(source=LeaseTerm.Source.COMPENSATION)
    assert term.starts_at <= now() < term.ends_at
    lease.relay_group.refresh_from_db()
    assert lease.relay_group.period_start == START
    assert lease.relay_group.period_end == term.ends_at


@pytest.mark.parametrize("serials", [1, 2])
def test_making_up_that_is_brought_forward_brings_no_fresh_quota_either(
    lease: Lease, alice: User, plan: Plan, clock: time_machine.Traveller, serials: int
) -> None:
    for _more in range(serials - 1):
        activate(user=alice, code=new_code_of(plan))
    clock.shift(DAY)
    take_down(lease.relay_group)
    clock.shift(timedelta(hours=5))
    bring_up(lease.relay_group)
    compensate_outages()
    following = lease.terms.filter(state=LeaseTerm.State.QUEUED).earliest("starts_at")
    started = start_next_term(lease_id=lease.pk, term_id=following.pk, actor=alice)
    expected = START
    if serials == 2:
        expected = started.starts_at
        clock.move_to(started.ends_at + timedelta(hours=1))
        sweep_leases()
    lease.relay_group.refresh_from_db()
    assert lease.relay_group.period_start == expected


def test_an_outage_is_made_up_for_once_and_exactly(lease: Lease, alice: User, clock: time_machine.Traveller) -> None:
    clock.shift(DAY)
    take_down(lease.relay_group)
    clock.shift(timedelta(hours=5, minutes=7))
    assert compensate_outages() == 0, "it is not over yet"
    bring_up(lease.relay_group)

    assert compensate_outages() == 1
    assert compensate_outages() == 0

    lease.refresh_from_db()
    term = lease.terms.get(source=LeaseTerm.Source.COMPENSATION)
    assert term.outage == Outage.objects.get()
    assert lease.ends_at == START + 30 * DAY + timedelta(hours=5, minutes=7)
    lease.relay_group.refresh_from_db()
    assert lease.relay_group.run_until == lease.ends_at
    assert len(mails("lease_compensated")) == 1
    assert_in_step(alice)


@pytest.mark.parametrize(("seconds", "credited"), [(59, 0), (60, 1)])
def test_an_outage_of_a_restarts_length_is_not_made_up_for(
    lease: Lease, clock: time_machine.Traveller, seconds: int, credited: int
) -> None:
    take_down(lease.relay_group)
    clock.shift(timedelta(seconds=seconds))
    bring_up(lease.relay_group)

    assert compensate_outages() == credited
    clock.move_to(START + 31 * DAY)
    sweep_leases()

    lease.refresh_from_db()
    assert not lease.is_active, "an outage that nothing is owed for must not keep the lease"


def test_a_lease_does_not_end_while_its_clock_stands_and_then_gets_just_what_it_lost(
    lease: Lease, alice: User, clock: time_machine.Traveller
) -> None:
    end = lease.ends_at
    clock.move_to(end - timedelta(hours=1))
    take_down(lease.relay_group)
    clock.move_to(end + timedelta(hours=5))
    sweep_leases()
    lease.refresh_from_db()
    assert lease.is_active, "its clock stands"

    bring_up(lease.relay_group)
    clock.shift(timedelta(minutes=10))  # The sweep comes a little late.
    sweep_leases()

    # One hour was lost before the end; it is given back from the moment of recovery, not five hours more.
    lease.refresh_from_db()
    assert lease.is_active
    assert lease.ends_at == end + timedelta(hours=6)
    lease.relay_group.refresh_from_db()
    assert lease.relay_group.run_until == lease.ends_at
    assert_in_step(alice)
    clock.move_to(lease.ends_at)
    sweep_leases()
    lease.refresh_from_db()
    assert not lease.is_active


def test_days_redeemed_while_the_clock_stands_are_not_lost(
    lease: Lease, alice: User, plan: Plan, clock: time_machine.Traveller
) -> None:
    end = lease.ends_at
    clock.move_to(end - timedelta(hours=1))
    take_down(lease.relay_group)
    clock.move_to(end + timedelta(hours=2))
    activate(user=alice, code=new_code_of(plan))
    clock.move_to(end + timedelta(hours=5))
    bring_up(lease.relay_group)

    sweep_leases()

    # From the recovery on: the hour that was lost before the end, and thirty days.
    lease.refresh_from_db()
    assert lease.ends_at == end + timedelta(hours=5) + timedelta(hours=1) + 30 * DAY
    assert_in_step(alice)


def test_two_outages_are_both_made_up_for(lease: Lease, clock: time_machine.Traveller) -> None:
    for hours in (2, 3):
        take_down(lease.relay_group)
        clock.shift(timedelta(hours=hours))
        bring_up(lease.relay_group)
        clock.shift(timedelta(hours=1))

    assert compensate_outages() == 2

    lease.refresh_from_db()
    assert lease.ends_at == START + 30 * DAY + timedelta(hours=5)


@pytest.mark.parametrize("is_swept_before", [False, True])
def test_an_outage_of_an_ended_lease_is_not_made_up_for_when_it_is_revived(
    lease: Lease, alice: User, root: User, plan: Plan, clock: time_machine.Traveller, is_swept_before: bool
) -> None:
    take_down(lease.relay_group)
    clock.shift(timedelta(hours=5))
    end_lease(lease_id=lease.pk, reason=Lease.EndReason.STAFF, actor=root)
    if is_swept_before:
        sweep_leases()
    clock.shift(3 * DAY)

    _serial, revived = activate(user=alice, code=new_code_of(plan))
    end = revived.ends_at
    sweep_leases()

    revived.refresh_from_db()
    assert revived == lease
    assert revived.ends_at == end == now() + 30 * DAY
    take_down(lease.relay_group)
    clock.shift(timedelta(hours=2))
    bring_up(lease.relay_group)
    sweep_leases()
    revived.refresh_from_db()
    assert revived.ends_at == end + timedelta(hours=2), "what happens from now on is made up for"
    assert_in_step(alice)


def test_a_renewal_between_an_outage_and_the_sweep_loses_nothing(
    lease: Lease, alice: User, plan: Plan, clock: time_machine.Traveller
) -> None:
    take_down(lease.relay_group)
    clock.shift(timedelta(hours=5))
    bring_up(lease.relay_group)
    activate(user=alice, code=new_code_of(plan))

    assert compensate_outages() == 1

    lease.refresh_from_db()
    assert lease.ends_at == START + 60 * DAY + timedelta(hours=5)
