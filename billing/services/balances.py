"""Resellers' prepaid money: a balance is the sum of its postings, and is spent under the buyer's lock."""

from __future__ import annotations

from django.db import transaction
from django.db.models import Q, Sum
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import record
from billing.models import Account, Order, OrderLine, Posting
from derp_portal.lib.errors import PortalError

from .orders import become_paid, locked_order, take_back_placed
from .receiving import book_revenue


def balance_of(user: User, currency: str) -> int:
    """What the user has paid in and not spent, in minor units. Only who has the user locked may count on it.

    Less than nothing where money that was spent was taken back by the payer's bank.
    """
    side = Q(debit=Account.RESELLER_FUNDS) | Q(credit=Account.RESELLER_FUNDS)
    found = Posting.objects.filter(side, currency=currency, reseller=user).aggregate(
        paid_in=Sum("amount", filter=Q(credit=Account.RESELLER_FUNDS)),
        spent=Sum("amount", filter=Q(debit=Account.RESELLER_FUNDS)),
    )
    return (found["paid_in"] or 0) - (found["spent"] or 0)


def pay_from_balance(*, order_id: int, actor: User | None) -> Order:
    """Pay a wholesale order from the buyer's balance. Paid already is fine.

    Raises PortalError `order_not_open`, `not_from_balance`, `balance_too_small`.
    """
    with transaction.atomic():
        order = locked_order(order_id)
        if order.is_from_balance and order.paid_at:
            return order
        if order.state != Order.State.PENDING or order.user is None:
            raise PortalError(_("This order is not waiting to be paid."), code="order_not_open", status=409)
        if order.lines.exclude(kind=OrderLine.Kind.WHOLESALE).exists():
            raise PortalError(_("Only wholesale is paid from the balance."), code="not_from_balance", status=409)
        if balance_of(order.user, order.currency) < order.total:
            raise PortalError(_("Your balance is too small for this order."), code="balance_too_small", status=409)
        order.is_from_balance = True
        order.save(update_fields=["is_from_balance"])
        become_paid(order, received=order.total, actor=actor, reason="balance")
        take_back_placed(order)
        book_revenue(order, order.total, source=Account.RESELLER_FUNDS, actor=actor)
        record(actor=actor, event="order.paid_from_balance", target=order, amount=order.total)
    return order
