import django.core.validators
from django.db import migrations, models

import billing.models.catalogue


def what_was_paid(apps, schema_editor):
    """Until something was given back, a serial costs its part of what was booked."""
    apps.get_model("billing", "SoldSerial").objects.update(cost=models.F("amount"))


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0007_payers_asked"),
    ]

    operations = [
        migrations.AddField(
            model_name="soldserial",
            name="cost",
            field=billing.models.catalogue.AmountField(
                default=0,
                help_text="Its part of what its buyer has paid and not got back.",
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(100000000000),
                ],
                verbose_name="cost",
            ),
        ),
        migrations.AlterField(
            model_name="soldserial",
            name="amount",
            field=billing.models.catalogue.AmountField(
                help_text="Its part of what was booked.",
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(100000000000),
                ],
                verbose_name="amount",
            ),
        ),
        migrations.RunPython(what_was_paid, migrations.RunPython.noop),
    ]
