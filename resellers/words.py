"""How accounts are named where not all of it is for the reader."""

from __future__ import annotations

import re

TAIL = 4
HIDDEN = "•" * 4


def tail_of(secret: str | None) -> str:
    """The last characters of an account, enough to know it again; "" when there is none, nothing of a short one."""
    plain = re.sub(r"\s+", "", secret or "")
    if not plain:
        return ""
    return HIDDEN + (plain[-TAIL:] if len(plain) >= 2 * TAIL else "")
