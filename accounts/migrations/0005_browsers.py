import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import derp_portal.lib.clock


class Migration(migrations.Migration):
    dependencies = [("accounts", "0004_signup_reference")]

    operations = [
        migrations.CreateModel(
            name="Browser",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("digest", models.CharField(editable=False, max_length=64)),
                ("first_seen_at", models.DateTimeField(default=derp_portal.lib.clock.now)),
                ("last_seen_at", models.DateTimeField(default=derp_portal.lib.clock.now)),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="browsers",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "db_table": "browsers",
                "ordering": ("-last_seen_at", "-id"),
                "indexes": [
                    models.Index(fields=["digest"], name="browsers_by_digest"),
                    models.Index(fields=["last_seen_at"], name="browsers_by_time"),
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("user", "digest"), name="one_row_per_user_and_browser")
                ],
            },
        ),
    ]
