"""Relay groups, and the devices their owners listed."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy
from unfold.decorators import display

from fleet.models import NodeKey, Relay, RelayGroup

from .base import HistoryAdmin, HistoryInline, change_url, link
from .relays import Released


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

    list_display = ("__str__", "owner", "wanted", "wanted_reason", "show_relays", "run_until", "released_at")
    list_filter = ("wanted", Released)
    list_select_related = ("owner",)
    search_fields = ("label", "owner__username", "owner__email", "relays__code")
    inlines = (RelayInline,)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    ("owner", "label"),
                    ("wanted", "wanted_reason", "run_until"),
                    ("relay_count", "regions"),
                    ("speed_bytes_per_second", "quota_bytes"),
                    ("period_start", "period_end"),
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


@admin.register(NodeKey)
class NodeKeyAdmin(HistoryAdmin):
    """Devices that owners listed; the list is theirs."""

    list_display = ("__str__", "owner", "key", "created_at")
    list_filter = ("created_at",)
    list_select_related = ("owner",)
    search_fields = ("key", "name", "owner__username", "owner__email")
