"""Many redeem at once: exactly one wins a serial, nobody's days are lost, and nobody waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError
from django.db.models import Sum
from django.utils import timezone

from accounts.models import Notification, User
from fleet.acl.versions import ensure_policy
from fleet.models import Relay
from serials.models import Binding, Lease, LeaseTerm, Plan, SerialNumber
from serials.services import activate, activation, expire_leases, leases, renew_lease, terms
from serials.services.numbers import SerialRefused
from tests.serials.shop import assert_in_step, at_once, make_plan, new_code_of, new_codes

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db(transaction=True)]


def crowd(size: int) -> list[User]:
    """Customers who cannot log in: hashing two hundred passwords would take longer than the test."""
    return User.objects.bulk_create(
        User(username=f"customer{number}", email=f"customer{number}@example.com", password="!", timezone="UTC")
        for number in range(size)
    )


def redeem(user: User, code: str) -> Callable[[], tuple[SerialNumber, Lease]]:
    return lambda: activate(user=user, code=code)


def words(outcomes: list[Any]) -> dict[str, int]:
    """How often each outcome came: `won`, a refusal's code, or the name of an error nobody should see."""
    counts: dict[str, int] = {}
    for outcome in outcomes:
        word = "won" if isinstance(outcome, tuple) else getattr(outcome, "code", None) or repr(outcome)
        counts[word] = counts.get(word, 0) + 1
    return counts


NEVER_COMES = 1.0
"""Seconds to wait for somebody whom a lock keeps away."""
SURELY_COMES = 60.0
"""Seconds that a control gives to somebody whom nothing keeps away, however busy the machine is."""


def meet_after(step: str, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Two activations wait for each other once they have taken that step."""
    barrier = threading.Barrier(2)
    take: Callable[..., Any] = getattr(activation, step)

    def take_and_wait(*args: Any, **named: Any) -> Any:
        found = take(*args, **named)
        with suppress(threading.BrokenBarrierError):
            barrier.wait(seconds)
        return found

    monkeypatch.setattr(activation, step, take_and_wait)


def meet_after_checking(monkeypatch: pytest.MonkeyPatch, seconds: float = NEVER_COMES) -> None:
    """Both have seen that the serial is good; locks let only one get there."""
    meet_after("check_redeemable", monkeypatch, seconds)


# --- one serial, many people -----------------------------------------------------------------------


def test_of_two_hundred_people_exactly_one_can_activate_a_serial(plan: Plan) -> None:
    code = new_code_of(plan)

    outcomes = at_once([redeem(user, code) for user in crowd(200)])

    assert words(outcomes) == {"won": 1, "serial_used": 199}
    lease, term = Lease.objects.get(), LeaseTerm.objects.get()
    assert Binding.objects.get().user_id == lease.user_id == SerialNumber.objects.get().user_id
    assert lease.ends_at - term.starts_at == timedelta(days=30)
    assert term.starts_at - lease.started_at < timedelta(hours=1)
    assert list(User.objects.exclude(rental_expiry=None).values_list("id", "rental_expiry")) == [
        (lease.user_id, lease.ends_at)
    ]
    assert Relay.objects.count() == 1
    assert Notification.objects.count() == 1


def test_of_twenty_clicks_by_one_person_one_counts_and_the_others_say_so(
    alice: User, plan: Plan, unhurried: None
) -> None:
    code = new_code_of(plan)

    outcomes = at_once([redeem(alice, code)] * 20)

    assert words(outcomes) == {"won": 1, "serial_yours": 19}
    assert LeaseTerm.objects.count() == Binding.objects.count() == 1
    assert_in_step(alice)


def test_everybody_gets_one_of_as_many_serials(plan: Plan) -> None:
    people = crowd(12)
    codes = new_codes(plan, len(people))

    outcomes = at_once([redeem(user, code) for user, code in zip(people, codes, strict=True)])

    assert words(outcomes) == {"won": len(people)}
    assert Lease.objects.count() == len(people)
    ports = list(Relay.objects.values_list("port__number", flat=True))
    assert None not in ports
    assert len(set(ports)) == len(people)


def test_two_people_activate_the_same_serial_when_unlocked(
    unlocked: None, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: both are let through, and only the database's constraint stops the second, without a message."""
    meet_after_checking(monkeypatch, SURELY_COMES)
    code = new_code_of(plan)

    outcomes = at_once([redeem(user, code) for user in crowd(2)])

    assert [outcome for outcome in outcomes if isinstance(outcome, IntegrityError)], words(outcomes)


def test_only_one_of_two_people_gets_past_the_check_of_a_serial(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    meet_after_checking(monkeypatch)
    code = new_code_of(plan)

    outcomes = at_once([redeem(user, code) for user in crowd(2)])

    assert words(outcomes) == {"won": 1, "serial_used": 1}


# --- one person, two serials -----------------------------------------------------------------------


def test_two_first_serials_at_once_make_two_leases_when_unlocked(
    unlocked: None, alice: User, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: neither sees the other's lease, so the days do not add up."""
    # Or the two would collide there before.
    ensure_policy(user=alice)
    meet_after("_target", monkeypatch, SURELY_COMES)

    at_once([redeem(alice, code) for code in new_codes(plan, 2)])

    assert Lease.objects.filter(user=alice).count() == 2


@pytest.mark.parametrize("has_lease", [False, True], ids=["first", "later"])
def test_two_serials_at_once_by_one_person_both_count(
    alice: User, plan: Plan, monkeypatch: pytest.MonkeyPatch, has_lease: bool
) -> None:
    if has_lease:
        activate(user=alice, code=new_code_of(plan))
    meet_after_checking(monkeypatch)
    other = make_plan(3)

    outcomes = at_once([redeem(alice, new_code_of(plan)), redeem(alice, new_code_of(other))])

    assert words(outcomes) == {"won": 2}
    lease = Lease.objects.get(user=alice)
    first = lease.terms.order_by("starts_at").first()
    assert first is not None
    assert lease.ends_at - first.starts_at == timedelta(days=30 * (1 + has_lease) + 3)
    assert_in_step(alice)


def test_ten_serials_at_once_by_one_person_all_count(alice: User, plan: Plan) -> None:
    outcomes = at_once([redeem(alice, code) for code in new_codes(plan, 10)])

    assert words(outcomes) == {"won": 10}
    lease = Lease.objects.get(user=alice)
    first = lease.terms.order_by("starts_at").first()
    assert first is not None
    assert lease.ends_at - first.starts_at == timedelta(days=300)
    assert SerialNumber.objects.aggregate(days=Sum("duration_days"))["days"] == 300
    assert_in_step(alice)


# --- a renewal that meets the expiry ---------------------------------------------------------------


def renew_while_it_expires(
    lease: Lease, root: User, until: datetime, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """The sweep has decided to end the lease; before it writes, the renewal gets so many seconds to slip in."""
    decided, renewed = threading.Event(), threading.Event()
    close = terms.close_terms

    def close_late(lease: Lease) -> list[LeaseTerm]:
        decided.set()
        renewed.wait(seconds)
        return close(lease)

    def renew() -> None:
        assert decided.wait(SURELY_COMES)
        renew_lease(lease_id=lease.pk, until=until, actor=root)
        renewed.set()

    monkeypatch.setattr(leases, "close_terms", close_late)
    past = timezone.now() - timedelta(seconds=1)
    lease.terms.update(starts_at=past - timedelta(days=30), ends_at=past)
    Lease.objects.filter(pk=lease.pk).update(ends_at=past)
    outcomes = at_once([expire_leases, renew])
    assert [outcome for outcome in outcomes if isinstance(outcome, Exception)] == []


def test_a_renewal_during_the_expiry_is_lost_when_unlocked(
    unlocked: None, alice: User, root: User, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: the sweep ends what was just renewed."""
    _serial, lease = activate(user=alice, code=new_code_of(plan))

    renew_while_it_expires(lease, root, timezone.now() + timedelta(days=9), monkeypatch, SURELY_COMES)

    lease.refresh_from_db()
    assert not lease.is_active


def test_a_renewal_during_the_expiry_is_not_lost(
    alice: User, root: User, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    _serial, lease = activate(user=alice, code=new_code_of(plan))
    until = timezone.now() + timedelta(days=9)

    renew_while_it_expires(lease, root, until, monkeypatch, NEVER_COMES)

    lease.refresh_from_db()
    assert lease.is_active
    assert lease.ends_at == until
    assert_in_step(alice)


def test_a_refused_activation_leaves_nothing_behind(alice: User, bob: User, plan: Plan) -> None:
    code = new_code_of(plan)
    activate(user=bob, code=code)

    with pytest.raises(SerialRefused):
        activate(user=alice, code=code)

    assert not Lease.objects.filter(user=alice).exists()
    assert Relay.objects.exclude(owner=bob).count() == 0
