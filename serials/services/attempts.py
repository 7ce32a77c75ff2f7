"""Guessing serials is slowed down: looks that were refused are counted, the others cost nothing.

`accounts.ratelimit` counts every attempt as it comes; here one only counts once it has failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from django.core.cache import cache
from django.utils.translation import gettext as _
from redis.exceptions import RedisError

from accounts.models import User
from accounts.ratelimit import RateLimited
from accounts.request_ip import as_counted
from derp_portal.lib.clock import now

from .numbers import SerialRefused

log = structlog.get_logger(__name__)

MINUTE, HOUR = 60, 3600
USER_LIMITS = {MINUTE: 10, HOUR: 60}
IP_LIMITS = {MINUTE: 60, HOUR: 300}
"""Wider: a whole office or mobile network may share one address."""


@dataclass(frozen=True, slots=True)
class _Window:
    key: str
    limit: int
    seconds_left: int


def _windows(user: User, ip: str | None) -> list[_Window]:
    moment = int(now().timestamp())
    doors = [(f"user:{user.pk}", USER_LIMITS)] + ([(f"ip:{as_counted(ip)}", IP_LIMITS)] if ip else [])
    return [
        _Window(f"serial-refused:{door}:{seconds}:{moment // seconds}", limit, seconds - moment % seconds)
        for door, limits in doors
        for seconds, limit in limits.items()
    ]


def refuse_guessers(*, user: User, ip: str | None) -> None:
    """Raises RateLimited when too many looks of this person, or from this address, were refused lately.

    With the cache away everybody passes: it must not lock people out, and codes are long enough without the limit.
    """
    windows = _windows(user, ip)
    try:
        counts = cache.get_many([window.key for window in windows])
    except (RedisError, OSError) as error:
        log.warning("serial_limit_without_cache", error=repr(error))
        return
    full = [window.seconds_left for window in windows if counts.get(window.key, 0) >= window.limit]
    if full:
        raise RateLimited(_("Too many attempts. Wait a little, then try again."), retry_after=max(full))


def count_refusal(*, user: User, ip: str | None) -> None:
    """One more look of this person, from this address, was refused."""
    try:
        for window in _windows(user, ip):
            cache.add(window.key, 0, timeout=window.seconds_left + 1)
            cache.incr(window.key)
    except (RedisError, OSError, ValueError) as error:
        # ValueError: the window ended between the two calls, and what it counted is of no interest any more.
        log.warning("serial_refusal_not_counted", error=repr(error))


@contextmanager
def watched_look(*, user: User, ip: str | None) -> Iterator[None]:
    """A look at a serial: guessers are refused before it, and a SerialRefused out of it is counted."""
    refuse_guessers(user=user, ip=ip)
    try:
        yield
    except SerialRefused:
        count_refusal(user=user, ip=ip)
        raise
