"""Turns in the cache server: at most so many of one name are taken at a time. One not given back runs out by itself."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import redis
import structlog

from .doors import store

log = structlog.get_logger(__name__)


@contextmanager
def turn_of(name: str, *, most: int, seconds: float) -> Iterator[bool]:
    """Whether it is ours: one of `most` turns of that name, to the end of the block, or for so many seconds.

    Raises redis.RedisError when it cannot be taken.
    """
    token = secrets.token_hex(8)
    is_ours = bool(store().eval(_TAKE, 1, name, token, str(most), str(int(seconds * 1000))))
    try:
        yield is_ours
    finally:
        if is_ours:
            _give_back(name, token)


def _give_back(name: str, token: str) -> None:
    try:
        store().zrem(name, token)
    except redis.RedisError as error:
        # It runs out, and what was done in it counts.
        log.warning("door_cache_unreachable", error=str(error))


_TAKE = """
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call("ZREMRANGEBYSCORE", KEYS[1], "-inf", now)
if redis.call("ZCARD", KEYS[1]) >= tonumber(ARGV[2]) then
    return 0
end
redis.call("ZADD", KEYS[1], now + tonumber(ARGV[3]), ARGV[1])
redis.call("PEXPIRE", KEYS[1], ARGV[3])
return 1
"""
"""Members are tokens, their scores when they run out."""
