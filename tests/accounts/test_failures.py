"""A background task that fails is kept for operators, without the secrets it may have carried."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from celery.contrib.testing.worker import start_worker
from django.db import DatabaseError

from accounts import services, tasks
from accounts.models import TaskFailure
from accounts.services import forget_failures, note_failure
from accounts.services.failures import LONGEST_TRACEBACK, without_secrets
from derp_portal import celery_app
from derp_portal.lib.clock import now

WORKER_SECONDS = 60


class Broken(Exception):
    """What nobody foresaw."""


@pytest.fixture
def broken_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every delivery of a message fails."""

    def fail(**_: Any) -> bool:
        raise Broken("smtp://user:hunter2@mail.example.com refused dp_abcdefgh12345678")

    monkeypatch.setattr(services, "deliver", fail)


@pytest.mark.django_db(transaction=True)
def test_a_task_that_fails_in_a_worker_is_kept(broken_delivery: None) -> None:
    with start_worker(
        celery_app, pool="solo", queues=["notify"], perform_ping_check=False, shutdown_timeout=WORKER_SECONDS
    ):
        sent = tasks.deliver_notification.delay(4711)
        deadline = time.monotonic() + WORKER_SECONDS
        while not TaskFailure.objects.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    failure = TaskFailure.objects.get()
    assert (failure.task, failure.task_id) == ("accounts.tasks.deliver_notification", sent.id)
    assert failure.arguments == "4711"
    assert failure.error.startswith("Broken: ")
    assert "deliver_notification" in failure.traceback


@pytest.mark.django_db
def test_neither_words_nor_traceback_of_a_failure_hold_a_secret(broken_delivery: None) -> None:
    tasks.deliver_notification.apply(("dp_secretsecret",), {"notification_id": 1})
    tasks.deliver_notification.apply((1,))
    kept = "".join(f"{row.arguments}{row.error}{row.traceback}" for row in TaskFailure.objects.all())
    assert "smtp://…" in kept
    assert "hunter2" not in kept
    assert "dp_a" not in kept
    assert "dp_s" not in kept


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("tgram://123:abc/456 refused", "tgram://… refused"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer …"),
        ("{'password': 'hunter2', 'user': 1}", "{'password': … 'user': 1}"),
        ("SMTP_TOKEN=abc failed", "SMTP_TOKEN=… failed"),
        ("key 8Xq3vLr0TzYpN5mJ2bKd7WfGh1CsAe6UoQi9 refused", "key … refused"),
        ("no such host: db-1.internal", "no such host: db-1.internal"),
        ('File "/opt/portal/accounts/services/outbox.py", line 12', None),
    ],
)
def test_secrets_are_blotted_out_and_nothing_else(said: str, kept: str | None) -> None:
    assert without_secrets(said) == (said if kept is None else kept)


@pytest.mark.django_db
def test_of_arguments_only_numbers_are_kept() -> None:
    failure = note_failure(
        task="t", task_id="1", args=(12, "key", [3]), kwargs={"user_id": 7, "token": "x", "n": None}, error="Broken"
    )
    assert failure is not None
    assert failure.arguments == "12, str, list, user_id=7, token=str, n=None"


@pytest.mark.django_db
def test_what_is_too_long_is_cut_and_the_end_of_a_traceback_stays() -> None:
    failure = note_failure(
        task="t" * 500, task_id="i" * 500, args=(10**300,), error="e\x00" * 500, traceback="x" * 20_000 + "the end"
    )
    assert failure is not None
    failure.refresh_from_db()
    assert (len(failure.task), len(failure.task_id), len(failure.error), len(failure.arguments)) == (120, 64, 200, 200)
    assert len(failure.traceback) == LONGEST_TRACEBACK
    assert failure.traceback.endswith("the end")


@pytest.mark.django_db
def test_the_same_failure_is_kept_once_a_minute_and_another_at_once() -> None:
    with time_machine.travel(now(), tick=False) as clock:
        assert note_failure(task="t", task_id="1", args=(1,), error="e") is not None
        assert note_failure(task="t", task_id="2", args=(1,), error="e") is None
        assert note_failure(task="t", task_id="3", args=(2,), error="e") is not None
        clock.shift(61)
        assert note_failure(task="t", task_id="4", args=(1,), error="e") is not None
    assert TaskFailure.objects.count() == 3


@pytest.mark.django_db
def test_a_failure_that_cannot_be_kept_leaves_the_worker_alone(
    broken_delivery: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(**_: Any) -> None:
        raise DatabaseError("the database is away")

    monkeypatch.setattr(services, "note_failure", away)
    assert isinstance(tasks.deliver_notification.apply((1,)).result, Broken)
    assert not TaskFailure.objects.exists()


@pytest.mark.django_db
def test_failures_are_forgotten_after_ninety_days_by_the_sweep() -> None:
    note_failure(task="old", task_id="1", error="e")
    TaskFailure.objects.update(created_at=now() - timedelta(days=90, seconds=1))
    note_failure(task="new", task_id="2", error="e")
    tasks.deliver_due.apply()
    assert [failure.task for failure in TaskFailure.objects.all()] == ["new"]
    assert forget_failures() == 0
