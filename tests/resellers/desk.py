"""What the desk of resellers has on it, and what resellers have: stock, sales, customers, commissions, settlements."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEntry, User
from billing import services as billing
from billing.models import Order, Posting, Refund, SoldSerial, WholesalePrice
from billing.services.ledger import today
from derp_portal.lib.clock import now
from resellers import services
from resellers.models import (
    Attribution,
    CommissionLine,
    LeaseContact,
    Level,
    LevelPeriod,
    LinkDay,
    Rate,
    Resale,
    Reseller,
    Settlement,
    Signup,
    Suspicion,
)
from serials.models import Lease, Plan, SerialNumber
from serials.services import activate
from tests.billing.till import Kind, paid_order, priced_plan
from tests.conftest import make_user
from tests.resellers.trade import bring, customer_of, make_level, make_reseller, sale

ACCOUNT = "6222 0000 1234 5678 Bank of Somewhere"
"""Where resellers are paid; on no page but for those who pay."""
MODELS = (
    *(Reseller, Level, Rate, LevelPeriod, Attribution, CommissionLine, Suspicion, Settlement, Resale, LeaseContact),
    *(LinkDay, Signup, Order, Refund, SoldSerial, SerialNumber, Posting, User, Lease),
)


def everything() -> list[Any]:
    """All rows that a reseller's work touches, as they are."""
    return [list(model._default_manager.order_by("pk").values()) for model in MODELS]


def page(name: str, *ids: int) -> str:
    return reverse(f"admin:resellers_{name}", args=ids)


def last_event() -> tuple[str, str]:
    entry = AuditEntry.objects.order_by("-id")[0]
    return entry.event, entry.actor_label


def staff(*permissions: str) -> Client:
    """The browser of helen, who works here and may do only that."""
    helen = User.objects.filter(username="helen").first() or make_user("helen", role="admin")
    for name in permissions:
        helen.user_permissions.add(Permission.objects.get(content_type__app_label="resellers", codename=name))
    browser = Client(headers={"Accept-Language": "en"})
    browser.force_login(helen)
    return browser


def buy_serials(reseller: Reseller, plan: Plan, count: int = 3, *, each: int = 1000) -> list[SerialNumber]:
    """Serials bought wholesale, paid and delivered, the first bought first."""
    WholesalePrice.objects.get_or_create(plan=plan, from_quantity=1, defaults={"amount": each})
    order = billing.deliver(order_id=paid_order(reseller.user, plan, Kind.WHOLESALE, count).pk)
    return list(SerialNumber.objects.filter(sale__line__order=order).order_by("pk"))


def settle(reseller: Reseller, customer: User, plan: Plan) -> Settlement:
    """A settlement of last month, of one order of the customer's; to be approved."""
    order = sale(customer, plan)
    month = (today().replace(day=1) - timedelta(days=1)).replace(day=1)
    line = CommissionLine.objects.create(
        kind=CommissionLine.Kind.EARNED,
        reseller=reseller,
        order=order,
        base=order.received,
        amount=order.received // 10,
        currency=order.currency,
        due_on=month,
        settle_month=month,
    )
    Order.objects.filter(pk=order.pk).update(is_news=False)
    return Settlement.objects.create(
        reseller=reseller,
        month=month,
        currency=line.currency,
        amount=line.amount,
        payable=line.amount,
        lines=1,
        state=Settlement.State.OPEN,
    )


def suspect(reseller: Reseller, customer: User, plan: Plan) -> Suspicion:
    """An order of the customer's that a person must look at."""
    order = sale(customer, plan)
    Order.objects.filter(pk=order.pk).update(is_news=False)
    return Suspicion.objects.create(order=order, reseller=reseller, signals=["same_address", "circle"])


@dataclass(frozen=True)
class Trade:
    """All that one reseller has."""

    reseller: Reseller
    customer: User
    serials: list[SerialNumber]
    """Unused and not sold, unused and sold, redeemed by `tenant`."""
    tenant: User
    settlement: Settlement
    suspicion: Suspicion

    @property
    def codes(self) -> list[str]:
        return [serial.code for serial in self.serials]

    @property
    def lease(self) -> Lease:
        return Lease.objects.get(user=self.tenant)

    @property
    def orders(self) -> list[str]:
        """Numbers of the reseller's and of the customers' orders."""
        mine = Order.objects.filter(user__in=[self.reseller.user, self.customer])
        return list(mine.values_list("number", flat=True))


def put_in_trade(user: User, plan: Plan) -> Trade:
    """Make the user an active reseller who has one of everything. Needs a server with room."""
    name = user.username
    level = Level.objects.filter(code="standard").first() or make_level()
    details = {"payout_kind": Reseller.PayoutKind.BANK, "payout_details": ACCOUNT, "contact": f"{name}@shop"}
    reseller = make_reseller(user, level, **details)
    customer = customer_of(reseller, f"customer-of-{name}")
    serials = buy_serials(reseller, plan)
    sold = SoldSerial.objects.get(serial=serials[1])
    Resale.objects.create(
        sold=sold, customer=f"walk-in of {name}", price=1500, currency="CNY", sold_on=today(), note=f"note of {name}"
    )
    tenant = make_user(f"tenant-of-{name}")
    activate(user=tenant, code=serials[2].code, actor=tenant)
    services.note_lease_contacts()
    LinkDay.objects.create(reseller=reseller, day=today(), clicks=7)
    settlement = settle(reseller, customer, plan)
    suspicion = suspect(reseller, customer, plan)
    for serial in serials:
        serial.refresh_from_db()
    return Trade(reseller, customer, serials, tenant, settlement, suspicion)


def put_resellers_on_the_desk(user: User, plan: Plan, number: int) -> None:
    """One of each kind of row, for a user who is nobody's customer yet; something waits of every kind."""
    seller = make_user(f"seller{number}")
    trade = put_in_trade(seller, priced_plan(plan.days, 1990))
    level = make_level(f"level-{number}")
    applicant = make_user(f"applicant{number}")
    Reseller.objects.create(user=applicant, code=f"wish-{number}", level=level, application="In my shop.")
    bring(trade.reseller, user)
    Signup.objects.create(user=user, reseller=trade.reseller, verdict=Signup.Verdict.ATTRIBUTED, clicked_at=now())
    Settlement.objects.create(
        reseller=trade.reseller,
        month=date(2001, 1, 1),
        currency="CNY",
        amount=100,
        payable=100,
        state=Settlement.State.APPROVED,
    )
