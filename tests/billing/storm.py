"""Callback sequences at random, and a naive model of what they must come to."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from unittest.mock import patch

from accounts.models import User
from billing.gateways.base import RawCallback
from billing.models import Order, Payment, PaymentMethod, SandboxCharge
from billing.services import cancel_order, fulfilment, place_order, start_payment
from billing.services.callbacks import handle_callback
from billing.services.fulfilment import deliver, deliver_paid
from billing.services.payments import ask_about
from billing.services.pricing import Item
from derp_portal.lib.clock import now
from tests.billing.till import Kind, callback_about, signed

EVENTS = (
    *("pays", "pays", "pays", "again", "again", "pending", "closed"),
    *("tampered", "foreign_key", "too_little", "too_much", "other_currency", "stale", "garbage", "of_nobody"),
    *("expires", "cancels", "asked", "asked", "second_payment", "delivered", "killed"),
)


class Killed(BaseException):
    """The worker was killed; no handler may take this for an error."""


@dataclass
class Sequence:
    """One order and what happens to it, in order; `is_paid` is what the naive model makes of it so far."""

    order: Order
    payment: Payment
    events: list[str]
    is_paid: bool = False
    is_cancelled: bool = False
    transactions: set[str] = field(default_factory=set)
    held: int = 0

    def note(self, transaction: str, *, fits: bool) -> None:
        """The model: money counts once for each transaction, and pays if it fits an order that is not paid yet."""
        if transaction in self.transactions:
            return
        self.transactions.add(transaction)
        if fits and not self.is_paid and not self.is_cancelled:
            self.is_paid = True
        else:
            self.held += 1


def crowd(size: int) -> list[User]:
    """Customers who cannot log in."""
    return User.objects.bulk_create(
        User(username=f"payer{number}", email=f"payer{number}@example.com", password="!", timezone="UTC")
        for number in range(size)
    )


def sequences(dice: random.Random, people: list[User], plans: list[Any], method: PaymentMethod) -> Iterator[Sequence]:
    """One order for each person, with between one and seven events."""
    for user in people:
        item = Item(Kind.GIFT, plan=dice.choice(plans), quantity=dice.choice([1, 1, 1, 2]))
        order = place_order(user=user, items=[item], actor=None)
        payment = start_payment(order_id=order.pk, method=method, actor=None)
        yield Sequence(order, payment, [dice.choice(EVENTS) for _event in range(dice.randint(1, 7))])


def play(dice: random.Random, rows: list[Sequence], other: PaymentMethod) -> None:
    """All of their events, overtaking one another between the orders as they do in life."""
    waiting = [row for row in rows if row.events]
    while waiting:
        row = dice.choice(waiting)
        happen(row, row.events.pop(0), other)
        if not row.events:
            waiting.remove(row)


def happen(row: Sequence, event: str, other: PaymentMethod) -> None:
    payment, method = row.payment, row.payment.method
    paying = f"tx-{payment.reference}"
    if event in ("pays", "again"):
        row.note(paying, fits=True)
        send(method, callback_about(payment))
    elif event in ("pending", "closed"):
        send(method, callback_about(payment, event))
    elif event == "tampered":
        good = callback_about(payment)
        changed = good.body.replace(b'"amount": ', b'"amount": 1')
        send(method, RawCallback("POST", good.headers, changed, "", good.received_at))
    elif event == "foreign_key":
        # Signed with another method's key: whoever runs that one must not pay here.
        send(method, signed(other, callback_about(payment).body.decode(), now()))
    elif event in ("too_little", "too_much"):
        amount = payment.amount + (-1 if event == "too_little" else 1)
        row.note(f"{event}-{paying}", fits=False)
        send(method, callback_about(payment, amount=amount, transaction_id=f"{event}-{paying}"))
    elif event == "other_currency":
        row.note(f"usd-{paying}", fits=False)
        send(method, callback_about(payment, currency="USD", transaction_id=f"usd-{paying}"))
    elif event == "stale":
        send(method, callback_about(payment, at=now() - timedelta(minutes=6)))
    elif event == "garbage":
        send(method, RawCallback("POST", {}, b"\x00\xff{", "", now()))
    elif event == "of_nobody":
        said = json.loads(callback_about(payment).body) | {"reference": "NOBODY" + payment.reference[6:]}
        send(method, signed(method, json.dumps(said), now()))
    elif event == "expires":
        Order.objects.filter(pk=row.order.pk).update(expires_at=now())
    elif event == "cancels":
        _cancel(row)
    elif event == "asked":
        _ask(row, paying)
    elif event == "second_payment":
        _pay_twice(row, other)
    elif event == "delivered":
        deliver(order_id=row.order.pk)
    elif event == "killed":
        _kill_delivery(row)


def send(method: PaymentMethod, callback: RawCallback) -> None:
    handle_callback(method=method, callback=callback, ip="192.0.2.1")


def _cancel(row: Sequence) -> None:
    if not row.is_paid and not row.held:
        cancel_order(order_id=row.order.pk, actor=None)
        row.is_cancelled = Order.objects.get(pk=row.order.pk).state == Order.State.CANCELLED


def _ask(row: Sequence, paying: str) -> None:
    """The gateway knows of the money, though it has not called; open payments only are asked about."""
    payment = row.payment
    if Payment.objects.get(pk=payment.pk).state != Payment.State.OPEN:
        return
    SandboxCharge.objects.get_or_create(
        reference=payment.reference,
        defaults={
            "method": payment.method,
            "amount": payment.amount,
            "paid_amount": payment.amount,
            "currency": payment.currency,
            "state": "paid",
            "transaction_id": paying,
            "paid_at": now(),
        },
    )
    row.note(paying, fits=True)
    ask_about(payment.pk)


def _pay_twice(row: Sequence, other: PaymentMethod) -> None:
    """By another way to pay as well: one of the two pays, the other goes to a person."""
    order = Order.objects.get(pk=row.order.pk)
    if row.held:
        return  # Nobody is asked for more while money waits for a person.
    if order.state != Order.State.PENDING or (order.expires_at and order.expires_at <= now()):
        return
    second = start_payment(order_id=order.pk, method=other, actor=None)
    row.note(f"tx-{second.reference}", fits=True)
    send(other, callback_about(second))


def _kill_delivery(row: Sequence) -> None:
    """Killed after the serials were made, before the order says that it was delivered."""
    with patch.object(fulfilment, "move", side_effect=Killed), suppress(Killed):
        deliver(order_id=row.order.pk)


def settle() -> None:
    """The sweeps, until nothing is left to do."""
    while deliver_paid():
        pass
