"""Words in the reader's language: what stands between several, and which of two that somebody wrote."""

from __future__ import annotations

from collections.abc import Iterable

from django.utils.translation import get_language, pgettext


def enumeration(words: Iterable[str]) -> str:
    """Words of one kind as a list: "laptop, phone"."""
    return pgettext("between the items of a list", ", ").join(words)


def statements(sentences: Iterable[str]) -> str:
    """Things said one after the other: "closed; device added: phone"."""
    return pgettext("between two statements", "; ").join(sentences)


def local(english: str, chinese: str) -> str:
    """What the operator wrote in one language or in both, for the reader: `english` where there is no Chinese."""
    return chinese if chinese and (get_language() or "").startswith("zh") else english
