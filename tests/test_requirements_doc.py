"""`docs/requirements.md` names tests that exist, so that a promise cannot lose its proof unnoticed."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_every_test_that_the_requirements_name_exists() -> None:
    missing = []
    for line in (ROOT / "docs" / "requirements.md").read_text().splitlines():
        path = None
        for named in re.findall(r"`((?:tests/[\w/.]+)?(?:::)?(?:test_\w+)?)`", line):
            file, _separator, function = named.rpartition("::") if "::" in named else ("", "", named)
            if named.startswith("tests/") and not file:
                path, function = ROOT / named, ""
            elif file:
                path = ROOT / file
            if path is None or not path.exists() or (function and f"def {function}(" not in _texts(path, line)):
                missing.append(named)
    assert missing == []


def _texts(path: Path, line: str) -> str:
    """The named file, and the others that the same line names: a bare name may be in any of them."""
    files = {path, *(ROOT / name for name in re.findall(r"`(tests/[\w/.]+\.py)", line))}
    return "\n".join(file.read_text() for file in files if file.exists())
