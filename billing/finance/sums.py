"""What days brought, counted from the books: the one place that says which rows make which figure."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import date
from typing import Any, NamedTuple

from django.db.models import BigIntegerField, Case, Count, Exists, F, OuterRef, Q, Sum, Value, When

from billing.models import Account, OrderLine, Posting

SOLD = (Account.REVENUE, Account.WHOLESALE)
"""The accounts that sales are booked to."""

COUNTED = (*SOLD, Account.REFUNDS, Account.GATEWAY_FEES)


@dataclass(frozen=True, slots=True)
class Sums:
    """Minor units of one currency, and counts.

    `orders` are paid ones; one of several plans counts once, for the plan of its first line, while its `units` count
    for each. `renewals` are lines that renewed a lease, `first_orders` those of customers who had paid none before.
    Topping up a balance is no sale: what is bought from the balance later is one.
    """

    revenue: int = 0
    wholesale: int = 0
    refunds: int = 0
    fees: int = 0
    orders: int = 0
    units: int = 0
    renewals: int = 0
    first_orders: int = 0

    @property
    def gross(self) -> int:
        """All that was sold."""
        return self.revenue + self.wholesale

    @property
    def net(self) -> int:
        """What of it was not given back. Below zero when refunds of earlier sales outweigh."""
        return self.gross - self.refunds

    @property
    def after_fees(self) -> int:
        """What of that gateways and shops left."""
        return self.net - self.fees

    @property
    def is_nothing(self) -> bool:
        return not any(getattr(self, name) for name in FIELDS)

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, name) + getattr(other, name) for name in FIELDS))


FIELDS = tuple(one.name for one in fields(Sums))
NOTHING = Sums()


class Key(NamedTuple):
    """What figures are told apart by. No channel means the portal's own shop, no plan a traffic pack or a fee."""

    day: date
    currency: str
    plan_id: int | None
    channel_id: int | None
    reseller_id: int | None


@dataclass(frozen=True, slots=True)
class Narrowing:
    """Of which plan, shop and reseller figures are wanted; None is any. Fees are of no plan."""

    plan_id: int | None = None
    channel_id: int | None = None
    reseller_id: int | None = None

    @property
    def is_narrow(self) -> bool:
        return self != EVERYTHING

    def where(self, plan: str = "plan", order: str = "") -> Q:
        """The same for the database: `plan` is the path to the plan, `order` leads to what has shop and reseller."""
        found = Q()
        if self.plan_id is not None:
            found &= Q(**{plan: self.plan_id})
        if self.channel_id == OWN_SHOP:
            found &= Q(**{f"{order}channel__isnull": True})
        elif self.channel_id is not None:
            found &= Q(**{f"{order}channel": self.channel_id})
        if self.reseller_id is not None:
            found &= Q(**{f"{order}reseller": self.reseller_id})
        return found

    def holds(self, key: Key) -> bool:
        """Whether the key's figures are among those wanted."""
        return (
            self.plan_id in (None, key.plan_id)
            and self.channel_id in (None, key.channel_id or OWN_SHOP)
            and self.reseller_id in (None, key.reseller_id)
        )


OWN_SHOP = 0
"""Stands for the portal's own shop where outside shops are named by id."""

EVERYTHING = Narrowing()


def credited(account: Account) -> Sum:
    """What came to the account less what left it again."""
    amount = Case(
        When(credit=account, then=F("amount")),
        When(debit=account, then=-F("amount")),
        default=Value(0),
        output_field=BigIntegerField(),
    )
    return Sum(amount, default=0)


def debited(account: Account) -> Sum:
    """The same the other way round, for accounts that stand on the left side."""
    amount = Case(
        When(debit=account, then=F("amount")),
        When(credit=account, then=-F("amount")),
        default=Value(0),
        output_field=BigIntegerField(),
    )
    return Sum(amount, default=0)


def of_accounts(*accounts: Account) -> Q:
    """Postings that touch one of the accounts."""
    return Q(debit__in=accounts) | Q(credit__in=accounts)


def counted(first: date, last: date) -> dict[Key, Sums]:
    """What the days from `first` to `last` brought, all currencies. Two queries, over the rows of these days only.

    A posting counts on the day it was booked, an order on the day it was paid; neither ever moves.
    """
    found: dict[Key, dict[str, int]] = {}
    money = (
        Posting.objects.filter(of_accounts(*COUNTED), booked_day__range=(first, last))
        .order_by()
        .values_list("booked_day", "currency", "plan_id", "channel_id", "reseller_id")
        .annotate(
            revenue=credited(Account.REVENUE),
            wholesale=credited(Account.WHOLESALE),
            refunds=debited(Account.REFUNDS),
            fees=debited(Account.GATEWAY_FEES),
        )
    )
    for *key, revenue, wholesale, refunds, fees in money:
        found[Key(*key)] = {"revenue": revenue, "wholesale": wholesale, "refunds": refunds, "fees": fees}
    for *key, orders, first_orders, units, renewals in _sold(first, last):
        counts = {"orders": orders, "first_orders": first_orders, "units": units, "renewals": renewals}
        found.setdefault(Key(*key), {}).update(counts)
    made = {key: Sums(**values) for key, values in found.items()}
    return {key: sums for key, sums in made.items() if not sums.is_nothing}


def _sold(first: date, last: date) -> Any:
    earlier = OrderLine.objects.filter(order=OuterRef("order"), pk__lt=OuterRef("pk"))
    return (
        OrderLine.objects.filter(order__booked_day__range=(first, last))
        .exclude(kind=OrderLine.Kind.TOP_UP)
        .order_by()
        .annotate(leads=~Exists(earlier))
        .values_list("order__booked_day", "order__currency", "plan_id", "order__channel_id", "order__reseller_id")
        .annotate(
            paid=Count("pk", filter=Q(leads=True)),
            firsts=Count("pk", filter=Q(leads=True, order__is_first=True)),
            units=Sum("quantity", default=0),
            renewals=Count("pk", filter=Q(kind=OrderLine.Kind.RENEWAL)),
        )
    )
