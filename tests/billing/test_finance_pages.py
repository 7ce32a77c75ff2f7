"""Finance in the admin and by API: who may see it, that files open, and that more rows take no more queries."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from io import BytesIO, StringIO
from typing import Any
from zoneinfo import ZoneInfo

import openpyxl
import pytest
import time_machine
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import User
from accounts.services import issue_token
from billing.finance.charts import HEIGHT, money_chart, round_top
from billing.finance.figures import Step
from billing.finance.roll_up import roll_up_days
from billing.finance.sums import Sums
from billing.models import ClosedMonth, Order
from tests.api_client import Caller
from tests.billing.bookkeeping import Kind, Line, at, customer, give_back, place, plan, sell, shop
from tests.conftest import make_user

pytestmark = pytest.mark.django_db
SHANGHAI = ZoneInfo("Asia/Shanghai")
NOON = datetime(2027, 3, 10, 12, 0, tzinfo=SHANGHAI)
FEBRUARY = datetime(2027, 2, 20, 12, 0, tzinfo=SHANGHAI)


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOON, tick=False) as traveller:
        yield traveller


@pytest.fixture
def order(alice: User, rita: User) -> Order:
    """Sales of this month and the last."""
    month = plan(30)
    with at(FEBRUARY):
        sell(Line(5000, month), user=alice)
    mine = sell(Line(1990, month), user=alice, fee=12)
    sell(Line(1500, month, Kind.OUTSIDE), channel=shop(), fee=75)
    sell(Line(7000, month, Kind.WHOLESALE, 10), user=rita, reseller=rita, currency="USD")
    give_back(mine, 990)
    return mine


@pytest.fixture
def roots(client: Client, root: User) -> Client:
    client.force_login(root)
    return client


def staff(*permissions: str) -> User:
    """Somebody of the staff with just these permissions of billing."""
    helen = make_user("helen", role="admin")
    helen.user_permissions.set(Permission.objects.filter(content_type__app_label="billing", codename__in=permissions))
    return helen


def page(client: Client, **query: str) -> str:
    answer = client.get(reverse("admin:billing_finance"), query)
    assert answer.status_code == 200
    return answer.content.decode()


# --- the page of figures --------------------------------------------------------------------------------------


def test_the_page_says_what_this_month_brought(roots: Client, order: Order) -> None:
    said = page(roots)
    for words in ("¥25.00", "Sold CN¥34.90", "¥9.90", "¥0.87", "Our own shop", "Taobao", "test-30", "Deferred revenue"):
        assert words in said
    assert said.count("<g>") == 10, "a bar for each day up to today"


def test_periods_and_currencies_are_chips_and_nonsense_is_this_month(roots: Client, order: Order) -> None:
    this_month = page(roots)
    assert "¥50.00" in page(roots, period="last")
    assert "¥75.00" in page(roots, period="90d")
    year = page(roots, period="12m")
    assert "2026-04" in year
    assert year.count("<g>") == 12
    dollars = page(roots, currency="USD")
    assert "$70.00" in dollars
    assert "currency=USD" in dollars
    own = page(roots, **{"from": "2027-02-20", "to": "2027-02-20"})
    assert "¥50.00" in own
    assert 'value="2027-02-20"' in own
    for nonsense in (
        {"period": "for ever"},
        {"from": "yesterday"},
        {"from": "2027-03-09", "to": "2027-03-01"},
        {"from": "0001-01-01", "to": "9999-12-31"},
        {"currency": "XXX"},
    ):
        assert "Sold CN¥34.90" in page(roots, **nonsense), nonsense
    assert "Sold CN¥34.90" in this_month


def test_a_day_without_sales_and_days_to_come_have_a_page(roots: Client) -> None:
    assert "Nothing was sold in this time." in page(roots)
    assert "Nothing was sold in this time." in page(roots, **{"from": "2030-01-01", "to": "2030-01-05"})


def test_who_may_not_see_the_ledger_sees_no_figures(client: Client, order: Order, alice: User) -> None:
    addresses = [
        reverse("admin:billing_finance"),
        reverse("admin:billing_report", args=["2027-03"]),
        reverse("admin:billing_report_file", args=["2027-03", "csv"]),
        reverse("admin:billing_close_month", args=["2027-02"]),
    ]
    client.force_login(alice)
    assert [client.get(address).status_code for address in addresses] == [302] * 4
    client.force_login(staff("view_order"))
    assert [client.get(address).status_code for address in addresses] == [403] * 4
    User.objects.get(username="helen").user_permissions.add(Permission.objects.get(codename="view_posting"))
    assert [client.get(address).status_code for address in addresses] == [200, 200, 200, 403]


def test_more_rows_take_no_more_queries(roots: Client) -> None:
    addresses = [
        reverse("admin:billing_finance") + "?period=90d",
        reverse("admin:billing_report", args=["2027-03"]),
        reverse("admin:billing_posting_changelist"),
        reverse("admin:billing_dailyfigure_changelist"),
        reverse("admin:billing_closedmonth_changelist"),
    ]

    def queries() -> list[int]:
        counts = []
        for address in addresses:
            with CaptureQueriesContext(connection) as captured:
                assert roots.get(address).status_code == 200
            counts.append(len(captured))
        return counts

    def history(first: int, last: int) -> None:
        for number in range(first, last):
            with at(NOON - timedelta(hours=30 * number)):
                who = customer(f"c{number}")
                sold = sell(Line(100, plan(3 + number)), user=who, reseller=who)
                sell(Line(100, plan(3), Kind.OUTSIDE), channel=shop(f"shop{number}"), fee=1)
                give_back(sold, 10)

    history(0, 4)
    roll_up_days()
    queries()
    few = queries()
    history(4, 12)
    assert queries() == few
    assert max(few) <= 40


# --- reports --------------------------------------------------------------------------------------------------


def test_a_month_has_a_page_and_three_files(roots: Client, order: Order) -> None:
    said = roots.get(reverse("admin:billing_report", args=["2027-03"])).content.decode()
    assert "Figures may still change" in said
    assert "34.90" in said
    assert "Close this month" not in said
    answers = {kind: roots.get(reverse("admin:billing_report_file", args=["2027-03", kind])) for kind in KINDS}
    assert {kind: answer["Content-Type"] for kind, answer in answers.items()} == KINDS
    assert answers["pdf"]["Content-Disposition"] == 'attachment; filename="report-2027-03.pdf"'
    rows = list(csv.reader(StringIO(answers["csv"].content.decode("utf-8-sig"))))
    assert ["Net", "25.00"] in rows
    assert openpyxl.load_workbook(BytesIO(answers["xlsx"].content)).sheetnames == ["2027-03", "CNY", "USD"]
    assert answers["pdf"].content.startswith(b"%PDF")


KINDS = {
    "csv": "text/csv; charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "pdf": "application/pdf",
}


@pytest.mark.parametrize("path", ["2027-13/", "soon/", "2027-3/", "2027-03/exe/", "0000-01/", "0001-01/", "9999-12/"])
def test_what_is_no_month_and_no_file_is_not_found(roots: Client, path: str) -> None:
    assert roots.get(f"/admin/billing/posting/report/{path}").status_code == 404


def test_closing_a_month_asks_first(roots: Client, order: Order) -> None:
    address = reverse("admin:billing_close_month", args=["2027-02"])
    assert f'href="{address}"' in page(roots)
    assert f'href="{address}"' in roots.get(reverse("admin:billing_report", args=["2027-02"])).content.decode()
    asked = roots.get(address).content.decode()
    assert "Close 2027-02?" in asked
    assert not ClosedMonth.objects.exists()
    answer = roots.post(address, follow=True)
    assert "2027-02 is closed." in answer.content.decode()
    assert "The books of this month are closed." in answer.content.decode()
    assert list(ClosedMonth.objects.values_list("month", flat=True)) == [date(2027, 2, 1)]
    assert f'href="{address}"' not in page(roots)
    for name in ("closedmonth", "posting"):
        assert roots.get(reverse(f"admin:billing_{name}_changelist")).status_code == 200
    closed = ClosedMonth.objects.get()
    assert "Open the report" in roots.get(f"/admin/billing/closedmonth/{closed.pk}/change/").content.decode()


def test_a_month_that_cannot_be_closed_says_why(roots: Client, order: Order) -> None:
    answer = roots.post(reverse("admin:billing_close_month", args=["2027-03"]), follow=True)
    assert "one hour after its end" in answer.content.decode()
    assert not ClosedMonth.objects.exists()


def test_the_ledger_is_searched_by_key_and_order_and_never_changed(roots: Client, order: Order) -> None:
    address = reverse("admin:billing_posting_changelist")
    assert f"order:{order.pk}:line" in roots.get(address, {"q": f"order:{order.pk}:"}).content.decode()
    found = roots.get(address, {"q": order.number}).content.decode()
    assert "refund:" in found
    assert "$70.00" not in found
    posting = order.postings.latest("id")
    change = reverse("admin:billing_posting_change", args=[posting.pk])
    assert roots.get(change).status_code == 200
    assert roots.post(change, {"amount": 1}).status_code == 403
    assert roots.get(reverse("admin:billing_posting_add")).status_code == 403


# --- the chart ------------------------------------------------------------------------------------------------


def test_bars_keep_within_their_frame() -> None:
    day = date(2027, 3, 1)
    steps = [
        Step(day, Sums(revenue=150, wholesale=50, refunds=30)),
        Step(day, Sums(revenue=-5, refunds=10_000)),
        Step(day, Sums()),
    ]
    chart = money_chart(steps)
    assert (chart.top, chart.width, chart.depth) == (200, 30, float(HEIGHT))
    both, _reversed, empty = chart.bars
    assert (both.revenue_height, both.wholesale_y, both.refunds_height) == (75.0, 0.0, 15.0)
    assert empty.revenue_y == HEIGHT
    assert not chart.is_empty
    assert money_chart(steps[2:]).is_empty
    assert [round_top(one) for one in (0, 1, 3, 2001)] == [1, 1, 5, 5000]


# --- the API --------------------------------------------------------------------------------------------------


def test_statistics_by_api(root: User, order: Order) -> None:
    status, body = Caller(root).get("finance/statistics")
    assert status == 200
    assert (body["success"], body["total_revenue"], body["total_revenue_minor"], body["currency"]) == (
        *(True, 25.0, 2500),
        "CNY",
    )
    assert (body["from"], body["to"], body["currencies"]) == ("2027-03-01", "2027-03-10", ["CNY", "USD"])
    assert (body["totals"]["fees"], body["totals"]["fees_minor"]) == ("0.87", 87)
    assert [step["net_minor"] for step in body["series"]][-1] == 2500
    assert {one["name"]: one["gross"] for one in body["channels"]} == {"Our own shop": "19.90", "Taobao": "15.00"}
    assert (body["customers"], body["average"]) == (1, "10.00")
    assert body["deferred"]["total_minor"] == 5000 + 1990 + 1500


@pytest.mark.parametrize(
    ("query", "minor"),
    [
        ({"from": "2027-01-01", "by": "month"}, 7500),
        ({"from": "2027-02-01", "to": "2027-02-28"}, 5000),
        ({"channel": "taobao"}, 1500),
        ({"channel": "own"}, 1000),
        ({"plan": "test-30", "channel": "own"}, 1000),
        ({"currency": "USD"}, 7000),
        ({"currency": "USD", "reseller": "RITA"}, 7000),
        ({"currency": "JPY"}, 0),
    ],
)
def test_statistics_are_narrowed(root: User, order: Order, query: dict[str, str], minor: int) -> None:
    status, body = Caller(root).get("finance/statistics", **query)
    assert (status, body["total_revenue_minor"]) == (200, minor)


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({"from": "2027-03-02", "to": "2027-03-01"}, 422, "invalid_period"),
        ({"from": "0001-01-01", "to": "9999-12-31"}, 422, "invalid_period"),
        ({"from": "soon"}, 422, "invalid_input"),
        ({"currency": "XXX"}, 422, "invalid_input"),
        ({"by": "year"}, 422, "invalid_input"),
        ({"plan": "none"}, 404, "not_found"),
        ({"channel": "none"}, 404, "not_found"),
        ({"reseller": "none"}, 404, "not_found"),
    ],
)
def test_questions_that_mean_nothing_are_refused(root: User, query: dict[str, str], status: int, code: str) -> None:
    found, body = Caller(root).get("finance/statistics", **query)
    assert (found, body["error"]["code"]) == (status, code)


def test_reports_by_api(root: User, order: Order) -> None:
    _status, body = Caller(root).get("finance/report", month="2027-02")
    assert body["report"]["currencies"][0]["totals"]["net"] == 5000
    secret = issue_token(user=root, name="t", scopes=["staff"], actor=root)[1]
    for kind, content_type in KINDS.items():
        answer = Client().get(
            f"/api/finance/report?month=2027-02&format={kind}", headers={"Authorization": f"Bearer {secret}"}
        )
        assert (answer.status_code, answer["Content-Type"]) == (200, content_type)
    for month in ("2027-2", "9999-12", "0001-01"):
        assert Caller(root).get("finance/report", month=month)[0] == 422
    for day in ("0001-01-01", "9999-12-31"):
        status, answer = Caller(root).get("finance/statistics", **{"from": day, "to": day})
        assert (status, answer["error"]["code"]) == (422, "invalid_period")


def test_closing_a_month_by_api(root: User, order: Order) -> None:
    caller = Caller(root)
    status, body = caller.post("finance/close_month", month="2027-03")
    assert (status, body["error"]["code"]) == (409, "month_not_over")
    for _twice in range(2):
        status, body = caller.post("finance/close_month", month="2027-02")
        assert (status, body["month"]) == (200, "2027-02")
    assert caller.get("finance/report", month="2027-02")[1]["report"]["closed_by"] == "root"


def test_the_ledger_by_api(root: User, order: Order) -> None:
    def keys(**query: Any) -> list[str]:
        status, body = Caller(root).get("finance/ledger", **query)
        assert status == 200
        return [item["key"].split(":")[0] for item in body["items"]]

    assert len(keys()) == 2 + 5 + 2 + 2
    assert keys(account="refunds_due") == ["refund", "refund"]
    assert set(keys(order=order.number)) == {"refund", "order", "transfer"}
    assert keys(channel="taobao") == ["order", "order"]
    assert keys(month="2027-02") == ["order", "transfer"]
    assert keys(to="2027-02-28", key="transfer:") == ["transfer"]
    assert len(keys(currency="USD")) == 2
    [item] = Caller(root).get("finance/ledger", channel="taobao", account="revenue")[1]["items"]
    assert (item["amount"], item["amount_minor"], item["plan"], item["channel"], item["debit"]) == (
        *("15.00", 1500, "test-30"),
        *("taobao", "cash"),
    )


def test_who_paid_what_by_api(root: User, alice: User, order: Order) -> None:
    place([Line(100, plan(30))], user=alice)
    sell(Line(0, plan(3)), user=alice)
    _status, body = Caller(root).get("finance/payments")
    assert [(one["username"], one["channel"], one["received"], one["currency"]) for one in body["items"]] == [
        ("rita", None, "70.00", "USD"),
        (None, "taobao", "15.00", "CNY"),
        ("alice", None, "19.90", "CNY"),
        ("alice", None, "50.00", "CNY"),
    ]
    assert (body["items"][2]["method"], body["items"][2]["refunded_minor"]) == ("bank-cny", 990)
    _status, body = Caller(root).get("finance/payments", user_id=alice.pk, method="bank-cny", to="2027-02-28")
    assert [one["received_minor"] for one in body["items"]] == [5000]


@pytest.mark.parametrize("path", ["ledger", "payments"])
def test_lists_by_api_take_no_more_queries_for_more_rows(root: User, order: Order, path: str) -> None:
    caller = Caller(root)

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert caller.get(f"finance/{path}")[0] == 200
        return len(captured)

    queries()
    few = queries()
    for number in range(5):
        sell(Line(100, plan(3 + number)), user=customer(f"c{number}"))
    assert queries() == few


def test_the_api_wants_a_staff_token_and_the_same_permissions_as_the_pages(order: Order, alice: User) -> None:
    paths = ("statistics", "report", "ledger", "payments")
    assert [Caller(alice).get(f"finance/{path}")[0] for path in paths] == [403] * 4
    assert [Caller(None).get(f"finance/{path}")[0] for path in paths] == [401] * 4
    helen = staff("view_posting")
    assert [Caller(helen).get(f"finance/{path}")[0] for path in paths] == [200, 200, 200, 403]
    status, body = Caller(helen).post("finance/close_month", month="2027-02")
    assert (status, body["error"]["permissions"]) == (403, ["billing.add_closedmonth"])
