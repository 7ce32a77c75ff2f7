from django.db import migrations

from derp_portal.lib.beat import LATEST_BEAT_MIGRATION, seed

SWEEPS = [
    ("Resellers: read references of sign-ups", "resellers.tasks.read_signups", 15),
    ("Resellers: commissions and refunds", "resellers.tasks.accrue", 15),
    ("Resellers: whose customers leases are", "resellers.tasks.note_lease_contacts", 60),
    ("Resellers: run months that are over", "resellers.tasks.run_months", 3600),
    ("Resellers: send statements", "resellers.tasks.send_statements", 60),
    ("Resellers: check commissions", "resellers.tasks.check_commissions", 6 * 3600),
]


def seed_sweeps(apps, schema_editor):
    for name, task, seconds in SWEEPS:
        seed(apps, name=name, task=task, every_seconds=seconds)


def make_first_rows(apps, schema_editor):
    level_model = apps.get_model("resellers", "Level")
    level, _is_new = level_model.objects.get_or_create(
        code="standard", defaults={"name": "Standard", "name_zh": "标准", "is_default": True}
    )
    apps.get_model("resellers", "Rate").objects.get_or_create(level=level, plan=None, defaults={"basis_points": 1500})
    apps.get_model("resellers", "CommissionBook").objects.get_or_create(pk=1)


class Migration(migrations.Migration):
    dependencies = [("resellers", "0001_initial"), LATEST_BEAT_MIGRATION]

    operations = [
        migrations.RunPython(seed_sweeps, migrations.RunPython.noop),
        migrations.RunPython(make_first_rows, migrations.RunPython.noop),
    ]
