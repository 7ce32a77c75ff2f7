"""Money that came in: booked once, counted if it fits, kept for a person if it does not.

A gateway's call, its answer to a question and a person's confirmation all end in `receive_money`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import Sum
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import notify, record
from billing.gateways.base import SETBACKS, Notice, Outcome
from billing.models import Account, Order, OrderLine, Payment, PaymentMethod, Transfer
from derp_portal.lib import money
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError

from .ledger import allocate, post
from .methods import SANDBOX_KIND
from .orders import become_paid, locked_order, may_revive, new_number, revive
from .payers import payer_digest
from .setbacks import take_setback
from .watching import tell_staff, told_staff_is_over
from .words import amount_of, method_words

BELIEVED_FOR = timedelta(days=7)
"""A notice about a payment begun longer ago goes to a person: not every gateway signs a time into it."""
LONGEST_TRANSACTION = 128
EARNED_AS = {OrderLine.Kind.WHOLESALE.value: Account.WHOLESALE, OrderLine.Kind.TOP_UP.value: Account.RESELLER_FUNDS}
"""To which account the money of a line goes; all others are revenue."""
OPEN_STATES = (Order.State.PENDING, Order.State.EXPIRED, Order.State.CANCELLED)


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a notice. `verdict` is one of `counted`, `repeated`, `held`, `noted`; `problem` says why held."""

    verdict: str
    payment: Payment | None = None
    problem: str = ""


def take_notice(
    *, method: PaymentMethod, notice: Notice, source: Transfer.Source, payer_follows: bool = False
) -> Taken | None:
    """Act on what a gateway said. None when it speaks of no payment of ours. Repeating it changes nothing.

    `payer_follows`: only asked, and not here, does the gateway say which account paid; then it is asked.
    """
    if notice.outcome in SETBACKS:
        # Whoever has other trade with the same gateway is told of its setbacks too: none of ours.
        return Taken("noted", take_setback(method, notice))
    payment = Payment.objects.filter(method=method, reference=notice.reference).first()
    if payment is None:
        # Two methods on one account of a gateway are told of each other's payments too; each has its own call.
        other = Payment.objects.filter(method__kind=method.kind, reference=notice.reference).first()
        return Taken("noted", other, "other_method") if other else None
    if notice.outcome == Outcome.PENDING:
        return Taken("noted", payment)
    if notice.outcome == Outcome.CLOSED:
        close_payment(payment, "closed_by_gateway")
        return Taken("noted", payment)
    return receive_money(
        payment_id=payment.pk,
        transaction_id=notice.transaction_id,
        amount=notice.amount,
        currency=notice.currency,
        fee=notice.fee,
        paid_at=notice.paid_at,
        payer=notice.payer,
        payer_follows=payer_follows,
        source=source,
        actor=None,
    )


def receive_money(
    *,
    payment_id: int,
    transaction_id: str,
    amount: int,
    currency: str,
    fee: int | None = None,
    paid_at: datetime | None = None,
    payer: str = "",
    payer_follows: bool = False,
    source: Transfer.Source,
    evidence: str = "",
    actor: User | None,
) -> Taken:
    """Book money that came in, once for each transaction. If it is just what the order costs, the order is paid.

    What does not fit (too little, too much, for an order that was paid or given up) is kept as the customer's money
    until a person decides. Which account paid is kept as a digest alone, also when it is heard of later.
    """
    transaction_id = transaction_id[:LONGEST_TRANSACTION]
    if amount <= 0:
        return Taken("noted", Payment.objects.get(pk=payment_id), "nothing")
    order_id = Payment.objects.values_list("order_id", flat=True).get(pk=payment_id)
    with transaction.atomic():
        order = locked_order(order_id)
        payment = Payment.objects.select_related("method").get(pk=payment_id)
        known = Transfer.objects.filter(method=payment.method_id, transaction_id=transaction_id).first()
        digest = payer_digest(payment.method.kind, payer)
        if known:
            if digest and known.payment_id == payment.pk:
                Transfer.objects.filter(pk=known.pk, payer_digest="").update(payer_digest=digest)
                Payment.objects.filter(pk=payment.pk, state=Payment.State.PAID).update(next_query_at=None)
            return Taken("repeated", payment, "" if known.payment_id == payment.pk else "other_payment")
        problem = _problem(order, payment, amount, currency)
        kept = _fee(payment.method, amount) if fee is None else min(fee, amount)
        try:
            with transaction.atomic():
                transfer = Transfer.objects.create(
                    payment=payment,
                    method=payment.method,
                    transaction_id=transaction_id,
                    amount=amount,
                    currency=currency,
                    fee=kept,
                    state=Transfer.State.HELD if problem else Transfer.State.COUNTED,
                    problem=problem,
                    source=source,
                    evidence=evidence,
                    actor=actor,
                    paid_at=paid_at or now(),
                    payer_digest=digest,
                )
        except IntegrityError:
            if not Transfer.objects.filter(method=payment.method_id, transaction_id=transaction_id).exists():
                raise
            # The same transaction for another order, at this very moment: no lock of ours covers two orders.
            return Taken("repeated", payment, "other_payment")
        _post_transfer(transfer, order, actor)
        if problem:
            _hold(payment, transfer, order)
            return Taken("held", payment, problem)
        if order.state != Order.State.PENDING:
            revive(order)
        count_transfer(order, transfer, received=amount, actor=actor, reason=f"{source}:{payment.reference}")
        if payer_follows and not digest:
            # Before anybody learns that it is paid: whoever asks `is_payer_awaited` must not be too early.
            Payment.objects.filter(pk=payment.pk).update(next_query_at=now())
    return Taken("counted", payment)


def _problem(order: Order, payment: Payment, amount: int, currency: str) -> str:
    """Why the money cannot simply be counted; "" if it can."""
    if currency != order.currency:
        return "other_currency"
    if order.state not in OPEN_STATES:
        return "paid_before"
    if amount != order.total:
        return "partial" if amount < order.total else "over"
    if payment.created_at < now() - BELIEVED_FOR:
        return "too_old"
    if order.state == Order.State.CANCELLED:
        return "cancelled"
    return may_revive(order) if order.state == Order.State.EXPIRED else ""


def _fee(method: PaymentMethod, amount: int) -> int:
    return money.percent_of(amount, method.fee_basis_points)


def _post_transfer(transfer: Transfer, order: Order, actor: User | None) -> None:
    common = {"currency": transfer.currency, "order": order, "transfer": transfer, "method": transfer.method}
    key = f"transfer:{transfer.pk}"
    post(
        key,
        debit=Account.CASH,
        credit=Account.CUSTOMER_FUNDS,
        amount=transfer.amount,
        actor=actor,
        **common,  # type: ignore[arg-type]
    )
    if transfer.fee:
        post(
            f"{key}:fee",
            debit=Account.GATEWAY_FEES,
            credit=Account.CASH,
            amount=transfer.fee,
            actor=actor,
            **common,  # type: ignore[arg-type]
        )


def count_transfer(order: Order, transfer: Transfer, *, received: int, actor: User | None, reason: str) -> None:
    """The locked order is paid with this much of the transfer: customers' money becomes revenue."""
    become_paid(order, received=received, actor=actor, reason=reason)
    book_revenue(order, received, source=Account.CUSTOMER_FUNDS, transfer=transfer, actor=actor)
    moment = now()
    Payment.objects.filter(pk=transfer.payment_id).update(
        state=Payment.State.PAID, paid_at=moment, next_query_at=None, problem=""
    )
    # Other attempts must not be paid as well; the gateways are told.
    Payment.objects.filter(order=order, state=Payment.State.OPEN).exclude(pk=transfer.payment_id).update(
        next_query_at=moment
    )
    if order.user:
        notify(
            kind="payment_received",
            dedup_key=f"payment-received:{transfer.pk}",
            user=order.user,
            context={"order": order, "amount": amount_of(order.user, transfer.amount, transfer.currency)},
            button_url=f"/orders/{order.number}/",
        )


def book_revenue(
    order: Order, received: int, *, source: Account, transfer: Transfer | None = None, actor: User | None
) -> None:
    """What the locked order earned, by its lines."""
    lines = list(order.lines.select_related("plan"))
    for line, part in zip(lines, allocate(received, [line.amount for line in lines]), strict=True):
        if part:
            post(
                f"order:{order.pk}:line:{line.pk}",
                debit=source,
                credit=EARNED_AS.get(line.kind, Account.REVENUE),
                amount=part,
                currency=order.currency,
                order=order,
                line=line,
                transfer=transfer,
                method=transfer.method if transfer else None,
                actor=actor,
            )


def _hold(payment: Payment, transfer: Transfer, order: Order) -> None:
    if payment.state != Payment.State.PAID:
        payment.state, payment.problem, payment.next_query_at = Payment.State.HELD, transfer.problem, None
        payment.save(update_fields=["state", "problem", "next_query_at"])
    record(actor=None, event="payment.held", target=payment, order=order.number, problem=transfer.problem)
    tell_staff("money_held", subject=f"transfer:{transfer.pk}", order=order.number, reference=payment.reference)
    if order.user:
        notify(
            kind="payment_held",
            dedup_key=f"payment-held:{transfer.pk}",
            user=order.user,
            context={
                "order": order,
                "amount": amount_of(order.user, transfer.amount, transfer.currency),
                "total": amount_of(order.user, order.total, order.currency),
                "problem": transfer.problem,
            },
            button_url=f"/orders/{order.number}/",
        )


def close_payment(payment: Payment, problem: str) -> None:
    """It will not be paid. The customer hears of it while the order could still be paid."""
    closed = Payment.objects.filter(pk=payment.pk, state=Payment.State.OPEN).update(
        state=Payment.State.CLOSED, problem=problem, next_query_at=None
    )
    order = payment.order
    if closed and order.state == Order.State.PENDING and order.user:
        with transaction.atomic():
            notify(
                kind="payment_failed",
                dedup_key=f"payment-failed:{payment.pk}",
                user=order.user,
                context={"order": order, "method": method_words(order.user, payment.method)},
                button_url=f"/orders/{order.number}/",
            )


# --- what a person decides --------------------------------------------------------------------------


def confirm_by_hand(
    *,
    order_id: int,
    method: PaymentMethod,
    transaction_id: str,
    amount: int,
    evidence: str,
    payer: str = "",
    actor: User,
) -> Taken:
    """Staff have seen the money: a transfer with this reference and amount, what shows it, and perhaps whose account.

    The same transaction counts once. Raises PortalError `evidence_needed`, `transfer_known` for one of another order,
    `not_this_way` for an outside shop's order, another currency and the test gateway.
    """
    if not transaction_id.strip() or not evidence.strip():
        raise PortalError(
            _("Write down the number of the transfer and what you have seen of it."), code="evidence_needed"
        )
    with transaction.atomic():
        order = locked_order(order_id)
        if order.user is None or amount <= 0 or method.currency != order.currency or method.kind == SANDBOX_KIND:
            raise PortalError(
                _("This order cannot have been paid that way. Nothing was changed."), code="not_this_way", status=409
            )
        known = Transfer.objects.filter(method=method, transaction_id=transaction_id.strip()).first()
        if known:
            return Taken("repeated", known.payment, "" if known.payment.order_id == order.pk else "other_payment")
        payment = order.payments.filter(method=method, state=Payment.State.OPEN).first()
        payment = payment or Payment.objects.create(
            order=order, method=method, reference=new_number(), amount=max(order.total, 1), currency=order.currency
        )
        taken = receive_money(
            payment_id=payment.pk,
            transaction_id=transaction_id.strip(),
            amount=amount,
            currency=order.currency,
            payer=payer,
            source=Transfer.Source.STAFF,
            evidence=evidence.strip(),
            actor=actor,
        )
        if taken.problem == "other_payment":
            raise PortalError(
                _("A transfer with this number was counted for another order. Nothing was changed."),
                code="transfer_known",
                status=409,
            )
        record(actor=actor, event="payment.confirmed", target=payment, order=order.number, verdict=taken.verdict)
    return taken


def accept_transfer(*, transfer_id: int, reason: str, actor: User) -> Order:
    """Staff: count a held transfer as the payment of its order, though it is too little, too much or too late.

    What is too much is given back. Twice is fine. Raises PortalError `not_acceptable` where the order was paid before
    or the currency is another: such money can only be given back.
    """
    from .refunds import give_back_transfer

    order_id = Transfer.objects.values_list("payment__order_id", flat=True).get(pk=transfer_id)
    with transaction.atomic():
        order = locked_order(order_id)
        transfer = Transfer.objects.select_related("method", "payment").get(pk=transfer_id)
        if transfer.state == Transfer.State.COUNTED:
            return order
        is_open = order.state in OPEN_STATES and transfer.currency == order.currency
        if transfer.state != Transfer.State.HELD or not is_open:
            raise PortalError(
                _("This money cannot be counted for the order. It can only be given back."),
                code="not_acceptable",
                status=409,
            )
        if order.state != Order.State.PENDING:
            revive(order)
        given_back = transfer.refunds.aggregate(sum=Sum("amount"))["sum"] or 0
        left = transfer.amount - given_back
        received = min(left, order.total)
        transfer.state = Transfer.State.COUNTED
        transfer.save(update_fields=["state"])
        count_transfer(order, transfer, received=received, actor=actor, reason=f"accepted: {reason}")
        record(actor=actor, event="transfer.accepted", target=transfer, order=order.number, reason=reason)
        if left > received:
            give_back_transfer(transfer_id=transfer.pk, amount=left - received, reason=reason or "surplus", actor=actor)
        told_staff_is_over("money_held", subject=f"transfer:{transfer.pk}")
    return order


def note_trouble(order: Order, code: str, *, actor: User | None = None) -> None:
    """The locked order cannot go on without a person."""
    if order.trouble != code:
        order.trouble = code
        order.save(update_fields=["trouble"])
        record(actor=actor, event="order.trouble", target=order, code=code)
        tell_staff("order_stuck", subject=f"order:{order.pk}", order=order.number)
