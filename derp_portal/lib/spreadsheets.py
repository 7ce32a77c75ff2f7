"""Tables that people open in a spreadsheet program, which takes some texts for commands."""

from __future__ import annotations

from typing import Any

# Spreadsheets run what starts with one of these as a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")

BYTE_ORDER_MARK = "\ufeff"
"""What a CSV file begins with: Excel needs it to read Chinese names."""


def safe_cell(value: Any) -> str:
    """The value as text that no spreadsheet takes for a formula."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA_STARTS) else text
