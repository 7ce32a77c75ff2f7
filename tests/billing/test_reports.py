"""A month's report: what it says, that it opens in every program, and that closing a month freezes it."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from io import BytesIO, StringIO
from typing import Any
from zoneinfo import ZoneInfo

import openpyxl
import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import translation
from pytest_django.fixtures import Settings

from accounts.models import AuditEntry, User
from billing.finance.exports import file_name, to_csv, to_pdf, to_xlsx
from billing.finance.months import close_month, earliest_open_month
from billing.finance.reports import make_report, report_of
from billing.finance.roll_up import roll_up_days
from billing.models import ClosedMonth, Order, Posting
from billing.paper import receipt_pdf
from derp_portal.lib.errors import PortalError
from serials.models import Plan
from tests.billing.bookkeeping import (
    Kind,
    Line,
    at,
    give_back,
    method,
    place,
    plan,
    return_transfer,
    sell,
    shop,
    take_in,
)
from tests.parts import need

pytestmark = pytest.mark.django_db
BERLIN = ZoneInfo("Europe/Berlin")
MARCH, APRIL = date(2027, 3, 1), date(2027, 4, 1)
SOON_AFTER = datetime(2027, 4, 1, 1, 0, tzinfo=BERLIN)


def moment(month: int, day: int, hour: int = 12) -> datetime:
    return datetime(2027, month, day, hour, tzinfo=BERLIN)


@pytest.fixture(autouse=True)
def clock(settings: Settings) -> Iterator[time_machine.Traveller]:
    settings.TIME_ZONE = "Europe/Berlin"
    with time_machine.travel(SOON_AFTER, tick=False) as traveller:
        yield traveller


@pytest.fixture
def history(alice: User, bob: User) -> Order:
    """February and March: two currencies, an outside shop, refunds, money that was held and returned."""
    month = Plan.objects.create(code="month", name="=Month", name_zh="月付", days=30)
    with at(moment(2, 27)):
        old = sell(Line(5000, month), user=alice, fee=30)
    with at(moment(3, 5)):
        first = sell(Line(1990, month), Line(500), user=bob, fee=12)
        give_back(old, 2000)
    with at(moment(3, 28, 23)):
        sell(Line(1500, month, Kind.OUTSIDE), channel=shop(), fee=75)
        sell(
            Line(7000, month, Kind.WHOLESALE, 10), user=alice, reseller=alice, currency="USD", via=method("card", "USD")
        )
        waiting = place([Line(1000, month)], user=bob)
        return_transfer(take_in(waiting, 900, state="held"))  # type: ignore[arg-type]
        give_back(first, 490, is_sent=False)
    return first


def of(report: dict[str, Any], code: str = "CNY") -> dict[str, Any]:
    return next(part for part in report["currencies"] if part["currency"] == code)


def accounts(part: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {row["account"]: (row["opening"], row["closing"]) for row in part["accounts"]}


def rows_of(file: bytes) -> list[list[str]]:
    return list(csv.reader(StringIO(file.decode("utf-8-sig"))))


# --- what it says ---------------------------------------------------------------------------------------------


def test_the_report_says_what_came_what_went_and_what_stands_on_each_account(history: Order) -> None:
    part = of(make_report(MARCH))
    totals = part["totals"]
    assert (totals["revenue"], totals["refunds"], totals["net"], totals["fees"]) == (3990, 2490, 1500, 87)
    assert (totals["orders"], part["customers"], part["average"]) == (2, 1, 0)
    assert part["refunds"] == {"count": 3, "of_orders": 2490, "of_balances": 0, "not_counted": 900}
    assert accounts(part) == {
        "cash": (4970, 4970 - 2000 + 2490 - 12 + 1500 - 75 + 900 - 900),
        "customer_funds": (0, 0),
        "refunds_due": (0, 490),
        "revenue": (5000, 8990),
        "refunds": (0, 2490),
        "gateway_fees": (30, 117),
    }
    bank, taobao = part["cash"]
    assert (bank["name"], bank["received"], bank["fees"], bank["given_back"], bank["left"]) == (
        *("Bank", 3390, 12, 2900),
        478,
    )
    assert (taobao["name"], taobao["is_shop"], taobao["received"], taobao["left"]) == ("Taobao", True, 1500, 1425)
    assert of(make_report(MARCH), "USD")["totals"]["wholesale"] == 7000


def test_the_days_of_a_report_are_those_of_its_month_and_rolling_up_changes_nothing(history: Order) -> None:
    before = make_report(MARCH)
    assert [row["day"] for row in of(before)["days"]][::30] == ["2027-03-01", "2027-03-31"]
    roll_up_days()
    assert make_report(MARCH) == before


def test_a_report_fits_into_json_and_a_month_without_anything_has_one(history: Order) -> None:
    report = make_report(MARCH)
    assert json.loads(json.dumps(report)) == report
    assert of(make_report(date(2020, 5, 1)))["totals"]["gross"] == 0


def test_an_empty_portal_has_a_report(db: None) -> None:
    report = make_report(MARCH)
    assert [part["currency"] for part in report["currencies"]] == ["CNY"]
    assert to_pdf(report).startswith(b"%PDF")


# --- closing --------------------------------------------------------------------------------------------------


def test_closing_freezes_the_report_and_says_who_did_it(history: Order, root: User) -> None:
    close_month(month=date(2027, 2, 1), actor=root)
    closed = close_month(month=MARCH + timedelta(days=14), actor=root)
    frozen = report_of(MARCH)
    assert (frozen["is_closed"], frozen["closed_by"]) == (True, "root")
    with at(moment(4, 20)):
        give_back(history, 100)
        Plan.objects.filter(code="month").update(name="Renamed")
        assert report_of(MARCH) == frozen
        assert close_month(month=MARCH, actor=root) == closed
    assert AuditEntry.objects.filter(event="month.closed").count() == 2


def test_a_month_opens_with_what_the_closed_one_before_it_closed_with(history: Order, root: User) -> None:
    open_books = accounts(of(make_report(MARCH)))
    close_month(month=date(2027, 2, 1), actor=root)
    assert accounts(of(make_report(MARCH))) == open_books
    with CaptureQueriesContext(connection) as captured:
        make_report(MARCH)
    assert any('"booked_month" > ' in query["sql"] for query in captured), "closed months are not added up again"


@pytest.mark.parametrize(("minutes", "code"), [(59, "month_not_over"), (60, "")])
def test_a_month_is_closed_an_hour_after_its_end_at_the_earliest(
    alice: User, root: User, minutes: int, code: str
) -> None:
    with at(moment(3, 31)):
        sell(Line(100, plan(30)), user=alice)
    with at(datetime(2027, 4, 1, tzinfo=BERLIN) + timedelta(minutes=minutes)):
        assert refusal(MARCH, root) == code
    assert refusal(APRIL, root) == "month_not_over"


def test_months_are_closed_one_after_the_other(history: Order, root: User) -> None:
    assert earliest_open_month() == date(2027, 2, 1)
    assert refusal(MARCH, root) == "earlier_month_open"
    assert refusal(date(2027, 2, 1), root) == ""
    assert earliest_open_month() == MARCH
    assert refusal(MARCH, root) == ""
    assert earliest_open_month() is None


def test_books_that_do_not_balance_are_not_closed(history: Order, root: User) -> None:
    Order.objects.filter(pk=history.pk).update(received=9999)
    with pytest.raises(PortalError) as refused:
        close_month(month=date(2027, 2, 1), actor=root)
    assert refused.value.code == "books_do_not_balance"
    assert history.number in str(refused.value)
    assert not ClosedMonth.objects.exists()


def refusal(month: date, actor: User) -> str:
    """The code with which closing was refused; "" when it was not."""
    try:
        close_month(month=month, actor=actor)
    except PortalError as error:
        return error.code
    return ""


def test_nothing_is_booked_into_a_closed_month(history: Order, root: User) -> None:
    ClosedMonth.objects.create(month=APRIL)
    count = Posting.objects.count()
    with pytest.raises(PortalError, match="closed"):
        give_back(history, 100)
    assert Posting.objects.count() == count


# --- files ----------------------------------------------------------------------------------------------------


def test_the_csv_reads_back_and_no_name_becomes_a_formula(history: Order) -> None:
    file = to_csv(make_report(MARCH))
    assert file.startswith(b"\xef\xbb\xbf")
    rows = rows_of(file)
    assert ["Report for", "2027-03"] in rows
    [[_name, revenue, *_rest]] = [row for row in rows if row and row[0] == "'=Month" and len(row) == 9][:1]
    assert Decimal(revenue) == Decimal("34.90")
    day = next(row for row in rows if row and row[0] == "2027-03-05")
    assert day[1:5] == ["24.90", "0.00", "20.00", "4.90"]
    assert any(row[:1] == ["owed to resellers"] for row in rows) is False
    with translation.override("zh-hans"):
        assert any("月付" in row for row in rows_of(to_csv(make_report(MARCH))))


def test_the_workbook_reads_back_with_numbers_as_numbers(history: Order) -> None:
    book = openpyxl.load_workbook(BytesIO(to_xlsx(make_report(MARCH))))
    assert book.sheetnames == ["2027-03", "CNY", "USD"]
    cells = {row[0].value: row[1] for row in book["CNY"].iter_rows() if row[0].value and len(row) > 1}
    assert cells["=Month"].data_type == "n"
    assert Decimal(str(cells["Net for each paying customer"].value)) == 0
    names = [row[0] for row in book["CNY"].iter_rows() if row[0].value == "=Month"]
    assert {cell.data_type for cell in names} == {"s"}, "a name is never a formula"
    assert float(cells["2027-03-05"].value) == 24.9


def test_the_paper_says_the_month_and_its_sums(history: Order, settings: Settings) -> None:
    file = to_pdf(make_report(MARCH))
    assert file.startswith(b"%PDF")
    said = text_of(file)
    for words in ("Report for 2027-03", "=Month", "24.90", "refunds to be sent", "Europe/Berlin"):
        assert words in said
    with translation.override("zh-hans"):
        assert to_pdf(make_report(MARCH)).startswith(b"%PDF")
    assert file_name(make_report(MARCH), "pdf") == "report-2027-03.pdf"


def test_a_receipt_says_what_was_paid_given_back_and_how(history: Order, bob: User) -> None:
    bob.timezone = "America/New_York"
    bob.save()
    history.refresh_from_db()
    said = text_of(receipt_pdf(history))
    for words in (
        history.number,
        "DERP Portal",
        "bob <bob@example.com>",
        "2027-03-05 06:00 (America/New_York)",
        "Bank",
    ):
        assert words in said
    for amount in ("24.90", "19.90", "5.00", "4.90"):
        assert amount in said
    with translation.override("zh-hans"):
        assert receipt_pdf(history).startswith(b"%PDF")


def test_a_receipt_of_an_outside_shop_names_its_order(history: Order) -> None:
    outside = Order.objects.get(channel__isnull=False)
    assert f"Taobao, {outside.external_number}" in text_of(receipt_pdf(outside))


def test_a_receipt_survives_any_name_and_is_given_for_paid_orders_only(alice: User) -> None:
    odd = Plan.objects.create(code="odd", name="<b>&\x01 中文 Ünïcode ☃ عربي 😀", days=3)
    assert receipt_pdf(sell(Line(100, odd), user=alice)).startswith(b"%PDF")
    with pytest.raises(PortalError, match="once the order is paid"):
        receipt_pdf(place([Line(100, odd)], user=alice))


def test_the_operators_own_font_is_put_into_the_file(history: Order, settings: Settings) -> None:
    import reportlab

    from billing import paper

    settings.PDF_FONT = f"{reportlab.__path__[0]}/fonts/Vera.ttf"
    paper._own_font.cache_clear()
    assert b"FontFile2" in receipt_pdf(history)
    paper._own_font.cache_clear()


def text_of(file: bytes) -> str:
    """What the paper says; nothing is looked at without poppler's pdftotext."""
    done = subprocess.run([need("pdftotext"), "-layout", "-", "-"], input=file, capture_output=True, check=True)
    return done.stdout.decode()
