"""How hosts are doing and how they did."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.urls import URLPattern, path
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import RelatedDropdownFilter
from unfold.decorators import display

from derp_portal.lib.units import megabits
from fleet.models import Measurement, ServerLoad
from fleet.monitoring.measuring import is_fresh
from fleet.words import trouble

from .base import HistoryAdmin, badge
from .graphs import graphs_page


@admin.register(ServerLoad)
class ServerLoadAdmin(HistoryAdmin):
    """The latest figures of each server, and the way to their graphs."""

    list_display = (
        "server",
        "show_state",
        "show_cpu",
        "show_memory",
        "show_disk",
        "load_average",
        "show_in",
        "show_out",
        "containers_running",
        "measured_at",
    )
    list_filter = ("error", ("server__region", RelatedDropdownFilter))
    list_select_related = ("server",)
    search_fields = ("server__name", "server__ip")
    ordering = ("server__name", "id")
    exclude = ("counters",)

    def get_urls(self) -> list[URLPattern]:
        """With the graphs of all servers."""
        return [path("graphs/", self.admin_site.admin_view(self.graphs), name="fleet_graphs"), *super().get_urls()]

    def graphs(self, request: HttpRequest) -> HttpResponseBase:
        """Every server's past at a glance."""
        return graphs_page(self, request)

    @display(description=_("state"))
    def show_state(self, load: ServerLoad) -> str:
        """Whether the figures are the present ones, and if not, why."""
        if is_fresh(load):
            return badge(_("Current"), "success")
        return badge(trouble(load.error) or _("Not measured"), "danger")

    @display(description=_("CPU"), ordering="cpu_percent")
    def show_cpu(self, load: ServerLoad) -> str:
        """Percent of all cores."""
        return _percent(load.cpu_percent)

    @display(description=_("memory"), ordering="memory_percent")
    def show_memory(self, load: ServerLoad) -> str:
        """Percent that programs could not have."""
        return _percent(load.memory_percent)

    @display(description=_("disk"), ordering="disk_percent")
    def show_disk(self, load: ServerLoad) -> str:
        """Percent of the root file system."""
        return _percent(load.disk_percent)

    @display(description=_("incoming"), ordering="network_in")
    def show_in(self, load: ServerLoad) -> str:
        """As lines are sold."""
        return _speed(load.network_in)

    @display(description=_("outgoing"), ordering="network_out")
    def show_out(self, load: ServerLoad) -> str:
        """As lines are sold."""
        return _speed(load.network_out)


class SpanFilter(admin.SimpleListFilter):
    """Readings unless hours or days are asked for: without a span no index gives the newest rows."""

    title = _("span")
    parameter_name = "span"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """The coarser ones; what stands for all are the readings."""
        return [(span.value, span.label) for span in (Measurement.Span.HOUR, Measurement.Span.DAY)]

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        """The same, with "all" called what it is."""
        first, *others = super().choices(changelist)
        yield {**first, "display": Measurement.Span.READING.label}
        yield from others

    def queryset(self, request: HttpRequest, queryset: QuerySet[Measurement]) -> QuerySet[Measurement]:
        """Narrow the list, always."""
        return queryset.filter(span=self.value() or Measurement.Span.READING)


@admin.register(Measurement)
class MeasurementAdmin(HistoryAdmin):
    """What was measured of servers; narrowed by server, metric and time."""

    list_display = ("timestamp", "server", "metric", "span", "value", "highest")
    list_filter = (SpanFilter, "metric", ("server", RelatedDropdownFilter), "timestamp")
    list_select_related = ("server",)
    sortable_by = ()


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} %"


def _speed(value: float | None) -> str:
    return "–" if value is None else megabits(int(value))
