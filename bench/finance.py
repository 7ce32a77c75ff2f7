"""Figures of a year over 1,000,000 orders, against the bare SQL that sums the ledger over the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

from django.db import connection
from django.test import Client
from django.urls import reverse

from accounts.models import User
from bench.report import line, median_seconds
from bench.rows import insert_rows
from billing.finance.books import check_books
from billing.finance.deferred import deferred_revenue
from billing.finance.figures import By, statistics
from billing.finance.roll_up import roll_up_days
from billing.models import Order, OrderLine, Posting, RolledDay, SalesChannel, SoldSerial
from billing.services.ledger import today
from fleet.models import RelayGroup
from serials.models import Lease, LeaseTerm, Plan, SerialBatch, SerialNumber

ORDERS = 1_000_000
DAYS = 365
CUSTOMERS = 50_000
SHOPS, RESELLERS, PLANS = 3, 20, 3
LIVE_DAYS = 30
"""Serials of older orders are used up; of these a third waits to be redeemed, the others run."""
RUNS = 5

BARE = """
    SELECT booked_month, SUM(CASE WHEN credit IN ('revenue', 'wholesale') THEN amount ELSE 0 END),
        SUM(CASE WHEN debit = 'refunds' THEN amount ELSE 0 END),
        SUM(CASE WHEN debit = 'gateway_fees' THEN amount ELSE 0 END)
    FROM ledger WHERE currency = 'CNY' AND booked_day BETWEEN %s AND %s GROUP BY booked_month
"""


def measure() -> None:
    """Print what the figures, the page and the checks cost beside one pass of the database over the same ledger."""
    took = median_seconds([lambda: _fill(ORDERS)])
    rolled = median_seconds([roll_up_days])
    orders, postings = Order.objects.count(), Posting.objects.count()
    print(f"finance: {orders:,} orders, {postings:,} postings; made in {took:.0f} s, rolled up in {rolled:.0f} s")
    start, end = today().replace(day=1, year=today().year - 1), today()
    client = Client(headers={"host": "localhost"})
    client.force_login(User.objects.get(username="finance-root"))
    page = reverse("admin:billing_finance")
    # Once each before it counts: templates are compiled and pages of the database file read.
    runs = {
        "bare": lambda: _bare(start, end),
        "statistics": lambda: statistics(start, end, "CNY", by=By.MONTH),
        "page": lambda: _open(client, page, period="12m"),
        "month": lambda: _open(client, page, period="month"),
        "deferred": deferred_revenue,
        "books": check_books,
    }
    times = {}
    for name, run in runs.items():
        run()
        times[name] = median_seconds([run] * (1 if name == "books" else RUNS))
    assert _same(start, end), "the figures are not what the ledger sums up to"
    bare, baseline = times["bare"], "the bare SQL that sums the ledger"
    line(f"12 months of figures, {orders:,} orders", times["statistics"], bare, baseline)
    line("the finance page, 12 months", times["page"], bare, baseline)
    line("the finance page, this month", times["month"], bare, baseline)
    line("deferred revenue", times["deferred"], bare, baseline)
    line("checking the whole books", times["books"], bare, baseline)


def _open(client: Client, page: str, **query: str) -> None:
    answer = client.get(page, query)
    assert answer.status_code == 200
    answer.close()


def _bare(start: date, end: date) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(BARE, [start, end])
        return cursor.fetchall()


def _same(start: date, end: date) -> bool:
    totals = statistics(start, end, "CNY").totals
    sold, refunds, fees = (sum(row[column] for row in _bare(start, end)) for column in (1, 2, 3))
    return (totals.gross, totals.refunds, totals.fees) == (sold, refunds, fees)


def _fill(orders: int) -> None:
    """Orders of a year that ends today, made where they are kept: the database counts up and derives the rest.

    One in a hundred is refunded, one in eight is an outside shop's, one in ten brings in a reseller. Everybody has a
    lease; one in ten of them ended a week ago.
    """
    day = today()
    root = User.objects.create_superuser("finance-root", "finance-root@example.com")
    plans = list(Plan.objects.order_by("pk").values_list("pk", flat=True)[:PLANS])
    shops = SalesChannel.objects.bulk_create(
        SalesChannel(code=f"bench-{number}", name=f"Shop {number}") for number in range(SHOPS)
    )
    batch = SerialBatch.objects.create(plan_id=plans[0], duration_days=LIVE_DAYS, count=orders)
    group = RelayGroup.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
    lease = Lease.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
    values: dict[str, Any] = {
        "orders": orders,
        "first": (day - timedelta(days=DAYS - 1)).isoformat(),
        "ended": (day - timedelta(days=7)).isoformat(),
        "last": (day + timedelta(days=LIVE_DAYS)).isoformat(),
        "live": (day - timedelta(days=LIVE_DAYS)).isoformat(),
        "live_days": LIVE_DAYS,
        "days": DAYS,
        "plan": plans[0],
        "plans": len(plans),
        "user": root.pk + 1,
        "users": CUSTOMERS,
        "group": group + 1,
        "lease": lease + 1,
        "shop": shops[0].pk,
        "shops": SHOPS,
        "resellers": RESELLERS,
        "batch": batch.pk,
    }
    with connection.cursor() as cursor:
        # The rows fit each other, and nobody minds if this file is lost.
        for setting in ("foreign_keys = OFF", "synchronous = OFF", "cache_size = -524288"):
            cursor.execute(f"PRAGMA {setting}")
        for statement in _statements():
            cursor.execute(statement, values)
        for setting in ("foreign_keys = ON", "synchronous = NORMAL", "cache_size = -2000"):
            cursor.execute(f"PRAGMA {setting}")
    RolledDay.objects.all().delete()


MADE = """
    WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < %(orders)s),
    made AS (
        SELECT n, n %% 8 = 0 AS is_outside, 990 + n * 7919 %% 40 * 100 AS amount,
            date(%(first)s, '+' || (n * %(days)s / (%(orders)s + 1)) || ' days') AS day
        FROM counted
    )
"""

BENCH_ORDERS = "orders WHERE number LIKE 'B%%'"
PLAN = "%(plan)s + id %% %(plans)s"
IS_OLD = "booked_day <= %(live)s"
IS_USED = f"({IS_OLD} OR id %% 3 <> 0)"
OF_ORDER = {
    "currency": "currency",
    "booked_day": "booked_day",
    "booked_month": "substr(booked_day, 1, 8) || '01'",
    "order_id": "id",
    "channel_id": "channel_id",
    "reseller_id": "reseller_id",
    "created_at": "paid_at",
}
OF_LINE = OF_ORDER | {"line_id": "id", "plan_id": PLAN, "amount": "total"}


def _people() -> Iterator[str]:
    before = "WITH RECURSIVE counted(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM counted WHERE n < %(users)s - 1)"
    name = {"id": "%(user)s + n", "username": "'buyer' || n", "email": "'buyer' || n || '@example.com'"}
    yield insert_rows(User, "counted", name | {"created_at": "%(first)s"}, before=before)
    began = {"created_at": "%(first)s"}
    group = {"id": "%(group)s + n", "owner_id": "%(user)s + n", "run_until": "%(first)s"}
    yield insert_rows(RelayGroup, "counted", group | began, before=before)
    lease = {
        "id": "%(lease)s + n",
        "user_id": "%(user)s + n",
        "relay_group_id": "%(group)s + n",
        "name": "'bench'",
        "status": "CASE WHEN n %% 10 = 0 THEN 'expired' ELSE 'active' END",
        "ended_at": "CASE WHEN n %% 10 = 0 THEN %(ended)s END",
        "ends_at": "CASE WHEN n %% 10 = 0 THEN %(ended)s ELSE %(last)s END",
    }
    same = dict.fromkeys(("started_at", "renewed_at", "renewed_to", "active_since"), "%(first)s")
    yield insert_rows(Lease, "counted", lease | same | began, before=before)


def _statements() -> Iterator[str]:
    yield from _people()
    yield insert_rows(
        Order,
        "made",
        {
            "id": "n",
            "number": "'B' || n",
            "user_id": "CASE WHEN NOT is_outside THEN %(user)s + n * 31 %% %(users)s END",
            "channel_id": "CASE WHEN is_outside THEN %(shop)s + n / 8 %% %(shops)s END",
            "external_number": "CASE WHEN is_outside THEN 'X' || n ELSE '' END",
            "reseller_id": "CASE WHEN n %% 10 = 1 THEN %(user)s + n / 10 %% %(resellers)s END",
            "state": "CASE WHEN n %% 100 = 0 THEN 'refunded' ELSE 'fulfilled' END",
            "subtotal": "amount",
            "total": "amount",
            "received": "amount",
            "refunded": "CASE WHEN n %% 100 = 0 THEN amount ELSE 0 END",
            "is_first": "NOT is_outside AND n <= %(users)s",
            "created_at": "day || ' 04:00:00'",
            "paid_at": "day || ' 04:01:00'",
            "fulfilled_at": "day || ' 04:01:01'",
            "booked_day": "day",
        },
        before=MADE,
    )
    kind = "CASE WHEN channel_id IS NOT NULL THEN 'outside' WHEN id %% 3 = 0 THEN 'renewal' ELSE 'self' END"
    yield insert_rows(
        OrderLine,
        BENCH_ORDERS,
        {
            "id": "id",
            "order_id": "id",
            "kind": kind,
            "plan_id": PLAN,
            "unit_amount": "total",
            "amount": "total",
            "snapshot": "'{}'",
        },
    )
    sale = OF_LINE | {"key": "'order:' || id || ':line:' || id", "debit": "'cash'", "credit": "'revenue'"}
    yield insert_rows(Posting, BENCH_ORDERS, sale)
    fee = OF_ORDER | {"key": "'order:' || id || ':fee'", "debit": "'gateway_fees'", "credit": "'cash'"}
    yield insert_rows(Posting, BENCH_ORDERS, fee | {"amount": "1 + total * 6 / 1000"})
    refund = OF_LINE | {"key": "'refund:' || id || ':line:' || id", "debit": "'refunds'", "credit": "'refunds_due'"}
    yield insert_rows(Posting, f"{BENCH_ORDERS} AND state = 'refunded'", refund)
    status = f"CASE WHEN {IS_OLD} THEN 'expired' WHEN id %% 3 = 0 THEN 'unused' ELSE 'used' END"
    yield insert_rows(
        SerialNumber,
        BENCH_ORDERS,
        {
            "id": "id",
            "code": "'B' || id",
            "batch_id": "%(batch)s",
            "plan_id": PLAN,
            "duration_days": "%(live_days)s",
            "status": status,
            "user_id": f"CASE WHEN {IS_USED} THEN COALESCE(user_id, %(user)s) END",
            "created_at": "created_at",
            "used_at": f"CASE WHEN {IS_USED} THEN paid_at END",
            "expires_at": f"CASE WHEN {IS_USED} THEN datetime(paid_at, '+' || %(live_days)s || ' days') END",
        },
    )
    yield insert_rows(
        LeaseTerm,
        "serial_numbers s JOIN leases l ON l.id = %(lease)s + s.user_id - %(user)s WHERE s.batch_id = %(batch)s",
        {
            "lease_id": "l.id",
            "plan_id": "s.plan_id",
            "starts_at": "s.used_at",
            "ends_at": "s.expires_at",
            "state": "CASE WHEN s.status = 'used' AND l.status = 'active' THEN 'queued' ELSE 'done' END",
            "source": "'serial'",
            "serial_id": "s.id",
            "created_at": "s.used_at",
        },
    )
    taken_back = "CASE WHEN state = 'refunded' THEN paid_at END"
    sold = {"line_id": "id", "serial_id": "id", "amount": "total", "taken_back_at": taken_back}
    yield insert_rows(SoldSerial, BENCH_ORDERS, sold)
