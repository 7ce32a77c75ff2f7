"""One gate per kind of object: strangers get 404, not 403."""

from __future__ import annotations

from django.shortcuts import get_object_or_404

from accounts.models import User
from billing.models import Order, PackOffer, Payment
from billing.selectors import orders_in_full
from serials.models import Plan
from serials.selectors import public_plans


def order_for(user: User, number: str) -> Order:
    """The user's own order with what its page shows. Raises Http404."""
    return get_object_or_404(orders_in_full().filter(user=user), number=number)


def payment_for(user: User, number: str, reference: str) -> Payment:
    """A payment of the user's own order. Raises Http404."""
    payments = Payment.objects.select_related("order__user", "method")
    return get_object_or_404(payments, reference=reference, order__number=number, order__user=user)


def plan_in_shop(code: str) -> Plan:
    """A plan that is shown to customers. Raises Http404."""
    return get_object_or_404(public_plans(), code=code)


def pack_in_shop(code: str) -> PackOffer:
    """A traffic pack that is on sale. Raises Http404."""
    return get_object_or_404(PackOffer, code=code, is_active=True)
