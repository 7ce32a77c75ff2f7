"""What every request passes: whose address it is, and how an error for people becomes a page."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from csp.constants import HEADER
from csp.utils import build_policy
from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.defaults import bad_request

from accounts import request_ip
from derp_portal.lib.errors import PortalError
from fleet.views import admit

GetResponse = Callable[[HttpRequest], HttpResponse]


def client_address(get_response: GetResponse) -> GetResponse:
    """Set `request.client_ip` to the address we trust, also for code without a request, and loosen /admin's policy.

    It runs outside django-csp, so the admin's own policy replaces the one that is already on the response.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        request.client_ip = trusted_ip(request)  # type: ignore[attr-defined]
        with request_ip.remember(request.client_ip):  # type: ignore[attr-defined]
            response = get_response(request)
        if HEADER in response and request.path.startswith(reverse("admin:index")):
            response[HEADER] = build_policy(config=settings.ADMIN_CSP)
        return response

    return middleware


def trusted_ip(request: HttpRequest) -> str | None:
    """The address the outermost of our proxies saw; without proxies, the one that is connected to us.

    Each proxy appends the address it saw, so only the last `TRUSTED_PROXIES` entries of X-Forwarded-For are ours to
    believe; what stands before them, anybody may have written. None for a connection without an address.
    """
    remote = _clean(request.META.get("REMOTE_ADDR", ""))
    if not settings.TRUSTED_PROXIES:
        return remote
    hops = [hop for hop in request.headers.get("X-Forwarded-For", "").split(",") if hop.strip()]
    if not hops:
        return remote
    return _clean(hops[-min(settings.TRUSTED_PROXIES, len(hops))]) or remote


def errors_for_people(get_response: GetResponse) -> GetResponse:
    """Show a PortalError that a page raised as a page, with its status. (The API has an envelope of its own.)"""

    def middleware(request: HttpRequest) -> HttpResponse:
        return get_response(request)

    def process_exception(request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if not isinstance(exception, PortalError):
            return None
        response = render(request, "error.html", {"error": exception}, status=exception.status)
        if retry_after := exception.extra.get("retry_after"):
            response["Retry-After"] = str(retry_after)
        return response

    middleware.process_exception = process_exception  # type: ignore[attr-defined]
    return middleware


def no_zero_bytes_in_cookies(get_response: GetResponse) -> GetResponse:
    """Take a cookie with a zero byte in it (`"\\000"`) for not sent: we make none, and sessions are looked up by one.

    To refuse it would lock the browser out for as long as it keeps the cookie.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        request.COOKIES = {name: value for name, value in request.COOKIES.items() if "\0" not in value}
        return get_response(request)

    return middleware


def no_zero_bytes(get_response: GetResponse) -> GetResponse:
    """Refuse an address with a zero byte in it, as one that cannot be read: PostgreSQL keeps and finds no such text.

    What is sent in forms and in JSON, those who read it refuse.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        if "\0" in request.path_info or "%00" in request.META.get("QUERY_STRING", ""):
            if not request.path_info.startswith("/api/"):
                return bad_request(request, SuspiciousOperation("a zero byte in the address"))
            error = {"code": "invalid_request", "message": _("There is a zero byte in the address.")}
            return JsonResponse({"success": False, "error": error}, status=400)
        return get_response(request)

    return middleware


def _clean(text: str) -> str | None:
    """The bare address in `text`, which may carry brackets or a port; None when there is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


DOOR = "/derp/admit/"


def machine_door(get_response: GetResponse) -> GetResponse:
    """Relays' questions go straight to the door, past sessions, languages, pages and their logs.

    They come by the thousand when a host restarts, from machines that hold a secret and nothing else; what the door
    answers it logs itself.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        if request.path_info.startswith(DOOR) and "/" not in (secret := request.path_info[len(DOOR) :]):
            response = admit(request, secret)
            response["Content-Length"] = str(len(response.content))
            return response
        return get_response(request)

    return middleware
