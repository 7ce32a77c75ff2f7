"""Tickets that reach a reseller before the operator. The thread itself is a page of the room `accounts`."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts.access import signed_in
from accounts.selectors import tickets_reached_first, tickets_waiting_for
from accounts.tables import configured
from resellers.access import reseller_for
from resellers.forms import FirstLineFilter
from resellers.tables import FirstLineTable


@login_required
@never_cache
@require_safe
def tickets(request: HttpRequest) -> HttpResponse:
    """What customers of one's wholesale serials ask, and whose turn it is; what waits stands on top."""
    user = reseller_for(signed_in(request)).user
    found = FirstLineFilter(request.GET, queryset=tickets_reached_first(user))
    table = configured(FirstLineTable(found.qs), request)
    return render(request, "resellers/tickets.html", {"filter": found, "table": table})


@login_required
@never_cache
@require_safe
def waiting(request: HttpRequest) -> HttpResponse:
    """How many tickets wait for the reseller: the number beside the entry of the menu, nothing for none."""
    user = reseller_for(signed_in(request)).user
    return render(request, "resellers/tickets_waiting.html", {"count": tickets_waiting_for(user)})
