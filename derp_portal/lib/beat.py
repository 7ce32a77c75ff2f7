"""Seeding the beat schedule from migrations.

`beat_schedule` in settings would overwrite at every start what operators edited in the database; rows
seeded once are theirs from then on.
"""

from __future__ import annotations

from typing import Any

LATEST_BEAT_MIGRATION = ("django_celery_beat", "0019_alter_periodictasks_options")


def seed(apps: Any, *, name: str, task: str, every_seconds: int) -> None:
    """Schedule `task` every `every_seconds` under the unique `name`, unless that name is there already.

    For a `RunPython` in a migration that depends on `LATEST_BEAT_MIGRATION`; `apps` is the historical registry.
    """
    interval_model = apps.get_model("django_celery_beat", "IntervalSchedule")
    task_model = apps.get_model("django_celery_beat", "PeriodicTask")
    # Intervals are not unique in the database; operators may have made doubles.
    interval = interval_model.objects.filter(every=every_seconds, period="seconds").first()
    if interval is None:
        interval = interval_model.objects.create(every=every_seconds, period="seconds")
    task_model.objects.get_or_create(name=name, defaults={"task": task, "interval": interval})
