"""Words put one after the other, with what stands between them in the reader's language."""

from __future__ import annotations

from collections.abc import Iterable

from django.utils.translation import pgettext


def enumeration(words: Iterable[str]) -> str:
    """Words of one kind as a list: "laptop, phone"."""
    return pgettext("between the items of a list", ", ").join(words)


def statements(sentences: Iterable[str]) -> str:
    """Things said one after the other: "closed; device added: phone"."""
    return pgettext("between two statements", "; ").join(sentences)
