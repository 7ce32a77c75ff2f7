from django.db import migrations

from derp_portal.lib.beat import LATEST_BEAT_MIGRATION, seed

SWEEPS = [
    ("Money: deliver and expire orders", "billing.tasks.sweep_orders", 15),
    ("Money: ask gateways about open payments", "billing.tasks.ask_gateways", 30),
    ("Money: send refunds", "billing.tasks.send_refunds", 60),
    ("Money: callbacks of the test gateway", "billing.tasks.send_sandbox_callbacks", 5),
    ("Money: watch the stock of shops", "billing.tasks.watch_stock", 300),
    ("Money: figures of finished days", "billing.tasks.roll_up", 900),
    ("Money: check the books", "billing.tasks.check_books", 6 * 3600),
]


def seed_sweeps(apps, schema_editor):
    for name, task, seconds in SWEEPS:
        seed(apps, name=name, task=task, every_seconds=seconds)


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_initial"), LATEST_BEAT_MIGRATION]

    operations = [migrations.RunPython(seed_sweeps, migrations.RunPython.noop)]
