"""From a server's row to the runtime that speaks to it."""

from __future__ import annotations

from django.conf import settings

from fleet.models import Server
from fleet.runtimes.base import Runtime
from fleet.runtimes.docker import DockerRuntime
from fleet.runtimes.executables import IMAGE_AUTO
from fleet.runtimes.image import image_name, stored_archive
from fleet.runtimes.process import ProcessRuntime


def open_runtime(server: Server) -> Runtime:
    """A runtime for `server`, to be used by one thread and closed. Opening asks nothing of the host yet."""
    if server.runtime == Server.Runtime.PROCESS:
        return ProcessRuntime(settings.RELAYD_SOCKET)
    return DockerRuntime(server.endpoint, image_archive=lambda image: stored_archive(image, settings.IMAGES_DIR))


def relay_image(server: Server) -> str:
    """The image relays on `server` should run: the operator's choice, or the one the portal builds itself."""
    if server.runtime == Server.Runtime.PROCESS:
        return IMAGE_AUTO
    return settings.RELAY_IMAGE or image_name()
