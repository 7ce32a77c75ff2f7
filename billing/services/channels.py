"""Outside shops: one code for each of their orders, for ever the same; taking it back; their stock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.db import IntegrityError, transaction
from django.db.models import Count, F, Q, QuerySet
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import record
from billing.models import Account, ChannelStock, Order, OrderLine, OrderTransition, SalesChannel, SoldSerial
from derp_portal.lib import money
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from derp_portal.lib.secrets import fingerprint, new_secret
from serials import services as serials
from serials.models import Plan, SerialBatch, SerialNumber

from .fulfilment import sell
from .ledger import post
from .orders import become_delivered, locked_order, move, new_number
from .pricing import Item, price_list, snapshot_of
from .receiving import book_revenue
from .refunds import lock_people, refund_order, take_back_sold
from .watching import tell_staff, told_staff_is_over

TOKEN_START = "dps_"  # noqa: S105 - tells secret scanners and people what they are looking at
SHOWN_LENGTH = 11
STILL_GOOD = timedelta(days=1)
"""A serial that must be redeemed sooner than this is not handed out any more."""
LAST_USED_STEP = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class StockLevel:
    """How many serials of a plan a shop has left to hand out."""

    channel: SalesChannel
    plan: Plan
    left: int

    @property
    def is_low(self) -> bool:
        return self.channel.low_stock > 0 and self.left < self.channel.low_stock


@dataclass(frozen=True, slots=True)
class ShopRefund:
    """What taking back a shop's order came to; the serial says who had redeemed the code, and when."""

    order: Order
    serial: SerialNumber
    was_used: bool
    is_repeated: bool


# --- tokens -----------------------------------------------------------------------------------------


def issue_channel_token(*, channel_id: int, actor: User) -> tuple[SalesChannel, str]:
    """A new token for the shop; the old one stops working. The secret cannot be had again."""
    secret = TOKEN_START + new_secret(32)
    with transaction.atomic():
        channel = SalesChannel.objects.select_for_update(no_key=True).get(pk=channel_id)
        channel.token_prefix, channel.token_digest = secret[:SHOWN_LENGTH], fingerprint(secret)
        channel.save(update_fields=["token_prefix", "token_digest"])
        record(actor=actor, event="channel.token_issued", target=channel)
    return channel, secret


def channel_of_token(secret: str) -> SalesChannel | None:
    """The enabled shop that has this token; None for any other."""
    if not secret.startswith(TOKEN_START):
        return None
    channel = SalesChannel.objects.filter(token_digest=fingerprint(secret), is_enabled=True).first()
    if channel and (channel.last_used_at is None or channel.last_used_at <= now() - LAST_USED_STEP):
        SalesChannel.objects.filter(pk=channel.pk).update(last_used_at=now())
    return channel


# --- handing out ------------------------------------------------------------------------------------


def pick_up(
    *,
    channel: SalesChannel,
    external_number: str,
    plan_code: str = "",
    amount: int | None = None,
    currency: str = "CNY",
) -> tuple[Order, SerialNumber]:
    """The code for the shop's order `external_number`: a fresh one at first, then for ever the same.

    `amount` is what the shop took for it; the portal's own price when not said. Raises PortalError
    `invalid_order_number`, `unknown_plan`, `plan_needed`, `amount_needed`, `order_differs` (asked before for another
    plan), `order_refunded` (410), `out_of_stock` (503: the same order may ask again).
    """
    number = external_number.strip()
    if not 1 <= len(number) <= 80:
        raise PortalError(_("Send your order number, 80 characters at most."), code="invalid_order_number", status=422)
    with transaction.atomic():
        # One order of a shop at a time: the number is looked up and taken under its lock.
        channel = SalesChannel.objects.select_for_update(no_key=True).get(pk=channel.pk)
        known = Order.objects.filter(channel=channel, external_number=number).first()
        if known:
            return known, _code_again(known, plan_code)
        plan = _plan_of(channel, plan_code)
        serial = _take_from_stock(channel, plan)
        order = _sell_outside(channel, number, plan, serial, _price(plan, amount, currency), currency)
    return order, serial


def _code_again(order: Order, plan_code: str) -> SerialNumber:
    sold = SoldSerial.objects.select_related("serial__plan", "line").get(line__order=order)
    # The plan may have been given another code since.
    if plan_code and plan_code not in (sold.serial.plan.code, sold.line.snapshot["code"]):
        raise PortalError(
            _("This order number was asked for before, for another plan."), code="order_differs", status=409
        )
    if sold.taken_back_at:
        raise PortalError(_("This order was refunded; its code is void."), code="order_refunded", status=410)
    return sold.serial


def _plan_of(channel: SalesChannel, code: str) -> Plan:
    plans = list(channel.plans.order_by("position", "id"))
    if not code:
        if len(plans) == 1:
            return plans[0]
        raise PortalError(_("This shop has several plans: say which."), code="plan_needed", status=422)
    plan = next((plan for plan in plans if plan.code == code), None)
    if plan is None:
        raise PortalError(_("This shop may not hand out that plan."), code="unknown_plan", status=422)
    return plan


def _price(plan: Plan, amount: int | None, currency: str) -> int:
    if amount is not None:
        return amount
    price = price_list(currency, also_hidden=True).get(plan.pk)
    if price is None:
        raise PortalError(
            _("This plan has no price in %(currency)s: say for how much it was sold.") % {"currency": currency},
            code="amount_needed",
            status=422,
        )
    return price.unit_amount()


def _take_from_stock(channel: SalesChannel, plan: Plan) -> SerialNumber:
    free = free_serials(channel).filter(plan=plan).order_by(F("expires_at").asc(nulls_last=True), "id")
    # A serial that somebody is just revoking is passed over, not waited for.
    serial = free.select_for_update(of=("self",), skip_locked=True, no_key=True).first()
    if serial is None and channel.makes_serials:
        # Sold in this very transaction: it never is stock.
        batch = serials.generate(count=1, plan=plan, note=f"shop {channel.code}"[:200], actor=None)
        serial = batch.serials.get()
    if serial is None:
        raise PortalError(
            _("There is no code of this plan left. Ask again with the same order number later."),
            code="out_of_stock",
            status=503,
            retry_after=60,
        )
    return serial


def free_serials(*channels: SalesChannel) -> QuerySet[SerialNumber]:
    """The serials of these shops' stock that they can still hand out."""
    lasts = Q(expires_at=None) | Q(expires_at__gt=now() + STILL_GOOD)
    own = Q(batch__channel_stock__channel__in=[channel.pk for channel in channels])
    return SerialNumber.objects.filter(lasts, own, status=SerialNumber.Status.UNUSED, sale=None)


def _sell_outside(
    channel: SalesChannel, number: str, plan: Plan, serial: SerialNumber, amount: int, currency: str
) -> Order:
    order = Order.objects.create(
        number=new_number(),
        channel=channel,
        external_number=number,
        currency=currency,
        subtotal=amount,
        total=amount,
    )
    snapshot = snapshot_of(Item(OrderLine.Kind.OUTSIDE, plan=plan)) | {"days": serial.duration_days}
    line = OrderLine.objects.create(
        order=order, kind=OrderLine.Kind.OUTSIDE, plan=plan, unit_amount=amount, amount=amount, snapshot=snapshot
    )
    OrderTransition.objects.create(order=order, to_state=Order.State.PENDING)
    sell(line, [serial], amount)
    become_delivered(order, received=amount, reason=f"shop {channel.code}")
    if amount:
        book_revenue(order, amount, source=Account.CASH, actor=None)
        if fee := money.percent_of(amount, channel.fee_basis_points):
            post(
                f"order:{order.pk}:fee",
                debit=Account.GATEWAY_FEES,
                credit=Account.CASH,
                amount=fee,
                currency=currency,
                order=order,
            )
    record(actor=None, event="order.picked_up", target=order, shop=channel.code, external_number=number)
    return order


# --- taking back ------------------------------------------------------------------------------------


def refund_outside(*, channel: SalesChannel, external_number: str, reason: str = "") -> ShopRefund:
    """Take back what was handed out for the shop's order: revoke the code or, if it was redeemed, the days left.

    The shop has given the money back itself. Twice is fine. Raises PortalError `unknown_order` (404).
    """
    order = Order.objects.filter(channel=channel, external_number=external_number.strip()).first()
    if order is None:
        raise PortalError(_("We know no such order of this shop."), code="unknown_order", status=404)
    sold = SoldSerial.objects.select_related("serial__user").get(line__order=order)
    is_repeated = sold.taken_back_at is not None
    if not is_repeated:
        why = reason.strip() or f"shop {channel.code}"
        try:
            if order.refundable:
                refund_order(order_id=order.pk, reason=why, actor=None, is_sent=True)
            else:
                take_back_free(order_id=order.pk, reason=why, actor=None)
        except PortalError as refusal:
            if refusal.code != "not_refundable":
                raise
            is_repeated = True  # Another request for the same order was a moment earlier.
        sold.refresh_from_db()
    serial = SerialNumber.objects.select_related("user").get(pk=sold.serial_id)
    return ShopRefund(order, serial, was_used=serial.user_id is not None, is_repeated=is_repeated)


def take_back_free(*, order_id: int, reason: str, actor: User | None) -> None:
    """Take back what an order delivered that had cost nothing. Twice is fine."""
    with transaction.atomic():
        lock_people(orders=[order_id])
        order = locked_order(order_id)
        if order.state != Order.State.FULFILLED:
            return
        take_back_sold(order, reason=reason, actor=actor)
        move(order, Order.State.REFUNDED, reason=reason, actor=actor, closed_at=now())
        record(actor=actor, event="order.refunded", target=order, amount=0, reason=reason)


# --- stock ------------------------------------------------------------------------------------------


def add_stock(*, channel_id: int, batch: SerialBatch, actor: User | None) -> ChannelStock:
    """Set a batch aside for the shop. Twice is fine. Raises PortalError `batch_taken`, `unknown_plan`, `batch_sold`."""
    with transaction.atomic():
        channel = SalesChannel.objects.select_for_update(no_key=True).get(pk=channel_id)
        if not channel.plans.filter(pk=batch.plan_id).exists():
            raise PortalError(_("This shop may not hand out that plan."), code="unknown_plan", status=409)
        if SoldSerial.objects.filter(serial__batch=batch).exists():
            raise PortalError(_("Serials of this batch were sold to somebody else."), code="batch_sold", status=409)
        try:
            with transaction.atomic():
                stock, is_new = ChannelStock.objects.get_or_create(batch=batch, defaults={"channel": channel})
        except IntegrityError:
            stock, is_new = ChannelStock.objects.get(batch=batch), False
        if stock.channel_id != channel.pk:
            raise PortalError(_("This batch belongs to another shop."), code="batch_taken", status=409)
        if is_new:
            record(actor=actor, event="channel.stock_added", target=channel, batch=batch.pk, count=batch.count)
    return stock


def stock_levels(channels: Iterable[SalesChannel] | None = None) -> list[StockLevel]:
    """What each enabled shop has left of each of its plans: three queries however many there are."""
    shops: Sequence[SalesChannel] = list(SalesChannel.objects.filter(is_enabled=True) if channels is None else channels)
    counted = (
        free_serials(*shops).order_by().values_list("batch__channel_stock__channel", "plan").annotate(left=Count("id"))
    )
    left = {(channel_id, plan_id): count for channel_id, plan_id, count in counted}
    plans = {
        shop.pk: shop for shop in SalesChannel.objects.filter(pk__in=[s.pk for s in shops]).prefetch_related("plans")
    }
    return [
        StockLevel(shop, plan, left.get((shop.pk, plan.pk), 0)) for shop in plans.values() for plan in shop.plans.all()
    ]


def watch_stock() -> int:
    """Raise an alert for each plan that a shop runs out of, and close those that are over. The number that is low."""
    low = 0
    for level in stock_levels():
        subject = f"{level.channel.pk}:{level.plan.pk}"
        if level.is_low and not level.channel.makes_serials:
            low += 1
            tell_staff("low_stock", subject=subject, shop=level.channel.name, plan=level.plan.name, count=level.left)
        else:
            told_staff_is_over("low_stock", subject=subject)
    return low
