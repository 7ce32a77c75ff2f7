from django.db import migrations

MINUTE = 60

RULES = [
    # name, figure, threshold, for how long, severity
    ("CPU over 90 %", "cpu", 90, 10 * MINUTE, "warning"),
    ("Memory over 92 %", "memory", 92, 10 * MINUTE, "warning"),
    ("Disk over 85 %", "disk", 85, 5 * MINUTE, "warning"),
    ("Disk over 95 %", "disk", 95, 1 * MINUTE, "critical"),
    ("Load over 16", "load", 16, 15 * MINUTE, "warning"),
]


def ship_rules(apps, schema_editor):
    """Rules are the operators' from then on; one that was renamed or deleted does not come back."""
    rule_model = apps.get_model("fleet", "AlertRule")
    for name, metric, threshold, seconds, severity in RULES:
        rule_model.objects.get_or_create(
            name=name,
            defaults={"metric": metric, "threshold": threshold, "for_seconds": seconds, "severity": severity},
        )


class Migration(migrations.Migration):
    dependencies = [("fleet", "0006_monitoring_schedule")]

    operations = [migrations.RunPython(ship_rules, migrations.RunPython.noop)]
