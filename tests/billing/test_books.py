"""Checking the books: silent while all is well, and every kind of wrong is found and named."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import User
from billing.finance.books import MOST, check_books
from billing.models import Account, Order, Posting, Refund, SoldSerial, Transfer
from billing.services.ledger import post
from tests.billing.bookkeeping import (
    Kind,
    Line,
    customer,
    deliver,
    give_back,
    pay,
    place,
    plan,
    return_transfer,
    sell,
    shop,
    take_in,
)

pytestmark = [pytest.mark.django_db, pytest.mark.both_databases]
HELD = Transfer.State.HELD


@pytest.fixture
def order(alice: User, rita: User) -> Order:
    """A bit of everything, all of it right; alice's order of two serials and a pack, a part of it given back."""
    month = plan(30)
    mine = sell(Line(1999, month, quantity=2), Line(500), user=alice, fee=12)
    give_back(mine, 700)
    sell(Line(9000, month, Kind.WHOLESALE, 7), user=rita, reseller=rita, currency="USD")
    sell(Line(1500, month, Kind.OUTSIDE), channel=shop(), fee=75)
    sell(Line(0, plan(3)), user=alice)
    give_back(sell(Line(100, month), user=rita), 100, is_sent=False, takes_back=True)
    top_up = sell(Line(5000, kind=Kind.TOP_UP), user=rita, reseller=rita)
    give_back(top_up, 800)
    bought = pay(place([Line(2000, month, Kind.WHOLESALE, 4)], user=rita, reseller=rita), from_balance=True)
    deliver(bought)
    give_back(bought, 500)
    waiting = place([Line(1000, month)], user=alice)
    take_in(waiting, 400, state=HELD)
    return_transfer(take_in(waiting, 300, state=HELD))
    return mine


def codes() -> set[str]:
    return {finding.code for finding in check_books()}


def change(model: type[Any], pk: int, **fields: Any) -> None:
    """Past the model, which refuses: somebody with a database shell."""
    row = model._default_manager.filter(pk=pk)
    names = ", ".join(f"{name} = %s" for name in fields)
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {model._meta.db_table} SET {names} WHERE id = %s", [*fields.values(), pk])
    assert row.exists()


def forget(*postings: Posting) -> None:
    with connection.cursor() as cursor:
        cursor.executemany("DELETE FROM ledger WHERE id = %s", [[one.pk] for one in postings])


def test_books_that_are_right_have_no_findings(order: Order) -> None:
    assert check_books() == []
    out = StringIO()
    call_command("check_books", stdout=out)
    assert out.getvalue() == "The books balance.\n"


def test_empty_books_balance(db: None) -> None:
    assert check_books() == []


WRONGS: dict[str, tuple[Callable[[Order], object], set[str]]] = {
    "an order that received other than was booked": (
        lambda order: change(Order, order.pk, received=order.received + 1),
        {"order_received"},
    ),
    "a refund that the order does not know": (
        lambda order: change(Order, order.pk, refunded=0),
        {"order_refunded"},
    ),
    "a sale that was never booked": (
        lambda order: forget(*order.postings.filter(line__isnull=False)),
        {"order_not_booked", "customer_funds", "refunds_due", "serial_shares"},
    ),
    "a sale of one line that was booked twice": (
        lambda order: post(
            "again",
            debit=Account.CUSTOMER_FUNDS,
            credit=Account.REVENUE,
            amount=500,
            currency="CNY",
            order=order,
            line=order.lines.last(),
        ),
        {"order_received", "customer_funds"},
    ),
    "a sale in another currency": (
        lambda order: change(Posting, order.postings.filter(credit=Account.REVENUE).latest("id").pk, currency="USD"),
        {"foreign_currency", "customer_funds"},
    ),
    "a top-up that was booked as a sale": (
        lambda order: change(Posting, Posting.objects.get(line__kind=Kind.TOP_UP, refund=None).pk, credit="cash"),
        {"order_not_booked", "order_received"},
    ),
    "an order from the balance that was not booked": (
        lambda order: forget(Posting.objects.get(order__is_from_balance=True, refund=None)),
        {"order_not_booked", "order_received", "serial_shares"},
    ),
    "a sale of no order": (
        lambda order: post("loose", debit=Account.CASH, credit=Account.REVENUE, amount=1, currency="CNY"),
        {"posting_without_order"},
    ),
    "a transfer that was never booked": (
        lambda order: forget(order.postings.get(debit=Account.CASH)),
        {"transfer_not_booked", "customer_funds"},
    ),
    "a transfer booked with another amount": (
        lambda order: change(Posting, order.postings.get(debit=Account.CASH).pk, amount=2498),
        {"transfer_not_booked", "customer_funds"},
    ),
    "a fee that was not booked": (
        lambda order: forget(order.postings.get(debit=Account.GATEWAY_FEES)),
        {"fee_not_booked"},
    ),
    "held money that is gone from the documents": (
        lambda order: change(Transfer, Transfer.objects.get(amount=400).pk, state="returned"),
        {"customer_funds"},
    ),
    "a refund that says it is done though nothing left": (
        lambda order: change(Refund, Refund.objects.get(state="due").pk, state="done", done_at="2027-01-01"),
        {"refunds_due", "refund_not_booked"},
    ),
    "a refund that left though it is not done": (
        lambda order: change(Refund, order.refunds.get().pk, state="due"),
        {"refunds_due", "refund_not_booked"},
    ),
    "a delivery too few": (
        lambda order: SoldSerial.objects.filter(line__order=order).first().delete(),  # type: ignore[union-attr]
        {"delivered_count", "serial_shares"},
    ),
    "a delivery too many": (
        deliver,
        {"delivered_count", "serial_shares"},
    ),
    "a serial that is worth more than was paid": (
        lambda order: SoldSerial.objects.filter(line__order=order).update(amount=1000),
        {"serial_shares"},
    ),
    "a delivery without a payment": (
        lambda order: SoldSerial.objects.filter(line__order=order).update(
            line=Order.objects.get(state="pending").lines.get(), amount=0
        ),
        {"delivered_unpaid", "delivered_count"},
    ),
}


@pytest.mark.parametrize("wrong", WRONGS)
def test_every_wrong_is_found(order: Order, wrong: str) -> None:
    do, expected = WRONGS[wrong]
    do(order)
    assert codes() == expected


def test_findings_say_which_order_and_how_much(order: Order) -> None:
    change(Order, order.pk, received=2500)
    [finding] = check_books()
    assert finding.words == f"Order {order.number} received 25.00 CNY, but 24.99 CNY is booked as sold."
    with pytest.raises(CommandError) as failed:
        call_command("check_books")
    assert failed.value.returncode == 1
    assert str(failed.value) == f"order_received: {finding.words}"


def test_more_rows_take_no_more_queries_and_findings_are_no_flood(order: Order) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            check_books()
        return len(captured)

    few = queries()
    for number in range(MOST + 5):
        pay(place([Line(100, plan(30))], user=customer(f"c{number}")))
    assert queries() == few == 12
    assert [finding.code for finding in check_books()] == ["delivered_count"] * MOST
