"""What people may ask of the figures, and how they name it: a period, a plan, a shop, a reseller."""

from __future__ import annotations

from datetime import date, timedelta

from django.http import Http404
from django.utils.translation import gettext as _

from accounts.models import User
from billing.models import SalesChannel
from billing.services.ledger import today
from derp_portal.lib.errors import PortalError
from serials.models import Plan

from .days import FIRST_YEAR, LAST_YEAR
from .gathering import currencies
from .sums import OWN_SHOP, Narrowing

LONGEST_DAYS = 3660
OWN = "own"
"""What the portal's own shop is called where shops are named by code."""


def period(start: date | None, end: date | None) -> tuple[date, date]:
    """The period that was asked for, by default this month up to today.

    Raises PortalError `invalid_period` when it ends before it begins, is longer than ten years, or lies in years
    without any books.
    """
    end = end or today()
    start = start or min(end, today()).replace(day=1)
    is_near = start.year >= FIRST_YEAR and end.year <= LAST_YEAR
    if not is_near or not start <= end <= start + timedelta(days=LONGEST_DAYS):
        raise PortalError(
            _("The period must begin before it ends, and be no longer than ten years."),
            code="invalid_period",
            status=422,
        )
    return start, end


def default_currency() -> str:
    """The currency of the figures when none is named: the first that the shop ever took."""
    return next(iter(currencies()), "CNY")


def narrowing(*, plan: str = "", channel: str = "", reseller: str = "") -> Narrowing:
    """By the plan's code, the outside shop's code (or `own`), the reseller's name; empty is any.

    Raises Http404 for what there is not. An outside shop whose code is `own` cannot be named.
    """
    found = {
        "plan_id": _known(Plan.objects.filter(code=plan).values_list("pk", flat=True).first()) if plan else None,
        "channel_id": _channel(channel) if channel else None,
        "reseller_id": (
            _known(User.objects.filter(username__iexact=reseller).values_list("pk", flat=True).first())
            if reseller
            else None
        ),
    }
    return Narrowing(**found)


def _channel(code: str) -> int:
    if code == OWN:
        return OWN_SHOP
    return _known(SalesChannel.objects.filter(code=code).values_list("pk", flat=True).first())


def _known(pk: int | None) -> int:
    if pk is None:
        raise Http404
    return pk
