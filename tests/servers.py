"""Private servers for one run of the suite, each in a folder of its own; they die with the process that made them."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from derp_portal import programs
from derp_portal.supervisor import tie_to
from tests.parts import postgresql_folder
from tests.ports import free_port

START_SECONDS = 300


@contextmanager
def valkey(folder: Path, listen: Path) -> Iterator[None]:
    """The embedded Valkey, as `manage.py run` starts it, on the Unix socket `listen`."""
    program = programs.valkey(folder, listen)
    with (folder / "valkey.log").open("wb") as log:
        process = subprocess.Popen(
            program.argv, stdout=log, stderr=subprocess.STDOUT, preexec_fn=tie_to(os.getpid(), signal.SIGKILL)
        )
    try:
        _await(lambda: programs.answers_ping(listen), process, folder / "valkey.log")
        yield
    finally:
        _end(process, signal.SIGTERM)


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """A cluster of its own under `folder`; gives its URL. As root it runs as the system's `postgres` user."""
    binaries = postgresql_folder()
    assert binaries is not None
    user = "postgres" if os.geteuid() == 0 else None
    password = secrets.token_hex(16)
    secret, data, log_path = folder / "password", folder / "data", folder / "postgresql.log"
    folder.mkdir(mode=0o755, parents=True)
    secret.touch(mode=0o600)
    secret.write_text(password)
    if user:
        for path in (folder, secret):
            shutil.chown(path, user)
    subprocess.run(
        [
            *(str(binaries / "initdb"), "--pgdata", str(data), "--username", "portal", "--pwfile", str(secret)),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync"),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd="/",
        user=user,
    )
    # Only now: making the cluster takes seconds, in which somebody else could take the port.
    port = free_port()
    options = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": str(folder),
        "max_connections": "300",
        # A database that lives for one run need not survive a power cut.
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        # Tests ask the planner for its ways; those must not depend on whether a table has just been analyzed.
        "autovacuum": "off",
    }
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [str(binaries / "postgres"), "-D", str(data), *(f"--{key}={value}" for key, value in options.items())],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd="/",
            user=user,
            # SIGQUIT is its immediate shutdown, which ends its own children too.
            preexec_fn=tie_to(os.getpid(), signal.SIGQUIT),
        )
    try:
        url = f"postgres://portal:{password}@127.0.0.1:{port}/postgres"
        _await(lambda: _lets_in(url), process, log_path)
        yield url
    finally:
        _end(process, signal.SIGINT)


def _await(is_ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} did not start:\n{log.read_text(errors='replace')}")
        time.sleep(0.02)


def _end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    process.send_signal(number)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _lets_in(url: str) -> bool:
    """A server that only just listens turns everybody away: the database system is starting up."""
    try:
        psycopg.connect(url, connect_timeout=10).close()
    except psycopg.OperationalError:
        return False
    return True
