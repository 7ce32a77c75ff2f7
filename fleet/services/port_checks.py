"""Whether a server's ports can be reached from outside, asked from another server of the fleet.

A provider's security group is the commonest mistake, and the host itself cannot see it.
"""

from __future__ import annotations

import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from django.conf import settings
from django.db import transaction
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import record
from derp_portal.lib.errors import PortalError
from fleet.engines import fleet_image, open_runtime
from fleet.models import Port, Server, ServerEvent
from fleet.runtimes.base import Rejected, TaskResult, TaskSpec

from .phases import server_event

LISTEN_SECONDS = 20
CHECK_SECONDS = 10


@dataclass(frozen=True, slots=True)
class PortCheck:
    """What came of it: `port` of the server was tried from `seen_from`. Errors are the network's own words."""

    port: int
    seen_from: Server
    tcp_ok: bool
    udp_ok: bool
    tcp_error: str = ""
    udp_error: str = ""


def check_ports(*, server_id: int, from_id: int | None = None, actor: User | None) -> PortCheck:
    """Open a free port of the server's range for a moment, and try it from another server over TCP and UDP.

    Takes up to half a minute. Raises Server.DoesNotExist, RuntimeFailure, and PortalError `no_other_server` when there
    is none to ask, `no_port` when every port is taken.
    """
    target = Server.objects.get(pk=server_id)
    observer = _observer(target, from_id)
    port = _free_port(target)
    with ThreadPoolExecutor(1, thread_name_prefix="listen") as pool:
        listening = pool.submit(_run, target, _task("listen", str(port), "--seconds", str(LISTEN_SECONDS), port=port))
        asked = _run(observer, _task("check", "--seconds", str(CHECK_SECONDS), f"{_host(target)}:{port}"))
        listening.result()
    result = _read(asked, port, observer)
    with transaction.atomic():
        words = f"{port}: TCP {'✓' if result.tcp_ok else '✗'} UDP {'✓' if result.udp_ok else '✗'} ({observer})"
        server_event(target, ServerEvent.Kind.PORTS_CHECKED, words)
        record(actor=actor, event="server.ports_checked", target=target, tcp=result.tcp_ok, udp=result.udp_ok)
    return result


def _observer(target: Server, from_id: int | None) -> Server:
    others = Server.objects.filter(runtime=Server.Runtime.DOCKER, status=Server.Status.HEALTHY).exclude(ip=target.ip)
    found = others.filter(pk=from_id).first() if from_id else others.order_by("load", "id").first()
    if target.runtime != Server.Runtime.DOCKER or found is None:
        raise PortalError(
            _("Ports are checked from another healthy server with a Docker engine, and there is none to ask."),
            code="no_other_server",
            status=409,
        )
    return found


def _free_port(target: Server) -> int:
    taken = set(Port.objects.filter(server=target).values_list("number", flat=True))
    free = [number for number in range(target.port_first, target.port_last + 1) if number not in taken]
    if not free:
        raise PortalError(_("Every port of the server is taken."), code="no_port", status=409)
    return secrets.choice(free)


def _task(*words: str, port: int = 0) -> TaskSpec:
    return TaskSpec(fleet_image(), words, port=port, seconds=LISTEN_SECONDS + 10, portal_id=settings.PORTAL_ID)


def _host(target: Server) -> str:
    return f"[{target.ip}]" if ":" in target.ip else target.ip


def _run(server: Server, task: TaskSpec) -> TaskResult:
    runtime = open_runtime(server)
    try:
        runtime.ensure_image(task.image)
        return runtime.run_task(task)
    finally:
        runtime.close()


def _read(asked: TaskResult, port: int, observer: Server) -> PortCheck:
    try:
        told = next(iter(json.loads(asked.output).values()))
        return PortCheck(
            port=port,
            seen_from=observer,
            tcp_ok=bool(told["tcp"]),
            udp_ok=bool(told["udp"]),
            tcp_error=str(told.get("tcp_error", "")),
            udp_error=str(told.get("udp_error", "")),
        )
    except (ValueError, KeyError, StopIteration, AttributeError) as error:
        raise Rejected("refused", asked.output[-500:] or f"exit code {asked.exit_code}") from error
