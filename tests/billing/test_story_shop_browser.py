"""Buying in a browser: one plan for oneself, a code to hand on, and an order that is thought better of."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any
from urllib.parse import urljoin

import pytest
import time_machine
from django.utils import timezone
from playwright.sync_api import Page, expect

from accounts.models import User
from billing import sandbox
from billing.models import Coupon, Order, Payment, SandboxCallback
from billing.services import codes_of
from billing.services.fulfilment import deliver_paid
from serials.models import Lease
from tests.billing.till import make_method, priced_plan
from tests.conftest import PASSWORD, make_user
from tests.parts import need
from tests.serials.shop import bring_up, make_server

pytestmark = pytest.mark.django_db(transaction=True)

ORDER = re.compile(r"/orders/[A-Z0-9]+/$")


class Shop:
    """A customer's browser at the portal, and the world that answers it."""

    def __init__(self, page: Page, address: str, user: User) -> None:
        self.page, self.address, self.user = page, address, user
        self.complaints: list[str] = []
        page.on("console", lambda said: self.note(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.note(str(error)))

    def note(self, said: str) -> None:
        """A complaint of the browser's; that a poll was cut short by leaving the page is none."""
        if not said.startswith(("htmx:sendAbort", "htmx:afterRequest")):
            self.complaints.append(said)

    def open(self, path: str) -> None:
        self.page.goto(urljoin(self.address, path))

    def log_in(self) -> None:
        self.page.locator("input[name=login]").fill(self.user.email)
        self.page.locator("input[name=password]").fill(PASSWORD)
        self.page.get_by_role("button", name="Sign In").click()

    def order(self) -> Order:
        """Press the button, and arrive at the order."""
        self.page.locator("button[name=step][value=order]:visible").last.click()
        self.page.wait_for_url(ORDER)
        return Order.objects.filter(user=self.user).latest("id")

    def pay(self, deed: str = "pay") -> Payment:
        """Through our page to the test gateway's, and back."""
        self.page.locator("form[action*='/pay/test/'] button").click()
        self.page.locator("a[rel=noreferrer]").click()
        self.page.locator(f"button[value={deed}]").click()
        self.page.wait_for_url(re.compile("/payment/"))
        return Payment.objects.latest("id")

    def callbacks_arrive(self) -> None:
        """All that the gateway owes, as soon as it would send them; what is paid is delivered."""
        SandboxCallback.objects.update(due_at=timezone.now() - timedelta(seconds=1))
        sandbox.send_callbacks()
        deliver_paid()

    def is_within_its_width(self) -> bool:
        return bool(self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


@pytest.fixture
def shop(live_server: Any, page: Page, settings: Any) -> Shop:
    need("chromium")
    settings.PUBLIC_URL = live_server.url
    make_server()
    make_method()
    return Shop(page, live_server.url, make_user("alice", language="en"))


def test_a_visitor_buys_a_plan_logs_in_pays_and_has_a_relay(shop: Shop) -> None:
    plan = priced_plan(30, 1990, sale_amount=1490)
    page = shop.page
    shop.open("/")
    expect(page.locator("del")).to_contain_text("CN¥19.90")
    page.get_by_role("link", name=f"Buy {plan.name}").click()
    shop.log_in()
    expect(page.get_by_role("heading", name=f"Buy {plan.name}")).to_be_visible()
    order = shop.order()
    assert order.total == 1490

    payment = shop.pay()
    expect(page.get_by_text("Waiting for the money")).to_be_visible()
    shop.callbacks_arrive()

    # Without a reload: the page itself learns that the money has come, and then that the days are there.
    page.wait_for_url(ORDER)
    expect(page.get_by_text("the days are on your relay")).to_be_visible()
    payment.refresh_from_db()
    assert payment.state == Payment.State.PAID
    lease = Lease.objects.get(user=shop.user)
    bring_up(lease.relay_group)
    page.get_by_role("link", name="Go to your dashboard").click()
    expect(page.get_by_text("30 days left").first).to_be_visible()
    with page.expect_download() as download:
        shop.open(f"/orders/{order.number}/")
        page.get_by_role("link", name="Receipt (PDF)").click()
    assert download.value.suggested_filename == f"receipt-{order.number}.pdf"
    assert shop.complaints == []


def test_codes_with_a_coupon_are_shown_and_copied(shop: Shop) -> None:
    plan = priced_plan(30, 1990)
    Coupon.objects.create(code="SPRING", percent=50)
    page = shop.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=shop.address)
    shop.open(f"/shop/{plan.code}/")
    shop.log_in()
    page.get_by_label("A serial number for somebody else").check()
    page.get_by_label("How many").fill("2")
    page.get_by_label("Coupon").fill("nothing")
    page.get_by_label("Coupon").blur()
    expect(page.locator("#coupon_code-errors")).to_contain_text("We do not know this coupon")
    page.get_by_label("Coupon").fill("spring")
    page.get_by_label("Coupon").blur()
    expect(page.locator("#coupon_code-errors")).to_have_text("")
    expect(page.locator("#quote .total").last).to_have_text("CN¥19.90")
    order = shop.order()
    shop.pay()
    shop.callbacks_arrive()
    page.wait_for_url(ORDER)
    page.get_by_role("button", name="Copy").first.click()
    expect(page.locator("#live")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == codes_of(order)[0]
    assert not Lease.objects.exists()
    assert shop.complaints == []


def test_an_order_is_cancelled_and_one_that_was_paid_wrongly_waits_for_a_person(shop: Shop) -> None:
    plan = priced_plan(30, 1990)
    page = shop.page
    shop.open(f"/shop/{plan.code}/")
    shop.log_in()
    order = shop.order()
    page.get_by_role("link", name="Cancel the order").click()
    page.get_by_role("button", name="Cancel the order").click()
    expect(page.get_by_text("This order was cancelled")).to_be_visible()
    order.refresh_from_db()
    assert order.state == Order.State.CANCELLED

    shop.open(f"/shop/{plan.code}/")
    shop.order()
    shop.pay("less")
    shop.callbacks_arrive()
    page.wait_for_url(ORDER)
    expect(page.get_by_text("CN¥9.95 has arrived, but the order costs CN¥19.90.")).to_be_visible()
    expect(page.get_by_text("Nothing is lost")).to_be_visible()
    assert not Lease.objects.exists()


def test_it_all_works_without_scripts(shop: Shop, browser: Any) -> None:
    plan = priced_plan(30, 1990)
    with browser.new_context(java_script_enabled=False, locale="en-US") as context:
        plain = Shop(context.new_page(), shop.address, shop.user)
        plain.open(f"/shop/{plan.code}/")
        plain.log_in()
        plain.page.get_by_label("How many").fill("2")
        plain.page.get_by_role("button", name="Show the price").click()
        expect(plain.page.locator("#quote .total").last).to_have_text("CN¥39.80")
        order = plain.order()
        assert order.total == 3980
        plain.pay()
        plain.callbacks_arrive()
        plain.open(f"/orders/{order.number}/")
        expect(plain.page.get_by_text("the days are on your relay")).to_be_visible()


@pytest.mark.parametrize("width", [390, 1000, 1280])
def test_no_page_scrolls_sideways(shop: Shop, width: int) -> None:
    plan = priced_plan(30, 1990)
    page = shop.page
    page.set_viewport_size({"width": width, "height": 900})
    shop.open(f"/shop/{plan.code}/?currency=CNY")
    shop.log_in()
    page.locator("input[value=gift]").check()
    order = shop.order()
    payment = shop.pay("quietly")
    addresses = ["/", "/shop/", f"/shop/{plan.code}/", "/orders/", f"/orders/{order.number}/"]
    addresses += [f"/orders/{order.number}/cancel/", f"/orders/{order.number}/payment/{payment.reference}/"]
    addresses.append(payment.redirect_url)
    for address in addresses:
        shop.open(address)
        assert shop.is_within_its_width(), address
    with time_machine.travel(timezone.now() + timedelta(minutes=1)):
        from billing.services.payments import ask_gateways

        ask_gateways()
    deliver_paid()
    shop.open(f"/orders/{order.number}/")
    expect(page.locator(".pill-ok").first).to_be_visible()
    assert shop.is_within_its_width()
