"""What resellers bought wholesale, what they pay for more, what they sold it for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date

from django.db.models import Count, Q, QuerySet, Sum
from django.db.models.functions import TruncMonth
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from accounts.models import User
from billing.models import CURRENCIES, Account, Order, OrderLine, Posting, Price, SoldSerial, WholesalePrice
from billing.selectors import wholesale_tiers
from billing.services import price_list
from billing.services.pricing import wholesale_prices
from derp_portal.lib import money
from resellers.models import Resale, Reseller
from resellers.services import recallable, stock_of, worth_of_recalled
from serials.codes import canonical, grouped
from serials.models import Plan, SerialNumber

from .people import rates_of

Status = SerialNumber.Status

STOCK_STATES: dict[str, Promise] = {
    "unused": _("unused"),
    "used": _("used"),
    "over": _("used up"),
    "expired": _("expired unused"),
    "back": _("given back"),
}


def state_rule(state: str) -> Q:
    """What serials of the stock in that state have in common; together the states hold every serial once."""
    is_back = Q(taken_back_at__isnull=False) | Q(serial__status=Status.REVOKED)
    rules = {
        "unused": Q(serial__status=Status.UNUSED),
        "used": Q(serial__status=Status.USED),
        "over": Q(serial__status=Status.EXPIRED, serial__user__isnull=False),
        "expired": Q(serial__status=Status.EXPIRED, serial__user=None),
    }
    return is_back if state == "back" else rules[state] & ~is_back


def stock_state(sold: SoldSerial) -> str:
    """The same for one serial: a key of `STOCK_STATES`."""
    status = sold.serial.status
    if sold.taken_back_at or status == Status.REVOKED:
        return "back"
    if status == Status.EXPIRED:
        return "over" if sold.serial.user_id else "expired"
    return "used" if status == Status.USED else "unused"


def stock_plans(reseller: Reseller) -> list[tuple[str, str]]:
    """The plans that are in the stock, by code and by name."""
    plans = Plan.objects.filter(serials__sale__in=stock_of(reseller).select_related(None).order_by()).distinct()
    return [(plan.code, plan.local_name) for plan in plans]


@dataclass(frozen=True, slots=True)
class StockCount:
    """How many serials of the stock are in each state."""

    unused: int = 0
    used: int = 0
    over: int = 0
    expired: int = 0
    back: int = 0
    unsold: int = 0
    """Of the unused ones, those that no sale is recorded of."""


def stock_count(reseller: Reseller) -> StockCount:
    """How much is left."""
    states = {state: Count("pk", filter=state_rule(state)) for state in STOCK_STATES}
    unsold = Count("pk", filter=state_rule("unused") & Q(resale=None))
    return StockCount(**stock_of(reseller).order_by().aggregate(unsold=unsold, **states))


def balances_of(user: User) -> dict[str, int]:
    """What the user has paid in and not spent, by currency: the sums of `balance_of`, in one query."""
    paid_in, spent = Q(credit=Account.RESELLER_FUNDS), Q(debit=Account.RESELLER_FUNDS)
    rows = Posting.objects.filter(paid_in | spent, reseller=user).order_by().values("currency")
    found = rows.annotate(paid_in=Sum("amount", filter=paid_in), spent=Sum("amount", filter=spent))
    return {row["currency"]: (row["paid_in"] or 0) - (row["spent"] or 0) for row in found}


# --- giving back ------------------------------------------------------------------------------------


def recallable_among(reseller: Reseller, found: Iterable[SoldSerial]) -> set[int]:
    """The serials among these that can be given back, by their own ids."""
    ids = [sold.pk for sold in found]
    return set(recallable(reseller).filter(pk__in=ids).order_by().values_list("serial_id", flat=True))


@dataclass(frozen=True)
class RecallPlan:
    """What giving serials back would bring: how many of each order, and what was paid for them."""

    serial_ids: list[int]
    parts: list[tuple[Order, int, int]] = field(default_factory=list)
    """Order, serials of it, minor units of its currency."""
    is_less: bool = False
    """Than what was paid for them: what is kept of their orders costs more at that quantity."""

    @property
    def count(self) -> int:
        return len(self.serial_ids)


def recall_plan(reseller: Reseller, serial_ids: Sequence[int]) -> RecallPlan:
    """What would come back for those of the serials that can be given back; nothing is changed."""
    found = list(recallable(reseller).filter(serial__in=serial_ids))
    by_order: dict[int, list[SoldSerial]] = {}
    for sold in found:
        by_order.setdefault(sold.line.order_id, []).append(sold)
    parts = [
        (some[0].line.order, len(some), max(worth_of_recalled(order_id, some), 0))
        for order_id, some in by_order.items()
    ]
    is_less = any(amount < sum(sold.cost for sold in by_order[order.pk]) for order, _count, amount in parts)
    return RecallPlan([sold.serial_id for sold in found], parts, is_less)


# --- prices -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PriceRow:
    """A plan as a reseller sees it: what the shop asks, what they pay in number, what the shop's sales earn them."""

    plan: Plan
    price: Price | None
    tiers: list[WholesalePrice]
    basis_points: int

    @property
    def rate(self) -> str:
        """The commission rate, as people read it."""
        return f"{self.basis_points / 100:g} %"


def wholesale_currencies(reseller: Reseller) -> list[str]:
    """The currencies in which the reseller can buy, in the order of the list of all."""
    known = set(wholesale_prices(reseller.user).order_by().values_list("currency", flat=True).distinct())
    return [code for code, _label in CURRENCIES if code in known]


def wholesale_list(reseller: Reseller, currency: str) -> list[PriceRow]:
    """Every plan that the reseller can buy, or is paid for, in that currency, in the shop's order."""
    tiers, prices, rates = wholesale_tiers(reseller.user, currency), price_list(currency), rates_of(reseller.level)
    plans = {found[0].plan.pk: found[0].plan for found in tiers.values()}
    plans |= {price.plan_id: price.plan for price in prices.values()}
    return [
        PriceRow(plan, prices.get(plan.pk), tiers.get(plan.pk, []), rates.get(plan.pk, rates.get(None, 0)))
        for plan in sorted(plans.values(), key=lambda plan: (plan.position, plan.pk))
    ]


# --- what was made of it ----------------------------------------------------------------------------


@dataclass
class Sums:
    """What serials were sold for and what they had cost, by currency."""

    count: int = 0
    revenue: dict[str, int] = field(default_factory=dict)
    cost: dict[str, int] = field(default_factory=dict)

    @property
    def margin(self) -> dict[str, int]:
        """What is left, by currency. What was bought in one and sold in another is set off against nothing."""
        codes = sorted(self.revenue.keys() | self.cost.keys())
        return {code: self.revenue.get(code, 0) - self.cost.get(code, 0) for code in codes}

    @property
    def revenue_text(self) -> str:
        return in_words(self.revenue)

    @property
    def cost_text(self) -> str:
        return in_words(self.cost)

    @property
    def margin_text(self) -> str:
        return in_words(self.margin)


def in_words(amounts: dict[str, int]) -> str:
    """Amounts of several currencies in the reader's language; "–" for none."""
    return " · ".join(money.for_people(amount, code) for code, amount in sorted(amounts.items())) or "–"


def sales_of(reseller: Reseller) -> QuerySet[Resale]:
    """The sales that the reseller has recorded, the latest first, with the serials, their plans and orders."""
    own = Q(sold__line__kind=OrderLine.Kind.WHOLESALE, sold__line__order__user=reseller.user_id)
    return Resale.objects.filter(own).select_related("sold__serial__plan", "sold__line__order")


def sale_of(reseller: Reseller, code: str) -> Resale | None:
    """What the reseller has recorded of the sale of that serial."""
    return sales_of(reseller).filter(sold__serial__code=canonical(code)).first() if code else None


def sale_to_edit(reseller: Reseller, code: str) -> dict[str, object]:
    """What is known of the sale of that serial, to be corrected; without one, the code and the currency it cost."""
    found = stock_of(reseller).filter(serial__code=canonical(code)).first() if code else None
    if found is None:
        return {"code": code}
    known: dict[str, object] = {"code": grouped(found.serial.code), "currency": found.line.order.currency}
    resale = getattr(found, "resale", None)
    if resale:
        known |= {
            "currency": resale.currency,
            "price": money.to_text(resale.price, resale.currency),
            "customer": resale.customer,
            "sold_on": resale.sold_on,
            "note": resale.note,
        }
    return known


def _counted(reseller: Reseller) -> QuerySet[Resale]:
    """Those that count: of a serial that was given back neither price nor cost is left."""
    return sales_of(reseller).filter(sold__taken_back_at=None).select_related(None).order_by()


def sales_by_month(reseller: Reseller) -> dict[date, Sums]:
    """What was sold in each month, the latest first: two queries."""
    rows = _counted(reseller).annotate(month=TruncMonth("sold_on"))
    months: dict[date, Sums] = {}
    revenue = rows.values_list("month", "currency").annotate(count=Count("pk"), sum=Sum("price"))
    for month, currency, count, amount in revenue:
        sums = months.setdefault(month, Sums())
        sums.count += count
        sums.revenue[currency] = amount
    cost = rows.values_list("month", "sold__line__order__currency").annotate(sum=Sum("sold__cost"))
    for month, currency, amount in cost:
        months[month].cost[currency] = amount
    return dict(sorted(months.items(), reverse=True))


@dataclass(frozen=True)
class Batch:
    """One wholesale order: how many serials it brought, how many of them are sold, and the margin of those."""

    number: str
    bought: int
    sums: Sums

    @property
    def sold(self) -> int:
        return self.sums.count


def batches_of(reseller: Reseller, *, most: int) -> list[Batch]:
    """The latest wholesale orders that brought serials, two queries."""
    rows = stock_of(reseller).select_related(None).filter(taken_back_at=None).order_by("-line__order")
    orders = rows.values_list("line__order", "line__order__number", "line__order__currency")
    batches, currencies = {}, {}
    for order_id, number, currency, bought in orders.annotate(bought=Count("pk"))[:most]:
        batches[order_id], currencies[order_id] = Batch(number, bought, Sums()), currency
    sold = _counted(reseller).filter(sold__line__order__in=list(batches))
    for order_id, currency, count, price, cost in sold.values_list("sold__line__order", "currency").annotate(
        count=Count("pk"), price=Sum("price"), cost=Sum("sold__cost")
    ):
        sums = batches[order_id].sums
        sums.count += count
        sums.revenue[currency] = price
        paid_in = currencies[order_id]
        sums.cost[paid_in] = sums.cost.get(paid_in, 0) + cost
    return list(batches.values())
