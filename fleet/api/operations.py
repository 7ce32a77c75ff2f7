"""`/api/server/…`: what is done with a host: testing, draining, a new address, port checks, enrolment, its timeline."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from ninja import Field, Query, Schema
from pydantic import IPvAnyAddress

from accounts.apikit import ErrorOut, Id, Ok, PageOut, PageQuery, TokenAuth, page, reader_of
from fleet import selectors, services
from fleet.enrolment.script import ENGINE_PORT, ScriptOptions
from fleet.models import Server, ServerEvent
from fleet.services.authority import authority, enrolment_script
from fleet.words import advice, trouble

from .common import (
    HOST_REFUSALS,
    READ_REFUSALS,
    REFUSALS,
    PortNumber,
    ServerAnswer,
    ServerRef,
    host_failures_in_words,
)
from .hosts import server

MAY_SEE = TokenAuth("staff", permissions=("fleet.view_server",))
MAY_CHANGE = TokenAuth("staff", permissions=("fleet.change_server",))

Words = Annotated[str, Field(max_length=255)]


class ServerTested(ServerAnswer):
    """What the host told of itself."""

    message: str
    engine: str
    version: str
    engine_id: str
    cores: int
    memory_bytes: int
    hardware: dict[str, str]
    clock: datetime | None


class ServerDrained(ServerAnswer):
    """A drain has begun, or goes on."""

    failover_id: int = Field(description="Its progress is at /api/ha/failovers/{id}.")
    message: str


class NewAddress(ServerRef):
    """The server's new address."""

    ip: IPvAnyAddress


class AddressChanged(ServerAnswer):
    """Every map names the new address now."""

    ip: str
    relays: int = Field(description="How many relays' maps have changed.")


class CheckPorts(ServerRef):
    """Which server's ports, and from where."""

    from_id: Id | None = Field(None, description="The server that tries; the least loaded other one when left out.")


class PortsChecked(ServerAnswer):
    """What came of it. Errors are the network's own words."""

    message: str
    port: int
    seen_from_id: int
    tcp_ok: bool
    udp_ok: bool
    tcp_error: str
    udp_error: str


class ServerEventOut(Schema):
    """A line of a server's timeline."""

    id: int
    server_id: int
    event: str
    message: str = Field(description="The event in words.")
    detail: str
    created_at: datetime


class ServerEventPage(PageOut):
    """A part of the timeline, newest first."""

    items: list[ServerEventOut]


class EventQuery(PageQuery):
    """Filters of the timeline."""

    server_id: Id | None = None
    event: ServerEvent.Kind | None = None


class HealthOut(Schema):
    """How sure the portal is of a host."""

    server_id: int
    name: str
    region: str
    status: str = Field(description="`healthy` or `unhealthy`")
    phase: str = Field(description="`healthy`, `suspect`, `unhealthy` (lost) or `recovered`")
    phase_since: datetime | None
    failed_looks: int = Field(description="Looks at its engine that failed in a row.")
    error_code: str
    error: str
    advice: str
    relays: int
    running: int
    last_seen_at: datetime | None


class HealthPage(PageOut):
    """A part of the list, by name."""

    items: list[HealthOut]


class EnrolIn(Schema):
    """What the host that is to be prepared is like."""

    address: Words = Field(description="Where the portal reaches it: an IP address or a DNS name.")
    name: Words = ""
    region: Words = ""
    port_first: PortNumber = 21000
    port_last: PortNumber = 21999
    engine_port: PortNumber = ENGINE_PORT
    portal_addresses: list[Words] = Field(
        [], max_length=100, description="Addresses or networks the portal connects from; nobody else gets in."
    )
    mirrors: list[Words] = Field([], max_length=20, description="Docker registry mirrors.")
    apt_mirror: Words = Field("", description="The distribution's folder on a mirror.")
    transport: Literal["tls", "ssh"] = "tls"
    has_firewall: bool = Field(True, description="false leaves the firewall to yourself.")


class EnrolScript(Ok):
    """The script. For tls it holds the host's private key: do not keep it where others can read it."""

    script: str
    endpoint: str = Field(description="The engine address to add the server with.")


class SshKey(Ok):
    """What goes into `~/.ssh/authorized_keys` of a host reached over ssh."""

    public_key: str


@server.post("/test", response={200: ServerTested, HOST_REFUSALS: ErrorOut}, auth=MAY_CHANGE)
def test_server(request: HttpRequest, data: ServerRef) -> dict[str, Any]:
    """Test the connection now. A failure says in words what is wrong; 502 it could not be asked, 409 it refused."""
    target = get_object_or_404(Server, pk=data.server_id)
    with host_failures_in_words():
        info = services.look_at_server(server_id=target.pk)
    named = {"engine": info.engine, "version": info.version}
    return named | {
        "success": True,
        "server_id": target.pk,
        "message": _("The server answers and can be used: %(engine)s %(version)s.") % named,
        "engine_id": info.engine_id,
        "cores": info.cores,
        "memory_bytes": info.memory_bytes,
        "hardware": info.hardware,
        "clock": info.clock,
    }


@server.post("/drain", response={200: ServerDrained, REFUSALS: ErrorOut}, auth=MAY_CHANGE)
def drain(request: HttpRequest, data: ServerRef) -> dict[str, Any]:
    """Take no more relays there and move off all there are, a few at a time. Draining twice is fine."""
    target = get_object_or_404(Server, pk=data.server_id)
    begun = services.drain_server(server_id=target.pk, actor=reader_of(request))
    carried = target.relays.filter(released_at=None).count()
    message = ngettext("%(count)s relay is moving away.", "%(count)s relays are moving away.", carried)
    return {
        "success": True,
        "server_id": target.pk,
        "failover_id": begun.pk,
        "message": message % {"count": carried} if carried else _("The server carries no relay."),
    }


@server.post("/undrain", response={200: ServerAnswer, REFUSALS: ErrorOut}, auth=MAY_CHANGE)
def undrain(request: HttpRequest, data: ServerRef) -> dict[str, Any]:
    """Let the server take relays again; what has not left yet stays."""
    target = get_object_or_404(Server, pk=data.server_id)
    services.end_drain(server_id=target.pk, actor=reader_of(request))
    return {"success": True, "server_id": target.pk}


@server.post("/enable", response={200: ServerAnswer, REFUSALS: ErrorOut}, auth=MAY_CHANGE)
def enable(request: HttpRequest, data: ServerRef) -> dict[str, Any]:
    """Let new relays be placed there."""
    return _set_enabled(request, data, is_enabled=True)


@server.post("/disable", response={200: ServerAnswer, REFUSALS: ErrorOut}, auth=MAY_CHANGE)
def disable(request: HttpRequest, data: ServerRef) -> dict[str, Any]:
    """Place no new relays there; those that are there stay."""
    return _set_enabled(request, data, is_enabled=False)


def _set_enabled(request: HttpRequest, data: ServerRef, *, is_enabled: bool) -> dict[str, Any]:
    target = get_object_or_404(Server, pk=data.server_id)
    if target.is_enabled != is_enabled:
        services.update_server(server_id=target.pk, is_enabled=is_enabled, actor=reader_of(request))
    return {"success": True, "server_id": target.pk}


@server.post("/address", response={200: AddressChanged, REFUSALS | {400}: ErrorOut}, auth=MAY_CHANGE)
def change_address(request: HttpRequest, data: NewAddress) -> dict[str, Any]:
    """The host has another address: every map names it from now on, and owners who pasted theirs are told."""
    target = get_object_or_404(Server, pk=data.server_id)
    ip, changed = str(data.ip), 0
    if ip != target.ip:
        services.update_server(server_id=target.pk, ip=ip, actor=reader_of(request))
        changed = target.relays.filter(released_at=None).count()
    return {"success": True, "server_id": target.pk, "ip": ip, "relays": changed}


@server.post("/check-ports", response={200: PortsChecked, HOST_REFUSALS: ErrorOut}, auth=MAY_CHANGE)
def check_ports(request: HttpRequest, data: CheckPorts) -> dict[str, Any]:
    """Try a free port of the server's range from another server, over TCP and UDP. Takes up to half a minute."""
    target = get_object_or_404(Server, pk=data.server_id)
    if data.from_id is not None:
        get_object_or_404(Server, pk=data.from_id)
    with host_failures_in_words():
        found = services.check_ports(server_id=target.pk, from_id=data.from_id, actor=reader_of(request))
    named = {"port": found.port, "server": found.seen_from.name}
    if found.tcp_ok and found.udp_ok:
        message = _("Port %(port)s can be reached from %(server)s over TCP and UDP.") % named
    else:
        message = (
            _(
                "Port %(port)s cannot be reached from %(server)s over TCP, UDP or both. Open the server's port range "
                "in its firewall and in its provider's security group."
            )
            % named
        )
    return {
        "success": True,
        "server_id": target.pk,
        "message": message,
        "port": found.port,
        "seen_from_id": found.seen_from.pk,
        "tcp_ok": found.tcp_ok,
        "udp_ok": found.udp_ok,
        "tcp_error": found.tcp_error,
        "udp_error": found.udp_error,
    }


@server.get("/events", response={200: ServerEventPage, READ_REFUSALS: ErrorOut}, auth=MAY_SEE)
def list_events(request: HttpRequest, query: Query[EventQuery]) -> dict[str, Any]:
    """The timeline of one server or of all: each change of phase, and what operators did."""
    found = ServerEvent.objects.all()
    if query.server_id is not None:
        found = found.filter(server=get_object_or_404(Server, pk=query.server_id))
    if query.event:
        found = found.filter(kind=query.event)
    return page(found, query.page, query.per_page, _show_event)


@server.get("/health", response={200: HealthPage, READ_REFUSALS: ErrorOut}, auth=MAY_SEE)
def health(request: HttpRequest, query: Query[PageQuery]) -> dict[str, Any]:
    """Every server's state, and why."""
    return page(selectors.servers(), query.page, query.per_page, _show_health)


@server.post(
    "/enroll-script",
    response={200: EnrolScript, REFUSALS | {400}: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.add_server",)),
)
def enroll_script(request: HttpRequest, data: EnrolIn) -> dict[str, Any]:
    """A shell script, to be read and then run as root, that prepares a fresh Debian or Ubuntu host."""
    options: dict[str, Any] = {
        "name": data.name,
        "region": data.region,
        "ports": (data.port_first, data.port_last),
        "engine_port": data.engine_port,
        "portal_addresses": tuple(data.portal_addresses),
        "mirrors": tuple(data.mirrors),
        "apt_mirror": data.apt_mirror,
        "transport": data.transport,
        "has_firewall": data.has_firewall,
    }
    script = enrolment_script(address=data.address, actor=reader_of(request), **options)
    return {"success": True, "script": script, "endpoint": ScriptOptions(data.address, **options).endpoint}


@server.get("/ssh-key", response={200: SshKey, READ_REFUSALS: ErrorOut}, auth=MAY_SEE)
def ssh_key(request: HttpRequest) -> dict[str, Any]:
    """The portal's public key."""
    return {"success": True, "public_key": authority().ssh_public_key}


def _show_event(event: ServerEvent) -> dict[str, Any]:
    is_failure = event.kind in (ServerEvent.Kind.SUSPECT, ServerEvent.Kind.UNHEALTHY)
    return {
        "id": event.pk,
        "server_id": event.server_id,
        "event": event.kind,
        "message": event.get_kind_display(),
        "detail": trouble(event.detail) if is_failure else event.detail,
        "created_at": event.created_at,
    }


def _show_health(one: Any) -> dict[str, Any]:
    names = "name status phase phase_since failed_looks error_code running last_seen_at"
    return {name: getattr(one, name) for name in names.split()} | {
        "server_id": one.pk,
        "region": one.region.code,
        "error": trouble(one.error_code),
        "advice": advice(one.error_code),
        "relays": one.carried,
    }
