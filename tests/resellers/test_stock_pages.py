"""Stock, buying, giving back, sales and prices, as resellers see them."""

from __future__ import annotations

import csv
import io
from datetime import date
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.models import AuditEntry, User
from billing.models import Order, Price, SoldSerial
from billing.services import balance_of, set_wholesale_level
from derp_portal.lib.spreadsheets import BYTE_ORDER_MARK
from resellers import selectors
from resellers.forms import decoded
from resellers.models import Rate, Resale, Reseller
from resellers.services import buy_stock, stock_of
from serials.codes import grouped
from serials.models import Plan, SerialNumber
from serials.services import activate
from tests.billing.till import priced_plan
from tests.conftest import make_user
from tests.resellers.trade import make_level, make_reseller
from tests.resellers.wholesaling import fill_balance, settled, stock, wholesale_price
from tests.serials.shop import make_server

pytestmark = pytest.mark.django_db


@pytest.fixture
def reseller(rita: User) -> Reseller:
    """rita, who may give serials back for 14 days."""
    rita.language = "en"
    rita.save(update_fields=["language"])
    return make_reseller(rita, make_level(recall_days=14))


@pytest.fixture
def ritas(client: Client, reseller: Reseller) -> Client:
    """rita's browser."""
    client.force_login(reseller.user)
    return client


@pytest.fixture
def plan(db: None) -> Plan:
    """Thirty days, CN¥19.90 in the shop."""
    return priced_plan(30, 1990)


def text_of(browser: Client, address: str, **options: Any) -> str:
    response = browser.get(address, **options)
    assert response.status_code == 200, response.status_code
    return str(response.content.decode())


def posted(browser: Client, address: str, data: dict[str, Any]) -> str:
    response = browser.post(address, data, follow=True)
    return str(response.content.decode())


# --- the list -----------------------------------------------------------------------------------------


def test_the_stock_can_be_narrowed_and_searched(ritas: Client, reseller: Reseller, plan: Plan) -> None:
    make_server()
    first, second, third = stock(reseller, plan, 3)
    activate(user=make_user("dora"), code=second.serial.code)
    # A name of some length: the search forgives "li" for "11", which stands in some codes.
    Resale.objects.create(sold=third, price=1500, sold_on=date(2027, 1, 1), customer="Mr Liang Xiaoming")
    shown = text_of(ritas, "/reseller/stock/")
    for sold in (first, second, third):
        assert grouped(sold.serial.code) in shown

    def found(query: str) -> list[str]:
        shown = text_of(ritas, f"/reseller/stock/?{query}")
        return [
            name
            for name, sold in (("first", first), ("second", second), ("third", third))
            if grouped(sold.serial.code) in shown
        ]

    assert found("state=used") == ["second"]
    assert found("state=unused&sale=no") == ["first"]
    assert found("sale=yes") == ["third"]
    assert found("search=liang+xiaoming") == ["third"]
    assert found(f"search={grouped(first.serial.code).lower()}") == ["first"]
    assert found(f"order={first.line.order.number}&plan={plan.code}") == ["first", "second", "third"]
    assert found("plan=nothing") == ["first", "second", "third"], "what is no choice narrows nothing"


def test_every_serial_is_in_one_state(reseller: Reseller, plan: Plan) -> None:
    make_server()
    sold = stock(reseller, plan, 5)
    for number in (0, 1):
        activate(user=make_user(f"dora{number}"), code=sold[number].serial.code)
    SerialNumber.objects.filter(pk__in=[sold[1].serial_id, sold[2].serial_id]).update(status="expired")
    SerialNumber.objects.filter(pk=sold[3].serial_id).update(status="revoked")
    count = selectors.stock_count(reseller)
    assert (count.used, count.over, count.expired, count.back, count.unused) == (1, 1, 1, 1, 1)
    states = [selectors.stock_state(one) for one in stock_of(reseller).order_by("id")]
    assert states == ["used", "over", "expired", "back", "unused"]


def test_another_resellers_stock_is_nowhere(client: Client, reseller: Reseller, plan: Plan, bob: User) -> None:
    [sold] = stock(reseller, plan)
    make_reseller(bob)
    bob.language = "en"
    bob.save(update_fields=["language"])
    client.force_login(bob)
    code = sold.serial.code
    assert grouped(code) not in text_of(client, f"/reseller/stock/?search={code}")
    assert grouped(code) not in text_of(client, f"/reseller/sales/new/?code={code}")
    assert grouped(code).encode() not in b"".join(client.get("/reseller/stock/export.csv").streaming_content)  # type: ignore[attr-defined]
    assert "is not in your stock" in posted(
        client,
        "/reseller/sales/new/",
        {"code": code, "price": "1", "currency": "CNY", "sold_on": "2020-01-01"},
    )
    for data in ({"serial": sold.serial_id}, {"serial": sold.serial_id, "confirm": "yes"}, {"all": "yes"}):
        client.post("/reseller/stock/recall/", data)
    sold.serial.refresh_from_db()
    assert sold.serial.status == "unused"
    assert not Resale.objects.exists()


def test_the_export_has_what_the_list_has_and_no_formula(ritas: Client, reseller: Reseller, plan: Plan) -> None:
    first, second = stock(reseller, plan, 2)
    Resale.objects.create(sold=first, price=1500, sold_on=date(2027, 1, 1), customer="=SUM(A1)", note="+1")
    response = ritas.get("/reseller/stock/export.csv")
    text = b"".join(response.streaming_content).decode()  # type: ignore[attr-defined]
    assert text.startswith(BYTE_ORDER_MARK)
    assert AuditEntry.objects.get(event="stock.exported").data == {"count": 2}
    header, *rows = list(csv.reader(io.StringIO(text.removeprefix(BYTE_ORDER_MARK))))
    assert len(header) == 12
    by_code = {row[0]: row for row in rows}
    assert set(by_code) == {grouped(first.serial.code), grouped(second.serial.code)}
    row = by_code[grouped(first.serial.code)]
    assert row[5:] == ["10.00", "CNY", "2027-01-01", "15.00", "CNY", "'=SUM(A1)", "'+1"]
    narrowed = b"".join(ritas.get("/reseller/stock/export.csv?sale=no").streaming_content).decode()  # type: ignore[attr-defined]
    assert grouped(first.serial.code) not in narrowed
    assert "no-store" in response.headers["Cache-Control"]


# --- giving back --------------------------------------------------------------------------------------


def test_giving_back_asks_first_and_says_what_comes_back(ritas: Client, reseller: Reseller, plan: Plan) -> None:
    fill_balance(reseller, 5000)
    first, second = stock(reseller, plan, 2, from_balance=True)
    assert f'value="{first.serial_id}"' in text_of(ritas, "/reseller/stock/")
    asked = posted(ritas, "/reseller/stock/recall/", {"serial": [first.serial_id]})
    assert "Give back 1 serial number?" in asked
    assert "CN¥10.00" in asked
    assert "into the balance" in asked
    first.serial.refresh_from_db()
    assert first.serial.status == "unused"
    done = posted(ritas, "/reseller/stock/recall/", {"serial": [first.serial_id], "confirm": "yes"})
    assert "CN¥10.00 comes back to you" in done
    first.serial.refresh_from_db()
    second.serial.refresh_from_db()
    assert (first.serial.status, second.serial.status) == ("revoked", "unused")
    assert balance_of(reseller.user, "CNY") == 4000


def test_why_less_comes_back_is_said_where_less_does(ritas: Client, reseller: Reseller, plan: Plan) -> None:
    wholesale_price(plan, 1500)
    wholesale_price(plan, 1000, from_quantity=3)
    order = buy_stock(reseller=reseller, plan=plan, quantity=3, currency="CNY", from_balance=False)
    settled(order)
    ids = list(SoldSerial.objects.filter(line__order=order).values_list("serial_id", flat=True))
    rule = "costs what so few would have cost, so less comes back"
    some = posted(ritas, "/reseller/stock/recall/", {"serial": ids[:1]})
    assert "Nothing that can" not in some
    assert rule in some
    assert rule not in posted(ritas, "/reseller/stock/recall/", {"serial": ids})


@pytest.mark.parametrize("digits", [19, 25, 5000])
def test_a_number_that_no_serial_has_is_of_none(ritas: Client, digits: int) -> None:
    number = "9" * digits
    assert "Nothing that can be given back was marked" in posted(ritas, "/reseller/stock/recall/", {"serial": [number]})
    assert ritas.get(f"/reseller/sales/{number}/remove/").status_code == 404


def test_all_of_a_list_can_be_given_back(ritas: Client, reseller: Reseller, plan: Plan) -> None:
    sold = stock(reseller, plan, 3)
    other = stock(reseller, plan, 2)
    Resale.objects.create(sold=sold[0], price=1500, sold_on=date(2027, 1, 1))
    query = f"order={sold[0].line.order.number}"
    assert "Give back all 2 of this list" in text_of(ritas, f"/reseller/stock/?{query}")
    asked = posted(ritas, f"/reseller/stock/recall/?{query}", {"all": "yes"})
    assert "Give back 2 serial numbers?" in asked
    assert f'value="{other[0].serial_id}"' not in asked


def test_what_can_not_be_given_back_is_left_out_and_said(ritas: Client, reseller: Reseller, plan: Plan) -> None:
    make_server()
    first, second = stock(reseller, plan, 2)
    activate(user=make_user("dora"), code=second.serial.code)
    assert f'value="{second.serial_id}"' not in text_of(ritas, "/reseller/stock/")
    marked = {"serial": [first.serial_id, second.serial_id]}
    assert "cannot be given back any more and is left out" in posted(ritas, "/reseller/stock/recall/", marked)
    refused = posted(ritas, "/reseller/stock/recall/", marked | {"confirm": "yes"})
    assert "Nothing was changed" in refused
    first.serial.refresh_from_db()
    assert first.serial.status == "unused"
    assert "Nothing that can be given back" in posted(ritas, "/reseller/stock/recall/", {"serial": ["x", "99"]})
    assert ritas.get("/reseller/stock/recall/").headers["Location"] == "/reseller/stock/"


# --- buying -------------------------------------------------------------------------------------------


def wish(plan: Plan, **more: Any) -> dict[str, Any]:
    said = {"plan": plan.code, "quantity": 10, "currency": "CNY", "pay": "order", "client_key": "k", "step": "order"}
    return said | more


def test_the_price_is_shown_before_anything_is_ordered(ritas: Client, reseller: Reseller, plan: Plan) -> None:
    wholesale_price(plan, 1000)
    wholesale_price(plan, 800, from_quantity=10)
    shown = text_of(ritas, f"/reseller/stock/buy/?plan={plan.code}")
    assert "from 10: CN¥8.00" in shown
    priced = ritas.post("/reseller/stock/buy/", wish(plan, step="price"), headers={"HX-Request": "true"})
    assert "CN¥80.00" in priced.content.decode()
    assert "<html" not in priced.content.decode()
    assert "Nothing has been ordered yet" in posted(ritas, "/reseller/stock/buy/", wish(plan, total=7777))
    assert not Order.objects.exists()
    response = ritas.post("/reseller/stock/buy/", wish(plan, total=8000))
    order = Order.objects.get()
    assert (order.total, order.state, response.headers["Location"]) == (8000, "pending", f"/orders/{order.number}/")
    again = ritas.post("/reseller/stock/buy/", wish(plan, total=8000))
    assert again.headers["Location"] == f"/orders/{order.number}/"
    assert Order.objects.count() == 1


def test_from_the_balance_it_is_paid_at_once(ritas: Client, reseller: Reseller, plan: Plan) -> None:
    wholesale_price(plan, 1000)
    refused = posted(ritas, "/reseller/stock/buy/", wish(plan, total=10_000, pay="balance"))
    assert "Your balance is too small" in refused
    assert not Order.objects.exists()
    fill_balance(reseller, 10_000)
    assert "CN¥100.00" in text_of(ritas, "/reseller/stock/buy/")
    ritas.post("/reseller/stock/buy/", wish(plan, total=10_000, pay="balance", client_key="other"))
    assert Order.objects.latest("id").is_from_balance
    assert balance_of(reseller.user, "CNY") == 0


@pytest.mark.parametrize("quantity", ["0", "", "x", "10001"])
def test_a_quantity_that_is_none_is_said_beside_the_field(
    ritas: Client, reseller: Reseller, plan: Plan, quantity: str
) -> None:
    wholesale_price(plan, 1000)
    assert "errorlist" in posted(ritas, "/reseller/stock/buy/", wish(plan, quantity=quantity))
    assert not Order.objects.exists()


def test_too_few_for_any_price_is_said_too(ritas: Client, reseller: Reseller, plan: Plan) -> None:
    wholesale_price(plan, 800, from_quantity=10)
    assert "There is no wholesale price for this quantity" in posted(
        ritas, "/reseller/stock/buy/", wish(plan, quantity=9)
    )


def test_a_balance_is_an_order_like_any_other(ritas: Client, reseller: Reseller) -> None:
    response = ritas.post("/reseller/balance/", {"amount": "250.50", "currency": "CNY", "client_key": "k"})
    order = Order.objects.get()
    assert (order.total, response.headers["Location"]) == (25_050, f"/orders/{order.number}/")
    ritas.post("/reseller/balance/", {"amount": "250.50", "currency": "CNY", "client_key": "k"})
    assert Order.objects.count() == 1


@pytest.mark.parametrize("amount", ["", "-5", "1.005", "0.50", "a lot", "99999999"])
def test_an_amount_that_is_none_is_refused(ritas: Client, reseller: Reseller, amount: str) -> None:
    shown = posted(ritas, "/reseller/balance/", {"amount": amount, "currency": "CNY"})
    assert "is-invalid" in shown
    assert not Order.objects.exists()


def test_the_price_list_is_of_ones_own_level(ritas: Client, reseller: Reseller, plan: Plan) -> None:
    wholesale_price(plan, 1000)
    wholesale_price(plan, 700, level="gold")
    shown = text_of(ritas, "/reseller/prices/")
    for words in ("CN¥10.00", "CN¥19.90", "15 %"):
        assert words in shown
    assert "CN¥7.00" not in shown
    set_wholesale_level(user_id=reseller.user_id, level="gold")
    Rate.objects.create(level=reseller.level, plan=plan, basis_points=2250)
    shown = text_of(ritas, "/reseller/prices/")
    assert "CN¥7.00" in shown
    assert "22.5 %" in shown
    Price.objects.filter(plan=plan).delete()
    assert "CN¥7.00" in text_of(ritas, "/reseller/prices/")


# --- sales --------------------------------------------------------------------------------------------


def test_a_sale_is_recorded_by_hand_and_corrected(ritas: Client, reseller: Reseller, plan: Plan) -> None:
    [sold] = stock(reseller, plan)
    address = f"/reseller/sales/new/?code={sold.serial.code}"
    assert grouped(sold.serial.code) in text_of(ritas, address)
    said = {"code": grouped(sold.serial.code).lower(), "currency": "CNY", "sold_on": "2026-01-31", "customer": "Mr Li"}
    ritas.post(address, said | {"price": "¥25.00"})
    shown = text_of(ritas, "/reseller/sales/")
    for words in ("Mr Li", "CN¥25.00", "CN¥15.00", "2026-01", "1 of 1"):
        assert words in shown
    assert "25.00" in text_of(ritas, address)
    ritas.post(address, said | {"price": "20"})
    assert Resale.objects.get().price == 2000


@pytest.mark.parametrize(
    ("said", "words"),
    [({"price": "x"}, "Write an amount"), ({"price": "-1"}, "below zero"), ({"sold_on": "2999-01-01"}, "not come yet")],
)
def test_what_is_wrong_with_a_sale_is_said(
    ritas: Client, reseller: Reseller, plan: Plan, said: dict[str, str], words: str
) -> None:
    [sold] = stock(reseller, plan)
    form = {"code": sold.serial.code, "price": "1", "currency": "CNY", "sold_on": "2020-01-01"}
    assert words in posted(ritas, "/reseller/sales/new/", form | said)
    assert not Resale.objects.exists()


def test_a_sale_that_was_none_is_removed_once_it_is_confirmed(
    ritas: Client, reseller: Reseller, plan: Plan, bob: User
) -> None:
    first, second = stock(reseller, plan, 2)
    for sold in (first, second):
        Resale.objects.create(sold=sold, price=2500, sold_on=date(2026, 1, 31))
    address = f"/reseller/sales/{first.serial_id}/remove/"
    assert address in text_of(ritas, f"/reseller/sales/new/?code={first.serial.code}")
    asked = text_of(ritas, address)
    assert grouped(first.serial.code) in asked
    assert "CN¥25.00" in asked
    assert Resale.objects.count() == 2
    assert "The sale is removed" in posted(ritas, address, {})
    assert Resale.objects.get().sold == second
    entry = AuditEntry.objects.get(event="stock.sale_removed")
    assert (entry.actor_label, entry.data["price"], entry.data["sold_on"]) == ("rita", 2500, "2026-01-31")
    assert "No sale of this serial number is recorded" in posted(ritas, address, {})
    assert address not in text_of(ritas, f"/reseller/sales/new/?code={first.serial.code}")
    make_reseller(bob)
    ritas.force_login(bob)
    address = f"/reseller/sales/{second.serial_id}/remove/"
    assert (ritas.get(address).status_code, ritas.post(address).status_code) == (404, 404)
    assert Resale.objects.exists()


def test_sales_come_from_a_pasted_table(ritas: Client, reseller: Reseller, plan: Plan) -> None:
    first, second = stock(reseller, plan, 2)
    text = f"code,price,customer,date\n{grouped(first.serial.code)},25.00,Li,2026-01-31\n{second.serial.code},20\n"
    assert "2 sales are recorded" in posted(ritas, "/reseller/sales/import/", {"text": text, "currency": "CNY"})
    assert sorted(Resale.objects.values_list("price", flat=True)) == [2000, 2500]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
def test_sales_come_from_a_file_however_it_was_saved(
    ritas: Client, reseller: Reseller, plan: Plan, encoding: str
) -> None:
    [sold] = stock(reseller, plan)
    file = SimpleUploadedFile("sales.csv", f"序列号,价格\n{sold.serial.code},25,李先生\n".encode(encoding))
    posted(ritas, "/reseller/sales/import/", {"file": file, "currency": "CNY"})
    assert Resale.objects.get().customer == "李先生"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{code},25\n{code},cheap\n", "Line 2"),
        ("{code},25,Li,yesterday\n", "Line 1"),
        ("{code},-1\n", "Line 1"),
        ("ABCD,25\n", "ABCD"),
        ("code,price\n", "there is no sale in it"),
        ("", "Choose a file"),
    ],
)
def test_a_table_with_one_wrong_line_records_nothing_and_names_it(
    ritas: Client, reseller: Reseller, plan: Plan, text: str, words: str
) -> None:
    [sold] = stock(reseller, plan)
    said = posted(ritas, "/reseller/sales/import/", {"text": text.format(code=sold.serial.code), "currency": "CNY"})
    assert words in said
    assert not Resale.objects.exists()


def test_the_wrong_line_is_shown(ritas: Client, reseller: Reseller, plan: Plan) -> None:
    [sold] = stock(reseller, plan)
    text = f"{sold.serial.code},25\nABCD,cheap"
    assert 'id="wrong-line">ABCD,cheap<' in posted(
        ritas, "/reseller/sales/import/", {"text": text, "currency": "CNY"}
    ).replace(' aria-label="This is the line"', "")


def test_a_file_that_is_no_table_breaks_nothing(ritas: Client, reseller: Reseller) -> None:
    for raw in (b"\x00\xff\xfe\x00", b'"' + b"a" * 200_000):
        file = SimpleUploadedFile("sales.csv", raw)
        response = ritas.post("/reseller/sales/import/", {"file": file, "currency": "CNY"})
        assert response.status_code == 200
    big = SimpleUploadedFile("sales.csv", b"a" * (1024 * 1024 + 1))
    assert "larger than 1 MB" in posted(ritas, "/reseller/sales/import/", {"file": big, "currency": "CNY"})
    assert decoded(b"\x80\xff") != ""


def test_margins_by_month_and_order(reseller: Reseller, plan: Plan) -> None:
    first, second, third = stock(reseller, plan, 3)
    [other] = stock(reseller, plan, price=500)
    Resale.objects.create(sold=first, price=1500, sold_on=date(2026, 1, 31))
    Resale.objects.create(sold=second, price=900, sold_on=date(2026, 2, 1))
    Resale.objects.create(sold=third, price=300, currency="USD", sold_on=date(2026, 2, 2))
    Resale.objects.create(sold=other, price=2000, sold_on=date(2026, 2, 28))
    months = selectors.sales_by_month(reseller)
    assert {f"{month:%Y-%m}": (sums.count, sums.margin) for month, sums in months.items()} == {
        "2026-02": (3, {"CNY": 2900 - 2500, "USD": 300}),
        "2026-01": (1, {"CNY": 500}),
    }
    latest, earlier = selectors.batches_of(reseller, most=5)
    assert (latest.bought, latest.sold, latest.sums.margin) == (1, 1, {"CNY": 1500})
    assert (earlier.bought, earlier.sold, earlier.sums.margin) == (3, 3, {"CNY": -600, "USD": 300})
    SoldSerial.objects.filter(pk=other.pk).update(taken_back_at=first.line.order.paid_at)
    months = selectors.sales_by_month(reseller)
    assert sum(sums.count for sums in months.values()) == 3, "of what was given back neither price nor cost counts"


# --- cost ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["stock/", "sales/", "stock/buy/", "prices/", "stock/export.csv"])
def test_a_page_costs_the_same_however_much_is_on_it(ritas: Client, reseller: Reseller, plan: Plan, page: str) -> None:
    def look() -> int:
        with CaptureQueriesContext(connection) as seen:
            response = ritas.get(f"/reseller/{page}")
            b"".join(response)  # A streamed answer asks while it is read.
        return len(seen)

    def grow(number: int) -> None:
        [sold] = stock(reseller, priced_plan(30 + number, 1990))
        Resale.objects.create(sold=sold, price=1500, sold_on=date(2026, 1, 31))
        stock(reseller, plan)

    grow(0)
    look()
    before = look()
    for number in range(1, 4):
        grow(number)
    assert look() == before
    assert before < 25
