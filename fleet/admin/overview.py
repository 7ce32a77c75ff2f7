"""The fleet overview: every server by region, and a map, refreshed by itself."""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import urlencode

from django.contrib.admin import ModelAdmin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _

from fleet.models import Server
from fleet.overview import MAP_HEIGHT, MAP_WIDTH, WORST_FIRST, fleet_overview

PHASE_COLOURS: dict[str, str] = {
    Server.Phase.HEALTHY: "success",
    Server.Phase.SUSPECT: "warning",
    Server.Phase.UNHEALTHY: "danger",
    Server.Phase.RECOVERED: "info",
}


class Chip(NamedTuple):
    """One choice of a filter."""

    text: Any
    address: str
    is_chosen: bool


def overview_page(model_admin: ModelAdmin[Any], request: HttpRequest) -> HttpResponseBase:
    """The page, narrowed by `region` and `phase` of its address; values that mean nothing narrow nothing."""
    if not model_admin.has_view_permission(request):
        raise PermissionDenied
    overview = fleet_overview()
    regions = {table.region.code: table.region.local_name for table in overview.tables}
    phase, region = request.GET.get("phase", ""), request.GET.get("region", "")
    phase = phase if phase in Server.Phase.values else ""
    region = region if region in regions else ""
    tables = overview.narrowed(region=region, phase=phase)
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.model._meta,
        "title": _("Fleet overview"),
        "overview": overview,
        "tables": tables,
        "shown": sum(len(table.lines) for table in tables),
        "all": sum(count for _phase, count in overview.totals.phases),
        "phase_chips": [
            Chip(_("All phases"), _address(region=region), not phase),
            *(Chip(one.label, _address(region=region, phase=one), one == phase) for one in reversed(WORST_FIRST)),
        ],
        "region_chips": [
            Chip(_("All regions"), _address(phase=phase), not region),
            *(Chip(name, _address(region=code, phase=phase), code == region) for code, name in regions.items()),
        ],
        "map_width": MAP_WIDTH,
        "map_height": MAP_HEIGHT,
        "meridians": range(60, MAP_WIDTH, 60),
        "parallels": range(60, MAP_HEIGHT, 60),
        "may_change": model_admin.has_change_permission(request),
    }
    return TemplateResponse(request, "admin/fleet/overview.html", context)


def _address(**filters: str) -> str:
    return "?" + urlencode({name: value for name, value in filters.items() if value})
