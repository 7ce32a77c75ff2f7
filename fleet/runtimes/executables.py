"""Which program `relayd` runs as a relay. Its "images" are names for that choice."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .base import Rejected

IMAGE_AUTO = "process:auto"
"""derper where there is one, else the bundled relay. What relays on a process host should ask for."""
IMAGE_DERPER = "process:derper"
IMAGE_BUNDLED = "process:bundled"

BUNDLED_MODULE = "fleet.derp.relay"
_SOURCE_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Executable:
    """`kind` is `derper` or `bundled`; `argv` comes before a relay's own arguments, `env` below its own."""

    kind: str
    argv: tuple[str, ...]
    env: Mapping[str, str]

    def version(self) -> str:
        """What the program says of itself, such as `derper 1.102.3`. Runs it once; never raises."""
        if self.kind == "bundled":
            return "bundled development relay"
        try:
            done = subprocess.run([*self.argv, "-version"], capture_output=True, check=False, text=True, timeout=5)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"derper, version unknown ({error})"
        return f"derper {done.stdout.strip().split('-')[0] or 'of unknown version'}"


def find_executable(image: str = IMAGE_AUTO) -> Executable:
    """DERPER_BIN, else derper on PATH, else the bundled relay. Raises `Rejected("image_missing")`."""
    if image not in (IMAGE_AUTO, IMAGE_DERPER, IMAGE_BUNDLED):
        raise Rejected("image_missing", f"{image} is not one of {IMAGE_AUTO}, {IMAGE_DERPER}, {IMAGE_BUNDLED}")
    if image != IMAGE_BUNDLED:
        derper = _derper()
        if derper is not None:
            return Executable("derper", (derper,), {})
        if image == IMAGE_DERPER:
            raise Rejected("image_missing", "derper is not on PATH and DERPER_BIN is not set")
    if importlib.util.find_spec(BUNDLED_MODULE) is None:
        raise Rejected("image_missing", "neither derper nor the bundled relay is installed")
    return Executable("bundled", (sys.executable, "-m", BUNDLED_MODULE), {"PYTHONPATH": str(_SOURCE_ROOT)})


def _derper() -> str | None:
    named = os.environ.get("DERPER_BIN")
    if not named:
        return shutil.which("derper")
    if not os.access(named, os.X_OK):
        # Running something else than what the operator named would hide the mistake.
        raise Rejected("image_missing", f"DERPER_BIN names {named}, which cannot be executed")
    return os.path.abspath(named)
