"""Relay groups, and the devices their owners listed."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import uuid4

from django import forms
from django.contrib import admin
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminSelect2MultipleWidget,
    UnfoldAdminTextInputWidget,
)

from derp_portal.lib.asking import CONFIRMED, Question, act, act_on_selection, data_of
from derp_portal.lib.errors import PortalError
from derp_portal.lib.units import GIGABYTE, data_amount
from fleet import services
from fleet.models import NodeKey, Relay, RelayGroup, Server
from fleet.services.quota_keeping import add_pack
from fleet.services.quotas import usage_of

from .base import HistoryAdmin, HistoryInline, actor, badge, change_url, link, when
from .relays import Released


class Quarantined(admin.SimpleListFilter):
    """Groups that are held where they are, or the others."""

    title = gettext_lazy("quarantine")
    parameter_name = "quarantined"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """Held or free."""
        return [("yes", gettext_lazy("Quarantined")), ("no", gettext_lazy("Not quarantined"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Narrow the list."""
        if self.value() in ("yes", "no"):
            return queryset.filter(quarantined_at__isnull=self.value() == "no")
        return queryset


class QuarantineForm(forms.Form):
    """Why a group is held."""

    note = forms.CharField(
        label=gettext_lazy("Why"),
        required=False,
        max_length=200,
        help_text=gettext_lazy("For operators only, such as: attacked since noon, address black-holed."),
        widget=UnfoldAdminTextInputWidget,
    )


class ServersForm(forms.Form):
    """Where a group may run."""

    servers = forms.ModelMultipleChoiceField(
        Server.objects.order_by("name"),
        required=False,
        label=gettext_lazy("Servers allowed"),
        help_text=gettext_lazy("None chosen = every server."),
        widget=UnfoldAdminSelect2MultipleWidget,
    )


class PackForm(forms.Form):
    """How much more a group may use in its present period."""

    gigabytes = forms.DecimalField(
        label=gettext_lazy("Gigabytes"),
        min_value=Decimal("0.1"),
        max_value=Decimal(1_000_000),
        decimal_places=1,
        help_text=gettext_lazy("1 GB is a thousand million bytes. It lasts until the present period ends."),
        widget=UnfoldAdminDecimalFieldWidget,
    )
    note = forms.CharField(label=gettext_lazy("Why"), required=False, max_length=200, widget=UnfoldAdminTextInputWidget)
    # Made with the page, so that the same answer sent twice adds one pack.
    key = forms.CharField(max_length=120, widget=forms.HiddenInput)


HOLDS = gettext_lazy(
    "Its relays stay where they are even when their server is lost or drained, so that an attack on their address "
    "does not follow them to the next host. An operator can still move each by hand."
)


class RelayInline(HistoryInline):
    """The relays of a group."""

    model = Relay
    fields = readonly_fields = (
        "show_relay",
        "slot",
        "server",
        "wanted",
        "observed_state",
        "region_id",
        "released_at",
    )
    verbose_name_plural = gettext_lazy("relays")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Relay]:
        """With servers, in one query."""
        return super().get_queryset(request).select_related("server")  # type: ignore[no-any-return]

    @display(description=gettext_lazy("relay"))
    def show_relay(self, relay: Relay) -> str:
        """With a link."""
        return link(change_url(relay), relay.code)


@admin.register(RelayGroup)
class RelayGroupAdmin(HistoryAdmin):
    """What each grant runs. The secret address of its map is the owner's alone."""

    list_display = (
        "__str__",
        "owner",
        "wanted",
        "wanted_reason",
        "show_relays",
        "priority",
        "show_quarantine",
        "run_until",
        "released_at",
    )
    list_filter = ("wanted", Released, Quarantined)
    list_select_related = ("owner",)
    search_fields = ("label", "owner__username", "owner__email", "relays__code")
    inlines = (RelayInline,)
    actions = ("quarantine_chosen", "free_chosen")
    actions_detail = ("quarantine", "free", "limit_servers", "add_traffic_pack")
    readonly_fields = ("show_quarantine", "show_usage", "over_quota_since")
    fieldsets = (
        (
            None,
            {
                "fields": (
                    ("owner", "label"),
                    ("wanted", "wanted_reason", "run_until"),
                    ("relay_count", "priority"),
                    ("regions", "servers"),
                    ("show_quarantine", "quarantine_note"),
                    ("speed_bytes_per_second", "quota_bytes"),
                    ("period_start", "period_end", "is_monthly"),
                    ("show_usage", "over_quota_since"),
                    ("created_at", "released_at"),
                )
            },
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[RelayGroup]:
        """With relays counted."""
        live = Q(relays__released_at=None)
        queryset: QuerySet[RelayGroup] = super().get_queryset(request)
        return queryset.annotate(
            live=Count("relays", filter=live),
            running=Count("relays", filter=live & Q(relays__observed_state=Relay.Observed.RUNNING)),
        )

    @display(description=gettext_lazy("relays running / made / granted"))
    def show_relays(self, group: Any) -> str:
        """Standbys are made where a second server exists."""
        return f"{group.running} / {group.live} / {group.relay_count}"

    @display(description=gettext_lazy("quarantine"), ordering="quarantined_at")
    def show_quarantine(self, group: RelayGroup) -> str:
        """Since when it is held where it is."""
        if group.quarantined_at is None:
            return "–"
        return format_html("{} {}", badge(_("Quarantined"), "warning"), when(group.quarantined_at))

    @display(description=gettext_lazy("used of its quota"))
    def show_usage(self, group: RelayGroup) -> str:
        """In the present period, packs included."""
        usage = usage_of([group])[group.pk]
        if usage.limit is None:
            return data_amount(usage.used)
        return f"{data_amount(usage.used)} / {data_amount(usage.limit)} ({usage.percent} %)"

    def get_actions_detail(self, request: HttpRequest, object_id: int) -> list[UnfoldAction]:
        """Either to hold it or to let it go."""
        is_held = RelayGroup.objects.filter(pk=object_id, quarantined_at__isnull=False).exists()
        needless = "fleet_relaygroup_quarantine" if is_held else "fleet_relaygroup_free"
        offered = super().get_actions_detail(request, object_id)
        return [one for one in offered if one.action_name != needless]

    @action(description=gettext_lazy("Quarantine"), url_path="quarantine", icon="lock", permissions=["act"])
    def quarantine(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Hold its relays where they are."""
        group: RelayGroup = self.row_or_404(request, object_id)
        form = QuarantineForm(data_of(request))

        def do() -> str:
            note = form.cleaned_data["note"]
            services.set_quarantine(group_id=group.pk, is_quarantined=True, note=note, actor=actor(request))
            return _("%(group)s stays where it is from now on.") % {"group": group}

        question = Question(
            title=_("Quarantine %(group)s of %(owner)s?") % {"group": group, "owner": group.owner},
            lines=[str(HOLDS)],
            form=form,
            button=_("Quarantine"),
            back=change_url(group),
        )
        return act(self, request, question, do)

    @action(description=gettext_lazy("End quarantine"), url_path="free", icon="lock_open", permissions=["act"])
    def free(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Let its relays move again."""
        group: RelayGroup = self.row_or_404(request, object_id)

        def do() -> str:
            services.set_quarantine(group_id=group.pk, is_quarantined=False, actor=actor(request))
            return _("%(group)s moves by itself again.") % {"group": group}

        question = Question(
            title=_("End the quarantine of %(group)s?") % {"group": group},
            lines=[_("Relays on a server that is lost or drained move at once.")],
            button=_("End quarantine"),
            back=change_url(group),
        )
        return act(self, request, question, do)

    @action(description=gettext_lazy("Limit servers"), url_path="servers", icon="rule", permissions=["act"])
    def limit_servers(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Say on which servers its relays may run."""
        group: RelayGroup = self.row_or_404(request, object_id)
        form = ServersForm(data_of(request), initial={"servers": group.servers.all()})

        def do() -> str:
            chosen = [server.pk for server in form.cleaned_data["servers"]]
            services.limit_servers(group_id=group.pk, server_ids=chosen, actor=actor(request))
            return (
                _("%(group)s runs on these servers only from now on.") % {"group": group}
                if chosen
                else _("%(group)s may run on every server.") % {"group": group}
            )

        question = Question(
            title=_("Limit the servers of %(group)s") % {"group": group},
            lines=[
                _(
                    "Its relays run nowhere else, failover included. Those that are elsewhere move now; where there is "
                    "no room for them, nothing is changed."
                ),
            ],
            form=form,
            button=_("Limit servers"),
            back=change_url(group),
        )
        return act(self, request, question, do)

    @action(description=gettext_lazy("Add a traffic pack"), url_path="pack", icon="add_box", permissions=["add_pack"])
    def add_traffic_pack(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """More traffic for the present period."""
        group: RelayGroup = self.row_or_404(request, object_id)
        form = PackForm(data_of(request), initial={"key": f"admin:{uuid4()}"})

        def do() -> str:
            given = form.cleaned_data
            extra = int(given["gigabytes"] * GIGABYTE)
            add_pack(group_id=group.pk, extra_bytes=extra, key=given["key"], note=given["note"], actor=actor(request))
            return _("%(group)s may use %(amount)s more.") % {"group": group, "amount": data_amount(extra)}

        usage = usage_of([group])[group.pk]
        question = Question(
            title=_("Add a traffic pack for %(group)s of %(owner)s") % {"group": group, "owner": group.owner},
            lines=[
                _("Used in the period until %(end)s: %(used)s.")
                % {"end": when(usage.period.ends_at), "used": self.show_usage(group)},
                _("Relays that stand because the quota is used up run again at once."),
            ],
            form=form,
            button=_("Add the pack"),
            back=change_url(group),
        )
        return act(self, request, question, do)

    def has_add_pack_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Django's "add" permission on packs, as in the API."""
        return request.user.has_perm("fleet.add_trafficpack")

    @admin.action(description=gettext_lazy("Quarantine"), permissions=["act"])
    def quarantine_chosen(self, request: HttpRequest, queryset: QuerySet[RelayGroup]) -> HttpResponseBase:
        """Hold the relays of the chosen groups where they are."""
        form = QuarantineForm(request.POST if CONFIRMED in request.POST else None)

        def do() -> str:
            if not form.is_valid():
                raise PortalError(_("Mend what is marked below."), code="invalid")
            return self._set_chosen(request, queryset, is_quarantined=True, note=form.cleaned_data["note"])

        question = Question(
            title=_("Quarantine the chosen groups?"),
            lines=[str(HOLDS)],
            form=form,
            button=_("Quarantine"),
            back=request.get_full_path(),
        )
        return act_on_selection(self, request, question, do)

    @admin.action(description=gettext_lazy("End quarantine"), permissions=["act"])
    def free_chosen(self, request: HttpRequest, queryset: QuerySet[RelayGroup]) -> HttpResponseBase:
        """Let the relays of the chosen groups move again."""

        def do() -> str:
            return self._set_chosen(request, queryset, is_quarantined=False, note="")

        question = Question(
            title=_("End the quarantine of the chosen groups?"),
            lines=[_("Relays on a server that is lost or drained move at once.")],
            button=_("End quarantine"),
            back=request.get_full_path(),
        )
        return act_on_selection(self, request, question, do)

    def _set_chosen(
        self, request: HttpRequest, queryset: QuerySet[RelayGroup], *, is_quarantined: bool, note: str
    ) -> str:
        """Released groups among them have nothing to hold and are left alone."""
        changed = 0
        chosen = queryset.filter(released_at=None, quarantined_at__isnull=is_quarantined).order_by()
        for group_id in list(chosen.values_list("pk", flat=True)):
            services.set_quarantine(group_id=group_id, is_quarantined=is_quarantined, note=note, actor=actor(request))
            changed += 1
        return ngettext("%(count)s group was changed.", "%(count)s groups were changed.", changed) % {"count": changed}


@admin.register(NodeKey)
class NodeKeyAdmin(HistoryAdmin):
    """Devices that owners listed; the list is theirs."""

    list_display = ("__str__", "owner", "key", "created_at")
    list_filter = ("created_at",)
    list_select_related = ("owner",)
    search_fields = ("key", "name", "owner__username", "owner__email")
