"""Delivering paid orders: exactly once, whoever was killed in between."""

from __future__ import annotations

from datetime import timedelta

import structlog
from django.db import transaction
from django.utils import translation

from accounts.models import User
from accounts.services import language_of, notify, record
from billing.models import Order, OrderLine, SoldSerial
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet.services.quota_keeping import add_pack
from serials import services as serials
from serials.codes import grouped
from serials.models import SerialNumber
from serials.services.activation import How
from serials.services.leases import locked_lease

from .ledger import allocate
from .orders import locked_order, move
from .receiving import note_trouble
from .refunds import share_what_is_left
from .watching import tell_staff, told_staff_is_over
from .words import amount_of, line_words

log = structlog.get_logger(__name__)

BATCH = 200
PATIENCE = timedelta(minutes=5)
Kind = OrderLine.Kind


class Undeliverable(Exception):
    """Nothing of the order can be delivered as it stands; `code` says why, and a person must look."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def deliver(*, order_id: int, actor: User | None = None) -> Order:
    """Give the customer what a paid order is for. An order in any other state is left alone: twice is fine.

    All of it and the order's new state are one transaction: a worker killed in the middle has delivered nothing. What
    cannot be done at all (a pack for a lease that has ended) leaves the order paid, with its `trouble`, for a person.
    """
    with transaction.atomic():
        order = locked_order(order_id)
        if order.state != Order.State.PAID:
            return order
        try:
            # What is made for the customer (a lease's name) is in their language, not in that of who paid or swept.
            with transaction.atomic(), translation.override(language_of(order.user)):
                _deliver(order, actor)
        except Undeliverable as failure:
            note_trouble(order, failure.code)
    return order


def deliver_paid() -> int:
    """Deliver whatever is paid and not delivered, oldest first: the truth behind every wake-up. Returns how many."""
    waiting = Order.objects.filter(state=Order.State.PAID, trouble="").order_by("paid_at")
    count = 0
    for order_id in list(waiting.values_list("id", flat=True)[:BATCH]):
        try:
            count += deliver(order_id=order_id).state == Order.State.FULFILLED
        except Exception as error:
            log.error("order_not_delivered", order=order_id, exc_info=error)
            _tell_if_late(order_id)
    return count


def _tell_if_late(order_id: int) -> None:
    """It is tried again and again; what fails for minutes needs a person."""
    late = Order.objects.filter(pk=order_id, state=Order.State.PAID, paid_at__lt=now() - PATIENCE).first()
    if late:
        tell_staff("order_stuck", subject=f"order:{order_id}", order=late.number)


def _deliver(order: Order, actor: User | None) -> None:
    lines = list(order.lines.select_related("plan", "pack", "lease"))
    paid = allocate(order.received, [line.amount for line in lines])
    for line, amount in zip(lines, paid, strict=True):
        if line.kind == Kind.PACK:
            _give_pack(order, line)
        elif line.kind != Kind.TOP_UP:  # That was booked to the balance when it was paid.
            _give_serials(order, line, amount, actor)
    if order.refunded:
        share_what_is_left(order)
    move(order, Order.State.FULFILLED, actor=actor, fulfilled_at=now(), trouble="")
    record(actor=actor, event="order.delivered", target=order)
    told_staff_is_over("order_stuck", subject=f"order:{order.pk}")
    _tell(order, lines)


def _give_pack(order: Order, line: OrderLine) -> None:
    assert line.lease is not None
    # Its relays outlast it for a while; a pack that came then would be paid for nothing.
    if not locked_lease(line.lease.pk).is_active:
        raise Undeliverable("lease_ended")
    try:
        add_pack(
            group_id=line.lease.relay_group_id,
            extra_bytes=line.snapshot["extra_bytes"] * line.quantity,
            key=f"order-line:{line.pk}",
            note=order.number,
            actor=order.user,
        )
    except PortalError as refusal:
        raise Undeliverable(refusal.code) from refusal


def _give_serials(order: Order, line: OrderLine, amount: int, actor: User | None) -> None:
    """New serials of the line's plan; what is for the customer's own use is redeemed at once, if it can be."""
    batch = serials.generate(
        count=line.quantity,
        plan=line.plan,
        duration_days=line.snapshot["days"],
        note=order.number,
        actor=actor,
    )
    made = list(batch.serials.order_by("id"))
    sell(line, made, amount)
    if line.kind in (Kind.SELF, Kind.RENEWAL):
        lease_id = line.lease_id
        for serial in made:
            # Of several for a new lease the first opens it, and the others are added to that one.
            lease_id = _redeem(order, line, serial, lease_id) or lease_id


def sell(line: OrderLine, sold: list[SerialNumber], amount: int) -> None:
    """Write down that the line delivered these serials, each with its part of the money."""
    parts = allocate(amount, [1] * len(sold))
    SoldSerial.objects.bulk_create(
        [
            SoldSerial(line=line, serial=serial, amount=part, cost=part)
            for serial, part in zip(sold, parts, strict=True)
        ],
        batch_size=1000,
    )


def _redeem(order: Order, line: OrderLine, serial: SerialNumber, lease_id: int | None) -> int | None:
    """Onto the lease it was bought for, whose id is returned. If that is not to be had any more, the customer keeps
    the code instead.
    """
    assert order.user is not None
    try:
        with transaction.atomic():
            _serial, lease = serials.redeem(
                user=order.user,
                code=serial.code,
                how=How.QUEUE if lease_id or not line.snapshot.get("new_lease") else How.NEW,
                lease_id=lease_id,
                actor=order.user,
            )
    except PortalError as refusal:
        line.problem = refusal.code[:32]
        line.save(update_fields=["problem"])
        log.warning("bought_serial_not_redeemed", order=order.number, code=refusal.code)
        return None
    return lease.pk


def codes_of(order: Order) -> list[str]:
    """The codes that an order gave out to be handed on, for its owner to read: in groups, unless withdrawn."""
    sold = SoldSerial.objects.filter(line__order=order, taken_back_at=None, serial__user=None)
    return [grouped(code) for code in sold.order_by("id").values_list("serial__code", flat=True)]


def _tell(order: Order, lines: list[OrderLine]) -> None:
    if order.user is None:
        return
    notify(
        kind="order_delivered",
        dedup_key=f"order-delivered:{order.pk}",
        user=order.user,
        context={
            "order": order,
            "lines": line_words(order.user, lines),
            "amount": amount_of(order.user, order.received, order.currency) if order.received else "",
            "is_balance": all(line.kind == Kind.TOP_UP for line in lines),
            "has_codes": any(line.kind in (Kind.GIFT, Kind.WHOLESALE) or line.problem for line in lines),
        },
        button_url=f"/orders/{order.number}/",
    )
