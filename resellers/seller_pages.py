"""The customer's side: from whom a lease was bought, and where it is renewed."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts.access import signed_in
from resellers import selectors
from serials.access import lease_for


@login_required
@never_cache
@require_safe
def lease_seller(request: HttpRequest, lease_id: int) -> HttpResponse:
    """The reseller of one's own lease: a card for the pages of the lease, or without scripts a page of its own.

    Nothing where the lease is the portal's own.
    """
    lease = lease_for(signed_in(request), lease_id)
    context = {"lease": lease, "seller": selectors.seller_of_lease(lease)}
    is_part = getattr(request, "htmx", False)
    return render(request, "resellers/seller_card.html" if is_part else "resellers/seller.html", context)
