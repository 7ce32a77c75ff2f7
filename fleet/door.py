"""The admission door: may this client connect to this relay now? Asked by the relay at every connection."""

from __future__ import annotations

import json
from typing import Any

from derp_portal.lib.clock import now
from derp_portal.lib.secrets import fingerprint
from fleet.derp.keys import parse_node_key
from fleet.models import NodeKey, Relay, Wanted
from fleet.monitoring.probing import probe_node_keys

BODY_LIMIT = 4096


class MalformedRequest(Exception):
    """The body is not a DERPAdmitClientRequest."""


def read_request(body: bytes) -> str:
    """The node key in a DERPAdmitClientRequest, `{"NodePublic": "nodekey:…"}`. Raises MalformedRequest."""
    if len(body) > BODY_LIMIT:
        raise MalformedRequest
    try:
        request: Any = json.loads(body)
        return parse_node_key(request["NodePublic"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MalformedRequest from error


def admits(secret: str, node_key: str) -> bool:
    """True when the relay with this secret should run now and its owner lets this device in.

    With no device listed every client may connect; with one or more, only those (and the portal's probe).
    """
    relay = (
        Relay.objects.filter(
            admission_hash=fingerprint(secret),
            wanted=Wanted.RUNNING,
            released_at=None,
            group__run_until__gt=now(),
            owner__is_active=True,
        )
        .only("code", "owner_id")
        .first()
    )
    if relay is None:
        return False
    if node_key in probe_node_keys(relay):
        return True
    listed = NodeKey.objects.filter(owner_id=relay.owner_id)
    return listed.filter(key=node_key).exists() or not listed.exists()
