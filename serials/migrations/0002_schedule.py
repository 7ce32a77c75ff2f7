from django.db import migrations

from derp_portal.lib.beat import LATEST_BEAT_MIGRATION, seed

SWEEPS = [
    ("Serials: move leases along", "serials.tasks.sweep_leases", 15),
    ("Serials: expire serial numbers", "serials.tasks.sweep_serials", 60),
    ("Serials: remind of leases that end", "serials.tasks.send_reminders", 300),
]


def seed_sweeps(apps, schema_editor):
    for name, task, seconds in SWEEPS:
        seed(apps, name=name, task=task, every_seconds=seconds)


class Migration(migrations.Migration):
    dependencies = [("serials", "0001_initial"), LATEST_BEAT_MIGRATION]

    operations = [migrations.RunPython(seed_sweeps, migrations.RunPython.noop)]
