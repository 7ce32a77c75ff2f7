"""Graphs of every server, for operators: ten servers a page, refreshed by themselves."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib.admin import ModelAdmin
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Q
from django.http import HttpRequest, HttpResponseBase
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _

from fleet.graphs import RANGES, graphs_of
from fleet.models import Region, Server
from fleet.monitoring.uptime import percent, uptime_of_servers

from .overview import PHASE_COLOURS, Chip

PER_PAGE = 10
DEFAULT_RANGE = RANGES[1]


def graphs_page(model_admin: ModelAdmin[Any], request: HttpRequest) -> HttpResponseBase:
    """The page, narrowed by `region` and `q` of its address; values that mean nothing narrow nothing."""
    if not model_admin.has_view_permission(request):
        raise PermissionDenied
    regions = {region.code: region.local_name for region in Region.objects.order_by("code")}
    asked = {name: request.GET.get(name, "") for name in ("region", "q", "range")}
    region = asked["region"] if asked["region"] in regions else ""
    search = asked["q"].strip()[:100].replace("\x00", "")
    reach = next((one for one in RANGES if one.key == asked["range"]), DEFAULT_RANGE)
    chosen = {"range": reach.key, "region": region, "q": search}
    servers = Server.objects.select_related("region", "figures").order_by("name", "pk")
    if region:
        servers = servers.filter(region__code=region)
    if search:
        servers = servers.filter(Q(name__icontains=search) | Q(ip__startswith=search))
    # Their keys are not needed, and take long to decrypt.
    servers = servers.defer("tls_ca", "tls_certificate", "tls_key")
    part = Paginator(servers, PER_PAGE).get_page(request.GET.get("page"))
    rows: list[Any] = list(part)
    ids = [server.pk for server in rows]
    graphs, uptime = graphs_of(ids, reach), uptime_of_servers(ids)
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.model._meta,
        "title": _("Graphs of the fleet"),
        "part": part,
        "rows": [
            (server, PHASE_COLOURS[server.phase], percent(uptime[server.pk].month), graphs[server.pk])
            for server in rows
        ],
        "reach": reach,
        "search": search,
        "region": region,
        "range_chips": [Chip(one.label, _address(chosen | {"range": one.key}), one is reach) for one in RANGES],
        "region_chips": [
            Chip(_("All regions"), _address(chosen | {"region": ""}), not region),
            *(Chip(name, _address(chosen | {"region": code}), code == region) for code, name in regions.items()),
        ],
        "previous": part.has_previous() and _address(chosen | {"page": str(part.previous_page_number())}),
        "following": part.has_next() and _address(chosen | {"page": str(part.next_page_number())}),
    }
    return TemplateResponse(request, "admin/fleet/graphs.html", context)


def _address(filters: dict[str, str]) -> str:
    return "?" + urlencode({name: value for name, value in filters.items() if value})
