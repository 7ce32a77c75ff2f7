"""Servers: adding, changing, looking at and deleting them."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop, ngettext

from accounts.models import User
from accounts.services import record
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet.engines import open_runtime
from fleet.models import Region, Server
from fleet.runtimes.base import HostInfo, RuntimeFailure

from .wake import wake_server

CHANGEABLE = (
    "name",
    "ip",
    "region",
    "runtime",
    "endpoint",
    "is_enabled",
    "port_first",
    "port_last",
    "max_relays",
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

    Raises ValidationError when a value is wrong, PortalError `server_exists` when the name is taken.
    """
    fields.setdefault("name", f"{fields['region'].code} {fields['ip']}")
    server = Server(**fields)
    server.full_clean(validate_unique=False, validate_constraints=False)
    _check_ports(server)
    try:
        with transaction.atomic():
            server.save()
            record(actor=actor, event="server.added", target=server, ip=None, address=server.ip)
            wake_server(server.pk)
            wake_server(None)
    except IntegrityError as error:
        raise PortalError(_("There is a server of that name already."), code="server_exists", status=409) from error
    return server


def update_server(*, server_id: int, actor: User | None, **changes: Any) -> Server:
    """Change a host; relays follow what changes (a new address changes their maps at once).

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
        changed = {name: value for name, value in changes.items() if name in CHANGEABLE}
        for name, value in changed.items():
            setattr(server, name, value)
        server.full_clean(validate_unique=False, validate_constraints=False)
        _check_ports(server)
        try:
            with transaction.atomic():
                server.save(update_fields=[*changed, "updated_at"])
        except IntegrityError as error:
            raise PortalError(_("There is a server of that name already."), code="server_exists", status=409) from error
        record(actor=actor, event="server.changed", target=server, fields=sorted(changed))
        wake_server(server.pk)
        wake_server(None)
    return server


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


def delete_server(*, server_id: int, actor: User | None) -> None:
    """Delete an empty host.

    Raises Server.DoesNotExist, PortalError `server_in_use` while it carries relays or may still run what left it.
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
        _check_nothing_left(server)
        record(actor=actor, event="server.deleted", target=server)
        # Released relays keep their history; only the place they had is forgotten.
        server.relays.update(server=None)
        server.delete()


def look_at_server(*, server_id: int) -> HostInfo:
    """Ask the host about itself and keep what it says. Raises RuntimeFailure in words of `fleet.words`."""
    server = Server.objects.get(pk=server_id)
    runtime = open_runtime(server)
    try:
        info = runtime.info()
    finally:
        runtime.close()
    Server.objects.filter(pk=server.pk).update(
        engine_version=f"{info.engine} {info.version}"[:120],
        hardware={"cores": info.cores, "memory_bytes": info.memory_bytes, **info.hardware},
        last_seen_at=now(),
    )
    return info


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
