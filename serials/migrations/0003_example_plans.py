from django.db import migrations

GB = 1000**3

# code, name, Chinese name, days, relays, bytes per second for each device, quota in bytes, worth of a day
PLANS = [
    ("3-days", "3 days", "3 天", 3, 2, 2_500_000, 20 * GB, 100),
    ("5-days", "5 days", "5 天", 5, 2, 2_500_000, 40 * GB, 100),
    ("30-days", "30 days", "30 天", 30, 2, 12_500_000, 500 * GB, 200),
    ("365-days", "365 days", "365 天", 365, 2, 12_500_000, 6000 * GB, 200),
]


def make_example_plans(apps, schema_editor):
    plan_model = apps.get_model("serials", "Plan")
    if plan_model.objects.exists():
        return
    for position, (code, name, name_zh, days, relays, speed, quota, worth) in enumerate(PLANS):
        plan_model.objects.create(
            code=code,
            name=name,
            name_zh=name_zh,
            days=days,
            relay_count=relays,
            speed_bytes_per_second=speed,
            quota_bytes=quota,
            day_value=worth,
            position=position,
        )


class Migration(migrations.Migration):
    dependencies = [("serials", "0002_schedule")]

    operations = [migrations.RunPython(make_example_plans, migrations.RunPython.noop)]
