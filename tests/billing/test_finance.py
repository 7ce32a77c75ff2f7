"""The figures of a period: what counts, on which day, for whom; and that a roll-up changes nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django.fixtures import Settings

from accounts.models import User
from billing.finance.deferred import deferred_revenue
from billing.finance.figures import By, Part, Statistics, statistics
from billing.finance.gathering import currencies
from billing.finance.roll_up import check_roll_ups, roll_up_days
from billing.finance.sums import OWN_SHOP, Narrowing
from billing.finance.tenancy import tenancy
from billing.models import DailyFigure, RolledDay, SoldSerial
from serials.models import Lease, LeaseTerm, SerialNumber
from serials.services import activate, end_lease
from serials.services.leases import start_next_term
from serials.services.taking_back import take_back
from tests.billing.bookkeeping import (
    Kind,
    Line,
    at,
    customer,
    deliver,
    give_back,
    lease_of,
    pay,
    place,
    plan,
    sell,
    shop,
    use,
)
from tests.serials.shop import at_once, make_server

pytestmark = pytest.mark.django_db
SHANGHAI, BERLIN = ZoneInfo("Asia/Shanghai"), ZoneInfo("Europe/Berlin")
NOON = datetime(2027, 3, 10, 12, 0, tzinfo=SHANGHAI)
TODAY = NOON.date()


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOON, tick=False) as traveller:
        yield traveller


def figures(start: date = TODAY, end: date = TODAY, currency: str = "CNY", **named: int) -> Statistics:
    return statistics(start, end, currency, only=Narrowing(**named))


def by_name(parts: list[Part]) -> dict[str, int]:
    return {part.of.local_name: part.sums.net for part in parts}


# --- what counts ----------------------------------------------------------------------------------------------


def test_a_day_counts_sales_refunds_and_fees_each_once(alice: User, bob: User) -> None:
    month, week = plan(30), plan(7)
    first = sell(Line(1990, month), Line(500), user=alice, fee=15)
    sell(Line(990, week, Kind.RENEWAL, 2), user=alice)
    sell(Line(4000, month, Kind.WHOLESALE, 10), user=bob, reseller=bob)
    give_back(first, 1000)
    totals = figures().totals
    assert (totals.revenue, totals.wholesale, totals.refunds, totals.fees) == (3480, 4000, 1000, 15)
    assert (totals.gross, totals.net, totals.after_fees) == (7480, 6480, 6465)
    assert (totals.orders, totals.units, totals.renewals, totals.first_orders) == (3, 14, 1, 2)


def test_an_order_of_two_plans_is_one_order_and_brings_to_each_what_it_cost(alice: User) -> None:
    sell(Line(1000, plan(30)), Line(500, plan(7)), user=alice)
    found = figures()
    assert found.totals.orders == 1
    assert {part.of.code: (part.sums.revenue, part.sums.orders) for part in found.plans} == {
        "test-30": (1000, 1),
        "test-7": (500, 0),
    }


def test_what_is_free_is_an_order_but_no_payment(alice: User) -> None:
    sell(Line(0, plan(3)), user=alice)
    found = figures()
    assert (found.totals.orders, found.totals.units, found.totals.gross) == (1, 1, 0)
    assert (found.customers, found.average) == (0, None)


def test_a_top_up_is_no_sale_and_what_is_bought_from_the_balance_is(rita: User) -> None:
    top_up = sell(Line(9000, kind=Kind.TOP_UP), user=rita, reseller=rita, fee=9)
    bought = place([Line(4000, plan(30), Kind.WHOLESALE, 10)], user=rita, reseller=rita)
    pay(bought, from_balance=True)
    give_back(top_up, 1000)
    found = figures()
    assert (found.totals.gross, found.totals.refunds, found.totals.fees) == (4000, 0, 9)
    assert (found.totals.orders, found.totals.units, found.conversion.placed) == (1, 10, 1)
    roll_up_days()
    with at(NOON + timedelta(days=1)):
        roll_up_days()
        assert check_roll_ups() == []
        assert figures().totals == found.totals


def test_an_order_counts_on_the_day_it_was_paid_and_a_refund_on_its_own(alice: User) -> None:
    with at(NOON - timedelta(days=2)):
        order = place([Line(1000, plan(30))], user=alice)
    with at(NOON - timedelta(days=1)):
        deliver(pay(order))
    give_back(order, 1000)
    series = figures(TODAY - timedelta(days=2)).series
    assert [step.sums.revenue for step in series] == [0, 1000, 0]
    assert [step.sums.refunds for step in series] == [0, 0, 1000]
    assert figures().totals.net == -1000


def test_currencies_are_never_added_together(alice: User) -> None:
    sell(Line(1000, plan(30)), user=alice)
    sell(Line(700, plan(30)), user=alice, currency="USD")
    sell(Line(0, plan(3)), user=alice, currency="EUR")
    assert [figures(currency=code).totals.gross for code in ("CNY", "USD", "EUR", "JPY")] == [1000, 700, 0, 0]
    assert currencies() == ["CNY", "USD", "EUR"]


def test_shops_resellers_and_plans_are_told_apart(alice: User, rita: User) -> None:
    month, week, taobao = plan(30), plan(7), shop()
    sell(Line(1000, month), user=alice)
    sell(Line(300, week), Line(200), user=alice, reseller=rita)
    sell(Line(900, month, Kind.OUTSIDE), channel=taobao, fee=50)
    found = figures()
    assert by_name(found.channels) == {"Our own shop": 1500, "Taobao": 900}
    assert by_name(found.resellers) == {"rita": 500}
    assert by_name(found.plans) == {"test-30": 1900, "test-7": 300, "Without a plan (traffic packs)": 200}
    assert found.average == 1500
    assert figures(plan_id=month.pk).totals.gross == 1900
    assert figures(channel_id=taobao.pk).totals.after_fees == 850
    assert figures(channel_id=OWN_SHOP, plan_id=month.pk).totals.gross == 1000
    narrow = figures(reseller_id=rita.pk)
    assert (narrow.totals.gross, narrow.customers, narrow.series[-1].sums.gross) == (500, 1, 500)
    assert figures(plan_id=week.pk).customers == 1
    assert figures(plan_id=plan(99).pk).customers == 0


def test_a_customer_who_buys_twice_is_one_customer(alice: User, bob: User) -> None:
    for user in (alice, alice, bob):
        sell(Line(1000, plan(30)), user=user)
    sell(Line(1001, plan(30), Kind.OUTSIDE), channel=shop())
    found = figures()
    assert (found.customers, found.average) == (2, 1500)


def test_conversion_is_orders_paid_of_orders_placed(alice: User) -> None:
    with at(NOON - timedelta(days=1)):
        late = place([Line(100, plan(30))], user=alice)
        place([Line(100, plan(30))], user=alice, currency="USD")
    pay(late)
    place([Line(100, plan(30))], user=alice)
    both = figures(TODAY - timedelta(days=1))
    assert (both.conversion.placed, both.conversion.paid) == (3, 1)
    assert figures().conversion.share == 1.0
    assert figures(date(2027, 1, 1), date(2027, 1, 2)).conversion.share is None


def test_days_to_come_are_left_out(alice: User) -> None:
    sell(Line(100, plan(30)), user=alice)
    found = figures(TODAY - timedelta(days=1), TODAY + timedelta(days=20))
    assert (found.end, len(found.series), found.totals.gross) == (TODAY, 2, 100)
    ahead = figures(TODAY + timedelta(days=1), TODAY + timedelta(days=20))
    assert (ahead.series, ahead.totals.orders) == ([], 0)


# --- days, months, zones --------------------------------------------------------------------------------------


def test_days_and_months_are_the_operators_also_where_clocks_change(settings: Settings, alice: User) -> None:
    settings.TIME_ZONE = "Europe/Berlin"
    moments = (
        datetime(2027, 2, 28, 23, 59, 59, tzinfo=BERLIN),
        datetime(2027, 3, 1, 0, 0, tzinfo=BERLIN),
        datetime(2027, 3, 28, 1, 59, tzinfo=BERLIN),
        datetime(2027, 3, 28, 23, 30, tzinfo=BERLIN),
        datetime(2027, 3, 31, 23, 59, tzinfo=BERLIN),
        datetime(2027, 4, 1, 0, 0, tzinfo=BERLIN),
    )
    for number, moment in enumerate(moments):
        with at(moment):
            sell(Line(10**number, plan(30)), user=alice)
    with at(datetime(2027, 4, 2, 12, 0, tzinfo=BERLIN)):
        for _twice in range(2):
            found = statistics(date(2027, 2, 1), date(2027, 4, 2), "CNY", by=By.MONTH)
            assert [(step.start, step.sums.gross) for step in found.series] == [
                (date(2027, 2, 1), 1),
                (date(2027, 3, 1), 11110),
                (date(2027, 4, 1), 100_000),
            ]
            clock_change = figures(date(2027, 3, 28), date(2027, 3, 28))
            assert (clock_change.totals.gross, clock_change.conversion.placed) == (1100, 2)
            roll_up_days()


def test_a_day_is_rolled_up_once_it_has_been_over_for_a_quarter_of_an_hour(alice: User) -> None:
    sell(Line(1000, plan(30)), user=alice)
    midnight = datetime(2027, 3, 11, 0, 0, tzinfo=SHANGHAI)
    for moment, expected in ((NOON, 0), (midnight + timedelta(minutes=14), 0), (midnight + timedelta(minutes=15), 1)):
        with at(moment):
            assert roll_up_days() == expected
            assert figures(TODAY, TODAY + timedelta(days=1)).totals.gross == 1000
    assert list(RolledDay.objects.values_list("day", flat=True)) == [TODAY]


def test_rolling_up_begins_with_the_first_order_leaves_no_gap_and_does_nothing_twice(alice: User) -> None:
    assert roll_up_days() == 0
    with at(NOON - timedelta(days=6)):
        place([Line(5, plan(30))], user=alice)
    with at(NOON - timedelta(days=3)):
        sell(Line(1000, plan(30)), user=alice)
    assert roll_up_days() == 6
    assert roll_up_days() == 0
    assert list(RolledDay.objects.order_by("day").values_list("placed", flat=True)) == [1, 0, 0, 1, 0, 0]
    assert DailyFigure.objects.count() == 1
    before = figures(TODAY - timedelta(days=30))
    RolledDay.objects.filter(day=TODAY - timedelta(days=5)).delete()
    assert figures(TODAY - timedelta(days=30)) == before, "from the missing day on the books are read"
    assert roll_up_days() == 1
    assert figures(TODAY - timedelta(days=30)) == before


def test_a_year_before_the_first_sale_is_empty(alice: User) -> None:
    with at(NOON - timedelta(days=3)):
        sell(Line(1000, plan(30)), user=alice)
    roll_up_days()
    assert figures(TODAY - timedelta(days=400)).totals.gross == 1000
    assert figures(TODAY - timedelta(days=400), TODAY - timedelta(days=390)).totals.gross == 0


def test_the_nightly_check_finds_a_roll_up_that_says_something_else(alice: User) -> None:
    with at(NOON - timedelta(days=1)):
        sell(Line(1000, plan(30)), user=alice)
    roll_up_days()
    assert check_roll_ups() == []
    DailyFigure.objects.update(revenue=999)
    [difference] = check_roll_ups(since=TODAY - timedelta(days=1))
    assert str(difference) == "2027-03-09 CNY: revenue is 999 in the roll-up and 1000 in the books."
    assert check_roll_ups(since=TODAY) == []
    DailyFigure.objects.all().delete()
    assert {one.figure for one in check_roll_ups()} == {"revenue", "orders", "units", "first_orders"}


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_two_workers_that_roll_up_at_once_write_each_day_once() -> None:
    with at(NOON - timedelta(days=4)):
        sell(Line(1000, plan(30)), user=customer("carol"))
    outcomes = at_once([roll_up_days] * 3)
    assert [one for one in outcomes if isinstance(one, Exception)] == []
    assert (RolledDay.objects.count(), DailyFigure.objects.count()) == (4, 1)
    assert check_roll_ups() == []


def test_more_rows_take_no_more_queries(alice: User) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            figures(TODAY - timedelta(days=60))
        return len(captured)

    def history(names: int) -> None:
        for number in range(names):
            with at(NOON - timedelta(days=number)):
                who = customer(f"c{number}")
                order = sell(Line(100 + number, plan(3 + number)), user=who, reseller=who)
                sell(Line(50, plan(30), Kind.OUTSIDE), channel=shop(f"shop{number}"))
                use(SoldSerial.objects.filter(line__order=order)[0], lease_of(who))
                if number % 2:
                    give_back(order, 10)
        roll_up_days()

    history(3)
    few = queries()
    RolledDay.objects.all().delete()
    DailyFigure.objects.all().delete()
    history(12)
    assert queries() == few
    assert few <= 20


# --- deferred revenue -----------------------------------------------------------------------------------------


def deferred() -> dict[tuple[str, int], int]:
    return {(one.currency, one.plan_id): one.amount for one in deferred_revenue()}


def test_what_is_not_served_yet_is_deferred_second_by_second(alice: User) -> None:
    month = plan(30)
    order = sell(Line(3000, month, quantity=3), user=alice)
    unused, used, queued = SoldSerial.objects.filter(line__order=order).order_by("id")
    assert deferred() == {("CNY", month.pk): 3000}
    lease = lease_of(alice)
    first = use(used, lease)
    use(queued, lease, first.ends_at)
    with at(NOON + timedelta(days=10)):
        assert deferred() == {("CNY", month.pk): 1000 + 1000 * 20 // 30 + 1000}
    with at(NOON + timedelta(seconds=1)):
        assert deferred() == {("CNY", month.pk): 2999}
    with at(NOON + timedelta(days=30)):
        assert deferred() == {("CNY", month.pk): 2000}
    SerialNumber.objects.filter(pk=unused.serial_id).update(expires_at=NOON)
    assert deferred() == {("CNY", month.pk): 2000}
    SoldSerial.objects.filter(pk=queued.pk).update(taken_back_at=NOON)
    assert deferred() == {("CNY", month.pk): 1000}


def test_deferred_amounts_may_be_huge(alice: User) -> None:
    decade = plan(3660)
    order = sell(Line(10**11, decade), user=alice)
    use(SoldSerial.objects.get(line__order=order), lease_of(alice))
    with at(NOON + timedelta(days=1)):
        assert deferred() == {("CNY", decade.pk): 10**11 * 3659 // 3660}


def test_deferred_revenue_is_told_by_currency_plan_shop_and_reseller(alice: User, rita: User) -> None:
    month, week, taobao = plan(30), plan(7), shop()
    sell(Line(1000, month), user=alice, currency="USD")
    sell(Line(300, week), Line(500), user=alice, reseller=rita)
    sell(Line(200, month, Kind.OUTSIDE), channel=taobao)
    assert deferred() == {("USD", month.pk): 1000, ("CNY", week.pk): 300, ("CNY", month.pk): 200}
    assert figures().deferred_amount == 500
    assert figures(channel_id=taobao.pk).deferred_amount == 200
    assert figures(reseller_id=rita.pk).deferred_amount == 300
    assert figures(plan_id=month.pk, currency="USD").deferred_amount == 1000


def test_days_that_are_moved_up_or_taken_back_stay_those_of_their_sale(alice: User, root: User) -> None:
    """With the real services: what they write is what is counted."""
    make_server()
    month = plan(30)
    order = sell(Line(6000, month, quantity=2), user=alice)
    first, second = SoldSerial.objects.filter(line__order=order).order_by("id")
    _serial, lease = activate(user=alice, code=first.serial.code)
    activate(user=alice, code=second.serial.code)
    with at(NOON + timedelta(days=10)):
        assert deferred() == {("CNY", month.pk): 2000 + 3000}
        start_next_term(lease_id=lease.pk, term_id=lease.terms.get(state=LeaseTerm.State.QUEUED).pk, actor=root)
        assert deferred() == {("CNY", month.pk): 3000}, "what was left of the first was given up"
    with at(NOON + timedelta(days=25)):
        assert deferred() == {("CNY", month.pk): 1500}
        taken = take_back(serial_id=second.serial_id, reason="test", actor=root)
        assert taken.seconds == 15 * 86400
        assert deferred() == {}


def test_a_lease_that_staff_ended_has_nothing_left_to_serve(alice: User, root: User) -> None:
    make_server()
    order = sell(Line(3000, plan(30)), user=alice)
    _serial, lease = activate(user=alice, code=SoldSerial.objects.get(line__order=order).serial.code)
    end_lease(lease_id=lease.pk, reason=Lease.EndReason.STAFF, actor=root)
    assert deferred() == {}


# --- leases ---------------------------------------------------------------------------------------------------


def test_churn_counts_leases_that_were_there_at_the_start_and_did_not_come_back(
    alice: User, bob: User, root: User, clock: time_machine.Traveller
) -> None:
    make_server()
    month = plan(30)
    customers = [alice, bob, customer("dora"), customer("emil")]
    leases = []
    for user in customers[:3]:
        order = sell(Line(100, month), user=user)
        leases.append(activate(user=user, code=SoldSerial.objects.get(line__order=order).serial.code)[1])
    clock.move_to(NOON + timedelta(days=5))
    for lease in leases[:2]:
        end_lease(lease_id=lease.pk, reason=Lease.EndReason.STAFF, actor=root)
    order = sell(Line(100, month), user=bob)
    clock.move_to(NOON + timedelta(days=9))
    activate(user=bob, code=SoldSerial.objects.get(line__order=order).serial.code)  # comes back, after a gap
    order = sell(Line(100, month), user=customers[3])
    activate(user=customers[3], code=SoldSerial.objects.get(line__order=order).serial.code)
    found = tenancy(TODAY + timedelta(days=1), TODAY + timedelta(days=20))
    assert (found.active, found.at_start, found.lost) == (3, 3, 1)
    assert found.churn == pytest.approx(1 / 3)
    in_the_gap = tenancy(TODAY + timedelta(days=7), TODAY + timedelta(days=20))
    assert (in_the_gap.at_start, in_the_gap.lost) == (1, 0)
    assert tenancy(TODAY, TODAY + timedelta(days=2)).churn is None, "nobody was there when that day began"
    early = tenancy(TODAY + timedelta(days=1), TODAY + timedelta(days=3))
    assert (early.at_start, early.lost) == (3, 0)
