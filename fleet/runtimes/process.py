"""A host without a container engine: relays are child processes of `relayd` on this machine.

For development and small installations. It isolates nothing and limits no memory; a Docker engine does.
"""

from __future__ import annotations

import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import wire
from .base import (
    HostInfo,
    Observed,
    Rejected,
    RelaySpec,
    RuntimeFailure,
    State,
    TaskResult,
    TaskSpec,
    Unavailable,
)

SOCKET_PATH_LIMIT = 107
"""Bytes that fit into the kernel's `sun_path`, less its final NUL."""


def check_socket_path(path: Path) -> None:
    """Raise `Rejected("invalid_spec")` for a path that no Unix socket can have."""
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_LIMIT:
        raise Rejected("invalid_spec", f"the socket path has {length} bytes, the limit is {SOCKET_PATH_LIMIT}: {path}")


class ProcessRuntime:
    """Speaks to `relayd` over its Unix socket, one short connection per call. `timeout` is in seconds."""

    def __init__(self, socket_path: str | Path, *, timeout: float = 10) -> None:
        self._path = Path(socket_path)
        self._timeout = timeout
        check_socket_path(self._path)

    def info(self) -> HostInfo:
        told = self._call("info")
        try:
            # The daemon is on this machine: its clock is ours, and its socket is what makes it itself.
            return HostInfo(**told, engine_id=f"process:{self._path}", clock=datetime.now(UTC))
        except TypeError as error:
            raise Rejected("not_an_engine", str(error)) from error

    def claim(self, portal_id: str) -> str:
        """The caller's, always: the daemon's socket is private to the portal's own user."""
        return portal_id

    def ensure_image(self, image: str) -> None:
        self._call("ensure_image", image=image)

    def list_volumes(self, portal_id: str) -> list[str]:
        return [str(name) for name in self._call("list_volumes", portal_id=portal_id)]

    def list(self, portal_id: str) -> list[Observed]:
        try:
            return [
                Observed.from_labels(
                    id=row["id"],
                    name=row["name"],
                    labels=row["labels"],
                    state=State(row["state"]),
                    started_at=datetime.fromisoformat(row["started_at"]) if row["started_at"] else None,
                )
                for row in self._call("list", portal_id=portal_id)
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise Rejected("not_an_engine", f"the listing is not relayd's: {error!r}") from error

    def create(self, spec: RelaySpec) -> str:
        spec.check()
        return str(self._call("create", spec=wire.pack_spec(spec)))

    def put_files(self, spec: RelaySpec) -> None:
        spec.check()
        self._call("put_files", name=spec.name, files=wire.pack_files(spec.files))

    def start(self, name: str) -> None:
        self._call("start", name=name)

    def stop(self, name: str, *, grace_seconds: int = 5) -> None:
        self._call("stop", patience=grace_seconds, name=name, grace_seconds=grace_seconds)

    def reload(self, name: str) -> None:
        self._call("reload", name=name)

    def remove(self, name: str, *, volume: str = "") -> None:
        self._call("remove", name=name)
        if volume:
            self.remove_volume(volume)

    def remove_volume(self, name: str) -> None:
        self._call("remove_volume", name=name)

    def run_task(self, task: TaskSpec) -> TaskResult:
        raise Rejected("unsupported", "a host of processes has no containers to run a task in")

    def carried_bytes(self, name: str) -> int | None:
        """Processes share the machine's network: nobody counts what one of them carries."""
        return None

    def close(self) -> None:
        """Nothing to close: no connection outlives its call."""

    def _call(self, op: str, *, patience: float = 0, **arguments: Any) -> Any:
        """Ask the daemon; `patience` is added to the time-out. Raises `RuntimeFailure` only."""
        answer = self._exchange(wire.pack({"op": op, **arguments}), self._timeout + patience)
        try:
            told = json.loads(answer)
            if told["ok"]:
                return told["result"]
            kind: type[RuntimeFailure] = Unavailable if told["kind"] == "unavailable" else Rejected
            failure = kind(told["code"], told["detail"])
        except (ValueError, KeyError, TypeError) as error:
            raise Rejected("not_an_engine", f"the answer is not relayd's: {answer[:200]!r}") from error
        raise failure

    def _exchange(self, request: bytes, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        answer = b""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
                link.settimeout(seconds)
                link.connect(str(self._path))
                link.sendall(request)
                while not answer.endswith(b"\n"):
                    # The time-out counts for the whole answer, not for each piece of it.
                    link.settimeout(max(deadline - time.monotonic(), 0.001))
                    piece = link.recv(65536)
                    if not piece:
                        raise Unavailable("unreachable", "relayd hung up before it answered")
                    answer += piece
        except TimeoutError as error:
            raise Unavailable("timeout", f"no answer from relayd within {seconds:g} s") from error
        except BlockingIOError as error:
            raise Unavailable("busy", "relayd has too many callers waiting") from error
        except OSError as error:
            raise Unavailable("unreachable", f"relayd at {self._path}: {error}") from error
        return answer
