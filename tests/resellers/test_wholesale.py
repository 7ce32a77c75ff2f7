"""Stock: bought like anything else or from a balance, given back by rule, resold, redeemed by somebody's customers."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
import time_machine
from django.db import connection
from django.http import Http404
from django.test.utils import CaptureQueriesContext

from accounts.models import AuditEntry, User
from billing.finance.books import check_books
from billing.models import Account, Order, OrderLine, Posting, Refund, SoldSerial
from billing.services import balance_of, pay_from_balance, place_order, refund_order
from billing.services.fulfilment import deliver
from billing.services.ledger import today
from billing.services.pricing import Item
from derp_portal.lib.errors import PortalError
from resellers import services
from resellers.access import sold_for
from resellers.models import CommissionLine, LeaseContact, Resale, Reseller
from resellers.selectors import first_line_of_lease
from resellers.selectors.stock import batches_of, sales_by_month
from resellers.services import wholesale
from serials.models import Lease, SerialNumber
from serials.services import redeem
from tests.billing.till import Kind, balance, begin, call, order_of, paid_order, priced_plan
from tests.resellers.trade import bring, make_level, make_reseller
from tests.resellers.wholesaling import fill_balance, settled, stock, wholesale_price
from tests.serials.shop import START, make_server, new_code_of

pytestmark = pytest.mark.django_db

DAY = date(2026, 1, 15)
Status = SerialNumber.Status


@pytest.fixture
def reseller(rita: User) -> Reseller:
    return make_reseller(rita)


@pytest.fixture
def other(bob: User) -> Reseller:
    """Another reseller, whose stock is nobody else's."""
    return make_reseller(bob)


def refusal_of(code: str, call: object, **options: object) -> PortalError:
    """The refusal that the call ends in; nothing was written."""
    with pytest.raises(PortalError) as refusal:
        call(**options)  # type: ignore[operator]
    assert refusal.value.code == code
    assert check_books() == []
    return refusal.value


# --- buying -----------------------------------------------------------------------------------------


def test_stock_is_bought_and_paid_like_any_order(reseller: Reseller) -> None:
    sold = stock(reseller, priced_plan(30), 3, price=701)

    order = Order.objects.get()
    assert (order.total, order.reseller, order.is_from_balance) == (2103, reseller.user, False)
    assert [one.amount for one in sold] == [701, 701, 701]
    assert {one.serial.status for one in sold} == {Status.UNUSED}
    assert list(services.stock_of(reseller)) == sold[::-1]
    assert balance(Account.WHOLESALE) == -2103
    assert check_books() == []


def test_the_price_is_the_levels_own_and_falls_with_the_quantity(reseller: Reseller, root: User) -> None:
    plan = priced_plan(30)
    wholesale_price(plan, 1000)
    wholesale_price(plan, 900, from_quantity=10)
    wholesale_price(plan, 800, level="gold", from_quantity=10)
    buy = {"reseller": reseller, "plan": plan, "currency": "CNY", "from_balance": False}
    assert services.buy_stock(quantity=9, **buy).total == 9000  # type: ignore[arg-type]
    assert services.buy_stock(quantity=10, **buy).total == 9000  # type: ignore[arg-type]
    services.set_level(reseller_id=reseller.pk, level=make_level("gold"), actor=root)
    assert services.buy_stock(quantity=10, **buy).total == 8000  # type: ignore[arg-type]


def test_wholesale_and_top_ups_earn_nobody_commission(reseller: Reseller, other: Reseller) -> None:
    bring(other, reseller.user)
    stock(reseller, priced_plan(30))
    fill_balance(reseller, 5000)
    services.accrue()
    assert not CommissionLine.objects.exists()


def test_only_an_active_reseller_buys(reseller: Reseller, root: User) -> None:
    plan = priced_plan(30)
    wholesale_price(plan)
    services.suspend(reseller_id=reseller.pk, reason="spam", actor=root)
    reseller.refresh_from_db()
    buy = {"reseller": reseller, "plan": plan, "quantity": 1, "currency": "CNY", "from_balance": False}
    refusal_of("not_a_reseller", services.buy_stock, **buy)
    refusal_of("not_a_reseller", services.top_up, reseller=reseller, amount=1000, currency="CNY")
    assert not Order.objects.exists()


def test_a_balance_is_there_once_it_is_paid_and_only_in_its_currency(reseller: Reseller, other: Reseller) -> None:
    order = services.top_up(reseller=reseller, amount=5000, currency="CNY")
    assert balance_of(reseller.user, "CNY") == 0
    settled(order)
    assert balance_of(reseller.user, "CNY") == 5000
    assert balance_of(reseller.user, "USD") == balance_of(other.user, "CNY") == 0
    assert balance(Account.RESELLER_FUNDS) == -5000
    assert balance(Account.REVENUE) == balance(Account.WHOLESALE) == 0, "nothing is sold yet"


def test_stock_is_paid_from_the_balance_at_once(reseller: Reseller) -> None:
    fill_balance(reseller, 5000)
    sold = stock(reseller, priced_plan(30), 3, from_balance=True)
    assert len(sold) == 3
    assert balance_of(reseller.user, "CNY") == 2000
    assert balance(Account.WHOLESALE) == -3000
    assert check_books() == []


def test_a_balance_is_never_overdrawn(reseller: Reseller) -> None:
    plan = priced_plan(30)
    wholesale_price(plan)
    fill_balance(reseller, 1999)
    buy = {"reseller": reseller, "plan": plan, "currency": "CNY", "from_balance": True}

    refusal_of("balance_too_small", services.buy_stock, quantity=2, **buy)

    assert not Order.objects.filter(lines__kind=Kind.WHOLESALE).exists(), "an order was left behind"
    services.buy_stock(quantity=1, **buy)  # type: ignore[arg-type]
    refusal_of("balance_too_small", services.buy_stock, quantity=1, **buy)
    assert balance_of(reseller.user, "CNY") == 999


def test_a_balance_buys_wholesale_only_and_pays_once(reseller: Reseller) -> None:
    fill_balance(reseller, 5000)
    plan = priced_plan(30)
    gift = order_of(reseller.user, plan)
    refusal_of("not_from_balance", pay_from_balance, order_id=gift.pk, actor=reseller.user)
    [sold] = stock(reseller, plan, from_balance=True)
    again = pay_from_balance(order_id=sold.line.order_id, actor=reseller.user)
    assert again.is_from_balance
    assert balance_of(reseller.user, "CNY") == 4000


def test_a_spent_balance_is_not_given_back(reseller: Reseller, root: User) -> None:
    paid_in = fill_balance(reseller, 5000)
    stock(reseller, priced_plan(30), 3, from_balance=True)
    refusal_of("balance_spent", refund_order, order_id=paid_in.pk, reason="asked", actor=root)
    refund_order(order_id=paid_in.pk, amount=2000, reason="asked", actor=root)
    assert balance_of(reseller.user, "CNY") == 0
    assert check_books() == []


def test_money_that_comes_after_the_balance_has_paid_goes_to_a_person(reseller: Reseller) -> None:
    """Two ways to pay the same order: one pays, the other is held."""
    plan = priced_plan(30)
    wholesale_price(plan)
    fill_balance(reseller, 1000)
    order = services.buy_stock(reseller=reseller, plan=plan, quantity=1, currency="CNY", from_balance=False)
    payment = begin(order)
    pay_from_balance(order_id=order.pk, actor=reseller.user)
    call(payment)
    order.refresh_from_db()
    assert (order.received, order.is_from_balance) == (1000, True)
    assert balance(Account.CUSTOMER_FUNDS) == -1000
    deliver(order_id=order.pk)
    assert check_books() == []


# --- giving back ------------------------------------------------------------------------------------


def recall(reseller: Reseller, *sold: SoldSerial) -> list[Refund]:
    return services.recall(reseller=reseller, serial_ids=[one.serial_id for one in sold], actor=reseller.user)


def cannot_recall(reseller: Reseller, *sold: SoldSerial) -> None:
    """Refused, and nothing has changed: not one of them is given back."""
    before = list(SerialNumber.objects.order_by("id").values()), Refund.objects.count(), Posting.objects.count()
    ids = [one.serial_id for one in sold]
    refusal_of("not_recallable", services.recall, reseller=reseller, serial_ids=ids, actor=reseller.user)
    after = list(SerialNumber.objects.order_by("id").values()), Refund.objects.count(), Posting.objects.count()
    assert after == before


def test_what_the_balance_paid_goes_back_to_the_balance(reseller: Reseller) -> None:
    fill_balance(reseller, 3000)
    sold = stock(reseller, priced_plan(30), 3, from_balance=True)

    [refund] = recall(reseller, *sold[:2])

    assert (refund.amount, refund.state) == (2000, Refund.State.DONE)
    assert balance_of(reseller.user, "CNY") == 2000
    assert balance(Account.REFUNDS_DUE) == 0
    assert [SerialNumber.objects.get(pk=one.serial_id).status for one in sold] == ["revoked", "revoked", "unused"]
    assert Order.objects.get(pk=refund.order_id).state == Order.State.FULFILLED
    recall(reseller, sold[2])
    assert balance_of(reseller.user, "CNY") == 3000
    assert Order.objects.get(pk=refund.order_id).state == Order.State.REFUNDED
    assert check_books() == []


def test_what_a_gateway_was_paid_goes_back_through_a_refund(reseller: Reseller) -> None:
    sold = stock(reseller, priced_plan(30), 2)
    [refund] = recall(reseller, sold[0])
    assert (refund.amount, refund.state) == (1000, Refund.State.DUE)
    assert refund.transfer is not None
    assert balance(Account.REFUNDS_DUE) == -1000
    assert balance_of(reseller.user, "CNY") == 0
    assert check_books() == []


def test_serials_of_several_orders_go_back_each_the_way_it_came(reseller: Reseller) -> None:
    plan = priced_plan(30)
    fill_balance(reseller, 1000)
    by_balance, by_gateway = stock(reseller, plan, from_balance=True), stock(reseller, plan, 2)

    refunds = recall(reseller, *by_balance, *by_gateway)

    assert {(one.order_id, one.amount) for one in refunds} == {
        (by_balance[0].line.order_id, 1000),
        (by_gateway[0].line.order_id, 2000),
    }
    assert balance_of(reseller.user, "CNY") == 1000
    assert AuditEntry.objects.filter(event="stock.recalled").count() == 1
    assert check_books() == []


@time_machine.travel(START, tick=False)
def test_only_what_is_unused_unsold_and_new_is_given_back_all_or_none(
    reseller: Reseller, other: Reseller, alice: User
) -> None:
    make_server()
    plan = priced_plan(30)
    good, used, resold, revoked = stock(reseller, plan, 4)
    [foreign] = stock(other, plan)
    redeem(user=alice, code=used.serial.code, actor=alice)
    services.record_sales(
        reseller=reseller, sales=[services.Sale(resold.serial.code, 2000, "CNY", DAY)], actor=reseller.user
    )
    recall(reseller, revoked)
    for bad in (used, resold, revoked, foreign):
        cannot_recall(reseller, good, bad)
    cannot_recall(reseller)
    services.recall(reseller=reseller, serial_ids=[good.serial_id, good.serial_id], actor=reseller.user)
    assert Refund.objects.filter(order__user=reseller.user).count() == 2


@pytest.mark.parametrize(("days", "after", "is_recallable"), [(14, 13, True), (14, 14, False), (0, 0, False)])
def test_stock_is_given_back_within_the_levels_days(rita: User, days: int, after: int, is_recallable: bool) -> None:
    reseller = make_reseller(rita, make_level(recall_days=days))
    with time_machine.travel(START, tick=False) as clock:
        [sold] = stock(reseller, priced_plan(30))
        clock.shift(timedelta(days=after))
        assert services.recallable(reseller).exists() == is_recallable
        if is_recallable:
            recall(reseller, sold)
        else:
            cannot_recall(reseller, sold)


def test_a_recall_of_all_that_is_left_to_pay_back_takes_only_what_is_named(
    reseller: Reseller, root: User, alice: User
) -> None:
    """Staff have given a part of the order back before: what the recall names is all of its money, not all of it."""
    make_server()
    sold = stock(reseller, priced_plan(30), 3)
    redeem(user=alice, code=sold[0].serial.code, actor=alice)
    refund_order(order_id=sold[0].line.order_id, amount=1000, reason="she was cross", actor=root)

    recall(reseller, *sold[1:])

    assert SerialNumber.objects.get(pk=sold[0].serial_id).status == Status.USED
    assert Lease.objects.get(user=alice).is_active
    assert check_books() == []


def test_more_than_is_left_of_the_order_is_not_given_back(reseller: Reseller, root: User) -> None:
    sold = stock(reseller, priced_plan(30), 2)
    refund_order(order_id=sold[0].line.order_id, amount=1500, reason="asked", actor=root)
    cannot_recall(reseller, sold[0])


def test_what_is_kept_costs_what_so_few_cost_however_it_is_given_back(reseller: Reseller) -> None:
    """Else whoever wants one would buy ten at their price, and give nine of them back."""
    plan = priced_plan(30)
    wholesale_price(plan, 900, from_quantity=10)
    sold = stock(reseller, plan, 10, price=1000)
    assert sold[0].amount == 900
    assert [recall(reseller, *some)[0].amount for some in (sold[:5], sold[5:9], sold[9:])] == [4000, 4000, 1000]
    assert Order.objects.get().state == Order.State.REFUNDED
    assert check_books() == []


def test_a_recall_goes_by_the_prices_of_the_order(reseller: Reseller) -> None:
    plan = priced_plan(30)
    small = wholesale_price(plan, 900, from_quantity=10)
    sold = stock(reseller, plan, 10, price=1000)
    wholesale_price(plan, 2000)
    small.delete()
    assert [recall(reseller, *some)[0].amount for some in (sold[:5], sold[5:])] == [4000, 5000]


def test_margins_are_reckoned_with_what_the_kept_have_cost_in_the_end(reseller: Reseller, root: User) -> None:
    plan = priced_plan(30)
    wholesale_price(plan, 900, from_quantity=10)
    sold = stock(reseller, plan, 10, price=1000)
    sell(reseller, sold[9], 1500)
    recall(reseller, *sold[:5])
    assert costs(*sold[5:]) == [1000] * 5
    assert [one.margin for one in sales_by_month(reseller).values()] == [{"CNY": 500}]
    refund_order(order_id=sold[0].line.order_id, amount=1000, reason="was slow", actor=root)
    assert costs(*sold[5:]) == [800] * 5
    assert [batch.sums.margin for batch in batches_of(reseller, most=5)] == [{"CNY": 700}]
    assert check_books() == []


def costs(*sold: SoldSerial) -> list[int]:
    return [SoldSerial.objects.get(pk=one.pk).cost for one in sold]


def test_of_an_order_of_several_lines_what_is_kept_of_the_others_stays_paid(reseller: Reseller) -> None:
    cheap, dear = priced_plan(30, 1990), priced_plan(365, 19_900)
    wholesale_price(cheap, 1000)
    wholesale_price(dear, 9000)
    items = [
        Item(Kind.WHOLESALE, plan=cheap, quantity=2),
        Item(Kind.WHOLESALE, plan=dear, quantity=2),
        Item(Kind.GIFT, plan=cheap),
    ]
    order = settled(place_order(user=reseller.user, items=items, actor=reseller.user))
    sold = SoldSerial.objects.filter(line__order=order).order_by("line", "id")

    assert [recall(reseller, *some)[0].amount for some in (sold[:1], sold[1:3], sold[3:4])] == [1000, 10_000, 9000]

    order.refresh_from_db()
    assert (order.state, order.refundable) == (Order.State.FULFILLED, 1990)
    assert SerialNumber.objects.get(pk=sold[4].serial_id).status == Status.UNUSED
    cannot_recall(reseller, sold[4])
    assert check_books() == []


# --- what it was resold for -------------------------------------------------------------------------


def sell(reseller: Reseller, sold: SoldSerial, price: int, **more: object) -> int:
    values: dict[str, object] = {"currency": "CNY", "sold_on": DAY, **more}
    one = services.Sale(sold.serial.code, price, **values)  # type: ignore[arg-type]
    return services.record_sales(reseller=reseller, sales=[one], actor=reseller.user)


def test_margins_by_serial_batch_and_month_are_price_less_cost(reseller: Reseller, other: Reseller) -> None:
    plan = priced_plan(30)
    first, second, third = stock(reseller, plan, 3, price=1000)
    [dearer] = stock(reseller, plan, price=1200)
    [foreign] = stock(other, plan, price=1)
    sell(other, foreign, 9999)
    for sold, price, day in ((first, 2500, DAY), (second, 900, DAY), (dearer, 2000, date(2026, 2, 1))):
        sell(reseller, sold, price, sold_on=day)

    assert [one.price - one.sold.amount for one in Resale.objects.filter(sold__in=[first, second]).order_by("id")] == [
        1500,
        -100,
    ]
    months = sales_by_month(reseller)
    assert {month: sums.margin for month, sums in months.items()} == {
        date(2026, 2, 1): {"CNY": 800},
        date(2026, 1, 1): {"CNY": 1400},
    }
    batches = {batch.number: batch for batch in batches_of(reseller, most=10)}
    batch = batches[first.line.order.number]
    assert (batch.bought, batch.sold, batch.sums.margin) == (3, 2, {"CNY": 1400})
    assert third.serial.status == Status.UNUSED


def test_recording_a_sale_again_corrects_it(reseller: Reseller) -> None:
    [sold] = stock(reseller, priced_plan(30))
    sell(reseller, sold, 2500, customer="王先生", note="微信")
    made = Resale.objects.get()
    sell(reseller, sold, 2600, customer="王小姐")
    again = Resale.objects.get()
    assert (again.pk, again.price, again.customer, again.note) == (made.pk, 2600, "王小姐", "")
    assert again.created_at == made.created_at


def test_a_code_is_found_however_it_is_written(reseller: Reseller) -> None:
    [sold] = stock(reseller, priced_plan(30))
    written = f" {sold.serial.code[:4].lower()}-{sold.serial.code[4:]} "
    sales = [services.Sale(written, 2000, "CNY", DAY), services.Sale(sold.serial.code, 2100, "CNY", DAY)]
    assert services.record_sales(reseller=reseller, sales=sales, actor=reseller.user) == 1
    assert Resale.objects.get().price == 2100


@pytest.mark.usefixtures("clock")
def test_a_sale_of_a_day_to_come_is_refused_whole(reseller: Reseller) -> None:
    first, second = stock(reseller, priced_plan(30), 2)
    tomorrow, later = today() + timedelta(days=1), today() + timedelta(days=2)
    sales = [services.Sale(first.serial.code, 2000, "CNY", DAY), services.Sale(second.serial.code, 2000, "CNY", later)]
    refusal = refusal_of("day_to_come", services.record_sales, reseller=reseller, sales=sales, actor=reseller.user)
    assert second.serial.code in str(refusal)
    assert not Resale.objects.exists()
    sell(reseller, first, 2000, sold_on=tomorrow)
    assert read(f"AB-1,5,,{tomorrow}")[0].sold_on == tomorrow, "somewhere it is tomorrow already"
    refusal = fault(f"AB-1,5\nAB-2,5,,{later}")
    assert "has not come yet" in str(refusal)
    assert refusal.extra["line"] == 2


def test_sales_of_anothers_stock_are_refused_whole(reseller: Reseller, other: Reseller, alice: User) -> None:
    plan = priced_plan(30)
    [own], [foreign] = stock(reseller, plan), stock(other, plan)
    retail = deliver(order_id=paid_order(alice, plan).pk)
    bought = SoldSerial.objects.get(line__order=retail)
    for code in (foreign.serial.code, bought.serial.code, new_code_of(plan), "A" * 24, ""):
        sales = [services.Sale(one, 2000, "CNY", DAY) for one in (own.serial.code, code)]
        refusal = refusal_of("not_your_stock", services.record_sales, reseller=reseller, sales=sales, actor=None)
        assert code in str(refusal)
    assert not Resale.objects.exists()


def test_what_was_given_back_unsold_cannot_be_sold_any_more(reseller: Reseller) -> None:
    [sold] = stock(reseller, priced_plan(30))
    recall(reseller, sold)
    sales = [services.Sale(sold.serial.code, 2000, "CNY", DAY)]
    refusal_of("not_your_stock", services.record_sales, reseller=reseller, sales=sales, actor=reseller.user)


def test_a_sale_of_what_staff_took_back_later_can_still_be_corrected(reseller: Reseller, root: User) -> None:
    [sold] = stock(reseller, priced_plan(30))
    sell(reseller, sold, 2500)
    refund_order(order_id=sold.line.order_id, reason="fraud", actor=root)
    sell(reseller, sold, 0)
    assert Resale.objects.get().price == 0


def test_a_thousand_sales_cost_few_queries(reseller: Reseller) -> None:
    sold = stock(reseller, priced_plan(30), 1000, price=1)
    sales = [services.Sale(one.serial.code, 2000, "CNY", DAY) for one in sold]
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert services.record_sales(reseller=reseller, sales=sales, actor=reseller.user) == 1000
    assert len(queries) < 20
    assert Resale.objects.count() == 1000


# --- tables of sales --------------------------------------------------------------------------------


def read(text: str, currency: str = "CNY") -> list[services.Sale]:
    return services.sales_of_csv(text, currency=currency, day=DAY)


def test_a_table_is_read_with_and_without_its_first_line() -> None:
    wanted = [
        services.Sale("AB-1", 1990, "CNY", date(2026, 1, 3), "王先生", "微信，老客户"),
        services.Sale("AB-2", 2000, "CNY", DAY),
    ]
    body = 'AB-1,19.90,王先生,2026-01-03,"微信，老客户"\r\nAB-2,20\r\n\r\n'
    assert read(body) == read("code,price,customer,date,note\r\n" + body) == wanted
    # As Excel in China saves it.
    assert read("\ufeff序列号,价格,客户,日期,备注\r\n" + body) == wanted


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("first", ["", "code,price,customer,date,note\n", "序列号,价格\n"])
def test_what_stands_between_the_columns_is_what_the_first_line_has(separator: str, first: str) -> None:
    others = ",;".replace(separator, "")
    text = f"{first}AB-1,19.90,王先生,2026/1/3,-\nAB-2,20\n".replace(",", separator).replace("-\n", f"{others}\n")
    assert read(text) == [
        services.Sale("AB-1", 1990, "CNY", date(2026, 1, 3), "王先生", others),
        services.Sale("AB-2", 2000, "CNY", DAY),
    ]


@pytest.mark.parametrize("text", ["2026/01/13", "2026/1/13", "2026-1-13", "2026.01.13"])
def test_days_are_read_as_spreadsheets_write_them(text: str) -> None:
    assert read(f"AB-1,5,,{text}")[0].sold_on == date(2026, 1, 13)


def test_yen_have_no_decimals() -> None:
    assert read("AB-1,500", "JPY")[0].price == 500
    assert "line 1" in str(fault("AB-1,500.5", currency="JPY")).lower()


def test_formulas_are_text_and_what_our_export_put_before_them_is_taken_off() -> None:
    [sale] = read("AB-1,5,'=HYPERLINK(1),,=1+1")
    assert (sale.customer, sale.note) == ("=HYPERLINK(1)", "=1+1")


def fault(text: str, currency: str = "CNY") -> PortalError:
    with pytest.raises(PortalError) as refusal:
        read(text, currency)
    assert refusal.value.code == "invalid_csv"
    return refusal.value


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("AB-2", "price"),
        ("AB-2,", "price"),
        ("AB-2,free", "“free” is not a price"),
        ("AB-2,=1+1", "“=1+1” is not a price"),
        ("AB-2,1.005", "price"),
        ("AB-2,1e3", "price"),
        ("AB-2,99999999999999", "price"),
        ("AB-2,-5", "below zero"),
        ("AB-2,5,,03.01.2027", "“03.01.2027” is not a date"),
        ("AB-2,5,,2027-02-30", "is not a date"),
        (",5,王先生", "code is missing"),
        ("--,5", "code is missing"),
        ("ab1,5", "in line 2 already"),
        (f"AB-2,5,{'x' * 200_000}", "cannot be read"),
        ("AB-2;5", "price"),
    ],
)
def test_each_fault_names_its_line(wrong: str, said: str) -> None:
    refusal = fault(f"code,price\nAB-1,5\n\n{wrong}\n")
    assert said in str(refusal)
    assert "Line 4" in str(refusal)
    assert refusal.extra["line"] == 4
    assert "Nothing was recorded" in str(refusal)


def test_the_line_is_that_of_the_file_where_cells_have_several() -> None:
    assert fault('AB-1,5,"two\nlines"\nAB-2,bad\n').extra["line"] == 3


@pytest.mark.parametrize("text", ["", "\n\n", "code,price\n", "\ufeff", "序列号,价格\n,,,\n"])
def test_a_table_without_a_sale_is_refused(text: str) -> None:
    assert "no sale" in str(fault(text))


def test_a_table_may_have_so_many_lines_and_no_more() -> None:
    lines = [f"AB-{number},5" for number in range(wholesale.MOST_LINES_OF_CSV)]
    assert len(read("\n".join(lines))) == wholesale.MOST_LINES_OF_CSV
    refusal = fault("\n".join([*lines, "AB-X,5"]))
    assert refusal.extra["line"] == wholesale.MOST_LINES_OF_CSV + 1
    assert "too many lines" in str(refusal)


@pytest.mark.parametrize("text", ['AB-1,5,"never closed\n' + "x" * 200_000, '"' * 10_001])
def test_what_is_no_table_is_a_refusal_and_no_crash(text: str) -> None:
    fault(text)


@pytest.mark.parametrize("text", ["AB-1 19.90 王先生\n", "AB-1\n", "PK\x03\x04,5\n", "A\x00B,5\n"])
def test_what_is_no_such_table_is_said(text: str) -> None:
    assert "this is no table of text, with commas, semicolons or tabs" in str(fault(text))


# --- whose customers leases are ---------------------------------------------------------------------


def test_a_lease_that_began_with_stock_is_that_resellers(reseller: Reseller, alice: User) -> None:
    make_server()
    [sold] = stock(reseller, priced_plan(30))
    assert services.note_lease_contacts() == 0
    redeem(user=alice, code=sold.serial.code, actor=alice)
    assert services.note_lease_contacts() == 1
    assert services.note_lease_contacts() == 0
    contact = LeaseContact.objects.get()
    assert (contact.lease.user, contact.reseller) == (alice, reseller)


def test_of_two_resellers_the_lease_is_the_firsts(reseller: Reseller, other: Reseller, alice: User) -> None:
    make_server()
    plan = priced_plan(30)
    [later], [first] = stock(reseller, plan), stock(other, plan)
    for sold in (first, later):
        redeem(user=alice, code=sold.serial.code, actor=alice)
    lease = Lease.objects.get()
    assert first_line_of_lease(str(lease.pk)) == other.user, "she may write before the sweep has come by"
    services.note_lease_contacts()
    assert LeaseContact.objects.get().reseller == other
    assert first_line_of_lease(str(lease.pk)) == other.user


def test_a_lease_from_the_shop_stays_the_portals_whatever_is_added_to_it(reseller: Reseller, alice: User) -> None:
    make_server()
    plan = priced_plan(30)
    deliver(order_id=paid_order(alice, plan, Kind.SELF).pk)
    [sold] = stock(reseller, plan)
    redeem(user=alice, code=sold.serial.code, actor=alice)
    assert services.note_lease_contacts() == 0
    assert not LeaseContact.objects.exists()
    assert first_line_of_lease(str(Lease.objects.get().pk)) is None


def test_staff_reassign_a_lease_and_the_sweep_leaves_it(
    reseller: Reseller, other: Reseller, alice: User, root: User
) -> None:
    make_server()
    [sold] = stock(reseller, priced_plan(30))
    _serial, lease = redeem(user=alice, code=sold.serial.code, actor=alice)
    # Before the sweep has seen it, and after.
    for to in (None, other, None):
        services.reassign_lease(lease_id=lease.pk, reseller=to, reason="she asked", actor=root)
        assert services.note_lease_contacts() == 0
        assert LeaseContact.objects.get().reseller == to
        assert first_line_of_lease(str(lease.pk)) == (to.user if to else None)
    entry = AuditEntry.objects.filter(event="lease.reseller_changed").latest("id")
    assert (entry.actor, entry.data["reason"]) == (root, "she asked")
    refusal_of("reason_needed", services.reassign_lease, lease_id=lease.pk, reseller=None, reason=" ", actor=root)


# --- one's own stock only ---------------------------------------------------------------------------


def test_a_reseller_sees_the_serials_of_their_own_stock_only(reseller: Reseller, other: Reseller, alice: User) -> None:
    plan = priced_plan(30)
    [own], [foreign] = stock(reseller, plan), stock(other, plan)
    retail = SoldSerial.objects.get(line__order=deliver(order_id=paid_order(reseller.user, plan).pk))
    assert sold_for(reseller, own.serial_id) == own
    for sold in (foreign, retail):
        with pytest.raises(Http404):
            sold_for(reseller, sold.serial_id)
    with pytest.raises(Http404):
        sold_for(reseller, SerialNumber.objects.get(code=new_code_of(plan)).pk)
    assert list(services.stock_of(reseller)) == [own]
    assert OrderLine.objects.filter(kind=Kind.WHOLESALE).count() == 2
