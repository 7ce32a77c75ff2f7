"""What the operator does to serials, leases and customers: through services, and asked first."""

from __future__ import annotations

import csv
import io
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEntry, Notification, User
from derp_portal.lib.clock import now
from fleet import services as fleet
from fleet.models import RelayGroup, Wanted
from serials import services
from serials.admin.export import safe_cell
from serials.codes import grouped
from serials.models import Lease, LeaseTerm, Plan, SerialBatch, SerialNumber
from tests.conftest import make_user
from tests.serials.shop import START, new_code_of

Status = SerialNumber.Status


@pytest.fixture
def roots(client: Client, root: User) -> Client:
    """root's browser."""
    client.force_login(root)
    return client


@pytest.fixture
def lease(alice: User, plan: Plan) -> Lease:
    """alice's, thirty days."""
    return services.activate(user=alice, code=new_code_of(plan), actor=alice)[1]


def page(name: str, *ids: int) -> str:
    return reverse(f"admin:serials_{name}", args=ids)


def of_user(name: str, user_id: int) -> str:
    return reverse(f"admin:accounts_user_{name}", args=[user_id])


def last_event() -> tuple[str, str]:
    entry = AuditEntry.objects.order_by("-id")[0]
    return entry.event, entry.actor_label


def rows_of(answer: Any) -> list[list[str]]:
    text = b"".join(answer.streaming_content).decode()
    assert text.startswith("\ufeff")
    return list(csv.reader(io.StringIO(text.removeprefix("\ufeff"))))


def test_serials_are_generated_from_the_page(roots: Client, plan: Plan) -> None:
    day = now().date() + timedelta(days=30)
    form = {"count": 12, "plan": plan.pk, "duration_days": "", "activate_before": day.isoformat(), "note": "fair"}
    answer = roots.post(page("serialbatch_generate"), form)
    batch = SerialBatch.objects.get()
    assert answer.headers["Location"] == page("serialbatch_change", batch.pk)
    assert (batch.serials.count(), batch.duration_days, batch.note) == (12, 30, "fair")
    assert batch.created_by == User.objects.get(username="root")
    # The day counts to its end in the operator's zone, Asia/Shanghai.
    assert batch.activate_before == datetime(day.year, day.month, day.day, 16, tzinfo=UTC)


def test_too_many_serials_are_refused_beside_the_field(roots: Client, plan: Plan) -> None:
    answer = roots.post(page("serialbatch_generate"), {"count": 100_001, "plan": plan.pk})
    assert answer.status_code == 200
    assert not SerialBatch.objects.exists()


def test_a_batch_tells_how_many_are_in_which_state(roots: Client, plan: Plan) -> None:
    batch = services.generate(count=3, plan=plan, actor=None)
    batch.serials.filter(pk=batch.serials.all()[0].pk).update(status=Status.REVOKED)
    text = roots.get(page("serialbatch_change", batch.pk)).content.decode()
    assert "2 unused, 0 used, 0 expired, 1 revoked" in text


def test_a_batch_is_exported_with_grouped_codes_and_no_formulas(roots: Client, plan: Plan) -> None:
    batch = services.generate(count=3, plan=plan, note='=HYPERLINK("http://example.com")', actor=None)
    answer = roots.get(page("serialbatch_export_csv", batch.pk))
    assert answer["Content-Disposition"] == f'attachment; filename="serials-{batch.pk}.csv"'
    header, *rows = rows_of(answer)
    codes = [grouped(code) for code in batch.serials.order_by("id").values_list("code", flat=True)]
    assert [row[0] for row in rows] == codes
    assert {row[header.index("note")] for row in rows} == {'\'=HYPERLINK("http://example.com")'}
    assert last_event() == ("serials.exported", "root")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1"])
def test_no_cell_is_taken_for_a_formula(text: str) -> None:
    assert safe_cell(text) == f"'{text}"


def test_plain_cells_stay_as_they_are() -> None:
    assert [safe_cell(value) for value in ("A-1", 30, None, "一月")] == ["A-1", "30", "", "一月"]


def test_unused_serials_of_a_batch_are_revoked_after_asking(roots: Client, plan: Plan, alice: User) -> None:
    batch = services.generate(count=3, plan=plan, actor=None)
    services.activate(user=alice, code=batch.serials.all()[0].code, actor=alice)
    question = roots.get(page("serialbatch_revoke_unused", batch.pk)).content.decode()
    assert "2 of 3 serials are unused." in question
    assert batch.serials.filter(status=Status.UNUSED).count() == 2
    roots.post(page("serialbatch_revoke_unused", batch.pk))
    assert batch.serials.filter(status=Status.REVOKED).count() == 2
    assert batch.serials.filter(status=Status.USED).count() == 1
    assert last_event() == ("serials.revoked", "root")


@pytest.mark.parametrize("across", ["0", "1"])
def test_chosen_serials_are_revoked_after_asking(roots: Client, plan: Plan, across: str) -> None:
    batch = services.generate(count=60, plan=plan, actor=None)
    chosen = list(batch.serials.values_list("pk", flat=True)[:2])
    form: dict[str, Any] = {"action": "revoke", "select_across": across, "index": "0", "_selected_action": chosen}
    question = roots.post(page("serialnumber_changelist"), form)
    assert not batch.serials.filter(status=Status.REVOKED).exists()
    answer = roots.post(page("serialnumber_changelist"), _fields_of(question.context["kept"]))
    assert answer.status_code == 302
    assert batch.serials.filter(status=Status.REVOKED).count() == (60 if across == "1" else 2)


def _fields_of(kept: list[tuple[str, str]]) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for name, value in kept:
        fields.setdefault(name, []).append(value)
    return fields


def test_a_serial_is_found_however_it_is_typed(roots: Client, plan: Plan) -> None:
    batch = services.generate(count=20, plan=plan, actor=None)
    serial = batch.serials.order_by("id")[7]
    typed = [grouped(serial.code), grouped(serial.code).lower(), f" {serial.code.replace('0', 'o')} ", serial.code[-8:]]
    for text in typed:
        answer = roots.get(page("serialnumber_changelist"), {"q": text})
        assert list(answer.context["cl"].result_list) == [serial], text


def test_a_serial_is_found_by_who_redeemed_it(roots: Client, lease: Lease, plan: Plan) -> None:
    services.generate(count=5, plan=plan, actor=None)
    answer = roots.get(page("serialnumber_changelist"), {"q": "alice@"})
    assert [serial.user for serial in answer.context["cl"].result_list] == [lease.user]


def test_a_lease_is_renewed_to_the_end_of_the_chosen_day(roots: Client, lease: Lease) -> None:
    day = (lease.ends_at + timedelta(days=10)).date()
    roots.post(page("lease_renew", lease.pk), {"until": day.isoformat()})
    lease.refresh_from_db()
    assert lease.ends_at == datetime(day.year, day.month, day.day, 16, tzinfo=UTC)
    last = lease.terms.order_by("-starts_at")[0]
    assert (last.source, last.actor) == (LeaseTerm.Source.STAFF, User.objects.get(username="root"))
    assert Notification.objects.filter(kind="lease_renewed", user=lease.user).exists()


def test_a_date_that_would_shorten_the_lease_is_refused_on_the_form(roots: Client, lease: Lease) -> None:
    answer = roots.post(page("lease_renew", lease.pk), {"until": now().date().isoformat()})
    assert "To shorten it, end it." in answer.content.decode()
    assert lease.terms.count() == 1


def test_a_lease_ends_only_after_saying_what_is_lost(roots: Client, lease: Lease) -> None:
    question = roots.get(page("lease_end", lease.pk)).content.decode()
    assert "1 relay stops at once. 29 full days are lost for good." in question
    assert Lease.objects.get().is_active
    roots.post(page("lease_end", lease.pk))
    assert Lease.objects.get().status == Lease.Status.ENDED
    assert RelayGroup.objects.get().wanted == Wanted.STOPPED
    assert AuditEntry.objects.get(event="lease.ended").actor_label == "root"


def test_a_user_with_a_lease_is_renewed(roots: Client, lease: Lease) -> None:
    day = date(2040, 1, 1)
    assert "plan" not in roots.get(of_user("renew", lease.user_id)).context["question"].form.fields
    roots.post(of_user("renew", lease.user_id), {"until": day.isoformat()})
    alice = User.objects.get(username="alice")
    assert alice.rental_expiry == datetime(2040, 1, 1, 16, tzinfo=UTC)


@time_machine.travel(START, tick=False)
def test_a_user_without_a_lease_gets_one_of_the_chosen_plan(client: Client, plan: Plan) -> None:
    bob, root = make_user("bob"), make_user("root", role="admin", is_superuser=True)
    client.force_login(root)
    client.post(of_user("renew", bob.pk), {"until": "2027-02-01", "plan": plan.pk})
    found = Lease.objects.get(user=bob)
    assert found.terms.get().plan == plan
    assert found.ends_at == datetime(2027, 2, 1, 16, tzinfo=UTC)


def test_an_account_is_closed_only_by_typing_its_name(roots: Client, lease: Lease) -> None:
    address = of_user("close_account", lease.user_id)
    assert roots.post(address, {"username": "bob"}).status_code == 200
    assert Lease.objects.get().is_active
    assert roots.post(address, {"username": "alice"}).status_code == 302
    alice = User.objects.get(username="alice")
    assert (alice.is_active, Lease.objects.get().is_active) == (False, False)


def test_the_users_page_leads_to_both(roots: Client, lease: Lease) -> None:
    text = roots.get(reverse("admin:accounts_user_change", args=[lease.user_id])).content.decode()
    assert of_user("renew", lease.user_id) in text
    assert of_user("close_account", lease.user_id) in text
    assert lease.name in text


def test_staff_without_the_right_neither_renew_nor_close(client: Client, lease: Lease) -> None:
    helper = make_user("helen", role="admin")
    helper.user_permissions.set(Permission.objects.filter(codename__in=["view_user", "change_user", "view_lease"]))
    client.force_login(helper)
    assert client.post(of_user("renew", lease.user_id), {"until": "2040-01-01"}).status_code == 403
    assert client.post(of_user("close_account", lease.user_id), {"username": "alice"}).status_code == 403
    assert client.post(page("lease_end", lease.pk)).status_code == 403
    assert Lease.objects.get().is_active


def test_nobody_but_a_superuser_closes_a_superusers_account(client: Client, root: User) -> None:
    helper = make_user("helen", role="admin")
    helper.user_permissions.set(Permission.objects.filter(codename__in=["change_user", "change_lease"]))
    client.force_login(helper)
    assert client.post(of_user("close_account", root.pk), {"username": "root"}).status_code == 403
    root.refresh_from_db()
    assert root.is_active


def test_a_plan_is_edited_with_an_entry_in_the_audit_trail(roots: Client, plan: Plan) -> None:
    form = {"code": plan.code, "name": "Month", "days": 31, "relay_count": 2, "day_value": 100, "position": 1}
    form |= {"speed_bytes_per_second": 0, "quota_bytes": "", "is_public": "on", "name_zh": "月"}
    form |= {"quota_period": "month"}
    roots.post(page("plan_change", plan.pk), form)
    plan.refresh_from_db()
    assert (plan.name, plan.days, plan.relay_count, plan.quota_period) == ("Month", 31, 2, "month")
    assert last_event() == ("plan.changed", "root")


def test_a_plan_that_was_used_cannot_be_deleted(roots: Client, lease: Lease, plan: Plan) -> None:
    roots.post(page("plan_delete", plan.pk), {"post": "yes"})
    assert Plan.objects.filter(pk=plan.pk).exists()


def test_a_relay_that_a_running_lease_needs_cannot_be_released(roots: Client, lease: Lease) -> None:
    relay = lease.relay_group.relays.get()
    answer = roots.post(reverse("admin:fleet_relay_release", args=[relay.pk]), follow=True)
    assert "End the lease first." in answer.content.decode()
    relay.refresh_from_db()
    assert relay.released_at is None


def test_closing_an_account_says_that_relays_given_by_hand_go_too(roots: Client, alice: User, plan: Plan) -> None:
    fleet.allocate(owner=alice, server=None, run_until=now() + timedelta(days=9), actor=alice)
    question = roots.get(of_user("close_account", alice.pk)).content.decode()
    assert "1 relay given by hand is released for good." in question


def test_a_notice_about_a_lease_goes_out_after_asking(roots: Client, lease: Lease) -> None:
    address = page("lease_notify", lease.pk)
    assert address in roots.get(page("lease_change", lease.pk)).content.decode()
    assert "It ends soon" in roots.get(address).content.decode()
    assert not Notification.objects.filter(kind="lease_reminder").exists()
    assert roots.post(address, {"kind": "nonsense"}).status_code == 200
    assert roots.post(address, {"kind": "reminder"}).status_code == 302
    assert Notification.objects.get(kind="lease_reminder").user == lease.user
    assert last_event() == ("lease.notice_sent", "root")


def test_why_a_lease_ended_is_said_in_words(roots: Client, lease: Lease, root: User) -> None:
    services.close_account(user_id=lease.user_id, actor=root)
    assert "the account was closed" in roots.get(page("lease_change", lease.pk)).content.decode()


def test_who_may_only_look_does_not_read_unused_codes_nor_guess_them_letter_by_letter(
    roots: Client, lease: Lease, plan: Plan
) -> None:
    unused, used = SerialNumber.objects.get(code=new_code_of(plan)), SerialNumber.objects.get(user=lease.user)
    helper = make_user("helen", role="admin")
    helper.user_permissions.set(Permission.objects.filter(codename__in=["view_serialnumber"]))
    looker = Client()
    looker.force_login(helper)

    def found(browser: Client, text: str) -> list[Any]:
        return list(browser.get(page("serialnumber_changelist"), {"q": text}).context["cl"].result_list)

    for address in (page("serialnumber_changelist"), page("serialnumber_change", unused.pk)):
        assert grouped(unused.code) in roots.get(address).content.decode()
        text = looker.get(address).content.decode()
        assert str(unused) in text
        assert grouped(unused.code) not in text
        assert unused.code not in text
    assert grouped(used.code) in looker.get(page("serialnumber_change", used.pk)).content.decode()
    assert found(looker, unused.code[:6]) == found(looker, unused.code[-6:]) == []
    assert found(looker, grouped(unused.code)) == found(roots, unused.code[:12]) == [unused]
    assert found(looker, used.code[:12]) == [used]
