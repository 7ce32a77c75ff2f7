"""Plans."""

from __future__ import annotations

from django.contrib import admin
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.decorators import display

from derp_portal.lib.units import megabits
from fleet.admin.base import EditableAdmin, size
from serials.models import Plan


@admin.register(Plan)
class PlanAdmin(EditableAdmin):
    """What customers can be granted. One that was ever used cannot be deleted, only hidden."""

    list_display = (
        "name",
        "code",
        "days",
        "relay_count",
        "show_speed",
        "show_quota",
        "quota_period",
        "day_value",
        "is_public",
        "position",
    )
    list_filter = ("is_public", "relay_count", "quota_period", "regions")
    search_fields = ("code", "name", "name_zh")
    filter_horizontal = ("regions",)
    fieldsets = (
        (None, {"fields": (("name", "name_zh"), ("code", "position"), "is_public")}),
        (
            gettext_lazy("What it gives"),
            {"fields": (("days", "day_value"), "relay_count", ("max_devices", "fails_open"))},
        ),
        (gettext_lazy("Limits"), {"fields": ("speed_bytes_per_second", ("quota_bytes", "quota_period"), "regions")}),
    )

    @display(description=gettext_lazy("speed limit"), ordering="speed_bytes_per_second")
    def show_speed(self, plan: Plan) -> str:
        """For each device."""
        return megabits(plan.speed_bytes_per_second) if plan.speed_bytes_per_second else _("no limit")

    @display(description=gettext_lazy("traffic quota"), ordering="quota_bytes")
    def show_quota(self, plan: Plan) -> str:
        """For each term or month."""
        return size(plan.quota_bytes) if plan.quota_bytes is not None else _("no limit")
