"""Traffic as it was booked, quotas and packs; and the limits of single users, which operators set here."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import RelatedDropdownFilter
from unfold.decorators import display

from derp_portal.lib.units import data_amount
from fleet.models import Meter, QuotaPeriod, Relay, Traffic, TrafficPack, UserLimit
from fleet.services.quota_keeping import limit_user, unlimit_user
from fleet.services.quotas import NOTICES

from .base import HistoryAdmin, OperatorAdmin, actor, change_url, link, size


class Failing(admin.SimpleListFilter):
    """Meters that could not be read the last time, or the others."""

    title = gettext_lazy("reading")
    parameter_name = "failing"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """Failing or well."""
        return [("yes", gettext_lazy("Fails")), ("no", gettext_lazy("Works"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Narrow the list."""
        narrowed = {"yes": queryset.filter(failures__gt=0), "no": queryset.filter(failures=0)}
        return narrowed.get(self.value() or "", queryset)


class UsedUp(admin.SimpleListFilter):
    """Periods in which an owner was told that so much of the quota is used."""

    title = gettext_lazy("told of")
    parameter_name = "told"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """From the least."""
        return [(str(percent), f"{percent} %") for percent in NOTICES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Narrow the list."""
        chosen = self.value() or ""
        return queryset.filter(noticed_percent=int(chosen)) if chosen in map(str, NOTICES) else queryset


@admin.register(Traffic)
class TrafficAdmin(HistoryAdmin):
    """Every stretch of every relay: single readings for two days, hours for 90 days, days for ever."""

    list_display = ("starts_at", "span", "show_relay", "server", "show_upload", "show_download", "unmeasured_seconds")
    list_filter = ("span", ("server", RelatedDropdownFilter), "starts_at")
    list_select_related = ("relay", "server")
    search_fields = ("=relay__code",)
    # What the primary key gives for nothing; the newest bucket is the one that was begun last.
    ordering = ("-id",)
    sortable_by = ()

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        """Of one span, the order of its index: without it every row of the span would be sorted."""
        return ("-starts_at", "-id") if "span__exact" in request.GET else self.ordering

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Traffic], search_term: str
    ) -> tuple[QuerySet[Traffic], bool]:
        """By the code of a relay, which is looked up first: joined, the rows of all relays would be gone through."""
        if not search_term:
            return queryset, False
        relays = list(Relay.objects.filter(code=search_term.strip()).values_list("pk", flat=True))
        return queryset.filter(relay__in=relays), False

    @display(description=gettext_lazy("relay"))
    def show_relay(self, row: Traffic) -> str:
        """With a link."""
        return link(change_url(row.relay), row.relay.code)

    @display(description=gettext_lazy("uploaded"))
    def show_upload(self, row: Traffic) -> str:
        """From customers."""
        return size(row.upload_bytes)

    @display(description=gettext_lazy("downloaded"))
    def show_download(self, row: Traffic) -> str:
        """To customers."""
        return size(row.download_bytes)


@admin.register(Meter)
class MeterAdmin(HistoryAdmin):
    """The last reading of every container, and whether reading it fails."""

    list_display = ("__str__", "show_relay", "read_at", "next_read_at", "failures", "error")
    list_filter = (Failing, ("next_read_at", admin.EmptyFieldListFilter))
    list_select_related = ("relay",)
    search_fields = ("=relay__code",)

    @display(description=gettext_lazy("relay"))
    def show_relay(self, meter: Meter) -> str:
        """With a link."""
        return link(change_url(meter.relay), meter.relay.code)


@admin.register(QuotaPeriod)
class QuotaPeriodAdmin(HistoryAdmin):
    """What each group used, period by period."""

    list_display = ("starts_at", "ends_at", "show_group", "show_owner", "show_used", "noticed_percent")
    list_filter = (UsedUp, "starts_at")
    list_select_related = ("group__owner",)
    search_fields = ("group__label", "group__owner__username", "group__owner__email")
    ordering = ("-starts_at", "-id")

    @display(description=gettext_lazy("group"))
    def show_group(self, period: QuotaPeriod) -> str:
        """With a link."""
        return link(change_url(period.group), period.group)

    @display(description=gettext_lazy("owner"))
    def show_owner(self, period: QuotaPeriod) -> str:
        """Whose relays."""
        return str(period.group.owner)

    @display(description=gettext_lazy("used"), ordering="used_bytes")
    def show_used(self, period: QuotaPeriod) -> str:
        """Uploaded and downloaded together."""
        return size(period.used_bytes)


@admin.register(TrafficPack)
class TrafficPackAdmin(HistoryAdmin):
    """Every pack there ever was. They are added on the page of a group, or by the API."""

    list_display = ("created_at", "show_group", "show_owner", "show_bytes", "key", "note", "actor")
    list_filter = ("created_at",)
    list_select_related = ("group__owner", "actor", "period")
    search_fields = ("=key", "note", "group__label", "group__owner__username", "group__owner__email")

    @display(description=gettext_lazy("group"))
    def show_group(self, pack: TrafficPack) -> str:
        """With a link."""
        return link(change_url(pack.group), pack.group)

    @display(description=gettext_lazy("owner"))
    def show_owner(self, pack: TrafficPack) -> str:
        """Whose relays."""
        return str(pack.group.owner)

    @display(description=gettext_lazy("bytes"), ordering="extra_bytes")
    def show_bytes(self, pack: TrafficPack) -> str:
        """How much more."""
        return size(pack.extra_bytes)


@admin.register(UserLimit)
class UserLimitAdmin(OperatorAdmin):
    """Quotas of single users, in place of those of their plans; their relays follow as soon as one is saved."""

    list_display = ("owner", "show_quota", "note", "updated_at")
    list_filter = ("updated_at", ("quota_bytes", admin.EmptyFieldListFilter))
    list_select_related = ("owner",)
    search_fields = ("owner__username", "owner__email", "note")
    autocomplete_fields = ("owner",)
    fields = ("owner", "quota_bytes", "note", "updated_at")
    readonly_fields = ("updated_at",)
    ordering = ("-updated_at", "-id")

    def get_readonly_fields(self, request: HttpRequest, obj: UserLimit | None = None) -> tuple[str, ...]:
        """Whose it is stays."""
        return ("owner", "updated_at") if obj else ("updated_at",)

    @display(description=gettext_lazy("quota"), ordering="quota_bytes")
    def show_quota(self, limit: UserLimit) -> Any:
        """For each group and period."""
        return gettext_lazy("no limit") if limit.quota_bytes is None else data_amount(limit.quota_bytes)

    def save_model(self, request: HttpRequest, obj: UserLimit, form: ModelForm[Any], change: bool) -> None:
        """By the service, which judges the user's groups at once."""
        saved = limit_user(user_id=obj.owner_id, quota_bytes=obj.quota_bytes, note=obj.note, actor=actor(request))
        obj.pk, obj.updated_at = saved.pk, saved.updated_at

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        """By the service: the quotas of the plans hold again."""
        assert isinstance(obj, UserLimit)
        unlimit_user(user_id=obj.owner_id, actor=actor(request))
