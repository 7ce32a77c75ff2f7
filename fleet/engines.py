"""From a server's row to the runtime that speaks to it, and the image its relays run."""

from __future__ import annotations

from django.conf import settings

from fleet.models import Relay, Rollout, Server
from fleet.runtimes.base import Runtime, SshCredentials, TlsCredentials
from fleet.runtimes.docker import DockerRuntime
from fleet.runtimes.executables import IMAGE_AUTO
from fleet.runtimes.image import image_name, stored_archive
from fleet.runtimes.process import ProcessRuntime

TIMEOUTS = (2.0, 10.0)
SHORT_TIMEOUTS = (2.0, 4.0)
"""Seconds to connect and to answer; a host that has been silent is not waited for as long as one that is busy."""


def open_runtime(server: Server) -> Runtime:
    """A runtime for `server`, to be used by one thread and closed. Opening asks nothing of the host yet.

    The first call for a `server` object reads its credentials; later ones, from whatever thread, read nothing.
    """
    if server.runtime == Server.Runtime.PROCESS:
        return ProcessRuntime(settings.RELAYD_SOCKET)
    tls, ssh = _credentials(server)
    return DockerRuntime(
        server.endpoint,
        image_archive=lambda image: stored_archive(image, settings.IMAGES_DIR),
        tls=tls,
        ssh=ssh,
        timeouts=TIMEOUTS if server.status == Server.Status.HEALTHY else SHORT_TIMEOUTS,
        registry_auth=settings.REGISTRY_AUTH,
    )


def _credentials(server: Server) -> tuple[TlsCredentials | None, SshCredentials | None]:
    kept: tuple[TlsCredentials | None, SshCredentials | None] | None = server.__dict__.get("_credentials")
    if kept is None:
        kept = server.__dict__["_credentials"] = (_tls(server), _ssh(server))
    return kept


def _tls(server: Server) -> TlsCredentials | None:
    from fleet.services.authority import authority

    if not server.endpoint.startswith("tcp://"):
        return None
    if server.tls_key:
        return TlsCredentials(str(server.tls_ca), str(server.tls_certificate), str(server.tls_key))
    own = authority()
    return TlsCredentials(own.ca_certificate, own.client_certificate, own.client_key)


def _ssh(server: Server) -> SshCredentials | None:
    from fleet.services.authority import authority

    if not server.endpoint.startswith("ssh://"):
        return None
    return SshCredentials(authority().ssh_private_key, server.ssh_host_key)


def relay_image(server: Server) -> str:
    """The image relays on `server` run unless they name one: of the latest finished roll-out, else the portal's own."""
    return IMAGE_AUTO if server.runtime == Server.Runtime.PROCESS else fleet_image()


def fleet_image() -> str:
    """The image new relays on Docker hosts get: of the latest finished roll-out, else the operator's or our own."""
    finished = Rollout.objects.filter(state=Rollout.State.DONE).order_by("-id").values_list("image", flat=True).first()
    return finished or settings.RELAY_IMAGE or image_name()


def image_of(relay: Relay, present: str) -> str:
    """The image this relay should run on its server, where relays that name none run `present`."""
    is_process = present.partition(":")[0] == IMAGE_AUTO.partition(":")[0]  # What it is on Docker hosts counts there.
    return present if is_process else relay.image or present
