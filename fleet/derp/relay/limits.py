"""Token buckets, and the file that sets every client's speed."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

from fleet.derp.frames import MAX_PACKET
from fleet.derp.keys import KEY_LENGTH

_MIN_BURST = MAX_PACKET + KEY_LENGTH


@dataclass(frozen=True, slots=True)
class Rate:
    """Bytes per second and bucket size; an infinite speed means no limit."""

    per_second: float = math.inf
    burst: float = math.inf


class Bucket:
    """Lets `rate.per_second` through on average and `rate.burst` at once."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._level = rate.burst
        self._seen = time.monotonic()

    def wait_for(self, amount: float) -> float:
        """Take `amount` and return how many seconds to wait before going on."""
        if math.isinf(self.rate.per_second):
            return 0.0
        self._refill()
        self._level -= amount
        return max(0.0, -self._level / self.rate.per_second)

    def allows(self, amount: float = 1.0) -> bool:
        """Take `amount` if it is there now, or take nothing and say no."""
        if math.isinf(self.rate.per_second):
            return True
        self._refill()
        if self._level < amount:
            return False
        self._level -= amount
        return True

    def _refill(self) -> None:
        now = time.monotonic()
        self._level = min(self.rate.burst, self._level + (now - self._seen) * self.rate.per_second)
        self._seen = now


def read_rate_file(path: Path) -> Rate:
    """Read derper's rate file. Raises OSError or ValueError, and the old rate is then to be kept.

    As in derper, zero bytes per second means no limit, and a bucket always holds the largest frame.
    """
    body = json.loads(path.read_bytes())
    if not isinstance(body, dict):
        raise ValueError("the rate file is not an object")
    speed = body.get("PerClientRateLimitBytesPerSec", 0)
    burst = body.get("PerClientRateBurstBytes", 0)
    for value in (speed, burst):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError("the rate file holds something else than whole, positive numbers")
    return Rate(speed, max(burst, _MIN_BURST)) if speed else Rate()
