"""Workers of the suite's own, as processes that may be killed with -9, on the database of the test.

They are forked from a server that has Django loaded: loading it took most of the time of a worker that dies at once.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from django.conf import settings
from django.db import connection

PATIENCE = 120
"""Seconds for one worker."""

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.fleet.ready", __name__])


def database_url() -> str:
    """The test database, as another process finds it."""
    known = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{known['NAME']}"
    return f"postgres://{known['USER']}:{known['PASSWORD']}@{known['HOST']}:{known['PORT']}/{known['NAME']}"


def work(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the program, which finds Django set up, to its end; whichever way it ends is told in `returncode`."""
    given = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:
        said, complained = Path(folder, "stdout"), Path(folder, "stderr")
        worker = _forks.Process(target=_run, args=(program, given, said, complained, settings.ADMISSION_URL))
        # The server starts with the first worker, and reads the settings in its environment then.
        with mock.patch.dict(os.environ, DATABASE_URL=database_url()):
            worker.start()
        worker.join(PATIENCE)
        if worker.is_alive():
            worker.kill()
            worker.join()
            raise subprocess.TimeoutExpired(program, PATIENCE, said.read_text(), complained.read_text())
        assert worker.exitcode is not None
        return subprocess.CompletedProcess(given, worker.exitcode, said.read_text(), complained.read_text())


def _run(program: str, arguments: Sequence[str], said: Path, complained: Path, admission_url: str) -> None:
    for number, path in ((1, said), (2, complained)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    settings.ADMISSION_URL = admission_url
    sys.argv = ["-c", *arguments]
    exec(compile(program, "<worker>", "exec"), {"__name__": "__main__"})
