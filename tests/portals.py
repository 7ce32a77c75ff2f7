"""Whole portals, started as an operator starts them: for tests of the start, and for stories that are told on one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from derp_portal import programs
from tests.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 300


class Portal:
    """One running `manage.py run`, or whatever started it."""

    def __init__(self, process: subprocess.Popen[bytes], data: Path, port: int, log: Path) -> None:
        self.process, self.data, self.port, self._log = process, data, port, log

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def is_serving(self) -> bool:
        return programs.page_answers("127.0.0.1", self.port, "/healthz")

    def processes(self) -> set[int]:
        """Every process that was started with this portal's data folder, ours and theirs."""
        mark = f"DATA_DIR={self.data}".encode()
        found = set()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.add(int(entry.name))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # It ended meanwhile, or is somebody else's.
        return found

    def wait(self, is_true: Callable[[], object], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not is_true():
            assert time.monotonic() < deadline, f"{what} took more than {seconds} s:\n{self.said}"
            time.sleep(0.1)


@contextmanager
def portal(folder: Path, port: int, command: list[str] | None = None, **environment: str) -> Iterator[Portal]:
    """A portal with its data in `folder`, as an operator would start it: with none of the suite's settings."""
    log = folder.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command or [sys.executable, "manage.py", "run"],
            cwd=ROOT,
            env={**_operators_environment(), "DATA_DIR": str(folder), "PORT": str(port), **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = Portal(process, folder, port, log)
    try:
        running.wait(
            lambda: "Ctrl-C stops everything" in running.said or process.poll() is not None, START_SECONDS, "the start"
        )
        yield running
    finally:
        for pid in running.processes() | ({process.pid} if process.poll() is None else set()):
            # Killing one of them ends others.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _operators_environment() -> dict[str, str]:
    ours = ("DATA_DIR", "REDIS_URL", "DATABASE_URL", "ALTCHA", "LOG_LEVEL", "DJANGO_SETTINGS_MODULE")
    return {key: value for key, value in os.environ.items() if key not in ours}


@pytest.fixture
def port() -> int:
    """One that nobody listens on."""
    return free_port()


@pytest.fixture
def empty_data(tmp_path: Path) -> Path:
    """The folder of a portal that was never started."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database in which every table is made: most of a first start, which one test alone is about."""
    folder = tmp_path_factory.mktemp("migrated")
    command = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    subprocess.run(command, cwd=ROOT, env={**_operators_environment(), "DATA_DIR": str(folder)}, check=True)
    return folder / "portal.sqlite3"


@pytest.fixture
def data(empty_data: Path, migrated: Path) -> Path:
    """The folder of a portal that has its tables and nothing else."""
    shutil.copy(migrated, empty_data)
    return empty_data
