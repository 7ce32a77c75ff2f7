"""Hosts with a Docker engine. The only package that may import the Docker SDK."""

from .client import OLDEST_API, Endpoint
from .containers import RELAY_UID
from .runtime import HOST_VOLUME, DockerRuntime
from .ssh import check_ssh
from .tls import check_tls

__all__ = ["HOST_VOLUME", "OLDEST_API", "RELAY_UID", "DockerRuntime", "Endpoint", "check_ssh", "check_tls"]
