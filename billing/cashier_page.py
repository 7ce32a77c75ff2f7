"""The test gateway's cashier: where one plays the payer, and no money moves."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache

from accounts.mails import path_of
from billing import sandbox
from billing.gateways.base import CallbackRefused
from billing.models import SandboxCharge
from derp_portal.lib.errors import PortalError

DEEDS: dict[str, Callable[[SandboxCharge, str], object]] = {
    "pay": lambda charge, payer: sandbox.pay(charge_id=charge.pk, payer=payer),
    "quietly": lambda charge, payer: sandbox.pay(charge_id=charge.pk, payer=payer, tells=False),
    "less": lambda charge, payer: sandbox.pay(charge_id=charge.pk, payer=payer, amount=max(charge.amount // 2, 1)),
    "more": lambda charge, payer: sandbox.pay(charge_id=charge.pk, payer=payer, amount=charge.amount + 100),
    "give_up": lambda charge, _payer: sandbox.decline(charge_id=charge.pk),
}
"""What the payer may do, by the name of the button."""


@never_cache
def sandbox_cashier(request: HttpRequest) -> HttpResponse:
    """Choose how the payment goes. As with the real ones, whoever has the link may pay."""
    try:
        charge = sandbox.charge_of(request.GET.dict())
    except CallbackRefused as refusal:
        raise PortalError(
            _("This link to the test cashier is not one that this portal has made, or test payments are switched off."),
            code="bad_link",
            status=404,
        ) from refusal
    deed = DEEDS.get(request.POST.get("deed", "")) if request.method == "POST" else None
    if deed:
        deed(charge, request.POST.get("payer", "").strip())
        # Our own page, under whatever address it is being read.
        return redirect(path_of(charge.return_url))
    # As with the real ones, everybody has an account of their own there until they say otherwise.
    payer = f"account of {request.user.get_username()}" if request.user.is_authenticated else ""
    context = {"charge": charge, "payer": payer, "back_url": path_of(charge.return_url)}
    return render(request, "billing/cashier.html", context)
