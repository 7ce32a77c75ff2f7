"""What resellers see: becoming one, their figures, links, settings, customers, commissions and settlements."""

from __future__ import annotations

import uuid
from datetime import date, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import translation

from accounts.models import User
from accounts.words import masked
from billing.models import Order
from billing.services import balance_of, refund_order
from billing.services.fulfilment import deliver
from derp_portal.lib.clock import now
from fleet.models import AclLog, Relay
from resellers import selectors, services
from resellers.charts import HEIGHT, last_months, month_chart
from resellers.models import CommissionLine, Level, Reseller, Settlement
from resellers.words import tail_of
from serials.models import Lease
from serials.services import activate
from serials.services.activation import How
from tests.billing.till import begin, call, make_method, order_of, priced_plan
from tests.conftest import make_user
from tests.resellers.desk import ACCOUNT, buy_serials, put_in_trade
from tests.resellers.trade import customer_of, make_reseller, sale
from tests.resellers.wholesaling import fill_balance, stock, wholesale_price
from tests.serials.shop import make_server, new_code_of

pytestmark = pytest.mark.django_db

NAMES = "home links settings payout customers commissions settlements stock buy top_up sale sales sales_import prices"
PAGES = [f"reseller_{name}" for name in NAMES.split()]


@pytest.fixture
def ritas(client: Client, rita: User) -> Client:
    """rita's browser, in English."""
    rita.language = "en"
    rita.save(update_fields=["language"])
    client.force_login(rita)
    return client


@pytest.fixture
def reseller(rita: User) -> Reseller:
    """rita earns 15 % of everything, at once."""
    return make_reseller(rita)


def text_of(browser: Client, address: str, **options: Any) -> str:
    response = browser.get(address, **options)
    assert response.status_code == 200, response.status_code
    return str(response.content.decode())


def queries_of(browser: Client, address: str) -> int:
    with CaptureQueriesContext(connection) as seen:
        assert browser.get(address).status_code == 200
    return len(seen)


# --- who may enter ------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_every_page_opens_in_both_languages(client: Client, rita: User, language: str) -> None:
    make_server()
    plan = priced_plan(30, 1990)
    trade = put_in_trade(rita, plan)
    wholesale_price(plan, 900, from_quantity=10)
    rita.language = language
    rita.save(update_fields=["language"])
    client.force_login(rita)
    addresses = [reverse(name) for name in PAGES]
    addresses += [reverse("reseller_settlement", args=[trade.settlement.pk]), "/r/link-rita/"]
    for address in addresses:
        response = client.get(address)
        assert response.status_code == 200, address
        assert b" style=" not in response.content, f"{address}: our policy forbids inline styles"
        assert ACCOUNT.encode() not in response.content
    assert client.get("/reseller/apply/").headers["Location"] == "/reseller/"
    translation.activate("en")


def test_the_pages_open_for_one_who_has_nothing_yet(ritas: Client, reseller: Reseller) -> None:
    for name in PAGES:
        text_of(ritas, reverse(name))
    assert reverse("reseller_home") in text_of(ritas, "/dashboard/")


@pytest.mark.parametrize("name", PAGES)
def test_neither_customers_nor_strangers_come_in(client: Client, reseller: Reseller, alice: User, name: str) -> None:
    assert client.get(reverse(name)).headers["Location"].startswith("/accounts/login/")
    client.force_login(alice)
    assert client.get(reverse(name)).status_code == 404
    assert reverse("reseller_home") not in text_of(client, "/dashboard/").replace("/reseller/apply/", "")


def test_a_settlement_does_not_exist_for_another_reseller(client: Client, rita: User, bob: User) -> None:
    make_server()
    trade = put_in_trade(rita, priced_plan(30))
    make_reseller(bob)
    client.force_login(bob)
    for name in ("reseller_settlement", "reseller_statement"):
        assert client.get(reverse(name, args=[trade.settlement.pk])).status_code == 404
    for name in PAGES:
        shown = text_of(client, reverse(name))
        for secret in (*trade.codes, *trade.orders, trade.customer.email, "walk-in of rita", "note of rita"):
            assert secret not in shown, (name, secret)


def test_one_who_is_suspended_still_reads_what_was_earned(ritas: Client, rita: User, root: User) -> None:
    make_server()
    trade = put_in_trade(rita, priced_plan(30))
    services.suspend(reseller_id=trade.reseller.pk, reason="asked to pause", actor=root)
    for address in ("settlements/", "commissions/", f"settlements/{trade.settlement.pk}/"):
        text_of(ritas, f"/reseller/{address}")
    assert ritas.get("/reseller/stock/").status_code == 404
    assert "asked to pause" in text_of(ritas, "/reseller/", follow=True)


# --- becoming one -------------------------------------------------------------------------------------


def test_one_applies_is_approved_and_has_a_home(client: Client, alice: User, root: User) -> None:
    client.force_login(alice)
    address = "/reseller/apply/"
    assert "Terms for resellers" in text_of(client, address)
    refused = client.post(address, {"application": "In my forum.", "code": "my-shop"})
    assert "Please accept the terms." in refused.content.decode()
    assert not Reseller.objects.exists()
    client.post(address, {"application": "In my forum.", "code": "My-Shop", "accepts_terms": "on"})
    reseller = Reseller.objects.get()
    assert (reseller.code, reseller.state, reseller.user) == ("my-shop", "applied", alice)
    assert "is being looked at" in text_of(client, "/reseller/", follow=True)
    services.reject(reseller_id=reseller.pk, reason="Please say more.", actor=root)
    assert "Please say more." in text_of(client, address)
    client.post(address, {"application": "In my forum, to friends.", "code": "my-shop", "accepts_terms": "on"})
    services.approve(reseller_id=reseller.pk, actor=root)
    client.force_login(User.objects.get(pk=alice.pk))
    assert "Paying customers" in text_of(client, "/reseller/")
    assert "/r/my-shop/" in text_of(client, "/reseller/links/")
    kinds = list(alice.notifications.order_by("id").values_list("kind", flat=True))
    assert kinds == ["reseller_rejected", "reseller_approved"]
    assert "Please say more." in alice.notifications.get(kind="reseller_rejected").body_text


def test_a_link_that_is_taken_is_said_beside_the_field(client: Client, reseller: Reseller, alice: User) -> None:
    client.force_login(alice)
    form = {"application": "In my forum.", "code": reseller.code, "accepts_terms": "on"}
    assert "This link is taken" in client.post("/reseller/apply/", form).content.decode()


def test_without_a_level_nobody_can_apply(client: Client, alice: User) -> None:
    Level.objects.update(is_default=False)
    client.force_login(alice)
    assert "We take no new resellers" in text_of(client, "/reseller/apply/")


# --- figures ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("clock")
def test_the_figures_add_up(ritas: Client, rita: User, root: User) -> None:
    make_server()
    plan = priced_plan(30, 10_000)
    trade = put_in_trade(rita, plan)
    order = sale(trade.customer, plan)
    services.accrue()
    fill_balance(trade.reseller, 5000)
    services.accrue()
    refund_order(order_id=order.pk, amount=5000, reason="asked", actor=root)
    services.accrue()
    overview = selectors.overview_of(trade.reseller)
    lines = CommissionLine.objects.filter(reseller=trade.reseller)
    assert overview.earnings.total == sum(lines.values_list("amount", flat=True)) == 1000 + 1500 - 750
    assert (overview.earnings.due, overview.earnings.waiting, overview.earnings.held) == (0, 1000, 750)
    assert overview.balance == balance_of(rita, "CNY") == 5000
    assert (overview.stock.unused, overview.stock.used, overview.stock.unsold) == (2, 1, 1)
    assert overview.margin == 500
    assert overview.profit == 500 + 1750
    assert (overview.clicks, overview.customers, overview.paying, overview.under_review) == (7, 1, 1, 1)
    assert overview.chart.bars[-1].margin == 500
    assert sum(bar.commission for bar in overview.chart.bars) == 1750
    shown = text_of(ritas, "/reseller/")
    for words in ("CN¥7.50", "CN¥10.00", "CN¥50.00", "CN¥22.50", "1 order waits"):
        assert words in shown


def test_a_settled_month_moves_from_due_to_paid(reseller: Reseller, root: User) -> None:
    sale(customer_of(reseller), priced_plan(30, 10_000))
    services.accrue()
    month = (now() - timedelta(days=40)).date().replace(day=1)
    settlement = Settlement.objects.create(
        reseller=reseller, month=month, currency="CNY", amount=700, payable=700, state="open"
    )
    assert selectors.earnings_of(reseller)["CNY"].waiting == 700
    Settlement.objects.update(state="paid")
    assert selectors.earnings_of(reseller)["CNY"].paid == 700
    Settlement.objects.update(state="carried")
    assert selectors.earnings_of(reseller)["CNY"].waiting == 700
    other = Settlement.objects.create(
        reseller=reseller, month=date(2001, 1, 1), currency="CNY", amount=0, carried_in=700, payable=700, state="open"
    )
    Settlement.objects.filter(pk=settlement.pk).update(carried_to=other)
    assert selectors.earnings_of(reseller)["CNY"].waiting == 700


def test_bars_stand_on_the_line_or_hang_from_it() -> None:
    months = last_months(date(2027, 3, 9), 12)
    assert (months[0], months[-1], len(months)) == (date(2026, 4, 1), date(2027, 3, 1), 12)
    chart = month_chart([(months[0], 10_000, 5_000), (months[1], -5_000, -10_000), (months[2], 4_000, -2_000)])
    assert (chart.top, chart.bottom, chart.zero_y) == (20_000, -20_000, HEIGHT / 2)
    first, second, third = chart.bars
    assert first.commission_piece.y + first.commission_piece.height == chart.zero_y
    assert first.margin_piece.y + first.margin_piece.height == first.commission_piece.y
    assert second.commission_piece.y == chart.zero_y
    assert second.margin_piece.y == second.commission_piece.y + second.commission_piece.height
    assert third.margin_piece.y == chart.zero_y
    assert month_chart([]).is_empty


def test_amounts_of_several_currencies_are_kept_apart(ritas: Client, reseller: Reseller) -> None:
    customer = customer_of(reseller)
    sale(customer, priced_plan(30, 10_000))
    order = order_of(customer, priced_plan(31, 2000, currency="USD"), currency="USD")
    call(begin(order, make_method("dollars", currency="USD")))
    deliver(order_id=order.pk)
    services.accrue()
    assert "CN¥15.00" in text_of(ritas, "/reseller/")
    shown = text_of(ritas, "/reseller/?currency=USD")
    assert "US$3.00" in shown or "$3.00" in shown


# --- links and settings -------------------------------------------------------------------------------


def test_the_link_has_a_copy_button_and_a_qr_code(ritas: Client, reseller: Reseller) -> None:
    shown = text_of(ritas, "/reseller/links/")
    assert "/r/link-rita/" in shown
    assert "data-copy-target" in shown
    assert 'src="data:image/svg+xml' in shown
    response = ritas.get("/reseller/links/qr.svg")
    assert response.headers["Content-Type"] == "image/svg+xml"
    assert response.content.startswith(b"<?xml")
    assert response.content.count(b"xmlns=") == 1
    assert "attachment" in response.headers["Content-Disposition"]


def test_the_link_and_its_text_can_be_changed(ritas: Client, reseller: Reseller, bob: User) -> None:
    make_reseller(bob)
    ritas.post("/reseller/links/", {"code": "New-Code", "landing_text": "Hello"})
    reseller.refresh_from_db()
    assert (reseller.code, reseller.landing_text) == ("new-code", "Hello")
    for code in ("link-bob", "no spaces", "x"):
        assert "errorlist" in (text := ritas.post("/reseller/links/", {"code": code}).content.decode()) or (
            "invalid-feedback" in text
        )
    reseller.refresh_from_db()
    assert reseller.code == "new-code"


def test_the_contact_can_be_changed_and_only_web_addresses_are_taken(ritas: Client, reseller: Reseller) -> None:
    ritas.post("/reseller/settings/", {"contact": "Rita, WeChat rita88", "renewal_url": "shop.example.com"})
    reseller.refresh_from_db()
    assert (reseller.contact, reseller.renewal_url) == ("Rita, WeChat rita88", "https://shop.example.com")
    for url in ("javascript:alert(1)", "ftp://example.com/"):
        ritas.post("/reseller/settings/", {"contact": "x", "renewal_url": url})
    reseller.refresh_from_db()
    assert reseller.contact == "Rita, WeChat rita88"


def test_the_account_is_asked_for_twice_and_never_shown_again(ritas: Client, reseller: Reseller) -> None:
    said = {"payout_kind": "bank", "payout_details": ACCOUNT}
    asked = ritas.post("/reseller/settings/payout/", said).content.decode()
    assert "Is this right?" in asked
    assert ACCOUNT in asked
    reseller.refresh_from_db()
    assert not reseller.payout_details
    corrected = ritas.post("/reseller/settings/payout/", said | {"change": "yes"}).content.decode()
    assert ACCOUNT in corrected
    ritas.post("/reseller/settings/payout/", said | {"confirm": "yes"})
    reseller.refresh_from_db()
    assert (reseller.payout_kind, reseller.payout_details) == ("bank", ACCOUNT)
    for address in ("/reseller/settings/", "/reseller/settings/payout/", "/reseller/settlements/", "/reseller/"):
        shown = text_of(ritas, address)
        assert ACCOUNT not in shown
        rest = shown.replace("••••5678", "")
        assert not any(part in rest for part in ("6222", "1234", "5678", "Somewhere"))
    assert "••••5678" in text_of(ritas, "/reseller/settings/")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("alfred@example.com", "al***@e***.com"),
        ("al@example.com", "a***@e***.com"),
        ("a@b.co.uk", "a***@b***.uk"),
        ("x@localhost", "x***@l***"),
        ("", "***@***"),
    ],
)
def test_addresses_are_masked(address: str, shown: str) -> None:
    assert masked(address) == shown


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        (None, ""),
        ("", ""),
        ("1234567", "••••"),
        ("6222 0000 99", "••••0099"),
        ("6222 0000 1234\n中国工商银行\n张三丰", "••••1234"),
        ("rita-shop 张三丰", "••••shop"),
    ],
)
def test_only_the_end_of_an_account_is_shown(secret: str | None, shown: str) -> None:
    assert tail_of(secret) == shown


# --- customers, commissions, settlements --------------------------------------------------------------


def test_customers_are_masked_and_counted(ritas: Client, reseller: Reseller) -> None:
    customer = customer_of(reseller, "caroline")
    for _time in range(2):
        sale(customer, priced_plan(30, 10_000))
    services.accrue()
    shown = text_of(ritas, "/reseller/customers/")
    assert "ca***@e***.com" in shown
    assert "caroline" not in shown
    assert "CN¥30.00" in shown
    assert selectors.customers_in_full(reseller).get().paid_orders == 2  # type: ignore[attr-defined]


def test_what_a_customer_buys_to_sell_on_is_no_customers_order(ritas: Client, reseller: Reseller) -> None:
    plan = priced_plan(30, 10_000)
    customer = customer_of(reseller)
    their_own = make_reseller(customer)
    stock(their_own, plan, 2)
    fill_balance(their_own, 5000)
    assert selectors.customers_in_full(reseller).get().paid_orders == 0  # type: ignore[attr-defined]
    assert selectors.count_customers(reseller) == (1, 0)
    assert (selectors.overview_of(reseller).customers, selectors.overview_of(reseller).paying) == (1, 0)
    sale(customer, plan)
    assert selectors.customers_in_full(reseller).get().paid_orders == 1  # type: ignore[attr-defined]
    assert selectors.overview_of(reseller).paying == 1


def refuse(user: User, relay: Relay, reason: str, *, days: int = 0) -> None:
    AclLog.objects.create(
        key=uuid.uuid4(),
        user=user,
        relay=relay,
        node_key="nodekey:" + "a" * 64,
        acl_version=1,
        is_allowed=False,
        reason=reason,
        created_at=now() - timedelta(days=days),
    )


def test_of_leases_from_ones_own_codes_one_sees_end_state_and_the_last_refusal(ritas: Client, rita: User) -> None:
    make_server()
    trade = put_in_trade(rita, priced_plan(30))
    relay = Relay.objects.get(group=trade.lease.relay_group)
    refuse(trade.tenant, relay, "removed", days=31)
    shown = text_of(ritas, "/reseller/customers/")
    assert "te***@e***.com" in shown
    assert "starting" in shown
    assert "removed" not in shown
    refuse(trade.tenant, relay, "not_listed", days=2)
    refuse(trade.tenant, relay, "full")
    shown = text_of(ritas, "/reseller/customers/")
    assert "no room for more devices" in shown
    assert "not listed" not in shown
    assert trade.tenant.username not in shown


def test_what_happens_at_another_lease_of_the_customer_is_not_theirs_to_see(ritas: Client, rita: User) -> None:
    make_server()
    plan = priced_plan(30)
    trade = put_in_trade(rita, plan)
    activate(user=trade.tenant, code=new_code_of(plan), how=How.NEW)
    other = Lease.objects.filter(user=trade.tenant).exclude(reseller_contact__reseller=trade.reseller).get()
    refuse(trade.tenant, Relay.objects.get(group=other.relay_group), "full")
    assert "no room for more devices" not in text_of(ritas, "/reseller/customers/")
    assert selectors.leases_sold_by(trade.reseller).count() == 1


def test_commissions_can_be_narrowed(ritas: Client, reseller: Reseller, root: User) -> None:
    customer = customer_of(reseller)
    kept, refunded = sale(customer, priced_plan(30, 10_000)), sale(customer, priced_plan(30, 10_000))
    services.accrue()
    refund_order(order_id=refunded.pk, amount=1000, reason="asked", actor=root)
    services.accrue()
    address = "/reseller/commissions/"
    assert text_of(ritas, address).count(kept.number) == 1
    assert kept.number not in text_of(ritas, f"{address}?search={refunded.number}")
    assert kept.number not in text_of(ritas, f"{address}?kind=reversed")
    month = CommissionLine.objects.latest("id").settle_month.isoformat()
    assert kept.number in text_of(ritas, f"{address}?month={month}")
    assert "−CN¥1.50" in text_of(ritas, address) or "-CN¥1.50" in text_of(ritas, address)


def test_a_settlement_says_what_it_is_made_of_and_how_far_it_is(ritas: Client, rita: User, root: User) -> None:
    make_server()
    trade = put_in_trade(rita, priced_plan(30, 10_000))
    address = f"/reseller/settlements/{trade.settlement.pk}/"
    shown = text_of(ritas, address)
    assert "A person looks at it" in shown
    assert "CN¥10.00" in shown
    assert Order.objects.get(user=trade.customer, commission_lines__isnull=False).number in shown
    services.approve_settlement(settlement_id=trade.settlement.pk, actor=root)
    assert "is approved" in text_of(ritas, address)
    services.reject_settlement(settlement_id=trade.settlement.pk, reason="the account is closed", actor=root)
    assert "Why: the account is closed" in text_of(ritas, address)
    later = Settlement.objects.create(
        reseller=trade.reseller,
        month=date(2001, 2, 1),
        currency="CNY",
        amount=0,
        carried_in=1000,
        payable=1000,
        state="paid",
        paid_at=now(),
        payout_reference="bank 7",
    )
    Settlement.objects.filter(pk=trade.settlement.pk).update(carried_to=later)
    assert "Carried into 2001-02" in text_of(ritas, address)
    shown = text_of(ritas, f"/reseller/settlements/{later.pk}/")
    assert "bank 7" in shown
    assert "Carried in from" in shown


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_the_statement_is_a_pdf(client: Client, rita: User, language: str) -> None:
    make_server()
    trade = put_in_trade(rita, priced_plan(30, 10_000))
    rita.language = language
    rita.save(update_fields=["language"])
    client.force_login(rita)
    response = client.get(f"/reseller/settlements/{trade.settlement.pk}/statement.pdf")
    assert response.content.startswith(b"%PDF-")
    assert response.headers["Content-Type"] == "application/pdf"
    assert f"statement-{trade.settlement.month:%Y-%m}-CNY.pdf" in response.headers["Content-Disposition"]
    translation.activate("en")


# --- cost ---------------------------------------------------------------------------------------------


def grow(reseller: Reseller, number: int) -> None:
    """One more of everything a page lists."""
    customer = customer_of(reseller, f"customer{number}")
    sale(customer, priced_plan(30, 10_000))
    services.accrue()
    Settlement.objects.create(
        reseller=reseller, month=date(2000 + number, 1, 1), currency="CNY", amount=1, payable=1, state="open"
    )


@pytest.mark.parametrize("page", ["", "customers/", "commissions/", "settlements/", "settlements/{pk}/"])
def test_a_page_costs_the_same_however_much_is_on_it(ritas: Client, rita: User, page: str) -> None:
    make_server()
    trade = put_in_trade(rita, priced_plan(30, 10_000))
    address = "/reseller/" + page.format(pk=trade.settlement.pk)
    ritas.get(address)
    before = queries_of(ritas, address)
    for number in range(3):
        grow(trade.reseller, number)
        seller_lease(trade.reseller, number)
    assert queries_of(ritas, address) <= before
    assert before < 30


def seller_lease(reseller: Reseller, number: int) -> None:
    """One more lease from a code of the reseller's."""
    [serial] = buy_serials(reseller, priced_plan(30, 10_000), 1)
    activate(user=make_user(f"tenant{number}"), code=serial.code)
    services.note_lease_contacts()


def test_mails_say_what_a_month_came_to_and_what_became_of_it(rita: User, root: User) -> None:
    make_server()
    rita.language = "en"
    rita.save(update_fields=["language"])
    trade = put_in_trade(rita, priced_plan(30, 10_000))
    services.send_statements()
    settlement = trade.settlement
    services.approve_settlement(settlement_id=settlement.pk, actor=root)
    services.reject_settlement(settlement_id=settlement.pk, reason="the account is closed", actor=root)
    Settlement.objects.update(state="approved")
    services.pay_settlement(settlement_id=settlement.pk, reference="bank 7", actor=root)
    bodies = {mail.kind: mail.body_text for mail in rita.notifications.filter(kind__startswith="settlement")}
    assert "Payable: CN¥10.00" in bodies["settlement"]
    assert "Carried in" not in bodies["settlement"]
    assert "Why: the account is closed" in bodies["settlement_rejected"]
    assert "Reference of the payment: bank 7" in bodies["settlement_paid"]
    for body in bodies.values():
        assert f"/reseller/settlements/{settlement.pk}/" in body
        assert "because you are a reseller here" in body
