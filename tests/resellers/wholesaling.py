"""What tests of wholesale set up: prices, a balance, stock that was bought."""

from __future__ import annotations

from typing import Any

from billing.models import Order, SoldSerial, WholesalePrice
from billing.services.fulfilment import deliver
from resellers import services
from resellers.models import Reseller
from serials.models import Plan
from tests.billing.till import begin, call


def wholesale_price(plan: Plan, amount: int = 1000, **fields: Any) -> WholesalePrice:
    """What each of the plan's serials costs resellers."""
    values = {"level": "", "currency": "CNY", "from_quantity": 1, **fields}
    return WholesalePrice.objects.update_or_create(plan=plan, **values, defaults={"amount": amount})[0]


def settled(order: Order) -> Order:
    """The order, paid through the test gateway (unless it is paid already) and delivered."""
    if order.state == Order.State.PENDING:
        call(begin(order))
    return deliver(order_id=order.pk)


def stock(
    reseller: Reseller, plan: Plan, quantity: int = 1, *, price: int = 1000, from_balance: bool = False
) -> list[SoldSerial]:
    """So many serials that the reseller has bought wholesale, in one order."""
    wholesale_price(plan, price)
    order = services.buy_stock(
        reseller=reseller, plan=plan, quantity=quantity, currency="CNY", from_balance=from_balance
    )
    settled(order)
    return list(SoldSerial.objects.filter(line__order=order).select_related("serial", "line__order").order_by("id"))


def fill_balance(reseller: Reseller, amount: int, currency: str = "CNY") -> Order:
    """The reseller has paid in so much."""
    return settled(services.top_up(reseller=reseller, amount=amount, currency=currency))
