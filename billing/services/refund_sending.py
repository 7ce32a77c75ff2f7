"""Refunds that were decided: sent through the gateway, or left to a person, and said to be done."""

from __future__ import annotations

from datetime import timedelta

import structlog
from django.db import transaction
from django.db.models import F
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import notify, record
from billing.gateways.base import GatewayFailure, RefundDemand, Rejected
from billing.models import Account, Order, Posting, Refund, SoldSerial
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError

from .ledger import post
from .methods import gateway_of, notify_url
from .orders import locked_order
from .setbacks import BOUNCED
from .watching import tell_staff, told_staff_is_over
from .words import amount_of

log = structlog.get_logger(__name__)

PAUSES = [timedelta(seconds=seconds) for seconds in (120, 120, 300, 1800, 3600, 3 * 3600)]
"""The first is longer than any gateway's answer may take: nobody asks again while it is being asked."""
MOST_ATTEMPTS = 20
"""Some two days of a gateway that never answered: then a person sends it."""
MOST_LOOKS = 80
"""Some ten days for one that the gateway has said to be on its way, whether it answers since or not."""
BATCH = 100


def wake(refund_id: int) -> None:
    """Send it as soon as it is committed; the sweep finds it if nobody comes."""
    from billing.tasks import send_refund  # Tasks call services; only this wake-up calls back.

    transaction.on_commit(lambda: send_refund.delay(refund_id), robust=True)


def send_due() -> int:
    """Send the refunds that are due. Returns how many were tried."""
    due = Refund.objects.filter(state=Refund.State.DUE, next_try_at__lte=now()).order_by("next_try_at")
    ids = list(due.values_list("id", flat=True)[:BATCH])
    for refund_id in ids:
        try:
            send(refund_id=refund_id)
        except Exception as error:
            # One refund must not keep the others from being sent.
            log.error("refund_not_tried", refund=refund_id, exc_info=error)
    return len(ids)


def send(*, refund_id: int) -> Refund:
    """Ask the gateway to give the money back; again later if it does not answer, by a person if it cannot.

    The gateway is asked with the refund's own number, so that asking twice gives back once.
    """
    refund = Refund.objects.select_related("order__user", "transfer__method", "transfer__payment").get(pk=refund_id)
    pause = PAUSES[min(refund.attempts, len(PAUSES) - 1)]
    claimed = Refund.objects.filter(pk=refund_id, state=Refund.State.DUE, next_try_at__lte=now()).update(
        next_try_at=now() + pause, attempts=F("attempts") + 1
    )
    if not claimed:
        return refund
    transfer = refund.transfer
    if transfer is None:
        return _leave_to_a_person(refund, "by_hand")
    try:
        gateway = gateway_of(transfer.method)
        if not gateway.can_refund:
            return _leave_to_a_person(refund, "by_hand")
        if refund.attempts and not gateway.knows_refunds and refund.amount != transfer.amount:
            # Nobody can say what became of the first attempt, and asking again might give back twice.
            return _leave_to_a_person(refund, "unclear")
        answer = gateway.refund(
            RefundDemand(
                refund_reference=refund.number,
                reference=transfer.payment.reference,
                transaction_id=transfer.transaction_id,
                amount=refund.amount,
                paid_amount=transfer.amount,
                currency=refund.currency,
                # What staff write is not for the payer.
                reason=refund.number,
                notify_url=notify_url(transfer.method),
                gateway_id=transfer.payment.gateway_id,
            )
        )
    except Rejected as failure:
        log.error("refund_rejected", refund=refund.number, code=failure.code, detail=failure.detail)
        return _leave_to_a_person(refund, str(failure))
    except (GatewayFailure, ValueError) as failure:
        log.warning("refund_not_sent", refund=refund.number, error=str(failure))
        # What it has taken on it may still pay, and a person would pay it again.
        if refund.attempts + 1 >= (MOST_LOOKS if refund.reference else MOST_ATTEMPTS):
            return _leave_to_a_person(refund, str(failure))
        return refund
    if answer.is_final:
        with transaction.atomic():
            locked_order(refund.order_id)
            refund.refresh_from_db()
            if refund.problem == BOUNCED:
                # It came back before we were told that it was sent.
                return _leave_to_a_person(refund, BOUNCED)
            finish(refund, reference=answer.gateway_id, actor=None)
    elif refund.attempts + 1 >= MOST_LOOKS:
        return _leave_to_a_person(refund, "never_final")
    elif not refund.reference:
        # Not every gateway has a name of its own for it; ours says too that it was taken on.
        refund.reference = (answer.gateway_id or refund.number)[:128]
        Refund.objects.filter(pk=refund_id, state=Refund.State.DUE).update(reference=refund.reference)
    return refund


def _leave_to_a_person(refund: Refund, problem: str) -> Refund:
    with transaction.atomic():
        left = Refund.objects.filter(pk=refund.pk, state=Refund.State.DUE).update(
            state=Refund.State.BY_HAND, problem=problem[:200]
        )
        if left:
            record(actor=None, event="refund.by_hand", target=refund, problem=problem[:200])
            tell_staff("refund_by_hand", subject=refund.number, refund=refund.number, order=refund.order.number)
    refund.refresh_from_db()
    return refund


def settle_by_hand(*, refund_id: int, reference: str, actor: User) -> Refund:
    """Staff have sent the money themselves; `reference` says how. Twice is fine. Raises PortalError `reference_needed`,
    `not_by_hand` for one that the gateway is sending, `already_decided` for one that was sent by another transfer.
    """
    reference = reference.strip()[:128]
    if not reference:
        raise PortalError(_("Write down by which transfer the money was sent."), code="reference_needed")
    order_id = Refund.objects.values_list("order_id", flat=True).get(pk=refund_id)
    with transaction.atomic():
        locked_order(order_id)
        refund = Refund.objects.select_related("order__user", "transfer__method").get(pk=refund_id)
        if refund.state == Refund.State.DUE:
            raise PortalError(
                _("The gateway is sending this refund. Wait until it has said no."), code="not_by_hand", status=409
            )
        if refund.state == Refund.State.DONE and refund.reference != reference:
            # Whoever says so may have sent it a second time: they must hear of the first.
            raise PortalError(
                _("This refund was sent before, by %(reference)s. Nothing was changed.")
                % {"reference": refund.reference or "–"},
                code="already_decided",
                status=409,
                reference=refund.reference,
            )
        finish(refund, reference=reference, actor=actor)
    return refund


def finish(refund: Refund, *, reference: str, actor: User | None) -> None:
    """The money has gone back: book it, once. The order is locked."""
    if refund.state == Refund.State.DONE:
        return
    refund.state, refund.done_at, refund.reference, refund.problem = Refund.State.DONE, now(), reference[:128], ""
    refund.save(update_fields=["state", "done_at", "reference", "problem"])
    # Once more each time it came back.
    bounces = Posting.objects.filter(refund=refund, debit=Account.CASH, credit=Account.REFUNDS_DUE).count()
    post(
        f"refund:{refund.pk}:sent:{bounces + 1}" if bounces else f"refund:{refund.pk}:sent",
        debit=Account.REFUNDS_DUE,
        credit=Account.RESELLER_FUNDS if refund.order.is_from_balance else Account.CASH,
        amount=refund.amount,
        currency=refund.currency,
        order=refund.order,
        transfer=refund.transfer,
        refund=refund,
        method=refund.transfer.method if refund.transfer else None,
        actor=actor,
        note=reference,
    )
    record(actor=actor, event="refund.done", target=refund, reference=reference)
    for topic in ("refund_by_hand", "refund_bounced"):
        told_staff_is_over(topic, subject=refund.number)
    tell(refund, refund.order, "refund_done", bounces=bounces)


def tell(refund: Refund, order: Order, kind: str, *, bounces: int = 0) -> None:
    """Write to the customer: `refund_decided` or `refund_done`. Once for each, and for each bounce."""
    if order.user:
        sold = SoldSerial.objects.filter(line__order=order)
        notify(
            kind=kind,
            # Who was told that it is done, and then it came back, is told of the next time too.
            dedup_key=f"{kind}:{refund.pk}:{bounces}" if bounces else f"{kind}:{refund.pk}",
            user=order.user,
            context={
                "order": order,
                "refund": refund,
                "amount": amount_of(order.user, refund.amount, refund.currency),
                "takes_back": refund.takes_back and sold.exists(),
                # Only of those that were named when it was decided.
                "keeps_some": sold.filter(taken_back_at=None).exists(),
                "is_to_balance": order.is_from_balance,
            },
            button_url=f"/orders/{order.number}/",
        )
