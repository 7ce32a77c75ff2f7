"""Volumes that outlived their containers: a worker died between creating the one and the other."""

from __future__ import annotations

from django.conf import settings

from fleet.engines import open_runtime
from fleet.models import Server

from .desired import wanted_rows


def reap_volumes(server: Server) -> list[str]:
    """Drop our volumes that belong to no wanted relay and no container. Returns their names. Raises RuntimeFailure."""
    runtime = open_runtime(server)
    try:
        # Volumes first, rows last: what is created meanwhile is in the rows by then.
        volumes = set(runtime.list_volumes(settings.PORTAL_ID))
        in_use = {container.name for container in runtime.list(settings.PORTAL_ID)}
        wanted = {relay.container_name for relay in wanted_rows(server.pk)}
        left_over = sorted(volumes - in_use - wanted)
        for name in left_over:
            runtime.remove_volume(name)
    finally:
        runtime.close()
    return left_over
