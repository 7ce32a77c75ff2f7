"""History stays: what was granted, to whom and on which relay, stays readable and is never rewritten."""

from __future__ import annotations

from datetime import timedelta

import pytest
import time_machine
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError

from accounts.models import User
from fleet.models import RelayEvent
from serials.models import Binding, Lease, LeaseTerm, Plan, Reminder, SerialNumber
from serials.services import activate, close_account, send_reminders, verify_binding
from serials.tasks import sweep_leases, sweep_serials
from tests.serials.shop import START, new_code_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def code(alice: User, plan: Plan) -> str:
    """A serial that was redeemed, reminded of, expired, and whose place was given back."""
    code = new_code_of(plan)
    with time_machine.travel(START, tick=False) as clock:
        activate(user=alice, code=code)
        clock.shift(timedelta(days=29))
        send_reminders()
        for _step in range(2):
            clock.shift(timedelta(days=15))
            sweep_leases()
            sweep_serials()
    return code


@pytest.mark.parametrize("model", [Binding, Reminder])
def test_what_is_append_only_is_neither_changed_nor_deleted(
    code: str, alice: User, model: type[Binding | Reminder]
) -> None:
    row = model.objects.get()

    with pytest.raises(TypeError, match="append-only"):
        row.save()
    with pytest.raises(TypeError, match="append-only"):
        row.save(update_fields=["created_at"])
    with pytest.raises(TypeError, match="append-only"):
        row.delete()
    for rows in (model.objects.all(), alice.bindings.all()):
        with pytest.raises(TypeError, match="append-only"):
            rows.update(created_at=START)
        with pytest.raises(TypeError, match="append-only"):
            rows.delete()

    assert model.objects.count() == 1


def test_what_history_hangs_on_cannot_be_deleted(code: str, alice: User, plan: Plan) -> None:
    lease = Lease.objects.get()
    for row in (alice, plan, SerialNumber.objects.get(), LeaseTerm.objects.get(), lease, lease.relay_group):
        with pytest.raises(ProtectedError):
            row.delete()


def test_history_stays_after_the_place_is_released(code: str, alice: User) -> None:
    lease = Lease.objects.get()
    assert lease.released_at
    assert lease.relay_group.released_at

    binding = Binding.objects.select_related("serial", "term").get()
    assert binding.serial is not None
    assert (binding.user, binding.serial.code, binding.relay_group) == (alice, code, lease.relay_group)
    assert (binding.term.starts_at, binding.term.ends_at) == (START, START + timedelta(days=30))
    assert (binding.serial.status, binding.serial.expires_at) == ("expired", START + timedelta(days=30))
    [relay] = lease.relay_group.relays.all()
    kinds = set(relay.events.values_list("kind", flat=True))
    assert {RelayEvent.Kind.PLACED, RelayEvent.Kind.RELEASED} <= kinds
    assert verify_binding(code=code, user_id=alice.pk).reason == "over"


def test_history_stays_after_the_account_is_closed(code: str, alice: User, root: User) -> None:
    before = [list(model.objects.order_by("id").values()) for model in (Lease, LeaseTerm, Binding, SerialNumber)]

    close_account(user_id=alice.pk, actor=root)

    after = [list(model.objects.order_by("id").values()) for model in (Lease, LeaseTerm, Binding, SerialNumber)]
    assert after == before
    assert alice.notifications.filter(kind="lease_ended").exists()


@pytest.mark.both_databases
def test_the_database_refuses_what_no_service_would_do(code: str, alice: User, bob: User, plan: Plan) -> None:
    """A serial granted twice, two current terms, a term that ends before it starts, a used serial of nobody's."""
    lease, serial = Lease.objects.get(), SerialNumber.objects.get()
    stretch = {"lease": lease, "plan": plan, "starts_at": START, "ends_at": START + timedelta(days=1)}
    new_code_of(plan)

    def refused(action: object) -> None:
        with pytest.raises(IntegrityError), transaction.atomic():
            action()  # type: ignore[operator]

    refused(lambda: LeaseTerm.objects.create(**stretch, source="serial", serial=serial))
    refused(lambda: LeaseTerm.objects.create(**{**stretch, "ends_at": START}, source="staff"))
    refused(lambda: LeaseTerm.objects.create(**stretch, source="serial"))
    refused(lambda: SerialNumber.objects.filter(status="unused").update(status="used"))
    refused(lambda: SerialNumber.objects.filter(status="unused").update(user=bob))
    LeaseTerm.objects.create(**stretch, source="staff", state="current")
    refused(lambda: LeaseTerm.objects.create(**stretch, source="staff", state="current"))
