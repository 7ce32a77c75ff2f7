"""What stands on which account, by currency."""

from __future__ import annotations

from dataclasses import dataclass

from django.db.models import Q, QuerySet, Sum, Value

from billing.models import Account, Posting

LEFT = frozenset({Account.CASH, Account.REFUNDS, Account.GATEWAY_FEES, Account.COMMISSIONS})
"""Accounts whose balance stands on the debit side: what we have, what it cost us, what we gave back."""


@dataclass(frozen=True, slots=True)
class Turnover:
    """What was booked to both sides of an account, in minor units."""

    debits: int = 0
    credits: int = 0

    def __add__(self, other: Turnover) -> Turnover:
        return Turnover(self.debits + other.debits, self.credits + other.credits)

    def balance(self, account: str) -> int:
        """On the account's own side: money we have and money we owe both read as more than nothing."""
        return self.debits - self.credits if account in LEFT else self.credits - self.debits


def turnovers(where: Q | None = None) -> dict[tuple[str, str], Turnover]:
    """What the postings that fit `where` (all without it) booked, by currency and account. One statement."""
    found: dict[tuple[str, str], Turnover] = {}
    postings: QuerySet[Posting] = Posting.objects.filter(where or Q()).order_by()
    left, right = (
        postings.values_list("currency", side).annotate(is_debit=Value(side == "debit"), sum=Sum("amount"))
        for side in ("debit", "credit")
    )
    for currency, account, is_debit, amount in left.union(right, all=True):
        side = Turnover(debits=amount) if is_debit else Turnover(credits=amount)
        found[currency, account] = found.get((currency, account), Turnover()) + side
    return found
