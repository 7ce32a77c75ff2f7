"""By which browsers people come: a random cookie, a digest of it, and how long that is kept."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import time_machine
from django.http import HttpResponse
from django.test import Client

from accounts.device_cookie import COOKIE
from accounts.models import Browser, User
from accounts.selectors import share_a_browser
from accounts.services import forget_browsers, note_browser
from accounts.services.browsers import KEPT_DAYS, MOST_BROWSERS
from accounts.tasks import deliver_due
from derp_portal.lib.clock import days, now
from derp_portal.lib.secrets import fingerprint
from tests.conftest import PASSWORD
from tests.serials.shop import at_once

pytestmark = pytest.mark.django_db


def log_in(browser: Client, name: str) -> HttpResponse:
    browser.post("/accounts/logout/")
    answer: Any = browser.post("/accounts/login/", {"login": name, "password": PASSWORD})
    assert answer.status_code == 302
    return answer


def shared(a: User, b: User) -> bool:
    return share_a_browser(a, b, now() - days(KEPT_DAYS))


def test_who_only_looks_around_gets_no_name_and_who_logs_in_gets_one(client: Client, alice: User) -> None:
    client.get("/accounts/login/")
    client.post("/accounts/login/", {"login": "alice", "password": "wrong"})
    assert COOKIE not in client.cookies
    log_in(client, "alice")
    assert len(client.cookies[COOKIE].value) == 55
    assert Browser.objects.get().user == alice
    assert COOKIE not in client.get("/profile/").cookies, "it is not sent again with every page"


@pytest.mark.parametrize("is_secure", [True, False])
def test_no_script_reads_the_cookie_and_no_other_site_sends_it(
    client: Client, alice: User, settings: Any, is_secure: bool
) -> None:
    settings.SESSION_COOKIE_SECURE = is_secure
    cookie = log_in(client, "alice").cookies[COOKIE]
    assert (cookie["httponly"], cookie["samesite"], bool(cookie["secure"])) == (True, "Lax", is_secure)
    assert (cookie["max-age"], cookie["path"], cookie["domain"]) == (400 * 86_400, "/", "")


def test_the_name_itself_is_kept_nowhere(client: Client, alice: User) -> None:
    log_in(client, "alice")
    name = client.cookies[COOKIE].value.partition(".")[0]
    row = Browser.objects.get()
    assert len(row.digest) == 64
    assert name not in row.digest


def test_two_people_who_log_in_by_one_browser_share_it_and_others_do_not(
    client: Client, alice: User, bob: User, rita: User, django_assert_num_queries: Any
) -> None:
    log_in(client, "alice")
    log_in(client, "rita")
    log_in(client, "alice")
    log_in(Client(), "bob")
    assert Browser.objects.count() == 3
    with django_assert_num_queries(1):
        assert shared(alice, rita)
    assert shared(rita, alice)
    assert not shared(alice, bob)
    assert not share_a_browser(alice, rita, now() + timedelta(seconds=1)), "not since then"


def test_signing_up_counts_as_coming_by_a_browser(client: Client, rita: User) -> None:
    log_in(client, "rita")
    client.post("/accounts/logout/")
    secret = {"password1": "violet-tram-88", "password2": "violet-tram-88"}
    client.post("/accounts/signup/", {"username": "dora", "email": "dora@example.org", "timezone": "UTC", **secret})
    assert shared(User.objects.get(username="dora"), rita)


def test_programs_have_no_browser(client: Client, alice: User) -> None:
    answer = client.post(
        "/api/user/login", {"username": "alice", "password": PASSWORD}, content_type="application/json"
    )
    assert answer.json()["success"]
    assert COOKIE not in answer.cookies
    assert not Browser.objects.exists()


@pytest.mark.parametrize(
    "forged",
    ["", "x", "A" * 22, f"{'A' * 22}.{'0' * 32}", "A" * 100_000, "é.ü", "'; DROP TABLE browsers; --", "a.b.c", "\x00"],
)
def test_a_name_that_this_portal_has_not_written_is_replaced(client: Client, alice: User, forged: str) -> None:
    client.cookies[COOKIE] = forged
    log_in(client, "alice")
    assert client.cookies[COOKIE].value != forged
    assert len(client.cookies[COOKIE].value) == 55
    assert Browser.objects.count() == 1


def test_nobody_takes_anothers_name_by_knowing_its_digest(client: Client, alice: User, rita: User) -> None:
    log_in(client, "rita")
    thief = Client()
    thief.cookies[COOKIE] = Browser.objects.get().digest[:22] + "." + client.cookies[COOKIE].value.partition(".")[2]
    log_in(thief, "alice")
    assert not shared(alice, rita)


def test_the_cookie_opens_nothing(client: Client, alice: User) -> None:
    log_in(client, "alice")
    other = Client()
    other.cookies[COOKIE] = client.cookies[COOKIE].value
    assert other.get("/profile/").status_code == 302


def test_coming_again_moves_the_last_time_and_not_the_first(alice: User) -> None:
    note_browser(user=alice, name="one")
    first = Browser.objects.get()
    with time_machine.travel(now() + timedelta(days=3), tick=False):
        note_browser(user=alice, name="one")
    row = Browser.objects.get()
    assert (row.first_seen_at, row.last_seen_at - first.last_seen_at > timedelta(days=2)) == (first.first_seen_at, True)


def test_of_many_browsers_the_latest_are_kept(alice: User, bob: User) -> None:
    note_browser(user=bob, name="0")
    note_browser(user=alice, name="0")
    later = now() + timedelta(minutes=1)
    Browser.objects.bulk_create(
        Browser(user=alice, digest=fingerprint(str(number)), first_seen_at=later, last_seen_at=later)
        for number in range(1, MOST_BROWSERS)
    )
    assert shared(alice, bob), "even somebody who throws away hundreds of browsers"
    with time_machine.travel(now() + timedelta(minutes=2), tick=False):
        note_browser(user=alice, name="one more")
    assert Browser.objects.filter(user=alice).count() == MOST_BROWSERS
    assert not shared(alice, bob), "alice's oldest one is forgotten"
    assert Browser.objects.filter(user=bob).exists()


def test_a_browser_that_nobody_came_by_for_four_hundred_days_is_forgotten(alice: User, bob: User) -> None:
    note_browser(user=alice, name="one")
    with time_machine.travel(now() + timedelta(days=399)):
        note_browser(user=bob, name="one")
        assert forget_browsers() == 0
    with time_machine.travel(now() + timedelta(days=401)):
        assert not shared(alice, bob)
        deliver_due()
    assert [row.user for row in Browser.objects.all()] == [bob]


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_two_log_ins_at_once_make_one_row(alice: User) -> None:
    outcomes = at_once([partial(note_browser, user=alice, name="one")] * 4)
    assert outcomes == [None] * 4
    assert Browser.objects.count() == 1
