"""Asking a customer's own Headscale whether a device may come in. It speaks as the portal's own door does."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any, NamedTuple

import redis
import structlog

from derp_portal.lib.outbound import OutboundFailure, fetch

from .decision import Decision, Door, Reason
from .doors import store
from .turns import turn_of

log = structlog.get_logger(__name__)

SECONDS = 2.5
PATIENCE = 0.7
"""So long a question waits for its turn. Together they must stay below the 3.5 seconds after which a warden takes us
to be silent."""
POLL = 0.05
FRESH_SECONDS = 60
REMEMBERED_SECONDS = 24 * 3600
"""So long a device that was let in last stays let in while the customer's server is silent."""
DOWN_SECONDS = 15
MOST_AT_ONCE = 2
"""More questions of one customer are not asked side by side: a server that hangs must not hold everybody's doors."""
MOST_IN_LINE = 4
"""Asking or waiting. Whoever comes on top of them is not told to wait, for each one holds a thread."""
BODY_LIMIT = 4096


class _Names(NamedTuple):
    """Where the cache server keeps what was said of a device, that nothing is said now, and the turns to ask."""

    now: str
    last: str
    down: str
    busy: str
    line: str


class _Told(NamedTuple):
    """What the verifier said a moment ago and last (None = nothing), and whether it was asked and is silent."""

    now: bool | None
    last: bool | None
    is_down: bool


def ask(door: Door, *, node_key: str, source: str) -> Decision:
    """What the customer's verifier says, said a moment ago, or said last while it is silent or busy.

    Of a device that it never spoke of the plan decides while it is silent. While it is only busy with other devices
    such a one is turned away: else whoever came with enough keys at once would be let in.
    """
    where = f"{door.owner_id}:{hashlib.sha256(door.delegate_url.encode()).hexdigest()[:16]}"
    names = _Names(
        *(f"acl:delegate:{word}:{where}:{node_key}" for word in ("fresh", "last")),
        *(f"acl:delegate:{word}:{where}" for word in ("down", "busy", "line")),
    )
    try:
        told = _told(names)
        if told.now is None and not told.is_down:
            with turn_of(names.line, most=MOST_IN_LINE, seconds=PATIENCE + SECONDS + 1) as is_in_line:
                if is_in_line:
                    told = _ask_in_turn(door, names, told, node_key=node_key, source=source)
    except redis.RedisError as error:
        log.warning("door_cache_unreachable", error=str(error))
        return Decision(door.fails_open, Reason.DELEGATE_AWAY)
    said = told.last if told.now is None else told.now
    if said is None:
        return Decision(door.fails_open, Reason.DELEGATE_AWAY) if told.is_down else Decision.no(Reason.DELEGATE_BUSY)
    return _decision(said)


def _ask_in_turn(door: Door, names: _Names, told: _Told, *, node_key: str, source: str) -> _Told:
    """What is known when we have asked, or others have; `told` when neither came about in time."""
    ends = time.monotonic() + PATIENCE
    while told.now is None and not told.is_down and time.monotonic() < ends:
        with turn_of(names.busy, most=MOST_AT_ONCE, seconds=SECONDS + 1) as is_ours:
            if is_ours:
                is_allowed = _ask(door.delegate_url, node_key, source)
                _remember(names, is_allowed)
                return _Told(is_allowed, told.last, is_allowed is None)
        time.sleep(POLL)
        told = _told(names)
    return told


def _told(names: _Names) -> _Told:
    found: Any = store().mget(names.now, names.last, names.down)
    now, last, down = found
    return _Told(None if now is None else now == b"1", None if last is None else last == b"1", down is not None)


def _remember(names: _Names, is_allowed: bool | None) -> None:
    try:
        if is_allowed is None:
            store().set(names.down, 1, ex=DOWN_SECONDS)
        else:
            store().set(names.now, int(is_allowed), ex=FRESH_SECONDS)
            store().set(names.last, int(is_allowed), ex=REMEMBERED_SECONDS)
    except redis.RedisError as error:
        # What was said counts all the same.
        log.warning("door_cache_unreachable", error=str(error))


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
