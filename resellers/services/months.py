"""The monthly run: one settlement for each reseller, month and currency, however often it is run or killed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from zoneinfo import ZoneInfo

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Count, Exists, Min, OuterRef, Q, QuerySet, Subquery, Sum
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import notify, record
from billing.models import Account
from billing.services.ledger import post, today
from billing.services.words import amount_of
from derp_portal.lib.clock import next_month, now, start_of_day
from derp_portal.lib.errors import PortalError
from resellers.models import CommissionLine, PayoutMinimum, Reseller, Settlement

from .commissions import locked_book
from .people import refuse

log = structlog.get_logger(__name__)

CHUNK = 500
"""Resellers in one transaction."""
BATCH = 100
State = Settlement.State


def run_months() -> int:
    """Run every month that is over and has not been run to its end, the oldest first. Returns settlements made."""
    return sum(_run(month) for month in _months_due())


def _months_due() -> Iterator[date]:
    first = _run_until() or CommissionLine.objects.aggregate(first=Min("settle_month"))["first"]
    present = today().replace(day=1)
    # The last one again: a run that was killed may have stopped in the middle of it.
    while first is not None and first < present:
        yield first
        first = next_month(first)


def _run_until() -> date | None:
    with transaction.atomic():
        return locked_book().run_until


def run_month(*, month: date) -> int:
    """Settle a month that is over: what is missing is made, what is there stays. Returns how many were made.

    From the first step on no more lines come to that month or an earlier one. The last month that was run is first run
    to its end, if it was not. Raises PortalError `month_not_over`, `earlier_month` while one before it has lines that
    were never run.
    """
    month = month.replace(day=1)
    if month >= today().replace(day=1):
        raise PortalError(_("This month is not over yet."), code="month_not_over", status=409)
    last = _run_until()
    made = _run(last) if last is not None and last < month else 0
    return made + _run(month)


def _run(month: date) -> int:
    _shut(month)
    missing, waiting = _unsettled(month), _waiting(month)
    # No line comes to the month any more: what they add up to now is what they add up to in every step below.
    sums = _sums(month) if missing else {}
    ids = sorted(missing | waiting)
    made = sum(_settle(month, ids[start : start + CHUNK], sums) for start in range(0, len(ids), CHUNK))
    _close(month)
    return made


def _shut(month: date) -> None:
    """From this commit on, lines that come late go to the months after it."""
    with transaction.atomic():
        book = locked_book()
        if book.run_until is not None and book.run_until >= month:
            return
        earlier = CommissionLine.objects.filter(settle_month__lt=month)
        if book.run_until is not None:
            earlier = earlier.filter(settle_month__gt=book.run_until)
        if earlier.exists():
            raise PortalError(_("An earlier month has not been run yet."), code="earlier_month", status=409)
        book.run_until = month
        book.save(update_fields=["run_until"])


def _unsettled(month: date) -> set[int]:
    """The resellers who have lines in the month and no settlement of it: one step makes all that a reseller gets."""
    mine = {"reseller": OuterRef("pk")}
    lines = _lines_of(month).filter(**mine)
    made = Settlement.objects.filter(month=month, **mine)
    return set(Reseller.objects.filter(Exists(lines), ~Exists(made)).order_by().values_list("pk", flat=True))


def _lines_of(month: date) -> QuerySet[CommissionLine]:
    """What a month settles. Lines of orders that earned nothing make nobody a settlement of nothing."""
    return CommissionLine.objects.filter(settle_month=month).exclude(amount=0)


def _sums(month: date) -> dict[int, dict[str, tuple[int, int]]]:
    """By reseller and currency: what the month's lines add up to, and how many they are. One statement."""
    sums: dict[int, dict[str, tuple[int, int]]] = {}
    lines = _lines_of(month).order_by().values_list("reseller_id", "currency")
    for reseller_id, currency, amount, count in lines.annotate(amount=Sum("amount"), lines=Count("id")):
        sums.setdefault(reseller_id, {})[currency] = (amount, count)
    return sums


def _close(month: date) -> None:
    """From this commit on, what has become enough to be paid is carried into the months after it."""
    with transaction.atomic():
        book = locked_book()
        if book.settled_until is None or book.settled_until < month:
            book.settled_until = month
            book.save(update_fields=["settled_until"])


def _waiting(month: date) -> set[int]:
    """The resellers who are owed what earlier months have left, whether or not they have earned anything since.

    `_settle` says of how much of it the month makes a settlement.
    """
    left = _left_before(month).order_by().values_list("reseller_id", "currency").annotate(sum=Sum("payable"))
    return {reseller_id for reseller_id, _currency, amount in left if amount > 0}


def _left_before(month: date) -> QuerySet[Settlement]:
    """What earlier months have left. What was rejected when the month was over already belongs to one after it."""
    over = start_of_day(next_month(month), ZoneInfo(settings.TIME_ZONE))
    left = Q(state=State.CARRIED) | Q(state=State.REJECTED, rejected_at__lt=over)
    return Settlement.objects.filter(left, carried_to=None, month__lt=month)


def _settle(month: date, ids: list[int], sums: dict[int, dict[str, tuple[int, int]]]) -> int:
    with transaction.atomic():
        # Of two runs at once, the second finds what the first has made.
        book = locked_book()
        known = set(Settlement.objects.filter(month=month, reseller__in=ids).values_list("reseller_id", "currency"))
        found = {
            (reseller_id, currency): sum_ for reseller_id in ids for currency, sum_ in sums.get(reseller_id, {}).items()
        }
        # What waits is carried into the last month that is run, not into an older one that is looked at again.
        carried = _to_carry(month, ids) if book.run_until == month else {}
        least = _minimums(ids)
        is_first = book.settled_until is None or book.settled_until < month
        wanted = (found.keys() | _due_again(carried, least, is_first=is_first)) - known
        made = [
            _settlement(month, key, *found.get(key, (0, 0)), carried.get(key, []), least.get(key, 0))
            for key in sorted(wanted)
        ]
        Settlement.objects.bulk_create(made)
        _carry(month, [earlier.pk for key in wanted for earlier in carried.get(key, [])])
    return len(made)


def _minimums(ids: list[int]) -> dict[tuple[int, str], int]:
    """The least that is paid to each of the resellers, by currency; nothing where their level names no least."""
    minimums = PayoutMinimum.objects.filter(level__resellers__in=ids)
    found = minimums.order_by().values_list("level__resellers", "currency", "amount")
    return {(reseller_id, currency): amount for reseller_id, currency, amount in found}


def _to_carry(month: date, ids: list[int]) -> dict[tuple[int, str], list[Settlement]]:
    found: dict[tuple[int, str], list[Settlement]] = {}
    for one in _left_before(month).filter(reseller__in=ids):
        found.setdefault((one.reseller_id, one.currency), []).append(one)
    return found


def _carry(month: date, ids: list[int]) -> None:
    """What these came to is in the month's settlement of the same reseller and currency now."""
    same = Settlement.objects.filter(month=month, reseller=OuterRef("reseller"), currency=OuterRef("currency"))
    Settlement.objects.filter(pk__in=ids).update(carried_to=Subquery(same.values("pk")[:1]))


def _due_again(
    carried: dict[tuple[int, str], list[Settlement]], least: dict[tuple[int, str], int], *, is_first: bool
) -> set[tuple[int, str]]:
    """What makes a settlement without a line of the month: what was rejected, and what has become enough to be paid.

    The latter only while the month is run for the first time: the smallest payouts may have changed since.
    """
    due = set()
    for key, earlier in carried.items():
        is_enough = sum(one.payable for one in earlier) >= max(least.get(key, 0), 1)
        if (is_first and is_enough) or any(one.state == State.REJECTED for one in earlier):
            due.add(key)
    return due


def _settlement(
    month: date, key: tuple[int, str], amount: int, lines: int, earlier: list[Settlement], minimum: int
) -> Settlement:
    carried_in = sum(one.payable for one in earlier)
    payable = amount + carried_in
    return Settlement(
        reseller_id=key[0],
        month=month,
        currency=key[1],
        amount=amount,
        lines=lines,
        carried_in=carried_in,
        payable=payable,
        state=State.OPEN if payable > 0 and payable >= minimum else State.CARRIED,
    )


# --- statements and payouts -------------------------------------------------------------------------


def send_statements() -> int:
    """Mail each new settlement to its reseller, once. Returns how many."""
    due = Settlement.objects.filter(told_at=None).select_related("reseller__user").order_by("id")
    count = 0
    for settlement in due[:BATCH]:
        try:
            with transaction.atomic():
                # The mail's own key keeps a second worker from sending another.
                _tell(settlement, "settlement")
                Settlement.objects.filter(pk=settlement.pk, told_at=None).update(told_at=now())
        except Exception as error:
            log.error("statement_not_sent", settlement=settlement.pk, exc_info=error)
        else:
            count += 1
    return count


def _amounts(settlement: Settlement, user: User) -> dict[str, str]:
    return {
        name: amount_of(user, getattr(settlement, name), settlement.currency)
        for name in ("amount", "carried_in", "payable")
    }


def _locked(settlement_id: int) -> Settlement:
    settlements = Settlement.objects.select_for_update(of=("self",), no_key=True)
    return settlements.select_related("reseller__user").get(pk=settlement_id)


def approve_settlement(*, settlement_id: int, actor: User) -> Settlement:
    """Staff: it may be paid. Twice is fine. Raises PortalError `already_decided`."""
    with transaction.atomic():
        settlement = _locked(settlement_id)
        if settlement.state == State.APPROVED:
            return settlement
        if settlement.state != State.OPEN:
            raise refuse("already_decided")
        settlement.state, settlement.approved_by, settlement.approved_at = State.APPROVED, actor, now()
        settlement.save(update_fields=["state", "approved_by", "approved_at"])
        record(actor=actor, event="settlement.approved", target=settlement, payable=settlement.payable)
    return settlement


def pay_settlement(*, settlement_id: int, reference: str, actor: User) -> Settlement:
    """Staff: it has been paid by this transfer. Twice is fine.

    Raises PortalError `reason_needed` without a reference, `not_approved` while it is open, `already_decided`: also
    when it was paid by another transfer, for then the money has left twice.
    """
    reference = reference.strip()[:128]
    if not reference:
        raise refuse("reason_needed")
    with transaction.atomic():
        locked_book()
        settlement = _locked(settlement_id)
        if settlement.state == State.PAID:
            if settlement.payout_reference == reference:
                return settlement
            raise PortalError(
                _("It was paid before, with the reference “%(reference)s”. If you have paid it too, get that back.")
                % {"reference": settlement.payout_reference},
                code="already_decided",
                status=409,
            )
        if settlement.state == State.OPEN:
            raise PortalError(_("Approve it first. Nothing was changed."), code="not_approved", status=409)
        if settlement.state != State.APPROVED:
            raise refuse("already_decided")
        settlement.state, settlement.paid_by, settlement.paid_at = State.PAID, actor, now()
        settlement.payout_reference = reference
        settlement.save(update_fields=["state", "paid_by", "paid_at", "payout_reference"])
        post(
            f"settlement:{settlement.pk}",
            debit=Account.RESELLER_PAYABLES,
            credit=Account.CASH,
            amount=settlement.payable,
            currency=settlement.currency,
            reseller=settlement.reseller.user,
            actor=actor,
            note=reference,
        )
        record(actor=actor, event="settlement.paid", target=settlement, reference=settlement.payout_reference)
        _tell(settlement, "settlement_paid")
    return settlement


def reject_settlement(*, settlement_id: int, reason: str, actor: User) -> Settlement:
    """Staff: it is not paid now; what it comes to is carried into the month that runs now. Twice is fine."""
    if not reason.strip():
        raise refuse("reason_needed")
    with transaction.atomic():
        settlement = _locked(settlement_id)
        if settlement.state == State.REJECTED:
            return settlement
        if settlement.state not in (State.OPEN, State.APPROVED):
            raise refuse("already_decided")
        settlement.state, settlement.rejected_at = State.REJECTED, now()
        settlement.reason = reason.strip()[:200]
        settlement.save(update_fields=["state", "reason", "rejected_at"])
        record(actor=actor, event="settlement.rejected", target=settlement, reason=settlement.reason)
        _tell(settlement, "settlement_rejected")
    return settlement


def _tell(settlement: Settlement, kind: str) -> None:
    user = settlement.reseller.user
    notify(
        kind=kind,
        dedup_key=f"{kind}:{settlement.pk}",
        user=user,
        context={"settlement": settlement, **_amounts(settlement, user)},
        button_url=f"/reseller/settlements/{settlement.pk}/",
    )
