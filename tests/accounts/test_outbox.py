"""Mail is a row first and is sent at least once, but never twice for one claim."""

from __future__ import annotations

import smtplib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.core import mail
from django.db import connection, connections, transaction
from django.utils import translation

from accounts import mails, services
from accounts.models import Notification, User
from accounts.services import outbox
from tests.conftest import make_user

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def queue(user: User, key: str = "k", **fields: Any) -> Notification:
    message = mails.compose(mails.Draft("Hello", ["One.", "Two <b>."], "Look", "Because."), button_url="/tokens/")
    notification = services.queue_mail(mail=message, kind="test", dedup_key=key, language="en", user=user, **fields)
    assert notification is not None
    return notification


def at_once(count: int, work: Callable[[], Any]) -> list[Any]:
    """Run `work` in that many threads that start together."""
    barrier = threading.Barrier(count)

    def one(_number: int) -> Any:
        try:
            barrier.wait(60)
            return work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def html_of(message: Any) -> str:
    """The HTML part of a sent mail."""
    return str(message.alternatives[0].content)


@pytest.fixture
def broken_server(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """A mail server that fails with what the test puts here."""
    errors: list[Exception] = [ConnectionRefusedError("no server")]

    def fail(_notification: Notification) -> None:
        raise errors[0]

    monkeypatch.setattr(outbox, "_send", fail)
    return errors


def test_a_mail_says_the_same_in_text_and_in_html(alice: User) -> None:
    notification = queue(alice)
    assert services.deliver(notification_id=notification.pk)
    sent = mail.outbox[0]
    html = html_of(sent)
    assert sent.to == ["alice@example.com"]
    assert "One.\n\nTwo <b>.\n\nLook:\nhttp" in sent.body
    assert "Two &lt;b&gt;." in html
    assert "Because." in sent.body
    assert "Because." in html
    notification.refresh_from_db()
    assert (notification.status, notification.attempts) == ("sent", 1)
    assert notification.sent_at is not None


def test_the_same_dedup_key_writes_once(alice: User) -> None:
    assert services.notify(kind="password_reset_key", dedup_key="a", user=alice, button_url="/x") is not None
    assert services.notify(kind="password_reset_key", dedup_key="a", user=alice, button_url="/x") is None
    assert Notification.objects.count() == 1


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_the_same_dedup_key_at_once_writes_once() -> None:
    user = make_user("carol")

    def write() -> bool:
        with transaction.atomic():
            return services.notify(kind="password_reset_key", dedup_key="race", user=user, button_url="/x") is not None

    assert sorted(at_once(6, write)) == [False] * 5 + [True]
    assert Notification.objects.count() == 1


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_many_senders_at_once_send_one_message_once() -> None:
    notification = queue(make_user("carol"))
    assert sorted(at_once(6, lambda: services.deliver(notification_id=notification.pk))) == [False] * 5 + [True]
    assert len(mail.outbox) == 1


def test_a_message_that_was_sent_is_not_sent_again(alice: User) -> None:
    notification = queue(alice)
    services.deliver(notification_id=notification.pk)
    assert not services.deliver(notification_id=notification.pk)
    assert services.deliver_due() == 0
    assert len(mail.outbox) == 1


def test_a_failure_is_kept_and_tried_again_later(alice: User, broken_server: list[Exception]) -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        notification = queue(alice)
        assert not services.deliver(notification_id=notification.pk)
        notification.refresh_from_db()
        assert (notification.status, notification.attempts) == ("queued", 1)
        assert "no server" in notification.last_error
        assert timedelta(seconds=15) <= notification.next_attempt_at - NOON <= timedelta(seconds=30)
        services.deliver_due()
        notification.refresh_from_db()
        assert notification.attempts == 1, "it was not due yet"
        clock.shift(31)
        services.deliver_due()
        notification.refresh_from_db()
        assert notification.attempts == 2


def test_it_is_given_up_after_the_last_attempt_and_can_be_sent_again_by_hand(
    alice: User, root: User, broken_server: list[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        notification = queue(alice)
        for _attempt in range(outbox.MAX_ATTEMPTS + 3):
            services.deliver_due()
            clock.shift(3601)
        notification.refresh_from_db()
        assert (notification.status, notification.attempts) == ("failed", outbox.MAX_ATTEMPTS)
        monkeypatch.undo()
        assert services.resend(notification_id=notification.pk, actor=root)
        assert not services.resend(notification_id=notification.pk, actor=root)
        assert services.deliver_due() == 1


def test_an_address_the_server_refuses_for_good_is_not_tried_again(alice: User, broken_server: list[Exception]) -> None:
    broken_server[0] = smtplib.SMTPRecipientsRefused({"alice@example.com": (550, b"no such user")})
    notification = queue(alice)
    services.deliver(notification_id=notification.pk)
    notification.refresh_from_db()
    assert (notification.status, notification.attempts) == ("failed", 1)


def test_pauses_grow_and_are_spread() -> None:
    pauses = [[outbox.back_off(attempts).total_seconds() for _ in range(50)] for attempts in range(1, 9)]
    assert all(15 * 2**n <= pause <= 30 * 2**n for n, some in enumerate(pauses[:6]) for pause in some)
    assert max(pauses[-1]) <= 3600
    assert len(set(pauses[0])) > 40


def test_a_message_whose_sender_died_goes_out_when_its_claim_elapsed(alice: User) -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        notification = queue(alice)
        assert outbox._claim(notification.pk) is not None  # A sender that was killed right here.
        assert services.deliver_due() == 0
        clock.shift(outbox.CLAIM + timedelta(seconds=1))
        assert services.deliver_due() == 1
    assert len(mail.outbox) == 1


def test_a_sender_that_overslept_its_claim_does_not_overwrite_who_took_over(alice: User) -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        slow = outbox._claim(queue(alice).pk)
        assert slow is not None
        clock.shift(outbox.CLAIM + timedelta(seconds=1))
        services.deliver_due()
        outbox._finish(slow, status=Notification.Status.FAILED, last_error="too slow")
    slow.refresh_from_db()
    assert slow.status == "sent"


def test_every_attempt_has_the_same_message_id(alice: User) -> None:
    notification = queue(alice)
    services.deliver(notification_id=notification.pk)
    Notification.objects.update(status="queued")
    services.deliver(notification_id=notification.pk)
    assert mail.outbox[0].extra_headers["Message-ID"] == mail.outbox[1].extra_headers["Message-ID"]


def test_nothing_is_sent_for_what_was_rolled_back(alice: User, django_capture_on_commit_callbacks: Any) -> None:
    with django_capture_on_commit_callbacks() as callbacks, transaction.atomic():
        queue(alice)
        transaction.set_rollback(True)
    assert (callbacks, Notification.objects.count()) == ([], 0)


def test_a_broker_that_is_away_does_not_fail_the_request(
    alice: User, django_capture_on_commit_callbacks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: Any) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr("accounts.tasks.deliver_notification.delay", refuse)
    with django_capture_on_commit_callbacks() as callbacks:
        queue(alice)
        hooks: list[Any] = list(connection.run_on_commit)
    assert len(callbacks) == 1
    assert [is_robust for _savepoints, _callback, is_robust in hooks] == [True]
    assert services.deliver_due() == 1


def test_mail_speaks_the_readers_language_and_zone(bob: User, settings: Any, tmp_path: Any) -> None:
    folder = tmp_path / "mail"
    folder.mkdir()
    (folder / "probe.txt").write_text(
        "{% load i18n %}Subject: {% get_current_language as code %}{{ code }}\n\n{{ at|date:'Y-m-d H:i' }} isn't"
    )
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [tmp_path, *settings.TEMPLATES[0]["DIRS"]]}]
    bob.timezone = "Asia/Shanghai"
    notification = services.notify(kind="probe", dedup_key="p", user=bob, context={"at": NOON})
    assert notification is not None
    assert (notification.subject, notification.language) == ("zh-hans", "zh-hans")
    assert notification.body_text.startswith("2026-03-01 20:00 isn't")


def test_mail_to_staff_does_not_follow_the_language_of_whoever_causes_it(
    alice: User, root: User, settings: Any
) -> None:
    for user in (alice, root):
        user.language = ""
    with translation.override("zh-hans"):
        assert (services.language_of(alice), services.language_of(root)) == ("zh-hans", "en")
        settings.LANGUAGE_CODE = "zh-hans"
    with translation.override("en"):
        assert services.language_of(root) == "zh-hans"
        root.language = "en"
        assert services.language_of(root) == "en"


def test_a_line_break_in_a_subject_forges_no_header(alice: User, root: User) -> None:
    notification = services.send_message(actor=root, user=alice, subject="Hi\r\nBcc: eve@example.com", body="Text")
    assert notification.subject == "Hi Bcc: eve@example.com"
    services.deliver(notification_id=notification.pk)
    assert mail.outbox[0].bcc == []


def test_mail_that_opens_the_account_is_erased_once_sent(alice: User) -> None:
    notification = queue(alice, is_secret=True)
    services.deliver(notification_id=notification.pk)
    notification.refresh_from_db()
    assert (notification.body_text, notification.body_html) == ("", "")
    assert "One." in mail.outbox[0].body


def test_a_template_without_a_subject_is_refused() -> None:
    with pytest.raises(ValueError, match="Subject"):
        mails.read_draft("Hello")
