"""Tables of the fleet, by what they describe: hosts, relays, and what was seen of them."""

from .hosts import Port, Region, Server
from .observations import Outage, RelayEvent, RelayHealth
from .relays import NodeKey, Relay, RelayGroup, Wanted

__all__ = [
    "NodeKey",
    "Outage",
    "Port",
    "Region",
    "Relay",
    "RelayEvent",
    "RelayGroup",
    "RelayHealth",
    "Server",
    "Wanted",
]
