"""What the operator's desk has on it: some of everything that has to do with money, each with a trouble of its own."""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import Any

from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEntry, User
from billing import services
from billing.models import (
    BuyerTerms,
    ClosedMonth,
    Coupon,
    DailyFigure,
    Order,
    PackOffer,
    Payment,
    PaymentMethod,
    Posting,
    Refund,
    RolledDay,
    SalesChannel,
    SoldSerial,
    Transfer,
    WholesalePrice,
)
from serials.models import Plan, SerialNumber
from serials.services import generate
from tests.billing.till import begin, call, callback_about, make_method, order_of, paid_order, priced_plan
from tests.conftest import make_user

ACCOUNT = "account 12345678 at the bank"


def transfer_method(code: str = "bank") -> PaymentMethod:
    """A payment method that a person confirms."""
    settings = json.dumps({"instructions": ACCOUNT})
    return make_method(code, kind="offline", name="Bank transfer", settings=settings)


def make_shop(plan: Plan, code: str = "taobao", **fields: object) -> SalesChannel:
    """An outside shop that may hand out the plan."""
    channel = SalesChannel.objects.create(**{"code": code, "name": f"Shop {code}", **fields})
    channel.plans.add(plan)
    return channel


def held_order(user: User, plan: Plan, amount: int) -> Order:
    """An order for which another sum came than it costs."""
    order = order_of(user, plan)
    call_back = begin(order)
    call(call_back, callback_about(call_back, amount=amount))
    order.refresh_from_db()
    return order


def put_on_the_desk(user: User, plan: Plan, number: int, root: User) -> None:
    """One of each."""
    priced_plan(plan.days, 1990)
    WholesalePrice.objects.create(plan=plan, from_quantity=10, amount=1500)
    PackOffer.objects.create(code=f"pack-{number}", name="100 GB", extra_bytes=10**11, amount=990)
    BuyerTerms.objects.create(user=user, brought_by=root, wholesale_level="gold")
    coupon = Coupon.objects.create(code=f"SAVE{number}", percent=10)
    coupon.plans.add(plan)

    delivered = paid_order(user, plan, quantity=2, coupon_code=coupon.code)
    services.deliver(order_id=delivered.pk)
    refund = services.refund_order(order_id=delivered.pk, amount=100, reason="a slow week", actor=root)
    Refund.objects.filter(pk=refund.pk).update(state=Refund.State.BY_HAND, problem="by_hand")
    held_order(user, plan, 1000)
    stuck = paid_order(user, plan)
    Order.objects.filter(pk=stuck.pk).update(trouble="released")
    begin(order_of(user, plan), transfer_method(f"bank-{number}"))

    channel = make_shop(plan, f"shop-{number}")
    services.issue_channel_token(channel_id=channel.pk, actor=root)
    services.add_stock(channel_id=channel.pk, batch=generate(count=3, plan=plan, actor=root), actor=root)
    services.pick_up(channel=channel, external_number=f"outside {number}")

    day = date(2001, 1, 1) + timedelta(days=number)
    DailyFigure.objects.create(day=day, plan=plan, revenue=1990, orders=1)
    RolledDay.objects.create(day=day, placed=1)
    ClosedMonth.objects.create(month=date(1990 + number, 1, 1), actor=root)


# --- what tests of the pages ask and say ---------------------------------------------------------------

SECRET = "a signing key nobody may read"
ROWS = (Order, Payment, Transfer, Refund, Posting, SoldSerial, SerialNumber, SalesChannel, PaymentMethod)


def page(name: str, *ids: int) -> str:
    return reverse(f"admin:billing_{name}", args=ids)


def last_event() -> tuple[str, str]:
    entry = AuditEntry.objects.order_by("-id")[0]
    return entry.event, entry.actor_label


def everything() -> list[Any]:
    """All rows of money, as they are."""
    return [list(model.objects.order_by("pk").values()) for model in ROWS]


def told(answer: Any) -> str:
    """What the page says, after a redirect too."""
    return str(answer.content.decode())


def offered(browser: Client, address: str) -> set[str]:
    """The names of the actions on a page."""
    shown = browser.get(address).context
    return {one["path"].rstrip("/").rsplit("/", 1)[-1] for one in shown.get("actions_detail", []) if one.get("path")}


def staff(*permissions: str) -> Client:
    """The browser of helen, who works here and may do only that."""
    helen = make_user("helen", role="admin")
    for name in permissions:
        helen.user_permissions.add(Permission.objects.get(content_type__app_label="billing", codename=name))
    browser = Client()
    browser.force_login(helen)
    return browser


def confirm_form(order: Order, amount: str = "19.90", **more: Any) -> dict[str, Any]:
    seen = {"transaction_id": "T-1", "amount": amount, "evidence": "statement of 3 May, line 12"}
    return {"method": transfer_method().pk, **seen, **more}


def method_form(**more: str) -> dict[str, str]:
    return {
        "name": "Test",
        "code": "try",
        "position": "0",
        "currency": "CNY",
        "fee_basis_points": "0.6",
        "is_enabled": "on",
        "setting_key": SECRET,
        **more,
    }
