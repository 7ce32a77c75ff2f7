"""What every page knows without its view having said so."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from django.utils.translation import gettext as _

from accounts.selectors import shown_above_pages


def portal(request: HttpRequest) -> dict[str, Any]:
    """The site's name, whether this is the embedded default, where mail goes when it is not sent, the languages.

    Asks the database nothing by itself: error pages are rendered with it too, which show no announcements.
    """
    return {
        "site_name": _("DERP Portal"),
        "is_embedded": settings.EMBEDDED,
        "mail_dir": settings.MAIL_DIR,
        "languages": settings.LANGUAGES,
        "announcements": lambda: shown_above_pages(getattr(request, "user", AnonymousUser())),
    }
