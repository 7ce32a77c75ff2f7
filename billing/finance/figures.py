"""The figures of a period. Currencies are never added together: statistics are of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum
from typing import Any

from django.db.models import Exists, OuterRef
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from accounts.models import User
from billing.models import Order, OrderLine, SalesChannel
from billing.services.ledger import today
from derp_portal.lib.clock import next_month
from derp_portal.lib.wording import local
from serials.models import Plan

from .days import days_between
from .deferred import Deferred, deferred_revenue
from .gathering import Whose, gather
from .sums import EVERYTHING, NOTHING, Narrowing, Sums
from .tenancy import Tenancy, tenancy


class By(StrEnum):
    """How long the steps of a series are."""

    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Step:
    """One day, or one month by its first day."""

    start: date
    sums: Sums


@dataclass(frozen=True, slots=True)
class Named:
    """A plan, shop or reseller by its names. Without `id` it is none of them, and `name` says in English what it is."""

    id: int | None
    code: str
    name: str
    name_zh: str = ""

    @property
    def local_name(self) -> str:
        """The name in the reader's language."""
        if self.id is None:
            return _(self.name)
        return local(self.name, self.name_zh)


NO_PLAN = Named(None, "", gettext_noop("Without a plan (traffic packs)"))
OUR_SHOP = Named(None, "", gettext_noop("Our own shop"))


@dataclass(frozen=True, slots=True)
class Part:
    """What one of them brought."""

    of: Named
    sums: Sums


@dataclass(frozen=True, slots=True)
class Conversion:
    """Orders of all currencies, plans and shops: placed in the period, and paid in it."""

    placed: int
    paid: int

    @property
    def share(self) -> float | None:
        """Paid of placed; more than 1 when more older orders were paid than new ones were not. None without any."""
        return self.paid / self.placed if self.placed else None


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a period brought, in minor units of `currency`. Deferred revenue is that of the present."""

    start: date
    end: date
    currency: str
    totals: Sums
    own_shop: Sums
    customers: int
    conversion: Conversion
    tenancy: Tenancy
    series: list[Step] = field(repr=False)
    plans: list[Part] = field(repr=False)
    channels: list[Part] = field(repr=False)
    resellers: list[Part] = field(repr=False)
    deferred: list[tuple[Named, Deferred]] = field(repr=False)

    @property
    def average(self) -> int | None:
        """What the portal's own shop brought net for each paying customer, rounded down; None without one."""
        return self.own_shop.net // self.customers if self.customers else None

    @property
    def deferred_amount(self) -> int:
        """All that is still to be served."""
        return sum(one.amount for _plan, one in self.deferred)


def statistics(start: date, end: date, currency: str, *, only: Narrowing = EVERYTHING, by: By = By.DAY) -> Statistics:
    """The figures of the days from `start` to `end`, of the plan, shop and reseller that `only` names.

    Days to come are left out. Paying customers are different people who paid more than nothing for orders in the
    period, a topped-up balance among them; who bought in an outside shop is not known, and who bought several plans
    is a customer of each. Conversion, leases and churn are those of the whole portal, whatever is named. A fixed
    number of queries.
    """
    end = min(end, today())
    found = gather(start, end, currency, only)
    deferred = [one for one in deferred_revenue(only=only) if one.currency == currency]
    whose = found.whose
    plans = _plans({of.plan_id for of in whose} | {one.plan_id for one in deferred})
    return Statistics(
        start=start,
        end=end,
        currency=currency,
        totals=_total(whose.values()),
        own_shop=_total(sums for of, sums in whose.items() if of.channel_id is None),
        customers=_customers(start, end, currency, only),
        conversion=Conversion(found.placed, found.paid),
        tenancy=tenancy(start, end),
        series=_series(start, end, found.of_days, by),
        plans=_parts(_of_plans(whose), plans),
        channels=_parts(
            ((of.channel_id, sums) for of, sums in whose.items()), _channels({of.channel_id for of in whose})
        ),
        resellers=_parts(
            ((of.reseller_id, sums) for of, sums in whose.items() if of.reseller_id is not None),
            _resellers({of.reseller_id for of in whose}),
        ),
        deferred=sorted(
            ((plans[one.plan_id], one) for one in deferred), key=lambda pair: (-pair[1].amount, pair[0].name)
        ),
    )


def _total(sums: Iterable[Sums]) -> Sums:
    return sum(sums, NOTHING)


def _series(start: date, end: date, of_days: Mapping[date, Sums], by: By) -> list[Step]:
    """Every step of the period, also those that brought nothing."""
    if by == By.DAY:
        return [Step(day, of_days.get(day, NOTHING)) for day in days_between(start, end)]
    months: dict[date, Sums] = {}
    month = start.replace(day=1)
    while month <= end:
        months[month] = NOTHING
        month = next_month(month)
    for day, sums in of_days.items():
        months[day.replace(day=1)] += sums
    return [Step(month, sums) for month, sums in months.items()]


def _parts(found: Iterable[tuple[int | None, Sums]], names: Mapping[int | None, Named]) -> list[Part]:
    """Added up for each of `names`, the most first."""
    sums: dict[int | None, Sums] = {}
    for key, one in found:
        sums[key] = sums.get(key, NOTHING) + one
    parts = [Part(names[key], one) for key, one in sums.items()]
    return sorted(parts, key=lambda part: (-part.sums.net, -part.sums.gross, part.of.name, part.of.id or 0))


def _of_plans(whose: Mapping[Whose, Sums]) -> Iterator[tuple[int | None, Sums]]:
    """Without fees, which are of payments and of no plan."""
    for of, sums in whose.items():
        without = replace(sums, fees=0)
        if not without.is_nothing:
            yield of.plan_id, without


def _plans(ids: Iterable[int | None]) -> dict[int | None, Named]:
    rows: Iterable[Plan] = Plan.objects.filter(pk__in=_known(ids))
    return {None: NO_PLAN, **{row.pk: Named(row.pk, row.code, row.name, row.name_zh) for row in rows}}


def _channels(ids: Iterable[int | None]) -> dict[int | None, Named]:
    rows: Iterable[SalesChannel] = SalesChannel.objects.filter(pk__in=_known(ids))
    return {None: OUR_SHOP, **{row.pk: Named(row.pk, row.code, row.name) for row in rows}}


def _resellers(ids: Iterable[int | None]) -> dict[int | None, Named]:
    rows = User.objects.filter(pk__in=_known(ids)).order_by().values_list("pk", "username")
    return {pk: Named(pk, username, username) for pk, username in rows}


def _known(ids: Iterable[int | None]) -> list[int]:
    return sorted(one for one in ids if one is not None)


def _customers(start: date, end: date, currency: str, only: Narrowing) -> int:
    """How many people paid. Asked of the orders themselves: people of single days cannot be added up."""
    paid: Any = Order.objects.filter(
        booked_day__range=(start, end), currency=currency, received__gt=0, user__isnull=False
    )
    if only.plan_id is not None:
        paid = paid.filter(Exists(OrderLine.objects.filter(order=OuterRef("pk"), plan=only.plan_id)))
    shop = Narrowing(channel_id=only.channel_id, reseller_id=only.reseller_id)
    count: int = paid.filter(shop.where()).values("user").distinct().count()
    return count
