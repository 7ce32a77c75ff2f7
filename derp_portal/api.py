"""The JSON API: every room's routers under one roof, with one error envelope and the documentation at `/api/docs`."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.urls import URLPattern, URLResolver, re_path
from django.utils.translation import gettext as _
from django.views.decorators.csrf import csrf_exempt
from ninja import NinjaAPI

import accounts.api
import billing.api
import fleet.api
import resellers.api
import serials.api
from accounts.apikit import CarefulParser, error_response, install_handlers
from derp_portal.system_log.api import logs

DESCRIPTION = """
Rent, run and look after private DERP relays.

Every answer is `{"success": true, …}`; every failure is `{"success": false, "error": {"code", "message"}}` with a
fitting HTTP status. `code` is for programs and never changes, `message` is for people, in their language.

Get a token from `/api/user/login` or on your page “API tokens”, press **Authorize** and paste it. Lists take `page` and
`per_page` (200 at most) and answer `items`, `page`, `pages` and `total`.
"""


class PortalAPI(NinjaAPI):
    """A NinjaAPI whose envelope also holds what never reaches an operation: unknown addresses and wrong methods."""

    @property
    def urls(self) -> tuple[list[URLResolver | URLPattern], str, str]:
        """Every route of the API, and one that catches the rest."""
        patterns, app_name, namespace = super().urls
        enveloped: list[URLResolver | URLPattern] = [self._in_envelope(pattern) for pattern in patterns]
        return [*enveloped, re_path(r"", self._unknown_address, name="unknown")], app_name, namespace

    def _in_envelope(self, route: URLResolver | URLPattern) -> URLResolver | URLPattern:
        if not isinstance(route, URLPattern):
            return route
        view: Callable[..., HttpResponse] = route.callback

        @csrf_exempt
        @wraps(view)
        def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            try:
                response = view(request, *args, **kwargs)
            except Http404:
                return self._unknown_address(request)
            if not isinstance(response, HttpResponseNotAllowed):
                return response
            message = _("This address takes another method.")
            answer = error_response(self, request, code="method_not_allowed", message=message, status=405)
            answer["Allow"] = response["Allow"]
            return answer

        return URLPattern(route.pattern, wrapped, route.default_args, route.name)

    @csrf_exempt
    def _unknown_address(self, request: HttpRequest) -> HttpResponse:
        message = _("There is nothing at this address. The documentation is at /api/docs.")
        return error_response(self, request, code="not_found", message=message, status=404)


api = PortalAPI(
    title="DERP Portal",
    version="1",
    description=DESCRIPTION,
    urls_namespace="api",
    docs_url="/docs",
    parser=CarefulParser(),
)
install_handlers(api)

api.add_router("/user", accounts.api.user)
api.add_router("/user", serials.api.renewal)
api.add_router("/serial", serials.api.serial)
api.add_router("/lease", serials.api.lease)
api.add_router("/server", fleet.api.server)
api.add_router("/region", fleet.api.region)
api.add_router("/container", fleet.api.container)
api.add_router("/container", serials.api.release)
api.add_router("/traffic", fleet.api.traffic)
api.add_router("/ha", fleet.api.ha)
api.add_router("/rollout", fleet.api.rollout)
api.add_router("/alerts", fleet.api.alerts)
api.add_router("/monitoring", fleet.api.monitoring)
api.add_router("/acl", serials.api.acl)
api.add_router("/acl", fleet.api.access)
api.add_router("/announcement", accounts.api.announcement)
api.add_router("/notifications", accounts.api.notifications)
api.add_router("/ticket", accounts.api.ticket)
api.add_router("/logs", logs)
api.add_router("/plan", billing.api.plan)
api.add_router("/pack", billing.api.pack)
api.add_router("/payment", billing.api.payment)
# Before the orders: behind them, a number may be any word.
api.add_router("/order", billing.api.desk)
api.add_router("/order", billing.api.order)
api.add_router("/serial", billing.api.shop)
api.add_router("/finance", billing.api.finance)
api.add_router("/reseller", resellers.api.reseller)
