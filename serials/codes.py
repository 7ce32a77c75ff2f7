"""Serial codes: readable, forgiving, with a check character, and too many to guess."""

from __future__ import annotations

import secrets

from stdnum import luhn

# Crockford's base 32: no I, L, O, U, so nothing is mistaken for 1, 0 or V.
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
LENGTH = 24
"""23 random characters (115 bits) and one check character."""

# 256 is a multiple of 32, so every character is as likely as any other.
_FROM_BYTES = (ALPHABET * 8).encode()

_FORGIVEN = str.maketrans({"I": "1", "L": "1", "O": "0"})


def new_code() -> str:
    """A fresh canonical code of LENGTH characters, from the system's randomness."""
    body = secrets.token_bytes(LENGTH - 1).translate(_FROM_BYTES).decode()
    return body + luhn.calc_check_digit(body, ALPHABET)


def canonical(text: str) -> str:
    """What a person typed, as it would be stored: no spaces or dashes, upper case, I/L as 1, O as 0.

    Never fails and never longer than a code: what cannot be one comes back as something no code equals.
    """
    kept = "".join(character for character in text.upper() if character.isalnum())
    return kept.translate(_FORGIVEN)[: LENGTH + 1]


def is_well_formed(code: str) -> bool:
    """True when a canonical code has the right length, alphabet and check character."""
    if len(code) != LENGTH or any(character not in ALPHABET for character in code):
        return False
    return bool(luhn.is_valid(code, ALPHABET))


def grouped(code: str) -> str:
    """For people: groups of four with dashes."""
    return "-".join(code[start : start + 4] for start in range(0, len(code), 4))
