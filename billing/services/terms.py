"""What the rooms above have agreed on with a buyer, written down where orders are priced."""

from __future__ import annotations

from django.db import transaction

from accounts.models import User
from billing.models import BuyerTerms


def set_brought_by(*, user_id: int, by: User | None) -> None:
    """Orders of the user are booked as brought by this reseller from now on."""
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=user_id)
        BuyerTerms.objects.update_or_create(user_id=user_id, defaults={"brought_by": by})


def set_wholesale_level(*, user_id: int, level: str) -> None:
    """The user buys wholesale at the prices of this level from now on; "" means those for all."""
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=user_id)
        BuyerTerms.objects.update_or_create(user_id=user_id, defaults={"wholesale_level": level})
