from django.db import migrations

from derp_portal.lib.beat import LATEST_BEAT_MIGRATION, seed


def seed_sweep(apps, schema_editor):
    seed(apps, name="Money: forget old callbacks", task="billing.tasks.forget_callbacks", every_seconds=24 * 3600)


class Migration(migrations.Migration):
    dependencies = [("billing", "0005_disputes"), LATEST_BEAT_MIGRATION]

    operations = [migrations.RunPython(seed_sweep, migrations.RunPython.noop)]
