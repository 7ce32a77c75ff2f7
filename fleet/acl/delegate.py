"""Asking a customer's own Headscale whether a device may come in. It speaks as the portal's own door does."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import redis
import structlog

from derp_portal.lib.outbound import OutboundFailure, fetch

from .decision import Decision, Door, Reason
from .doors import store

log = structlog.get_logger(__name__)

SECONDS = 2.5
"""A relay waits five seconds for us; a second connection has to be answered in them too."""
FRESH_SECONDS = 60
REMEMBERED_SECONDS = 24 * 3600
"""So long a device that was let in last stays let in while the customer's server is silent."""
DOWN_SECONDS = 15
MOST_AT_ONCE = 2
"""More questions of one customer are not asked side by side: a server that hangs must not hold everybody's doors."""
BODY_LIMIT = 4096


def ask(door: Door, *, node_key: str, source: str) -> Decision:
    """What the customer's verifier says, said a moment ago, or said last while it is silent."""
    where = hashlib.sha256(door.delegate_url.encode()).hexdigest()[:16]
    names = {word: f"acl:delegate:{word}:{door.owner_id}:{where}" for word in ("down", "busy")}
    fresh, last = (f"acl:delegate:{word}:{door.owner_id}:{where}:{node_key}" for word in ("fresh", "last"))
    try:
        kept = store()
        told: Any = kept.mget(fresh, last, names["down"])
        said_now, said_last, is_down = told
        if said_now is not None:
            return _decision(said_now == b"1")
        if is_down is None and int(kept.incr(names["busy"])) <= MOST_AT_ONCE:
            kept.expire(names["busy"], int(SECONDS) + 3)
            try:
                is_allowed = _ask(door.delegate_url, node_key, source)
            finally:
                kept.decr(names["busy"])
            if is_allowed is not None:
                kept.set(fresh, int(is_allowed), ex=FRESH_SECONDS)
                kept.set(last, int(is_allowed), ex=REMEMBERED_SECONDS)
                return _decision(is_allowed)
            kept.set(names["down"], 1, ex=DOWN_SECONDS)
        elif is_down is None:
            kept.decr(names["busy"])
        if said_last is not None:
            return _decision(said_last == b"1")
    except redis.RedisError as error:
        log.warning("door_cache_unreachable", error=str(error))
    return Decision(door.fails_open, Reason.DELEGATE_AWAY)


def _ask(url: str, node_key: str, source: str) -> bool | None:
    """The other side's answer; None when there is none that can be understood."""
    try:
        answer = fetch("POST", url, json={"NodePublic": node_key, "Source": source}, seconds=SECONDS)
        body = json.loads(answer.body[:BODY_LIMIT])
    except (OutboundFailure, ValueError, RecursionError) as error:
        log.info("delegate_silent", error=str(error))
        return None
    if answer.status != 200 or not isinstance(body, dict) or not isinstance(body.get("Allow"), bool):
        log.info("delegate_unclear", status=answer.status)
        return None
    return bool(body["Allow"])


def _decision(is_allowed: bool) -> Decision:
    return Decision(is_allowed, Reason.DELEGATED if is_allowed else Reason.REFUSED_BY_DELEGATE)
