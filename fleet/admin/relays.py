"""Relays: wanted against observed, and what can be done about them."""

from __future__ import annotations

from typing import Any, NamedTuple

from django import forms
from django.contrib import admin
from django.db.models import F, QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import RelatedDropdownFilter
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminSelectWidget

from derp_portal.lib.asking import Question, act, data_of
from derp_portal.lib.units import megabits
from fleet import services
from fleet.models import Relay, RelayEvent, Server, Wanted
from fleet.monitoring.uptime import percent
from fleet.reconciler.desired import SPEED_UNKNOWN
from fleet.selectors import STATE_WORDS, RelayState, in_trouble, relay_state, relays, servers, why_in_trouble
from fleet.services.placement import sibling_addresses

from .base import HistoryAdmin, HistoryInline, actor, badge, change_url, link, size, when
from .observations import HEALTH_COLOURS

STATE_COLOURS = {
    RelayState.UP: "success",
    RelayState.STARTING: "info",
    RelayState.TROUBLE: "danger",
    RelayState.STOPPED: "warning",
}


class InTrouble(admin.SimpleListFilter):
    """Relays that should run and do not, or that probes do not reach."""

    title = gettext_lazy("trouble")
    parameter_name = "trouble"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """Only those in trouble, or only the others."""
        return [("yes", gettext_lazy("In trouble")), ("no", gettext_lazy("Not in trouble"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Narrow the list."""
        narrowed = {"yes": queryset.filter(in_trouble()), "no": queryset.exclude(in_trouble())}
        return narrowed.get(self.value() or "", queryset)


class Released(admin.SimpleListFilter):
    """Rows whose place was given back, or those that still have one."""

    title = gettext_lazy("place")
    parameter_name = "released"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """Kept or released."""
        return [("no", gettext_lazy("Kept")), ("yes", gettext_lazy("Released"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Narrow the list."""
        if self.value() in ("yes", "no"):
            return queryset.filter(released_at__isnull=self.value() == "no")
        return queryset


class EventInline(HistoryInline):
    """What happened to the relay, newest first."""

    model = RelayEvent
    fields = readonly_fields = ("created_at", "kind", "server", "generation", "detail")
    verbose_name_plural = gettext_lazy("events")

    def get_queryset(self, request: HttpRequest) -> QuerySet[RelayEvent]:
        """With servers, in one query."""
        return super().get_queryset(request).select_related("server", "relay")  # type: ignore[no-any-return]


class MoveForm(forms.Form):
    """Where a relay should go."""

    server = forms.ModelChoiceField(
        Server.objects.none(),
        required=False,
        label=gettext_lazy("Server"),
        empty_label=gettext_lazy("The best other one"),
        help_text=gettext_lazy("Servers that are healthy and take new relays, with the relays they carry."),
        widget=UnfoldAdminSelectWidget,
    )

    def __init__(self, data: Any, *, relay: Relay) -> None:
        super().__init__(data)
        chosen = self.fields["server"]
        assert isinstance(chosen, forms.ModelChoiceField)
        takes_more = servers().filter(is_enabled=True, status=Server.Status.HEALTHY).exclude(pk=relay.server_id or 0)
        siblings = sibling_addresses(relay.group_id, besides=relay.pk)
        chosen.queryset = takes_more.exclude(ip__in=siblings).order_by("name")
        chosen.label_from_instance = lambda server: (  # type: ignore[method-assign,assignment]
            f"{server.name} · {server.region} · {server.carried} / {server.max_relays}"
        )


class Row(NamedTuple):
    """A line of the comparison on a relay's page."""

    what: str
    wanted: str
    observed: str
    differs: bool


def compared(relay: Relay) -> list[Row]:
    """What is wanted of the relay beside what was last seen of it."""
    runs = relay.wanted == Wanted.RUNNING
    place = relay.server.name if relay.server else _("waiting for a place")
    limit = relay.group.speed_bytes_per_second
    seen = relay.observed_state == Relay.Observed.RUNNING
    return [
        Row(_("state"), relay.get_wanted_display(), relay.get_observed_state_display(), runs != seen),
        Row(
            _("generation"),
            str(relay.generation),
            str(relay.observed_generation or "–"),
            runs and relay.generation != relay.observed_generation,
        ),
        Row(_("container"), relay.container_name if runs else "–", relay.container_id[:24] or "–", False),
        Row(_("server"), place, _("last looked at %s") % when(relay.observed_at), runs and relay.server is None),
        Row(_("speed limit"), _speed(limit), _speed(relay.applied_speed), seen and limit != relay.applied_speed),
        Row(_("runs"), _("until %s") % when(relay.group.run_until), _("since %s") % when(relay.started_at), False),
    ]


def _speed(limit: int) -> str:
    if limit == SPEED_UNKNOWN:
        return _("not known")
    return megabits(limit) if limit else _("no limit")


@admin.register(Relay)
class RelayAdmin(HistoryAdmin):
    """Relays: wanted against observed. Keys and other secrets never leave the database by this page."""

    # The room that grants relays puts a service here that knows of its grants.
    release_service = staticmethod(services.release_relay)

    list_display = (
        "code",
        "owner",
        "server",
        "show_state",
        "show_wanted_observed",
        "show_trouble",
        "show_health",
        "show_traffic",
        "observed_at",
    )
    list_filter = (
        InTrouble,
        Released,
        "wanted",
        "observed_state",
        "health__status",
        ("server", RelatedDropdownFilter),
        ("server__region", RelatedDropdownFilter),
    )
    search_fields = (
        "code",
        "owner__username",
        "owner__email",
        "server__name",
        "server__ip",
        "host_name",
        "container_id",
    )
    ordering = (F("released_at").desc(nulls_first=True), "-id")
    inlines = (EventInline,)
    actions_detail = ("restart", "move", "release")
    change_form_outer_before_template = "admin/fleet/relay_compared.html"
    fields = None
    fieldsets = (
        (
            gettext_lazy("Trouble"),
            {"fields": ("show_trouble", "trouble_detail", ("trouble_since", "tries", "next_try_at"))},
        ),
        (
            gettext_lazy("Relay"),
            {
                "fields": (
                    ("code", "show_owner", "show_group"),
                    ("show_place", "slot", "region_id"),
                    ("host_name", "certificate_ends_at"),
                    "pin",
                    ("show_traffic", "created_at", "released_at"),
                )
            },
        ),
        (
            gettext_lazy("Last probe"),
            {
                "fields": (
                    ("show_health", "show_parts", "show_latency"),
                    ("show_checked", "show_connections", "show_uptime"),
                )
            },
        ),
    )
    readonly_fields = (
        "show_trouble",
        "show_owner",
        "show_group",
        "show_place",
        "show_traffic",
        "show_health",
        "show_parts",
        "show_latency",
        "show_checked",
        "show_connections",
        "show_uptime",
        "tries",
        "next_try_at",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Relay]:
        """With what the state needs, in a fixed number of queries."""
        return relays().order_by(*self.ordering)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        """With wanted beside observed."""
        relay = self.get_object(request, object_id)
        more = {"compared": compared(relay)} if relay else {}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **more})  # type: ignore[no-any-return]

    @display(description=gettext_lazy("state"))
    def show_state(self, relay: Relay) -> str:
        """In one word, as the owner sees it."""
        state = relay_state(relay)
        return badge(STATE_WORDS[state], STATE_COLOURS[state])

    @display(description=gettext_lazy("wanted → observed"), ordering="observed_state")
    def show_wanted_observed(self, relay: Relay) -> str:
        """Both, with generations where they differ."""
        both = f"{relay.get_wanted_display()} → {relay.get_observed_state_display()}"
        if relay.observed_generation and relay.observed_generation != relay.generation:
            both += f" ({relay.observed_generation} / {relay.generation})"
        return both

    @display(description=gettext_lazy("trouble"), ordering="trouble_code", empty_value="–")
    def show_trouble(self, relay: Relay) -> str | None:
        """In words."""
        return why_in_trouble(relay) or None

    @display(description=gettext_lazy("health"), ordering="health__status")
    def show_health(self, relay: Relay) -> str:
        """What the last probe said."""
        health = getattr(relay, "health", None)
        return badge(health.get_status_display(), HEALTH_COLOURS[health.status]) if health else "–"

    @display(description=gettext_lazy("traffic"), ordering="download_bytes")
    def show_traffic(self, relay: Relay) -> str:
        """Up and down, since it was made."""
        return f"↑ {size(relay.upload_bytes)} ↓ {size(relay.download_bytes)}"

    @display(description=gettext_lazy("owner"))
    def show_owner(self, relay: Relay) -> str:
        """With a link."""
        return link(change_url(relay.owner), relay.owner)

    @display(description=gettext_lazy("group"))
    def show_group(self, relay: Relay) -> str:
        """With a link."""
        return link(change_url(relay.group), relay.group)

    @display(description=gettext_lazy("server and port"))
    def show_place(self, relay: Relay) -> str:
        """Where customers' devices find it."""
        if relay.server is None:
            return "–"
        port = getattr(relay, "port", None)
        address = f"{relay.server.name} · {relay.server.ip}" + (f":{port.number}" if port else "")
        return link(change_url(relay.server), address)

    @display(description=gettext_lazy("TLS, DERP, packet, STUN"))
    def show_parts(self, relay: Relay) -> str:
        """Which steps of the probe went well."""
        health = getattr(relay, "health", None)
        if health is None:
            return "–"
        parts = (health.tls_ok, health.derp_ok, health.packet_ok, health.stun_ok)
        return " ".join("✓" if part else "✗" for part in parts)

    @display(description=gettext_lazy("latency"))
    def show_latency(self, relay: Relay) -> str:
        """Over DERP and over STUN."""
        health = getattr(relay, "health", None)
        both = (health.latency_ms, health.stun_ms) if health else (None, None)
        return " / ".join("–" if latency is None else f"{latency:.1f} ms" for latency in both)

    @display(description=gettext_lazy("checked"))
    def show_checked(self, relay: Relay) -> str:
        """When, and how often in a row it failed."""
        health = getattr(relay, "health", None)
        if health is None:
            return "–"
        failed = _("failed %s times in a row") % health.failures if health.failures else ""
        return " · ".join(filter(None, (when(health.checked_at), failed)))

    @display(description=gettext_lazy("connections"), empty_value="–")
    def show_connections(self, relay: Relay) -> int | None:
        """Clients connected at the last look."""
        health = getattr(relay, "health", None)
        return health.connections if health else None

    @display(description=gettext_lazy("uptime, this month / last month"))
    def show_uptime(self, relay: Any) -> str:
        """Shares of answered probes."""
        return " / ".join(percent(share) or "–" for share in (relay.month_uptime, relay.last_month_uptime))

    @action(description=gettext_lazy("Restart"), url_path="restart", icon="restart_alt", permissions=["act"])
    def restart(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """A fresh container for the same relay."""
        relay: Relay = self.row_or_404(request, object_id)

        def do() -> str:
            services.restart_relay(relay_id=relay.pk, actor=actor(request))
            return _("%(relay)s will be started anew within seconds.") % {"relay": relay.code}

        question = Question(
            title=_("Restart %(relay)s?") % {"relay": relay.code},
            lines=[
                _("Its container is replaced by a fresh one. Address, port and identity stay; nobody's map changes."),
                _("Connections through it are cut; Tailscale clients come back by themselves."),
            ],
            button=_("Restart"),
            back=change_url(relay),
        )
        return act(self, request, question, do)

    @action(description=gettext_lazy("Move"), url_path="move", icon="moving", permissions=["act"])
    def move(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """To a chosen server, or to the best other one."""
        relay: Relay = self.row_or_404(request, object_id)
        form = MoveForm(data_of(request), relay=relay)

        def do() -> str:
            target = form.cleaned_data["server"]
            moved = services.move_relay(
                relay_id=relay.pk, server_id=target.pk if target else None, actor=actor(request)
            )
            return _("%(relay)s moves to %(server)s.") % {"relay": relay.code, "server": moved.server}

        question = Question(
            title=_("Move %(relay)s to another server") % {"relay": relay.code},
            lines=[
                _("Identity stays; address and port change. Tailnets that read the map address follow by themselves."),
                _("Maps that were pasted by hand have to be pasted again by the customer."),
            ],
            form=form,
            button=_("Move"),
            back=change_url(relay),
        )
        return act(self, request, question, do)

    @action(
        description=gettext_lazy("Release"),
        url_path="release",
        icon="delete",
        variant=ActionVariant.DANGER,
        permissions=["act"],
    )
    def release(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Give it up for good."""
        relay: Relay = self.row_or_404(request, object_id)

        def do() -> str:
            self.release_service(relay_id=relay.pk, actor=actor(request))
            return _("%(relay)s was released.") % {"relay": relay.code}

        question = Question(
            title=_("Release %(relay)s of %(owner)s?") % {"relay": relay.code, "owner": relay.owner},
            lines=[
                _("It stops at once. Identity, port and place in the map are lost for good; only its history stays."),
                _("If it is the last one of its group, the group is released too, and its map changes no more."),
            ],
            button=_("Release for good"),
            back=change_url(relay),
            is_dangerous=True,
        )
        return act(self, request, question, do)
