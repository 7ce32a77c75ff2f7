"""Becoming a reseller, and a reseller's home, links and settings."""

from __future__ import annotations

import segno
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts.access import signed_in
from accounts.mails import absolute
from billing.order_pages import qr_image
from derp_portal.lib.errors import PortalError
from resellers import selectors, services
from resellers.access import reseller_for
from resellers.forms import ApplyForm, ContactForm, LinkForm, PayoutForm
from resellers.models import Reseller
from resellers.words import tail_of

State = Reseller.State


@login_required
@never_cache
def apply(request: HttpRequest) -> HttpResponse:
    """Ask to become a reseller; afterwards, what became of it."""
    me = signed_in(request)
    reseller = selectors.reseller_of_user(me)
    if reseller and reseller.is_active:
        return redirect("reseller_home")
    known = {"application": reseller.application, "code": reseller.code} if reseller else {}
    form = ApplyForm(request.POST or None, initial=known)
    may_apply = reseller is None or reseller.state in (State.APPLIED, State.REJECTED)
    if request.method == "POST" and may_apply and form.is_valid():
        try:
            services.apply(user=me, **form.cleaned_data)
        except PortalError as error:
            form.refuse(error)
        else:
            messages.success(request, _("Your application is here. You get a mail as soon as it is decided."))
            return redirect("reseller_apply")
    level = selectors.default_level()
    rate = selectors.rates_of(level).get(None, 0) / 100 if level else 0
    context = {"reseller": reseller, "form": form, "may_apply": may_apply, "level": level, "rate": f"{rate:g}"}
    return render(request, "resellers/apply.html", context)


@login_required
@never_cache
@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """A reseller's figures. Who has asked to become one is shown what became of it."""
    reseller = selectors.reseller_of_user(signed_in(request))
    if reseller is None:
        raise Http404
    if not reseller.is_active:
        return redirect("reseller_apply")
    overview = selectors.overview_of(reseller, request.GET.get("currency", ""))
    return render(request, "resellers/home.html", {"reseller": reseller, "overview": overview})


# --- links ------------------------------------------------------------------------------------------


def link_of(reseller: Reseller) -> str:
    """The reseller's link as people outside open it."""
    return absolute(reverse("referral", args=[reseller.code]))


@login_required
@never_cache
def links(request: HttpRequest) -> HttpResponse:
    """The link with its QR code, and what its page says."""
    reseller = reseller_for(signed_in(request))
    known = {"code": reseller.code, "landing_text": reseller.landing_text}
    form = LinkForm(request.POST or None, initial=known)
    if request.method == "POST" and form.is_valid():
        try:
            services.update_reseller(reseller_id=reseller.pk, actor=signed_in(request), **form.cleaned_data)
        except PortalError as error:
            form.add_error("code", str(error))
        else:
            messages.success(request, _("Saved."))
            return redirect("reseller_links")
    context = {"reseller": reseller, "form": form, "link": link_of(reseller), "qr": qr_image(link_of(reseller))}
    return render(request, "resellers/links.html", context)


@login_required
@require_safe
def qr(request: HttpRequest) -> HttpResponse:
    """The QR code of the link as an SVG file, for print."""
    reseller = reseller_for(signed_in(request))
    image = segno.make(link_of(reseller), error="m", micro=False).svg_inline(scale=8, border=4, light="#fff")
    headers = {"Content-Disposition": f'attachment; filename="{reseller.code}.svg"'}
    head = '<?xml version="1.0" encoding="utf-8"?>\n'
    image = image.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return HttpResponse(head + image, content_type="image/svg+xml", headers=headers)


# --- settings ---------------------------------------------------------------------------------------


@login_required
@never_cache
def settings(request: HttpRequest) -> HttpResponse:
    """Whom customers see as their seller, and where commission is paid to."""
    reseller = reseller_for(signed_in(request))
    known = {"contact": reseller.contact, "renewal_url": reseller.renewal_url}
    form = ContactForm(request.POST or None, initial=known)
    if request.method == "POST" and form.is_valid():
        services.update_reseller(reseller_id=reseller.pk, actor=signed_in(request), **form.cleaned_data)
        messages.success(request, _("Saved."))
        return redirect("reseller_settings")
    context = {"reseller": reseller, "form": form, "account": tail_of(reseller.payout_details)}
    return render(request, "resellers/settings.html", context)


@login_required
@never_cache
def payout(request: HttpRequest) -> HttpResponse:
    """Where commission is paid to: first what is typed is shown once more, then it is kept, and never shown again."""
    reseller = reseller_for(signed_in(request))
    form = PayoutForm(request.POST or None, initial={"payout_kind": reseller.payout_kind})
    if request.method == "POST" and form.is_valid():
        if "confirm" in request.POST:
            services.update_reseller(reseller_id=reseller.pk, actor=signed_in(request), **form.cleaned_data)
            messages.success(request, _("Saved. From now on commission is paid there."))
            return redirect("reseller_settings")
        if "change" not in request.POST:
            kind = dict(Reseller.PayoutKind.choices)[form.cleaned_data["payout_kind"]]
            return render(request, "resellers/payout_confirm.html", {"form": form, "kind": kind})
    return render(request, "resellers/payout.html", {"form": form, "account": tail_of(reseller.payout_details)})
