"""`make run` as a newcomer meets it: one command, a page that answers, and nothing left when it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from derp_portal import programs
from tests.parts import need

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 120
STOP_SECONDS = 45
CHILDREN = ("valkey", "relayd", "web", "worker", "suspects", "beat")


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
    ours = ("DATA_DIR", "REDIS_URL", "DATABASE_URL", "ALTCHA", "LOG_LEVEL", "DJANGO_SETTINGS_MODULE")
    inherited = {key: value for key, value in os.environ.items() if key not in ours}
    log = folder.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command or [sys.executable, "manage.py", "run"],
            cwd=ROOT,
            env={**inherited, "DATA_DIR": str(folder), "PORT": str(port), **environment},
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


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    return folder


def test_it_serves_tells_the_first_login_once_and_leaves_nothing_behind(data: Path, port: int) -> None:
    with portal(data, port, ADMIN_PASSWORD="", ADMIN_EMAIL="boss@example.com") as first:
        assert first.is_serving(), first.said
        assert "boss@example.com" in first.said
        assert str(data / "mail") in first.said
        assert "NOT FOR PRODUCTION" in first.said
        first.process.send_signal(signal.SIGTERM)
        first.wait(lambda: first.process.poll() is not None, STOP_SECONDS, "the stop")
        assert first.processes() == set()
        stopped = re.findall(r"stopping (\w+)$", first.said, re.MULTILINE)
        assert stopped == list(reversed(CHILDREN))
    with portal(data, port) as second:
        assert second.is_serving()
        assert "assword" not in second.said


def test_sigterm_to_make_ends_everything(data: Path, port: int) -> None:
    command = [need("make"), "--no-print-directory", "run"]
    if not (ROOT / ".venv" / ".installed").exists():
        pytest.skip("needs the virtual environment that make itself makes")
    with portal(data, port, command) as running:
        assert running.is_serving(), running.said
        running.process.send_signal(signal.SIGTERM)
        running.wait(lambda: running.process.poll() is not None, STOP_SECONDS, "the stop")
        assert running.processes() == set()


def test_a_killed_supervisor_takes_everything_with_it_and_the_next_start_is_clean(data: Path, port: int) -> None:
    with portal(data, port) as first:
        assert first.is_serving(), first.said
        first.process.kill()
        first.wait(lambda: first.processes() <= {first.process.pid}, STOP_SECONDS, "the end of the children")
    with portal(data, port) as second:
        assert second.is_serving(), second.said


def test_two_portals_live_side_by_side_but_not_on_one_folder_or_port(data: Path, port: int, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        other_port = int(probe.getsockname()[1])
    with portal(data, port) as first:
        assert first.is_serving(), first.said
        with portal(tmp_path / "other", other_port) as second:
            assert second.is_serving(), second.said
            assert first.is_serving()
        refused = ((data, other_port, "already runs with"), (tmp_path / "third", port, "Cannot listen on"))
        for folder, at, words in refused:
            answer = subprocess.run(
                [sys.executable, "manage.py", "run"],
                cwd=ROOT,
                env={**os.environ, "DATA_DIR": str(folder), "PORT": str(at)},
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert answer.returncode != 0
            assert words in answer.stderr
            assert "Traceback" not in answer.stderr
        assert first.is_serving()
