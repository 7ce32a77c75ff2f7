"""Payments: asking for money, and asking the gateway where nothing was heard.

Network calls happen outside transactions; what was learnt is written afterwards, under the order's lock.
"""

from __future__ import annotations

from datetime import timedelta

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.urls import reverse
from django.utils.translation import gettext as _

from accounts import request_ip
from accounts.models import User
from accounts.services import record
from billing.gateways.base import Demand, Gateway, GatewayFailure, Notice, Outcome, Rejected, Unavailable
from billing.models import Order, Payment, PaymentMethod, Transfer
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError

from .callbacks import NEWS_OF_MONEY, catch_up
from .methods import SANDBOX_KIND, gateway_of, notify_url
from .orders import TIME_TO_TRANSFER, check_nothing_held, locked_order, new_number
from .receiving import BELIEVED_FOR, Taken, close_payment, take_notice
from .watching import tell_staff
from .words import name_of

log = structlog.get_logger(__name__)

MOST_PAYMENTS = 20
"""So many attempts one order takes; more is somebody playing with the gateway."""
ASK_AFTER = [timedelta(seconds=seconds) for seconds in (30, 60, 120, 300, 600, 1800, 3600)]
ASKED_FOR = timedelta(hours=26)
"""After so long nobody pays any more, whatever the gateway says."""
PAYER_ASKED_FOR = timedelta(hours=1)
BATCH = 200


class PaymentRefused(PortalError):
    """The payment cannot be begun; nothing was charged. `code` says why."""

    status = 409


# --- asking for money -------------------------------------------------------------------------------


def start_payment(*, order_id: int, method: PaymentMethod, is_mobile: bool = False, actor: User | None) -> Payment:
    """Ask for the order's total by this method; an attempt that is still open is gone on with.

    Raises PaymentRefused `order_not_open`, `method_not_offered`, `too_many_payments`, `gateway_refused`, and
    `gateway_unavailable` (502), after which trying again may help.
    """
    payment, is_new = _open_payment(order_id, method, actor)
    if not is_new and (payment.redirect_url or payment.qr_text or not gateway_of(method).is_automatic):
        return payment
    order = payment.order
    # A bank transfer begun beside it may give the order days, but after `ASKED_FOR` nobody asks about this attempt.
    asked_until = payment.created_at + ASKED_FOR
    demand = Demand(
        reference=payment.reference,
        amount=payment.amount,
        currency=payment.currency,
        subject=_subject(order),
        expires_at=min(order.expires_at or asked_until, asked_until),
        return_url=settings.PUBLIC_URL + reverse("order_payment", args=[order.number, payment.reference]),
        notify_url=notify_url(method),
        client_ip=request_ip.current() or "",
        is_mobile=is_mobile,
        language=order.user.language if order.user else "",
    )
    try:
        opened = gateway_of(method).start(demand)
    except (Unavailable, ValueError) as failure:
        log.warning("payment_not_started", payment=payment.reference, error=str(failure))
        raise _unavailable() from failure
    except Rejected as failure:
        log.error("payment_rejected", payment=payment.reference, code=failure.code, detail=failure.detail)
        Payment.objects.filter(pk=payment.pk, state=Payment.State.OPEN).update(
            state=Payment.State.CLOSED, problem=failure.code[:32], next_query_at=None
        )
        raise PaymentRefused(
            _("This way to pay refused the order. Nothing was charged; choose another."), code="gateway_refused"
        ) from failure
    payment.redirect_url, payment.qr_text = opened.redirect_url, opened.qr_text
    payment.gateway_id = opened.gateway_id[:128]
    payment.save(update_fields=["redirect_url", "qr_text", "gateway_id"])
    return payment


def _unavailable() -> PaymentRefused:
    return PaymentRefused(
        _("This way to pay does not answer now. Nothing was charged; try again, or choose another."),
        code="gateway_unavailable",
        status=502,
    )


def _open_payment(order_id: int, method: PaymentMethod, actor: User | None) -> tuple[Payment, bool]:
    with transaction.atomic():
        order = locked_order(order_id)
        if order.state != Order.State.PENDING or (order.expires_at and order.expires_at <= now()):
            raise PaymentRefused(
                _("This order is not waiting to be paid any more. Nothing was charged."), code="order_not_open"
            )
        check_nothing_held(order)
        is_allowed = method.kind != SANDBOX_KIND or settings.TEST_GATEWAY
        if not method.is_enabled or method.currency != order.currency or not is_allowed:
            raise PaymentRefused(_("This way to pay is not offered."), code="method_not_offered")
        known = order.payments.filter(method=method, state=Payment.State.OPEN).first()
        if known:
            known.order = order
            return known, False
        if order.payments.count() >= MOST_PAYMENTS:
            raise PaymentRefused(
                _("This order was tried too often. Cancel it and order again."), code="too_many_payments"
            )
        try:
            is_automatic = gateway_of(method).is_automatic
        except ValueError as failure:
            raise _unavailable() from failure
        payment = Payment.objects.create(
            order=order,
            method=method,
            reference=new_number(),
            amount=order.total,
            currency=order.currency,
            next_query_at=now() + ASK_AFTER[0] if is_automatic else None,
        )
        if not is_automatic:
            # A bank takes its time.
            order.expires_at = max(order.expires_at or now(), order.created_at + TIME_TO_TRANSFER)
            order.save(update_fields=["expires_at"])
        record(actor=actor, event="payment.begun", target=payment, order=order.number, method=method.code)
    return payment, True


def _subject(order: Order) -> str:
    first = order.lines.first()
    what = name_of(first) if first else ""
    portal = _("DERP Portal")
    return f"{portal} {order.number} {what}".strip()[:120]


# --- asking where nothing was heard -----------------------------------------------------------------


def ask_gateways() -> int:
    """Ask about open payments whose time has come; close those of orders that are not open any more. The number.

    Paid ones are asked about for an hour, where only an answer says which account paid.
    """
    asked_about = [Payment.State.OPEN, Payment.State.PAID]
    due = Payment.objects.filter(state__in=asked_about, next_query_at__lte=now()).order_by("next_query_at")
    asked = 0
    for payment in list(due.only("next_query_at", "queries", "state", "paid_at")[:BATCH]):
        again_at = now() + ASK_AFTER[min(payment.queries, len(ASK_AFTER) - 1)]
        if payment.paid_at is not None:
            again_at = min(again_at, payment.paid_at + PAYER_ASKED_FOR)
        is_late = again_at <= now()
        # One UPDATE decides who asks, and when it is asked again should the asker die.
        planned = Payment.objects.filter(pk=payment.pk, next_query_at=payment.next_query_at, state=payment.state)
        claimed = planned.update(next_query_at=None if is_late else again_at, queries=F("queries") + int(not is_late))
        if claimed and not is_late:
            asked += _asked(payment.pk)
    return asked


def _asked(payment_id: int) -> bool:
    try:
        ask_about(payment_id)
    except Exception as error:
        # One payment must not keep the others from being asked about.
        log.error("payment_not_asked_about", payment=payment_id, exc_info=error)
        return False
    return True


def ask_about(payment_id: int) -> Taken | None:
    """Ask the gateway what became of one payment, and act on it. None when it does not answer.

    A payment whose order is not open any more is closed at the gateway too. One that the gateway never says anything
    about is given up after `ASKED_FOR`, if it answers at all, and after `BELIEVED_FOR` if it does not; staff are told.
    """
    payment = Payment.objects.select_related("method", "order__user").get(pk=payment_id)
    age = now() - payment.created_at
    try:
        gateway = gateway_of(payment.method)
        notice = gateway.query(payment.reference, gateway_id=payment.gateway_id, currency=payment.currency)
        if notice.outcome == Outcome.PENDING and payment.order.state != Order.State.PENDING:
            notice = _close_at_gateway(gateway, payment)
        if notice.outcome == Outcome.PENDING and (age > ASKED_FOR or not gateway.is_automatic):
            # Nobody pays any more; or a person says so, who needs no open attempt for it.
            notice = Notice(payment.reference, Outcome.CLOSED)
        taken = take_notice(method=payment.method, notice=notice, source=Transfer.Source.QUERY)
        if taken and taken.verdict in NEWS_OF_MONEY:
            catch_up(payment.method, notice.transaction_id)
        return taken
    except Rejected as failure:
        log.warning("gateway_rejects_question", payment=payment.reference, code=failure.code, detail=failure.detail)
        if age > ASKED_FOR:
            _give_up_asking(payment, failure.code)
    except (GatewayFailure, ValueError) as failure:
        log.warning("gateway_not_asked", payment=payment.reference, error=str(failure))
        if age > BELIEVED_FOR:
            _give_up_asking(payment, "never_heard")
    return None


def _close_at_gateway(gateway: Gateway, payment: Payment) -> Notice:
    """Let it not be paid any more, and say what came of that: it may be paid in this very moment."""
    try:
        is_closed = gateway.close(payment.reference, gateway_id=payment.gateway_id)
    except Rejected:
        return gateway.query(payment.reference, gateway_id=payment.gateway_id, currency=payment.currency)
    # Where nothing can be promised it is asked about for as long as somebody might pay.
    return Notice(payment.reference, Outcome.CLOSED if is_closed else Outcome.PENDING)


def _give_up_asking(payment: Payment, code: str) -> None:
    close_payment(payment, code[:32])
    tell_staff("payment_unclear", subject=payment.reference, reference=payment.reference, order=payment.order.number)
