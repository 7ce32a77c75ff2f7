"""Callbacks of gateways: read, believed or not, acted on, and kept as they came."""

from __future__ import annotations

from datetime import timedelta

import structlog
from django.conf import settings
from django.db.models import QuerySet
from django.utils import translation

from accounts import ratelimit
from accounts.ratelimit import RateLimited
from accounts.request_ip import as_counted
from billing.gateways.base import SETBACKS, CallbackAnswer, CallbackRefused, RawCallback
from billing.models import GatewayCallback, Payment, PaymentMethod, Transfer
from derp_portal.lib.clock import now

from .methods import gateway_of
from .receiving import take_notice

log = structlog.get_logger(__name__)

LONGEST_KEPT = 64 * 1024
KEPT_HEADERS = ("content-type", "user-agent")
KEPT_HEADER_STARTS = ("wechatpay-", "stripe-", "x-sandbox-")
MOST_SETBACKS = 20
BATCH = 1000
REFUSED_KEPT_A_MINUTE = 30
"""Of one address: whoever sends rubbish must not fill the table."""

Verdict = GatewayCallback.Verdict
NEWS_OF_MONEY = (Verdict.COUNTED, Verdict.HELD, Verdict.REPEATED)
"""Repeated too: the first call may have failed after the money was booked."""


def handle_callback(*, method: PaymentMethod, callback: RawCallback, ip: str | None) -> CallbackAnswer:
    """Act on a callback and say what the gateway wants to hear. Repeated ones are taken and change nothing.

    One that is not believed changes nothing either, but has the gateway asked about the payment it claims to speak of.
    Also a disabled method's callbacks count: its customers may be paying at this moment.
    """
    gateway = gateway_of(method)
    verdict, reason, payment, is_taken = Verdict.NOTED, "", None, True
    try:
        # What is written now reads the same whoever triggered it.
        with translation.override("en"):
            notice = gateway.read_callback(callback)
            source, payer_follows = Transfer.Source.CALLBACK, gateway.names_payer_late
            taken = take_notice(method=method, notice=notice, source=source, payer_follows=payer_follows)
            if taken and taken.verdict in NEWS_OF_MONEY:
                catch_up(method, notice.transaction_id)
        if taken is None:
            verdict, reason, is_taken = Verdict.REFUSED, "unknown_payment", False
        else:
            verdict, reason, payment = Verdict(taken.verdict), taken.problem, taken.payment
    except CallbackRefused as refusal:
        verdict, reason, is_taken = Verdict.REFUSED, refusal.code, refusal.code == "unsupported"
        payment = _ask_soon(method, refusal.reference)
        log.warning("callback_refused", method=method.code, code=refusal.code, reference=refusal.reference)
    except Exception as error:
        # The gateway calls again; what it said is kept all the same.
        verdict, reason, is_taken = Verdict.FAILED, type(error).__name__, False
        log.error("callback_failed", method=method.code, exc_info=error)
    if verdict != Verdict.REFUSED or _may_be_kept(ip):
        _keep(method, callback, ip, verdict, reason, payment)
    return gateway.answer(is_taken=is_taken)


def catch_up(method: PaymentMethod, transaction_id: str) -> None:
    """Act on setbacks of a transaction that were told before the transaction itself: they are kept as they came."""
    early = GatewayCallback.objects.filter(method=method, payment=None, verdict=Verdict.NOTED)
    for kept in early.filter(body__contains=transaction_id).order_by("id")[:MOST_SETBACKS]:
        # Nothing but what was signed and timely then is kept as noted.
        callback = RawCallback(kept.http_method, kept.headers, kept.body.encode(), kept.query, kept.created_at)
        try:
            notice = gateway_of(method).read_callback(callback)
        except CallbackRefused as refusal:
            log.warning("kept_callback_refused", method=method.code, code=refusal.code)
            continue
        if notice.outcome in SETBACKS and notice.transaction_id == transaction_id:
            take_notice(method=method, notice=notice, source=Transfer.Source.CALLBACK)


def forget_callbacks() -> int:
    """Drop callbacks that have been kept for long enough; how many. What they came to stays in transfers."""
    moment = now()
    believed = GatewayCallback.objects.exclude(verdict=Verdict.REFUSED)
    refused = GatewayCallback.objects.filter(verdict=Verdict.REFUSED)
    return _forget(believed.filter(created_at__lt=moment - timedelta(days=settings.CALLBACK_DAYS))) + _forget(
        refused.filter(created_at__lt=moment - timedelta(days=settings.REFUSED_CALLBACK_DAYS))
    )


def _forget(old: QuerySet[GatewayCallback]) -> int:
    count = 0
    # In small steps: a callback that comes in now must not wait.
    while ids := list(old.order_by("created_at").values_list("pk", flat=True)[:BATCH]):
        count += GatewayCallback.objects.filter(pk__in=ids).forget()
    return count


def _ask_soon(method: PaymentMethod, reference: str) -> Payment | None:
    if not reference:
        return None
    payment = Payment.objects.filter(method=method, reference=reference).first()
    if payment and payment.state == Payment.State.OPEN:
        Payment.objects.filter(pk=payment.pk, state=Payment.State.OPEN, next_query_at__gt=now()).update(
            next_query_at=now()
        )
    return payment


def _may_be_kept(ip: str | None) -> bool:
    try:
        ratelimit.hit(scope="callback-refused", key=as_counted(ip), limit=REFUSED_KEPT_A_MINUTE, window_seconds=60)
    except RateLimited:
        return False
    return True


def _keep(
    method: PaymentMethod,
    callback: RawCallback,
    ip: str | None,
    verdict: GatewayCallback.Verdict,
    reason: str,
    payment: Payment | None,
) -> None:
    headers = {
        name: value[:1000]
        for name, value in callback.headers.items()
        if name in KEPT_HEADERS or name.startswith(KEPT_HEADER_STARTS)
    }
    # No database keeps a zero byte in a text.
    body = callback.body[:LONGEST_KEPT].decode(errors="replace").replace("\x00", "\ufffd")
    GatewayCallback.objects.create(
        method=method,
        payment=payment,
        verdict=verdict,
        reason=reason[:40],
        http_method=callback.method[:8],
        headers=headers,
        query=callback.query[:LONGEST_KEPT].replace("\x00", "\ufffd"),
        body=body,
        ip=ip,
        created_at=callback.received_at,
    )
