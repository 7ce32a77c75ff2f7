"""Everything that changes the fleet's rows on somebody's word. The reconciler's own notes are in `observing`."""

from .devices import add_node_keys, remove_node_key
from .enrolment import look_at_server
from .evacuations import drain_server, end_drain, fail_over, set_quarantine
from .failover_plan import plan_failover
from .groups import (
    GroupTerms,
    create_group,
    ensure_relays,
    limit_servers,
    release_group,
    revoke_map_token,
    rotate_map_token,
    set_group,
)
from .hosts import add_region, add_server, delete_server, ensure_this_machine, update_server
from .port_checks import check_ports
from .relays import allocate, choose_region_id, move_relay, release_relay, restart_relay

__all__ = [
    "GroupTerms",
    "add_node_keys",
    "add_region",
    "add_server",
    "allocate",
    "check_ports",
    "choose_region_id",
    "create_group",
    "delete_server",
    "drain_server",
    "end_drain",
    "ensure_relays",
    "ensure_this_machine",
    "fail_over",
    "limit_servers",
    "look_at_server",
    "move_relay",
    "plan_failover",
    "release_group",
    "release_relay",
    "remove_node_key",
    "restart_relay",
    "revoke_map_token",
    "rotate_map_token",
    "set_group",
    "set_quarantine",
    "update_server",
]
