"""Pages in the reader's own language and time zone, and the cookie that tells browsers apart."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils import timezone, translation

from accounts import services
from accounts.device_cookie import keep
from accounts.models import User

GetResponse = Callable[[HttpRequest], HttpResponse]


def own_language_and_zone(get_response: GetResponse) -> GetResponse:
    """Activate the language and the time zone of who is logged in; others keep what LocaleMiddleware found.

    Somebody who switches the language on a page switches it for good: it is kept with their account.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        user = _reader(request)
        if user is None:
            timezone.deactivate()
            return get_response(request)
        if user.language:
            translation.activate(user.language)
            request.LANGUAGE_CODE = translation.get_language()
        timezone.activate(user.zone)
        try:
            response = get_response(request)
        finally:
            timezone.deactivate()
        chosen = response.cookies.get(settings.LANGUAGE_COOKIE_NAME)
        if chosen is not None and chosen.value != user.language:
            services.update_profile(user_id=user.pk, actor=user, language=chosen.value)
        return response

    return middleware


def device_cookie(get_response: GetResponse) -> GetResponse:
    """Give a browser its name once somebody signs up or logs in by it. Who only looks around gets none."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        keep(request, response)
        return response

    return middleware


def _reader(request: HttpRequest) -> User | None:
    # Not touching the session keeps pages for everybody cacheable.
    if settings.SESSION_COOKIE_NAME not in request.COOKIES:
        return None
    return request.user if isinstance(request.user, User) else None
