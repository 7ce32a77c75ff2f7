"""What speaks for an order being the reseller's own. Only reads; a person decides what it means."""

from __future__ import annotations

from datetime import timedelta

from accounts.models import AuditEntry, User
from accounts.selectors import share_a_browser
from accounts.services.browsers import KEPT_DAYS
from billing.models import Order
from billing.services.payers import paid_from_one_account
from billing.services.pricing import person_of
from derp_portal.lib.clock import days, now
from resellers.models import Attribution, Reseller

SAME_HOUSE = timedelta(days=90)
"""For so long back the addresses of two accounts are compared. A browser is compared for as long as it is kept."""


def signals_of(order: Order, reseller: Reseller) -> list[str]:
    """Why the order may be the reseller's own; [] if nothing speaks for it. The number of queries does not grow."""
    buyer, owner = order.user, reseller.user
    assert buyer is not None
    circle = Attribution.objects.filter(user=owner, reseller__user=buyer, until=None)
    found = {
        "same_person": person_of(buyer) == person_of(owner),
        "same_address": bool(_addresses(buyer) & _addresses(owner)),
        # Which account paid this very order is known by now, where anybody says so.
        "same_payer": paid_from_one_account(buyer, owner),
        "same_device": share_a_browser(buyer, owner, now() - days(KEPT_DAYS)),
        "circle": circle.exists(),
    }
    return [signal for signal, speaks in found.items() if speaks]


def _addresses(user: User) -> set[str]:
    """From where somebody has signed up, logged in or ordered lately."""
    seen = AuditEntry.objects.filter(
        actor=user,
        target_type="accounts.user",
        target_id=str(user.pk),
        event__in=["user.registered", "user.logged_in"],
        created_at__gte=now() - SAME_HOUSE,
        ip__isnull=False,
    )
    return set(seen.values_list("ip", flat=True))
