"""Texts that a database can keep."""

from __future__ import annotations

import re

_NOT_KEPT = re.compile("[\0\ud800-\udfff]")


def can_be_kept(text: str) -> bool:
    """Whether the database can keep `text`: PostgreSQL no zero byte, and UTF-8 no half of a surrogate pair."""
    return not _NOT_KEPT.search(text)
