"""Everything that changes the fleet's rows on somebody's word. The reconciler's own notes are in `observing`."""

from .devices import add_node_keys, remove_node_key
from .groups import (
    GroupTerms,
    create_group,
    ensure_relays,
    release_group,
    revoke_map_token,
    rotate_map_token,
    set_group,
)
from .hosts import add_region, add_server, delete_server, ensure_this_machine, look_at_server, update_server
from .relays import allocate, choose_region_id, move_relay, release_relay, restart_relay

__all__ = [
    "GroupTerms",
    "add_node_keys",
    "add_region",
    "add_server",
    "allocate",
    "choose_region_id",
    "create_group",
    "delete_server",
    "ensure_relays",
    "ensure_this_machine",
    "look_at_server",
    "move_relay",
    "release_group",
    "release_relay",
    "remove_node_key",
    "restart_relay",
    "revoke_map_token",
    "rotate_map_token",
    "set_group",
    "update_server",
]
