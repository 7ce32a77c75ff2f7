"""One way to time, one way to print."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable


def median_seconds(runs: Iterable[Callable[[], object]]) -> float:
    """The median over single runs, in seconds."""
    taken = []
    for run in runs:
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def line(what: str, ours: float, bare: float, baseline: str, note: str = "") -> None:
    """Print one ratio, with both times in milliseconds."""
    tail = f"; {note}" if note else ""
    print(f"{what:<46} {ours / bare:6.2f} x {baseline} ({ours * 1000:.1f} ms / {bare * 1000:.1f} ms{tail})", flush=True)
