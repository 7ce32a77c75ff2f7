"""Announcements at the operator's desk and by the API."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.contrib.auth.models import Permission

from accounts import services
from accounts.models import Announcement, User
from accounts.services import announcements
from derp_portal.lib.clock import now
from tests.accounts.noticeboard import TEXT, TITLE, browser_of, publish, sees, written_to
from tests.api_client import Caller
from tests.conftest import make_user

pytestmark = pytest.mark.django_db


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
