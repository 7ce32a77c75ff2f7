"""Numbers of rows, as they come from outside."""

from __future__ import annotations

LARGEST = 2**63 - 1
"""Keys end there, and SQLite takes no larger number in a question either."""


def id_in(text: str) -> int | None:
    """The id that `text` is; None for what can be none, however long."""
    # Python itself reads no numbers of more than 4300 digits.
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(LARGEST))
    return number if is_number and (number := int(text)) <= LARGEST else None
