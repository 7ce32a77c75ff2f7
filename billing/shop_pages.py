"""What is sold: the landing page, the shop, and ordering."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts.access import signed_in
from accounts.models import User
from billing import selectors, services
from billing.access import pack_in_shop, plan_in_shop
from billing.forms import OrderForm, PackForm, PlanForm
from billing.services.pricing import slow_down_guessers
from derp_portal.lib.errors import PortalError
from derp_portal.lib.ids import id_in

DEFAULT_CURRENCY = "CNY"


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """What is sold here, for how much, and what it cannot do."""
    return render(request, "billing/home.html", _goods(request))


@require_safe
def shop(request: HttpRequest) -> HttpResponse:
    """Plans and traffic packs with their prices; one sees them without an account."""
    context = _goods(request)
    user = _visitor(request)
    packs = selectors.packs_on_sale(context["currency"])
    # Where nothing of one's own is limited a pack would be bought for nothing.
    context["packs"] = packs if user is None or selectors.leases_that_take_packs(user).exists() else []
    return render(request, "billing/shop.html", context)


def _goods(request: HttpRequest) -> dict[str, Any]:
    currencies = selectors.currencies_on_sale()
    currency = _wished_currency(request, currencies)
    return {
        "offers": selectors.offers(_visitor(request), currency),
        "currency": currency,
        "currencies": currencies,
        "lease": _wished_lease(request) or "",
    }


def _visitor(request: HttpRequest) -> User | None:
    return request.user if isinstance(request.user, User) else None


def _wished_currency(request: HttpRequest, currencies: list[str]) -> str:
    wished = request.POST.get("currency") or request.GET.get("currency") or DEFAULT_CURRENCY
    return wished if wished in currencies or not currencies else currencies[0]


def _wished_lease(request: HttpRequest) -> int | None:
    """The lease whose button led here. Only a wish: no form offers one that is not the user's own."""
    return id_in(request.GET.get("lease") or "")


# --- ordering -----------------------------------------------------------------------------------------


@login_required
@never_cache
def shop_plan(request: HttpRequest, code: str) -> HttpResponse:
    """What a plan is for, what that costs, and ordering it."""
    me = signed_in(request)
    plan = plan_in_shop(code)
    currencies = selectors.currencies_on_sale(plan)
    currency = _wished_currency(request, currencies)
    offer = selectors.offer_of(me, plan, currency)
    ways = selectors.ways_to_use(me, offer)
    lease = _wished_lease(request)
    wished = next((way for way in ways if lease and way.lease_id == lease), ways[0] if ways else None)
    data = {"way": wished.key if wished else "", "quantity": 1, "currency": currency} | _first_look(request)
    form = PlanForm(request.POST or data, offer=offer, ways=ways, currencies=currencies or [currency])
    return _sell(request, form, "billing/shop_plan.html", {"offer": offer})


@login_required
@never_cache
def shop_pack(request: HttpRequest, code: str) -> HttpResponse:
    """For which lease a traffic pack is, what it costs, and ordering it."""
    me = signed_in(request)
    pack = pack_in_shop(code)
    leases = list(selectors.leases_that_take_packs(me))
    wished = next((lease for lease in leases if lease.pk == _wished_lease(request)), leases[0] if leases else None)
    data = {"way": str(wished.pk) if wished else ""} | _first_look(request)
    form = PackForm(request.POST or data, pack=pack, leases=leases)
    return _sell(request, form, "billing/shop_pack.html", {"pack": pack})


def _first_look(request: HttpRequest) -> dict[str, Any]:
    return {"client_key": OrderForm.new_key(), "coupon_code": request.GET.get("coupon", "")[:40]}


def _sell(request: HttpRequest, form: PlanForm | PackForm, template: str, context: dict[str, Any]) -> HttpResponse:
    """Price what is chosen, and order it once that price has been on the page."""
    me = signed_in(request)
    is_ordering = request.POST.get("step") == "order"
    if is_ordering and (known := selectors.order_of_key(me, form.key)):
        return redirect("order", known.number)  # A double click, or the same page sent again.
    priced = None
    if form.is_valid():
        try:
            slow_down_guessers(me, form.wish().get("coupon_code", ""))
            priced = services.quote(user=me, **form.wish())
            if is_ordering and form.has_shown(priced.total):
                order = services.place_order(user=me, **form.wish(), client_key=form.key, actor=me)
                return redirect("order", order.number)
        except PortalError as refusal:
            if is_ordering and (known := selectors.order_of_key(me, form.key)):
                return redirect("order", known.number)  # The other click was faster and has used the coupon.
            form.refuse(refusal)
            priced = None
        else:
            if is_ordering:
                form.add_error(None, _("This is the price now. Nothing has been ordered yet: look at it, then order."))
    context |= {"form": form, "priced": priced}
    is_part = getattr(request, "htmx", False) and request.method == "POST"
    return render(request, "billing/quote_live.html" if is_part else template, context)
