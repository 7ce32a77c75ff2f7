"""Closing a month over 1,000,000 orders and 1,000 resellers, against the bare SQL that only adds their lines up."""

from __future__ import annotations

import resource
import tracemalloc
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

from django.db import connection
from django.db.models import Max, Sum

from accounts.models import User
from bench.report import line, median_seconds
from bench.rows import insert_rows
from billing.models import Order
from billing.services.ledger import today
from resellers.models import CommissionBook, CommissionLine, Level, PayoutMinimum, Reseller, Settlement
from resellers.services import run_month

FEW, MANY = 100_000, 1_000_000
"""Orders of the month before last, and of the last one."""
RESELLERS = 1000
RUNS = 5
BARE = """
    SELECT reseller_id, currency, SUM(amount), COUNT(*) FROM commission_lines
    WHERE settle_month = %s GROUP BY reseller_id, currency
"""


def measure() -> None:
    """Print what a run costs beside the sums that it is made of, and what memory it takes over few and over many."""
    last = (today().replace(day=1) - timedelta(days=1)).replace(day=1)
    before = (last - timedelta(days=1)).replace(day=1)
    took = median_seconds([lambda: _fill(before, last)])
    print(f"month_close: {CommissionLine.objects.count():,} lines of {RESELLERS:,} resellers, made in {took:.0f} s")
    _reset(None, before)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    few, many = (_peak(lambda month=month: run_month(month=month)) for month in (before, last))  # type: ignore[misc]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident
    times = []
    for _run in range(RUNS):
        _reset(before, last)
        times.append((median_seconds([lambda: run_month(month=last)]), median_seconds([lambda: _bare(last)])))
    ours, bare = (sorted(column)[RUNS // 2] for column in zip(*times, strict=True))
    made = Settlement.objects.filter(month=last)
    assert made.aggregate(sum=Sum("amount"))["sum"] == sum(row[2] for row in _bare(last)), "the run missed some lines"
    assert sum(made.values_list("lines", flat=True)) == MANY
    note = f"{made.count():,} settlements, as many carried into them"
    line(f"closing a month of {MANY:,} orders", ours, bare, "the bare SQL that adds it up", note)
    print(
        f"memory of a run: {few / 1e6:.1f} MB at {FEW:,} orders, {many / 1e6:.1f} MB at {MANY:,};"
        f" the process grew by {grown / 1e3:.1f} MB",
        flush=True,
    )


def _bare(month: date) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(BARE, [month])
        return cursor.fetchall()


def _peak(run: Callable[[], object]) -> int:
    """The most memory that Python's objects took during the run."""
    tracemalloc.start()
    run()
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def _reset(run_until: date | None, month: date) -> None:
    """As it was before that month was run."""
    Settlement.objects.filter(carried_to__month=month).update(carried_to=None)
    Settlement.objects.filter(month=month).delete()
    CommissionBook.objects.update(run_until=run_until)


def _fill(before: date, last: date) -> None:
    """One line for each order, made where they are kept. All but a few resellers earn too little in the first month."""
    level = Level.objects.create(code="bench", name="Bench")
    PayoutMinimum.objects.create(level=level, currency="CNY", amount=10**6)
    users = User.objects.bulk_create(
        [User(username=f"seller{number}", email=f"seller{number}@example.com") for number in range(RESELLERS)],
        batch_size=1000,
    )
    resellers = Reseller.objects.bulk_create(
        Reseller(user=user, code=user.username, state=Reseller.State.ACTIVE, level=level) for user in users
    )
    first = (Order.objects.aggregate(last=Max("pk"))["last"] or 0) + 1
    values = {
        "first": first,
        "end": first + FEW + MANY - 1,
        "user": users[0].pk,
        "reseller": resellers[0].pk,
        "resellers": RESELLERS,
        "many": first + FEW,
        "before": before.isoformat(),
        "last": last.isoformat(),
        "day": (last + timedelta(days=14)).isoformat(),
    }
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA cache_size = -262144")
        for statement in _statements():
            cursor.execute(statement, values)
        # So much as a worker has: what a run reads is not all in memory.
        cursor.execute("PRAGMA cache_size = -2000")


MADE = """
    WITH RECURSIVE counted(n) AS (SELECT %(first)s UNION ALL SELECT n + 1 FROM counted WHERE n < %(end)s),
    made AS (
        SELECT n, 990 + n * 7919 %% 40 * 100 AS amount,
            CASE WHEN n %% 10 = 0 THEN 'USD' ELSE 'CNY' END AS currency,
            CASE WHEN n < %(many)s THEN %(before)s ELSE %(last)s END AS month
        FROM counted
    )
"""


def _statements() -> list[str]:
    order = {
        "id": "n",
        "number": "'M' || n",
        "user_id": "%(user)s + n %% %(resellers)s",
        "state": "'fulfilled'",
        "currency": "currency",
        "subtotal": "amount",
        "total": "amount",
        "received": "amount",
        "created_at": "month || ' 04:00:00'",
        "paid_at": "month || ' 04:01:00'",
        "fulfilled_at": "month || ' 04:01:01'",
        "booked_day": "month",
    }
    # In no order of resellers: so they come in life.
    earned = {
        "kind": "'earned'",
        "reseller_id": "%(reseller)s + n * 7919 / 10 %% %(resellers)s",
        "order_id": "n",
        "base": "amount",
        "amount": "amount * 15 / 100",
        "currency": "currency",
        "rates": "'[]'",
        "due_on": "month",
        "settle_month": "month",
        "created_at": "month || ' 04:01:15'",
    }
    return [insert_rows(Order, "made", order, before=MADE), insert_rows(CommissionLine, "made", earned, before=MADE)]
