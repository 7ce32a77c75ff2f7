"""Orders as something that tickets are about: `order:310531ABCDEFGHJK`."""

from __future__ import annotations

from django.urls import reverse
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.subjects import Subject
from billing.models import Order

OFFERED = 20
"""The latest; an older one is asked about from its own page."""


def order_choices(user: User) -> list[Subject]:
    """A person's latest orders."""
    return [_subject(order, user) for order in Order.objects.filter(user=user).order_by("-id")[:OFFERED]]


def find_order(key: str, reader: User) -> Subject | None:
    """The order of that number; its page is there for its buyer, the admin's for staff."""
    order = Order.objects.filter(number=key).first()
    return _subject(order, reader) if order else None


def _subject(order: Order, reader: User) -> Subject:
    url = ""
    if order.user_id == reader.pk:
        url = reverse("order", args=[order.number])
    elif reader.is_staff:
        url = reverse("admin:billing_order_change", args=[order.pk])
    label = _("Order %(number)s") % {"number": order.number}
    return Subject(f"order:{order.number}", label, order.user_id, str(order.get_state_display()), url)
