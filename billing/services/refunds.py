"""Giving money back: decided and booked under the order's lock. `refund_sending` does what follows.

The rule (docs/operator.md): giving back all that is left of an order takes back what it delivered. Serials nobody has
redeemed are revoked; of those in use the days not yet served are taken from the lease. Giving back a part takes
nothing back unless staff say so. Traffic that was bought is not taken back.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from django.db import transaction
from django.db.models import Q, Sum
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import record
from billing.models import Account, Order, OrderLine, Payment, Refund, SoldSerial, Transfer
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from serials import services as serials
from serials.models import SerialNumber

from .balances import balance_of
from .ledger import allocate, post
from .orders import locked_order, move, new_number
from .refund_sending import finish, tell, wake
from .setbacks import end_alerts
from .watching import told_staff_is_over
from .words import amount_of

REFUNDABLE = (Order.State.PAID, Order.State.FULFILLED)


@dataclass(frozen=True, slots=True)
class Worth:
    """What an order's customer has not had yet, by the rule: in minor units and in words for the one who decides."""

    refundable: int
    unserved: int
    converted: int
    """Serials whose days were converted: nothing of them can be told apart or taken back."""


def worth_of(order: Order) -> Worth:
    """What could be given back, and how much of that has not been served: what staff start from. Changes nothing."""
    sold = list(SoldSerial.objects.filter(line__order=order, taken_back_at=None).select_related("serial"))
    left = serials.unserved_of([one.serial for one in sold])
    unserved = sum(one.amount * left[one.serial_id].seconds // left[one.serial_id].whole for one in sold)
    converted = sum(left[one.serial_id].is_converted for one in sold)
    if order.state == Order.State.PAID:
        unserved = order.received
    return Worth(order.refundable, min(unserved, order.refundable), converted)


def refund_order(
    *,
    order_id: int,
    amount: int | None = None,
    takes_back: bool | None = None,
    serial_ids: Collection[int] | None = None,
    seen_refunded: int | None = None,
    reason: str,
    actor: User | None,
    is_sent: bool = False,
) -> Refund:
    """Give back so much of a paid order (all that is left when not said), and take back what it delivered by the rule.

    `serial_ids` names the only serials that are taken back, whatever the amount. `seen_refunded` is what had been given
    back when the one who decides looked: clicked twice, the second is refused as `refunded_meanwhile`.

    `is_sent` says that the money has gone back already, outside the portal: of a top-up that was spent too, whose
    balance is below nothing until the next one (a dispute was lost). An order that is paid but not delivered is
    not delivered any more once all of it is given back. Raises PortalError `not_refundable`, `invalid_amount`,
    `reason_needed`; then nothing has changed.
    """
    if not reason.strip():
        raise PortalError(_("Say why the money is given back."), code="reason_needed")
    with transaction.atomic():
        lock_people(orders=[order_id])
        order = locked_order(order_id)
        left = order.refundable
        if seen_refunded is not None and seen_refunded != order.refunded:
            raise PortalError(
                _("Money of this order was given back meanwhile. Look at it again; nothing was changed."),
                code="refunded_meanwhile",
                status=409,
                refunded=order.refunded,
            )
        amount = left if amount is None else amount
        if order.state not in REFUNDABLE or not left:
            raise PortalError(_("There is nothing to give back of this order."), code="not_refundable", status=409)
        if not 0 < amount <= left:
            raise PortalError(
                _("At most %(most)s can be given back.") % {"most": amount_of(actor, left, order.currency)},
                code="invalid_amount",
                most=left,
            )
        is_all = amount == left
        takes_back = is_all or bool(takes_back) or serial_ids is not None
        if not is_sent:
            _check_balance(order, amount)
        refund = _decide(order, amount, takes_back=takes_back, reason=reason, actor=actor)
        _book(refund, order, actor)
        if takes_back:
            take_back_sold(order, reason=f"refund {refund.number}: {reason}", actor=actor, serial_ids=serial_ids)
        order.refunded += amount
        order.save(update_fields=["refunded"])
        share_what_is_left(order)
        if is_all:
            move(order, Order.State.REFUNDED, reason=reason, actor=actor, closed_at=now(), trouble="")
            told_staff_is_over("order_stuck", subject=f"order:{order.pk}")
        record(
            actor=actor,
            event="order.refunded",
            target=order,
            refund=refund.number,
            amount=amount,
            currency=order.currency,
            takes_back=takes_back,
            reason=reason,
        )
        if is_sent or order.is_from_balance:
            finish(refund, reference="", actor=actor)
            if is_all and refund.transfer:
                end_alerts(refund.transfer)
        else:
            wake(refund.pk)
            tell(refund, order, "refund_decided")
    return refund


def _decide(
    order: Order,
    amount: int,
    *,
    takes_back: bool,
    reason: str,
    actor: User | None,
    kind: Refund.Kind = Refund.Kind.ORDER,
    transfer: Transfer | None = None,
) -> Refund:
    counted = Transfer.objects.filter(payment__order=order, state=Transfer.State.COUNTED)
    return Refund.objects.create(
        number=new_number(),
        kind=kind,
        is_news=kind == Refund.Kind.ORDER,
        order=order,
        transfer=transfer or counted.select_related("method").first(),
        amount=amount,
        currency=transfer.currency if transfer else order.currency,
        takes_back=takes_back,
        reason=reason.strip()[:200],
        actor=actor,
    )


def _book(refund: Refund, order: Order, actor: User | None) -> None:
    """Reverse so much of what each line earned, as it was earned: by the lines' parts of what is left."""
    lines = list(order.lines.all())
    earned = {posting.line_id: posting for posting in order.postings.filter(credit__in=EARNINGS, line__isnull=False)}
    given = order.postings.filter(refund__isnull=False, credit=Account.REFUNDS_DUE, line__isnull=False)
    before = dict(given.order_by().values_list("line").annotate(sum=Sum("amount")))
    left = [(earned[line.pk].amount if line.pk in earned else 0) - before.get(line.pk, 0) for line in lines]
    for line, part in zip(lines, allocate(refund.amount, left), strict=True):
        if part:
            post(
                f"refund:{refund.pk}:line:{line.pk}",
                debit=Account.RESELLER_FUNDS if line.kind == OrderLine.Kind.TOP_UP else Account.REFUNDS,
                credit=Account.REFUNDS_DUE,
                amount=part,
                currency=refund.currency,
                order=order,
                line=line,
                refund=refund,
                reverses=earned.get(line.pk),
                actor=actor,
                note=refund.reason,
            )


EARNINGS = (Account.REVENUE, Account.WHOLESALE, Account.RESELLER_FUNDS)


def _check_balance(order: Order, amount: int) -> None:
    """A balance that was spent is not given back. The buyer's row is locked, and with it the balance."""
    if order.user and order.lines.filter(kind=OrderLine.Kind.TOP_UP).exists():
        left = max(balance_of(order.user, order.currency), 0)
        if amount > left:
            raise PortalError(
                _("Of this balance only %(left)s is left.") % {"left": amount_of(None, left, order.currency)},
                code="balance_spent",
                status=409,
            )


def take_back_sold(order: Order, *, reason: str, actor: User | None, serial_ids: Collection[int] | None = None) -> None:
    """Take back the serials that the order delivered, or these of them. The order is locked, and who redeemed them."""
    sold = SoldSerial.objects.filter(line__order=order, taken_back_at=None).order_by("id")
    if serial_ids is not None:
        sold = sold.filter(serial__in=serial_ids)
    # Nobody has redeemed most of them: those go in one step.
    unused = list(sold.filter(serial__status=SerialNumber.Status.UNUSED).values_list("serial", flat=True))
    serials.revoke_serials(serials=unused, actor=actor)
    revoked = Q(serial__status=SerialNumber.Status.REVOKED)
    SoldSerial.objects.filter(revoked, pk__in=sold.values("pk")).update(taken_back_at=now())
    for one in sold.all():
        serials.take_back(serial_id=one.serial_id, reason=reason[:200], actor=actor)
        one.taken_back_at = now()
        one.save(update_fields=["taken_back_at"])


def share_what_is_left(order: Order) -> None:
    """What serials that were bought to sell on cost now: those that are kept share what has not been given back."""
    sold = SoldSerial.objects.filter(line__order=order, line__kind=OrderLine.Kind.WHOLESALE, taken_back_at=None)
    kept = list(sold.order_by("id"))
    if not kept:
        return
    lines = list(order.lines.all())
    paid = allocate(order.received, [line.amount for line in lines])
    others = sum(part for line, part in zip(lines, paid, strict=True) if line.kind != OrderLine.Kind.WHOLESALE)
    left = max(order.refundable - others, 0)
    for one, part in zip(kept, allocate(left, [one.amount for one in kept]), strict=True):
        one.cost = part
    SoldSerial.objects.bulk_update(kept, ["cost"], batch_size=500)


def lock_people(*, orders: Collection[int]) -> None:
    """The rows of the buyers and of whoever has redeemed what the orders delivered, by id: before the orders' own."""
    buyers = Order.objects.filter(pk__in=orders).values("user")
    redeemers = SoldSerial.objects.filter(line__order__in=orders, serial__user__isnull=False).values("serial__user")
    people = User.objects.filter(Q(pk__in=buyers) | Q(pk__in=redeemers)).order_by("pk")
    list(people.select_for_update(no_key=True).values_list("pk", flat=True))


def give_back_transfer(*, transfer_id: int, amount: int | None = None, reason: str, actor: User | None) -> Refund:
    """Give back money that was never counted: a held transfer whole, or what a counted one had too much.

    Raises PortalError `not_refundable`.
    """
    order_id = Transfer.objects.values_list("payment__order_id", flat=True).get(pk=transfer_id)
    with transaction.atomic():
        order = locked_order(order_id)
        transfer = Transfer.objects.select_related("method", "payment").get(pk=transfer_id)
        is_held = transfer.state == Transfer.State.HELD
        given = transfer.refunds.filter(kind=Refund.Kind.TRANSFER).aggregate(sum=Sum("amount"))["sum"] or 0
        spare = transfer.amount - given - (0 if is_held else order.received)
        amount = spare if amount is None else amount
        if transfer.state == Transfer.State.RETURNED or not 0 < amount <= spare:
            raise PortalError(_("There is nothing to give back of this transfer."), code="not_refundable", status=409)
        refund = _decide(
            order,
            amount,
            takes_back=False,
            reason=reason,
            actor=actor,
            kind=Refund.Kind.TRANSFER,
            transfer=transfer,
        )
        post(
            f"refund:{refund.pk}",
            debit=Account.CUSTOMER_FUNDS,
            credit=Account.REFUNDS_DUE,
            amount=amount,
            currency=refund.currency,
            order=order,
            transfer=transfer,
            refund=refund,
            method=transfer.method,
            actor=actor,
            note=reason,
        )
        if is_held and amount == spare:
            transfer.state = Transfer.State.RETURNED
            transfer.save(update_fields=["state"])
            Payment.objects.filter(pk=transfer.payment_id, state=Payment.State.HELD).update(state=Payment.State.CLOSED)
            told_staff_is_over("money_held", subject=f"transfer:{transfer.pk}")
        record(actor=actor, event="transfer.returned", target=transfer, refund=refund.number, amount=amount)
        wake(refund.pk)
        tell(refund, order, "refund_decided")
    return refund
