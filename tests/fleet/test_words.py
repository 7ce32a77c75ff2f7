"""Every way in which something can go wrong has words for people."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from fleet.derp import errors
from fleet.runtimes import base
from fleet.words import TROUBLE

FLEET = Path(base.__file__).parents[1]
FAILURES = {"Rejected", "Unavailable", "RelayFailure", "NetworkFailure", "NotOurRelay", "NoPlace"}
NOTES = {"note_trouble": 1, "_note": 1}
"""Calls that write a code down, and where it stands among their arguments."""


def codes_raised() -> Iterator[str]:
    """The codes that stand as they are in the source, wherever a failure is made or trouble noted."""
    for path in FLEET.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            place = 0 if node.func.id in FAILURES else NOTES.get(node.func.id, len(node.args))
            for argument in node.args[place : place + 1]:
                parts = (part.value for part in ast.walk(argument) if isinstance(part, ast.Constant))
                yield from (value for value in parts if isinstance(value, str))


def codes_promised() -> Iterator[str]:
    """The codes that the failures themselves say they have."""
    for kind in (base.Unavailable, base.Rejected, errors.NetworkFailure, errors.NotOurRelay, errors.Denied):
        yield from re.findall(r"`([a-z_]+)`", (kind.__doc__ or "").partition("Code")[2])


def test_every_code_has_words_and_no_words_are_for_nothing() -> None:
    assert set(codes_raised()) | set(codes_promised()) == set(TROUBLE)
