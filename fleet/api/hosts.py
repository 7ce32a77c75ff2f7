"""`/api/server/…`: adding, listing, changing and deleting hosts. What is done with one is in `operations`."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, NoReturn

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from ninja import Field, Query, Router, Schema
from pydantic import IPvAnyAddress

from accounts.apikit import ErrorOut, Id, PageOut, PageQuery, TokenAuth, page, reader_of
from derp_portal.lib.errors import PortalError
from fleet import selectors, services
from fleet.models import Server
from fleet.words import advice, trouble

from .common import READ_REFUSALS, REFUSALS, PortNumber, ServerAnswer, ServerRef

server = Router(tags=["server"])

CLEARABLE = frozenset(
    {
        "tls_ca", "tls_certificate", "tls_key", "uplink_mbps", "monthly_cost", "provider_renews_on", "allowance_bytes",
    }
)  # fmt: skip
"""For these null says "none"; for all others it is as if they had not been sent."""

RelayRoom = Annotated[int, Field(ge=1, le=10_000)]
Count32 = Annotated[int, Field(ge=0, le=2**31 - 1)]
Count64 = Annotated[int, Field(ge=0, le=2**63 - 1)]
Pem = Annotated[str, Field(max_length=50_000)]


class ServerFields(Schema):
    """What may be said of a server when it is added and when it is changed."""

    name: str | None = Field(None, max_length=80, description="Unique; made of region and address when left out.")
    runtime: Server.Runtime | None = Field(None, description="`docker` unless said otherwise.")
    endpoint: str | None = Field(
        None,
        max_length=255,
        examples=["unix:///var/run/docker.sock", "tcp://203.0.113.7:2376", "ssh://derp-portal@203.0.113.7"],
    )
    tls_ca: Pem | None = Field(
        None,
        description="PEM of the authority that signed a tcp:// engine's certificate; with the two below, or none of "
        "the three: then the portal's own authority is used. Kept encrypted and never shown again.",
    )
    tls_certificate: Pem | None = Field(None, description="PEM of the portal's client certificate for that engine.")
    tls_key: Pem | None = Field(None, description="PEM of its key, without a password.")
    ssh_host_key: str | None = Field(
        None, max_length=2000, description="Kept at the first connection; send an empty one after a reinstallation."
    )
    is_enabled: bool | None = Field(None, description="Whether new relays are placed there.")
    port_first: PortNumber | None = Field(None, description="The first port relays may get.")
    port_last: PortNumber | None = None
    max_relays: RelayRoom | None = None
    uplink_mbps: Count32 | None = Field(None, description="Mbit/s, considered in placement; null: not considered.")
    provider: str | None = Field(None, max_length=80)
    monthly_cost: Count64 | None = Field(None, description="In the currency's smallest unit.", examples=[2900])
    cost_currency: str | None = Field(None, max_length=3, examples=["CNY"])
    provider_renews_on: date | None = Field(None, description="Operators are reminded a week before.")
    billed_direction: Server.BilledDirection | None = Field(None, description="What the provider counts.")
    allowance_bytes: Count64 | None = Field(None, description="Monthly traffic; null: no limit.")
    allowance_reset_day: Annotated[int, Field(ge=1, le=31)] | None = None


class ServerIn(ServerFields):
    """A host that is to run relays."""

    ip: IPvAnyAddress = Field(description="Where customers' devices connect to.", examples=["203.0.113.7"])
    region: str = Field(description="Code or name of a region.", examples=["hk"])
    region_name: str = Field(
        "", max_length=80, description="With it, a region whose code is not known yet is added under this name."
    )


class ServerChange(ServerFields):
    """What to change; fields left out stay as they are."""

    server_id: Id
    ip: IPvAnyAddress | None = None
    region: str | None = None


class ServerDelete(ServerRef):
    """Names the server to delete."""

    gone_for_good: bool = Field(
        False, description="An unhealthy host will never answer again: what may still run there is given up."
    )


class Traffic(Schema):
    """Bytes through all relays of a server, ever."""

    upload_bytes: int
    download_bytes: int


class ServerOut(Schema):
    """One server. Its credentials are never shown."""

    id: int
    name: str
    ip: str
    region: str
    region_name: str
    runtime: str
    endpoint: str
    engine_id: str = Field(description="The engine's own; empty until it was reached.")
    has_certificates: bool = Field(description="Whether it has certificates of its own, not the portal's.")
    status: str = Field(description="`healthy` or `unhealthy`")
    phase: str = Field(description="`healthy`, `suspect`, `unhealthy` (lost) or `recovered`")
    phase_since: datetime | None
    error_code: str
    error: str = Field(description="Why it is unhealthy, in words.")
    advice: str = Field(description="What can be done about it.")
    is_enabled: bool
    is_draining: bool
    load: float = Field(description="Relays placed as a share of `max_relays`.")
    relays: int = Field(description="Relays placed there.")
    running: int = Field(description="Containers seen running.")
    relay_images: dict[str, int] = Field(description="How many of its relays run which image.")
    max_relays: int
    port_first: int
    port_last: int
    uplink_mbps: int | None
    provider: str
    monthly_cost: int | None
    cost_currency: str
    provider_renews_on: date | None
    billed_direction: str
    allowance_bytes: int | None
    allowance_used_bytes: int
    allowance_reset_day: int
    traffic: Traffic
    hardware: dict[str, Any]
    engine_version: str
    last_seen_at: datetime | None
    created_at: datetime
    updated_at: datetime


class ServerPage(PageOut):
    """A part of the list, by name."""

    items: list[ServerOut]


class ServerQuery(PageQuery):
    """Filters of the list."""

    region: str = Field("", description="Code of a region.")
    status: Server.Status | None = None
    phase: Server.Phase | None = None


@server.post(
    "/add",
    response={200: ServerAnswer, REFUSALS | {400}: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.add_region", "fleet.add_server")),
)
def add_server(request: HttpRequest, data: ServerIn) -> dict[str, Any]:
    """Add a host. Relays are placed there as soon as its engine answers."""
    actor = reader_of(request)
    fields = _server_fields(data)
    found = selectors.region_named(data.region)
    if found is None and data.region_name:
        found = services.add_region(code=data.region, name=data.region_name, actor=actor)
    added = services.add_server(**fields, region=found or _no_such_region(data.region), actor=actor)
    return {"success": True, "server_id": added.pk}


@server.get(
    "/list",
    response={200: ServerPage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.view_server",)),
)
def list_servers(request: HttpRequest, query: Query[ServerQuery]) -> dict[str, Any]:
    """Every server with status, load, traffic and hardware."""
    found = selectors.servers()
    if query.region:
        found = found.filter(region__code=query.region)
    if query.status:
        found = found.filter(status=query.status)
    if query.phase:
        found = found.filter(phase=query.phase)
    images = selectors.images_by_server()
    return page(found, query.page, query.per_page, lambda one: _show_server(one, images.get(one.pk, {})))


@server.post(
    "/update",
    response={200: ServerAnswer, REFUSALS | {400}: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.change_server",)),
)
def update_server(request: HttpRequest, data: ServerChange) -> dict[str, Any]:
    """Change a host. A new address changes its customers' maps at once."""
    target = get_object_or_404(Server, pk=data.server_id)
    changes = _server_fields(data)
    if data.region is not None:
        changes["region"] = selectors.region_named(data.region) or _no_such_region(data.region)
    services.update_server(server_id=target.pk, **changes, actor=reader_of(request))
    return {"success": True, "server_id": target.pk}


@server.post(
    "/delete",
    response={200: ServerAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.delete_server",)),
)
def delete_server(request: HttpRequest, data: ServerDelete) -> dict[str, Any]:
    """Delete a host. One that still carries relays, or may run what left it, is refused (409 `server_in_use`)."""
    target = get_object_or_404(Server, pk=data.server_id)
    services.delete_server(server_id=target.pk, is_gone_for_good=data.gone_for_good, actor=reader_of(request))
    return {"success": True, "server_id": data.server_id}


def _server_fields(data: ServerIn | ServerChange) -> dict[str, Any]:
    """What was said, as `fleet.services` takes it."""
    sent = data.dict(exclude_unset=True, exclude={"server_id", "region", "region_name"})
    said = {name: value for name, value in sent.items() if value is not None or name in CLEARABLE}
    return said | ({"ip": str(data.ip)} if data.ip is not None else {})


def _no_such_region(text: str) -> NoReturn:
    known = list(selectors.regions().values_list("code", flat=True))
    raise PortalError(
        _("There is no region “%(region)s”. Add it first, or send its name as region_name.") % {"region": text},
        code="unknown_region",
        status=422,
        known=known,
    )


def _show_server(one: Any, images: dict[str, int]) -> dict[str, Any]:
    names = (
        "id name ip runtime endpoint engine_id status phase phase_since error_code is_enabled is_draining load running "
        "max_relays port_first port_last uplink_mbps provider monthly_cost cost_currency provider_renews_on "
        "billed_direction allowance_bytes allowance_used_bytes allowance_reset_day hardware engine_version "
        "last_seen_at created_at updated_at"
    )
    return {name: getattr(one, name) for name in names.split()} | {
        "region": one.region.code,
        "region_name": one.region.local_name,
        "error": trouble(one.error_code),
        "advice": advice(one.error_code),
        "has_certificates": bool(one.tls_key),
        "relays": one.carried,
        "relay_images": images,
        "traffic": {"upload_bytes": one.uploaded, "download_bytes": one.downloaded},
    }
