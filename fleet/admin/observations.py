"""What was seen of relays: health, events, outages."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import RelatedDropdownFilter
from unfold.decorators import display

from derp_portal.lib.clock import now
from fleet.models import Outage, RelayEvent, RelayHealth, RelayUptime
from fleet.monitoring.uptime import percent
from fleet.words import trouble

from .base import HistoryAdmin, badge, change_url, link

HEALTH_COLOURS: dict[str, str] = {
    RelayHealth.Status.HEALTHY: "success",
    RelayHealth.Status.STARTING: "info",
    RelayHealth.Status.UNHEALTHY: "danger",
}


@admin.register(RelayHealth)
class RelayHealthAdmin(HistoryAdmin):
    """The latest probe of each relay."""

    list_display = (
        "show_relay",
        "show_owner",
        "show_status",
        "tls_ok",
        "derp_ok",
        "packet_ok",
        "stun_ok",
        "latency_ms",
        "show_error",
        "failures",
        "checked_at",
    )
    list_filter = ("status", ("relay__server", RelatedDropdownFilter))
    list_select_related = ("relay__owner", "relay__server")
    search_fields = ("relay__code", "relay__owner__username", "relay__server__name")
    ordering = ("-checked_at", "-id")

    @display(description=_("relay"), ordering="relay__code")
    def show_relay(self, health: RelayHealth) -> str:
        """Its code."""
        return health.relay.code

    @display(description=_("owner"), ordering="relay__owner")
    def show_owner(self, health: RelayHealth) -> str:
        """Whose relay it is."""
        return str(health.relay.owner)

    @display(description=_("status"), ordering="status")
    def show_status(self, health: RelayHealth) -> str:
        """The status, coloured."""
        return badge(health.get_status_display(), HEALTH_COLOURS[health.status])

    @display(description=_("error"), ordering="error", empty_value="–")
    def show_error(self, health: RelayHealth) -> str | None:
        """In words."""
        return trouble(health.error) or None


@admin.register(RelayUptime)
class RelayUptimeAdmin(HistoryAdmin):
    """How relays answered, day by day."""

    list_display = ("day", "show_relay", "show_owner", "show_share", "probes", "answered", "show_latency")
    list_filter = ("day", ("relay__server", RelatedDropdownFilter))
    list_select_related = ("relay__owner",)
    search_fields = ("relay__code", "relay__owner__username", "relay__server__name")
    ordering = ("-day", "-id")
    show_full_result_count = False

    @display(description=_("relay"), ordering="relay__code")
    def show_relay(self, uptime: RelayUptime) -> str:
        """Its code, with a link."""
        return link(change_url(uptime.relay), uptime.relay.code)

    @display(description=_("owner"), ordering="relay__owner")
    def show_owner(self, uptime: RelayUptime) -> str:
        """Whose relay it is."""
        return str(uptime.relay.owner)

    @display(description=_("uptime"), empty_value="–")
    def show_share(self, uptime: RelayUptime) -> str | None:
        """In percent."""
        return percent(uptime.answered / uptime.probes) if uptime.probes else None

    @display(description=_("mean latency"), empty_value="–")
    def show_latency(self, uptime: RelayUptime) -> str | None:
        """Of the probes that were answered."""
        return f"{uptime.latency_sum_ms / uptime.answered:.1f} ms" if uptime.answered else None


@admin.register(RelayEvent)
class RelayEventAdmin(HistoryAdmin):
    """Everything that ever happened to relays."""

    list_display = ("created_at", "show_relay", "kind", "server", "generation", "detail")
    list_filter = ("kind", "created_at", ("server", RelatedDropdownFilter))
    list_select_related = ("relay__owner", "server")
    search_fields = ("relay__code", "relay__owner__username", "detail")

    @display(description=_("relay"), ordering="relay__code")
    def show_relay(self, event: RelayEvent) -> str:
        """Its code and its owner."""
        return link(change_url(event.relay), f"{event.relay.code} · {event.relay.owner}")


class IsOpen(admin.SimpleListFilter):
    """Outages that go on, or those that are over."""

    title = _("state")
    parameter_name = "open"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """Open or over."""
        return [("yes", _("Open")), ("no", _("Over"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Outage]) -> QuerySet[Outage]:
        """Narrow the list."""
        if self.value() in ("yes", "no"):
            return queryset.filter(ended_at__isnull=self.value() == "yes")
        return queryset


@admin.register(Outage)
class OutageAdmin(HistoryAdmin):
    """Times in which customers went without, and their clocks stood."""

    list_display = ("show_group", "show_owner", "show_cause", "show_state", "started_at", "ended_at", "show_length")
    list_filter = (IsOpen, "cause", "started_at")
    list_select_related = ("group__owner",)
    search_fields = ("group__label", "group__owner__username", "group__owner__email", "cause")

    @display(description=_("group"))
    def show_group(self, outage: Outage) -> str:
        """What went without."""
        return str(outage.group)

    @display(description=_("owner"), ordering="group__owner")
    def show_owner(self, outage: Outage) -> str:
        """Who went without."""
        return str(outage.group.owner)

    @display(description=_("cause"), ordering="cause")
    def show_cause(self, outage: Outage) -> str:
        """In words."""
        return trouble(outage.cause)

    @display(description=_("state"))
    def show_state(self, outage: Outage) -> str:
        """Whether it goes on."""
        return badge(_("Over"), "success") if outage.ended_at else badge(_("Open"), "danger")

    @display(description=_("length"))
    def show_length(self, outage: Outage) -> str:
        """Hours, minutes and seconds, until now while it goes on."""
        return str((outage.ended_at or now()) - outage.started_at).partition(".")[0]
