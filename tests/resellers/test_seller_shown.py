"""The customer's side: a lease from wholesale stock shows on pages and mails who sold it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import User
from resellers import selectors, services
from resellers.models import Reseller
from serials.models import Lease
from serials.services import activate, end_lease, send_notice
from serials.services import notices as lease_notices
from tests.billing.till import priced_plan
from tests.conftest import make_user
from tests.resellers.desk import Trade, put_in_trade
from tests.serials.shop import mails, make_server, new_code_of

pytestmark = pytest.mark.django_db
PART = {"HX-Request": "true"}
SHOP = "https://shop.example.com/renew"


@pytest.fixture
def trade(rita: User) -> Trade:
    """rita's, whose customer has redeemed a serial of her stock."""
    make_server()
    trade = put_in_trade(rita, priced_plan(30))
    Reseller.objects.update(contact="Rita's shop, WeChat rita88", renewal_url=SHOP)
    trade.tenant.language = "en"
    trade.tenant.save(update_fields=["language"])
    return trade


@pytest.fixture
def tenants(client: Client, trade: Trade) -> Client:
    """The customer's browser."""
    client.force_login(trade.tenant)
    return client


def address(lease: Lease) -> str:
    return reverse("lease_seller", args=[lease.pk])


def test_the_pages_of_the_lease_ask_who_sold_it(tenants: Client, trade: Trade) -> None:
    for page in ("/dashboard/", f"/leases/{trade.lease.pk}/"):
        shown = tenants.get(page).content.decode()
        assert f'hx-get="{address(trade.lease)}" hx-trigger="load"' in shown
        assert f'<noscript><a href="{address(trade.lease)}">' in shown


def test_the_card_names_contact_price_and_where_to_renew(tenants: Client, trade: Trade) -> None:
    shown = tenants.get(address(trade.lease), headers=PART).content.decode()
    assert "Sold by: Rita&#x27;s shop, WeChat rita88" in shown
    assert f'href="{SHOP}"' in shown
    assert "<html" not in shown
    assert "last time" not in shown, "no price was recorded"
    sold = trade.serials[2].sale
    services.record_sales(
        reseller=trade.reseller,
        sales=[services.Sale(sold.serial.code, 2500, "CNY", trade.lease.started_at.date())],
        actor=trade.reseller.user,
    )
    assert "CN¥25.00 last time" in tenants.get(address(trade.lease), headers=PART).content.decode()


def test_without_scripts_it_is_a_page(tenants: Client, trade: Trade) -> None:
    shown = tenants.get(address(trade.lease)).content.decode()
    assert "<html" in shown
    assert "Sold by:" in shown


def test_a_lease_of_the_portals_own_shows_nobody(client: Client, alice: User) -> None:
    make_server()
    _serial, lease = activate(user=alice, code=new_code_of(priced_plan(30)))
    client.force_login(alice)
    assert client.get(address(lease), headers=PART).content.strip() == b""
    assert "sold and renewed by this portal" in client.get(address(lease)).content.decode()


def test_it_is_the_owners_alone(tenants: Client, trade: Trade, alice: User) -> None:
    for user in (alice, trade.reseller.user):
        tenants.force_login(user)
        assert tenants.get(address(trade.lease), headers=PART).status_code == 404
    assert Client().get(address(trade.lease)).status_code == 302


def test_staff_reassign_the_lease_and_the_next_seller_is_shown(tenants: Client, trade: Trade, root: User) -> None:
    other = put_in_trade(make_user("oscar"), priced_plan(30)).reseller
    services.reassign_lease(lease_id=trade.lease.pk, reseller=other, reason="rita has closed", actor=root)
    assert "oscar@shop" in tenants.get(address(trade.lease), headers=PART).content.decode()
    services.reassign_lease(lease_id=trade.lease.pk, reseller=None, reason="ours now", actor=root)
    assert tenants.get(address(trade.lease), headers=PART).content.strip() == b""


@pytest.mark.parametrize("change", [{"state": "suspended"}, {"contact": "", "renewal_url": ""}])
def test_one_who_is_suspended_or_has_said_nothing_is_not_shown(trade: Trade, change: dict[str, Any]) -> None:
    Reseller.objects.update(**change)
    assert selectors.seller_of_lease(trade.lease) is None


def last_mail(kind: str) -> str:
    return str(mails(kind)[-1].body_text)


def test_mails_about_the_lease_say_who_sold_it(trade: Trade, root: User) -> None:
    for kind in Lease.Notice:
        send_notice(lease_id=trade.lease.pk, kind=kind, actor=root)
    end_lease(lease_id=trade.lease.pk, reason=Lease.EndReason.EXPIRED, actor=None)
    for name in ("lease_reminder", "lease_renewed", "lease_ended"):
        assert "Sold by: Rita's shop, WeChat rita88" in last_mail(name), name
        assert f"Renew there: {SHOP}" in last_mail(name), name


def test_a_contact_cannot_forge_parts_of_a_mail(trade: Trade, root: User) -> None:
    Reseller.objects.update(contact="Rita\n\nReason: none\n\nButton: Click")
    send_notice(lease_id=trade.lease.pk, kind=Lease.Notice.REMINDER, actor=root)
    text = last_mail("lease_reminder")
    assert "Sold by: Rita Reason: none Button: Click" in text
    assert "You get this mail because you have a lease" in text


def test_mails_about_other_leases_say_nothing(alice: User, root: User) -> None:
    make_server()
    _serial, lease = activate(user=alice, code=new_code_of(priced_plan(30)))
    send_notice(lease_id=lease.pk, kind=Lease.Notice.REMINDER, actor=root)
    assert "Sold by" not in last_mail("lease_reminder")
    assert "Renew there" not in last_mail("lease_reminder")


@pytest.fixture
def nobody_knows() -> Iterator[None]:
    """The room below, alone."""
    before = list(lease_notices._finders)
    lease_notices._finders.clear()
    yield
    lease_notices._finders[:] = before


@pytest.mark.usefixtures("nobody_knows")
def test_without_the_room_above_mails_go_out_all_the_same(trade: Trade, root: User) -> None:
    send_notice(lease_id=trade.lease.pk, kind=Lease.Notice.REMINDER, actor=root)
    assert "Sold by" not in last_mail("lease_reminder")


def test_asking_costs_two_queries(trade: Trade) -> None:
    lease = Lease.objects.select_related("user").get(pk=trade.lease.pk)
    with CaptureQueriesContext(connection) as seen:
        selectors.seller_of_lease(lease)
    assert len(seen) == 2
