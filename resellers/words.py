"""How people and accounts are named where not all of it is for the reader."""

from __future__ import annotations

import re

TAIL = 4
HIDDEN = "•" * 4


def masked(address: str) -> str:
    """An e-mail address by which its owner is known again and nobody can write to them: "al***@e***.com"."""
    name, _at, domain = address.rpartition("@")
    host, dot, ending = domain.rpartition(".")
    shown = name[:2] if len(name) > TAIL else name[:1]
    return f"{shown}***@{(host or ending)[:1]}***{dot}{ending if dot else ''}"


def tail_of(secret: str | None) -> str:
    """The last characters of an account, enough to know it again; "" when there is none, nothing of a short one."""
    plain = re.sub(r"\s+", "", secret or "")
    if not plain:
        return ""
    return HIDDEN + (plain[-TAIL:] if len(plain) >= 2 * TAIL else "")
