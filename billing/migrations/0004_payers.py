from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0003_example_prices")]

    operations = [
        migrations.AddField(
            model_name="transfer",
            name="payer_digest",
            field=models.CharField(blank=True, default="", editable=False, max_length=64),
            preserve_default=False,
        ),
        migrations.AddIndex(
            model_name="transfer",
            index=models.Index(
                condition=models.Q(("payer_digest", ""), _negated=True),
                fields=["payer_digest"],
                name="transfers_by_payer",
            ),
        ),
        migrations.AddField(
            model_name="sandboxcharge",
            name="payer",
            field=models.CharField(blank=True, default="", max_length=64),
            preserve_default=False,
        ),
    ]
