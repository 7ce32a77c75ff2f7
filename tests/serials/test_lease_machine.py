"""Any story of redeeming, renewing, converting, ending and waiting, against a model that only adds up."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
import time_machine
from django.db import transaction
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from accounts.models import User
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet.models import Wanted
from serials.models import Lease, LeaseTerm, Plan
from serials.services import How, activate, end_lease, renew_lease
from serials.services.terms import KEEP_PLACE
from serials.tasks import sweep_leases
from tests.parts import effort
from tests.serials.shop import START, assert_in_step, make_plan, make_server, new_code_of

WORTH = {"slow": 100, "plain": 200, "fast": 330}
DAYS = st.integers(1, 400)
PLANS = st.sampled_from(sorted(WORTH))


@dataclass
class Account:
    """A lease as a child would keep it: stretches of a plan, one behind the other."""

    stretches: list[tuple[datetime, datetime, str]] = field(default_factory=list)
    ended_at: datetime | None = None
    is_released: bool = False

    @property
    def end(self) -> datetime:
        return self.stretches[-1][1]

    def add(self, plan: str, duration: timedelta) -> None:
        if self.ended_at:
            self.stretches, self.ended_at = [], None
        start = max(self.end, now()) if self.stretches else now()
        self.stretches.append((start, start + duration, plan))

    def convert(self, plan: str, duration: timedelta) -> None:
        left = [] if self.ended_at else self.stretches
        worth = sum(
            int((end - max(start, now())).total_seconds()) * WORTH[name] for start, end, name in left if end > now()
        )
        self.stretches, self.ended_at = [], None
        self.add(plan, duration)
        if seconds := worth // WORTH[plan]:
            self.add(plan, timedelta(seconds=seconds))

    def plan_now(self) -> str:
        return next(name for start, end, name in self.stretches if start <= now() < end)


class Leases(RuleBasedStateMachine):
    """One customer's leases. The clock stands but for `wait`, after which the sweeps run, as they do."""

    def __init__(self) -> None:
        super().__init__()
        self.transaction = transaction.atomic()
        self.transaction.__enter__()
        self.travel = time_machine.travel(START, tick=False)
        self.clock = self.travel.start()
        make_server()
        self.plans = {
            name: make_plan(1, code=name, day_value=worth, speed_bytes_per_second=worth)
            for name, worth in WORTH.items()
        }
        self.user = User.objects.create(username="carol", email="carol@example.com", timezone="UTC")
        self.staff = User.objects.create(username="dave", email="dave@example.com", role="admin")
        self.model: dict[int, Account] = {}

    def teardown(self) -> None:
        self.travel.stop()
        transaction.set_rollback(True)
        self.transaction.__exit__(None, None, None)

    def usable(self) -> list[int]:
        """Leases that days can go to, the default first."""
        kept = {pk: account for pk, account in self.model.items() if not account.is_released}
        end = {pk: account.ended_at and min(account.ended_at, account.end) for pk, account in kept.items()}
        return sorted(kept, key=lambda pk: (end[pk] is not None, -(end[pk] or kept[pk].end).timestamp(), pk))

    def code(self, plan: Plan, days: int) -> str:
        return new_code_of(plan, duration_days=days)

    @rule(plan=PLANS, days=DAYS)
    def redeem(self, plan: str, days: int) -> None:
        usable = self.usable()
        _serial, lease = activate(user=self.user, code=self.code(self.plans[plan], days))
        assert not usable or lease.pk == usable[0]
        self.model.setdefault(lease.pk, Account()).add(plan, timedelta(days=days))

    @precondition(lambda self: len(self.model) < 3)
    @rule(plan=PLANS, days=DAYS)
    def redeem_for_a_new_lease(self, plan: str, days: int) -> None:
        _serial, lease = activate(user=self.user, code=self.code(self.plans[plan], days), how=How.NEW)
        assert lease.pk not in self.model
        self.model.setdefault(lease.pk, Account()).add(plan, timedelta(days=days))

    @precondition(lambda self: self.usable())
    @rule(plan=PLANS, days=DAYS, data=st.data())
    def convert(self, plan: str, days: int, data: st.DataObject) -> None:
        lease_id = data.draw(st.sampled_from(self.usable()))
        activate(user=self.user, code=self.code(self.plans[plan], days), how=How.CONVERT, lease_id=lease_id)
        self.model[lease_id].convert(plan, timedelta(days=days))

    @precondition(lambda self: self.usable())
    @rule(hours=st.integers(-100, 5000), data=st.data())
    def renew(self, hours: int, data: st.DataObject) -> None:
        lease_id = data.draw(st.sampled_from(self.usable()))
        account, until = self.model[lease_id], now() + timedelta(hours=hours)
        start = now() if account.ended_at else account.end
        if until > start:
            renew_lease(lease_id=lease_id, until=until, actor=self.staff)
            account.add(account.stretches[-1][2], until - start)
        elif account.ended_at or until < start:
            with pytest.raises(PortalError, match="end it"):
                renew_lease(lease_id=lease_id, until=until, actor=self.staff)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        lease_id = data.draw(st.sampled_from(sorted(self.model)))
        end_lease(lease_id=lease_id, reason=Lease.EndReason.STAFF, actor=self.staff)
        self.model[lease_id].ended_at = self.model[lease_id].ended_at or now()

    @rule(steps=st.integers(0, 300))
    def wait(self, steps: int) -> None:
        self.pass_time(timedelta(seconds=steps * 3607))

    @rule(days=st.integers(0, 40))
    def wait_for_days(self, days: int) -> None:
        self.pass_time(timedelta(days=days))

    def pass_time(self, duration: timedelta) -> None:
        self.clock.shift(duration)
        sweep_leases()
        for account in self.model.values():
            if account.ended_at is None and account.end <= now():
                account.ended_at = now()
            if account.ended_at and account.ended_at + KEEP_PLACE <= now():
                account.is_released = True

    @invariant()
    def agrees_with_the_model(self) -> None:
        active = [account.end for account in self.model.values() if account.ended_at is None]
        self.user.refresh_from_db()
        assert self.user.rental_expiry == max(active, default=None)
        assert_in_step(self.user)
        for lease in Lease.objects.select_related("relay_group"):
            self.compare(lease, self.model[lease.pk])

    def compare(self, lease: Lease, account: Account) -> None:
        group = lease.relay_group
        assert lease.is_active == (account.ended_at is None)
        assert (lease.released_at is not None) == account.is_released
        if not lease.is_active:
            assert group.wanted == (Wanted.ABSENT if account.is_released else Wanted.STOPPED)
            return
        assert lease.ends_at == account.end == group.run_until
        assert group.wanted == Wanted.RUNNING
        current = lease.terms.get(state=LeaseTerm.State.CURRENT)
        assert current.plan.code == account.plan_now()
        assert group.speed_bytes_per_second == WORTH[account.plan_now()]
        assert (group.period_start, group.period_end) == (current.starts_at, current.ends_at)


@pytest.mark.django_db
def test_any_story_of_leases_ends_where_adding_up_says() -> None:
    run_state_machine_as_test(
        Leases, settings=settings(max_examples=effort(10, 20), stateful_step_count=12, deadline=None, print_blob=True)
    )
