from django.db import migrations

# code of the example plan: fen
PRICES = {"3-days": 300, "5-days": 450, "30-days": 1990, "365-days": 19900}
PACKS = [("100-gb", "100 GB", "100 GB", 100 * 1000**3, 500), ("500-gb", "500 GB", "500 GB", 500 * 1000**3, 1990)]


def make_example_prices(apps, schema_editor):
    plan_model = apps.get_model("serials", "Plan")
    price_model = apps.get_model("billing", "Price")
    pack_model = apps.get_model("billing", "PackOffer")
    for code, amount in PRICES.items():
        plan = plan_model.objects.filter(code=code).first()
        if plan is not None:
            price_model.objects.get_or_create(plan=plan, currency="CNY", defaults={"amount": amount})
    for position, (code, name, name_zh, size, amount) in enumerate(PACKS):
        pack_model.objects.get_or_create(
            code=code,
            defaults={
                "name": name,
                "name_zh": name_zh,
                "extra_bytes": size,
                "amount": amount,
                "position": position,
            },
        )


class Migration(migrations.Migration):
    # The plans must be there, whichever way the two rooms' migrations are run.
    dependencies = [("billing", "0002_schedule"), ("serials", "0003_example_plans")]

    operations = [migrations.RunPython(make_example_prices, migrations.RunPython.noop)]
