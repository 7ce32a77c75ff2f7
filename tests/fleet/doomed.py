"""Workers of the suite's own, as processes that may be killed with -9, on the database of the test."""

from __future__ import annotations

import os
import subprocess
import sys

from django.conf import settings
from django.db import connection

from tests.fleet.engines import ROOT


def database_url() -> str:
    """The test database, as another process finds it."""
    known = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{known['NAME']}"
    return f"postgres://{known['USER']}:{known['PASSWORD']}@{known['HOST']}:{known['PORT']}/{known['NAME']}"


def work(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the program, which sets Django up itself, to its end; whichever way it ends is told in `returncode`."""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": database_url(), "ADMISSION_URL": settings.ADMISSION_URL},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
