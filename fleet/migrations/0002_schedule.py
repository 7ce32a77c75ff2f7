from django.db import migrations

from derp_portal.lib.beat import LATEST_BEAT_MIGRATION, seed

SWEEPS = [
    ("Fleet: reconcile every server", "fleet.tasks.reconcile_all", 15),
    ("Fleet: places for waiting relays", "fleet.tasks.place_waiting", 20),
    ("Fleet: probe relays", "fleet.tasks.probe_due", 20),
    ("Fleet: look at servers", "fleet.tasks.look_at_servers", 3600),
]


def seed_sweeps(apps, schema_editor):
    for name, task, seconds in SWEEPS:
        seed(apps, name=name, task=task, every_seconds=seconds)


class Migration(migrations.Migration):
    dependencies = [("fleet", "0001_initial"), LATEST_BEAT_MIGRATION]

    operations = [migrations.RunPython(seed_sweeps, migrations.RunPython.noop)]
