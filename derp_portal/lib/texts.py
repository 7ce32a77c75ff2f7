"""What people typed, as it is kept."""

from __future__ import annotations

import re

_NOT_KEPT = re.compile("[\0\ud800-\udfff]")


def can_be_kept(text: str) -> bool:
    """Whether the database can keep `text`: PostgreSQL no zero byte, and UTF-8 no half of a surrogate pair."""
    return not _NOT_KEPT.search(text)


def one_line(text: str) -> str:
    """Without line breaks and spaces that stand twice: it will stand in a mail, where an empty line begins another
    paragraph.
    """
    return " ".join(text.replace("\0", "").split())


def plain(text: str) -> str:
    """With one kind of line break, whichever the browser sends, and nothing around it."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "").strip()
