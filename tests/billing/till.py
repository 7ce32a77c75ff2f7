"""What tests of money set up: prices, a test gateway, orders, and the callbacks that pay them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from accounts.models import User
from billing.gateways.base import CallbackAnswer, RawCallback
from billing.gateways.sandbox import SIGNATURE, SandboxGateway
from billing.models import Account, GatewayCallback, Order, OrderLine, Payment, PaymentMethod, Posting, Price
from billing.services import gateway_of, place_order, start_payment
from billing.services.callbacks import handle_callback
from billing.services.pricing import Item
from derp_portal.lib.clock import now
from serials.models import Plan
from tests.serials.shop import make_plan

Kind = OrderLine.Kind
KEY = "a key that only tests know"


def make_method(code: str = "test", **fields: Any) -> PaymentMethod:
    """A payment method of the built-in test gateway."""
    defaults = {"kind": "sandbox", "name": "Test payment", "settings": json.dumps({"key": KEY}), **fields}
    return PaymentMethod.objects.get_or_create(code=code, defaults=defaults)[0]


def make_bank() -> PaymentMethod:
    """Transfers that staff confirm."""
    return make_method("bank", kind="offline", settings=json.dumps({"instructions": "To account 7"}))


def priced_plan(days: int = 30, amount: int = 1990, *, currency: str = "CNY", **price: Any) -> Plan:
    """A plan on sale for so many minor units."""
    plan = make_plan(days)
    Price.objects.update_or_create(plan=plan, currency=currency, defaults={"amount": amount, **price})
    return plan


def order_of(user: User, plan: Plan, kind: OrderLine.Kind = Kind.GIFT, quantity: int = 1, **more: Any) -> Order:
    """An order of the user's for serials of the plan. `lease_id` and what `place_order` takes may follow."""
    item = Item(kind, plan=plan, quantity=quantity, lease_id=more.pop("lease_id", None))
    return place_order(user=user, items=[item], actor=user, **more)


def begin(order: Order, method: PaymentMethod | None = None) -> Payment:
    """An attempt to pay the order."""
    if method is None:
        method = make_method() if order.currency == "CNY" else make_method(order.currency, currency=order.currency)
    return start_payment(order_id=order.pk, method=method, actor=order.user)


def callback_about(payment: Payment, outcome: str = "paid", *, at: datetime | None = None, **said: Any) -> RawCallback:
    """What the test gateway would send about the payment; `said` replaces parts of it before it is signed."""
    moment = at or now()
    body: dict[str, Any] = {"reference": payment.reference, "outcome": outcome}
    if outcome == "paid":
        body |= {
            "transaction_id": f"tx-{payment.reference}",
            "amount": payment.amount,
            "currency": payment.currency,
            "paid_at": moment.isoformat(),
        }
    return signed(payment.method, json.dumps(body | said), moment)


def signed(method: PaymentMethod, body: str, moment: datetime) -> RawCallback:
    """A callback with this body, signed with the method's key at `moment`, arriving now."""
    gateway = gateway_of(method)
    assert isinstance(gateway, SandboxGateway)
    return RawCallback("POST", {SIGNATURE: gateway.sign(body, moment)}, body.encode(), "", now())


def call(payment: Payment, callback: RawCallback | None = None) -> CallbackAnswer:
    """The callback arrives; without one, the one that pays."""
    return handle_callback(method=payment.method, callback=callback or callback_about(payment), ip="192.0.2.1")


def verdicts() -> list[str]:
    """What was made of the callbacks so far, oldest first."""
    return list(GatewayCallback.objects.order_by("id").values_list("verdict", flat=True))


def paid_order(user: User, plan: Plan, kind: OrderLine.Kind = Kind.GIFT, quantity: int = 1, **more: Any) -> Order:
    """An order that was paid through the test gateway; not delivered yet."""
    order = order_of(user, plan, kind, quantity, **more)
    if order.state == Order.State.PENDING:
        call(begin(order))
    order.refresh_from_db()
    return order


def balance(account: Account, currency: str = "CNY") -> int:
    """Debits less credits of the account."""
    postings = Posting.objects.filter(currency=currency)
    debits = sum(postings.filter(debit=account).values_list("amount", flat=True))
    return debits - sum(postings.filter(credit=account).values_list("amount", flat=True))
