"""How much passed between two readings of a container's counters. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True, slots=True)
class Counters:
    """What one process counted since `counts_since` (Unix seconds): payload bytes from clients, and to them."""

    counts_since: float
    received: int
    sent: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Bytes to be booked, and for how long before them nothing is known because the process that counted died."""

    upload: int
    download: int
    unmeasured: timedelta = timedelta()


def difference(
    before: Counters | None, after: Counters, *, read_before: datetime | None, own: tuple[int, int] = (0, 0)
) -> tuple[Difference, tuple[int, int]]:
    """What passed since `before`, which was read at `read_before`, and what is left of `own`.

    Another process, or a smaller reading of the same one, counts from zero. `own` are the portal's own bytes
    (received, sent) that may be among them; they come off first, and what does not fit waits for the next time.
    """
    is_same = before is not None and before.counts_since == after.counts_since
    start = before if is_same and before else None
    upload = _grown(start.received if start else 0, after.received)
    download = _grown(start.sent if start else 0, after.sent)
    unmeasured = timedelta()
    if before is not None and not is_same and read_before is not None:
        # What it carried between its last reading and its end is lost with it.
        unmeasured = max(timedelta(), datetime.fromtimestamp(after.counts_since, UTC) - read_before)
    taken = min(upload, own[0]), min(download, own[1])
    left = own[0] - taken[0], own[1] - taken[1]
    return Difference(upload - taken[0], download - taken[1], unmeasured), left


def _grown(before: int, after: int) -> int:
    return after - before if after >= before else after


def is_far_off(*, booked: int, carried: int) -> bool:
    """Whether what was booked cannot be what the engine saw passing (with handshakes, headers and probes) meanwhile.

    Small packets are mostly overhead, so only a multiple of what was booked tells of bytes that went uncounted.
    """
    return booked > carried * 1.05 + 10e6 or carried > booked * 3 + 200e6


READ_EVERY = timedelta(seconds=60)
READ_DENSELY_EVERY = timedelta(seconds=10)


def next_reading(*, left: int | None, passed: int, took: timedelta, speed: int = 0) -> timedelta:
    """After how long to read again, so that a group does not get far over its quota.

    `left` are the bytes until the limit (None = no limit), `passed` those of this relay in the `took` before, `speed`
    its limit in bytes per second each way (0 = none). The next reading comes at the latest when a quarter of what is
    left could have passed: at the rate of late, or at the limit, because an idle relay may be busy at any moment.
    """
    if left is None:
        return READ_EVERY
    rate = max(passed / max(took.total_seconds(), 1.0), 2.0 * speed)
    if rate <= 0:
        return READ_EVERY
    seconds = max(left, 0) / rate / 4
    return min(max(timedelta(seconds=min(seconds, 3600)), READ_DENSELY_EVERY), READ_EVERY)
