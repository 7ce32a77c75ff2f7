"""The mails of announcements: to whom, when, how fast, and never after they are withdrawn."""

from __future__ import annotations

import os
import signal
import threading
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.core import mail
from django.db import connection
from django_celery_beat.models import PeriodicTask

from accounts import services
from accounts.models import Announcement, AuditEntry, Notification, User
from accounts.services import announcements, outbox
from derp_portal.lib.clock import now
from tests.accounts.noticeboard import TITLE, publish, publish_over, refusal, written_to
from tests.conftest import make_user
from tests.serials.shop import at_once

pytestmark = pytest.mark.django_db


def test_by_mail_it_reaches_its_audience_once_in_their_language(alice: User, bob: User, rita: User, root: User) -> None:
    make_user("unconfirmed", is_verified=False)
    closed = make_user("closed")
    services.deactivate_user(user_id=closed.pk, actor=root)
    publish(root, title="Not by mail")
    announcement = publish(root, title_zh="周日维护", text_zh="第一段。\n\n第二段。")
    services.mail_announcement(announcement_id=announcement.pk, actor=root)
    assert services.write_announcements() == 4
    assert services.write_announcements() == 0
    assert written_to() == [f"{name}@example.com" for name in ("alice", "bob", "rita", "root")]
    mails = {one.recipient.partition("@")[0]: one for one in Notification.objects.filter(kind="announcement")}
    assert (mails["alice"].subject, mails["bob"].subject) == (TITLE, "周日维护")
    assert "Hong Kong will be away for an hour.\nYour relay moves meanwhile." in mails["alice"].body_text
    assert "<p" in mails["bob"].body_html
    assert "第二段。" in mails["bob"].body_html
    announcement.refresh_from_db()
    assert (announcement.mailed_count, announcement.mailed_at is not None) == (4, True)
    services.deliver_due()
    assert len(mail.outbox) == 4


def test_only_resellers_are_written_to_when_it_is_theirs(alice: User, rita: User, root: User) -> None:
    publish(root, audience="resellers", by_mail=True)
    services.write_announcements()
    assert written_to() == ["rita@example.com"]


def test_mails_wait_for_its_beginning_and_none_is_written_after_its_end(alice: User, root: User) -> None:
    with time_machine.travel("2027-01-15T12:00:00Z", tick=False) as clock:
        publish(root, by_mail=True, starts_at=now() + timedelta(hours=1), ends_at=now() + timedelta(hours=3))
        missed = publish(root, title="Missed", by_mail=True, ends_at=now() + timedelta(minutes=30))
        clock.shift(timedelta(minutes=59))
        assert services.write_announcements() == 0
        assert refusal(services.mail_announcement, announcement_id=publish_over(root).pk, actor=root).code == "over"
        clock.shift(timedelta(minutes=1))
        assert services.write_announcements() == 2
        missed.refresh_from_db()
        assert missed.mailed_count == 0


def test_withdrawn_in_the_midst_no_more_goes_out(root: User, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        make_user(f"u{number}")
    monkeypatch.setattr(announcements, "PART", 2)
    monkeypatch.setattr(announcements, "MOST_WAITING", 2)
    announcement = publish(root, by_mail=True)
    assert services.write_announcements() == 2
    sent = Notification.objects.filter(kind="announcement").earliest("pk")
    assert services.deliver(notification_id=sent.pk)
    services.withdraw_announcement(announcement_id=announcement.pk, actor=root)
    assert list(Notification.objects.filter(kind="announcement")) == [sent]
    assert services.write_announcements() == 0
    entry = AuditEntry.objects.get(event="announcement.withdrawn")
    assert entry.data == {"mails_dropped": 1}


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_a_writer_killed_in_the_midst_goes_on_where_it_was_and_nobody_gets_two(
    root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = [make_user(f"u{number}") for number in range(7)]
    monkeypatch.setattr(announcements, "PART", 3)
    publish(root, by_mail=True)
    connection.close()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        write, left = announcements._write, [5]

        def until_killed(announcement: Announcement, reader: User, mail: Any) -> bool:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return write(announcement, reader, mail)

        announcements._write = until_killed
        try:
            services.write_announcements()
        finally:
            os._exit(0)
    _pid, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert Notification.objects.filter(kind="announcement").count() == 3, "the part it had finished"
    services.write_announcements()
    assert written_to() == sorted(user.email for user in [*people, root])
    assert Announcement.objects.get().mailed_count == 8


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_withdrawn_while_a_part_is_written_nothing_of_it_is_left(root: User, monkeypatch: pytest.MonkeyPatch) -> None:
    assert withdrawn_meanwhile(root, monkeypatch, seconds=1) == 0


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_a_part_that_is_just_written_goes_out_although_withdrawn_when_unlocked(
    root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("needs postgresql: SQLite lets one writer in at a time, with or without row locks")
    monkeypatch.setattr(announcements, "_locked", lambda pk: Announcement.objects.get(pk=pk))
    assert withdrawn_meanwhile(root, monkeypatch, seconds=60) > 0


def withdrawn_meanwhile(root: User, monkeypatch: pytest.MonkeyPatch, *, seconds: float) -> int:
    """How many mails are left of an announcement that is withdrawn while a part of its mails is being written."""
    begun, withdrawn = threading.Event(), threading.Event()
    write, announcement = announcements._write, publish(root, by_mail=True)

    def slowly(*given: Any) -> bool:
        begun.set()
        # With the lock nobody can withdraw it before this part is committed; then it only costs the time.
        withdrawn.wait(seconds)
        return write(*given)

    def withdraw() -> None:
        assert begun.wait(60)
        services.withdraw_announcement(announcement_id=announcement.pk, actor=root)
        withdrawn.set()

    monkeypatch.setattr(announcements, "_write", slowly)
    outcomes = at_once([services.write_announcements, withdraw])
    assert not [one for one in outcomes if isinstance(one, Exception)]
    return Notification.objects.filter(kind="announcement").count()


def test_a_mail_that_fails_while_it_is_withdrawn_is_not_tried_again(
    root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    announcement = publish(root, by_mail=True)
    services.write_announcements()
    notification = Notification.objects.get(kind="announcement")

    def fail(*_given: Any) -> None:
        services.withdraw_announcement(announcement_id=announcement.pk, actor=root)
        raise OSError("the mail server is away")

    monkeypatch.setattr(outbox, "_send", fail)
    assert not services.deliver(notification_id=notification.pk)
    with time_machine.travel(now() + timedelta(days=1)):
        assert services.deliver_due() == 0
        Notification.objects.update(status=Notification.Status.FAILED)
        assert not services.resend(notification_id=notification.pk, actor=root)
    assert not mail.outbox


def test_addresses_that_are_put_off_keep_nobody_else_waiting(root: User, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(9):
        make_user(f"u{number}")
    monkeypatch.setattr(announcements, "PART", 2)
    monkeypatch.setattr(announcements, "MOST_WAITING", 4)
    publish(root, by_mail=True)
    assert services.write_announcements() == 4
    Notification.objects.update(next_attempt_at=now() + timedelta(minutes=5))
    assert services.write_announcements() == 4


def test_one_that_cannot_be_written_keeps_no_other_from_it(
    alice: User, root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, whole = publish(root, by_mail=True), publish(root, by_mail=True, title="Whole")
    compose = announcements._composed

    def fail_for_one(announcement: Announcement, language: str) -> Any:
        if announcement == broken:
            raise ValueError("broken")
        return compose(announcement, language)

    monkeypatch.setattr(announcements, "_composed", fail_for_one)
    assert services.write_announcements() == 2
    whole.refresh_from_db()
    assert whole.mailed_count == 2


def test_an_address_that_is_not_the_confirmed_one_gets_none(alice: User, root: User) -> None:
    User.objects.filter(pk=alice.pk).update(email="other@example.com")
    publish(root, by_mail=True)
    services.write_announcements()
    assert written_to() == ["root@example.com"]


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_two_writers_at_once_write_to_each_once(root: User, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        make_user(f"u{number}")
    monkeypatch.setattr(announcements, "PART", 4)
    publish(root, by_mail=True)
    outcomes = at_once([services.write_announcements] * 3)
    assert sum(outcomes) == 21  # type: ignore[arg-type]
    assert len(written_to()) == len(set(written_to())) == 21
    assert Announcement.objects.get().mailed_count == 21


def test_no_more_are_written_than_are_sent(
    root: User, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    for number in range(9):
        make_user(f"u{number}")
    monkeypatch.setattr(announcements, "PART", 2)
    monkeypatch.setattr(announcements, "MOST_WAITING", 4)
    publish(root, by_mail=True)
    with django_capture_on_commit_callbacks() as wake_ups:
        assert [services.write_announcements() for _time in range(2)] == [4, 0]
    assert wake_ups == [], "nothing else waits behind them"
    assert services.deliver_due(limit=3) == 3
    assert [services.write_announcements() for _time in range(2)] == [4, 0]
    services.deliver_due()
    assert [services.write_announcements() for _time in range(2)] == [2, 0]
    assert len(written_to()) == 10


def test_the_sweep_of_announcements_is_scheduled() -> None:
    assert PeriodicTask.objects.get(task="accounts.tasks.write_announcements").interval.every == 60
