"""Finding one's way on a narrow screen, and without JavaScript."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from playwright.sync_api import Browser, Page, expect

from accounts.models import User
from tests.conftest import make_user
from tests.parts import need
from tests.resellers.trade import make_reseller

NARROW = {"width": 390, "height": 844}


def sign_in(page: Page, address: str, user: User) -> None:
    """By a session that is there already."""
    client = Client()
    client.force_login(user)
    name = settings.SESSION_COOKIE_NAME
    page.context.add_cookies([{"name": name, "value": client.cookies[name].value, "url": address}])


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("where", ["/notifications/", "/reseller/settings/"])
def test_the_current_tab_is_in_sight_on_a_narrow_screen(live_server: Any, page: Page, where: str) -> None:
    need("chromium")
    rita = make_user("rita", language="en", role="reseller")
    make_reseller(rita)
    page.set_viewport_size(NARROW)  # type: ignore[arg-type]
    sign_in(page, live_server.url, rita)
    page.goto(live_server.url + where)
    expect(page.locator(".side-nav [aria-current]")).to_be_in_viewport(ratio=1)
    assert page.evaluate("document.querySelector('.side-nav').scrollLeft") > 0
    assert page.evaluate("window.scrollY") == 0, "the page itself stays where it was"


@pytest.mark.django_db(transaction=True)
def test_without_javascript_every_main_page_is_reached_on_a_narrow_screen(live_server: Any, browser: Browser) -> None:
    need("chromium")
    alice = make_user("alice", language="en")
    context = browser.new_context(java_script_enabled=False, viewport=NARROW, locale="en-US")  # type: ignore[arg-type]
    page = context.new_page()
    menu = page.get_by_role("navigation", name="Menu")
    page.goto(live_server.url + "/")
    assert menu.get_by_role("link").all_inner_texts() == ["Shop", "Sign In", "Sign Up"]

    sign_in(page, live_server.url, alice)
    page.goto(live_server.url + "/dashboard/")
    for name, where in (("Orders", "/orders/"), ("Support", "/tickets/"), ("Sign Out", "/accounts/logout/")):
        menu.get_by_role("link", name=name).click()
        expect(page).to_have_url(live_server.url + where)
    context.close()
