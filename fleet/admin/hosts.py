"""Regions and servers."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from unfold.contrib.filters.admin import RelatedDropdownFilter
from unfold.decorators import display

from derp_portal.lib.errors import PortalError
from fleet import services
from fleet.models import Region, Relay, Server
from fleet.overview import versions_on
from fleet.selectors import servers
from fleet.words import advice, trouble

from .base import EditableAdmin, actor, badge, link, list_url, size
from .moves import timeline
from .overview import PHASE_COLOURS, overview_page
from .server_actions import ServerActions
from .server_form import ServerForm


@admin.register(Region)
class RegionAdmin(EditableAdmin):
    """Places customers can wish for. Plans and groups may name them, so they are renamed rather than deleted."""

    list_display = ("code", "name", "name_zh", "latitude", "longitude")
    search_fields = ("code", "name", "name_zh")

    def has_delete_permission(self, request: HttpRequest, obj: Region | None = None) -> bool:
        """A plan that named only this region would mean "everywhere" without it."""
        return False


@admin.register(Server)
class ServerAdmin(ServerActions):
    """Hosts that run relays. Every write goes through `fleet.services`."""

    form = ServerForm
    list_display = (
        "name",
        "ip",
        "region",
        "show_phase",
        "show_reason",
        "show_load",
        "show_relays",
        "show_allowance",
        "show_traffic",
        "last_seen_at",
    )
    list_filter = ("phase", "status", "is_enabled", "is_draining", "runtime", ("region", RelatedDropdownFilter))
    list_select_related = ("region",)
    search_fields = ("name", "ip", "region__code", "region__name", "provider")
    change_form_outer_before_template = "admin/fleet/server_failover.html"
    change_form_outer_after_template = "admin/fleet/server_timeline.html"
    readonly_fields = (
        "show_phase",
        "phase_since",
        "failed_looks",
        "show_reason",
        "show_advice",
        "error_detail",
        "error_since",
        "last_seen_at",
        "engine_version",
        "engine_id",
        "show_hardware",
        "show_clock",
        "show_versions",
        "show_relays",
        "show_load",
        "show_traffic",
        "show_allowance",
    )
    _engine = (
        gettext_lazy("Address and engine"),
        {"fields": (("name", "region"), "ip", "is_enabled", ("runtime", "endpoint"), "ssh_host_key")},
    )
    _settings = (
        (
            gettext_lazy("Certificates"),
            {
                "description": gettext_lazy(
                    "Only for a tcp:// engine with certificates of its own. A host that the enrolment script prepared "
                    "needs none: the portal's own authority is used. What is stored here is never shown again."
                ),
                "fields": (
                    "tls_ca_text",
                    "tls_ca_file",
                    "tls_certificate_text",
                    "tls_certificate_file",
                    "tls_key_text",
                    "tls_key_file",
                    "forget_credentials",
                ),
            },
        ),
        (gettext_lazy("Room"), {"fields": (("port_first", "port_last"), ("max_relays", "uplink_mbps"))}),
        (
            gettext_lazy("Provider and money"),
            {
                "fields": (
                    ("provider", "provider_renews_on"),
                    ("monthly_cost_amount", "cost_currency"),
                    "billed_direction",
                    ("allowance_gb", "allowance_reset_day"),
                )
            },
        ),
    )
    add_fieldsets = (_engine, *_settings)
    fieldsets = (
        (
            gettext_lazy("State"),
            {
                "fields": (
                    ("show_phase", "phase_since"),
                    ("show_reason", "show_advice"),
                    "error_detail",
                    ("error_since", "failed_looks"),
                )
            },
        ),
        (
            gettext_lazy("Last seen of it"),
            {
                "fields": (
                    ("last_seen_at", "show_clock"),
                    ("engine_version", "show_hardware"),
                    "engine_id",
                    ("show_relays", "show_load"),
                    "show_versions",
                    ("show_traffic", "show_allowance"),
                )
            },
        ),
        *add_fieldsets,
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Server]:
        """With relays and traffic counted."""
        return servers().order_by(*self.get_ordering(request) or ("name",))

    def get_readonly_fields(self, request: HttpRequest, obj: Server | None = None) -> tuple[str, ...]:
        """A server that is there gets another address by the action, which says what that does to customers."""
        return (*self.readonly_fields, "ip") if obj else self.readonly_fields

    def get_urls(self) -> list[URLPattern]:
        """With the overview of the fleet."""
        overview = self.admin_site.admin_view(self.overview)
        return [path("overview/", overview, name="fleet_overview"), *super().get_urls()]

    def overview(self, request: HttpRequest) -> HttpResponseBase:
        """All servers at one glance."""
        return overview_page(self, request)

    @display(description=gettext_lazy("phase"), ordering="phase")
    def show_phase(self, server: Server) -> str:
        """The phase, coloured, and whether it is being emptied."""
        drain = badge(_("draining"), "info") if server.is_draining else ""
        return format_html("{} {}", badge(server.get_phase_display(), PHASE_COLOURS[server.phase]), drain)

    @display(description=gettext_lazy("reason"), empty_value="–")
    def show_reason(self, server: Server) -> str | None:
        """Why it is in trouble, in words."""
        return trouble(server.error_code) or None

    @display(description=gettext_lazy("what to do"), empty_value="–")
    def show_advice(self, server: Server) -> str | None:
        """What the operator can do about it."""
        return advice(server.error_code) or None

    @display(description=gettext_lazy("load"), ordering="load")
    def show_load(self, server: Any) -> str:
        """Relays placed now as a share of the most it may carry."""
        return f"{server.carried / server.max_relays:.0%}" if server.max_relays else "–"

    @display(description=gettext_lazy("relays running / placed"), ordering="carried")
    def show_relays(self, server: Any) -> str:
        """With a link to them."""
        return link(list_url(Relay, server__id__exact=server.pk), f"{server.running} / {server.carried}")

    @display(description=gettext_lazy("traffic"))
    def show_traffic(self, server: Any) -> str:
        """Up and down, of all relays that are there now."""
        return f"↑ {size(server.uploaded)} ↓ {size(server.downloaded)}"

    @display(description=gettext_lazy("allowance used"), ordering="allowance_used_bytes")
    def show_allowance(self, server: Server) -> str:
        """Of the provider's monthly traffic."""
        if not server.allowance_bytes:
            return size(server.allowance_used_bytes)
        share = server.allowance_used_bytes / server.allowance_bytes
        return f"{size(server.allowance_used_bytes)} / {size(server.allowance_bytes)} ({share:.0%})"

    @display(description=gettext_lazy("hardware"), empty_value="–")
    def show_hardware(self, server: Server) -> str | None:
        """Cores and memory, as the host tells them."""
        cores, memory = server.hardware.get("cores"), server.hardware.get("memory_bytes")
        if not cores:
            return None
        return ngettext("%(count)d core", "%(count)d cores", cores) % {"count": cores} + f" · {size(memory)}"

    @display(description=gettext_lazy("clock"), empty_value="–")
    def show_clock(self, server: Server) -> str | None:
        """Whether its clock goes with ours: deadlines depend on it."""
        if server.last_seen_at is None:
            return None
        off = server.hardware.get("clock_off_seconds")
        return badge(_("%(seconds)s s off") % {"seconds": off}, "warning") if off else _("right")

    @display(description=gettext_lazy("relay images"))
    def show_versions(self, server: Server) -> str:
        """What the relays there should run, with how many of each."""
        return " · ".join(f"{count} × {image}" for image, count in versions_on(server).items()) or "–"

    def get_form(self, request: HttpRequest, obj: Server | None = None, **options: Any) -> type[ServerForm]:
        """The form, knowing what the service has already refused in this request."""
        form: type[ServerForm] = super().get_form(request, obj, **options)
        form.refusal = getattr(request, "refusal", None)
        return form

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponseBase:
        """A refusal of the service comes back as an error of the form; nothing was saved by then."""
        arguments = (request, object_id, form_url, extra_context)
        try:
            answer: HttpResponseBase = super().changeform_view(*arguments)
        except PortalError as refusal:
            request.refusal = refusal  # type: ignore[attr-defined]
            answer = super().changeform_view(*arguments)
        return answer

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        """With what happened to the server, and how its relays are leaving."""
        server = self.get_object(request, object_id)
        more = timeline(server) if server else {}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **more})  # type: ignore[no-any-return]

    def save_model(self, request: HttpRequest, obj: Server, form: ServerForm, change: bool) -> None:
        """Add or change it through the service."""
        if change:
            if changes := form.changes():
                services.update_server(server_id=obj.pk, actor=actor(request), **changes)
            return
        added = services.add_server(actor=actor(request), **form.all_values())
        obj.pk, obj._state.adding = added.pk, False
