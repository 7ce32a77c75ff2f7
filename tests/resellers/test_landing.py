"""A reseller's link: what it shows, whom it remembers, what counts as a click."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.test import Client

from accounts.adapter import SIGNUP_REF_COOKIE
from accounts.models import User
from derp_portal.lib.clock import now
from resellers import services
from resellers.models import LinkDay, Reseller
from tests.billing.till import priced_plan
from tests.conftest import make_user
from tests.resellers.trade import make_level, make_reseller

pytestmark = pytest.mark.django_db
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0"


@pytest.fixture
def reseller(rita: User) -> Reseller:
    """rita, whose link is /r/link-rita/."""
    return make_reseller(rita, make_level(cookie_days=45), landing_text="Hello <b>all</b>\n\nI help you.")


@pytest.fixture
def visitor() -> Client:
    """Somebody's browser."""
    return Client(headers={"User-Agent": FIREFOX, "Accept-Language": "en"})


def clicks() -> int:
    return sum(LinkDay.objects.values_list("clicks", flat=True))


def test_the_page_shows_plans_prices_and_the_resellers_own_words_as_plain_text(
    visitor: Client, reseller: Reseller
) -> None:
    priced_plan(30, 1990)
    shown = visitor.get("/r/link-rita/").content.decode()
    assert "CN¥19.90" in shown
    assert "Hello &lt;b&gt;all&lt;/b&gt;" in shown
    assert "<p>I help you.</p>" in shown
    assert "/accounts/signup/" in shown
    assert "the one you opened last counts" in shown


def test_the_page_opens_in_chinese(reseller: Reseller) -> None:
    response = Client(headers={"User-Agent": FIREFOX, "Accept-Language": "zh-hans"}).get("/r/link-rita/")
    assert response.status_code == 200
    assert 'lang="zh-hans"' in response.content.decode()


def test_the_cookie_is_first_party_signed_and_out_of_reach_of_scripts(visitor: Client, reseller: Reseller) -> None:
    response = visitor.get("/r/link-rita/")
    cookie = response.cookies[SIGNUP_REF_COOKIE]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Lax", "/")
    assert cookie["max-age"] == 45 * 86400
    assert not cookie["domain"]
    assert not cookie["secure"]
    found = services.read_reference(cookie.value)
    assert found is not None
    assert found.reseller_id == reseller.pk
    assert "no-store" in response.headers["Cache-Control"]


def test_the_cookie_is_secure_where_the_portal_is(visitor: Client, reseller: Reseller, settings: Any) -> None:
    settings.SECURE = True
    assert visitor.get("/r/link-rita/").cookies[SIGNUP_REF_COOKIE]["secure"]


def test_of_two_links_the_last_one_opened_counts(visitor: Client, reseller: Reseller, alice: User) -> None:
    last = make_reseller(alice)
    visitor.get("/r/link-rita/")
    visitor.get("/r/link-alice/")
    found = services.read_reference(visitor.cookies[SIGNUP_REF_COOKIE].value)
    assert found is not None
    assert found.reseller_id == last.pk


def test_a_link_whose_code_has_changed_still_stands_for_its_reseller(visitor: Client, reseller: Reseller) -> None:
    visitor.get("/r/link-rita/")
    Reseller.objects.update(code="another")
    found = services.read_reference(visitor.cookies[SIGNUP_REF_COOKIE].value)
    assert found is not None
    assert found.reseller_id == reseller.pk


@pytest.mark.parametrize("state", ["applied", "rejected", "suspended"])
def test_a_link_that_is_not_active_leads_home_and_remembers_nobody(
    visitor: Client, reseller: Reseller, state: str
) -> None:
    Reseller.objects.update(state=state)
    for address in ("/r/link-rita/", "/r/nobody/"):
        response = visitor.get(address)
        assert (response.status_code, response["Location"]) == (302, "/")
        assert SIGNUP_REF_COOKIE not in response.cookies
    assert clicks() == 0


def test_one_visit_is_one_click_and_another_day_another(visitor: Client, reseller: Reseller) -> None:
    visitor.get("/r/link-rita/")
    visitor.get("/r/LINK-rita/")
    assert clicks() == 1
    with time_machine.travel(now() + timedelta(days=1)):
        visitor.get("/r/link-rita/")
    assert clicks() == 2


@pytest.mark.parametrize("agent", ["", "Googlebot/2.1", "WhatsApp/2.24", "curl/8.5", "facebookexternalhit/1.1"])
def test_robots_are_no_clicks(reseller: Reseller, agent: str) -> None:
    assert Client(headers={"User-Agent": agent}).get("/r/link-rita/").status_code == 200
    assert clicks() == 0


def test_asking_for_the_head_alone_is_no_click(visitor: Client, reseller: Reseller) -> None:
    assert visitor.head("/r/link-rita/").status_code == 200
    assert clicks() == 0


@pytest.mark.parametrize("header", ["Sec-Purpose", "Purpose", "X-Moz"])
def test_a_browser_that_looks_ahead_neither_counts_nor_is_remembered(
    visitor: Client, reseller: Reseller, header: str
) -> None:
    response = visitor.get("/r/link-rita/", headers={header: "prefetch;prerender"})
    assert response.status_code == 503
    assert SIGNUP_REF_COOKIE not in response.cookies
    assert clicks() == 0
    visitor.get("/r/link-rita/")
    assert clicks() == 1


def test_the_reseller_does_not_count(visitor: Client, reseller: Reseller, rita: User) -> None:
    visitor.force_login(rita)
    response = visitor.get("/r/link-rita/")
    assert clicks() == 0
    assert SIGNUP_REF_COOKIE not in response.cookies


def test_who_signs_up_after_the_link_is_their_customer(visitor: Client, reseller: Reseller) -> None:
    visitor.get("/r/link-rita/")
    visitor.post(
        "/accounts/signup/",
        {
            "username": "dora",
            "email": "dora@example.org",
            "password1": "correct horse battery",
            "password2": "correct horse battery",
            "timezone": "UTC",
        },
    )
    services.read_signups()
    assert User.objects.get(username="dora").attributions.get().reseller == reseller


def test_the_page_costs_the_same_for_every_visitor(
    visitor: Client, reseller: Reseller, django_assert_max_num_queries: Any
) -> None:
    for days in range(30, 40):
        priced_plan(days)
    visitor.get("/r/link-rita/")
    with django_assert_max_num_queries(8):
        visitor.get("/r/link-rita/")
    visitor.force_login(make_user("dora"))
    with django_assert_max_num_queries(12):
        visitor.get("/r/link-rita/")
