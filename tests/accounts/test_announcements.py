"""Announcements: who sees them, how long, how they are closed, and the mails that go with them."""

from __future__ import annotations

import os
import signal
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import time_machine
from django.contrib.auth.models import Permission
from django.core import mail
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import translation
from django_celery_beat.models import PeriodicTask

from accounts import services
from accounts.models import Announcement, AuditEntry, ClosedAnnouncement, Notification, User
from accounts.services import announcements, outbox
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from tests.api_client import Caller
from tests.conftest import make_user
from tests.serials.shop import at_once

pytestmark = pytest.mark.django_db
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
BEGUN = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=9)
LATER = datetime(2099, 1, 1, tzinfo=UTC)
TITLE, TEXT = "Works on Sunday", "Hong Kong will be away for an hour.\nYour relay moves meanwhile."


def publish(root: User, **fields: Any) -> Announcement:
    return services.publish_announcement(**{"title": TITLE, "text": TEXT, "actor": root, **fields})


def browser_of(user: User | None) -> Client:
    browser = Client(headers={"Accept-Language": "en"})
    if user is not None:
        browser.force_login(user)
    return browser


def sees(user: User | None, *, at: str = "/", title: str = TITLE) -> bool:
    """Whether it stands above the page."""
    return title in browser_of(user).get(at).text


def refusal(verb: Any, **arguments: Any) -> PortalError:
    with pytest.raises(PortalError) as refused:
        verb(**arguments)
    return refused.value


def written_to() -> list[str]:
    return sorted(Notification.objects.filter(kind="announcement").values_list("recipient", flat=True))


# --- who sees it --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("audience", "readers"),
    [("everybody", "visitor alice rita"), ("accounts", "alice rita"), ("resellers", "rita")],
)
def test_it_stands_above_the_pages_of_its_audience(
    audience: str, readers: str, alice: User, rita: User, root: User
) -> None:
    publish(root, audience=audience)
    seen = {"visitor": sees(None, at="/accounts/login/"), "alice": sees(alice), "rita": sees(rita)}
    assert " ".join(name for name, is_seen in seen.items() if is_seen) == readers


def test_it_lasts_from_its_beginning_to_its_end(alice: User, root: User) -> None:
    with time_machine.travel("2027-01-15T12:00:00Z", tick=False) as clock:
        begin = now() + timedelta(hours=1)
        announcement = publish(root, starts_at=begin, ends_at=begin + timedelta(hours=1))
        seen = []
        for moment in (timedelta(), timedelta(hours=1), timedelta(hours=2) - timedelta(seconds=1), timedelta(hours=2)):
            clock.move_to("2027-01-15T12:00:00Z")
            clock.shift(moment)
            seen.append((sees(alice), announcement.state.value))
        assert seen == [(False, "waiting"), (True, "current"), (True, "current"), (False, "over")]


@pytest.mark.both_databases
def test_the_database_knows_the_same_states(root: User) -> None:
    moment = now()
    hour = timedelta(hours=1)
    for begin, end, withdrawn_at in (
        (moment + hour, None, None),
        (moment - hour, None, None),
        (moment - hour, moment + hour, None),
        (moment - 2 * hour, moment - hour, None),
        (moment - hour, None, moment),
    ):
        Announcement.objects.create(
            title="x",
            text="x",
            author=root,
            starts_at=begin,
            ends_at=end,
            withdrawn_at=withdrawn_at,
        )
    for state in Announcement.State:
        found = set(Announcement.objects.filter(Announcement.in_state(state)))
        assert found == {one for one in Announcement.objects.all() if one.state == state}
        assert found


def test_each_reads_it_in_their_language_where_it_is_written_in_it(alice: User, bob: User, root: User) -> None:
    publish(root, title_zh="周日维护", text_zh="香港机房将中断一小时。")
    publish(root, title="English only")
    chinese = browser_of(bob).get("/", headers={"Accept-Language": "zh-hans"}).text
    assert "周日维护" in chinese
    assert "English only" in chinese
    assert TITLE not in chinese
    assert sees(alice)


def test_what_staff_write_is_text_and_no_markup(alice: User, root: User) -> None:
    publish(root, title="<b>Look</b>", text="<script>alert(1)</script>\nline two")
    page = browser_of(alice).get("/").text
    assert "&lt;b&gt;Look&lt;/b&gt;" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;<br>line two" in page
    assert "<script>alert(1)" not in page


def test_a_page_asks_one_question_for_however_many(alice: User, root: User) -> None:
    browser = browser_of(alice)
    browser.get(reverse("profile"))
    with CaptureQueriesContext(connection) as none:
        browser.get(reverse("profile"))
    for number in range(9):
        publish(root, title=f"News {number}")
    with CaptureQueriesContext(connection) as many:
        page = browser.get(reverse("profile")).text
    assert len(many) == len(none)
    assert [number for number in range(9) if f"News {number}" in page] == [6, 7, 8], "the three latest"
    Announcement.objects.filter(title="News 2").update(tone="warning")
    page = browser.get(reverse("profile")).text
    assert [number for number in range(9) if f"News {number}" in page] == [2, 7, 8], "a warning before news"


def test_an_error_page_asks_nothing(alice: User, root: User) -> None:
    publish(root, audience="everybody")
    with CaptureQueriesContext(connection) as queries:
        page = browser_of(alice).get("/nowhere/")
    assert page.status_code == 404
    assert TITLE not in page.text
    assert not [query for query in queries.captured_queries if "announcements" in query["sql"]]


# --- closing it ---------------------------------------------------------------------------------------


def test_whoever_closes_it_sees_it_no_more_and_others_do(alice: User, bob: User, root: User) -> None:
    address = reverse("announcement_close", args=[publish(root).pk])
    browser = browser_of(alice)
    assert browser.get(address).status_code == 405
    for wording in ("", "x", "9" * 30):
        browser.post(address, {"wording": wording})
    assert sees(alice)
    answer = browser.post(address, {"wording": 1, "next": "/profile/?a=1"})
    assert (answer.status_code, answer["Location"]) == (302, "/profile/?a=1")
    assert browser.post(address, {"wording": 1}, headers={"HX-Request": "true"}).content == b""
    assert (sees(alice), sees(bob)) == (False, True)
    assert sees(alice, at=reverse("announcements")), "the list keeps it"
    assert ClosedAnnouncement.objects.count() == 1


@pytest.mark.parametrize(
    "back", ["https://elsewhere.example/", "//elsewhere.example/", "ticket", "javascript:alert(1)"]
)
def test_closing_leads_nowhere_else(alice: User, root: User, back: str) -> None:
    address = reverse("announcement_close", args=[publish(root).pk])
    answer = browser_of(alice).post(address, {"wording": 1, "next": back})
    assert (answer.status_code, answer["Location"]) == (302, reverse("announcements"))


def test_whose_session_is_over_closes_nothing_and_the_notice_stays(root: User) -> None:
    address = reverse("announcement_close", args=[publish(root, audience="everybody").pk])
    visitor = browser_of(None)
    assert visitor.post(address, {"wording": 1}, headers={"HX-Request": "true"}).status_code == 401
    assert visitor.post(address, {"wording": 1})["Location"] == f"/accounts/login/?next={reverse('announcements')}"
    assert not ClosedAnnouncement.objects.exists()


def test_what_is_not_for_one_cannot_be_closed(alice: User, rita: User, root: User) -> None:
    address = reverse("announcement_close", args=[publish(root, audience="resellers").pk])
    assert browser_of(alice).post(address).status_code == 404
    assert browser_of(rita).post(address).status_code == 302


def test_in_other_words_it_is_news_again(alice: User, root: User) -> None:
    announcement = publish(root)
    assert services.close_announcement(announcement_id=announcement.pk, wording=1, user=alice)
    said: dict[str, Any] = {"title": TITLE, "text": TEXT, "tone": "info", "actor": root}
    said["starts_at"] = announcement.starts_at
    later = now() + timedelta(days=1)
    services.change_announcement(announcement_id=announcement.pk, **said, ends_at=later)
    assert not sees(alice), "the same words"
    services.change_announcement(announcement_id=announcement.pk, **said | {"text": "On Monday!"}, ends_at=later)
    assert sees(alice)
    assert not services.close_announcement(announcement_id=announcement.pk, wording=1, user=alice), "not what she read"
    assert sees(alice)
    for _time in range(2):
        services.change_announcement(announcement_id=announcement.pk, **said, ends_at=later)
    was = [entry.data["was"] for entry in AuditEntry.objects.filter(event="announcement.changed").order_by("id")]
    assert was == [{"ends_at": None}, {"text": TEXT}, {"text": "On Monday!"}], "what it said before is on record"


def test_the_list_is_searched_filtered_and_paged(alice: User, root: User) -> None:
    day = timedelta(days=1)
    Announcement.objects.create(title="Old news", text="x", author=root, starts_at=now() - 2 * day, ends_at=now() - day)
    publish(root, audience="resellers", title="For sellers")
    publish(root, starts_at=now() + day, title="Tomorrow's")
    for number in range(26):
        publish(root, title=f"News {number}")
    address, browser = reverse("announcements"), browser_of(alice)
    Announcement.objects.filter(title__startswith="News").update(text_zh="维护")
    shown = {query: browser.get(address + query).context["table"] for query in ("", "?state=over", "?search=维护")}
    assert len(shown[""].page) == 25
    assert shown[""].paginator.num_pages == 2
    assert [row.record.title for row in shown["?state=over"].rows] == ["Old news"]
    assert len(shown["?search=维护"].rows) == 26
    assert {"For sellers", "Tomorrow's"}.isdisjoint(row.record.title for row in shown[""].rows)


# --- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"title": " "}, "title"),
        ({"text": "\n"}, "text"),
        ({"title": "x" * 121}, "title"),
        ({"text": "x" * 2001}, "text"),
        ({"title_zh": "周日维护"}, "text_zh"),
        ({"text_zh": "维护"}, "title_zh"),
        ({"starts_at": LATER, "ends_at": LATER - timedelta(days=1)}, "ends_at"),
        ({"starts_at": BEGUN, "ends_at": BEGUN + timedelta(days=1)}, "ends_at"),
        ({"starts_at": datetime(1, 1, 1, tzinfo=UTC)}, "starts_at"),
        ({"starts_at": datetime(9999, 12, 31, tzinfo=UTC)}, "starts_at"),
        ({"ends_at": datetime(9999, 12, 31, tzinfo=UTC)}, "ends_at"),
    ],
    ids=[
        *("no title", "no text", "long title", "long text", "no Chinese text", "no Chinese title", "backwards", "over"),
        *("the first year", "the last year", "without end"),
    ],
)
def test_a_wrong_one_says_what_is_wrong_and_publishes_nothing(root: User, wrong: dict[str, Any], field: str) -> None:
    refused = refusal(services.publish_announcement, **{"title": TITLE, "text": TEXT, "actor": root, **wrong})
    assert refused.code == "invalid_input"
    assert [one["field"] for one in refused.extra["fields"]] == [field]
    assert not Announcement.objects.exists()


@pytest.mark.both_databases
@pytest.mark.parametrize(
    "fields", [{"audience": "martians"}, {"tone": "loud"}, {"ends_at": LONG_AGO}], ids=lambda fields: next(iter(fields))
)
def test_the_database_itself_refuses(root: User, fields: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Announcement.objects.create(title="x", text="x", author=root, **fields)


def test_a_withdrawn_one_is_shown_to_nobody_and_stays_as_it_was(alice: User, root: User) -> None:
    announcement = publish(root)
    for _time in range(2):
        services.withdraw_announcement(announcement_id=announcement.pk, actor=root)
    assert not sees(alice)
    assert not sees(alice, at=reverse("announcements"))
    said: dict[str, Any] = {"title": "Other", "text": TEXT, "tone": "info", "starts_at": now(), "ends_at": None}
    for verb, more in ((services.change_announcement, said), (services.mail_announcement, {})):
        assert refusal(verb, announcement_id=announcement.pk, actor=root, **more).code == "withdrawn"
    events = AuditEntry.objects.filter(target_type="accounts.announcement").order_by("id")
    assert list(events.values_list("event", flat=True)) == ["announcement.published", "announcement.withdrawn"]


# --- mails --------------------------------------------------------------------------------------------


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


def publish_over(root: User) -> Announcement:
    moment = now().replace(microsecond=0)
    return Announcement.objects.create(
        title="Over", text="x", author=root, starts_at=moment - timedelta(hours=2), ends_at=moment - timedelta(hours=1)
    )


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


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_the_same_key_at_once_publishes_once(root: User) -> None:
    made = at_once([partial(publish, root, client_key="k")] * 4)
    assert made == [Announcement.objects.get()] * 4
    assert Announcement.objects.count() == AuditEntry.objects.filter(event="announcement.published").count() == 1


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


# --- at the operator's desk ---------------------------------------------------------------------------

ADMIN = "/admin/accounts/announcement/"


def typed(**fields: str) -> dict[str, str]:
    """What the form sends."""
    said = {"title": TITLE, "title_zh": "", "text": TEXT, "text_zh": "", "tone": "warning", "audience": "accounts"}
    day, hour = f"{now() + timedelta(days=2):%Y-%m-%d}", "10:00:00"
    moments = {"starts_at_0": "2027-01-01", "starts_at_1": hour, "ends_at_0": day, "ends_at_1": hour}
    return said | moments | fields


def test_staff_publish_change_and_withdraw_on_pages_that_ask(alice: User, root: User) -> None:
    with time_machine.travel("2027-01-15T12:00:00Z", tick=False):
        browser = browser_of(root)
        page = browser.post(f"{ADMIN}add/", typed(ends_at_0="2026-01-01", text="Kept words")).text
        assert "It must end after it begins." in page
        assert "Kept words" in page
        assert not Announcement.objects.exists()
        assert browser.post(f"{ADMIN}add/", typed()).status_code == 302
        announcement = Announcement.objects.get()
        assert (announcement.author, announcement.tone) == (root, "warning")
        own = f"{ADMIN}{announcement.pk}"
        assert browser.post(f"{own}/change/", typed(title="On Monday", audience="everybody")).status_code == 302
        announcement.refresh_from_db()
        assert (announcement.title, announcement.audience) == ("On Monday", "accounts"), "its readers stay"
        assert "On Monday" in browser.get(f"{ADMIN}?state=current&q=monday").text
        assert "On Monday" not in browser.get(f"{ADMIN}?state=over").text
        assert "Withdraw “On Monday”?" in browser.get(f"{own}/withdraw/").text
        assert sees(alice, title="On Monday")
        browser.post(f"{own}/withdraw/")
        assert not sees(alice, title="On Monday")
        assert browser.post(f"{own}/change/", typed(title="Never")).status_code == 403
        assert browser.post(f"{own}/delete/", {"post": "yes"}).status_code == 403


def test_the_mail_asks_with_how_many_it_would_reach_and_tells_how_far_it_is(
    alice: User, root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcements, "PART", 1)
    monkeypatch.setattr(announcements, "MOST_WAITING", 1)
    browser, own = browser_of(root), f"{ADMIN}{publish(root).pk}"
    asked = browser.get(f"{own}/mail/").text
    assert "It goes to 2 people" in asked
    assert not written_to()
    browser.post(f"{own}/mail/")
    told = []
    for _time in range(3):
        services.write_announcements()
        services.deliver_due()
        told.append(browser.get(f"{own}/change/").text)
    assert "1 written so far" in told[0]
    assert "2 written so far" in told[1]
    assert "2 written" in told[2]
    assert "so far" not in told[2]


# --- by the API ---------------------------------------------------------------------------------------


def test_programs_publish_once_read_and_withdraw(alice: User, root: User) -> None:
    boss, customer = Caller(root), Caller(alice)
    said = {"title": TITLE, "text": TEXT, "tone": "warning", "by_mail": True, "client_key": "sunday"}
    made = [boss.post("announcement/publish", **said)[1]["announcement"] for _time in range(2)]
    assert made[0] == made[1]
    assert boss.post("announcement/publish", **said | {"title": "Other"})[1]["error"]["code"] == "key_used"
    shown = made[0]
    assert (shown["state"], shown["mails"]) == ("current", 0)
    services.write_announcements()
    assert {one["id"]: one["mails"] for one in boss.get("announcement/all")[1]["items"]}[shown["id"]] == 2
    boss.post("announcement/publish", title="Later", text="x", starts_at="2099-01-01T00:00:00Z")
    status, listed = customer.get("announcement/list", state="current", q="sunday")
    assert (status, [(one["title"], one["mails"]) for one in listed["items"]]) == (200, [(TITLE, None)])
    assert customer.get("announcement/list", state="waiting")[1]["total"] == 0
    assert boss.get("announcement/all", state="waiting")[1]["total"] == 1
    assert boss.post("announcement/withdraw", announcement_id=shown["id"])[1]["announcement"]["state"] == "withdrawn"
    assert boss.post("announcement/mail", announcement_id=shown["id"])[0] == 200, "it had been asked for"
    assert customer.get("announcement/list", state="current")[1]["total"] == 0


def test_only_who_may_send_mails_publishes_with_mails(alice: User) -> None:
    helper = make_user("helper", role="admin")
    helper.user_permissions.add(Permission.objects.get(codename="add_announcement"))
    said = {"title": TITLE, "text": TEXT}
    program = Caller(helper)
    assert program.post("announcement/publish", **said, by_mail=True)[0] == 403
    assert not Announcement.objects.exists()
    assert program.post("announcement/publish", **said)[0] == 200


def test_the_same_key_answers_the_first_also_when_it_is_over(root: User) -> None:
    over = publish_over(root)
    Announcement.objects.update(client_key="k")
    said = {"title": over.title, "text": over.text, "ends_at": over.ends_at, "client_key": "k"}
    assert publish(root, **said) == over


def test_one_that_is_over_can_be_corrected(root: User) -> None:
    announcement = publish_over(root)
    end = announcement.ends_at
    said: dict[str, Any] = {"text": "y", "tone": "info", "starts_at": announcement.starts_at, "actor": root}
    changed = services.change_announcement(announcement_id=announcement.pk, title="Over.", ends_at=end, **said)
    assert changed.title == "Over."


def test_its_states_have_names_in_chinese() -> None:
    with translation.override("zh-hans"):
        assert [str(state.label) for state in Announcement.State] == ["未开始", "正在显示", "已结束", "已撤回"]


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        ({"title": "", "text": "x"}, 422, "invalid_input"),
        ({"title": "x", "text": "x", "tone": "loud"}, 422, "invalid_input"),
        ({"title": "x", "text": "x", "ends_at": "2020-01-01T00:00:00Z"}, 422, "invalid_input"),
    ],
)
def test_programs_are_told_what_is_wrong(root: User, said: dict[str, Any], status: int, code: str) -> None:
    answer = Caller(root).post("announcement/publish", **said)
    assert (answer[0], answer[1]["error"]["code"]) == (status, code)
    assert not Announcement.objects.exists()


def test_an_announcement_that_is_not_there(root: User) -> None:
    assert Caller(root).post("announcement/withdraw", announcement_id=7)[0] == 404
