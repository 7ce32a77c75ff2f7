"""What belongs to no room: the schedule of the sweeps, in the admin's own theme."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest
from django_celery_beat.admin import ClockedScheduleAdmin as BeatClockedScheduleAdmin
from django_celery_beat.admin import CrontabScheduleAdmin as BeatCrontabScheduleAdmin
from django_celery_beat.admin import IntervalScheduleAdmin as BeatIntervalScheduleAdmin
from django_celery_beat.admin import PeriodicTaskAdmin as BeatPeriodicTaskAdmin
from django_celery_beat.admin import PeriodicTaskForm as BeatPeriodicTaskForm
from django_celery_beat.admin import PeriodicTaskInline as BeatPeriodicTaskInline
from django_celery_beat.admin import TaskSelectWidget as BeatTaskSelectWidget
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    SolarSchedule,
)
from unfold.admin import TabularInline
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from fleet.admin.base import EditableAdmin

# Nothing here depends on where the sun stands.
for model in (PeriodicTask, IntervalSchedule, CrontabSchedule, ClockedSchedule, SolarSchedule):
    admin.site.unregister(model)


class TaskSelectWidget(UnfoldAdminSelectWidget, BeatTaskSelectWidget):
    """The registered tasks, to choose from."""


class PeriodicTaskForm(BeatPeriodicTaskForm):
    """A periodic task; the fields that beat declares by itself get the theme's widgets."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["task"].widget = UnfoldAdminTextInputWidget()
        self.fields["regtask"].widget = TaskSelectWidget()


class PeriodicTaskInline(BeatPeriodicTaskInline, TabularInline):
    """The tasks that follow a schedule."""


class KeptAdmin(EditableAdmin):
    """Rows that migrations made: changed and switched off, with an audit entry, but not deleted."""

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """A schedule takes its tasks along, and nothing would make a sweep again."""
        return False


@admin.register(PeriodicTask)
class PeriodicTaskAdmin(BeatPeriodicTaskAdmin, KeptAdmin):
    """What runs when. Sweeps are harmless to run twice; switched off, the work they find waits."""

    form = PeriodicTaskForm
    list_display = ("name", "task", "enabled", "scheduler", "last_run_at", "total_run_count")
    list_filter = ("enabled", "one_off")
    date_hierarchy = None
    # Switching off is done on a task's own page, where it is written down who did.
    actions = ("run_tasks",)


@admin.register(IntervalSchedule)
class IntervalScheduleAdmin(BeatIntervalScheduleAdmin, KeptAdmin):
    """Every so many seconds, minutes, hours or days."""

    inlines = (PeriodicTaskInline,)
    list_display = ("__str__", "every", "period")
    list_filter = ("period",)


@admin.register(CrontabSchedule)
class CrontabScheduleAdmin(BeatCrontabScheduleAdmin, KeptAdmin):
    """At certain minutes, hours and days."""

    inlines = (PeriodicTaskInline,)


@admin.register(ClockedSchedule)
class ClockedScheduleAdmin(BeatClockedScheduleAdmin, KeptAdmin):
    """Once, at a certain moment."""

    inlines = (PeriodicTaskInline,)
