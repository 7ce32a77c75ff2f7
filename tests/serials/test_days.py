"""Days are exact: they add up, nothing is overwritten, and one plan's worth never becomes more under another."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import time_machine
from django.db import transaction
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st

from accounts.models import User
from fleet.models import Wanted
from serials.models import Lease, LeaseTerm, Plan
from serials.services import How, activate, advance_terms, end_lease, expire_leases, preview, renew_lease
from serials.services.activation import converted_time
from tests.serials.shop import START, assert_in_step, make_plan, make_server, new_code_of

pytestmark = pytest.mark.django_db


def redeem(user: User, plan: Plan, **how: object) -> Lease:
    return activate(user=user, code=new_code_of(plan), **how)[1]  # type: ignore[arg-type]


def speed_of(lease: Lease) -> int:
    lease.relay_group.refresh_from_db()
    return lease.relay_group.speed_bytes_per_second


# --- calendars -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "days", "end"),
    [
        pytest.param("2027-01-31T10:00:00", 30, "2027-03-02T10:00:00", id="January's last day"),
        pytest.param("2027-02-28T23:59:59", 3, "2027-03-03T23:59:59", id="end of a short February"),
        pytest.param("2028-02-28T10:00:00", 1, "2028-02-29T10:00:00", id="into the leap day"),
        pytest.param("2028-02-29T10:00:00", 365, "2029-02-28T10:00:00", id="a year from the leap day"),
        pytest.param("2027-12-31T23:30:00", 5, "2028-01-05T23:30:00", id="over New Year"),
        pytest.param("2027-03-01T00:00:00", 366, "2028-03-01T00:00:00", id="a year that has a leap day"),
    ],
)
def test_days_are_counted_over_month_ends_and_leap_days(
    alice: User, plan: Plan, start: str, days: int, end: str
) -> None:
    with time_machine.travel(datetime.fromisoformat(start).replace(tzinfo=UTC), tick=False):
        lease = redeem(alice, make_plan(days))

    assert lease.ends_at == datetime.fromisoformat(end).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "before"),
    [
        ("America/New_York", "2027-03-13T12:00:00"),
        ("America/New_York", "2027-11-06T12:00:00"),
        ("Europe/Berlin", "2027-03-27T12:00:00"),
        ("Australia/Lord_Howe", "2027-04-03T12:00:00"),
    ],
)
def test_a_change_of_clocks_neither_adds_nor_takes_an_hour(alice: User, plan: Plan, zone: str, before: str) -> None:
    start = datetime.fromisoformat(before).replace(tzinfo=ZoneInfo(zone))
    with timezone.override(zone), time_machine.travel(start, tick=False):
        lease = redeem(alice, make_plan(3))

    assert lease.ends_at - start.astimezone(UTC) == timedelta(hours=72)
    assert lease.ends_at.astimezone(ZoneInfo(zone)).utcoffset() != start.utcoffset(), "the clocks did not change"


# --- adding up -------------------------------------------------------------------------------------


def test_a_renewal_before_the_end_starts_at_the_end(alice: User, plan: Plan, clock: time_machine.Traveller) -> None:
    first = redeem(alice, plan)
    clock.move_to(START + timedelta(days=29))

    second = redeem(alice, plan)

    assert second == first
    assert second.ends_at == START + timedelta(days=60)
    assert second.terms.count() == 2
    assert_in_step(alice)


@pytest.mark.parametrize("is_swept", [True, False], ids=["after the sweep", "before the sweep"])
def test_a_renewal_after_the_end_starts_now(
    alice: User, plan: Plan, clock: time_machine.Traveller, is_swept: bool
) -> None:
    first = redeem(alice, make_plan(3, speed_bytes_per_second=3))
    clock.move_to(START + timedelta(days=4))
    if is_swept:
        expire_leases()
    fast = make_plan(5, speed_bytes_per_second=5)

    second = redeem(alice, fast)

    assert second == first
    assert second.ends_at == START + timedelta(days=9)
    assert second.relay_group.wanted == Wanted.RUNNING
    assert second.terms.get(state=LeaseTerm.State.CURRENT).plan == fast
    assert speed_of(second) == 5
    assert second.relay_group.period_start == START + timedelta(days=4)
    assert_in_step(alice)


def test_another_plan_waits_until_the_current_one_has_ended(
    alice: User, server: object, clock: time_machine.Traveller
) -> None:
    make_server("two")
    slow = make_plan(3, speed_bytes_per_second=1, relay_count=1, quota_bytes=10)
    fast = make_plan(30, speed_bytes_per_second=9, relay_count=2)
    lease = redeem(alice, slow)

    redeem(alice, fast)
    clock.move_to(START + timedelta(days=3) - timedelta(seconds=1))
    assert advance_terms() == 0

    group = lease.relay_group
    group.refresh_from_db()
    assert (group.speed_bytes_per_second, group.relay_count, group.quota_bytes) == (1, 1, 10)
    assert (group.period_start, group.period_end) == (START, START + timedelta(days=3))
    assert group.run_until == START + timedelta(days=33)

    clock.move_to(START + timedelta(days=3))
    assert advance_terms() == 1
    assert advance_terms() == 0

    group.refresh_from_db()
    assert (group.speed_bytes_per_second, group.relay_count, group.quota_bytes) == (9, 2, None)
    assert (group.period_start, group.period_end) == (START + timedelta(days=3), START + timedelta(days=33))
    assert group.relays.filter(released_at=None).count() == 2
    assert_in_step(alice)


def test_a_running_quota_is_not_reset_by_days_of_the_same_plan(
    alice: User, plan: Plan, clock: time_machine.Traveller
) -> None:
    lease = redeem(alice, plan)
    clock.move_to(START + timedelta(days=10))

    redeem(alice, plan)

    lease.relay_group.refresh_from_db()
    assert (lease.relay_group.period_start, lease.relay_group.period_end) == (START, START + timedelta(days=30))


def test_a_second_lease_leaves_the_first_alone(alice: User, plan: Plan, clock: time_machine.Traveller) -> None:
    first = redeem(alice, plan)

    second = redeem(alice, make_plan(3), how=How.NEW, lease_name="Office")

    first.refresh_from_db()
    assert second != first
    assert second.relay_group_id != first.relay_group_id
    assert second.name == "Office"
    assert (first.ends_at, second.ends_at) == (START + timedelta(days=30), START + timedelta(days=3))
    assert_in_step(alice)
    end_lease(lease_id=first.pk, reason=Lease.EndReason.STAFF, actor=None)
    assert_in_step(alice)


def test_what_the_preview_shows_is_what_happens(alice: User, plan: Plan, clock: time_machine.Traveller) -> None:
    redeem(alice, make_plan(3, day_value=100))
    other = make_plan(5, day_value=250)
    clock.shift(timedelta(hours=7))

    _serial, effects = preview(user=alice, code=new_code_of(other))

    assert [effect.how for effect in effects] == [How.QUEUE, How.CONVERT, How.NEW]
    for effect in effects:
        with transaction.atomic():
            lease = redeem(alice, other, how=effect.how, lease_id=effect.lease.pk if effect.lease else None)
            term = lease.terms.get(serial__plan=other)
            assert (term.starts_at, lease.ends_at) == (effect.starts_at, effect.ends_at)
            assert_in_step(alice)
            transaction.set_rollback(True)


# --- converting ------------------------------------------------------------------------------------


def test_converting_makes_the_serials_plan_count_at_once_and_keeps_the_worth(
    alice: User, plan: Plan, clock: time_machine.Traveller
) -> None:
    cheap, dear = make_plan(5, day_value=100, speed_bytes_per_second=1), make_plan(3, day_value=250)
    make_plan(3, day_value=250, speed_bytes_per_second=2)
    dear.refresh_from_db()
    lease = redeem(alice, cheap)
    redeem(alice, cheap)
    clock.shift(timedelta(days=2))

    redeem(alice, dear, how=How.CONVERT)

    lease.refresh_from_db()
    # Eight cheap days are worth 800: 3.2 dear ones, behind the serial's own three.
    assert lease.ends_at == START + timedelta(days=2) + timedelta(days=3) + timedelta(days=3.2)
    assert speed_of(lease) == 2
    assert lease.terms.filter(closed_at=None).count() == 2
    assert_in_step(alice)


def test_a_renewal_after_converting_goes_on_under_the_new_plan(
    alice: User, root: User, plan: Plan, clock: time_machine.Traveller
) -> None:
    cheap, dear = make_plan(5, day_value=1), make_plan(3, day_value=10)
    lease = redeem(alice, cheap)
    redeem(alice, cheap)  # A closed term whose dates lie far ahead.
    redeem(alice, dear, how=How.CONVERT)

    term = renew_lease(lease_id=lease.pk, until=START + timedelta(days=40), actor=root)

    assert term is not None
    assert term.plan == dear


@given(
    stretches=st.lists(st.tuples(st.integers(0, 10**8), st.integers(1, 10**6)), max_size=5),
    day_value=st.integers(1, 10**6),
)
def test_converting_never_makes_worth_and_loses_less_than_a_second(
    stretches: list[tuple[int, int]], day_value: int
) -> None:
    terms, end, worth = [], START, 0
    for seconds, value in stretches:
        terms.append(LeaseTerm(plan=Plan(day_value=value), starts_at=end, ends_at=end + timedelta(seconds=seconds)))
        end += timedelta(seconds=seconds)
        worth += seconds * value

    with time_machine.travel(START, tick=False):
        converted = converted_time(terms, Plan(day_value=day_value))

    kept = int(converted.total_seconds()) * day_value
    assert kept <= worth
    assert worth - kept < day_value


@settings(max_examples=10, deadline=None)
@given(counts=st.lists(st.integers(1, 400), min_size=1, max_size=6), pause=st.integers(0, 10**5))
def test_any_serials_in_any_order_add_up_to_the_sum_of_their_days(counts: list[int], pause: int) -> None:
    with transaction.atomic():
        user = User.objects.create(username="carol", email="carol@example.com", timezone="UTC")
        make_server()
        with time_machine.travel(START, tick=False) as clock:
            lease = None
            for count in counts:
                # Never longer in all than the shortest serial, so that no time is lost between two.
                clock.shift(timedelta(seconds=min(pause, 80_000 // len(counts))))
                lease = redeem(user, make_plan(count))
            assert lease is not None
            first = lease.terms.earliest("starts_at")
            assert lease.ends_at - first.starts_at == timedelta(days=sum(counts))
            assert_in_step(user)
        transaction.set_rollback(True)
