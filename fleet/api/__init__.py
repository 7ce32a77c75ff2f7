"""`/api/server/…`, `/api/region/…`, `/api/container/…` and the like; mounted by the composition."""

# Adds its operations to the router of the servers.
from . import operations as operations
from .acl import access
from .alerts import alerts
from .common import READ_REFUSALS, REFUSALS
from .ha import ha
from .hosts import server
from .monitoring import monitoring
from .regions import region
from .relays import (
    ContainerAnswer,
    ContainerRef,
    RelayBrief,
    RelayStatus,
    container,
    relay_brief,
    show_container,
    whose,
)
from .rollouts import rollout
from .traffic import traffic

__all__ = [
    "READ_REFUSALS",
    "REFUSALS",
    "ContainerAnswer",
    "ContainerRef",
    "RelayBrief",
    "RelayStatus",
    "access",
    "alerts",
    "container",
    "ha",
    "monitoring",
    "region",
    "relay_brief",
    "rollout",
    "server",
    "show_container",
    "traffic",
    "whose",
]
