"""`make run` as a newcomer meets it: one command, a page that answers, and nothing left when it ends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parts import need
from tests.portals import ROOT, portal
from tests.ports import free_port

# With the stories told on a whole portal: one worker makes the tables of all of them, once.
pytestmark = pytest.mark.xdist_group("portals")

STOP_SECONDS = 120
CHILDREN = ("valkey", "relayd", "web", "worker", "suspects", "beat")


def test_it_serves_tells_the_first_login_once_and_leaves_nothing_behind(empty_data: Path, port: int) -> None:
    data = empty_data
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
    other_port = free_port()
    other = shutil.copytree(data, tmp_path / "other")
    with portal(data, port) as first:
        assert first.is_serving(), first.said
        with portal(other, other_port) as second:
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
                timeout=180,
            )
            assert answer.returncode != 0
            assert words in answer.stderr
            assert "Traceback" not in answer.stderr
        assert first.is_serving()
