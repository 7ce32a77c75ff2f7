"""One relay process under `relayd`: how it is started, watched, logged and bound to the daemon's life."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import ipaddress
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from .base import Rejected

logger = logging.getLogger(__name__)

LOG_LIMIT = 256 * 1024
"""Bytes in a log file before it becomes the one old log that is kept."""

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_libc = ctypes.CDLL(None, use_errno=True)


class BoundedLog:
    """Appends to `path` and keeps at most twice LOG_LIMIT bytes on disk. A full disk loses lines, never a relay."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_failing = False

    def write(self, data: bytes) -> None:
        try:
            with self._path.open("ab") as log:
                log.write(data)
                size = log.tell()
            if size > LOG_LIMIT:
                self._path.replace(self._path.with_suffix(".log.1"))
        except OSError as error:
            if not self._is_failing:
                logger.warning("cannot write %s, its lines are lost: %s", self._path, error)
            self._is_failing = True
        else:
            self._is_failing = False


class Child:
    """A running process. `on_exit(child)` is called once from the event loop, after the process was reaped."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        log: BoundedLog,
        on_exit: Callable[[Child], None],
    ) -> None:
        self._log = log
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self.exited = asyncio.Event()
        self.started_at = datetime.now(UTC)
        self._born = self._loop.time()
        self._process = subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            # Safe here: the daemon has one thread, so the fork cannot inherit a held lock.
            preexec_fn=_tie_to(os.getpid()),
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        os.set_blocking(self._output, False)
        try:
            self._pidfd = os.pidfd_open(self._process.pid)
        except OSError:
            # No descriptor left to watch it with: a child nobody watches must not live.
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            raise
        self._loop.add_reader(self._output, self._read_output)
        self._loop.add_reader(self._pidfd, self._reap)

    @property
    def age(self) -> float:
        """Seconds since the start."""
        return self._loop.time() - self._born

    @property
    def exit_code(self) -> int | None:
        """As in `subprocess`: negative for the signal that ended it, None while it runs."""
        return self._process.returncode

    def send(self, number: signal.Signals) -> None:
        """Send a signal; a process that has just ended is left in peace."""
        self._process.send_signal(number)

    async def end(self, grace_seconds: float) -> None:
        """SIGTERM, then SIGKILL after the grace; returns when it is gone."""
        if grace_seconds > 0 and not self.exited.is_set():
            self.send(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.exited.wait(), grace_seconds)
            except TimeoutError:
                logger.warning("pid %d ignored SIGTERM for %g s", self._process.pid, grace_seconds)
        if not self.exited.is_set():
            self.send(signal.SIGKILL)
            await self.exited.wait()

    def _read_output(self) -> None:
        try:
            data = os.read(self._output, 65536)
        except BlockingIOError:
            return
        if data:
            self._log.write(data)
        else:
            self._loop.remove_reader(self._output)

    def _reap(self) -> None:
        if self._process.poll() is None:
            return
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._read_output()  # The last words, usually the reason.
        self._loop.remove_reader(self._output)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self.exited.set()
        self._on_exit(self)


def _tie_to(parent: int) -> Callable[[], None]:
    """What the child does before exec: die with the daemon, whatever kills that, and gain no privileges."""

    def run() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if os.getppid() != parent:  # It died before we were tied to it.
            os._exit(1)

    return run


def check_port_free(bind_ip: str, port: int) -> None:
    """Raise `Rejected` when TCP or UDP `port` cannot be bound now: `port_taken`, `invalid_spec` or `refused`."""
    addresses = [bind_ip] if bind_ip else ["0.0.0.0", "::"]  # noqa: S104 - what "" means to a relay.
    for address in addresses:
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            try:
                _try_bind(family, kind, address, port)
            except OSError as error:
                if not bind_ip and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    continue  # A machine without IPv6.
                raise _bind_failure(error, address, port) from error


def _try_bind(family: socket.AddressFamily, kind: socket.SocketKind, address: str, port: int) -> None:
    with socket.socket(family, kind) as probe:
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            # Connections in TIME_WAIT do not hinder a relay either; a listener still does.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address, port))


def _bind_failure(error: OSError, address: str, port: int) -> Rejected:
    detail = f"{address} port {port}: {error.strerror}"
    match error.errno:
        case errno.EADDRINUSE:
            return Rejected("port_taken", detail)
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return Rejected("invalid_spec", detail)
        case _:
            return Rejected("refused", detail)
