"""The nightly look at the books: what differs is told to operators until it does not any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from billing.finance.books import check_books

from .watching import tell_staff, told_staff_is_over


def check_and_tell(*more: Callable[[], Sequence[Any]]) -> int:
    """Check the books, and whatever else compares figures; raise or close the alert. The number of differences."""
    findings = [*check_books(), *(finding for check in more for finding in check())]
    if findings:
        tell_staff("books_differ", subject="books", count=len(findings), first=str(findings[0]))
    else:
        told_staff_is_over("books_differ", subject="books")
    return len(findings)
