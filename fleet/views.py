"""The two machine doors of the fleet (admission, map) and the devices page."""

from __future__ import annotations

import hashlib
import json

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST, require_safe

from accounts.access import signed_in
from accounts.tables import configured
from derp_portal.lib.errors import PortalError
from fleet import door, selectors, services
from fleet.access import node_key_for
from fleet.forms import DevicesForm, NodeKeyFilter
from fleet.services.groups import note_map_fetched
from fleet.tables import DevicesTable

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
    return JsonResponse({"Allow": door.admits(secret, question)})


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
    """List the customer's devices; add some by pasting node keys."""
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
    found = NodeKeyFilter(request.GET, queryset=selectors.node_keys(owner))
    table = configured(DevicesTable(found.qs), request)
    return render(request, "fleet/devices.html", {"form": form, "table": table, "filter": found})


@login_required
def device_remove(request: HttpRequest, node_key_id: int) -> HttpResponse:
    """Ask, then take a device off the list."""
    owner = signed_in(request)
    device = node_key_for(owner, node_key_id)
    if request.method == "POST":
        services.remove_node_key(node_key_id=device.pk, owner=owner, actor=owner)
        messages.success(request, _("The device was removed."))
        return redirect("devices")
    is_last = selectors.node_keys(owner).count() == 1
    return render(request, "fleet/device_remove.html", {"device": device, "is_last": is_last})
