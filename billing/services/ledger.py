"""Writing the books. Every posting names what it is of, and the same key is posted once."""

from __future__ import annotations

from datetime import date
from zoneinfo import ZoneInfo

from django.conf import settings
from django.utils.translation import gettext as _

from accounts.models import User
from billing.models import Account, ClosedMonth, Order, OrderLine, PaymentMethod, Posting, Refund, Transfer
from derp_portal.lib.clock import local_day, now
from derp_portal.lib.errors import PortalError


def today() -> date:
    """The operator's day: what is booked now is booked on it."""
    return local_day(now(), ZoneInfo(settings.TIME_ZONE))


def post(
    key: str,
    *,
    debit: Account,
    credit: Account,
    amount: int,
    currency: str,
    order: Order | None = None,
    line: OrderLine | None = None,
    transfer: Transfer | None = None,
    refund: Refund | None = None,
    method: PaymentMethod | None = None,
    reseller: User | None = None,
    reverses: Posting | None = None,
    actor: User | None = None,
    note: str = "",
) -> Posting:
    """Book so much from `credit` to `debit`, today. The caller holds what the posting is of locked, in a transaction.

    The plan follows from the line, shop and reseller (unless named) from the order. Raises IntegrityError for a key
    that is booked already: whoever holds the right lock never tries; PortalError `month_closed`.
    """
    day = today()
    month = day.replace(day=1)
    if ClosedMonth.objects.filter(month=month).exists():
        raise PortalError(_("The books of this month are closed."), code="month_closed", status=409)
    return Posting.objects.create(
        key=key,
        debit=debit,
        credit=credit,
        amount=amount,
        currency=currency,
        booked_day=day,
        booked_month=month,
        order=order,
        line=line,
        plan_id=line.plan_id if line else None,
        channel_id=order.channel_id if order else None,
        reseller_id=reseller.pk if reseller else (order.reseller_id if order else None),
        transfer=transfer,
        refund=refund,
        method=method,
        reverses=reverses,
        actor=actor,
        note=note[:200],
    )


def allocate(amount: int, weights: list[int]) -> list[int]:
    """`amount` in parts proportional to `weights`, whole units that add up exactly; the largest remainders round up.

    With nothing to go by (all weights zero) the first part gets it all.
    """
    whole = sum(weights)
    if not whole:
        return [amount if number == 0 else 0 for number in range(len(weights))]
    parts = [amount * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda number: (-(amount * weights[number] % whole), number))
    for number in by_remainder[: amount - sum(parts)]:
        parts[number] += 1
    return parts
