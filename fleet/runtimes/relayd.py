"""The daemon that owns relay processes: `python -m fleet.runtimes.relayd --socket PATH --state DIR`.

It outlives web servers and workers, so their deaths are never a relay's. When it dies itself, however it
dies, its children die with it, and the next start brings back those that were running.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import fcntl
import inspect
import json
import logging
import os
import platform
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import wire
from .base import Rejected, RuntimeFailure, Unavailable
from .executables import find_executable
from .process import check_socket_path
from .supervisor import Supervisor

logger = logging.getLogger("relayd")

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)


class Daemon:
    """Answers requests on a Unix socket from one event loop, so no two requests ever run at once between awaits."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._version = ""
        self._operations: dict[str, Callable[..., Any]] = {
            "info": self._info,
            "ensure_image": self._ensure_image,
            "list": supervisor.listing,
            "create": self._create,
            "put_files": self._put_files,
            "start": supervisor.start,
            "stop": supervisor.stop,
            "reload": supervisor.reload,
            "remove": supervisor.remove,
            "list_volumes": supervisor.list_volumes,
            "remove_volume": supervisor.remove_volume,
        }

    async def run(self, listener: socket.socket, *, grace_seconds: float) -> None:
        """Serve until SIGTERM or SIGINT, then end the children."""
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        self._supervisor.restore()
        watch = asyncio.create_task(self._supervisor.watch_deadlines())
        server = await asyncio.start_unix_server(self._converse, sock=listener, limit=wire.LINE_LIMIT)
        logger.info("ready on %s", listener.getsockname())
        await stopping.wait()
        logger.info("stopping %d relays", self._supervisor.running)
        server.close()
        watch.cancel()
        await self._supervisor.close(grace_seconds)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(wire.pack(await self._answer(line)))
                await writer.drain()
        except ValueError:
            # A line beyond the limit; where the next one starts is anybody's guess, so this talk ends.
            writer.write(wire.pack(_failed(Rejected("invalid_spec", "the request is too long"))))
        except ConnectionError as error:
            logger.debug("a client went away: %s", error)
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            result = self._perform(line)
            if inspect.isawaitable(result):
                result = await result
        except RuntimeFailure as failure:
            return _failed(failure)
        except OSError as error:
            return _failed(_from_os(error))
        except Exception as error:
            # A bug met by one request must not end everybody's relays.
            logger.exception("a request failed")
            return _failed(Rejected("refused", f"relayd met a bug: {error!r}"))
        return {"ok": True, "result": result}

    def _perform(self, line: bytes) -> Any:
        try:
            arguments = json.loads(line)
            operation = self._operations[arguments.pop("op")]
            inspect.signature(operation).bind(**arguments)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Rejected("invalid_spec", f"not a request: {error!r}") from error
        return operation(**arguments)

    def _info(self) -> dict[str, Any]:
        executable = find_executable()
        self._version = self._version or executable.version()
        return {
            "engine": "process",
            "version": self._version,
            "cores": os.cpu_count() or 1,
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "hardware": {
                "name": platform.node(),
                "system": platform.system(),
                "kernel": platform.release(),
                "architecture": platform.machine(),
                "relay": executable.kind,
                "executable": " ".join(executable.argv),
            },
        }

    @staticmethod
    def _ensure_image(image: str) -> None:
        find_executable(image)

    def _create(self, spec: dict[str, Any]) -> str:
        try:
            checked = wire.ProcessSpec(**spec)
        except TypeError as error:
            raise Rejected("invalid_spec", str(error)) from error
        return self._supervisor.create(checked)

    def _put_files(self, name: str, files: dict[str, str]) -> None:
        self._supervisor.put_files(name, wire.unpack_files(files))


def _failed(failure: RuntimeFailure) -> dict[str, Any]:
    kind = "unavailable" if isinstance(failure, Unavailable) else "rejected"
    return {"ok": False, "kind": kind, "code": failure.code, "detail": failure.detail}


def _from_os(error: OSError) -> RuntimeFailure:
    if error.errno in _DISK_FULL:
        return Rejected("disk_full", str(error))
    if error.errno in _OUT_OF_RESOURCES:
        return Unavailable("busy", str(error))
    return Rejected("refused", str(error))


def _listen(path: Path) -> socket.socket:
    """A private socket at `path`. The caller holds the state lock, so a file there is a dead daemon's."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        if other.connect_ex(str(path)) == 0:
            raise SystemExit(f"relayd: another daemon answers on {path}")
    path.unlink(missing_ok=True)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(128)
    listener.setblocking(False)
    return listener


def _lock(state_dir: Path) -> int:
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SystemExit(f"relayd: another daemon owns {state_dir}") from None
    return handle


def _raise_file_limit() -> None:
    """Two descriptors per relay here, one per customer connection there: take what we may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="relayd", description="Owns the relay processes of this machine.")
    parser.add_argument("--socket", type=Path, required=True, help="Unix socket to listen on")
    parser.add_argument("--state", type=Path, required=True, help="folder that remembers containers and volumes")
    parser.add_argument("--grace", type=float, default=5, help="seconds relays get to end when the daemon stops")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="relayd %(levelname)s %(message)s")
    try:
        check_socket_path(options.socket)
    except Rejected as error:
        raise SystemExit(f"relayd: {error.detail}") from None
    os.umask(0o077)
    _raise_file_limit()
    lock = _lock(options.state)
    listener = _listen(options.socket)
    try:
        asyncio.run(Daemon(Supervisor(options.state)).run(listener, grace_seconds=options.grace))
    finally:
        options.socket.unlink(missing_ok=True)
        os.close(lock)
    return 0


if __name__ == "__main__":
    sys.exit(main())
