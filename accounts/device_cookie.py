"""The cookie `device`: a random name for a browser, signed, so that nobody gives theirs the name of another's.

It opens nothing and says nothing about whose browser it is. Somebody who comes without one, or with anything that
this portal has not written, gets a new one.
"""

from __future__ import annotations

import re

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare, salted_hmac

from accounts.services.browsers import KEPT_DAYS
from derp_portal.lib.secrets import new_secret

COOKIE = "device"
SALT = "accounts.device"
_WRITTEN = re.compile(r"([A-Za-z0-9_-]{22})\.([0-9a-f]{32})")


def browser_of(request: HttpRequest) -> str:
    """The name of the browser that sent the request; its cookie is set, or set anew, with the answer."""
    written = _WRITTEN.fullmatch(request.COOKIES.get(COOKIE, ""))
    # What was given to this very request before, by the sign-up whose log-in this is.
    name: str = getattr(request, "device_name", "")
    if not name:
        is_ours = written is not None and constant_time_compare(written[2], _sign(written[1]))
        name = written[1] if written and is_ours else new_secret(16)
    request.device_name = name  # type: ignore[attr-defined]
    return name


def keep(request: HttpRequest, response: HttpResponse) -> None:
    """Set the cookie, if somebody has just signed up or logged in."""
    name = getattr(request, "device_name", "")
    if name:
        response.set_cookie(
            COOKIE,
            f"{name}.{_sign(name)}",
            max_age=KEPT_DAYS * 86_400,
            secure=settings.SESSION_COOKIE_SECURE,
            httponly=True,
            samesite="Lax",
        )


def _sign(name: str) -> str:
    return salted_hmac(SALT, name, algorithm="sha256").hexdigest()[:32]
