"""`/api/server/…` and `/api/region/…`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from ninja import Field, Query, Router, Schema
from pydantic import IPvAnyAddress

from accounts.apikit import ErrorOut, Ok, PageOut, PageQuery, TokenAuth, page, reader_of
from derp_portal.lib.errors import PortalError
from fleet import selectors, services
from fleet.models import Region, Server
from fleet.words import trouble

server = Router(tags=["server"])
region = Router(tags=["region"])

REFUSALS = frozenset({401, 403, 404, 409, 422})
READ_REFUSALS = frozenset({401, 403, 404, 422})

PortNumber = Annotated[int, Field(ge=1024, le=65535)]
RelayRoom = Annotated[int, Field(ge=1, le=10_000)]


class RegionIn(Schema):
    """A place customers can wish for."""

    code: str = Field(max_length=32, examples=["hk"], description="Letters, digits and dashes; stands in derp maps.")
    name: str = Field(max_length=80, examples=["Hong Kong"])
    name_zh: str = Field("", max_length=80, examples=["香港"])
    latitude: float = Field(0, ge=-90, le=90, description="Degrees.", examples=[22.3])
    longitude: float = Field(0, ge=-180, le=180, description="Degrees.", examples=[114.2])


class RegionOut(Schema):
    """One region."""

    id: int
    code: str
    name: str
    name_zh: str
    latitude: float
    longitude: float
    servers: int = Field(description="How many servers stand there.")


class RegionPage(PageOut):
    """A part of the list, by code."""

    items: list[RegionOut]


class RegionAdded(Ok):
    """The new region."""

    region_id: int
    code: str


class ServerFields(Schema):
    """What may be said of a server when it is added and when it is changed."""

    name: str | None = Field(None, max_length=80, description="Unique; made of region and address when left out.")
    runtime: Server.Runtime | None = Field(None, description="`docker` unless said otherwise.")
    endpoint: str | None = Field(None, max_length=255, examples=["unix:///var/run/docker.sock"])
    is_enabled: bool | None = Field(None, description="Whether new relays are placed there.")
    port_first: PortNumber | None = Field(None, description="The first port relays may get.")
    port_last: PortNumber | None = None
    max_relays: RelayRoom | None = None


class ServerIn(ServerFields):
    """A host that is to run relays."""

    ip: IPvAnyAddress = Field(description="Where customers' devices connect to.", examples=["203.0.113.7"])
    region: str = Field(description="Code or name of a region.", examples=["hk"])
    region_name: str = Field(
        "", max_length=80, description="With it, a region whose code is not known yet is added under this name."
    )


class ServerChange(ServerFields):
    """What to change; fields left out stay as they are."""

    server_id: int
    ip: IPvAnyAddress | None = None
    region: str | None = None


class ServerRef(Schema):
    """Names a server."""

    server_id: int


class ServerAnswer(Ok):
    """The server the call was about."""

    server_id: int


class Traffic(Schema):
    """Bytes through all relays of a server, ever."""

    upload_bytes: int
    download_bytes: int


class ServerOut(Schema):
    """One server."""

    id: int
    name: str
    ip: str
    region: str
    region_name: str
    runtime: str
    endpoint: str
    status: str = Field(description="`healthy` or `unhealthy`")
    error_code: str
    error: str = Field(description="Why it is unhealthy, in words.")
    is_enabled: bool
    load: float = Field(description="Relays placed as a share of `max_relays`.")
    relays: int = Field(description="Relays placed there.")
    running: int = Field(description="Containers seen running.")
    max_relays: int
    port_first: int
    port_last: int
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


@region.get("/list", response={200: RegionPage, READ_REFUSALS: ErrorOut}, auth=TokenAuth("relays"))
def list_regions(request: HttpRequest, query: Query[PageQuery]) -> dict[str, Any]:
    """Every region."""
    return page(selectors.regions(), query.page, query.per_page, _show_region)


@region.post(
    "/add",
    response={200: RegionAdded, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.add_region",)),
)
def add_region(request: HttpRequest, data: RegionIn) -> dict[str, Any]:
    """Add a region, before the first server in it."""
    added = services.add_region(**data.dict(), actor=reader_of(request))
    return {"success": True, "region_id": added.pk, "code": added.code}


@server.post(
    "/add",
    response={200: ServerAnswer, REFUSALS: ErrorOut},
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
    return page(found, query.page, query.per_page, _show_server)


@server.post(
    "/update",
    response={200: ServerAnswer, REFUSALS: ErrorOut},
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
def delete_server(request: HttpRequest, data: ServerRef) -> dict[str, Any]:
    """Delete a host. One that still carries relays is refused (409 `server_in_use`)."""
    target = get_object_or_404(Server, pk=data.server_id)
    services.delete_server(server_id=target.pk, actor=reader_of(request))
    return {"success": True, "server_id": data.server_id}


def _server_fields(data: ServerIn | ServerChange) -> dict[str, Any]:
    """What was said, as `fleet.services` takes it; null counts as not said."""
    said = data.dict(exclude_none=True, exclude={"server_id", "region", "region_name"})
    return said | ({"ip": str(data.ip)} if data.ip is not None else {})


def _no_such_region(text: str) -> Region:
    known = list(selectors.regions().values_list("code", flat=True))
    raise PortalError(
        _("There is no region “%(region)s”. Add it first, or send its name as region_name.") % {"region": text},
        code="unknown_region",
        status=422,
        known=known,
    )


def _show_region(one: Region) -> dict[str, Any]:
    names = ("id", "code", "name", "name_zh", "latitude", "longitude")
    return {name: getattr(one, name) for name in names} | {"servers": one.servers_in}  # type: ignore[attr-defined]


def _show_server(one: Any) -> dict[str, Any]:
    names = (
        "id name ip runtime endpoint status error_code is_enabled load running max_relays port_first port_last "
        "hardware engine_version last_seen_at created_at updated_at"
    )
    return {name: getattr(one, name) for name in names.split()} | {
        "region": one.region.code,
        "region_name": one.region.local_name,
        "error": trouble(one.error_code),
        "relays": one.carried,
        "traffic": {"upload_bytes": one.uploaded, "download_bytes": one.downloaded},
    }
