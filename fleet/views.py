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
from fleet.acl.knocks import knock_of
from fleet.acl.versions import Policy, current_policy, listed_devices
from fleet.forms import ControlServerForm, DevicesForm, DoorLogFilter, NodeKeyFilter, PolicyForm
from fleet.models import AclConfig, AclLog, ControlServer, Knock
from fleet.services.acl import change_policy, check_delegate, networks_of, roll_back
from fleet.services.control_servers import add_control_server, one_at_a_time, remove_control_server, sync
from fleet.services.devices import approve_knock, dismiss_knock
from fleet.services.door_watch import count_error
from fleet.services.groups import note_map_fetched
from fleet.tables import DevicesTable, DoorLogTable, KnockTable, VersionTable
from fleet.words import outbound_words

PLAIN = "text/plain; charset=utf-8"
FIELD_OF = {"invalid_network": "networks", "invalid_url": "delegate_url", "private_address": "delegate_url"}


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
            if mode == Mode.DELEGATE:
                check_delegate(given["delegate_url"])
            until = now() + timedelta(hours=given["hours"] or 24) if mode == Mode.LEARN else None
            change_policy(
                user_id=owner.pk,
                change=lambda policy: _as_asked(policy, mode, networks, until, given["delegate_url"]),
                reason="",
                actor=owner,
            )
        except PortalError as error:
            form.add_error(FIELD_OF.get(error.code), str(error))
        else:
            messages.success(request, _("Your relays go by this now."))
            return redirect("devices")
    return _devices_page(request, owner, policy_form=form)


def _as_asked(
    policy: Policy, mode: Mode, networks: tuple[str, ...], until: datetime | None, delegate_url: str
) -> Policy:
    """Learning that is under way goes on to its end, unless it is begun anew after it."""
    if mode == policy.mode == Mode.LEARN and policy.learns_until and until and until <= policy.learns_until:
        until = policy.learns_until
    return replace(policy, mode=mode, networks=networks, learns_until=until, delegate_url=delegate_url.strip())


def _devices_page(
    request: HttpRequest, owner: User, *, form: DevicesForm | None = None, policy_form: PolicyForm | None = None
) -> HttpResponse:
    policy = current_policy(owner.pk)
    if policy_form is None:
        initial = (
            {"mode": policy.mode, "networks": "\n".join(policy.networks), "delegate_url": policy.delegate_url}
            if policy
            else {"mode": Mode.CLOSED}
        )
        policy_form = PolicyForm(initial=initial)
    knocks = Knock.objects.filter(user=owner, dismissed_at=None)
    found = NodeKeyFilter(request.GET, queryset=selectors.node_keys(owner))
    context = {
        "form": form or DevicesForm(),
        "policy": policy,
        "policy_form": policy_form,
        "fails_open": not selectors.live_groups(owner).filter(fails_open=False).exists(),
        "table": configured(DevicesTable(found.qs), request),
        "filter": found,
        "knocks": configured(KnockTable(knocks), request) if knocks.exists() else None,
    }
    return render(request, "fleet/devices.html", context)


@login_required
def door_log(request: HttpRequest) -> HttpResponse:
    """Who knocked at the customer's doors, and what they answered."""
    owner = signed_in(request)
    lines = AclLog.objects.filter(user=owner).select_related("relay")
    found = DoorLogFilter(request.GET, queryset=lines, owner=owner)
    names = listed_devices(owner.pk)
    table = configured(DoorLogTable(found.qs, names=names), request, is_long=True)
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


def knock_approve(request: HttpRequest, tap: str) -> HttpResponse:
    """The link in a knock's mail: one tap lists the device. Whoever has the mail may; looking at it changes nothing."""
    knock = knock_of(tap)
    if knock is None:
        return render(request, "fleet/knock_done.html", status=404)
    if request.method == "POST":
        device = approve_knock(knock_id=knock.pk, owner=knock.user, name=request.POST.get("name", ""))
        return render(request, "fleet/knock_done.html", {"device": device})
    return render(request, "fleet/knock_approve.html", {"knock": knock})


@login_required
@require_POST
def knock_answer(request: HttpRequest, knock_id: int) -> HttpResponse:
    """List a device that knocked, or put it aside."""
    owner = signed_in(request)
    knock = get_object_or_404(Knock, pk=knock_id, user=owner)
    try:
        if request.POST.get("answer") == "approve":
            approve_knock(knock_id=knock.pk, owner=owner)
            messages.success(request, _("The device is on your list."))
        else:
            dismiss_knock(knock_id=knock.pk, owner=owner)
            messages.success(request, _("The device stays outside."))
    except PortalError as error:
        messages.error(request, str(error))
    return redirect("devices")


@login_required
def control_servers(request: HttpRequest) -> HttpResponse:
    """The customer's control servers, and a form to connect one."""
    owner = signed_in(request)
    form = ControlServerForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        given = form.cleaned_data
        try:
            with one_at_a_time(owner.pk):
                add_control_server(
                    owner=owner,
                    kind=ControlServer.Kind(given["kind"]),
                    credential=given["credential"],
                    address=given["address"],
                    tailnet=given["tailnet"],
                    client_id=given["client_id"],
                )
        except PortalError as error:
            form.add_error(None, str(error))
        else:
            messages.success(request, _("Connected. Your list of devices follows it from now on."))
            return redirect("control_servers")
    connected = [
        (server, outbound_words(server.error_code) if server.error_code else "")
        for server in ControlServer.objects.filter(owner=owner).defer("credential")
    ]
    return render(request, "fleet/control_servers.html", {"connected": connected, "form": form})


@login_required
@require_POST
def control_server_sync(request: HttpRequest, server_id: int) -> HttpResponse:
    """Ask one now."""
    server = get_object_or_404(ControlServer, pk=server_id, owner=signed_in(request))
    try:
        with one_at_a_time(server.owner_id):
            sync(server_id=server.pk, at_once=True)
    except PortalError as error:
        messages.error(request, str(error))
        return redirect("control_servers")
    server.refresh_from_db()
    if server.error_code:
        messages.error(request, outbound_words(server.error_code))
    else:
        messages.success(request, _("Your list of devices is up to date."))
    return redirect("control_servers")


@login_required
def control_server_remove(request: HttpRequest, server_id: int) -> HttpResponse:
    """Ask, then disconnect one."""
    owner = signed_in(request)
    server = get_object_or_404(ControlServer, pk=server_id, owner=owner)
    if request.method == "POST":
        remove_control_server(server_id=server.pk, owner=owner)
        messages.success(request, _("It is disconnected."))
        return redirect("control_servers")
    return render(request, "fleet/control_server_remove.html", {"server": server})
