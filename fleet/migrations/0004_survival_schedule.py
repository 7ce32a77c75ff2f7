from django.db import migrations

from derp_portal.lib.beat import LATEST_BEAT_MIGRATION, seed

SWEEPS = [
    ("Fleet: watch servers that do not answer", "fleet.tasks.watch_suspects", 5),
    ("Fleet: failovers and drains go on", "fleet.tasks.carry_on_evacuations", 5),
    ("Fleet: relays that do not work where they are", "fleet.tasks.rescue", 20),
    ("Fleet: roll-out of a relay image", "fleet.tasks.roll_out", 20),
    ("Fleet: renewals and allowances of servers", "fleet.tasks.care_for_servers", 900),
]


def seed_sweeps(apps, schema_editor):
    for name, task, seconds in SWEEPS:
        seed(apps, name=name, task=task, every_seconds=seconds)


class Migration(migrations.Migration):
    dependencies = [("fleet", "0003_survival"), LATEST_BEAT_MIGRATION]

    operations = [migrations.RunPython(seed_sweeps, migrations.RunPython.noop)]
