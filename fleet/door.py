"""The admission door: may this client connect to this relay now? Asked by the relay at every connection."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from derp_portal.lib.clock import now
from derp_portal.lib.secrets import fingerprint
from fleet.acl import delegate, door_log
from fleet.acl.decision import Decision, Reason, decide
from fleet.acl.doors import known_of
from fleet.acl.versions import learn_device
from fleet.derp.keys import parse_node_key

BODY_LIMIT = 4096


class MalformedRequest(Exception):
    """The body is not a DERPAdmitClientRequest."""


class Question(NamedTuple):
    """Who knocks: a node key, and the address the relay saw ("" for none told)."""

    node_key: str
    source: str


def read_request(body: bytes) -> Question:
    """A DERPAdmitClientRequest, `{"NodePublic": "nodekey:…", "Source": "192.0.2.7"}`. Raises MalformedRequest."""
    if len(body) > BODY_LIMIT:
        raise MalformedRequest
    try:
        request: Any = json.loads(body)
        source = request.get("Source")
        return Question(parse_node_key(request["NodePublic"]), source if isinstance(source, str) else "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MalformedRequest from error


def admits(secret: str, question: Question) -> bool:
    """Whether the relay with this secret lets this client in now. Answers are logged, but for the portal's probes."""
    node_key, source = question
    known = known_of(fingerprint(secret), node_key)
    if known is None:
        return False
    decision = decide(
        known.door,
        source=source,
        standing=known.standing,
        is_probe=node_key in known.probe_keys,
        moment=now(),
    )
    if decision is None:
        decision = delegate.ask(known.door, node_key=node_key, source=source)
    most = known.door.most_devices
    # Listed at once where there is a limit, since the next one counts; without one that waits for the log.
    if decision.reason == Reason.LEARNED and most is not None and not learn_device(known.door.owner_id, node_key, most):
        decision = Decision.no(Reason.FULL)
    if decision.reason != Reason.PROBE:
        door_log.note(known.door, decision, node_key=node_key, source=source)
    return decision.is_allowed
