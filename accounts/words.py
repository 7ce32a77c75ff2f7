"""How people are named where not all of it is for the reader."""

from __future__ import annotations

LONG = 4


def masked(address: str) -> str:
    """An e-mail address by which its owner is known again and nobody can write to them: "al***@e***.com"."""
    name, _at, domain = address.rpartition("@")
    host, dot, ending = domain.rpartition(".")
    shown = name[:2] if len(name) > LONG else name[:1]
    return f"{shown}***@{(host or ending)[:1]}***{dot}{ending if dot else ''}"
