"""Tokens that a login made say so: until now they were known by their name alone, in the language of the login."""

from typing import Any

from django.db import migrations, models

NAMES = ("API login", "API 登录")


def mark(apps: Any, _schema_editor: Any) -> None:
    apps.get_model("accounts", "ApiToken").objects.filter(name__in=NAMES).update(is_login=True)


class Migration(migrations.Migration):
    dependencies = [("accounts", "0008_addresses_in_small_letters")]

    operations = [
        migrations.AddField(
            model_name="apitoken",
            name="is_login",
            field=models.BooleanField(
                default=False,
                editable=False,
                help_text="Ends with the password that made it.",
                verbose_name="made by a login",
            ),
        ),
        migrations.RunPython(mark, migrations.RunPython.noop),
    ]
