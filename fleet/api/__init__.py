"""`/api/server/…`, `/api/region/…` and `/api/container/…`; mounted by the composition."""

from .hosts import READ_REFUSALS, REFUSALS, region, server
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

__all__ = [
    "READ_REFUSALS",
    "REFUSALS",
    "ContainerAnswer",
    "ContainerRef",
    "RelayBrief",
    "RelayStatus",
    "container",
    "region",
    "relay_brief",
    "server",
    "show_container",
    "whose",
]
