"""A reseller's link: the page it opens, and how a visitor is remembered as theirs."""

from __future__ import annotations

import re
from datetime import timedelta

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts.adapter import SIGNUP_REF_COOKIE
from accounts.models import User
from billing.selectors import currencies_on_sale, offers
from derp_portal.lib.clock import now
from resellers import selectors, services
from resellers.models import Reseller

ONE_VISIT = timedelta(minutes=30)
"""Who opens the same link again within this time has not come anew."""
NOT_NOW = 503
ROBOT = re.compile(
    r"bot\b|crawl|spider|slurp|preview|externalhit|whatsapp|telegram|monitor|headless|curl|wget|python|okhttp|java/|go-http",
    re.IGNORECASE,
)


@never_cache
@require_safe
def referral(request: HttpRequest, code: str) -> HttpResponse:
    """The page of a reseller's link. Of several links that somebody has opened the last one counts.

    A browser that only looks ahead is turned away: so that the visit, if it comes, is a request of its own.
    """
    reseller = selectors.reseller_of_code(code)
    if reseller is None:
        return redirect("home")
    if is_prefetch(request):
        return HttpResponse(status=NOT_NOW)
    visitor = request.user if isinstance(request.user, User) else None
    currencies = currencies_on_sale()
    wished = request.GET.get("currency", "")
    currency = wished if wished in currencies else next(iter(currencies), "CNY")
    context = {
        "reseller": reseller,
        "offers": offers(visitor, currency),
        "currency": currency,
        "currencies": currencies,
        "is_own": visitor is not None and visitor.pk == reseller.user_id,
    }
    response = render(request, "resellers/landing.html", context)
    if context["is_own"]:
        return response
    if is_new_visit(request, reseller):
        services.count_click(reseller)
    response.set_cookie(
        SIGNUP_REF_COOKIE,
        services.reference_for(reseller),
        max_age=timedelta(days=reseller.level.cookie_days),
        httponly=True,
        samesite="Lax",
        secure=settings.SECURE,
    )
    return response


def is_prefetch(request: HttpRequest) -> bool:
    """Whether the browser fetches the page before anybody has asked for it."""
    purpose = request.headers.get("Sec-Purpose") or request.headers.get("Purpose") or request.headers.get("X-Moz")
    return "prefetch" in (purpose or "").lower()


def is_new_visit(request: HttpRequest, reseller: Reseller) -> bool:
    """Whether a person has come who was not here just now."""
    agent = request.headers.get("User-Agent", "")
    if request.method != "GET" or not agent or ROBOT.search(agent):
        return False
    known = services.read_reference(request.COOKIES.get(SIGNUP_REF_COOKIE, ""))
    return known is None or known.reseller_id != reseller.pk or now() - known.clicked_at > ONE_VISIT
