"""What resellers earn: commissions, and the settlements they come to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db.models import Q, QuerySet, Sum

from billing.services.ledger import today
from derp_portal.lib.clock import start_of_day
from resellers.models import CommissionLine, Reseller, Settlement, Suspicion

State = Settlement.State


def commissions_of(reseller: Reseller) -> QuerySet[CommissionLine]:
    """Every line of the reseller's commissions that says something, the newest first, with its order."""
    lines = CommissionLine.objects.filter(reseller=reseller).exclude(kind=CommissionLine.Kind.NOTHING)
    return lines.select_related("order__user", "refund")


def commission_months(reseller: Reseller) -> list[date]:
    """The months that the reseller's commissions are settled with, the latest first."""
    months = CommissionLine.objects.filter(reseller=reseller).order_by("-settle_month")
    return list(months.values_list("settle_month", flat=True).distinct())


def under_review(reseller: Reseller) -> int:
    """How many orders earn nothing yet because a person must look at them first."""
    return Suspicion.objects.filter(reseller=reseller, state=Suspicion.State.OPEN).count()


def settlements_of(reseller: Reseller) -> QuerySet[Settlement]:
    """The reseller's settlements, the newest first."""
    return Settlement.objects.filter(reseller=reseller).select_related("reseller__user", "carried_to")


def lines_of(settlement: Settlement) -> QuerySet[CommissionLine]:
    """The lines that a settlement is the sum of, the newest first, with their orders."""
    lines = CommissionLine.objects.filter(
        reseller=settlement.reseller_id, settle_month=settlement.month, currency=settlement.currency
    )
    return lines.exclude(amount=0).select_related("order__user", "refund")


def carried_into(settlement: Settlement) -> QuerySet[Settlement]:
    """The earlier settlements that were carried into this one, the latest first."""
    return Settlement.objects.filter(carried_to=settlement)


def earned_by_customer(reseller: Reseller, user_ids: Iterable[int]) -> dict[int, dict[str, int]]:
    """What each of these customers has earned the reseller, less what was given back: by user, then by currency."""
    lines = CommissionLine.objects.filter(reseller=reseller, order__user__in=list(user_ids)).exclude(amount=0)
    earned: dict[int, dict[str, int]] = {}
    for user_id, currency, amount in (
        lines.order_by().values_list("order__user", "currency").annotate(sum=Sum("amount"))
    ):
        earned.setdefault(user_id, {})[currency] = amount
    return earned


@dataclass(slots=True)
class Earnings:
    """Where the commission of one currency is. All that was ever earned is `held` + `due` + `waiting` + `paid`."""

    this_month: int = 0
    """Earned, less given back, in the operator's month that runs; of no account for the sum."""
    held: int = 0
    """Not due yet."""
    due: int = 0
    """Due, and to be settled with the next run."""
    waiting: int = 0
    """In settlements: to be approved, to be paid, or carried over."""
    paid: int = 0

    @property
    def total(self) -> int:
        return self.held + self.due + self.waiting + self.paid


def earnings_of(reseller: Reseller) -> dict[str, Earnings]:
    """Where the reseller's commission is, by currency: two queries. A line is open until its month has a settlement."""
    day = today()
    begin = start_of_day(day.replace(day=1), ZoneInfo(settings.TIME_ZONE))
    settled: set[tuple[date, str]] = set()
    found: dict[str, Earnings] = {}
    for one in Settlement.objects.filter(reseller=reseller).only("month", "currency", "state", "payable", "carried_to"):
        settled.add((one.month, one.currency))
        sums = found.setdefault(one.currency, Earnings())
        if one.state == State.PAID:
            sums.paid += one.payable
        elif one.carried_to_id is None:
            sums.waiting += one.payable
    lines = CommissionLine.objects.filter(reseller=reseller).order_by().values_list("settle_month", "currency")
    for month, currency, earned, held, recent in lines.annotate(
        earned=Sum("amount"),
        held=Sum("amount", filter=Q(due_on__gt=day)),
        recent=Sum("amount", filter=Q(created_at__gte=begin)),
    ):
        sums = found.setdefault(currency, Earnings())
        sums.this_month += recent or 0
        if (month, currency) not in settled:
            sums.held += held or 0
            sums.due += earned - (held or 0)
    return dict(sorted(found.items()))
