"""Every way in which something can go wrong has words for people."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from fleet.derp import errors
from fleet.runtimes import base
from fleet.words import ADVICE, TROUBLE, advice, trouble

FLEET = Path(base.__file__).parents[1]
FAILURES = {"Rejected", "Unavailable", "RelayFailure", "NetworkFailure", "NotOurRelay", "NoPlace", "FiguresFailure"}
NOTES = {"note_trouble": 1, "_note": 1}
"""Calls that write a code down, and where it stands among their arguments."""
EVENTS = {"host_lost", "quarantined"}
"""Codes of what the portal itself does to a relay; no failure carries them."""


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
    assert set(codes_raised()) | set(codes_promised()) | EVENTS == set(TROUBLE)


def test_advice_is_given_only_for_trouble_that_has_a_name() -> None:
    assert set(ADVICE) <= set(TROUBLE)
    assert advice("no_such_code") == ""


def test_operators_are_told_what_to_do_about_a_host_that_cannot_be_reached() -> None:
    about_reaching = set(re.findall(r"`([a-z_]+)`", (base.Rejected.__doc__ or "").partition("Codes of a wrong")[2]))
    about_reaching |= set(re.findall(r"`([a-z_]+)`", (base.Unavailable.__doc__ or "")))
    assert about_reaching - {"busy"} <= set(ADVICE)


def test_what_customers_read_names_no_path_address_or_command() -> None:
    for code in TROUBLE:
        assert not re.search(r"://|/\w|\d|docker |systemctl", trouble(code)), code
