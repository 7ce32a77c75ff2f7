"""What orders earn: one line for each order that was paid, one for each refund of it, in the books at the same moment.

Whoever adds lines holds the one row of the commission book, as whoever runs a month does: a month that is run never
gets another line, and what comes late is settled with the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import F, Q, QuerySet, Sum

from accounts.models import User
from accounts.services import record
from billing.models import Account, Order, OrderLine, Refund
from billing.services.ledger import allocate, post, today
from billing.services.payers import is_payer_awaited
from derp_portal.lib import money
from derp_portal.lib.clock import local_day, next_month, now
from resellers.models import Attribution, CommissionBook, CommissionLine, LevelPeriod, Rate, Reseller, Suspicion

from .links import read_signup
from .people import refuse, was_active
from .suspecting import signals_of

log = structlog.get_logger(__name__)

BATCH = 500
NOT_COMMISSIONED = (OrderLine.Kind.WHOLESALE, OrderLine.Kind.TOP_UP)
Kind = CommissionLine.Kind


@dataclass(frozen=True, slots=True)
class Earned:
    """What an order earns by its lines: `base` is what was received for those that earn at all."""

    base: int
    amount: int
    rates: list[dict[str, int | str | None]]


def locked_book() -> CommissionBook:
    """The commission book, held until the transaction ends. Before anything else is locked, or after all of it."""
    return CommissionBook.objects.select_for_update(no_key=True).get(pk=1)


def accrue() -> int:
    """Look at the orders that were paid and the refunds that were made since the last look. Returns how many."""
    return _look_at_all(Order.objects.filter(is_news=True), look_at_order) + _look_at_all(
        Refund.objects.filter(is_news=True), look_at_refund
    )


def _look_at_all(news: QuerySet[Any], look: Callable[[int], object]) -> int:
    """Each row of the news once, batch by batch: one that fails stays news, and is in nobody's way until next time."""
    count = last = 0
    while batch := list(news.filter(pk__gt=last).order_by("pk").values_list("pk", flat=True)[:BATCH]):
        for row_id in batch:
            try:
                look(row_id)
                count += 1
            except Exception as error:
                log.error("commission_not_decided", row=row_id, exc_info=error)
        last = batch[-1]
    return count


def look_at_order(order_id: int) -> CommissionLine | None:
    """Decide once what a paid order earns, and whom. None when it earns nobody anything, or a person must look."""
    buyer = User.objects.filter(orders=order_id).exclude(signup_ref="").first()
    if buyer is not None:
        # Bought before anybody has read by whose link they came.
        read_signup(user_id=buyer.pk)
    if is_payer_awaited(order_id):
        return None  # It stays news: whose account it was may say that it is the reseller's own.
    with transaction.atomic():
        book = locked_book()
        if not Order.objects.filter(pk=order_id, is_news=True).update(is_news=False) or _is_decided(order_id):
            return None
        order = Order.objects.select_related("user").get(pk=order_id)
        reseller = reseller_of(order)
        if reseller is None:
            return None
        if signals := signals_of(order, reseller):
            Suspicion.objects.create(order=order, reseller=reseller, signals=signals)
            record(actor=None, event="commission.suspected", target=order, reseller=reseller.code, signals=signals)
            return None
        return _decide(book, order, reseller)


def _is_decided(order_id: int) -> bool:
    """Whether somebody has looked at the order before: news that is told again earns nobody anything."""
    lines = CommissionLine.objects.filter(order=order_id, kind__in=[Kind.EARNED, Kind.NOTHING])
    return lines.exists() or Suspicion.objects.filter(order=order_id).exists()


def reseller_of(order: Order) -> Reseller | None:
    """Whose customer's order it is, by the moment it was paid. Wholesale and what shops sell is nobody's."""
    if order.user_id is None or order.paid_at is None or not order.received:
        return None
    lasted = Q(until=None) | Q(until__gt=order.paid_at)
    found = Attribution.objects.filter(lasted, user=order.user_id, since__lte=order.paid_at)
    attribution = found.select_related("reseller__user").order_by("-since").first()
    if attribution is None or not order.lines.exclude(kind__in=NOT_COMMISSIONED).exists():
        return None
    return attribution.reseller


def _decide(book: CommissionBook, order: Order, reseller: Reseller) -> CommissionLine:
    """The order's one line, and those of refunds that were made before it was decided."""
    assert order.paid_at is not None
    level = level_at(reseller, order.paid_at)
    earned = earned_by(order, level.level_id if level else reseller.level_id)
    why = ""
    if not was_active(reseller, order.paid_at):
        why = "inactive"
    elif (level.level if level else reseller.level).first_order_only and not _is_first(order):
        why = "not_first"
    elif not earned.amount:
        why = "no_rate"
    hold = (level.level if level else reseller.level).hold_days
    # Whole days of the operator's: an hour that a clock change adds or takes moves nothing over a month's border.
    due_on = operators_day(order.paid_at) + timedelta(days=hold)
    line = CommissionLine.objects.create(
        kind=Kind.NOTHING if why else Kind.EARNED,
        reseller=reseller,
        order=order,
        base=earned.base,
        amount=0 if why else earned.amount,
        currency=order.currency,
        why=why,
        rates=earned.rates,
        due_on=due_on,
        settle_month=_month_for(book, due_on),
    )
    if line.amount:
        post(
            f"commission:{line.pk}",
            debit=Account.COMMISSIONS,
            credit=Account.RESELLER_PAYABLES,
            amount=line.amount,
            currency=line.currency,
            order=order,
            reseller=reseller.user,
        )
        for refund in order.refunds.filter(kind=Refund.Kind.ORDER, commission_line=None).order_by("id"):
            _reverse(book, line, refund)
    return line


def _is_first(order: Order) -> bool:
    """Whether it is the first order that its customer paid money for: a trial before it does not count."""
    earlier = Q(paid_at__lt=order.paid_at) | Q(paid_at=order.paid_at, pk__lt=order.pk)
    return not Order.objects.filter(earlier, user=order.user_id, received__gt=0).exists()


def level_at(reseller: Reseller, moment: datetime) -> LevelPeriod | None:
    """The level the reseller had at that moment."""
    periods = LevelPeriod.objects.filter(reseller=reseller, since__lte=moment).select_related("level")
    return periods.order_by("-since", "-id").first()


def earned_by(order: Order, level_id: int) -> Earned:
    """What the order earns at a level: the rate of each line's plan at the moment of the sale, of what was received."""
    lines = list(order.lines.all())
    parts = allocate(order.received, [line.amount for line in lines])
    base = amount = 0
    rates: list[dict[str, int | str | None]] = []
    for line, part in zip(lines, parts, strict=True):
        if line.kind in NOT_COMMISSIONED or not part:
            continue
        points = rate_at(level_id, line.plan_id, order.paid_at or now())
        base += part
        amount += money.percent_of(part, points)
        rates.append({"line": line.pk, "of": part, "basis_points": points})
    return Earned(base, amount, rates)


def rate_at(level_id: int, plan_id: int | None, moment: datetime) -> int:
    """The rate in basis points that held at that moment: the plan's own, else the one for all. The one begun last."""
    began = Q(valid_from=None) | Q(valid_from__lte=moment)
    lasts = Q(valid_until=None) | Q(valid_until__gt=moment)
    rates = Rate.objects.filter(began, lasts, level=level_id).order_by(F("valid_from").desc(nulls_last=True), "-id")
    own = rates.filter(plan=plan_id).first() if plan_id is not None else None
    found = own or rates.filter(plan=None).first()
    return found.basis_points if found else 0


def look_at_refund(refund_id: int) -> CommissionLine | None:
    """Take back what a refunded order earned, in proportion; None when it had earned nothing, or is not decided yet."""
    with transaction.atomic():
        book = locked_book()
        if not Refund.objects.filter(pk=refund_id, is_news=True).update(is_news=False):
            return None
        refund = Refund.objects.select_related("order").get(pk=refund_id)
        earned = CommissionLine.objects.filter(order=refund.order_id, kind=Kind.EARNED).first()
        if earned is None or CommissionLine.objects.filter(refund=refund).exists():
            return None  # Whoever decides about the order later looks at its refunds.
        return _reverse(book, earned, refund)


def _reverse(book: CommissionBook, earned: CommissionLine, refund: Refund) -> CommissionLine:
    """So much that all refunds together have taken back the same part of the commission as of the money."""
    before = CommissionLine.objects.filter(order=earned.order_id, kind=Kind.REVERSED)
    taken = -(before.aggregate(sum=Sum("amount"))["sum"] or 0)
    covered = refund.amount + sum(line.refund.amount for line in before.select_related("refund") if line.refund)
    received = earned.order.received
    amount = earned.amount * covered // received - taken
    due_on = max(today(), earned.due_on)
    line = CommissionLine.objects.create(
        kind=Kind.REVERSED,
        reseller=earned.reseller,
        order=earned.order,
        refund=refund,
        base=-refund.amount,
        amount=-amount,
        currency=earned.currency,
        due_on=due_on,
        settle_month=_month_for(book, due_on),
    )
    if amount:
        post(
            f"commission:{line.pk}",
            debit=Account.RESELLER_PAYABLES,
            credit=Account.COMMISSIONS,
            amount=amount,
            currency=line.currency,
            order=earned.order,
            refund=refund,
            reseller=earned.reseller.user,
        )
    return line


def operators_day(moment: datetime) -> date:
    """The operator's day of a moment."""
    return local_day(moment, ZoneInfo(settings.TIME_ZONE))


def _month_for(book: CommissionBook, due_on: date) -> date:
    """The month whose run settles what is due then; never one that has been run."""
    month = due_on.replace(day=1)
    return max(month, next_month(book.run_until)) if book.run_until else month


# --- what a person decides ---------------------------------------------------------------------------


def clear(*, suspicion_id: int, reason: str, actor: User) -> CommissionLine | None:
    """Staff: nothing is wrong with the order; it earns what it would have. Twice is fine."""
    return _judge(suspicion_id, Suspicion.State.CLEARED, reason, actor)


def confirm(*, suspicion_id: int, reason: str, actor: User) -> CommissionLine | None:
    """Staff: the order earns nothing. Twice is fine."""
    return _judge(suspicion_id, Suspicion.State.CONFIRMED, reason, actor)


def _judge(suspicion_id: int, state: Suspicion.State, reason: str, actor: User) -> CommissionLine | None:
    if not reason.strip():
        raise refuse("reason_needed")
    with transaction.atomic():
        book = locked_book()
        suspicion = Suspicion.objects.select_related("order__user", "reseller__user", "reseller__level").get(
            pk=suspicion_id
        )
        if suspicion.state == state:
            return CommissionLine.objects.filter(order=suspicion.order, reseller=suspicion.reseller).first()
        if suspicion.state != Suspicion.State.OPEN:
            raise refuse("already_decided")
        suspicion.state, suspicion.reason = state, reason.strip()[:200]
        suspicion.actor, suspicion.decided_at = actor, now()
        suspicion.save(update_fields=["state", "reason", "actor", "decided_at"])
        record(actor=actor, event=f"commission.{state.value}", target=suspicion.order, reason=suspicion.reason)
        if state == Suspicion.State.CLEARED:
            return _decide(book, suspicion.order, suspicion.reseller)
        due_on = today()
        return CommissionLine.objects.create(
            kind=Kind.NOTHING,
            reseller=suspicion.reseller,
            order=suspicion.order,
            amount=0,
            currency=suspicion.order.currency,
            why="confirmed",
            due_on=due_on,
            settle_month=_month_for(book, due_on),
        )
