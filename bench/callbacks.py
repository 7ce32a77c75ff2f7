"""Callbacks that pay an order, against the same signature check, rows and commit without our rules around them."""

from __future__ import annotations

import itertools
from unittest.mock import patch

from django.db import transaction

from accounts.models import User
from bench.report import line, median_seconds
from billing.models import Order, Payment, Posting, Transfer
from billing.services import gateway_of, orders
from billing.services.callbacks import handle_callback
from billing.services.ledger import today
from derp_portal.lib.clock import now
from tests.billing.till import begin, callback_about, make_method, order_of, priced_plan

COUNT = 300
ROUNDS = 3


def measure() -> None:
    """Each round pays COUNT fresh orders, then hears of the same payments again."""
    plan, method = priced_plan(30), make_method("bench")
    buyer = User.objects.create_user("bench-buyer", "bench-buyer@example.com")
    numbers = itertools.count()

    def fresh() -> list[Payment]:
        with patch.object(orders, "MOST_OPEN_ORDERS", 10**9):
            return [begin(order_of(buyer, plan), method) for _number in range(COUNT)]

    batches = iter([fresh() for _round in range(2 * ROUNDS)])
    heard: list[Payment] = []

    def bare() -> None:
        gateway = gateway_of(method)
        for payment in next(batches):
            notice = gateway.read_callback(callback_about(payment))
            with transaction.atomic():
                _write_bare(payment, notice.transaction_id, next(numbers))

    def ours() -> None:
        for payment in (batch := next(batches)):
            handle_callback(method=method, callback=callback_about(payment), ip=None)
        heard.extend(batch)

    def again() -> None:
        for payment in heard[:COUNT]:
            handle_callback(method=method, callback=callback_about(payment), ip=None)

    baseline = median_seconds([bare] * ROUNDS)
    counted = median_seconds([ours] * ROUNDS)
    repeated = median_seconds([again] * ROUNDS)
    line(f"callbacks that pay, {COUNT / counted:,.0f}/s", counted, baseline, "the bare rows and commit")
    line(f"callbacks repeated, {COUNT / repeated:,.0f}/s", repeated, baseline, "the bare rows and commit")


def _write_bare(payment: Payment, transaction_id: str, number: int) -> None:
    """What must be written whatever the rules are: the money, two postings, the order and the payment."""
    day = today()
    common = {"amount": payment.amount, "currency": payment.currency}
    transfer = Transfer.objects.create(
        payment=payment,
        method_id=payment.method_id,
        transaction_id=transaction_id,
        state=Transfer.State.COUNTED,
        source=Transfer.Source.CALLBACK,
        paid_at=now(),
        **common,
    )
    booked = {"booked_day": day, "booked_month": day.replace(day=1), "order_id": payment.order_id}
    for key, debit, credit in (("in", "cash", "customer_funds"), ("sold", "customer_funds", "revenue")):
        Posting.objects.create(
            key=f"bench:{key}:{number}", debit=debit, credit=credit, transfer=transfer, **common, **booked
        )
    Payment.objects.filter(pk=payment.pk).update(state=Payment.State.PAID, paid_at=now())
    Order.objects.filter(pk=payment.order_id).update(
        state=Order.State.PAID, paid_at=now(), booked_day=day, received=payment.amount
    )
