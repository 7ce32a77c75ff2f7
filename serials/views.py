"""What the customer sees: the dashboard, redeeming, leases, histories."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts.access import signed_in
from accounts.ratelimit import RateLimited
from accounts.request_ip import current as current_ip
from accounts.tables import configured
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from derp_portal.lib.ids import id_in
from fleet.forms import EventFilter, RegionIdForm
from fleet.selectors import moves_seen_by, relay_events, traffic_of
from fleet.services import choose_region_id, revoke_map_token, rotate_map_token
from fleet.tables import EventTable, MoveTable
from serials import selectors, services
from serials.access import lease_for, relay_of_lease
from serials.forms import ChoiceForm, CodeForm, LeaseNameForm, NextTermForm, SerialFilter, TermFilter, readable_code
from serials.services.numbers import SerialRefused
from serials.tables import SerialTable, TermTable

RECENT_EVENTS = 6
TOO_MANY = 429


# --- dashboard ------------------------------------------------------------------------------------


def _dashboard(request: HttpRequest) -> dict[str, Any]:
    me = signed_in(request)
    cards = selectors.lease_cards(me)
    calm = (selectors.LeaseState.UP, selectors.LeaseState.ENDED)
    is_calm = all(card.state in calm or card.is_over_quota for card in cards)
    return {
        "cards": cards,
        "events": relay_events(me)[:RECENT_EVENTS],
        "map_versions": ",".join(card.map_version for card in cards),
        "seconds": 15 if is_calm else 3,
    }


@login_required
@require_safe
def dashboard(request: HttpRequest) -> HttpResponse:
    """One glance: is it up, how long, what to paste where."""
    context = _dashboard(request)
    if not context["cards"]:
        context |= {
            "form": CodeForm(),
            "plans": selectors.public_plans(),
            "is_back": selectors.has_had_a_lease(signed_in(request)),
        }
    return render(request, "serials/dashboard.html", context)


@never_cache
@require_safe
def dashboard_live(request: HttpRequest) -> HttpResponse:
    """The parts of the dashboard that change by themselves; those with a map only if the map is another one.

    `have` lists the versions of the maps on the page. When leases came or went, or the session is over, the whole page
    is asked to load again.
    """
    if not request.user.is_authenticated:
        return HttpResponse(status=401, headers={"HX-Refresh": "true"})
    context = _dashboard(request)
    shown = request.GET.get("have", "").split(",")
    on_page = {version.partition("-")[0] for version in shown if version}
    if on_page != {str(card.lease.pk) for card in context["cards"]}:
        return HttpResponse(headers={"HX-Refresh": "true"})
    context["changed_maps"] = [card for card in context["cards"] if card.map_version not in shown]
    return render(request, "serials/dashboard_live.html", context)


# --- redeeming ------------------------------------------------------------------------------------


@login_required
@never_cache
def redeem(request: HttpRequest) -> HttpResponse:
    """First the code, then what it would do, then it is done. Nothing is kept between the steps but the form itself."""
    if request.method != "POST":
        code = readable_code(request.GET.get("code", "")[:200])
        return _ask_for_code(request, CodeForm(initial={"code": code}))
    form = CodeForm({"code": readable_code(request.POST.get("code", ""))})
    if not form.is_valid():
        return _ask_for_code(request, form)
    try:
        serial, effects = services.preview(user=signed_in(request), code=form.cleaned_data["code"], ip=current_ip())
    except (SerialRefused, RateLimited) as error:
        return _refused(request, form, error)
    is_confirmed = "confirm" in request.POST
    choice = ChoiceForm(request.POST if is_confirmed else None, effects=effects, preferred_lease=_wished_lease(request))
    if is_confirmed and choice.is_valid():
        try:
            return _activate(request, form.cleaned_data["code"], choice)
        except (SerialRefused, RateLimited) as error:
            return _refused(request, form, error)
        except PortalError as error:
            choice.add_error("choice", str(error))
    return render(request, "serials/redeem_choose.html", {"form": form, "choice": choice, "serial": serial})


def _ask_for_code(request: HttpRequest, form: CodeForm, *, status: int = 200) -> HttpResponse:
    context = {"form": form, "lease": _wished_lease(request) or ""}
    return render(request, "serials/redeem.html", context, status=status)


def _wished_lease(request: HttpRequest) -> int | None:
    """The lease whose Renew button led here. Only a wish: the service offers none that is not the user's own."""
    return id_in(request.POST.get("lease") or request.GET.get("lease") or "")


def _refused(request: HttpRequest, form: CodeForm, error: PortalError) -> HttpResponse:
    if "confirm" in request.POST and error.code == "serial_yours":
        # A double click, or the same page sent again: the first one has won already.
        messages.info(request, str(error))
        return redirect("dashboard")
    form.add_error("code", str(error))
    response = _ask_for_code(request, form, status=TOO_MANY if error.status == TOO_MANY else 200)
    if retry_after := error.extra.get("retry_after"):
        response["Retry-After"] = str(retry_after)
    return response


def _activate(request: HttpRequest, code: str, choice: ChoiceForm) -> HttpResponse:
    effect = choice.effect()
    serial, lease = services.activate(
        user=signed_in(request),
        code=code,
        how=effect.how,
        lease_id=effect.lease.pk if effect.lease else None,
        lease_name=choice.cleaned_data["name"],
        actor=signed_in(request),
        ip=current_ip(),
    )
    done = ngettext(
        "%(count)s day was added to “%(lease)s”.", "%(count)s days were added to “%(lease)s”.", serial.duration_days
    )
    messages.success(request, done % {"count": serial.duration_days, "lease": lease.name})
    if effect.leaves_quota:
        messages.info(
            request, _("The traffic quota that is running now was not reset; the added days bring their own.")
        )
    return redirect("dashboard")


# --- histories ------------------------------------------------------------------------------------


@login_required
@require_safe
def serial_history(request: HttpRequest) -> HttpResponse:
    """The serials one has redeemed."""
    found = SerialFilter(request.GET, queryset=selectors.serials_of(signed_in(request)))
    table = configured(SerialTable(found.qs), request)
    return render(request, "serials/serial_history.html", {"filter": found, "table": table})


@login_required
@require_safe
def usage_history(request: HttpRequest) -> HttpResponse:
    """Terms, what happened to the relays, where they moved, and traffic; it stays for ever."""
    me = signed_in(request)
    terms = TermFilter(request.GET, queryset=selectors.terms_of(me), prefix="terms")
    events = EventFilter(request.GET, queryset=relay_events(me), prefix="events")
    uploaded, downloaded = traffic_of(me)
    context = {
        "terms_filter": terms,
        "terms": configured(TermTable(terms.qs, prefix="terms-"), request),
        "events_filter": events,
        "events": configured(EventTable(events.qs, prefix="events-"), request),
        "moves": configured(MoveTable(moves_seen_by(me), prefix="moves-"), request),
        "uploaded": uploaded,
        "downloaded": downloaded,
    }
    return render(request, "serials/usage_history.html", context)


# --- one lease ------------------------------------------------------------------------------------


@login_required
@require_safe
def lease(request: HttpRequest, lease_id: int) -> HttpResponse:
    """Everything about one lease."""
    found = lease_for(signed_in(request), lease_id)
    card = selectors.lease_card(found, selectors.usage_of_leases([found]).get(found.pk))
    table = configured(TermTable(selectors.terms_of_lease(card.lease), exclude=("lease",)), request)
    return render(request, "serials/lease.html", {"card": card, "table": table})


@login_required
def lease_rename(request: HttpRequest, lease_id: int) -> HttpResponse:
    """Give a lease another name."""
    found = lease_for(signed_in(request), lease_id)
    form = LeaseNameForm(request.POST or None, initial={"name": found.name})
    if request.method == "POST" and form.is_valid():
        try:
            services.rename_lease(lease_id=found.pk, name=form.cleaned_data["name"], actor=signed_in(request))
        except PortalError as error:
            form.add_error("name", str(error))
        else:
            messages.success(request, _("The lease has its new name."))
            return redirect("lease", found.pk)
    return render(request, "serials/lease_rename.html", {"lease": found, "form": form})


@login_required
def lease_next_term(request: HttpRequest, lease_id: int) -> HttpResponse:
    """Give up what is left of the present term and begin the next one, after asking."""
    found = lease_for(signed_in(request), lease_id)
    present, following = services.present_and_next_term(found)
    form = NextTermForm(request.POST or None, initial={"term_id": following.pk if following else None})
    if request.method == "POST" and form.is_valid():
        try:
            wanted = form.cleaned_data["term_id"]
            begun = services.start_next_term(lease_id=found.pk, term_id=wanted, actor=signed_in(request))
        except PortalError as error:
            messages.error(request, str(error))
        else:
            fresh, same = _("The next term has begun, with a traffic quota of its own."), _("The next term has begun.")
            messages.success(request, same if begun.makes_up else fresh)
        return redirect("lease", found.pk)
    if not present or not following:
        messages.info(request, _("There is no term to come. Renew first; then the next term can begin early."))
        return redirect("lease", found.pk)
    context = {"lease": found, "form": form, "present": present, "following": following}
    context["ends_at"] = found.ends_at - (present.ends_at - now())
    return render(request, "serials/lease_next_term.html", context)


@login_required
def region_id(request: HttpRequest, lease_id: int, code: str) -> HttpResponse:
    """Choose under which number a relay stands in the map."""
    found, relay = relay_of_lease(signed_in(request), lease_id, code)
    form = RegionIdForm(request.POST or None, initial={"region_id": relay.region_id})
    if request.method == "POST" and form.is_valid():
        chosen = form.cleaned_data["region_id"]
        try:
            choose_region_id(relay_id=relay.pk, region_id=chosen, actor=signed_in(request))
        except PortalError as error:
            form.add_error("region_id", str(error))
        else:
            messages.warning(request, _("The map has changed. Where you pasted the old one, paste the new one."))
            return redirect("lease", found.pk)
    return render(request, "serials/region_id.html", {"lease": found, "relay": relay, "form": form})


@login_required
def map_url_rotate(request: HttpRequest, lease_id: int) -> HttpResponse:
    """A new secret map URL, after asking; the old one stops working."""
    found = lease_for(signed_in(request), lease_id)
    if request.method == "POST":
        rotate_map_token(group_id=found.relay_group_id, actor=signed_in(request))
        messages.success(request, _("There is a new map URL. Put it where the old one was."))
        return redirect("lease", found.pk)
    return render(request, "serials/map_url_rotate.html", {"lease": found})


@login_required
def map_url_revoke(request: HttpRequest, lease_id: int) -> HttpResponse:
    """Turn the secret map URL off, after asking."""
    found = lease_for(signed_in(request), lease_id)
    if request.method == "POST":
        revoke_map_token(group_id=found.relay_group_id, actor=signed_in(request))
        messages.success(request, _("The map URL no longer answers."))
        return redirect("lease", found.pk)
    return render(request, "serials/map_url_revoke.html", {"lease": found})
