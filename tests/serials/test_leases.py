"""Leases, one verb at a time: renewing never shortens, ending twice is as once, and nobody is told twice."""

from __future__ import annotations

from datetime import timedelta

import pytest

from accounts.models import AuditEntry, Notification, User
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet import services as fleet
from fleet.models import Relay, Wanted
from serials.models import Lease, LeaseTerm, Plan, SerialNumber
from serials.services import (
    How,
    activate,
    close_account,
    end_lease,
    rename_lease,
    renew_lease,
    renew_user,
    send_notice,
    start_next_term,
)
from serials.services.leases import lease_to_renew
from tests.serials.shop import assert_in_step, make_plan, new_code_of, nothing_changes, row_counts

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)


def test_staff_renews_a_lease_to_a_date_and_the_customer_is_told_once(alice: User, root: User, plan: Plan) -> None:
    _serial, lease = activate(user=alice, code=new_code_of(plan))
    until = lease.ends_at + 10 * DAY

    term = renew_lease(lease_id=lease.pk, until=until, actor=root)
    assert renew_lease(lease_id=lease.pk, until=until, actor=root) is None

    assert term is not None
    assert (term.starts_at, term.ends_at, term.actor) == (lease.ends_at, until, root)
    assert Notification.objects.filter(kind="lease_renewed", user=alice).count() == 1
    assert AuditEntry.objects.filter(event="lease.renewed", actor=root).count() == 1
    assert_in_step(alice)


def test_an_earlier_date_is_refused_and_nothing_is_shortened(alice: User, root: User, plan: Plan) -> None:
    _serial, lease = activate(user=alice, code=new_code_of(plan))

    with nothing_changes(), pytest.raises(PortalError) as refused:
        renew_lease(lease_id=lease.pk, until=lease.ends_at - timedelta(seconds=1), actor=root)

    assert refused.value.code == "date_too_early"


def test_a_user_without_a_lease_is_renewed_to_exactly_that_moment_and_again_is_fine(
    alice: User, root: User, plan: Plan
) -> None:
    """The clock runs on between two looks at it; the end must not."""
    until = now() + 90 * DAY

    first = renew_user(user_id=alice.pk, until=until, plan=plan, actor=root)
    again = renew_user(user_id=alice.pk, until=until, actor=root)

    assert first == again
    assert again.ends_at == until
    assert again.terms.count() == 1
    assert Notification.objects.filter(user=alice).count() == 1
    assert_in_step(alice)


def test_a_user_whose_lease_has_ended_is_renewed_to_exactly_that_moment(alice: User, root: User, plan: Plan) -> None:
    _serial, lease = activate(user=alice, code=new_code_of(plan))
    end_lease(lease_id=lease.pk, reason=Lease.EndReason.STAFF, actor=root)
    until = now() + 10 * DAY

    for _click in range(2):
        assert renew_user(user_id=alice.pk, until=until, actor=root) == lease

    lease.refresh_from_db()
    assert (lease.is_active, lease.ends_at) == (True, until)
    assert_in_step(alice)


def test_renewing_a_user_needs_a_plan_and_a_date_ahead(alice: User, root: User, plan: Plan) -> None:
    with nothing_changes(), pytest.raises(PortalError) as past:
        renew_user(user_id=alice.pk, until=now() - DAY, plan=plan, actor=root)
    Plan.objects.update(is_public=False)
    with nothing_changes(), pytest.raises(PortalError) as planless:
        renew_user(user_id=alice.pk, until=now() + DAY, actor=root)

    assert (past.value.code, planless.value.code) == ("date_too_early", "no_plan")


def test_a_released_lease_is_not_renewed_but_its_user_is(alice: User, root: User, plan: Plan) -> None:
    _serial, lease = activate(user=alice, code=new_code_of(plan))
    end_lease(lease_id=lease.pk, reason=Lease.EndReason.STAFF, actor=root)
    Lease.objects.filter(pk=lease.pk).update(released_at=now())

    with pytest.raises(PortalError) as refused:
        renew_lease(lease_id=lease.pk, until=now() + DAY, actor=root)
    fresh = renew_user(user_id=alice.pk, until=now() + DAY, actor=root)

    assert refused.value.code == "lease_released"
    assert fresh != lease
    assert_in_step(alice)


def test_ending_twice_is_as_ending_once(alice: User, root: User, plan: Plan) -> None:
    code = new_code_of(plan)
    _serial, lease = activate(user=alice, code=code)
    activate(user=alice, code=new_code_of(make_plan(3)))

    ended = end_lease(lease_id=lease.pk, reason=Lease.EndReason.STAFF, note="refunded", actor=root)
    with nothing_changes():
        again = end_lease(lease_id=lease.pk, reason=Lease.EndReason.EXPIRED, actor=root)

    assert ended.ended_at == again.ended_at
    assert (again.status, again.end_reason) == (Lease.Status.ENDED, Lease.EndReason.STAFF)
    entry = AuditEntry.objects.get(event="lease.ended")
    assert (entry.data["reason"], entry.data["note"]) == ("staff", "refunded")
    assert set(lease.terms.values_list("state", flat=True)) == {LeaseTerm.State.DONE}
    assert lease.terms.filter(closed_at=None).count() == 0
    assert SerialNumber.objects.filter(expires_at__gt=now()).count() == 0
    assert Relay.objects.get().wanted == Wanted.STOPPED
    assert Notification.objects.filter(kind="lease_ended").count() == 1
    assert_in_step(alice)


def test_a_lease_gets_another_name(alice: User, plan: Plan) -> None:
    _serial, lease = activate(user=alice, code=new_code_of(plan))

    assert rename_lease(lease_id=lease.pk, name="  The   office ", actor=alice).name == "The office"
    with nothing_changes(), pytest.raises(PortalError):
        rename_lease(lease_id=lease.pk, name=" \t ", actor=alice)


def test_leases_without_a_name_of_their_own_read_differently(alice: User, plan: Plan) -> None:
    for _number in range(3):
        activate(user=alice, code=new_code_of(plan), how=How.NEW)

    assert sorted(Lease.objects.values_list("name", flat=True)) == ["My relay", "My relay 2", "My relay 3"]


def test_closing_an_account_ends_its_leases_and_keeps_its_history(alice: User, root: User, plan: Plan) -> None:
    for _number in range(2):
        activate(user=alice, code=new_code_of(plan), how=How.NEW)
    before = row_counts()

    close_account(user_id=alice.pk, actor=root)
    close_account(user_id=alice.pk, actor=root)

    alice.refresh_from_db()
    assert not alice.is_active
    assert alice.rental_expiry is None
    assert {lease.end_reason for lease in alice.leases.all()} == {"account_closed"}
    assert all(count >= before[name] for name, count in row_counts().items())
    assert Notification.objects.filter(kind="lease_ended").count() == 2


def test_a_redemption_that_meets_the_closing_of_the_account_changes_nothing(
    alice: User, root: User, plan: Plan
) -> None:
    code = new_code_of(plan)
    close_account(user_id=alice.pk, actor=root)
    assert alice.is_active, "as the request that came before knows it"
    with nothing_changes(), pytest.raises(PortalError) as refusal:
        activate(user=alice, code=code)
    assert refusal.value.code == "account_inactive"


def test_closing_an_account_releases_the_relays_given_by_hand(alice: User, bob: User, root: User, plan: Plan) -> None:
    activate(user=alice, code=new_code_of(plan))
    until = now() + 30 * DAY
    hers, his = (fleet.allocate(owner=user, server=None, run_until=until, actor=root) for user in (alice, bob))

    close_account(user_id=alice.pk, actor=root)

    hers.refresh_from_db()
    his.refresh_from_db()
    assert hers.released_at is not None
    assert hers.group.wanted == Wanted.ABSENT
    assert his.released_at is None
    # The lease's own place stays reserved, as when any lease ends.
    assert Relay.objects.get(group__lease__user=alice).released_at is None


def test_a_lease_whose_relays_were_given_back_is_not_the_one_to_renew(alice: User, root: User, plan: Plan) -> None:
    _serial, lease = activate(user=alice, code=new_code_of(plan))
    fleet.release_group(group_id=lease.relay_group_id, actor=root)

    assert lease_to_renew(alice) is None
    assert renew_user(user_id=alice.pk, until=now() + 90 * DAY, plan=plan, actor=root) != lease


def test_of_two_ended_leases_the_one_that_ended_last_is_renewed(alice: User, root: User, plan: Plan) -> None:
    first = activate(user=alice, code=new_code_of(plan), how=How.NEW)[1]
    second = activate(user=alice, code=new_code_of(plan), how=How.NEW)[1]
    end_lease(lease_id=first.pk, reason=Lease.EndReason.STAFF, actor=root)
    end_lease(lease_id=second.pk, reason=Lease.EndReason.EXPIRED, actor=None)

    assert lease_to_renew(alice) == second
    assert renew_user(user_id=alice.pk, until=now() + 90 * DAY, actor=root) == second


@pytest.mark.parametrize(
    ("kind", "subject"),
    [(Lease.Notice.REMINDER, "“My relay” ends in 30 days"), (Lease.Notice.RENEWED, "“My relay” is renewed")],
)
def test_staff_sends_a_notice_about_a_lease(
    alice: User, root: User, plan: Plan, kind: Lease.Notice, subject: str
) -> None:
    alice.language = "en"
    alice.save(update_fields=["language"])
    _serial, lease = activate(user=alice, code=new_code_of(plan))

    sent = [send_notice(lease_id=lease.pk, kind=kind, actor=root) for _click in range(2)]

    assert [(one.user, one.kind, one.subject) for one in sent] == [(alice, f"lease_{kind}", subject)] * 2
    assert sent[0].pk != sent[1].pk
    entry = AuditEntry.objects.filter(event="lease.notice_sent", actor=root).latest("id")
    assert entry.data == {"kind": kind.value, "notification": sent[1].pk}


def test_no_notice_goes_out_about_a_lease_that_has_ended(alice: User, root: User, plan: Plan) -> None:
    _serial, lease = activate(user=alice, code=new_code_of(plan))
    end_lease(lease_id=lease.pk, reason=Lease.EndReason.STAFF, actor=root)

    for kind in Lease.Notice:
        with nothing_changes(), pytest.raises(PortalError) as refused:
            send_notice(lease_id=lease.pk, kind=kind, actor=root)
        assert refused.value.code == "lease_ended"


def next_term(lease: Lease) -> LeaseTerm:
    return lease.terms.filter(state=LeaseTerm.State.QUEUED).earliest("starts_at")


def test_the_next_term_begins_now_with_a_quota_of_its_own_and_later_ones_move_up(alice: User, plan: Plan) -> None:
    _serial, lease = activate(user=alice, code=new_code_of(plan))
    activate(user=alice, code=new_code_of(plan), how=How.QUEUE, lease_id=lease.pk)
    serial, _lease = activate(user=alice, code=new_code_of(plan), how=How.QUEUE, lease_id=lease.pk)

    before = now()
    begun = start_next_term(lease_id=lease.pk, term_id=next_term(lease).pk, actor=alice)
    after = now()

    lease.refresh_from_db()
    serial.refresh_from_db()
    group = lease.relay_group
    assert before <= begun.starts_at <= after
    assert group.period_start == begun.starts_at
    assert lease.ends_at - begun.starts_at == 2 * timedelta(days=plan.days)
    assert group.run_until == lease.ends_at == serial.expires_at
    assert AuditEntry.objects.get(event="lease.next_term_started").data["given_up_seconds"] > 0
    assert_in_step(alice)


def test_a_second_click_does_not_start_the_term_after_the_next(alice: User, plan: Plan) -> None:
    _serial, lease = activate(user=alice, code=new_code_of(plan))
    for _time in range(2):
        activate(user=alice, code=new_code_of(plan), how=How.QUEUE, lease_id=lease.pk)
    wanted = next_term(lease).pk
    start_next_term(lease_id=lease.pk, term_id=wanted, actor=alice)

    with nothing_changes(), pytest.raises(PortalError) as refused:
        start_next_term(lease_id=lease.pk, term_id=wanted, actor=alice)

    assert refused.value.code == "not_next_term"
