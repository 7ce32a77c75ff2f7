"""Orders: placing, cancelling, expiring. Each step is a row, and none is taken twice."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import structlog
from django.db import IntegrityError, transaction
from django.db.models import Q, Sum
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import notify, record, withdraw_mail
from billing.models import BuyerTerms, Coupon, CouponUse, Order, OrderLine, OrderTransition, Payment, Transfer, TrialUse
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from derp_portal.lib.numbers import dated_number

from .ledger import today
from .pricing import (
    Item,
    NotForSale,
    Quote,
    bought_before,
    check_coupon_uses,
    find_coupon,
    person_of,
    price_list,
    quote,
    snapshot_of,
    wholesale_steps,
)
from .words import amount_of, line_words

log = structlog.get_logger(__name__)

TIME_TO_PAY = timedelta(minutes=30)
TIME_TO_TRANSFER = timedelta(days=3)
"""Of orders that are paid offline."""
MOST_OPEN_ORDERS = 5
BATCH = 500
OF_RESELLERS = (OrderLine.Kind.WHOLESALE, OrderLine.Kind.TOP_UP)


def new_number() -> str:
    """A number for an order, payment or refund: the operator's day and enough randomness not to be guessed."""
    return dated_number(today(), letters=10)


def locked_order(order_id: int) -> Order:
    """The order with its customer's row and its own locked, in that order. Raises Order.DoesNotExist."""
    user_id = Order.objects.values_list("user_id", flat=True).get(pk=order_id)
    if user_id is not None:
        User.objects.select_for_update(no_key=True).get(pk=user_id)
    orders = Order.objects.select_for_update(of=("self",), no_key=True)
    return orders.select_related("user", "coupon", "channel").get(pk=order_id)


def move(order: Order, to: Order.State, *, reason: str = "", actor: User | None, **fields: Any) -> None:
    """Take the locked order to another state, and write the step down. The caller has checked that it may go there."""
    before, order.state = order.state, to
    for name, value in fields.items():
        setattr(order, name, value)
    order.save(update_fields=["state", *fields])
    OrderTransition.objects.create(order=order, from_state=before, to_state=to, reason=reason[:200], actor=actor)


def place_order(
    *,
    user: User,
    items: Sequence[Item],
    coupon_code: str = "",
    currency: str = "CNY",
    client_key: str = "",
    actor: User | None,
) -> Order:
    """Order the items at the prices of this moment. What costs nothing is paid at once.

    The same `client_key` of one user orders once and gives back the first order. Raises NotForSale, PortalError
    `too_many_open_orders`, `account_inactive` and what `quote` raises; then nothing was ordered.
    """
    with transaction.atomic():
        owner = User.objects.select_for_update(no_key=True).get(pk=user.pk)
        if client_key and (known := Order.objects.filter(user=owner, client_key=client_key).first()):
            return known
        if not owner.is_active:
            raise PortalError(_("This account is switched off."), code="account_inactive", status=403)
        if Order.objects.filter(user=owner, state=Order.State.PENDING).count() >= MOST_OPEN_ORDERS:
            raise PortalError(
                _("You have %(most)s orders that are not paid yet. Pay or cancel one first.")
                % {"most": MOST_OPEN_ORDERS},
                code="too_many_open_orders",
                status=409,
            )
        if coupon_code.strip():
            find_coupon(coupon_code, lock=True)  # Who counts its uses keeps others from using it meanwhile.
        priced = quote(user=owner, items=items, coupon_code=coupon_code, currency=currency)
        order = _write(owner, priced, client_key, actor)
        if not order.total:
            pay_nothing(order, actor=actor)
        else:
            _tell_placed(order)
    return order


def _write(owner: User, priced: Quote, client_key: str, actor: User | None) -> Order:
    is_resellers_own = any(line.item.kind in OF_RESELLERS for line in priced.lines)
    terms = BuyerTerms.objects.filter(user=owner).first()
    order = Order.objects.create(
        number=new_number(),
        user=owner,
        reseller_id=owner.pk if is_resellers_own else (terms.brought_by_id if terms else None),
        currency=priced.currency,
        subtotal=priced.subtotal,
        discount=priced.discount,
        total=priced.total,
        coupon=priced.coupon,
        client_key=client_key,
        expires_at=now() + TIME_TO_PAY,
    )
    for line in priced.lines:
        promised = snapshot_of(line.item)
        if line.item.kind == OrderLine.Kind.WHOLESALE and line.item.plan:
            # Whoever gives some back pays for the others what so few cost now, not what they will cost then.
            promised["steps"] = wholesale_steps(owner, line.item.plan.pk, priced.currency)
        OrderLine.objects.create(
            order=order,
            kind=line.item.kind,
            plan=line.item.plan,
            pack=line.item.pack,
            lease=line.lease,
            quantity=line.item.quantity,
            unit_amount=line.unit_amount,
            amount=line.amount,
            snapshot=promised,
        )
    OrderTransition.objects.create(order=order, to_state=Order.State.PENDING, actor=actor)
    if priced.coupon:
        CouponUse.objects.create(coupon=priced.coupon, order=order, user=owner)
    for plan in priced.trials:
        try:
            with transaction.atomic():
                TrialUse.objects.create(plan=plan, user=owner, person=person_of(owner), order=order)
        except IntegrityError:
            # Another account of the same person was a moment earlier; no lock of ours covers two accounts.
            raise NotForSale(_("You have had this trial already."), code="trial_used") from None
    record(actor=actor, event="order.placed", target=order, total=order.total, currency=order.currency)
    return order


def pay_nothing(order: Order, *, actor: User | None) -> None:
    """An order that costs nothing needs no money to be paid."""
    become_paid(order, received=0, actor=actor, reason="free")


def become_paid(order: Order, *, received: int, actor: User | None, reason: str) -> None:
    """The locked order is paid; it is delivered by itself. The caller books the money."""
    paid_before = Order.objects.filter(user=order.user_id, paid_at__isnull=False).exclude(pk=order.pk)
    move(
        order,
        Order.State.PAID,
        reason=reason,
        actor=actor,
        received=received,
        paid_at=now(),
        booked_day=today(),
        closed_at=None,
        is_first=order.user_id is not None and not paid_before.exists(),
        is_news=True,
    )
    record(actor=actor, event="order.paid", target=order, received=received, currency=order.currency)
    wake_delivery(order.pk)


def become_delivered(order: Order, *, received: int, reason: str) -> None:
    """An order that an outside shop was paid for and hands out itself: paid and delivered in one."""
    moment = now()
    move(order, Order.State.PAID, reason=reason, actor=None, received=received, paid_at=moment, booked_day=today())
    move(order, Order.State.FULFILLED, reason=reason, actor=None, fulfilled_at=moment)


def wake_delivery(order_id: int) -> None:
    """Deliver soon after commit; the sweep would find it anyway."""
    from billing.tasks import deliver_order  # Tasks call services; only this wake-up calls back.

    transaction.on_commit(lambda: deliver_order.delay(order_id), robust=True)


def cancel_order(*, order_id: int, reason: str = "", actor: User | None) -> Order:
    """Give up an order that is not paid. Twice is fine. Raises PortalError `order_paid` once it is paid."""
    with transaction.atomic():
        order = locked_order(order_id)
        if order.state in (Order.State.CANCELLED, Order.State.EXPIRED):
            return order
        if order.state != Order.State.PENDING:
            raise PortalError(
                _("This order is paid. To have it undone, ask for a refund."), code="order_paid", status=409
            )
        check_nothing_held(order)
        _give_up(order, Order.State.CANCELLED, reason=reason, actor=actor)
    return order


def check_nothing_held(order: Order) -> None:
    """Raises PortalError `money_held` while money for the locked order waits for a person: more would be too much."""
    if Transfer.objects.filter(payment__order=order, state=Transfer.State.HELD).exists():
        raise PortalError(
            _("Money for this order has arrived and a person is looking at it. Nothing is lost; please wait."),
            code="money_held",
            status=409,
        )


def expire_orders() -> int:
    """Give up orders that were not paid in time. Returns how many."""
    due = Order.objects.filter(state=Order.State.PENDING, expires_at__lte=now()).order_by("expires_at")
    count = 0
    for order_id in due.values_list("id", flat=True)[:BATCH]:
        try:
            with transaction.atomic():
                order = locked_order(order_id)
                if order.state == Order.State.PENDING and order.expires_at and order.expires_at <= now():
                    _give_up(order, Order.State.EXPIRED, reason="", actor=None)
                    count += 1
        except Exception as error:
            log.error("order_not_expired", order=order_id, exc_info=error)
    return count


def _give_up(order: Order, to: Order.State, *, reason: str, actor: User | None) -> None:
    move(order, to, reason=reason, actor=actor, closed_at=now())
    CouponUse.objects.filter(order=order).update(is_given_back=True)
    TrialUse.objects.filter(order=order).update(is_given_back=True)
    # The gateways are asked at once whether money came after all, and told that none is wanted any more.
    Payment.objects.filter(order=order, state=Payment.State.OPEN).update(next_query_at=now())
    record(actor=actor, event=f"order.{to.value}", target=order, reason=reason)
    if to == Order.State.EXPIRED and order.user:
        notify(
            kind="order_expired",
            dedup_key=f"order-expired:{order.pk}",
            user=order.user,
            context={"order": order, "amount": amount_of(order.user, order.total, order.currency)},
            button_url="/shop/",
        )


def may_revive(order: Order) -> str:
    """Why the locked order, given up before its money came, cannot go on all the same; "" if it can.

    What it had reserved was given back and may be in use elsewhere.
    """
    assert order.user is not None
    if order.coupon_id is not None:
        coupon = Coupon.objects.select_for_update(no_key=True).get(pk=order.coupon_id)
        try:
            check_coupon_uses(coupon, user=order.user, besides=order)
        except NotForSale as refusal:
            return refusal.code
    prices = price_list(order.currency)
    limited = order.lines.exclude(plan=None).exclude(kind=OrderLine.Kind.WHOLESALE)
    wanted = limited.order_by().values_list("plan").annotate(count=Sum("quantity"))
    for plan_id, count in wanted:
        price = prices.get(plan_id)
        if price is None or price.per_user_limit is None:
            continue
        if bought_before(order.user, plan_id, besides=order) + count > price.per_user_limit:
            return "per_user_limit"
    trial = TrialUse.objects.filter(order=order).first()
    if trial is not None:
        same = Q(person=trial.person) | Q(user=trial.user_id)
        others = TrialUse.objects.filter(same, plan=trial.plan_id, is_given_back=False)
        if others.exclude(pk=trial.pk).exists():
            return "trial_used"
    return ""


def revive(order: Order) -> None:
    """Take again what the locked order had given back; `may_revive` has allowed it, or staff have.

    A trial that another order has had meanwhile stays that order's.
    """
    CouponUse.objects.filter(order=order).update(is_given_back=False)
    trial = TrialUse.objects.filter(order=order).first()
    if trial is not None:
        same = Q(user=trial.user_id) | Q(person=trial.person)
        others = TrialUse.objects.filter(same, plan=trial.plan_id, is_given_back=False).exclude(pk=trial.pk)
        if not others.exists():
            TrialUse.objects.filter(pk=trial.pk).update(is_given_back=False)


def _tell_placed(order: Order) -> None:
    assert order.user is not None
    notify(
        kind="order_placed",
        dedup_key=_key_of_placed(order),
        user=order.user,
        context={
            "order": order,
            "lines": line_words(order.user, list(order.lines.all())),
            "amount": amount_of(order.user, order.total, order.currency),
        },
        button_url=f"/orders/{order.number}/",
    )


def take_back_placed(order: Order) -> None:
    """Not to be told any more that it is to be paid, if they were not told yet."""
    withdraw_mail(dedup_key=_key_of_placed(order))


def _key_of_placed(order: Order) -> str:
    return f"order-placed:{order.pk}"
