"""A reseller's home: everything in figures, in a fixed number of queries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db.models import Q, Sum
from django.db.models.functions import TruncMonth

from billing.models import CURRENCIES
from billing.services.ledger import today
from derp_portal.lib.clock import start_of_day
from resellers.charts import MONTHS_SHOWN, MonthChart, last_months, month_chart
from resellers.models import CommissionLine, LinkDay, Reseller, Signup

from .earnings import Earnings, earnings_of, under_review
from .people import count_customers
from .stock import StockCount, Sums, balances_of, sales_by_month, stock_count


@dataclass(frozen=True, slots=True)
class Overview:
    """What a reseller's home shows. Amounts are of `currency`."""

    currency: str
    currencies: list[str]
    clicks: int
    clicks_this_month: int
    signups: int
    customers: int
    paying: int
    earnings: Earnings
    under_review: int
    balance: int
    stock: StockCount
    margin: int
    chart: MonthChart

    @property
    def profit(self) -> int:
        """What reselling has brought: the margin of what was sold on, and every commission."""
        return self.margin + self.earnings.total


def overview_of(reseller: Reseller, wished: str = "") -> Overview:
    """The reseller's figures in the wished currency, if they have any in it; else in the first they have."""
    month = today().replace(day=1)
    earnings, balances, sales = earnings_of(reseller), balances_of(reseller.user), sales_by_month(reseller)
    known = set(earnings) | set(balances) | {code for sums in sales.values() for code in sums.margin}
    currencies = [code for code, _label in CURRENCIES if code in known] or [CURRENCIES[0][0]]
    currency = wished if wished in currencies else currencies[0]
    clicks = LinkDay.objects.filter(reseller=reseller).aggregate(
        all=Sum("clicks"), month=Sum("clicks", filter=Q(day__gte=month))
    )
    customers, paying = count_customers(reseller)
    return Overview(
        currency=currency,
        currencies=currencies,
        clicks=clicks["all"] or 0,
        clicks_this_month=clicks["month"] or 0,
        signups=Signup.objects.filter(reseller=reseller, verdict=Signup.Verdict.ATTRIBUTED).count(),
        customers=customers,
        paying=paying,
        earnings=earnings.get(currency, Earnings()),
        under_review=under_review(reseller),
        balance=balances.get(currency, 0),
        stock=stock_count(reseller),
        margin=sum(sums.margin.get(currency, 0) for sums in sales.values()),
        chart=_chart(reseller, currency, month, sales),
    )


def _chart(reseller: Reseller, currency: str, month: date, sales: dict[date, Sums]) -> MonthChart:
    """Commission by the operator's month in which it was earned or taken back, margin by the month of the sale."""
    zone = ZoneInfo(settings.TIME_ZONE)
    months = last_months(month, MONTHS_SHOWN)
    lines = CommissionLine.objects.filter(
        reseller=reseller, currency=currency, created_at__gte=start_of_day(months[0], zone)
    )
    by_month = lines.order_by().annotate(month=TruncMonth("created_at", tzinfo=zone)).values_list("month")
    earned = {moment.date(): amount for moment, amount in by_month.annotate(sum=Sum("amount"))}
    margins = {when: sums.margin.get(currency, 0) for when, sums in sales.items()}
    return month_chart([(one, earned.get(one, 0), margins.get(one, 0)) for one in months])
