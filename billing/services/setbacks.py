"""Money that did not stay where it was: payers who have it taken back by their bank, refunds that did not arrive.

Nothing is booked here. What a dispute has cost is a refund that has been sent already, and a refund that came back
leaves with another transfer: both are for a person, who is told.
"""

from __future__ import annotations

from typing import Any

from django.db import transaction

from accounts.services import record
from billing.gateways.base import Notice, Outcome
from billing.models import Payment, PaymentMethod, Refund, Transfer
from derp_portal.lib import money

from .orders import locked_order
from .watching import tell_staff, told_staff_is_over

DISPUTES = {
    Outcome.DISPUTED: Transfer.Dispute.OPEN,
    Outcome.DISPUTE_WON: Transfer.Dispute.WON,
    Outcome.DISPUTE_LOST: Transfer.Dispute.LOST,
}
BOUNCED = "bounced"


def take_setback(method: PaymentMethod, notice: Notice) -> Payment | None:
    """Note what the gateway said, and tell staff. None for a transaction that we do not know. Twice changes nothing."""
    found = Transfer.objects.filter(method=method, transaction_id=notice.transaction_id)
    transfer = found.select_related("payment").first()
    if transfer is None:
        return None
    with transaction.atomic():
        order = locked_order(transfer.payment.order_id)
        said = {
            "order": order.number,
            "amount": f"{money.to_text(notice.amount, notice.currency)} {notice.currency}",
            "why": notice.why or "-",
        }
        if notice.outcome == Outcome.REFUND_FAILED:
            _bounce(notice, said)
        else:
            _dispute(transfer, DISPUTES[notice.outcome], said)
    return transfer.payment


def _dispute(transfer: Transfer, dispute: Transfer.Dispute, said: dict[str, Any]) -> None:
    # What was closed stays so, should the news of its beginning come late.
    closed = [Transfer.Dispute.WON, Transfer.Dispute.LOST]
    known = [dispute, *closed] if dispute == Transfer.Dispute.OPEN else [dispute]
    if not Transfer.objects.filter(pk=transfer.pk).exclude(dispute__in=known).update(dispute=dispute):
        return
    record(actor=None, event=f"transfer.dispute_{dispute.value}", target=transfer, **said)
    subject = f"transfer:{transfer.pk}"
    if dispute == Transfer.Dispute.OPEN:
        tell_staff("payment_disputed", subject=subject, **said)
    else:
        told_staff_is_over("payment_disputed", subject=subject)
    if dispute == Transfer.Dispute.LOST:
        tell_staff("dispute_lost", subject=subject, **said)


def _bounce(notice: Notice, said: dict[str, Any]) -> None:
    refund = Refund.objects.filter(number=notice.refund_reference, transfer__transaction_id=notice.transaction_id)
    # One that is still on its way is asked about again, and left to a person then.
    if not refund.filter(state=Refund.State.DONE).exclude(problem=BOUNCED).update(problem=BOUNCED):
        return
    record(actor=None, event="refund.bounced", target=refund.get(), **said)
    tell_staff("refund_bounced", subject=notice.refund_reference, refund=notice.refund_reference, **said)
