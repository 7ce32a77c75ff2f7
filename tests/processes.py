"""What /proc says of processes, which may end between two looks."""

from __future__ import annotations

import contextlib
from pathlib import Path


def state_of(process: Path) -> str | None:
    """One letter, of a process or thread by its folder in /proc; None once it is gone."""
    # The name before it, in brackets, may hold anything.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return (process / "stat").read_text().rpartition(")")[2].split()[0]
    return None


def is_alive(pid: int) -> bool:
    """Whether it runs, and is no zombie."""
    return state_of(Path(f"/proc/{pid}")) not in (None, "Z")


def children_of(pid: int) -> list[int]:
    """The processes that its main thread has begun; none once it is gone itself."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
