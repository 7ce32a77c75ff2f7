"""Turning a mail template into a subject, a text part and an HTML part that say the same.

A template `mail/<kind>.txt` is plain text (nothing is escaped in it). Its first line is `Subject: …`; paragraphs
follow, parted by blank lines. Two kinds of paragraph are special: `Button: …` labels the button, whose address the
caller gives, and `Reason: …` says why one gets this mail. The markers stay outside the translated words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from django.conf import settings
from django.template import Context, Engine
from django.template.loader import render_to_string
from django.utils import timezone, translation
from django.utils.translation import gettext as _

from derp_portal.lib.texts import plain


@dataclass(frozen=True, slots=True)
class Mail:
    """What somebody will read. `html` is a whole document."""

    subject: str
    text: str
    html: str


@dataclass(frozen=True, slots=True)
class Draft:
    """A mail in words, before it has a form."""

    subject: str
    paragraphs: Sequence[str]
    button_label: str = ""
    reason: str = ""


def read_draft(rendered: str) -> Draft:
    """Parse a rendered template. Raises ValueError when the first line is no `Subject: …`."""
    head, _newline, rest = rendered.lstrip().partition("\n")
    if not head.startswith("Subject: "):
        raise ValueError("a mail template must start with a line “Subject: …”")
    paragraphs, special = [], {"Button": "", "Reason": ""}
    for block in re.split(r"\n\s*\n", rest.strip()):
        marker, _colon, words = block.strip().partition(": ")
        if marker in special:
            special[marker] = words.strip()
        elif block.strip():
            paragraphs.append(block.strip())
    return Draft(head.removeprefix("Subject: "), paragraphs, special["Button"], special["Reason"])


def paragraphs(text: str) -> list[str]:
    """Somebody's own words, parted where they left a line empty."""
    return [part.strip() for part in re.split(r"\n\s*\n", plain(text)) if part.strip()]


def absolute(url: str) -> str:
    """`url` as people outside can open it."""
    return f"{settings.PUBLIC_URL}{url}" if url.startswith("/") else url


def path_of(url: str) -> str:
    """`url` without its scheme and host, for links that a library built from a request's Host header."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def render(template: str, context: Mapping[str, Any], *, language: str, zone: ZoneInfo, button_url: str = "") -> Mail:
    """The mail of the template at that path, in the reader's `language`, with times in the reader's `zone`."""
    with translation.override(language), timezone.override(zone):
        # Plain text: an apostrophe must stay one. The HTML part escapes the paragraphs on its own.
        words = Engine.get_default().get_template(template).render(Context(dict(context), autoescape=False))
        return compose(read_draft(words), button_url=button_url)


def compose(draft: Draft, *, button_url: str = "") -> Mail:
    """The mail of the draft, framed in the active language."""
    # One line, whatever came into it: a line break in a header would forge the next one.
    subject = " ".join(draft.subject.split())[:255]
    site_name = _("DERP Portal")
    button_url = absolute(button_url)
    reason = draft.reason or _("You get this mail because you have an account at this portal.")
    parts = [*draft.paragraphs]
    if button_url:
        label = _("%(label)s:") % {"label": draft.button_label} if draft.button_label else ""
        parts.append(f"{label}\n{button_url}".lstrip())
    text = "\n\n".join([*parts, f"-- \n{site_name} · {settings.PUBLIC_URL}\n{reason}"]) + "\n"
    html = render_to_string(
        "mail/base.html",
        {
            "subject": subject,
            "paragraphs": draft.paragraphs,
            "button_label": draft.button_label or _("Open the page"),
            "button_url": button_url,
            "reason": reason,
            "site_name": site_name,
        },
    )
    return Mail(subject, text, html)
