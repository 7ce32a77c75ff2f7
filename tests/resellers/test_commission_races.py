"""Many accrue, run, pay, spend, recall and redeem at once: an order earns once, a month is settled once, nothing of a
balance is spent twice and nobody loses days to a recall.

Controls show that it goes wrong without the locks: what the test then finds is why they are there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from typing import Any

import pytest
import time_machine
from django.db import IntegrityError

from accounts.models import User
from accounts.services import register
from billing.finance.books import check_books
from billing.models import Account, Order, Posting, Refund, SoldSerial
from billing.services import balance_of, balances, pay_from_balance, refund_order
from billing.services.ledger import today
from resellers import services
from resellers.models import (
    Attribution,
    CommissionLine,
    Resale,
    Reseller,
    Settlement,
    Signup,
    Suspicion,
)
from resellers.services import commissions, months, wholesale
from serials.models import LeaseTerm, SerialNumber
from serials.services import redeem
from tests.billing.test_money_races import SURELY, meet_after, words
from tests.billing.till import Kind, balance, order_of, priced_plan
from tests.resellers.trade import bring, customer_of, make_reseller, sale
from tests.resellers.wholesaling import fill_balance, stock, wholesale_price
from tests.serials.shop import START, at_once, mails, make_server

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db(transaction=True)]

JANUARY = date(2027, 1, 1)
IN_FEBRUARY = "2027-02-03T12:00:00Z"


@pytest.fixture
def reseller(rita: User) -> Reseller:
    """rita earns 15 % of everything, at once."""
    return make_reseller(rita)


def suspected(reseller: Reseller, alice: User) -> Suspicion:
    """An order that a person must look at."""
    alice.email = "rita+second@example.com"
    alice.save(update_fields=["email"])
    bring(reseller, alice)
    sale(alice, priced_plan(30, 10_000))
    services.accrue()
    return Suspicion.objects.get()


def race(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """The calls at the same moment; what came of each."""
    return at_once(calls)


def wait_after(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, until: threading.Event, seconds: float = 2.0
) -> threading.Event:
    """Whoever has got past `name` waits, for so long at most. The event that is returned: they are there."""
    there = threading.Event()
    check = getattr(module, name)

    def check_and_wait(*arguments: Any, **options: Any) -> Any:
        answer = check(*arguments, **options)
        there.set()
        until.wait(seconds)
        return answer

    monkeypatch.setattr(module, name, check_and_wait)
    return there


# --- an order earns once ----------------------------------------------------------------------------


def clearing(suspicion: Suspicion, root: User) -> Callable[[], Any]:
    return partial(services.clear, suspicion_id=suspicion.pk, reason="a namesake", actor=root)


def test_an_order_cleared_by_two_people_would_earn_twice_when_unlocked(
    unlocked: None, reseller: Reseller, alice: User, root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: both find it open and make its line, and only the constraint stops the second."""
    suspicion = suspected(reseller, alice)
    # Once they write they cannot meet any more: the second waits for the row of the first.
    meet_after(monkeypatch, commissions, "now", SURELY)

    outcomes = race([clearing(suspicion, root)] * 2)

    [error] = [one for one in outcomes if isinstance(one, IntegrityError)]
    assert "one_commission_per_order_and_reseller" in str(error)


def test_an_order_cleared_by_two_people_at_once_earns_once(
    reseller: Reseller, alice: User, root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspicion = suspected(reseller, alice)
    meet_after(monkeypatch, commissions, "earned_by")

    outcomes = race([clearing(suspicion, root)] * 3)

    assert len({line.pk for line in outcomes if isinstance(line, CommissionLine)}) == 1, words(outcomes)
    assert balance(Account.RESELLER_PAYABLES) == -1500


def test_an_order_that_one_clears_and_another_confirms_is_decided_once(
    reseller: Reseller, alice: User, root: User
) -> None:
    suspicion = suspected(reseller, alice)
    confirming = partial(services.confirm, suspicion_id=suspicion.pk, reason="her own", actor=root)

    outcomes = race([clearing(suspicion, root), confirming] * 2)

    assert words(outcomes) == ["CommissionLine", "CommissionLine", "already_decided", "already_decided"]
    assert CommissionLine.objects.count() == 1
    assert services.check_commissions() == []


def test_orders_that_many_workers_look_at_earn_once(reseller: Reseller) -> None:
    customer = customer_of(reseller)
    for _number in range(4):
        sale(customer, priced_plan(30, 10_000))

    outcomes = race([services.accrue] * 4)

    assert sum(count for count in outcomes if isinstance(count, int)) >= 4, outcomes
    assert list(CommissionLine.objects.values_list("amount", flat=True)) == [1500] * 4
    assert balance(Account.RESELLER_PAYABLES) == -6000
    assert services.check_commissions() + check_books() == []


def test_an_order_that_is_told_again_earns_nothing_more(reseller: Reseller, alice: User, root: User) -> None:
    """Replayed, and by then it is another reseller's customer: the constraint alone would let that through."""
    order = sale(customer_of(reseller), priced_plan(30, 10_000))
    services.accrue()
    other = make_reseller(alice)
    Attribution.objects.filter(user=order.user_id).update(reseller=other)
    Order.objects.update(is_news=True)

    race([services.accrue] * 3)

    assert CommissionLine.objects.get().reseller == reseller
    assert not Order.objects.filter(is_news=True).exists()
    assert balance(Account.RESELLER_PAYABLES) == -1500


def test_a_suspected_order_that_is_told_again_is_not_asked_about_twice(reseller: Reseller, alice: User) -> None:
    suspected(reseller, alice)
    Order.objects.update(is_news=True)
    services.accrue()
    assert Suspicion.objects.count() == 1
    assert not Order.objects.filter(is_news=True).exists()


# --- refunds net to zero ----------------------------------------------------------------------------


def refunded_in_two(reseller: Reseller, root: User) -> list[Callable[[], Any]]:
    order = sale(customer_of(reseller), priced_plan(30, 1990))
    services.accrue()
    parts = [refund_order(order_id=order.pk, amount=amount, reason="asked", actor=root) for amount in (663, 1327)]
    return [partial(commissions.look_at_refund, refund.pk) for refund in parts]


def taken_back() -> int:
    return -sum(CommissionLine.objects.filter(kind="reversed").values_list("amount", flat=True))


def test_two_refunds_looked_at_at_once_do_not_net_to_zero_when_unlocked(
    unlocked: None, reseller: Reseller, root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: neither sees what the other takes back, and what is rounded off is lost."""
    looks = refunded_in_two(reseller, root)
    meet_after(monkeypatch, commissions, "today", SURELY)

    race(looks)

    assert taken_back() == 298


def test_two_refunds_looked_at_at_once_net_to_zero(
    reseller: Reseller, root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = refunded_in_two(reseller, root)
    meet_after(monkeypatch, commissions, "today")

    race(looks * 2)

    assert taken_back() == 299
    assert balance(Account.RESELLER_PAYABLES) == balance(Account.COMMISSIONS) == 0


def test_a_refund_while_the_order_is_looked_at_nets_to_zero(reseller: Reseller, root: User) -> None:
    customer = customer_of(reseller)
    for _time in range(5):
        order = sale(customer, priced_plan(30, 1990))
        refund = partial(refund_order, order_id=order.pk, reason="asked", actor=root)

        race([services.accrue, refund, services.accrue])
        services.accrue()

        assert sum(CommissionLine.objects.filter(order=order).values_list("amount", flat=True)) == 0
    assert services.check_commissions() + check_books() == []


# --- a month that is run gets no more lines ---------------------------------------------------------


def late_line_meets_the_run(reseller: Reseller, monkeypatch: pytest.MonkeyPatch, seconds: float = 2.0) -> None:
    """One worker has chosen January for a line; another runs January before that line is written."""
    customer = customer_of(reseller)
    with time_machine.travel(START, tick=False):
        sale(customer, priced_plan(30, 10_000))
        services.accrue()
        late = sale(customer, priced_plan(30, 20_000))
    is_run = threading.Event()
    has_chosen = wait_after(monkeypatch, commissions, "_month_for", is_run, seconds)

    def run() -> int:
        assert has_chosen.wait(SURELY)
        try:
            return services.run_months()
        finally:
            is_run.set()

    with time_machine.travel(IN_FEBRUARY, tick=False):
        outcomes = race([partial(commissions.look_at_order, late.pk), run])
    assert isinstance(outcomes[0], CommissionLine), outcomes


def test_a_line_lands_in_a_month_after_it_was_settled_when_unlocked(
    unlocked: None, reseller: Reseller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: the line is January's, and January's settlement knows nothing of it."""
    late_line_meets_the_run(reseller, monkeypatch, SURELY)

    assert set(CommissionLine.objects.values_list("settle_month", flat=True)) == {JANUARY}
    assert Settlement.objects.get().amount == 1500
    assert services.check_commissions() != []


def test_a_line_never_lands_in_a_month_after_it_was_settled(
    reseller: Reseller, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_line_meets_the_run(reseller, monkeypatch)

    assert Settlement.objects.get().amount == 4500
    assert services.check_commissions() == []


def test_whatever_comes_while_months_are_run_is_settled_with_them_or_later(reseller: Reseller, root: User) -> None:
    customer = customer_of(reseller)
    with time_machine.travel(START, tick=False):
        orders = [sale(customer, priced_plan(30, 10_000)) for _number in range(6)]
        for order in orders[:3]:
            commissions.look_at_order(order.pk)
    refunds = [partial(refund_order, order_id=order.pk, reason="asked", actor=root) for order in orders[:2]]
    with time_machine.travel(IN_FEBRUARY, tick=False) as clock:
        race([services.run_months, services.accrue, *refunds, services.accrue, services.run_months])
        services.accrue()
        assert services.check_commissions() == []
        clock.move_to("2027-03-03T12:00:00Z")
        services.run_months()
    settled = sum(Settlement.objects.values_list("amount", flat=True))
    assert settled == 4 * 1500 == -balance(Account.RESELLER_PAYABLES)
    assert services.check_commissions() + check_books() == []


# --- a month is settled once, and paid once ---------------------------------------------------------


def january(rita: User, alice: User) -> None:
    """January's lines of two resellers."""
    for user, name in ((rita, "carol"), (alice, "dora")):
        customer = customer_of(make_reseller(user), name)
        with time_machine.travel(START, tick=False):
            sale(customer, priced_plan(30, 10_000))
            services.accrue()


def test_two_runs_at_once_settle_twice_when_unlocked(
    unlocked: None, rita: User, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: both find nothing settled, and only the constraint stops the second."""
    january(rita, alice)
    meet_after(monkeypatch, months, "_to_carry", SURELY)

    with time_machine.travel(IN_FEBRUARY, tick=False):
        outcomes = race([services.run_months] * 2)

    [error] = [one for one in outcomes if isinstance(one, IntegrityError)]
    assert "one_settlement_per_reseller_and_month" in str(error)


def test_of_many_runs_at_once_one_settles(rita: User, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    january(rita, alice)
    monkeypatch.setattr(months, "CHUNK", 1)
    meet_after(monkeypatch, months, "_to_carry")

    with time_machine.travel(IN_FEBRUARY, tick=False):
        outcomes = race([services.run_months] * 3)

    assert sum(made for made in outcomes if isinstance(made, int)) == 2, outcomes
    assert [one.payable for one in Settlement.objects.all()] == [1500, 1500]
    assert services.check_commissions() == []


def approved(reseller: Reseller, root: User) -> Settlement:
    customer = customer_of(reseller)
    with time_machine.travel(START, tick=False):
        sale(customer, priced_plan(30, 10_000))
        services.accrue()
    with time_machine.travel(IN_FEBRUARY, tick=False):
        services.run_months()
    return services.approve_settlement(settlement_id=Settlement.objects.get().pk, actor=root)


def paying(settlement: Settlement, root: User) -> Callable[[], Any]:
    return partial(services.pay_settlement, settlement_id=settlement.pk, reference="bank 7", actor=root)


def rejecting(settlement: Settlement, root: User) -> Callable[[], Any]:
    return partial(services.reject_settlement, settlement_id=settlement.pk, reason="wrong account", actor=root)


def test_a_settlement_is_paid_and_rejected_when_unlocked(
    unlocked: None, reseller: Reseller, root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: the transfer is booked, and what it paid may be carried into the next month as well."""
    settlement = approved(reseller, root)
    meet_after(monkeypatch, months, "_locked", SURELY)

    outcomes = race([paying(settlement, root), rejecting(settlement, root)])

    assert words(outcomes) == ["Settlement", "Settlement"]


def test_a_settlement_is_paid_or_rejected(reseller: Reseller, root: User, monkeypatch: pytest.MonkeyPatch) -> None:
    settlement = approved(reseller, root)
    meet_after(monkeypatch, months, "_locked")

    outcomes = race([paying(settlement, root), rejecting(settlement, root)])

    assert words(outcomes) == ["Settlement", "already_decided"]
    settlement.refresh_from_db()
    assert Posting.objects.filter(key=f"settlement:{settlement.pk}").count() == (settlement.state == "paid")
    assert services.check_commissions() == []


def test_two_payouts_at_once_book_twice_when_unlocked(
    unlocked: None, reseller: Reseller, root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: both find it approved, and only the ledger's unique key stops the second."""
    settlement = approved(reseller, root)
    meet_after(monkeypatch, months, "_locked", SURELY)

    outcomes = race([paying(settlement, root)] * 2)

    assert [one for one in outcomes if isinstance(one, IntegrityError)], words(outcomes)


def test_of_two_payouts_at_once_one_is_booked(reseller: Reseller, root: User, monkeypatch: pytest.MonkeyPatch) -> None:
    settlement = approved(reseller, root)
    meet_after(monkeypatch, months, "_locked")

    outcomes = race([paying(settlement, root)] * 3)

    assert words(outcomes) == ["Settlement"] * 3
    assert balance(Account.RESELLER_PAYABLES) == 0
    assert balance(Account.CASH) == 10_000 - 1500
    assert services.check_commissions() == []


def test_statements_are_sent_once_by_many_workers(reseller: Reseller, root: User) -> None:
    approved(reseller, root)
    race([services.send_statements] * 3)
    assert len(mails("settlement")) == 1


# --- a balance is spent once ------------------------------------------------------------------------


def two_orders_and_money_for_one(reseller: Reseller) -> list[Callable[[], Any]]:
    plan = priced_plan(30)
    wholesale_price(plan)
    fill_balance(reseller, 1500)
    orders = [order_of(reseller.user, plan, Kind.WHOLESALE) for _number in range(2)]
    return [partial(pay_from_balance, order_id=order.pk, actor=reseller.user) for order in orders]


def test_two_orders_overdraw_a_balance_when_unlocked(
    unlocked: None, reseller: Reseller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: both see 15.00, and each spends 10.00 of it."""
    orders = two_orders_and_money_for_one(reseller)
    meet_after(monkeypatch, balances, "balance_of", SURELY)

    race(orders)

    assert balance_of(reseller.user, "CNY") == -500


def test_two_orders_never_overdraw_a_balance(reseller: Reseller, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = two_orders_and_money_for_one(reseller)
    meet_after(monkeypatch, balances, "balance_of")

    outcomes = race(orders)

    assert words(outcomes) == ["Order", "balance_too_small"]
    assert balance_of(reseller.user, "CNY") == 500
    assert check_books() == []


def test_a_balance_is_spent_or_given_back(reseller: Reseller, root: User) -> None:
    spend = two_orders_and_money_for_one(reseller)
    paid_in = Order.objects.get(lines__kind=Kind.TOP_UP)

    outcomes = race([spend[0], partial(refund_order, order_id=paid_in.pk, reason="asked", actor=root)])

    assert words(outcomes) in (["Order", "balance_spent"], ["Refund", "balance_too_small"])
    assert balance_of(reseller.user, "CNY") in (500, 0)
    assert check_books() == []


def test_the_same_click_buys_stock_once(reseller: Reseller) -> None:
    plan = priced_plan(30)
    wholesale_price(plan)
    fill_balance(reseller, 5000)
    buy = partial(
        services.buy_stock,
        reseller=reseller,
        plan=plan,
        quantity=2,
        currency="CNY",
        from_balance=True,
        client_key="click",
    )

    outcomes = race([buy] * 3)

    assert len({order.pk for order in outcomes if isinstance(order, Order)}) == 1, words(outcomes)
    assert balance_of(reseller.user, "CNY") == 3000


# --- stock is given back, redeemed or resold --------------------------------------------------------


def recalling(reseller: Reseller, sold: SoldSerial) -> Callable[[], Any]:
    return partial(services.recall, reseller=reseller, serial_ids=[sold.serial_id], actor=reseller.user)


def recall_meets_redeeming(
    reseller: Reseller, alice: User, monkeypatch: pytest.MonkeyPatch, seconds: float = 2.0
) -> list[Any]:
    """The recall has found the serial unused and is about to give it back: then alice redeems it, if she can."""
    make_server()
    [sold] = stock(reseller, priced_plan(30))
    is_redeemed, has_looked = threading.Event(), threading.Event()

    def refund_later(**options: Any) -> Refund:
        has_looked.set()
        is_redeemed.wait(seconds)
        return refund_order(**options)

    monkeypatch.setattr(wholesale, "refund_order", refund_later)

    def redeem_meanwhile() -> Any:
        assert has_looked.wait(SURELY)
        try:
            return redeem(user=alice, code=sold.serial.code, actor=alice)
        finally:
            is_redeemed.set()

    return race([recalling(reseller, sold), redeem_meanwhile])


def test_a_customer_loses_days_to_a_recall_when_unlocked(
    unlocked: None, reseller: Reseller, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: what was unused when the recall looked is taken from alice when it acts."""
    outcomes = recall_meets_redeeming(reseller, alice, monkeypatch, SURELY)

    assert words(outcomes) == ["list", "tuple"]
    assert not LeaseTerm.objects.exclude(state="done").exists()


def test_a_recall_never_takes_days_from_a_customer(
    reseller: Reseller, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = recall_meets_redeeming(reseller, alice, monkeypatch)

    assert words(outcomes) == ["list", "serial_revoked"]
    assert SerialNumber.objects.get().status == SerialNumber.Status.REVOKED
    assert not LeaseTerm.objects.exists()


def test_a_serial_is_recalled_or_redeemed(reseller: Reseller, alice: User) -> None:
    make_server()
    for _time in range(4):
        [sold] = stock(reseller, priced_plan(30))

        outcomes = race([recalling(reseller, sold), partial(redeem, user=alice, code=sold.serial.code, actor=alice)])

        assert words(outcomes) in (["list", "serial_revoked"], ["not_recallable", "tuple"])
        is_redeemed = LeaseTerm.objects.filter(serial=sold.serial_id).exists()
        assert Refund.objects.filter(order=sold.line.order_id).exists() != is_redeemed
    assert check_books() == []


def test_a_recall_and_a_customer_of_the_same_order_do_not_wait_for_each_other(
    reseller: Reseller, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """alice has redeemed one serial of the order and redeems another, while the recall holds just that one."""
    make_server()
    before, sold = stock(reseller, priced_plan(30), 2)
    redeem(user=alice, code=before.serial.code, actor=alice)
    has_locked = wait_after(monkeypatch, wholesale, "_lock_stock", threading.Event())

    def redeem_meanwhile() -> Any:
        assert has_locked.wait(SURELY)
        return redeem(user=alice, code=sold.serial.code, actor=alice)

    outcomes = race([recalling(reseller, sold), redeem_meanwhile])

    assert words(outcomes) == ["list", "serial_revoked"]


def test_the_same_serial_recalled_by_many_is_given_back_once(reseller: Reseller) -> None:
    [sold] = stock(reseller, priced_plan(30))

    outcomes = race([recalling(reseller, sold)] * 4)

    assert words(outcomes) == ["list", *["not_recallable"] * 3]
    assert Refund.objects.get().amount == sold.amount
    assert check_books() == []


def reselling(reseller: Reseller, sold: SoldSerial, price: int) -> Callable[[], Any]:
    sale_of_it = services.Sale(sold.serial.code, price, "CNY", today())
    return partial(services.record_sales, reseller=reseller, sales=[sale_of_it], actor=reseller.user)


def test_a_serial_is_resold_or_recalled(reseller: Reseller) -> None:
    for _time in range(3):
        [sold] = stock(reseller, priced_plan(30))

        outcomes = race([recalling(reseller, sold), reselling(reseller, sold, 2500)])

        assert words(outcomes) in (["list", "not_your_stock"], ["int", "not_recallable"])
        is_resold = Resale.objects.filter(sold=sold).exists()
        assert SoldSerial.objects.filter(pk=sold.pk, taken_back_at=None).exists() == is_resold


def test_the_same_serial_resold_at_once_is_resold_once(reseller: Reseller) -> None:
    [sold] = stock(reseller, priced_plan(30))

    outcomes = race([reselling(reseller, sold, price) for price in (2500, 2600, 2700)])

    assert outcomes == [1, 1, 1]
    assert Resale.objects.get().price in (2500, 2600, 2700)


# --- whose customer somebody is ---------------------------------------------------------------------


def test_a_reference_read_by_many_makes_one_customer(reseller: Reseller) -> None:
    reference = services.reference_for(reseller)
    register(username="dora", email="dora@example.com", password="correct horse battery", signup_ref=reference)

    race([services.read_signups] * 4)

    assert Signup.objects.count() == Attribution.objects.count() == 1


def test_a_correction_while_the_reference_is_read_is_the_last_word(reseller: Reseller, alice: User, root: User) -> None:
    other = make_reseller(alice)
    reference = services.reference_for(reseller)
    dora = register(username="dora", email="dora@example.com", password="correct horse battery", signup_ref=reference)
    correct = partial(services.correct_attribution, user_id=dora.pk, reseller=other, reason="called", actor=root)

    outcomes = race([services.read_signups, correct, services.read_signups])

    assert not [one for one in outcomes if isinstance(one, Exception)], words(outcomes)
    assert Attribution.objects.get(until=None).reseller == other
    assert Signup.objects.get().reseller == reseller
