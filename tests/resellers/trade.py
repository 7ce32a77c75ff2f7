"""What tests of resellers set up: a level, a reseller, customers who came by their link, orders that were paid."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from accounts.models import User
from billing.models import Order, OrderLine
from billing.services.fulfilment import deliver
from derp_portal.lib.clock import now
from resellers.models import Attribution, CommissionBook, Level, LevelPeriod, PayoutMinimum, Rate, Reseller
from serials.models import Plan
from tests.billing.till import paid_order
from tests.conftest import make_user


def make_level(code: str = "standard", rate: int | None = 1500, **fields: Any) -> Level:
    """A level with one rate for every plan. `minimum_payout` is in fen."""
    CommissionBook.objects.get_or_create(pk=1)
    least = fields.pop("minimum_payout", 0)
    values = {"name": code, "hold_days": 0, **fields}
    level = Level.objects.update_or_create(code=code, defaults=values)[0]
    level.rates.all().delete()
    level.payout_minimums.all().delete()
    if least:
        set_least(level, least)
    if rate is not None:
        Rate.objects.create(level=level, basis_points=rate)
    return level


def set_least(level: Level, amount: int, currency: str = "CNY") -> None:
    """Less is not paid out to that level."""
    PayoutMinimum.objects.update_or_create(level=level, currency=currency, defaults={"amount": amount})


def make_reseller(user: User, level: Level | None = None, **fields: Any) -> Reseller:
    """An active reseller, for ages."""
    level = level or make_level()
    User.objects.filter(pk=user.pk).update(role=User.Role.RESELLER)
    user.refresh_from_db()
    values = {"code": f"link-{user.username}", "state": Reseller.State.ACTIVE, "level": level, **fields}
    reseller = Reseller.objects.create(user=user, **values)
    LevelPeriod.objects.create(reseller=reseller, level=level, since=now() - timedelta(days=3650))
    return reseller


def bring(reseller: Reseller, user: User) -> Attribution:
    """The user has been the reseller's customer since they signed up."""
    since = min(user.created_at, now() - timedelta(days=3650))
    return Attribution.objects.create(user=user, reseller=reseller, since=since, reason="link")


def customer_of(reseller: Reseller, name: str = "carol") -> User:
    """A new customer who came by the reseller's link."""
    user = make_user(name, language="en")
    bring(reseller, user)
    return user


def sale(user: User, plan: Plan, **more: Any) -> Order:
    """An order of the user's, paid and delivered."""
    return deliver(order_id=paid_order(user, plan, OrderLine.Kind.GIFT, **more).pk)
