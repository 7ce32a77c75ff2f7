"""For how long it is kept what gateways sent."""

from __future__ import annotations

from datetime import timedelta

import pytest
import time_machine

from accounts.models import User
from billing.models import GatewayCallback, Transfer
from billing.services import callbacks
from billing.tasks import forget_callbacks
from derp_portal.lib.append_only import Unchangeable
from derp_portal.lib.clock import now
from tests.billing.till import begin, call, make_method, order_of, priced_plan, signed

pytestmark = pytest.mark.django_db


@pytest.fixture
def told(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """One callback that paid, the same again, and three that nobody believed."""
    monkeypatch.setattr(callbacks, "BATCH", 2)
    payment = begin(order_of(alice, priced_plan(30)))
    for _time in range(2):
        call(payment)
    for number in range(3):
        call(payment, signed(make_method(), f"nonsense {number}", now()))


def kept() -> list[str]:
    return sorted(GatewayCallback.objects.values_list("verdict", flat=True))


@pytest.mark.usefixtures("told")
def test_what_nobody_believed_goes_first_and_what_paid_stays_for_a_year_and_longer() -> None:
    everything = ["counted", "refused", "refused", "refused", "repeated"]
    for days, left in ((29, everything), (31, ["counted", "repeated"]), (399, ["counted", "repeated"]), (401, [])):
        with time_machine.travel(now() + timedelta(days=days)):
            forget_callbacks()
        assert kept() == left, days
    assert Transfer.objects.get().state == Transfer.State.COUNTED


@pytest.mark.usefixtures("told")
def test_only_the_sweep_can_drop_them() -> None:
    with pytest.raises(Unchangeable):
        GatewayCallback.objects.all().delete()
    assert len(kept()) == 5
