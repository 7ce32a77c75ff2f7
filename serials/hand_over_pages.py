"""The hand-over of a lease's map to the customer's tailnet, step by step."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST, require_safe

from accounts.access import signed_in
from derp_portal.lib.errors import PortalError
from fleet.models import ControlServer, MapPush, RelayGroup
from fleet.services.certificates import switch_certificate
from fleet.services.control_servers import one_at_a_time
from fleet.services.hand_over import note_taken, preview_push, push_map, set_only_ours, undo_push
from fleet.words import outbound_words
from serials import selectors
from serials.access import lease_for, relay_of_lease
from serials.models import Lease

LOWEST_VERSIONS = (
    (gettext_lazy("Windows, macOS, Linux, FreeBSD"), "1.86", ""),
    (gettext_lazy("iOS, tvOS, Android"), "1.86", ""),
    ("Synology, QNAP", "1.86", gettext_lazy("Their own package centres lag behind: take Tailscale's package.")),
    ("OpenWrt", "1.86", gettext_lazy("Its packages lag behind: see which version you have.")),
    ("Headscale", "0.23", gettext_lazy("The clients need the versions above all the same.")),
)
"""Relays are known by the fingerprint of their certificate: clients learned that with 1.82, and well with 1.86."""


@login_required
@require_safe
def hand_over(request: HttpRequest, lease_id: int) -> HttpResponse:
    """The three ways, which one is in use, what clients it takes, and how to look whether it works."""
    lease = lease_for(signed_in(request), lease_id)
    push = MapPush.objects.filter(group=lease.relay_group_id).select_related("control_server").first()
    context = {
        "card": selectors.lease_card(lease),
        "group": lease.relay_group,
        "push": push,
        "push_trouble": outbound_words(push.error_code) if push and push.error_code else "",
        "servers": ControlServer.objects.filter(owner=lease.user_id, kind=ControlServer.Kind.TAILSCALE),
        "versions": LOWEST_VERSIONS,
    }
    return render(request, "serials/hand_over_page.html", context)


@login_required
@require_POST
def hand_over_taken(request: HttpRequest, lease_id: int) -> HttpResponse:
    """The customer has pasted the map: from now on the portal can say when it is stale."""
    lease = lease_for(signed_in(request), lease_id)
    card = selectors.lease_card(lease)
    if not card.map_digest or request.POST.get("digest") != card.map_digest:
        messages.warning(request, _("The map has changed meanwhile: copy it again."))
    else:
        note_taken(group_id=lease.relay_group_id, how=RelayGroup.Taken.PASTE, digest=card.map_digest)
        messages.success(request, _("Good. When the map changes we tell you to paste it again."))
    return redirect("hand_over", lease.pk)


@login_required
def hand_over_only_ours(request: HttpRequest, lease_id: int) -> HttpResponse:
    """Ask, then leave Tailscale's own relays out of the map, or put them back."""
    lease = lease_for(signed_in(request), lease_id)
    group = lease.relay_group
    if request.method == "POST":
        try:
            set_only_ours(group_id=group.pk, is_wanted=not group.omits_default, actor=signed_in(request))
        except PortalError as error:
            messages.error(request, str(error))
        else:
            messages.warning(request, _("The map has changed. Where you pasted the old one, paste the new one."))
        return redirect("hand_over", lease.pk)
    return render(request, "serials/hand_over_only_ours.html", {"lease": lease, "group": group})


@login_required
def hand_over_push(request: HttpRequest, lease_id: int, server_id: int) -> HttpResponse:
    """Show what a push would change in the policy file, then write it."""
    owner = signed_in(request)
    lease = lease_for(owner, lease_id)
    server = get_object_or_404(ControlServer, pk=server_id, owner=owner, kind=ControlServer.Kind.TAILSCALE)
    try:
        with one_at_a_time(owner.pk):
            if request.method == "GET":
                preview = preview_push(group=lease.relay_group, server=server)
                return render(request, "serials/hand_over_push.html", _pushing(lease, server) | {"preview": preview})
            push_map(
                group_id=lease.relay_group_id,
                server_id=server.pk,
                etag=request.POST.get("etag", ""),
                is_automatic="is_automatic" in request.POST,
                actor=owner,
            )
    except PortalError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, _("The map is in your policy file."))
    return redirect("hand_over", lease.pk)


@login_required
def hand_over_undo(request: HttpRequest, lease_id: int) -> HttpResponse:
    """Ask, then take the map out of the policy file again."""
    lease = lease_for(signed_in(request), lease_id)
    push = get_object_or_404(MapPush.objects.select_related("control_server"), group=lease.relay_group_id)
    if request.method == "POST":
        try:
            with one_at_a_time(lease.user_id):
                undo_push(group_id=lease.relay_group_id, actor=signed_in(request))
        except PortalError as error:
            messages.error(request, str(error))
        else:
            messages.success(request, _("The map was taken out of your policy file."))
        return redirect("hand_over", lease.pk)
    return render(request, "serials/hand_over_undo.html", _pushing(lease, push.control_server))


def _pushing(lease: Lease, server: ControlServer) -> dict[str, object]:
    return {"lease": lease, "server": server}


@login_required
def certificate_switch(request: HttpRequest, lease_id: int, code: str) -> HttpResponse:
    """Ask, then put a relay's announced certificate in force now."""
    lease, relay = relay_of_lease(signed_in(request), lease_id, code)
    if request.method == "POST":
        if switch_certificate(relay_id=relay.pk, actor=signed_in(request)):
            messages.warning(request, _("The map has changed. Where you pasted the old one, paste the new one."))
        else:
            messages.info(request, _("There is no new certificate to switch to."))
        return redirect("hand_over", lease.pk)
    return render(request, "serials/certificate_switch.html", {"lease": lease, "relay": relay})
