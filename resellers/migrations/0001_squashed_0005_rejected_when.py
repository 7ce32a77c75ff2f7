"""The room's tables and what an empty portal starts with, in one step: an empty database is ready within seconds.

A portal that took the steps it replaces has taken it too; one that took some of them takes the rest of them. They go once
0.1.0 has been out for a release.
"""

from typing import Any

import django.core.validators
import django.db.models.deletion
import django.db.models.expressions
from django.conf import settings
from django.db import migrations, models

import billing.models.catalogue
import derp_portal.lib.clock
import derp_portal.lib.secrets
from derp_portal.lib import beat

SWEEPS = [
    ("Resellers: read references of sign-ups", "resellers.tasks.read_signups", 15),
    ("Resellers: commissions and refunds", "resellers.tasks.accrue", 15),
    ("Resellers: whose customers leases are", "resellers.tasks.note_lease_contacts", 60),
    ("Resellers: run months that are over", "resellers.tasks.run_months", 3600),
    ("Resellers: send statements", "resellers.tasks.send_statements", 60),
    ("Resellers: check commissions", "resellers.tasks.check_commissions", 6 * 3600),
]


def make_first_rows(apps: Any, _schema_editor: Any) -> None:
    level = apps.get_model("resellers", "Level").objects.create(
        code="standard", name="Standard", name_zh="标准", is_default=True
    )
    apps.get_model("resellers", "Rate").objects.create(level=level, plan=None, basis_points=1500)
    apps.get_model("resellers", "CommissionBook").objects.create(pk=1)


def seed_sweeps(apps: Any, _schema_editor: Any) -> None:
    for name, task, seconds in SWEEPS:
        beat.seed(apps, name=name, task=task, every_seconds=seconds)


class Migration(migrations.Migration):
    replaces = [
        ("resellers", "0001_initial"),
        ("resellers", "0002_schedule"),
        ("resellers", "0003_payout_minimums"),
        ("resellers", "0004_what_is_carried"),
        ("resellers", "0005_rejected_when"),
    ]

    initial = True

    dependencies = [
        ("billing", "0001_squashed_0009_promises_of_money"),
        ("serials", "0001_squashed_0007_terms_go_on_from"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        beat.LATEST_BEAT_MIGRATION,
    ]

    operations = [
        migrations.CreateModel(
            name="CommissionBook",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "run_until",
                    models.DateField(
                        blank=True,
                        help_text="The first day of the last month that was run.",
                        null=True,
                        verbose_name="run until",
                    ),
                ),
                (
                    "settled_until",
                    models.DateField(
                        blank=True,
                        help_text="The first day of the last month that was run to its end: running it again carries nothing into it.",
                        null=True,
                        verbose_name="settled until",
                    ),
                ),
            ],
            options={
                "verbose_name": "commission book",
                "verbose_name_plural": "commission book",
                "db_table": "commission_book",
            },
        ),
        migrations.CreateModel(
            name="Level",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("code", models.SlugField(max_length=40, unique=True, verbose_name="code")),
                ("name", models.CharField(max_length=80, verbose_name="name")),
                ("name_zh", models.CharField(blank=True, max_length=80, verbose_name="Chinese name")),
                (
                    "first_order_only",
                    models.BooleanField(
                        default=False,
                        help_text="Else every order of a customer earns.",
                        verbose_name="first order only",
                    ),
                ),
                (
                    "hold_days",
                    models.PositiveSmallIntegerField(
                        default=14,
                        help_text="Commission is due so many days after the order was paid.",
                        verbose_name="held for days",
                    ),
                ),
                (
                    "cookie_days",
                    models.PositiveSmallIntegerField(
                        default=30,
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(400),
                        ],
                        verbose_name="link remembered for days",
                    ),
                ),
                (
                    "recall_days",
                    models.PositiveSmallIntegerField(
                        default=14,
                        help_text="For so long wholesale serials that nobody has redeemed can be given back; 0 = never.",
                        verbose_name="recall within days",
                    ),
                ),
                ("is_default", models.BooleanField(default=False, verbose_name="for new resellers")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="created")),
            ],
            options={
                "verbose_name": "level of resellers",
                "verbose_name_plural": "levels of resellers",
                "db_table": "reseller_levels",
                "ordering": ["name", "id"],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("is_default", True)), fields=("is_default",), name="one_default_level"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Reseller",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "code",
                    models.CharField(
                        max_length=32,
                        unique=True,
                        validators=[
                            django.core.validators.RegexValidator(
                                "^[a-z0-9][a-z0-9-]{2,31}$", "3 to 32 small letters, digits and dashes."
                            )
                        ],
                        verbose_name="link code",
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("applied", "applied"),
                            ("active", "active"),
                            ("rejected", "rejected"),
                            ("suspended", "suspended"),
                        ],
                        default="applied",
                        max_length=10,
                        verbose_name="state",
                    ),
                ),
                (
                    "application",
                    models.TextField(blank=True, help_text="How they mean to sell.", verbose_name="application"),
                ),
                (
                    "contact",
                    models.CharField(
                        blank=True,
                        help_text="Shown to those who redeemed their serials.",
                        max_length=200,
                        verbose_name="contact",
                    ),
                ),
                ("renewal_url", models.URLField(blank=True, verbose_name="where their customers renew")),
                (
                    "landing_text",
                    models.TextField(blank=True, max_length=2000, verbose_name="text of the landing page"),
                ),
                ("terms_version", models.CharField(blank=True, max_length=20, verbose_name="terms accepted")),
                ("terms_accepted_at", models.DateTimeField(blank=True, null=True, verbose_name="accepted at")),
                (
                    "payout_kind",
                    models.CharField(
                        blank=True,
                        choices=[("bank", "bank account"), ("alipay", "Alipay"), ("wechat", "WeChat")],
                        max_length=8,
                        verbose_name="payout by",
                    ),
                ),
                (
                    "payout_details",
                    derp_portal.lib.secrets.SecretTextField(blank=True, null=True, verbose_name="payout details"),
                ),
                ("decided_at", models.DateTimeField(blank=True, null=True, verbose_name="decided at")),
                ("decision_reason", models.CharField(blank=True, max_length=200, verbose_name="reason")),
                ("created_at", models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="applied at")),
                (
                    "decided_by",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="decided by",
                    ),
                ),
                (
                    "level",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="resellers",
                        to="resellers.level",
                        verbose_name="level",
                    ),
                ),
                (
                    "user",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="reseller",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="user",
                    ),
                ),
            ],
            options={
                "verbose_name": "reseller",
                "verbose_name_plural": "resellers",
                "db_table": "resellers",
                "ordering": ["-id"],
                "indexes": [
                    models.Index(condition=models.Q(("state", "applied")), fields=["-id"], name="resellers_to_decide")
                ],
            },
        ),
        migrations.CreateModel(
            name="LinkDay",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("day", models.DateField(verbose_name="day")),
                ("clicks", models.PositiveIntegerField(default=0, verbose_name="clicks")),
                (
                    "reseller",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="link_days",
                        to="resellers.reseller",
                        verbose_name="reseller",
                    ),
                ),
            ],
            options={
                "verbose_name": "clicks of a day",
                "verbose_name_plural": "clicks of days",
                "db_table": "reseller_link_days",
                "ordering": ["-day"],
                "constraints": [
                    models.UniqueConstraint(fields=("reseller", "day"), name="one_count_of_clicks_per_day")
                ],
            },
        ),
        migrations.CreateModel(
            name="LevelPeriod",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("since", models.DateTimeField(verbose_name="since")),
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
                    "level",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="resellers.level",
                        verbose_name="level",
                    ),
                ),
                (
                    "reseller",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="level_periods",
                        to="resellers.reseller",
                        verbose_name="reseller",
                    ),
                ),
            ],
            options={
                "verbose_name": "level of a reseller",
                "verbose_name_plural": "levels of a reseller",
                "db_table": "reseller_level_periods",
                "ordering": ["-since", "-id"],
                "indexes": [models.Index(fields=["reseller", "-since"], name="levels_by_time")],
            },
        ),
        migrations.CreateModel(
            name="LeaseContact",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("reason", models.CharField(blank=True, max_length=200, verbose_name="reason")),
                ("created_at", models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="since")),
                (
                    "lease",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="reseller_contact",
                        to="serials.lease",
                        verbose_name="lease",
                    ),
                ),
                (
                    "reseller",
                    models.ForeignKey(
                        blank=True,
                        help_text="Empty: the portal itself.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="lease_contacts",
                        to="resellers.reseller",
                        verbose_name="reseller",
                    ),
                ),
            ],
            options={
                "verbose_name": "reseller of a lease",
                "verbose_name_plural": "resellers of leases",
                "db_table": "lease_contacts",
                "ordering": ["-id"],
            },
        ),
        migrations.CreateModel(
            name="CommissionLine",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("earned", "earned"),
                            ("reversed", "taken back by a refund"),
                            ("nothing", "earned nothing"),
                        ],
                        max_length=8,
                        verbose_name="kind",
                    ),
                ),
                (
                    "base",
                    models.BigIntegerField(default=0, help_text="What was received or given back.", verbose_name="of"),
                ),
                ("amount", models.BigIntegerField(verbose_name="commission")),
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
                ("why", models.CharField(blank=True, max_length=32, verbose_name="why")),
                ("rates", models.JSONField(default=list, verbose_name="rates")),
                ("due_on", models.DateField(verbose_name="due on")),
                (
                    "settle_month",
                    models.DateField(
                        help_text="The first day of the month whose run settles it.", verbose_name="settled with"
                    ),
                ),
                ("created_at", models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="when")),
                (
                    "order",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="commission_lines",
                        to="billing.order",
                        verbose_name="order",
                    ),
                ),
                (
                    "refund",
                    models.OneToOneField(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="commission_line",
                        to="billing.refund",
                        verbose_name="refund",
                    ),
                ),
                (
                    "reseller",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="commission_lines",
                        to="resellers.reseller",
                        verbose_name="reseller",
                    ),
                ),
            ],
            options={
                "verbose_name": "commission",
                "verbose_name_plural": "commissions",
                "db_table": "commission_lines",
                "ordering": ["-id"],
                "indexes": [
                    models.Index(
                        fields=["settle_month", "reseller", "currency"],
                        include=("amount",),
                        name="commissions_by_month",
                    ),
                    models.Index(fields=["reseller", "-id"], name="commissions_of_reseller"),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("kind__in", ["earned", "nothing"])),
                        fields=("order", "reseller"),
                        name="one_commission_per_order_and_reseller",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("amount__gt", 0), ("kind", "earned"), ("refund", None)),
                            models.Q(("amount__lte", 0), ("kind", "reversed"), ("refund__isnull", False)),
                            models.Q(("amount", 0), ("kind", "nothing"), ("refund", None)),
                            _connector="OR",
                        ),
                        name="commission_has_the_sign_of_its_kind",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Attribution",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("since", models.DateTimeField(verbose_name="since")),
                ("until", models.DateTimeField(blank=True, null=True, verbose_name="until")),
                ("reason", models.CharField(blank=True, max_length=200, verbose_name="reason")),
                ("created_at", models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="written")),
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
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="attributions",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="customer",
                    ),
                ),
                (
                    "reseller",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="attributions",
                        to="resellers.reseller",
                        verbose_name="reseller",
                    ),
                ),
            ],
            options={
                "verbose_name": "attribution",
                "verbose_name_plural": "attributions",
                "db_table": "attributions",
                "ordering": ["-id"],
                "indexes": [models.Index(fields=["reseller", "-since"], name="customers_of_reseller")],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("until", None)), fields=("user",), name="one_reseller_per_customer"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Settlement",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("month", models.DateField(help_text="Its first day.", verbose_name="month")),
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
                    models.BigIntegerField(help_text="The sum of its commission lines.", verbose_name="of the month"),
                ),
                ("carried_in", models.BigIntegerField(default=0, verbose_name="carried in")),
                ("payable", models.BigIntegerField(verbose_name="payable")),
                ("lines", models.PositiveIntegerField(default=0, verbose_name="lines")),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("open", "to be approved"),
                            ("approved", "to be paid"),
                            ("paid", "paid"),
                            ("rejected", "rejected; carried over"),
                            ("carried", "carried over"),
                        ],
                        max_length=8,
                        verbose_name="state",
                    ),
                ),
                ("reason", models.CharField(blank=True, max_length=200, verbose_name="reason")),
                ("payout_reference", models.CharField(blank=True, max_length=128, verbose_name="paid by")),
                ("approved_at", models.DateTimeField(blank=True, null=True, verbose_name="approved at")),
                ("paid_at", models.DateTimeField(blank=True, null=True, verbose_name="paid at")),
                ("told_at", models.DateTimeField(blank=True, null=True, verbose_name="statement sent")),
                ("created_at", models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="made")),
                (
                    "approved_by",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="approved by",
                    ),
                ),
                (
                    "carried_to",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="carried_from",
                        to="resellers.settlement",
                        verbose_name="carried to",
                    ),
                ),
                (
                    "paid_by",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="paid out by",
                    ),
                ),
                (
                    "reseller",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="settlements",
                        to="resellers.reseller",
                        verbose_name="reseller",
                    ),
                ),
                ("rejected_at", models.DateTimeField(blank=True, null=True, verbose_name="rejected at")),
            ],
            options={
                "verbose_name": "settlement",
                "verbose_name_plural": "settlements",
                "db_table": "settlements",
                "ordering": ["-month", "-id"],
                "indexes": [
                    models.Index(fields=["state", "-month"], name="settlements_by_state"),
                    models.Index(condition=models.Q(("told_at", None)), fields=["id"], name="settlements_to_tell"),
                    models.Index(
                        condition=models.Q(("carried_to", None), ("state__in", ["carried", "rejected"])),
                        fields=["reseller", "currency"],
                        name="settlements_to_carry",
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("reseller", "month", "currency"), name="one_settlement_per_reseller_and_month"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            (
                                "payable",
                                django.db.models.expressions.CombinedExpression(
                                    models.F("amount"), "+", models.F("carried_in")
                                ),
                            )
                        ),
                        name="settlement_adds_up",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("state__in", ["open", "approved", "paid"]), _negated=True),
                            ("payable__gt", 0),
                            _connector="OR",
                        ),
                        name="only_what_is_owed_is_paid",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("state", "rejected"), _negated=True),
                            ("rejected_at__isnull", False),
                            _connector="OR",
                        ),
                        name="rejected_settlements_say_when",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Signup",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "verdict",
                    models.CharField(
                        choices=[
                            ("attributed", "brought by the reseller"),
                            ("invalid", "not a reference of ours"),
                            ("expired", "the link was opened too long ago"),
                            ("inactive", "the reseller is not active"),
                            ("own", "the reseller's own"),
                        ],
                        max_length=12,
                        verbose_name="verdict",
                    ),
                ),
                ("clicked_at", models.DateTimeField(blank=True, null=True, verbose_name="link opened")),
                ("created_at", models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="signed up")),
                (
                    "reseller",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="signups",
                        to="resellers.reseller",
                        verbose_name="reseller",
                    ),
                ),
                (
                    "user",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="referral_signup",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="user",
                    ),
                ),
            ],
            options={
                "verbose_name": "sign-up by a link",
                "verbose_name_plural": "sign-ups by links",
                "db_table": "referral_signups",
                "ordering": ["-id"],
                "indexes": [models.Index(fields=["reseller", "-created_at"], name="signups_of_reseller")],
            },
        ),
        migrations.CreateModel(
            name="Suspicion",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("signals", models.JSONField(default=list, verbose_name="signals")),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("open", "a person must look"),
                            ("cleared", "it may earn"),
                            ("confirmed", "it earns nothing"),
                        ],
                        default="open",
                        max_length=10,
                        verbose_name="state",
                    ),
                ),
                ("reason", models.CharField(blank=True, max_length=200, verbose_name="reason")),
                ("decided_at", models.DateTimeField(blank=True, null=True, verbose_name="decided at")),
                ("created_at", models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="noticed")),
                (
                    "actor",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="decided by",
                    ),
                ),
                (
                    "order",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="suspicion",
                        to="billing.order",
                        verbose_name="order",
                    ),
                ),
                (
                    "reseller",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="suspicions",
                        to="resellers.reseller",
                        verbose_name="reseller",
                    ),
                ),
            ],
            options={
                "verbose_name": "suspicion",
                "verbose_name_plural": "suspicions",
                "db_table": "suspicions",
                "ordering": ["-id"],
                "indexes": [
                    models.Index(condition=models.Q(("state", "open")), fields=["-id"], name="suspicions_open")
                ],
            },
        ),
        migrations.CreateModel(
            name="Rate",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "basis_points",
                    models.PositiveIntegerField(
                        help_text="In hundredths of a percent: 1500 is 15 %.",
                        validators=[django.core.validators.MaxValueValidator(10000)],
                        verbose_name="rate",
                    ),
                ),
                ("valid_from", models.DateTimeField(blank=True, null=True, verbose_name="valid from")),
                ("valid_until", models.DateTimeField(blank=True, null=True, verbose_name="valid until")),
                (
                    "level",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="rates",
                        to="resellers.level",
                        verbose_name="level",
                    ),
                ),
                (
                    "plan",
                    models.ForeignKey(
                        blank=True,
                        help_text="Empty: every plan that has no rate of its own, and traffic packs.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="serials.plan",
                        verbose_name="plan",
                    ),
                ),
            ],
            options={
                "verbose_name": "commission rate",
                "verbose_name_plural": "commission rates",
                "db_table": "commission_rates",
                "ordering": ["level", "plan", "-id"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("basis_points__lte", 10000)), name="rate_is_no_more_than_all"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Resale",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("customer", models.CharField(blank=True, max_length=120, verbose_name="customer")),
                (
                    "price",
                    billing.models.catalogue.AmountField(
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(100000000000),
                        ],
                        verbose_name="price",
                    ),
                ),
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
                ("sold_on", models.DateField(verbose_name="sold on")),
                ("note", models.CharField(blank=True, max_length=200, verbose_name="note")),
                ("created_at", models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="recorded")),
                (
                    "sold",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="resale",
                        to="billing.soldserial",
                        verbose_name="serial",
                    ),
                ),
            ],
            options={
                "verbose_name": "resale",
                "verbose_name_plural": "resales",
                "db_table": "resales",
                "ordering": ["-sold_on", "-id"],
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("price__gte", 0)), name="resale_is_not_negative")
                ],
            },
        ),
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
        migrations.RunPython(seed_sweeps, migrations.RunPython.noop),
        migrations.RunPython(make_first_rows, migrations.RunPython.noop),
    ]
