"""Tables of the fleet, by what they describe: hosts, relays, their moves, and what was seen of them."""

from .alerts import Alert
from .hosts import Authority, Port, Region, Server, ServerEvent
from .moves import Evacuation, Move, MoveReason
from .observations import Outage, RelayEvent, RelayHealth
from .relays import NodeKey, Relay, RelayGroup, Wanted
from .rollouts import Rollout

__all__ = [
    "Alert",
    "Authority",
    "Evacuation",
    "Move",
    "MoveReason",
    "NodeKey",
    "Outage",
    "Port",
    "Region",
    "Relay",
    "RelayEvent",
    "RelayGroup",
    "RelayHealth",
    "Rollout",
    "Server",
    "ServerEvent",
    "Wanted",
]
