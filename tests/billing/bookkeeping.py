"""Histories of the shop, written row by row as the services write them, in as few words as a test needs.

Everything happens at the moment the clock shows: `at(...)` moves it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import count
from typing import Any, NamedTuple

import time_machine

from accounts.models import User
from billing.models import (
    Account,
    Order,
    OrderLine,
    PackOffer,
    Payment,
    PaymentMethod,
    Refund,
    SalesChannel,
    SoldSerial,
    Transfer,
)
from billing.services.ledger import allocate, post, today
from derp_portal.lib.clock import now
from fleet.models import RelayGroup
from serials.models import Lease, LeaseTerm, Plan, SerialBatch, SerialNumber
from tests.serials.shop import make_plan

Kind = OrderLine.Kind
_numbers = count(1)


class Line(NamedTuple):
    """One line of an order; a pack when it names no plan, or a top-up."""

    amount: int
    plan: Plan | None = None
    kind: Kind = Kind.GIFT
    quantity: int = 1


@contextmanager
def at(moment: datetime) -> Iterator[None]:
    """The clock stands there meanwhile."""
    with time_machine.travel(moment, tick=False):
        yield


def customer(name: str) -> User:
    """Somebody who buys: as few rows as can be."""
    return User.objects.get_or_create(username=name, defaults={"email": f"{name}@example.com"})[0]


def method(code: str = "bank", currency: str = "CNY") -> PaymentMethod:
    """A way to pay."""
    made, _new = PaymentMethod.objects.get_or_create(
        code=f"{code}-{currency.lower()}", defaults={"kind": "offline", "name": code.title(), "currency": currency}
    )
    return made


def shop(code: str = "taobao") -> SalesChannel:
    """An outside shop."""
    return SalesChannel.objects.get_or_create(code=code, defaults={"name": code.title()})[0]


def pack() -> PackOffer:
    """A traffic pack on sale."""
    return PackOffer.objects.get_or_create(
        code="pack", defaults={"name": "10 GB", "extra_bytes": 10**10, "amount": 500}
    )[0]


def place(
    lines: Sequence[Line],
    *,
    user: User | None = None,
    channel: SalesChannel | None = None,
    reseller: User | None = None,
    currency: str = "CNY",
    discount: int = 0,
) -> Order:
    """An order that waits to be paid. `discount` is on top of what the lines say."""
    total = sum(line.amount for line in lines)
    number = next(_numbers)
    order = Order.objects.create(
        number=f"T{number:08}",
        user=user,
        channel=channel,
        external_number=f"X{number}" if channel else "",
        reseller=reseller,
        currency=currency,
        subtotal=total + discount,
        discount=discount,
        total=total,
    )
    for line in lines:
        OrderLine.objects.create(
            order=order,
            kind=line.kind if line.plan or line.kind == Kind.TOP_UP else Kind.PACK,
            plan=line.plan,
            pack=None if line.plan or line.kind == Kind.TOP_UP else pack(),
            quantity=line.quantity,
            unit_amount=max(line.amount, -(-(line.amount + discount) // line.quantity)),
            amount=line.amount,
            snapshot={"name": line.plan.name, "days": line.plan.days} if line.plan else {"extra_bytes": 10**10},
        )
    return order


EARNED_AS = {Kind.WHOLESALE: Account.WHOLESALE, Kind.TOP_UP: Account.RESELLER_FUNDS}


def pay(
    order: Order,
    *,
    received: int | None = None,
    fee: int = 0,
    via: PaymentMethod | None = None,
    from_balance: bool = False,
) -> Order:
    """The money comes (nothing does for a free order), the order is paid and, but for serials, delivered."""
    received = order.total if received is None else received
    comes = received and order.channel is None and not from_balance
    transfer = take_in(order, received, fee=fee, via=via) if comes else None
    source = Account.CASH if order.channel_id else Account.CUSTOMER_FUNDS
    if from_balance:
        order.is_from_balance, source = True, Account.RESELLER_FUNDS
    first = order.user_id is not None and not Order.objects.filter(user=order.user_id, paid_at__isnull=False).exists()
    order.state, order.received, order.is_first = Order.State.FULFILLED, received, first
    order.paid_at = order.fulfilled_at = now()
    order.booked_day = today()
    order.save()
    lines = list(order.lines.all())
    for line, part in zip(lines, allocate(received, [line.amount for line in lines]), strict=True):
        if part:
            post(
                f"order:{order.pk}:line:{line.pk}",
                debit=source,
                credit=EARNED_AS.get(Kind(line.kind), Account.REVENUE),
                amount=part,
                currency=order.currency,
                order=order,
                line=line,
                transfer=transfer,
            )
    if order.channel_id and fee:
        post(
            f"order:{order.pk}:fee",
            debit=Account.GATEWAY_FEES,
            credit=Account.CASH,
            amount=fee,
            currency=order.currency,
            order=order,
        )
    return order


def take_in(
    order: Order,
    amount: int,
    *,
    fee: int = 0,
    via: PaymentMethod | None = None,
    state: Transfer.State = Transfer.State.COUNTED,
) -> Transfer:
    """Money for the order came in through `via`."""
    via = via or method(currency=order.currency)
    number = next(_numbers)
    payment = Payment.objects.create(
        order=order,
        method=via,
        reference=f"P{number}",
        amount=max(order.total, 1),
        currency=order.currency,
        state=Payment.State.PAID if state == Transfer.State.COUNTED else Payment.State.HELD,
        paid_at=now(),
    )
    transfer = Transfer.objects.create(
        payment=payment,
        method=via,
        transaction_id=f"TX{number}",
        amount=amount,
        currency=order.currency,
        fee=fee,
        state=state,
        source=Transfer.Source.STAFF,
        paid_at=now(),
    )
    common: dict[str, Any] = {"currency": order.currency, "order": order, "transfer": transfer, "method": via}
    post(f"transfer:{transfer.pk}", debit=Account.CASH, credit=Account.CUSTOMER_FUNDS, amount=amount, **common)
    if fee:
        post(f"transfer:{transfer.pk}:fee", debit=Account.GATEWAY_FEES, credit=Account.CASH, amount=fee, **common)
    return transfer


def sell(
    *lines: Line,
    user: User | None = None,
    channel: SalesChannel | None = None,
    reseller: User | None = None,
    currency: str = "CNY",
    fee: int = 0,
    via: PaymentMethod | None = None,
    delivers: bool = True,
) -> Order:
    """An order placed, paid and delivered at this moment; carol buys when nobody is named."""
    if user is None and channel is None:
        user = customer("carol")
    order = pay(place(lines, user=user, channel=channel, reseller=reseller, currency=currency), fee=fee, via=via)
    if delivers:
        deliver(order)
    return order


def deliver(order: Order) -> list[SoldSerial]:
    """Unused serials for every line of a plan, each with its exact part of the money."""
    lines = list(order.lines.select_related("plan"))
    sold = []
    for line, amount in zip(lines, allocate(order.received, [line.amount for line in lines]), strict=True):
        if line.plan is None:
            continue
        batch = SerialBatch.objects.create(plan=line.plan, duration_days=line.plan.days, count=line.quantity)
        for part in allocate(amount, [1] * line.quantity):
            serial = SerialNumber.objects.create(
                code=f"S{next(_numbers):023}", batch=batch, plan=line.plan, duration_days=line.plan.days
            )
            sold.append(SoldSerial.objects.create(line=line, serial=serial, amount=part, cost=part))
    return sold


def lease_of(user: User, started_at: datetime | None = None) -> Lease:
    """A lease that nothing runs for, without terms."""
    moment = started_at or now()
    group = RelayGroup.objects.create(owner=user, run_until=moment)
    same = dict.fromkeys(("started_at", "ends_at", "renewed_at", "renewed_to", "active_since"), moment)
    return Lease.objects.create(user=user, name="lease", relay_group=group, **same)


def use(sold: SoldSerial, lease: Lease, starts_at: datetime | None = None) -> LeaseTerm:
    """Redeem the serial onto the lease: its term begins then, or now."""
    serial = sold.serial
    start = starts_at or now()
    end = start + timedelta(days=serial.duration_days)
    is_current = not lease.terms.filter(state=LeaseTerm.State.CURRENT).exists()
    term = LeaseTerm.objects.create(
        lease=lease,
        plan=serial.plan,
        starts_at=start,
        ends_at=end,
        state=LeaseTerm.State.CURRENT if is_current else LeaseTerm.State.QUEUED,
        source=LeaseTerm.Source.SERIAL,
        serial=serial,
    )
    serial.status, serial.user, serial.used_at = SerialNumber.Status.USED, lease.user, now()
    serial.expires_at = lease.ends_at = end
    serial.save()
    lease.save()
    return term


def give_back(order: Order, amount: int, *, is_sent: bool = True, takes_back: bool = False) -> Refund:
    """So much of the order is given back, by what its lines have left."""
    refund = _decided(order, amount, Refund.Kind.ORDER)
    lines = list(order.lines.all())
    left = []
    for line in lines:
        earned = sum(p.amount for p in order.postings.filter(line=line, refund=None))
        left.append(earned - sum(p.amount for p in order.postings.filter(line=line, credit="refunds_due")))
    for line, part in zip(lines, allocate(amount, left), strict=True):
        if part:
            post(
                f"refund:{refund.pk}:line:{line.pk}",
                debit=Account.RESELLER_FUNDS if line.kind == Kind.TOP_UP else Account.REFUNDS,
                credit=Account.REFUNDS_DUE,
                amount=part,
                currency=order.currency,
                order=order,
                line=line,
                refund=refund,
            )
    order.refunded += amount
    if order.refunded == order.received:
        order.state = Order.State.REFUNDED
    order.save()
    if takes_back:
        SoldSerial.objects.filter(line__order=order).update(taken_back_at=now())
    if is_sent:
        send(refund)
    return refund


def return_transfer(transfer: Transfer, *, is_sent: bool = True) -> Refund:
    """Money that was held goes back whole."""
    refund = _decided(transfer.payment.order, transfer.amount, Refund.Kind.TRANSFER, transfer=transfer)
    transfer.state = Transfer.State.RETURNED
    transfer.save()
    post(
        f"refund:{refund.pk}",
        debit=Account.CUSTOMER_FUNDS,
        credit=Account.REFUNDS_DUE,
        amount=transfer.amount,
        currency=transfer.currency,
        order=refund.order,
        transfer=transfer,
        refund=refund,
        method=transfer.method,
    )
    if is_sent:
        send(refund)
    return refund


def send(refund: Refund) -> None:
    """The money has gone back."""
    refund.state, refund.done_at = Refund.State.DONE, now()
    refund.save()
    post(
        f"refund:{refund.pk}:sent",
        debit=Account.REFUNDS_DUE,
        credit=Account.RESELLER_FUNDS if refund.order.is_from_balance else Account.CASH,
        amount=refund.amount,
        currency=refund.currency,
        order=refund.order,
        transfer=refund.transfer,
        refund=refund,
        method=refund.transfer.method if refund.transfer else None,
    )


def _decided(order: Order, amount: int, kind: Refund.Kind, transfer: Transfer | None = None) -> Refund:
    return Refund.objects.create(
        number=f"R{next(_numbers)}",
        kind=kind,
        order=order,
        transfer=transfer or Transfer.objects.filter(payment__order=order, state=Transfer.State.COUNTED).first(),
        amount=amount,
        currency=order.currency,
        reason="test",
    )


def plan(days: int = 30) -> Plan:
    """A plan of so many days."""
    return make_plan(days)
