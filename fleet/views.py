"""The two machine doors of the fleet (admission, map) and the devices page."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import datetime, timedelta

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST, require_safe

from accounts.access import signed_in
from accounts.models import User
from accounts.tables import configured
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet import door, selectors, services
from fleet.access import node_key_for
from fleet.acl.decision import Mode
from fleet.acl.versions import Policy, current_policy, listed_devices
from fleet.forms import DevicesForm, DoorLogFilter, NodeKeyFilter, PolicyForm
from fleet.models import AclConfig, AclLog
from fleet.services.acl import change_policy, networks_of, roll_back
from fleet.services.door_watch import count_error
from fleet.services.groups import note_map_fetched
from fleet.tables import DevicesTable, DoorLogTable, VersionTable

PLAIN = "text/plain; charset=utf-8"


@csrf_exempt
@require_POST
def admit(request: HttpRequest, secret: str) -> HttpResponse:
    """Answer a relay's DERPAdmitClientRequest: 200 with Allow true or false, 400 for what is no such request.

    A relay takes every answer but 200 as a refusal, so nothing a client sent may lead to another one than these.
    """
    try:
        question = door.read_request(request.read(door.BODY_LIMIT + 1))
    except door.MalformedRequest:
        return HttpResponse("not a DERPAdmitClientRequest\n", status=400, content_type=PLAIN)
    try:
        return JsonResponse({"Allow": door.admits(secret, question)})
    except Exception:
        # The relay's warden goes by what it remembers then, and operators are told.
        count_error()
        raise


@require_safe
def derp_map(request: HttpRequest, token: str) -> HttpResponse:
    """The map behind a secret URL, for Headscale to poll. Never JSON without regions, whatever happened to the lease.

    What is not a map is plain text: Headscale ignores the status, and would take any JSON for an empty map.
    """
    group = selectors.group_by_map_token(token)
    if group is None:
        return HttpResponse("no such map\n", status=404, content_type=PLAIN)
    content = selectors.derp_map_of(group)
    if content is None:
        return HttpResponse("the relay has no place yet, try again soon\n", status=503, content_type=PLAIN)
    note_map_fetched(group)
    body = json.dumps(content, indent=1)
    etag = f'"{hashlib.sha256(body.encode()).hexdigest()[:32]}"'
    if request.headers.get("If-None-Match") == etag:
        response = HttpResponse(status=304)
    else:
        response = HttpResponse(body, content_type="application/json")
    response["ETag"] = etag
    response["Cache-Control"] = "private, no-cache"
    return response


@login_required
def devices(request: HttpRequest) -> HttpResponse:
    """Who may use the customer's relays: the policy, and the listed devices; add some by pasting node keys."""
    owner = signed_in(request)
    form = DevicesForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            added = services.add_node_keys(owner=owner, lines=form.cleaned_data["lines"], actor=owner)
        except PortalError as error:
            form.add_error("lines", str(error))
        else:
            said = ngettext("%(count)s device was added.", "%(count)s devices were added.", len(added))
            messages.success(request, said % {"count": len(added)})
            return redirect("devices")
    return _devices_page(request, owner, form=form)


@login_required
@require_POST
def policy_change(request: HttpRequest) -> HttpResponse:
    """Set how the doors decide about devices that are not listed."""
    owner = signed_in(request)
    form = PolicyForm(request.POST)
    if form.is_valid():
        given = form.cleaned_data
        mode = Mode(given["mode"])
        try:
            networks = networks_of(given["networks"])
            until = now() + timedelta(hours=given["hours"]) if mode == Mode.LEARN else None
            change_policy(
                user_id=owner.pk,
                change=lambda policy: _as_asked(policy, mode, networks, until),
                reason="",
                actor=owner,
            )
        except PortalError as error:
            form.add_error("networks" if error.code == "invalid_network" else None, str(error))
        else:
            messages.success(request, _("Your relays go by this now."))
            return redirect("devices")
    return _devices_page(request, owner, policy_form=form)


def _as_asked(policy: Policy, mode: Mode, networks: tuple[str, ...], until: datetime | None) -> Policy:
    """Learning that is under way goes on to its end, unless it is begun anew after it."""
    if mode == policy.mode == Mode.LEARN and policy.learns_until and until and until <= policy.learns_until:
        until = policy.learns_until
    return replace(policy, mode=mode, networks=networks, learns_until=until)


def _devices_page(
    request: HttpRequest, owner: User, *, form: DevicesForm | None = None, policy_form: PolicyForm | None = None
) -> HttpResponse:
    policy = current_policy(owner.pk)
    if policy_form is None:
        initial = {"mode": policy.mode, "networks": "\n".join(policy.networks)} if policy else {"mode": Mode.CLOSED}
        policy_form = PolicyForm(initial=initial)
    found = NodeKeyFilter(request.GET, queryset=selectors.node_keys(owner))
    context = {
        "form": form or DevicesForm(),
        "policy": policy,
        "policy_form": policy_form,
        "table": configured(DevicesTable(found.qs), request),
        "filter": found,
    }
    return render(request, "fleet/devices.html", context)


@login_required
def door_log(request: HttpRequest) -> HttpResponse:
    """Who knocked at the customer's doors, and what they answered."""
    owner = signed_in(request)
    lines = AclLog.objects.filter(user=owner).select_related("relay")
    found = DoorLogFilter(request.GET, queryset=lines)
    names = listed_devices(owner.pk)
    table = configured(DoorLogTable(found.qs, names=names), request)
    return render(request, "fleet/door_log.html", {"table": table, "filter": found})


@login_required
def policy_history(request: HttpRequest) -> HttpResponse:
    """Every version of the customer's policy, and what changed in each."""
    owner = signed_in(request)
    versions = AclConfig.objects.filter(user=owner)
    table = configured(VersionTable(versions, before={}), request)
    shown = [row.record.version - 1 for row in table.page.object_list] if table.page else []
    table.before = {one.version: one for one in versions.filter(version__in=shown)}
    return render(request, "fleet/policy_history.html", {"table": table})


@login_required
def policy_roll_back(request: HttpRequest, version: int) -> HttpResponse:
    """Ask, then set an older version again."""
    owner = signed_in(request)
    old = get_object_or_404(AclConfig, user=owner, version=version)
    if request.method == "POST":
        made = roll_back(user_id=owner.pk, version=version, actor=owner)
        messages.success(request, _("Version %(version)s is in force.") % {"version": made.version})
        return redirect("devices")
    return render(request, "fleet/policy_roll_back.html", {"old": old})


@login_required
def device_remove(request: HttpRequest, node_key_id: int) -> HttpResponse:
    """Ask, then take a device off the list."""
    owner = signed_in(request)
    device = node_key_for(owner, node_key_id)
    if request.method == "POST":
        services.remove_node_key(node_key_id=device.pk, owner=owner, actor=owner)
        messages.success(request, _("The device was removed."))
        return redirect("devices")
    return render(request, "fleet/device_remove.html", {"device": device})
