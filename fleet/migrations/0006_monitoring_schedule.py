from django.db import migrations

from derp_portal.lib.beat import LATEST_BEAT_MIGRATION, seed

SWEEPS = [
    ("Fleet: read the relays' counters", "fleet.tasks.meter_due", 10),
    ("Fleet: quotas", "fleet.tasks.keep_quotas", 10),
    ("Fleet: figures of servers", "fleet.tasks.measure_servers", 30),
    ("Fleet: alert rules", "fleet.tasks.watch_rules", 30),
    ("Fleet: deliver alerts", "fleet.tasks.deliver_alerts", 10),
    ("Fleet: compare the books with the engines' counters", "fleet.tasks.compare_counters", 3600),
    ("Fleet: forget old readings", "fleet.tasks.forget_readings", 3600),
]


def seed_sweeps(apps, schema_editor):
    for name, task, seconds in SWEEPS:
        seed(apps, name=name, task=task, every_seconds=seconds)


def probe_more_often(apps, schema_editor):
    """What may have begun to fail is asked again after ten seconds; an operator's own interval stays."""
    seconds = {"period": "seconds"}
    intervals = apps.get_model("django_celery_beat", "IntervalSchedule").objects
    interval = intervals.filter(every=10, **seconds).first() or intervals.create(every=10, **seconds)
    sweep = apps.get_model("django_celery_beat", "PeriodicTask").objects.filter(task="fleet.tasks.probe_due")
    sweep.filter(interval__every=20, interval__period="seconds").update(interval=interval)


class Migration(migrations.Migration):
    dependencies = [("fleet", "0005_metering"), LATEST_BEAT_MIGRATION]

    operations = [
        migrations.RunPython(seed_sweeps, migrations.RunPython.noop),
        migrations.RunPython(probe_more_often, migrations.RunPython.noop),
    ]
