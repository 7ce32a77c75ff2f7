"""The sweep that passes tickets on, every minute."""

from typing import Any

from django.db import migrations

from derp_portal.lib import beat


def seed(apps: Any, _schema_editor: Any) -> None:
    beat.seed(apps, name="Pass tickets on", task="accounts.tasks.pass_on_tickets", every_seconds=60)


class Migration(migrations.Migration):
    dependencies = [("accounts", "0006_tickets"), beat.LATEST_BEAT_MIGRATION]

    operations = [migrations.RunPython(seed, migrations.RunPython.noop)]
