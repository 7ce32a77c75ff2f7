"""Money that did not stay where it was: payers who have it taken back by their bank, refunds that did not arrive.

What a dispute has cost is booked by a person, as a refund that has gone already. A refund that came back is to be sent
again, by a person too. Staff are told of both.
"""

from __future__ import annotations

from typing import Any

from django.db import transaction

from accounts.services import record
from billing.gateways.base import Notice, Outcome
from billing.models import Account, Payment, PaymentMethod, Posting, Refund, Transfer
from derp_portal.lib import money

from .ledger import post
from .orders import locked_order
from .watching import tell_staff, told_staff_is_over

DISPUTES = {
    Outcome.INQUIRED: Transfer.Dispute.ASKED,
    Outcome.DISPUTED: Transfer.Dispute.OPEN,
    Outcome.DISPUTE_WON: Transfer.Dispute.WON,
    Outcome.DISPUTE_LOST: Transfer.Dispute.LOST,
}
OPEN_DISPUTES = (Transfer.Dispute.ASKED, Transfer.Dispute.OPEN)
STEPS = ["", Transfer.Dispute.ASKED, Transfer.Dispute.OPEN, Transfer.Dispute.WON, Transfer.Dispute.LOST]
"""In this order one dispute goes on, and never back: news that comes late is no news."""
TOPICS = {
    Transfer.Dispute.ASKED: "payment_inquired",
    Transfer.Dispute.OPEN: "payment_disputed",
    Transfer.Dispute.LOST: "dispute_lost",
}
BOUNCED = "bounced"


def take_setback(method: PaymentMethod, notice: Notice) -> Payment | None:
    """Note what the gateway said, and tell staff. None for a transaction that we do not know. Twice changes nothing."""
    found = Transfer.objects.filter(method=method, transaction_id=notice.transaction_id)
    order_id = found.values_list("payment__order_id", flat=True).first()
    if order_id is None:
        return None
    with transaction.atomic():
        order = locked_order(order_id)
        transfer = found.select_related("payment").get()
        said = {
            "order": order.number,
            "amount": f"{money.to_text(notice.amount, notice.currency)} {notice.currency}",
            "why": notice.why or "-",
        }
        if notice.outcome == Outcome.REFUND_FAILED:
            _bounce(transfer, notice, said)
        else:
            _dispute(transfer, notice, said)
    return transfer.payment


def _dispute(transfer: Transfer, notice: Notice, said: dict[str, Any]) -> None:
    dispute, before = DISPUTES[notice.outcome], transfer.dispute
    if transfer.dispute_id in ("", notice.setback_id):
        is_news = STEPS.index(dispute) > STEPS.index(before)
    else:
        # Another dispute about the same money; how an older one ended says nothing about it.
        is_news = dispute in OPEN_DISPUTES
    if not is_news:
        return
    transfer.dispute, transfer.dispute_id = dispute, notice.setback_id
    transfer.save(update_fields=["dispute", "dispute_id"])
    record(actor=None, event=f"dispute.{dispute.value}", target=transfer, **said)
    end_alerts(transfer)
    if topic := TOPICS.get(dispute):
        tell_staff(topic, subject=f"transfer:{transfer.pk}", **said)


def end_alerts(transfer: Transfer) -> None:
    """What staff were told of a dispute about the transfer is seen to."""
    for topic in TOPICS.values():
        told_staff_is_over(topic, subject=f"transfer:{transfer.pk}")


def _bounce(transfer: Transfer, notice: Notice, said: dict[str, Any]) -> None:
    """The money is in the account again, and a person must send it: as it was before, but for what has gone wrong."""
    # This news may overtake the gateway's answer that the refund was sent: whoever takes the answer looks for it.
    due = Refund.objects.filter(state=Refund.State.DUE, number=notice.refund_reference, transfer=transfer)
    if due.update(problem=BOUNCED):
        return
    # One that a person has sent since is another transfer.
    sent = Refund.objects.filter(state=Refund.State.DONE, number=notice.refund_reference, reference=notice.setback_id)
    refund = sent.filter(transfer=transfer).select_related("order").first()
    if refund is None:
        return
    refund.state, refund.problem, refund.done_at = Refund.State.BY_HAND, BOUNCED, None
    refund.save(update_fields=["state", "problem", "done_at"])
    gone = Posting.objects.filter(refund=refund, debit=Account.REFUNDS_DUE, credit=Account.CASH).latest("id")
    post(
        f"{gone.key}:bounced",
        debit=Account.CASH,
        credit=Account.REFUNDS_DUE,
        amount=refund.amount,
        currency=refund.currency,
        order=refund.order,
        transfer=transfer,
        refund=refund,
        method=transfer.method,
        reverses=gone,
        note=notice.why,
    )
    record(actor=None, event="refund.bounced", target=refund, **said)
    tell_staff("refund_bounced", subject=refund.number, refund=refund.number, **said)
