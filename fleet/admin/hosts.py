"""Regions and servers."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from unfold.contrib.filters.admin import RelatedDropdownFilter
from unfold.decorators import action, display

from derp_portal.lib.asking import Question, act
from derp_portal.lib.errors import PortalError
from fleet import services
from fleet.models import Region, Relay, Server
from fleet.runtimes.base import RuntimeFailure
from fleet.selectors import servers
from fleet.services.hosts import CHANGEABLE
from fleet.words import trouble

from .base import EditableAdmin, OperatorAdmin, actor, badge, change_url, link, list_url, size


@admin.register(Region)
class RegionAdmin(EditableAdmin):
    """Places customers can wish for. Plans and groups may name them, so they are renamed rather than deleted."""

    list_display = ("code", "name", "name_zh", "latitude", "longitude")
    search_fields = ("code", "name", "name_zh")

    def has_delete_permission(self, request: HttpRequest, obj: Region | None = None) -> bool:
        """A plan that named only this region would mean "everywhere" without it."""
        return False


class ServerForm(forms.ModelForm[Server]):
    """What an operator may say of a server. `refusal` is what the service answered to these very values."""

    refusal: PortalError | None = None

    class Meta:
        model = Server
        fields = CHANGEABLE

    def clean(self) -> dict[str, Any]:
        """Show the service's answer, and a wrong port range beside its field."""
        data = super().clean() or {}
        if self.refusal is not None:
            raise ValidationError(str(self.refusal))
        first, last = data.get("port_first"), data.get("port_last")
        if first and last and not 1024 <= first <= last <= 65535:
            self.add_error("port_last", _("The port range must lie within 1024 and 65535, first before last."))
        return data


@admin.register(Server)
class ServerAdmin(OperatorAdmin):
    """Hosts that run relays. Every write goes through `fleet.services`."""

    form = ServerForm
    list_display = (
        "name",
        "ip",
        "region",
        "show_runtime",
        "show_status",
        "show_reason",
        "show_load",
        "show_relays",
        "show_traffic",
        "last_seen_at",
    )
    list_filter = ("status", "is_enabled", "runtime", ("region", RelatedDropdownFilter))
    list_select_related = ("region",)
    search_fields = ("name", "ip", "region__code", "region__name")
    actions_detail = ("test_connection",)
    readonly_fields = (
        "show_status",
        "show_reason",
        "error_detail",
        "error_since",
        "last_seen_at",
        "engine_version",
        "show_hardware",
        "show_relays",
        "show_load",
        "show_traffic",
    )
    add_fieldsets = (
        (None, {"fields": ("name", "ip", "region", "is_enabled")}),
        (gettext_lazy("Engine"), {"fields": ("runtime", "endpoint")}),
        (gettext_lazy("Room"), {"fields": (("port_first", "port_last"), "max_relays")}),
    )
    fieldsets = (
        (gettext_lazy("State"), {"fields": ("show_status", "show_reason", "error_detail", "error_since")}),
        *add_fieldsets,
        (
            gettext_lazy("Last seen of it"),
            {
                "fields": (
                    ("last_seen_at", "engine_version", "show_hardware"),
                    ("show_relays", "show_load", "show_traffic"),
                )
            },
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Server]:
        """With relays and traffic counted."""
        return servers().order_by(*self.get_ordering(request) or ("name",))

    @display(description=gettext_lazy("status"), ordering="status")
    def show_status(self, server: Server) -> str:
        """The status, coloured."""
        return badge(server.get_status_display(), "success" if server.status == Server.Status.HEALTHY else "danger")

    @display(description=gettext_lazy("runtime"), ordering="runtime")
    def show_runtime(self, server: Server) -> str:
        """The runtime in one word; the form says the rest."""
        return _("Docker") if server.runtime == Server.Runtime.DOCKER else _("processes")

    @display(description=gettext_lazy("reason"), empty_value="–")
    def show_reason(self, server: Server) -> str | None:
        """Why it is in trouble, in words."""
        return trouble(server.error_code) or None

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

    @display(description=gettext_lazy("hardware"), empty_value="–")
    def show_hardware(self, server: Server) -> str | None:
        """Cores and memory, as the host tells them."""
        cores, memory = server.hardware.get("cores"), server.hardware.get("memory_bytes")
        if not cores:
            return None
        return ngettext("%(count)d core", "%(count)d cores", cores) % {"count": cores} + f" · {size(memory)}"

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

    def save_model(self, request: HttpRequest, obj: Server, form: ServerForm, change: bool) -> None:
        """Add or change it through the service."""
        if change:
            changes = {name: form.cleaned_data[name] for name in form.changed_data}
            if changes:
                services.update_server(server_id=obj.pk, actor=actor(request), **changes)
            return
        added = services.add_server(actor=actor(request), **form.cleaned_data)
        obj.pk, obj._state.adding = added.pk, False

    @action(
        description=gettext_lazy("Test connection"),
        url_path="test-connection",
        icon="network_check",
        permissions=["act"],
    )
    def test_connection(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask the host about itself and say in words what came of it."""
        server: Server = self.row_or_404(request, object_id)
        try:
            info = services.look_at_server(server_id=server.pk)
        except RuntimeFailure as failure:
            messages.error(request, f"{trouble(failure.code)} {failure.detail}".strip())
        else:
            said = _("%(server)s answers: %(engine)s %(version)s, %(cores)s cores, %(memory)s memory.")
            messages.success(
                request,
                said
                % {
                    "server": server.name,
                    "engine": info.engine,
                    "version": info.version,
                    "cores": info.cores,
                    "memory": size(info.memory_bytes),
                },
            )
        return redirect(change_url(server))

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        """Ask, then let the service delete it if it is empty. To Django's own page released relays are a bar."""
        server: Server = self.row_or_404(request, object_id)
        if not self.has_delete_permission(request, server):
            raise PermissionDenied

        def do() -> HttpResponseBase:
            services.delete_server(server_id=server.pk, actor=actor(request))
            messages.success(request, _("%(server)s was deleted.") % {"server": server.name})
            return redirect(list_url(Server))

        question = Question(
            title=_("Delete the server %(server)s?") % {"server": server.name},
            lines=[
                _("The portal forgets how to reach it and its ports. Nothing on the host itself is touched."),
                _("Relays that were there before keep their history. A server that still carries relays stays."),
            ],
            button=_("Delete"),
            back=change_url(server),
            is_dangerous=True,
        )
        return act(self, request, question, do)
