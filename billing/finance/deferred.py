"""Deferred revenue: days that were sold and paid for, and are still to be served."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import BigIntegerField, Count, Expression, ExpressionWrapper, F, Func, Q, Sum, Value
from django.db.models.functions import Least

from billing.models import SoldSerial
from derp_portal.lib.clock import now
from serials.models import Lease, LeaseTerm, SerialNumber

from .sums import EVERYTHING, Narrowing

DAY_SECONDS = 24 * 60 * 60
Status = SerialNumber.Status


@dataclass(frozen=True, slots=True)
class Deferred:
    """What is deferred of one plan in one currency, in minor units, and how many serials have days to give."""

    currency: str
    plan_id: int
    amount: int
    serials: int


class EpochSeconds(Func):
    """A moment as whole seconds since 1970, rounded down, on SQLite and PostgreSQL alike."""

    arity = 1
    output_field = BigIntegerField()

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> tuple[str, Any]:
        """SQLite keeps moments as text in UTC."""
        return self.as_sql(
            compiler, connection, template="CAST(strftime('%%%%s', %(expressions)s) AS INTEGER)", **context
        )

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> tuple[str, Any]:
        """PostgreSQL counts in fractions."""
        return self.as_sql(
            compiler, connection, template="FLOOR(EXTRACT(EPOCH FROM %(expressions)s))::bigint", **context
        )


def deferred_revenue(moment: datetime | None = None, *, only: Narrowing = EVERYTHING) -> list[Deferred]:
    """What is still to be served of what was sold, by currency and plan, those with nothing left out. Three queries.

    A serial that nobody has redeemed and that may still be redeemed counts in full. A redeemed one counts for the
    part of its days that lies ahead, of its exact share of the money: amount × seconds left // seconds in all; days
    that are queued count in full. What was taken back, revoked or expired counts for nothing. States are those of the
    present, so `moment` must not be far from it.

    Left out are days that were converted into those of another plan: nobody can say any more which sale they are of.
    Days that staff gave or that made up for an outage were never paid for. A traffic pack is served when it is paid.
    """
    moment = moment or now()
    found: dict[tuple[str, int], list[int]] = {}
    for currency, plan_id, amount, serials in [*_unused(moment, only), *_running(moment, only)]:
        sums = found.setdefault((currency, plan_id), [0, 0])
        sums[0] += amount
        sums[1] += serials
    return [Deferred(*key, amount, serials) for key, (amount, serials) in sorted(found.items()) if amount]


def _unused(moment: datetime, only: Narrowing) -> Any:
    redeemable = Q(serial__expires_at=None) | Q(serial__expires_at__gt=moment)
    return (
        SoldSerial.objects.filter(
            redeemable, only.where("line__plan", "line__order__"), taken_back_at=None, serial__status=Status.UNUSED
        )
        .order_by()
        .values_list("line__order__currency", "line__plan_id")
        .annotate(deferred=Sum("amount"), serials=Count("pk"))
    )


def _running(moment: datetime, only: Narrowing) -> list[tuple[str, int, int, int]]:
    """From the terms, of which few are open, rather than from all that was ever sold.

    A term that was moved up names no serial; the term it goes on from does.
    """
    rows: list[tuple[str, int, int, int]] = []
    for serial, origin in (("serial", {}), ("origin__serial", {"serial": None})):
        sale = f"{serial}__sale"
        open_terms = LeaseTerm.objects.filter(
            only.where(f"{sale}__line__plan", f"{sale}__line__order__"),
            **origin,
            **{f"{sale}__isnull": False, f"{sale}__taken_back_at": None, f"{serial}__status": Status.USED},
            lease__status=Lease.Status.ACTIVE,
            state__in=[LeaseTerm.State.CURRENT, LeaseTerm.State.QUEUED],
            ends_at__gt=moment,
        )
        part = _part_left(F(f"{sale}__amount"), F(f"{serial}__duration_days") * DAY_SECONDS, moment)
        rows += (
            open_terms.order_by()
            .values_list(f"{sale}__line__order__currency", f"{sale}__line__plan_id")
            .annotate(deferred=Sum(part), serials=Count("pk"))
        )
    return rows


def _part_left(amount: F, whole: Any, moment: datetime) -> Expression:
    """amount × left // whole, taken apart so that no product of the two can be too large for 64 bits."""
    ahead = EpochSeconds(F("ends_at")) - Value(int(moment.timestamp()), output_field=BigIntegerField())
    left = Least(ahead, whole, output_field=BigIntegerField())
    times, rest = amount / whole, amount % whole
    return _whole(_whole(times) * left + _whole(rest * left / whole))


def _whole(expression: Any) -> Expression:
    return ExpressionWrapper(expression, output_field=BigIntegerField())
