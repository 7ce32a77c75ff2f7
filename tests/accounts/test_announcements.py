"""Announcements: who sees them, how long, how they are closed, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import time_machine
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import translation

from accounts import services
from accounts.models import Announcement, AuditEntry, ClosedAnnouncement, User
from derp_portal.lib.clock import now
from tests.accounts.noticeboard import (
    BEGUN,
    LATER,
    LONG_AGO,
    TEXT,
    TITLE,
    browser_of,
    publish,
    publish_over,
    refusal,
    sees,
)
from tests.serials.shop import at_once

pytestmark = pytest.mark.django_db


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


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_the_same_key_at_once_publishes_once(root: User) -> None:
    made = at_once([partial(publish, root, client_key="k")] * 4)
    assert made == [Announcement.objects.get()] * 4
    assert Announcement.objects.count() == AuditEntry.objects.filter(event="announcement.published").count() == 1
