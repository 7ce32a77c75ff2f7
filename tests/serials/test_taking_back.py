"""Taking back what a serial granted: the days still to be served, and nothing that came from elsewhere."""

from __future__ import annotations

from datetime import timedelta

import pytest
import time_machine

from accounts.models import User
from derp_portal.lib.clock import now
from serials.models import Lease, LeaseTerm, Plan, SerialNumber
from serials.services import Taken, activate, start_next_term, take_back, unserved_of
from serials.services.activation import How
from serials.services.numbers import SerialRefused
from tests.serials.shop import assert_in_step, mails, make_plan, new_code_of

pytestmark = pytest.mark.django_db

DAY = 24 * 3600


def redeemed(user: User, plan: Plan, how: How = How.QUEUE) -> SerialNumber:
    return activate(user=user, code=new_code_of(plan), how=how)[0]


def unserved(serial: SerialNumber) -> tuple[int, int]:
    left = unserved_of([serial])[serial.pk]
    return left.seconds, left.whole


def taken(serial: SerialNumber) -> tuple[str, int]:
    back = take_back(serial_id=serial.pk, reason="refunded", actor=None)
    return back.what, back.seconds


def test_an_unused_serial_is_revoked(alice: User, plan: Plan) -> None:
    code = new_code_of(plan)
    serial = SerialNumber.objects.get()
    assert unserved(serial) == (30 * DAY, 30 * DAY)
    assert taken(serial) == (Taken.REVOKED, 0)
    with pytest.raises(SerialRefused) as refusal:
        activate(user=alice, code=code)
    assert refusal.value.code == "serial_revoked"


def test_the_only_term_ends_with_the_lease(alice: User, plan: Plan, clock: time_machine.Traveller) -> None:
    serial = redeemed(alice, plan)
    clock.shift(timedelta(days=10))
    assert unserved(serial) == (20 * DAY, 30 * DAY)
    assert taken(serial) == (Taken.DAYS, 20 * DAY)
    lease = Lease.objects.get()
    assert (lease.is_active, lease.end_reason) == (False, Lease.EndReason.TAKEN_BACK)
    assert_in_step(alice)
    assert "It ended early because the serial number that it ran on was taken back" in mails("lease_ended")[0].body_text
    assert not mails("lease_shortened")


def test_later_terms_move_up_whole(alice: User, plan: Plan, clock: time_machine.Traveller) -> None:
    first = redeemed(alice, plan)
    redeemed(alice, make_plan(3))
    clock.shift(timedelta(days=10))

    assert taken(first) == (Taken.DAYS, 20 * DAY)

    lease = Lease.objects.get()
    assert lease.is_active
    assert lease.ends_at - now() == timedelta(days=3)
    assert [term.plan.days for term in lease.terms.filter(state=LeaseTerm.State.CURRENT)] == [3]
    assert_in_step(alice)


def test_a_term_to_come_leaves_the_one_that_runs_alone(alice: User, plan: Plan, clock: time_machine.Traveller) -> None:
    redeemed(alice, plan)
    second = redeemed(alice, make_plan(3))
    third = redeemed(alice, make_plan(5))
    clock.shift(timedelta(days=10))

    assert taken(second) == (Taken.DAYS, 3 * DAY)

    lease = Lease.objects.get()
    assert lease.ends_at - now() == timedelta(days=25)
    third.refresh_from_db()
    assert third.expires_at == lease.ends_at
    assert_in_step(alice)


def test_the_last_of_the_queue_only_shortens_the_lease(alice: User, plan: Plan, clock: time_machine.Traveller) -> None:
    redeemed(alice, plan)
    second = redeemed(alice, make_plan(3))

    assert taken(second) == (Taken.DAYS, 3 * DAY)

    lease = Lease.objects.get()
    assert lease.ends_at - now() == timedelta(days=30)
    assert lease.renewed_to == lease.ends_at
    alice.refresh_from_db()
    assert alice.rental_expiry == lease.ends_at
    assert taken(second) == (Taken.SERVED, 0)
    told = mails("lease_shortened")
    assert len(told) == 1
    assert f"now runs until {lease.ends_at.astimezone(alice.zone):%Y-%m-%d %H:%M}" in told[0].body_text


def test_days_that_were_moved_up_are_found_again(alice: User, plan: Plan, clock: time_machine.Traveller) -> None:
    redeemed(alice, plan)
    second = redeemed(alice, make_plan(5))
    lease = Lease.objects.get()
    start_next_term(lease_id=lease.pk, term_id=second.term.pk, actor=alice)
    clock.shift(timedelta(days=2))

    assert unserved(second) == (3 * DAY, 5 * DAY)
    assert taken(second) == (Taken.DAYS, 3 * DAY)
    assert not Lease.objects.get().is_active


def test_days_that_were_given_up_are_gone(alice: User, plan: Plan, clock: time_machine.Traveller) -> None:
    first = redeemed(alice, plan)
    second = redeemed(alice, make_plan(5))
    start_next_term(lease_id=Lease.objects.get().pk, term_id=second.term.pk, actor=alice)
    assert unserved(first)[0] == 0
    assert taken(first) == (Taken.SERVED, 0)
    assert Lease.objects.get().is_active


def test_converted_days_cannot_be_told_apart(alice: User, plan: Plan, clock: time_machine.Traveller) -> None:
    first = redeemed(alice, plan)
    redeemed(alice, make_plan(5), How.CONVERT)
    before = Lease.objects.get().ends_at
    assert taken(first) == (Taken.CONVERTED, 0)
    assert Lease.objects.get().ends_at == before


def test_served_days_are_not_taken(alice: User, plan: Plan, clock: time_machine.Traveller) -> None:
    first = redeemed(alice, make_plan(3))
    redeemed(alice, plan)
    clock.shift(timedelta(days=4))
    from serials.services import advance_terms

    advance_terms()
    assert taken(first) == (Taken.SERVED, 0)
    assert Lease.objects.get().is_active


def test_twice_takes_once(alice: User, plan: Plan, clock: time_machine.Traveller) -> None:
    redeemed(alice, plan)
    second = redeemed(alice, make_plan(3))
    taken(second)
    assert taken(second) == (Taken.SERVED, 0)
    assert Lease.objects.get().ends_at - now() == timedelta(days=30)


def test_a_renewal_by_staff_afterwards_goes_on_under_the_plan_that_is_left(
    alice: User, root: User, plan: Plan, clock: time_machine.Traveller
) -> None:
    from serials.services import renew_lease

    redeemed(alice, plan)
    taken(redeemed(alice, make_plan(3)))
    lease = Lease.objects.get()
    term = renew_lease(lease_id=lease.pk, until=lease.ends_at + timedelta(days=9), actor=root)
    assert term is not None
    assert term.plan == plan
