"""The sweep of the outbox, every 30 seconds."""

from typing import Any

from django.db import migrations

from derp_portal.lib import beat


def seed(apps: Any, _schema_editor: Any) -> None:
    beat.seed(apps, name="Send due mail", task="accounts.tasks.deliver_due", every_seconds=30)


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_initial"), beat.LATEST_BEAT_MIGRATION]

    operations = [migrations.RunPython(seed, migrations.RunPython.noop)]
