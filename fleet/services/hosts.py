"""Servers: adding, changing, looking at and deleting them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop, ngettext

from accounts.models import User
from accounts.services import record
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet.models import Move, MoveReason, Region, Server, ServerEvent, Wanted
from fleet.runtimes.base import Rejected, RuntimeFailure, TlsCredentials
from fleet.runtimes.docker import Endpoint, check_tls
from fleet.words import trouble

from .enrolment import look_at_server
from .moves import give_up_moves
from .phases import server_event
from .wake import wake_server

CREDENTIALS = ("tls_ca", "tls_certificate", "tls_key")
"""What a TLS engine of the operator's own wants; all or none. Kept encrypted, and never shown again."""

CHANGEABLE = (
    "name",
    "ip",
    "region",
    "runtime",
    "endpoint",
    *CREDENTIALS,
    "ssh_host_key",
    "is_enabled",
    "port_first",
    "port_last",
    "max_relays",
    "uplink_mbps",
    "provider",
    "monthly_cost",
    "cost_currency",
    "provider_renews_on",
    "billed_direction",
    "allowance_bytes",
    "allowance_reset_day",
)


def add_region(
    *, code: str, name: str, name_zh: str = "", latitude: float = 0, longitude: float = 0, actor: User | None
) -> Region:
    """Add a place customers can wish for. Degrees. Raises ValidationError, PortalError `region_exists`."""
    region = Region(code=code, name=name, name_zh=name_zh, latitude=latitude, longitude=longitude)
    region.full_clean(validate_unique=False)
    try:
        with transaction.atomic():
            region.save()
            record(actor=actor, event="region.added", target=region)
    except IntegrityError as error:
        raise PortalError(_("There is a region of that code already."), code="region_exists", status=409) from error
    return region


def add_server(*, actor: User | None, **fields: Any) -> Server:
    """Add a host. `fields` are those in CHANGEABLE; the name may be left out.

    A Docker host gets relays once it has been reached and is found to be ours. Raises ValidationError when a value is
    wrong, PortalError `server_exists` when the name is taken, `bad_credentials` or another code of `fleet.words`
    when the address or the certificates cannot be right.
    """
    fields.setdefault("name", f"{fields['region'].code} {fields['ip']}")
    server = Server(**fields)
    server.full_clean(validate_unique=False, validate_constraints=False)
    _check_ports(server)
    _check_reach(server)
    if server.runtime == Server.Runtime.DOCKER:
        server.phase, server.status = Server.Phase.SUSPECT, Server.Status.UNHEALTHY
    try:
        with transaction.atomic():
            server.save()
            record(actor=actor, event="server.added", target=server, ip=None, address=server.ip)
            server_event(server, ServerEvent.Kind.ADDED)
            wake_server(server.pk)
            wake_server(None)
    except IntegrityError as error:
        raise PortalError(_("There is a server of that name already."), code="server_exists", status=409) from error
    return server


def update_server(*, server_id: int, actor: User | None, **changes: Any) -> Server:
    """Change a host; relays follow what changes (a new address changes their maps at once).

    An engine address that names the host's old address follows the new one by itself.

    Raises Server.DoesNotExist, ValidationError, PortalError `server_exists`, and PortalError `server_in_use` when the
    runtime or the engine would change under relays or containers, which would leave containers behind with nobody to
    stop them.
    """
    with transaction.atomic():
        server = Server.objects.select_for_update(no_key=True).get(pk=server_id)
        moved = [name for name in ("runtime", "endpoint") if name in changes and changes[name] != getattr(server, name)]
        if moved and server.relays.filter(released_at=None).exists():
            raise PortalError(
                _("This server carries relays. Move them to another server before its engine changes."),
                code="server_in_use",
                status=409,
            )
        if moved:
            _check_nothing_left(server)
        old_ip, was_enabled = server.ip, server.is_enabled
        changed = {name: value for name, value in changes.items() if name in CHANGEABLE}
        if "ip" in changed and "endpoint" not in changed:
            changed |= _engine_at(server, str(changed["ip"]))
        for name, value in changed.items():
            setattr(server, name, value)
        server.full_clean(validate_unique=False, validate_constraints=False)
        _check_ports(server)
        if changed.keys() & {"runtime", "endpoint", *CREDENTIALS}:
            _check_reach(server)
        if moved:
            server.engine_id = ""  # Another engine, known by its own id from now on.
        try:
            with transaction.atomic():
                server.save(update_fields=[*changed, "engine_id", "updated_at"])
        except IntegrityError as error:
            raise PortalError(_("There is a server of that name already."), code="server_exists", status=409) from error
        record(actor=actor, event="server.changed", target=server, fields=[_spoken(name) for name in sorted(changed)])
        if server.is_enabled != was_enabled:
            server_event(server, ServerEvent.Kind.ENABLED if server.is_enabled else ServerEvent.Kind.DISABLED)
        if server.ip != old_ip:
            server_event(server, ServerEvent.Kind.ADDRESS, f"{old_ip} → {server.ip}")
            note_new_address(server, old_ip)
        wake_server(server.pk)
        wake_server(None)
    return server


def _engine_at(server: Server, ip: str) -> dict[str, str]:
    """The engine's new address where it named the host's old one: the same engine is found at the new one."""
    old, new = (f"[{address}]" if ":" in address else address for address in (server.ip, ip))
    if old == new or urlsplit(server.endpoint).hostname != server.ip:
        return {}
    return {"endpoint": server.endpoint.replace(old, new, 1)}


def _spoken(name: str) -> str:
    """A field as the audit trail names it: the word "key" is kept for what must never stand there."""
    return name.replace("_key", " (secret)") if name in CREDENTIALS else name


def note_new_address(server: Server, old_ip: str) -> None:
    """Every map names the new address from now on; owners who pasted theirs are told once the relay answers there."""
    for relay in server.relays.filter(released_at=None).select_related("group", "port"):
        give_up_moves(relay)
        runs = relay.group.wanted == Wanted.RUNNING
        Move.objects.create(
            relay=relay,
            reason=MoveReason.ADDRESS,
            state=Move.State.PLACED if runs else Move.State.ANSWERED,
            from_server=server,
            to_server=server,
            from_ip=old_ip,
            to_ip=server.ip,
            from_port=relay.port.number,
            to_port=relay.port.number,
            from_generation=relay.generation,
            to_generation=relay.generation,
            placed_at=now(),
            ended_at=None if runs else now(),
        )


def _check_reach(server: Server) -> None:
    """Refuse credentials and addresses that cannot be right before anything is stored."""
    given = [name for name in CREDENTIALS if getattr(server, name)]
    if given and len(given) != len(CREDENTIALS):
        raise PortalError(
            _("A host with certificates of its own needs all three: authority, client certificate and key."),
            code="bad_credentials",
        )
    if server.runtime != Server.Runtime.DOCKER:
        return
    try:
        if given:
            check_tls(TlsCredentials(str(server.tls_ca), str(server.tls_certificate), str(server.tls_key)))
        Endpoint.parse(server.endpoint)
    except Rejected as failure:
        raise PortalError(trouble(failure.code), code=failure.code, detail=failure.detail) from failure


def _check_ports(server: Server) -> None:
    if not 1024 <= server.port_first <= server.port_last <= 65535:
        raise PortalError(
            _("The port range must lie within 1024 and 65535, first before last."), code="invalid_port_range"
        )


def _check_nothing_left(server: Server) -> None:
    """Refuse while relays that left the server may still run there: nobody else would ever stop them."""
    if server.containers:
        raise PortalError(
            _(
                "Containers of relays that have left may still run on this server. "
                "Wait until the portal has reached it and removed them; nothing was changed."
            ),
            code="server_in_use",
            status=409,
            containers=server.containers,
        )


def delete_server(*, server_id: int, is_gone_for_good: bool = False, actor: User | None) -> None:
    """Delete an empty host.

    `is_gone_for_good` says that a host which does not answer will never do so again: what may still run there is
    given up. Raises Server.DoesNotExist, PortalError `server_in_use` while it carries relays or may still run what
    left it.
    """
    with transaction.atomic():
        server = Server.objects.select_for_update().get(pk=server_id)
        carried = server.relays.filter(released_at=None).count()
        if carried:
            raise PortalError(
                ngettext(
                    "This server still carries %(count)s relay. Move it first; nothing was deleted.",
                    "This server still carries %(count)s relays. Move them first; nothing was deleted.",
                    carried,
                )
                % {"count": carried},
                code="server_in_use",
                status=409,
                relays=carried,
            )
        if not (is_gone_for_good and server.status == Server.Status.UNHEALTHY):
            _check_nothing_left(server)
        record(actor=actor, event="server.deleted", target=server, gone_for_good=is_gone_for_good)
        # Released relays keep their history; only the place they had is forgotten.
        server.relays.update(server=None)
        server.delete()


def ensure_this_machine() -> Server:
    """The embedded default's one server, made on a first start and left alone afterwards."""
    existing = Server.objects.order_by("id").first()
    if existing:
        return existing
    region, _created = Region.objects.get_or_create(
        code="local", defaults={"name": gettext_noop("This machine"), "name_zh": "本机"}
    )
    server = add_server(
        actor=None,
        name="this machine",
        ip="127.0.0.1",
        region=region,
        runtime=Server.Runtime.PROCESS,
        endpoint="",
        port_first=settings.LOCAL_PORTS[0],
        port_last=settings.LOCAL_PORTS[1],
    )
    try:
        look_at_server(server_id=server.pk)
    except RuntimeFailure:
        # The relay daemon starts after this; the first pass looks again.
        return server
    return server
