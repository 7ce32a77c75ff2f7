"""How accounts are named where not all of it is for the reader."""

from __future__ import annotations

import re

TAIL = 4
HIDDEN = "•" * 4


def tail_of(secret: str | None) -> str:
    """The last characters of an account, enough to know it again; "" when there is none, nothing of a short one."""
    words, digits = (secret or "").split(), re.sub(r"\D", "", secret or "")
    if not words:
        return ""
    # A bank's name or the holder's may stand before or behind the number, and is nobody's business.
    plain = digits if len(digits) >= 2 * TAIL else words[0]
    return HIDDEN + (plain[-TAIL:] if len(plain) >= 2 * TAIL else "")
