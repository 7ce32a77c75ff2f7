from django.db import migrations, models
from django.db.models import F, Max

from derp_portal.lib.clock import now


def when_they_were_rejected(apps, schema_editor):
    """As the audit trail says; what it does not tell any more counts as rejected now."""
    entries = apps.get_model("accounts", "AuditEntry").objects.filter(
        event="settlement.rejected", target_type="resellers.settlement"
    )
    said = dict(entries.order_by().values_list("target_id").annotate(last=Max("created_at")))
    for settlement in apps.get_model("resellers", "Settlement").objects.filter(state="rejected"):
        settlement.rejected_at = said.get(str(settlement.pk)) or now()
        settlement.save(update_fields=["rejected_at"])


def what_was_run_is_settled(apps, schema_editor):
    """What has become enough since is carried into the next month, not into the last one."""
    apps.get_model("resellers", "CommissionBook").objects.update(settled_until=F("run_until"))


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0001_initial"),
        ("resellers", "0003_payout_minimums"),
    ]

    operations = [
        migrations.AddField(
            model_name="settlement",
            name="rejected_at",
            field=models.DateTimeField(blank=True, null=True, verbose_name="rejected at"),
        ),
        migrations.AddField(
            model_name="commissionbook",
            name="settled_until",
            field=models.DateField(
                blank=True,
                help_text="The first day of the last month that was run to its end: running it again carries nothing into it.",
                null=True,
                verbose_name="settled until",
            ),
        ),
        migrations.RunPython(when_they_were_rejected, migrations.RunPython.noop),
        migrations.RunPython(what_was_run_is_settled, migrations.RunPython.noop),
    ]
