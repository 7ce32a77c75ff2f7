"""One gate per kind of object: strangers get 404, not 403."""

from __future__ import annotations

from django.http import Http404
from django.shortcuts import get_object_or_404

from accounts.models import User
from billing.models import SoldSerial
from resellers.models import Reseller, Settlement
from resellers.selectors import reseller_of_user, settlements_of
from resellers.services import stock_of


def reseller_for(user: User) -> Reseller:
    """The active reseller that the user is. Raises Http404."""
    found = reseller_of_user(user)
    if found is None or not found.is_active:
        raise Http404
    return found


def earner_for(user: User) -> Reseller:
    """The reseller that the user is or was: what was earned stays theirs to read. Raises Http404."""
    found = reseller_of_user(user)
    if found is None or found.state not in (Reseller.State.ACTIVE, Reseller.State.SUSPENDED):
        raise Http404
    return found


def settlement_for(reseller: Reseller, settlement_id: int) -> Settlement:
    """One of the reseller's own settlements. Raises Http404."""
    return get_object_or_404(settlements_of(reseller), pk=settlement_id)


def sold_for(reseller: Reseller, serial_id: int) -> SoldSerial:
    """A serial of the reseller's own stock. Raises Http404."""
    # Asked for as a key: only of keys Django knows that no row has a number too large for the column.
    return get_object_or_404(stock_of(reseller), serial__pk=serial_id)
