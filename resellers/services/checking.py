"""Commissions against the books: what resellers have earned is what settlements and open lines come to."""

from __future__ import annotations

from datetime import date

from django.db import transaction
from django.db.models import Q, Sum

from billing.models import Account, Posting
from billing.services.watching import tell_staff, told_staff_is_over
from resellers.models import CommissionLine, Settlement

from .commissions import locked_book


def check_commissions() -> list[str]:
    """What differs, in words for operators; nothing if all is right. The number of queries does not grow."""
    with transaction.atomic():
        # Nobody adds a line, runs a month or pays a settlement while everything is added up.
        return _differences(locked_book().run_until)


def _differences(run_until: date | None) -> list[str]:
    in_run = Q(settle_month__lte=run_until) if run_until else Q(pk__in=[])
    settled = _by_key(CommissionLine.objects.filter(in_run), "settle_month")
    settlements = _by_key(Settlement.objects.all(), "month")
    found = [
        f"reseller {key[0]}, {key[2]:%Y-%m}: lines {settled.get(key, 0)}, settlement {settlements.get(key, 0)} {key[1]}"
        for key in sorted(settled.keys() | settlements.keys(), key=str)
        if settled.get(key, 0) != settlements.get(key, 0)
        # What the last run has not come to yet, it makes within the hour.
        and not (key[2] == run_until and key not in settlements)
    ]
    owed, booked = _owed(), _payables()
    return found + [
        f"owed to resellers in {currency}: lines and payouts say {owed.get(currency, 0)},"
        f" the ledger {booked.get(currency, 0)}"
        for currency in sorted(owed.keys() | booked.keys())
        if owed.get(currency, 0) != booked.get(currency, 0)
    ]


def check_and_tell() -> int:
    """The same, as an alert. The number of differences."""
    found = check_commissions()
    if found:
        tell_staff("books_differ", subject="commissions", count=len(found), first=found[0])
    else:
        told_staff_is_over("books_differ", subject="commissions")
    return len(found)


def _by_key(rows: object, month: str) -> dict[tuple[int, str, object], int]:
    grouped = rows.order_by().values_list("reseller", "currency", month).annotate(sum=Sum("amount"))  # type: ignore[attr-defined]
    return {(reseller, currency, when): amount for reseller, currency, when, amount in grouped if amount}


def _owed() -> dict[str, int]:
    lines = CommissionLine.objects.order_by().values_list("currency").annotate(sum=Sum("amount"))
    owed = dict(lines)
    paid = Settlement.objects.filter(state=Settlement.State.PAID).order_by().values_list("currency")
    for currency, amount in paid.annotate(sum=Sum("payable")):
        owed[currency] = owed.get(currency, 0) - amount
    return owed


def _payables() -> dict[str, int]:
    found: dict[str, int] = {}
    for side, sign in (("credit", 1), ("debit", -1)):
        rows = Posting.objects.filter(**{side: Account.RESELLER_PAYABLES}).order_by().values_list("currency")
        for currency, amount in rows.annotate(sum=Sum("amount")):
            found[currency] = found.get(currency, 0) + sign * amount
    return found
