"""Money: whole minor units (cents, fen) and a currency, as people and gateways write it."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from babel.core import UnknownLocaleError
from babel.numbers import format_currency, get_currency_precision
from django.utils.translation import get_language

LARGEST = 10**12
"""Minor units; more than this in one amount is a typing mistake, and sums stay far within 64 bits."""

_PLAIN = re.compile(r"-?[0-9]{1,13}(\.[0-9]+)?")


def exponent(currency: str) -> int:
    """How many decimal places the currency has: 2 for CNY, 0 for JPY."""
    return get_currency_precision(currency)


def to_decimal(amount: int, currency: str) -> Decimal:
    """Minor units as a decimal number: 1234 fen are Decimal("12.34")."""
    return Decimal(amount).scaleb(-exponent(currency))


def to_text(amount: int, currency: str) -> str:
    """As programs and gateways write it: "12.34", "500" for yen. No sign of the currency, no grouping."""
    return f"{to_decimal(amount, currency):.{exponent(currency)}f}"


def to_minor(text: str | Decimal, currency: str) -> int:
    """Minor units of what was written as a plain decimal number.

    Raises ValueError for what is no number, is finer than the currency, or is absurdly large. Never rounds: a price
    of 1.005 is a mistake, not 1.01.
    """
    written = str(text).strip()
    if not _PLAIN.fullmatch(written):
        raise ValueError(f"{written!r} is not an amount")
    try:
        scaled = Decimal(written).scaleb(exponent(currency))
    except InvalidOperation as error:
        raise ValueError(f"{written!r} is not an amount") from error
    if scaled != scaled.to_integral_value():
        raise ValueError(f"{written!r} is finer than {currency} has coins")
    if abs(scaled) > LARGEST:
        raise ValueError(f"{written!r} is too large")
    return int(scaled)


def for_people(amount: int, currency: str) -> str:
    """In the reader's language: "¥12.34", "US$5.00"."""
    language = (get_language() or "en").partition("-")
    locale = "zh_Hans_CN" if language[0] == "zh" else "en"
    try:
        return format_currency(to_decimal(amount, currency), currency, locale=locale)
    except (UnknownLocaleError, KeyError):
        return f"{to_text(amount, currency)} {currency}"


def share(amount: int, parts: int) -> list[int]:
    """`amount` in `parts` shares that differ by one unit at most and add up to it exactly; the larger ones first."""
    whole, rest = divmod(amount, parts)
    return [whole + (1 if number < rest else 0) for number in range(parts)]


def percent_of(amount: int, basis_points: int) -> int:
    """So many hundredths of a percent of a positive amount, rounded half up to whole minor units."""
    return (amount * basis_points + 5000) // 10000
