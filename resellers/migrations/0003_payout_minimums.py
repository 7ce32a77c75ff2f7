import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

import billing.models.catalogue


def the_same_in_every_currency(apps, schema_editor):
    """The one number that a level had stood for every currency."""
    minimum = apps.get_model("resellers", "PayoutMinimum")
    currencies = [code for code, _name in minimum._meta.get_field("currency").choices]
    for level in apps.get_model("resellers", "Level").objects.filter(minimum_payout__gt=0):
        for currency in currencies:
            minimum.objects.create(level=level, currency=currency, amount=level.minimum_payout)


def one_for_all(apps, schema_editor):
    """Back to one number: the one of the first currency."""
    for least in apps.get_model("resellers", "PayoutMinimum").objects.filter(currency="CNY"):
        apps.get_model("resellers", "Level").objects.filter(pk=least.level_id).update(minimum_payout=least.amount)


class Migration(migrations.Migration):
    dependencies = [
        ("resellers", "0002_schedule"),
    ]

    operations = [
        migrations.CreateModel(
            name="PayoutMinimum",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "currency",
                    billing.models.catalogue.CurrencyField(
                        choices=[
                            ("CNY", "Chinese yuan"),
                            ("USD", "US dollar"),
                            ("EUR", "Euro"),
                            ("HKD", "Hong Kong dollar"),
                            ("JPY", "Japanese yen"),
                        ],
                        default="CNY",
                        max_length=3,
                        verbose_name="currency",
                    ),
                ),
                (
                    "amount",
                    billing.models.catalogue.AmountField(
                        help_text="Less is carried into the next month.",
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(100000000000),
                        ],
                        verbose_name="smallest payout",
                    ),
                ),
                (
                    "level",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="payout_minimums",
                        to="resellers.level",
                        verbose_name="level",
                    ),
                ),
            ],
            options={
                "verbose_name": "smallest payout",
                "verbose_name_plural": "smallest payouts",
                "db_table": "payout_minimums",
                "ordering": ["level", "currency"],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("level", "currency"),
                        name="one_payout_minimum_per_level_and_currency",
                        violation_error_message="There is a smallest payout of this currency already.",
                    )
                ],
            },
        ),
        migrations.RunPython(the_same_in_every_currency, one_for_all),
        migrations.RemoveField(
            model_name="level",
            name="minimum_payout",
        ),
    ]
