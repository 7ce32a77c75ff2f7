"""A month's report: plain words and numbers that fit into JSON, so that closing the month can freeze them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from typing import Any

from django.conf import settings
from django.db.models import Case, Count, F, Q, Sum, Value, When
from django.utils.translation import gettext_noop

from billing.models import Account, ClosedMonth, PaymentMethod, Posting, SalesChannel
from derp_portal.lib.clock import now

from .balances import Turnover, turnovers
from .days import last_day_of
from .figures import Named, Part, statistics
from .gathering import currencies, in_order
from .sums import FIELDS, Sums

VERSION = 1
"""Of the report's shape: frozen reports keep the one they were written in."""

Report = dict[str, Any]
Balances = dict[tuple[str, str], int]

NO_METHOD = Named(None, "", gettext_noop("Without a payment method"))


def report_of(month: date) -> Report:
    """The report of the month (any day of it): the frozen one once it is closed, else made of the books as they are."""
    closed = ClosedMonth.objects.filter(month=month.replace(day=1)).select_related("actor").first()
    if closed is None:
        return make_report(month)
    return {
        **closed.report,
        "is_closed": True,
        "closed_at": closed.created_at.isoformat(),
        "closed_by": closed.actor.username if closed.actor else "",
    }


def make_report(month: date) -> Report:
    """The report as the books are now. Amounts are minor units; names are kept as they are now, in both languages.

    Deferred revenue and active leases are those of `made_at`: what was still to be served on a day long past is
    written down nowhere. A month that is closed soon after its end has them as they were then.
    """
    month = month.replace(day=1)
    opening = _opening(month)
    moved = turnovers(Q(booked_month=month))
    cash, refunds = _cash(month), _refunds(month)
    codes = in_order([code for code, _account in [*opening, *moved]] + currencies()) or ["CNY"]
    found = {code: statistics(month, last_day_of(month), code) for code in codes}
    whole = found[codes[0]]
    return {
        "version": VERSION,
        "month": f"{month:%Y-%m}",
        "time_zone": settings.TIME_ZONE,
        "is_closed": False,
        "made_at": now().isoformat(),
        "orders": asdict(whole.conversion),
        "leases": asdict(whole.tenancy),
        "currencies": [
            {
                "currency": code,
                "totals": _show(of.totals),
                "customers": of.customers,
                "average": of.average,
                "days": [{"day": step.start.isoformat(), **_show(step.sums)} for step in of.series],
                "plans": [_part(part) for part in of.plans],
                "channels": [_part(part) for part in of.channels],
                "resellers": [_part(part) for part in of.resellers],
                "cash": [row for currency, row in cash if currency == code],
                "accounts": _accounts(code, opening, moved),
                "refunds": refunds.get(code, {"count": 0, "of_orders": 0, "of_balances": 0, "not_counted": 0}),
                "deferred": [
                    {**asdict(plan), "amount": one.amount, "serials": one.serials} for plan, one in of.deferred
                ],
            }
            for code, of in found.items()
        ],
    }


def name_of(row: Mapping[str, Any]) -> str:
    """The name of a row of a report (a plan, shop, reseller or method) in the reader's language."""
    return Named(row["id"], "", row["name"], row.get("name_zh", "")).local_name


def _show(sums: Sums) -> dict[str, int]:
    return {name: getattr(sums, name) for name in (*FIELDS, "gross", "net", "after_fees")}


def _part(part: Part) -> dict[str, Any]:
    return {**asdict(part.of), **_show(part.sums)}


# --- balances ---------------------------------------------------------------------------------------


def _opening(month: date) -> Balances:
    """What stood on each account when the month began: from the last closed month on, for that one is settled."""
    closed = ClosedMonth.objects.filter(month__lt=month).order_by("-month").first()
    found: Balances = {}
    since = Q(booked_month__lt=month)
    if closed:
        since &= Q(booked_month__gt=closed.month)
        for part in closed.report["currencies"]:
            found |= {(part["currency"], row["account"]): row["closing"] for row in part["accounts"]}
    for (code, account), turnover in turnovers(since).items():
        found[code, account] = found.get((code, account), 0) + turnover.balance(account)
    return found


def _accounts(code: str, opening: Balances, moved: Mapping[tuple[str, str], Turnover]) -> list[dict[str, Any]]:
    """Every account that ever moved, in the order of the chart."""
    rows = []
    for account in Account.values:
        key = (code, account)
        if key in opening or key in moved:
            before, turnover = opening.get(key, 0), moved.get(key, Turnover())
            rows.append(
                {
                    "account": account,
                    "opening": before,
                    "debits": turnover.debits,
                    "credits": turnover.credits,
                    "closing": before + turnover.balance(account),
                }
            )
    return rows


# --- money that moved -------------------------------------------------------------------------------


def _cash(month: date) -> list[tuple[str, dict[str, Any]]]:
    """What came in and went out by each payment method and outside shop, with the currency. Three queries."""
    rows = list(
        Posting.objects.filter(Q(debit=Account.CASH) | Q(credit=Account.CASH), booked_month=month)
        .order_by()
        .values("currency", "method_id", shop=Case(When(method=None, then=F("channel_id")), default=None))
        .annotate(
            received=_sum(debit=Account.CASH),
            fees=_sum(credit=Account.CASH, debit=Account.GATEWAY_FEES),
            given_back=_sum(credit=Account.CASH, debit=Account.REFUNDS_DUE),
            other=_sum(credit=Account.CASH) - _sum(credit=Account.CASH, debit__in=_KNOWN_WAYS),
        )
    )
    methods = PaymentMethod.objects.only("code", "name", "name_zh").in_bulk({row["method_id"] for row in rows} - {None})
    shops = SalesChannel.objects.in_bulk({row["shop"] for row in rows} - {None})
    found = []
    for row in rows:
        method, shop = methods.get(row["method_id"]), shops.get(row["shop"])
        if method:
            named = Named(method.pk, method.code, method.name, method.name_zh)
        else:
            named = Named(shop.pk, shop.code, shop.name) if shop else NO_METHOD
        ways = {way: row[way] for way in ("received", "fees", "given_back", "other")}
        left = 2 * row["received"] - sum(ways.values())
        found.append((row["currency"], {**asdict(named), "is_shop": shop is not None, **ways, "left": left}))
    return sorted(found, key=lambda pair: (-pair[1]["received"], pair[1]["name"], pair[1]["id"] or 0))


_KNOWN_WAYS = (Account.GATEWAY_FEES, Account.REFUNDS_DUE)


def _sum(**sides: Any) -> Sum:
    return Sum(Case(When(**sides, then=F("amount")), default=Value(0)), default=0)


def _refunds(month: date) -> dict[str, dict[str, int]]:
    """Refunds that were decided in the month, by currency: how many, and how much of what kind. One query."""
    rows = (
        Posting.objects.filter(booked_month=month, credit=Account.REFUNDS_DUE, refund__isnull=False)
        .order_by()
        .values_list("currency")
        .annotate(
            count=Count("refund", distinct=True),
            of_orders=_sum(debit=Account.REFUNDS),
            of_balances=_sum(debit=Account.RESELLER_FUNDS),
            not_counted=_sum(debit=Account.CUSTOMER_FUNDS),
        )
    )
    names = ("count", "of_orders", "of_balances", "not_counted")
    return {code: dict(zip(names, values, strict=True)) for code, *values in rows}
