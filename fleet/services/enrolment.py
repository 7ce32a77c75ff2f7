"""Knowing a host: that it is an engine we can use, that it is ours, and that it is not enrolled already."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.db import IntegrityError, transaction

from derp_portal.lib.clock import now
from fleet.engines import open_runtime
from fleet.models import Alert, Server, ServerEvent
from fleet.runtimes.base import HostInfo, Rejected, Runtime

from .alerts import raise_alert, resolve_alert
from .phases import server_event

CLOCK_TOLERANCE = timedelta(seconds=30)

NOT_OURS = ("foreign_portal", "enrolled_twice")
"""What a host may tell of itself that an operator must look into: two who steer it would undo each other's work."""


def know_again(server: Server, runtime: Runtime) -> HostInfo:
    """Make sure that what answers is a host for `server`, and keep what it tells of itself.

    Raises RuntimeFailure; `enrolled_twice`, `foreign_portal` and `clock_off` besides what the runtime raises. Until it
    returns nothing on the host has been touched, but for the mark that it is ours.
    """
    try:
        info = _know_again(server, runtime)
    except Rejected as failure:
        if failure.code in NOT_OURS:
            severity, subject = Alert.Severity.CRITICAL, str(server.pk)
            raise_alert(Alert.Kind.FOREIGN_HOST, severity=severity, subject=subject, server=server, code=failure.code)
        raise
    resolve_alert(Alert.Kind.FOREIGN_HOST, subject=str(server.pk))
    return info


def _know_again(server: Server, runtime: Runtime) -> HostInfo:
    info = runtime.info()
    offset = abs(now() - info.clock) if info.clock else timedelta()
    is_new = server.last_seen_at is None
    # Later on a wrong clock is shown, but no reason to give up a host that serves customers.
    if is_new and offset > CLOCK_TOLERANCE:
        raise Rejected("clock_off", f"{offset.total_seconds():.0f} s")
    _check_engine(server, info)
    owner = runtime.claim(settings.PORTAL_ID)
    if owner != settings.PORTAL_ID:
        raise Rejected("foreign_portal", owner)
    _keep(server, info, offset)
    return info


def _check_engine(server: Server, info: HostInfo) -> None:
    twin = Server.objects.exclude(pk=server.pk).filter(engine_id=info.engine_id).exclude(engine_id="").first()
    if twin:
        raise Rejected("enrolled_twice", twin.name)


def _keep(server: Server, info: HostInfo, offset: timedelta) -> None:
    changed = bool(server.engine_id) and server.engine_id != info.engine_id
    server.engine_id = info.engine_id
    server.engine_version = f"{info.engine} {info.version}"[:120]
    server.ssh_host_key = server.ssh_host_key or info.host_key
    server.hardware = {"cores": info.cores, "memory_bytes": info.memory_bytes, **info.hardware}
    if offset > CLOCK_TOLERANCE:
        server.hardware["clock_off_seconds"] = str(round(offset.total_seconds()))
    try:
        with transaction.atomic():
            server.save(update_fields=["engine_id", "engine_version", "ssh_host_key", "hardware"])
            if changed:
                server_event(server, ServerEvent.Kind.ENGINE, server.engine_version)
    except IntegrityError as error:
        # Two rows for one engine looked at each other at the same moment.
        raise Rejected("enrolled_twice") from error


def look_at_server(*, server_id: int) -> HostInfo:
    """Ask the host about itself and keep what it says. Raises RuntimeFailure in words of `fleet.words`."""
    server = Server.objects.get(pk=server_id)
    runtime = open_runtime(server)
    try:
        return know_again(server, runtime)
    finally:
        runtime.close()
