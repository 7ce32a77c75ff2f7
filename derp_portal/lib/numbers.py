"""Numbers by which people name an order or a ticket."""

from __future__ import annotations

import secrets
from datetime import date

ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
"""What people read to each other over the phone: nothing in it looks like something else."""


def dated_number(day: date, *, letters: int) -> str:
    """The day, as in "310531", and so many random letters: five bits each, so that nobody guesses the next."""
    return f"{day:%y%m%d}" + "".join(secrets.choice(ALPHABET) for _letter in range(letters))
