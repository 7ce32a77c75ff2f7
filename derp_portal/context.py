"""What every page knows without its view having said so."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.utils.translation import gettext as _


def portal(request: HttpRequest) -> dict[str, Any]:
    """The site's name, whether this is the embedded default, where mail goes when it is not sent, the languages.

    Asks the database nothing: error pages are rendered with it too.
    """
    return {
        "site_name": _("DERP Portal"),
        "is_embedded": settings.EMBEDDED,
        "mail_dir": settings.MAIL_DIR,
        "languages": settings.LANGUAGES,
    }
