"""The sweep that writes the mails of announcements, every minute."""

from typing import Any

from django.db import migrations

from derp_portal.lib import beat


def seed(apps: Any, _schema_editor: Any) -> None:
    beat.seed(apps, name="Write announcements", task="accounts.tasks.write_announcements", every_seconds=60)


class Migration(migrations.Migration):
    dependencies = [("accounts", "0010_announcements"), beat.LATEST_BEAT_MIGRATION]

    operations = [migrations.RunPython(seed, migrations.RunPython.noop)]
