"""The room's tables and what an empty portal starts with, in one step: an empty database is ready within seconds.

A portal that took the steps it replaces has taken it too; one that took some of them takes the rest of them. They go once
0.1.0 has been out for a release.
"""

from typing import Any

import django.core.validators
import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

from derp_portal.lib import beat

SWEEPS = [
    ("Serials: move leases along", "serials.tasks.sweep_leases", 15),
    ("Serials: expire serial numbers", "serials.tasks.sweep_serials", 60),
    ("Serials: remind of leases that end", "serials.tasks.send_reminders", 300),
]
GB = 1000**3
# code, name, Chinese name, days, relays, bytes per second for each device, quota in bytes, worth of a day
PLANS = [
    ("3-days", "3 days", "3 天", 3, 2, 2_500_000, 20 * GB, 100),
    ("5-days", "5 days", "5 天", 5, 2, 2_500_000, 40 * GB, 100),
    ("30-days", "30 days", "30 天", 30, 2, 12_500_000, 500 * GB, 200),
    ("365-days", "365 days", "365 天", 365, 2, 12_500_000, 6000 * GB, 200),
]


def make_example_plans(apps: Any, _schema_editor: Any) -> None:
    plans = apps.get_model("serials", "Plan").objects
    for position, (code, name, name_zh, days, relays, speed, quota, worth) in enumerate(PLANS):
        plans.create(
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


def seed_sweeps(apps: Any, _schema_editor: Any) -> None:
    for name, task, seconds in SWEEPS:
        beat.seed(apps, name=name, task=task, every_seconds=seconds)


class Migration(migrations.Migration):
    replaces = [
        ("serials", "0001_initial"),
        ("serials", "0002_schedule"),
        ("serials", "0003_example_plans"),
        ("serials", "0004_plan_priority"),
        ("serials", "0005_quota_period"),
        ("serials", "0006_plan_doors"),
        ("serials", "0007_terms_go_on_from"),
    ]

    initial = True

    dependencies = [
        ("fleet", "0001_squashed_0010_alerts_of_the_portal"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        beat.LATEST_BEAT_MIGRATION,
    ]

    operations = [
        migrations.CreateModel(
            name="Lease",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=60, verbose_name="name")),
                (
                    "status",
                    models.CharField(
                        choices=[("active", "active"), ("expired", "expired"), ("ended", "ended by staff")],
                        default="active",
                        max_length=8,
                        verbose_name="status",
                    ),
                ),
                ("started_at", models.DateTimeField(verbose_name="from")),
                ("ends_at", models.DateTimeField(help_text="The end of its last term.", verbose_name="to")),
                ("renewed_at", models.DateTimeField(verbose_name="last renewed")),
                (
                    "renewed_to",
                    models.DateTimeField(
                        help_text="The end its last renewal gave; what made up for an outage came on top.",
                        verbose_name="renewed to",
                    ),
                ),
                (
                    "active_since",
                    models.DateTimeField(
                        help_text="When it began, or came back to life after it had ended.", verbose_name="active since"
                    ),
                ),
                ("ended_at", models.DateTimeField(blank=True, null=True, verbose_name="ended")),
                (
                    "end_reason",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("expired", "its time was up"),
                            ("staff", "ended by staff"),
                            ("account_closed", "the account was closed"),
                            ("taken_back", "what was paid for it was given back"),
                        ],
                        max_length=14,
                        verbose_name="why it ended",
                    ),
                ),
                ("released_at", models.DateTimeField(blank=True, null=True, verbose_name="place released")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="created")),
                (
                    "relay_group",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="lease",
                        to="fleet.relaygroup",
                        verbose_name="relay group",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="leases",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="user",
                    ),
                ),
            ],
            options={
                "verbose_name": "lease",
                "verbose_name_plural": "leases",
                "db_table": "leases",
                "ordering": ["-id"],
                "indexes": [
                    models.Index(
                        condition=models.Q(("status", "active")), fields=["ends_at"], name="active_leases_by_end"
                    ),
                    models.Index(
                        condition=models.Q(models.Q(("status", "active"), _negated=True), ("released_at", None)),
                        fields=["ended_at"],
                        name="ended_leases_to_release",
                    ),
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("ended_at", None), ("status", "active")),
                            models.Q(models.Q(("status", "active"), _negated=True), ("ended_at__isnull", False)),
                            _connector="OR",
                        ),
                        name="lease_says_when_it_ended",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Plan",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("code", models.SlugField(max_length=40, unique=True, verbose_name="code")),
                ("name", models.CharField(max_length=80, verbose_name="name")),
                ("name_zh", models.CharField(blank=True, max_length=80, verbose_name="Chinese name")),
                (
                    "days",
                    models.PositiveIntegerField(
                        validators=[django.core.validators.MinValueValidator(1)], verbose_name="days"
                    ),
                ),
                (
                    "relay_count",
                    models.PositiveSmallIntegerField(
                        default=2,
                        help_text="A primary and standbys on other servers, where there are any: losing one then changes nothing.",
                        validators=[django.core.validators.MinValueValidator(1)],
                        verbose_name="relays",
                    ),
                ),
                (
                    "speed_bytes_per_second",
                    models.PositiveBigIntegerField(
                        default=0,
                        help_text="Bytes per second for each device; 0 = no limit.",
                        verbose_name="speed limit",
                    ),
                ),
                (
                    "quota_bytes",
                    models.PositiveBigIntegerField(
                        blank=True,
                        help_text="Bytes per quota period; empty = no limit.",
                        null=True,
                        verbose_name="traffic quota",
                    ),
                ),
                (
                    "day_value",
                    models.PositiveIntegerField(
                        default=100,
                        help_text="Only the ratio between plans counts: it converts days of one plan into days of another.",
                        validators=[django.core.validators.MinValueValidator(1)],
                        verbose_name="worth of a day",
                    ),
                ),
                ("is_public", models.BooleanField(default=True, verbose_name="shown to customers")),
                ("position", models.PositiveSmallIntegerField(default=0, verbose_name="position")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="created")),
                (
                    "regions",
                    models.ManyToManyField(
                        blank=True,
                        help_text="Tried first; when they have no room, another region is taken. None chosen = anywhere.",
                        related_name="+",
                        to="fleet.region",
                        verbose_name="regions",
                    ),
                ),
                (
                    "priority",
                    models.SmallIntegerField(
                        default=0,
                        help_text="Where room is short, relays of higher ones get a place first.",
                        verbose_name="priority",
                    ),
                ),
                (
                    "quota_period",
                    models.CharField(
                        choices=[("term", "the whole term"), ("month", "each calendar month")],
                        default="term",
                        max_length=8,
                        verbose_name="quota period",
                    ),
                ),
                (
                    "fails_open",
                    models.BooleanField(
                        default=True,
                        help_text="Else only devices that were let in before: nobody new gets in until the portal is back.",
                        verbose_name="relays let everybody in while the portal does not answer",
                    ),
                ),
                (
                    "max_devices",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="How many a customer may list; empty = no limit.",
                        null=True,
                        verbose_name="devices",
                    ),
                ),
            ],
            options={
                "verbose_name": "plan",
                "verbose_name_plural": "plans",
                "db_table": "plans",
                "ordering": ["position", "days", "id"],
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("days__gte", 1)), name="plan_has_days"),
                    models.CheckConstraint(condition=models.Q(("day_value__gte", 1)), name="plan_day_has_worth"),
                    models.CheckConstraint(condition=models.Q(("relay_count__gte", 1)), name="plan_has_a_relay"),
                ],
            },
        ),
        migrations.CreateModel(
            name="Reminder",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("lease_end", models.DateTimeField(verbose_name="for the end on")),
                ("days", models.PositiveSmallIntegerField(verbose_name="days before")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="sent")),
                (
                    "lease",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="reminders",
                        to="serials.lease",
                        verbose_name="lease",
                    ),
                ),
            ],
            options={
                "verbose_name": "reminder",
                "verbose_name_plural": "reminders",
                "db_table": "reminders",
                "ordering": ["-id"],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("lease", "lease_end", "days"), name="one_reminder_per_lease_end_and_days"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="SerialBatch",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("duration_days", models.PositiveIntegerField(verbose_name="days")),
                ("count", models.PositiveIntegerField(verbose_name="count")),
                ("activate_before", models.DateTimeField(blank=True, null=True, verbose_name="redeem before")),
                ("note", models.CharField(blank=True, max_length=200, verbose_name="note")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="created")),
                (
                    "created_by",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="created by",
                    ),
                ),
                (
                    "plan",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="batches",
                        to="serials.plan",
                        verbose_name="plan",
                    ),
                ),
            ],
            options={
                "verbose_name": "serial batch",
                "verbose_name_plural": "serial batches",
                "ordering": ["-id"],
            },
        ),
        migrations.CreateModel(
            name="SerialNumber",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("code", models.CharField(max_length=24, unique=True, verbose_name="code")),
                ("duration_days", models.PositiveIntegerField(verbose_name="days")),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("unused", "unused"),
                            ("used", "used"),
                            ("expired", "expired"),
                            ("revoked", "revoked"),
                        ],
                        default="unused",
                        max_length=8,
                        verbose_name="status",
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="created")),
                ("used_at", models.DateTimeField(blank=True, null=True, verbose_name="redeemed")),
                ("expires_at", models.DateTimeField(blank=True, null=True, verbose_name="expires")),
                (
                    "batch",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="serials",
                        to="serials.serialbatch",
                        verbose_name="batch",
                    ),
                ),
                (
                    "plan",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="serials",
                        to="serials.plan",
                        verbose_name="plan",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="serials",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="redeemed by",
                    ),
                ),
            ],
            options={
                "verbose_name": "serial number",
                "verbose_name_plural": "serial numbers",
                "db_table": "serial_numbers",
                "ordering": ["-id"],
                "indexes": [
                    models.Index(
                        condition=models.Q(("status__in", ["unused", "used"])),
                        fields=["expires_at"],
                        name="serials_to_expire",
                    ),
                    models.Index(fields=["user", "-used_at"], name="serials_by_user"),
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("status", "used"), _negated=True),
                            models.Q(("used_at__isnull", False), ("user__isnull", False)),
                            _connector="OR",
                        ),
                        name="used_serial_says_who_and_when",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("status", "unused"), _negated=True),
                            models.Q(("used_at", None), ("user", None)),
                            _connector="OR",
                        ),
                        name="unused_serial_has_no_user",
                    ),
                    models.CheckConstraint(condition=models.Q(("duration_days__gte", 1)), name="serial_has_days"),
                ],
            },
        ),
        migrations.CreateModel(
            name="LeaseTerm",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("starts_at", models.DateTimeField(verbose_name="from")),
                ("ends_at", models.DateTimeField(verbose_name="to")),
                (
                    "state",
                    models.CharField(
                        choices=[("queued", "to come"), ("current", "current"), ("done", "done")],
                        default="queued",
                        max_length=8,
                        verbose_name="state",
                    ),
                ),
                ("closed_at", models.DateTimeField(blank=True, null=True, verbose_name="closed early")),
                (
                    "source",
                    models.CharField(
                        choices=[
                            ("serial", "serial number"),
                            ("staff", "renewed by staff"),
                            ("compensation", "made up for an outage"),
                            ("conversion", "converted from another plan"),
                            ("forward", "brought forward"),
                        ],
                        max_length=12,
                        verbose_name="source",
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="created")),
                (
                    "actor",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="by",
                    ),
                ),
                (
                    "lease",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="terms",
                        to="serials.lease",
                        verbose_name="lease",
                    ),
                ),
                (
                    "outage",
                    models.OneToOneField(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="term",
                        to="fleet.outage",
                        verbose_name="outage",
                    ),
                ),
                (
                    "plan",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="serials.plan",
                        verbose_name="plan",
                    ),
                ),
                (
                    "serial",
                    models.OneToOneField(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="term",
                        to="serials.serialnumber",
                        verbose_name="serial",
                    ),
                ),
                (
                    "origin",
                    models.ForeignKey(
                        blank=True,
                        help_text="The first term of the same days, when they were moved up.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="continued_by",
                        to="serials.leaseterm",
                        verbose_name="goes on from",
                    ),
                ),
            ],
            options={
                "verbose_name": "term",
                "verbose_name_plural": "terms",
                "db_table": "lease_terms",
                "ordering": ["starts_at", "id"],
                "indexes": [
                    models.Index(
                        condition=models.Q(("state", "current")), fields=["ends_at"], name="current_terms_by_end"
                    )
                ],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("state", "current")), fields=("lease",), name="one_current_term_per_lease"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("ends_at__gt", models.F("starts_at"))), name="term_ends_after_it_starts"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("serial__isnull", False), ("source", "serial")),
                            models.Q(models.Q(("source", "serial"), _negated=True), ("serial", None)),
                            _connector="OR",
                        ),
                        name="serial_terms_name_their_serial",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Binding",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="bound")),
                (
                    "relay_group",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="bindings",
                        to="fleet.relaygroup",
                        verbose_name="relay group",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="bindings",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="user",
                    ),
                ),
                (
                    "term",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="binding",
                        to="serials.leaseterm",
                        verbose_name="term",
                    ),
                ),
                (
                    "serial",
                    models.OneToOneField(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="binding",
                        to="serials.serialnumber",
                        verbose_name="serial",
                    ),
                ),
            ],
            options={
                "verbose_name": "binding",
                "verbose_name_plural": "bindings",
                "db_table": "bindings",
                "ordering": ["-id"],
            },
        ),
        migrations.RunPython(seed_sweeps, migrations.RunPython.noop),
        migrations.RunPython(make_example_plans, migrations.RunPython.noop),
    ]
