"""What of relays needs leases: the derp map of one, and releasing a relay that none wants any more."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from ninja import Field, Query, Router, Schema

from accounts.apikit import ErrorOut, Id, Ok, TokenAuth, reader_of
from derp_portal.lib.errors import PortalError
from fleet.api import REFUSALS, ContainerRef, whose
from fleet.derp.map import headscale_yaml, policy_snippet
from fleet.models import Relay, RelayGroup
from fleet.selectors import map_of_nodes, map_url_of, nodes_of, omits_default
from serials import services
from serials.selectors import groups_with_a_map, leases_in_full

acl = Router(tags=["acl"])
release = Router(tags=["container"])


class DerpMapQuery(Schema):
    """Which map; needed by those who have several. Relays by hand have a group and no lease."""

    lease_id: Id | None = None
    group_id: Id | None = Field(None, description="The `group_id` of `/api/container/list`.")


class DerpMapOut(Ok):
    """One map in three spellings, and the secret address under which Headscale may poll it."""

    lease_id: int | None
    group_id: int
    derp_map: dict[str, Any] = Field(description="As Tailscale reads it, `Regions` by id.")
    map_url: str = Field(description="Empty while it is turned off. Whoever knows it can read the map.")
    headscale_yaml: str = Field(description="A file for Headscale's `derp.paths`.")
    policy: str = Field(description="The member to paste into a Tailscale policy file.")


class ReleaseOut(Ok):
    """The relay that is gone."""

    container_id: int


@acl.get(
    "/derpmap",
    response={200: DerpMapOut, REFUSALS | {400, 503}: ErrorOut},
    auth=TokenAuth("relays", everybody="fleet.change_relaygroup"),
)
def derp_map_of_lease(request: HttpRequest, query: Query[DerpMapQuery]) -> dict[str, Any]:
    """The map that makes Tailscale or Headscale use your relays. With several leases, say which."""
    group = _group(request, query)
    nodes = nodes_of(group)
    if not nodes:
        raise PortalError(
            _("The relay has no place yet. We are on it; ask again soon."), code="no_place", status=503, retry_after=10
        )
    lease = getattr(group, "lease", None)
    return {
        "success": True,
        "lease_id": lease.pk if lease else None,
        "group_id": group.pk,
        "derp_map": map_of_nodes(group, nodes),
        "map_url": map_url_of(group),
        "headscale_yaml": headscale_yaml(nodes),
        "policy": policy_snippet(nodes, omits_default(group, nodes)),
    }


@release.post(
    "/release",
    response={200: ReleaseOut, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.change_relay",)),
)
def release_container(request: HttpRequest, data: ContainerRef) -> dict[str, Any]:
    """Let a relay go for good: container, port and identity. One of a running lease is refused (`lease_active`)."""
    target = get_object_or_404(Relay, pk=data.container_id)
    services.release_relay(relay_id=target.pk, actor=reader_of(request))
    return {"success": True, "container_id": target.pk}


def _group(request: HttpRequest, query: DerpMapQuery) -> RelayGroup:
    """The group that was named or the only one there is. Raises Http404 for a stranger's."""
    reader = reader_of(request)
    if query.lease_id is not None:
        found = get_object_or_404(leases_in_full(whose(request, None)), pk=query.lease_id).relay_group
    elif query.group_id is not None:
        owner = whose(request, None)
        groups = RelayGroup.objects.filter(owner=owner) if owner else RelayGroup.objects.all()
        found = get_object_or_404(groups.select_related("lease"), pk=query.group_id)
    else:
        found = _only_one(groups_with_a_map(reader))
    if found.released_at:
        raise PortalError(_("These relays have been released; they have no map any more."), code="gone", status=410)
    return found


def _only_one(groups: list[RelayGroup]) -> RelayGroup:
    if not groups:
        raise PortalError(_("You have no relay yet. Redeem a serial number first."), code="no_relays", status=404)
    if len(groups) > 1:
        leases = [(group, getattr(group, "lease", None)) for group in groups]
        choices = [
            {"lease_id": lease and lease.pk, "group_id": group.pk, "name": str(lease or group)}
            for group, lease in leases
        ]
        raise PortalError(
            _("You have several leases, each with a map of its own. Say which one with lease_id."),
            code="lease_id_required",
            choices=choices,
        )
    return groups[0]
