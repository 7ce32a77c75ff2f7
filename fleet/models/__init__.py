"""Tables of the fleet, by what they describe: hosts, relays, their moves, and what was seen of them."""

from .acl import AclConfig, AclLog, ControlServer, Knock, MapPush
from .alerts import Alert, AlertChannel, AlertDelivery, AlertRule, Breach, Silence
from .hosts import Authority, Port, Region, Server, ServerEvent
from .metrics import Measurement, Metric, ServerLoad
from .moves import Evacuation, Move, MoveReason
from .observations import Outage, RelayEvent, RelayHealth, RelayUptime
from .relays import NodeKey, Relay, RelayGroup, Wanted
from .rollouts import Rollout
from .traffic import Meter, QuotaPeriod, Traffic, TrafficPack, UserLimit

__all__ = [
    "AclConfig",
    "AclLog",
    "Alert",
    "AlertChannel",
    "AlertDelivery",
    "AlertRule",
    "Authority",
    "Breach",
    "ControlServer",
    "Evacuation",
    "Knock",
    "MapPush",
    "Measurement",
    "Meter",
    "Metric",
    "Move",
    "MoveReason",
    "NodeKey",
    "Outage",
    "Port",
    "QuotaPeriod",
    "Region",
    "Relay",
    "RelayEvent",
    "RelayGroup",
    "RelayHealth",
    "RelayUptime",
    "Rollout",
    "Server",
    "ServerEvent",
    "ServerLoad",
    "Silence",
    "Traffic",
    "TrafficPack",
    "UserLimit",
    "Wanted",
]
