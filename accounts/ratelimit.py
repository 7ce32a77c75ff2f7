"""Counting attempts: a fixed window over the cache."""

from __future__ import annotations

import hashlib

import structlog
from django.core.cache import cache
from django.utils.translation import gettext_lazy as _
from redis.exceptions import RedisError

from derp_portal.lib import clock
from derp_portal.lib.errors import PortalError

log = structlog.get_logger(__name__)


class RateLimited(PortalError):
    """Somebody tried too often; `extra["retry_after"]` says in how many seconds to come back."""

    code = "rate_limited"
    status = 429


def hit(*, scope: str, key: str, limit: int, window_seconds: int) -> None:
    """Count one attempt of `key` (an address, an account) at `scope`; raises RateLimited above `limit` in a window.

    Attempts above the limit do not prolong the wait. With the cache away everybody passes: a broken cache must not
    lock people out, and passwords and codes are long enough without the limit.
    """
    now = int(clock.now().timestamp())
    window = now // window_seconds
    name = f"ratelimit:{scope}:{hashlib.sha256(key.lower().encode()).hexdigest()[:32]}:{window}"
    try:
        cache.add(name, 0, timeout=window_seconds)
        count = cache.incr(name)
    except (RedisError, OSError) as error:
        log.warning("ratelimit_without_cache", scope=scope, error=repr(error))
        return
    except ValueError:
        # The window ended between the two calls: this was the first attempt of the next one.
        return
    if count > limit:
        retry_after = (window + 1) * window_seconds - now
        raise RateLimited(_("Too many attempts. Wait a little, then try again."), retry_after=retry_after)
