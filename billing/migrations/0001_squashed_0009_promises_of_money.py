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
    ("Money: deliver and expire orders", "billing.tasks.sweep_orders", 15),
    ("Money: ask gateways about open payments", "billing.tasks.ask_gateways", 30),
    ("Money: send refunds", "billing.tasks.send_refunds", 60),
    ("Money: callbacks of the test gateway", "billing.tasks.send_sandbox_callbacks", 5),
    ("Money: watch the stock of shops", "billing.tasks.watch_stock", 300),
    ("Money: figures of finished days", "billing.tasks.roll_up", 900),
    ("Money: check the books", "billing.tasks.check_books", 6 * 3600),
    ("Money: forget old callbacks", "billing.tasks.forget_callbacks", 24 * 3600),
]
# code of the example plan: fen
PRICES = {"3-days": 300, "5-days": 450, "30-days": 1990, "365-days": 19900}
PACKS = [("100-gb", "100 GB", "100 GB", 100 * 1000**3, 500), ("500-gb", "500 GB", "500 GB", 500 * 1000**3, 1990)]


def make_example_prices(apps: Any, _schema_editor: Any) -> None:
    plans = apps.get_model("serials", "Plan").objects
    prices = apps.get_model("billing", "Price").objects
    packs = apps.get_model("billing", "PackOffer").objects
    for code, amount in PRICES.items():
        # An operator who took over serials alone may have deleted an example since.
        plan = plans.filter(code=code).first()
        if plan is not None:
            prices.create(plan=plan, currency="CNY", amount=amount)
    for position, (code, name, name_zh, size, amount) in enumerate(PACKS):
        packs.create(code=code, name=name, name_zh=name_zh, extra_bytes=size, amount=amount, position=position)


def seed_sweeps(apps: Any, _schema_editor: Any) -> None:
    for name, task, seconds in SWEEPS:
        beat.seed(apps, name=name, task=task, every_seconds=seconds)


class Migration(migrations.Migration):
    replaces = [
        ("billing", "0001_initial"),
        ("billing", "0002_schedule"),
        ("billing", "0003_example_prices"),
        ("billing", "0004_payers"),
        ("billing", "0005_disputes"),
        ("billing", "0006_callbacks_kept"),
        ("billing", "0007_payers_asked"),
        ("billing", "0008_what_serials_cost"),
        ("billing", "0009_promises_of_money"),
    ]

    initial = True

    dependencies = [
        ("serials", "0001_squashed_0007_terms_go_on_from"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        beat.LATEST_BEAT_MIGRATION,
    ]

    operations = [
        migrations.CreateModel(
            name="RolledDay",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("day", models.DateField(unique=True, verbose_name="day")),
                ("placed", models.PositiveIntegerField(default=0, verbose_name="orders placed")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="written")),
            ],
            options={
                "verbose_name": "rolled day",
                "verbose_name_plural": "rolled days",
                "db_table": "rolled_days",
                "ordering": ["-day"],
            },
        ),
        migrations.CreateModel(
            name="BuyerTerms",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("wholesale_level", models.CharField(blank=True, max_length=40, verbose_name="level")),
                (
                    "brought_by",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="brought by",
                    ),
                ),
                (
                    "user",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="buyer_terms",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="buyer",
                    ),
                ),
            ],
            options={
                "verbose_name": "terms of a buyer",
                "verbose_name_plural": "terms of buyers",
                "db_table": "buyer_terms",
            },
        ),
        migrations.CreateModel(
            name="ClosedMonth",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("month", models.DateField(help_text="Its first day.", unique=True, verbose_name="month")),
                ("report", models.JSONField(default=dict, verbose_name="report")),
                ("created_at", models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="closed")),
                (
                    "actor",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="closed by",
                    ),
                ),
            ],
            options={
                "verbose_name": "closed month",
                "verbose_name_plural": "closed months",
                "db_table": "closed_months",
                "ordering": ["-month"],
            },
        ),
        migrations.CreateModel(
            name="Coupon",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "code",
                    models.CharField(
                        max_length=40,
                        unique=True,
                        validators=[
                            django.core.validators.RegexValidator(
                                "^[A-Z0-9][A-Z0-9_-]{2,39}$", "3 to 40 capitals, digits, dashes and underscores."
                            )
                        ],
                        verbose_name="code",
                    ),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[("percent", "percent"), ("amount", "amount")],
                        default="percent",
                        max_length=8,
                        verbose_name="kind",
                    ),
                ),
                (
                    "percent",
                    models.PositiveSmallIntegerField(
                        blank=True,
                        null=True,
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(100),
                        ],
                        verbose_name="percent off",
                    ),
                ),
                (
                    "amount",
                    billing.models.catalogue.AmountField(
                        blank=True,
                        help_text="In the smallest unit: 500 is ¥5.00.",
                        null=True,
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(100000000000),
                        ],
                        verbose_name="amount off",
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
                        help_text="Of the amount off; a percentage takes any.",
                        max_length=3,
                        verbose_name="currency",
                    ),
                ),
                ("first_order_only", models.BooleanField(default=False, verbose_name="first order only")),
                (
                    "total_limit",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="Empty = no limit.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                        verbose_name="uses in all",
                    ),
                ),
                (
                    "per_user_limit",
                    models.PositiveIntegerField(
                        blank=True,
                        default=1,
                        help_text="Empty = no limit.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                        verbose_name="uses per account",
                    ),
                ),
                ("valid_from", models.DateTimeField(blank=True, null=True, verbose_name="valid from")),
                ("valid_until", models.DateTimeField(blank=True, null=True, verbose_name="valid until")),
                ("is_active", models.BooleanField(default=True, verbose_name="active")),
                ("note", models.CharField(blank=True, max_length=200, verbose_name="note")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="created")),
                (
                    "plans",
                    models.ManyToManyField(
                        blank=True,
                        help_text="None chosen = all of them.",
                        related_name="+",
                        to="serials.plan",
                        verbose_name="plans",
                    ),
                ),
            ],
            options={
                "verbose_name": "coupon",
                "verbose_name_plural": "coupons",
                "db_table": "coupons",
                "ordering": ["-id"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("amount", None), ("kind", "percent"), ("percent__gte", 1), ("percent__lte", 100)),
                            models.Q(("amount__gte", 1), ("kind", "amount"), ("percent", None)),
                            _connector="OR",
                        ),
                        name="coupon_takes_percent_or_amount_off",
                        violation_error_message="Give either a percentage or an amount, as the kind says.",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="PackOffer",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("code", models.SlugField(max_length=40, unique=True, verbose_name="code")),
                ("name", models.CharField(max_length=80, verbose_name="name")),
                ("name_zh", models.CharField(blank=True, max_length=80, verbose_name="Chinese name")),
                (
                    "extra_bytes",
                    models.PositiveBigIntegerField(
                        validators=[django.core.validators.MinValueValidator(1)], verbose_name="bytes"
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
                (
                    "amount",
                    billing.models.catalogue.AmountField(
                        help_text="In the smallest unit: 1990 is ¥19.90.",
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(100000000000),
                        ],
                        verbose_name="price",
                    ),
                ),
                ("is_active", models.BooleanField(default=True, verbose_name="on sale")),
                ("position", models.PositiveSmallIntegerField(default=0, verbose_name="position")),
            ],
            options={
                "verbose_name": "pack on sale",
                "verbose_name_plural": "packs on sale",
                "db_table": "pack_offers",
                "ordering": ["position", "extra_bytes", "id"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("amount__gt", 0)),
                        name="pack_costs_something",
                        violation_error_message="A price must be more than nothing.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("extra_bytes__gt", 0)),
                        name="pack_offer_holds_something",
                        violation_error_message="A traffic pack must hold at least one byte.",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="PaymentMethod",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "code",
                    models.SlugField(
                        help_text="Part of the address that the gateway calls back.",
                        max_length=40,
                        unique=True,
                        verbose_name="code",
                    ),
                ),
                ("kind", models.CharField(max_length=20, verbose_name="gateway")),
                ("name", models.CharField(max_length=60, verbose_name="name")),
                ("name_zh", models.CharField(blank=True, max_length=60, verbose_name="Chinese name")),
                ("is_enabled", models.BooleanField(default=True, verbose_name="offered")),
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
                    "settings",
                    derp_portal.lib.secrets.SecretTextField(
                        default="{}", help_text="As JSON, encrypted at rest.", verbose_name="settings"
                    ),
                ),
                (
                    "fee_basis_points",
                    models.PositiveIntegerField(
                        default=0,
                        help_text="In hundredths of a percent (60 is 0.6 %), for gateways that do not say what they kept.",
                        validators=[django.core.validators.MaxValueValidator(10000)],
                        verbose_name="the gateway's share",
                    ),
                ),
                ("position", models.PositiveSmallIntegerField(default=0, verbose_name="position")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="created")),
            ],
            options={
                "verbose_name": "payment method",
                "verbose_name_plural": "payment methods",
                "db_table": "payment_methods",
                "ordering": ["position", "id"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("fee_basis_points__lte", 10000)), name="gateway_keeps_no_more_than_all"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Price",
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
                        help_text="In the smallest unit: 1990 is ¥19.90.",
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(100000000000),
                        ],
                        verbose_name="price",
                    ),
                ),
                (
                    "sale_amount",
                    billing.models.catalogue.AmountField(
                        blank=True,
                        null=True,
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(100000000000),
                        ],
                        verbose_name="sale price",
                    ),
                ),
                ("sale_from", models.DateTimeField(blank=True, null=True, verbose_name="sale from")),
                ("sale_until", models.DateTimeField(blank=True, null=True, verbose_name="sale until")),
                (
                    "valid_from",
                    models.DateTimeField(
                        blank=True,
                        help_text="Of several valid prices the one that began last counts.",
                        null=True,
                        verbose_name="valid from",
                    ),
                ),
                ("valid_until", models.DateTimeField(blank=True, null=True, verbose_name="valid until")),
                (
                    "per_user_limit",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="How many serials of the plan one account may buy in all; empty = no limit.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(1)],
                        verbose_name="most per person",
                    ),
                ),
                (
                    "is_trial",
                    models.BooleanField(
                        default=False,
                        help_text="Once per person, for themselves; may cost nothing.",
                        verbose_name="trial",
                    ),
                ),
                ("is_active", models.BooleanField(default=True, verbose_name="on sale")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="created")),
                (
                    "plan",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="prices",
                        to="serials.plan",
                        verbose_name="plan",
                    ),
                ),
            ],
            options={
                "verbose_name": "price",
                "verbose_name_plural": "prices",
                "db_table": "prices",
                "ordering": ["plan", "currency", "-id"],
                "indexes": [
                    models.Index(
                        condition=models.Q(("is_active", True)), fields=["plan", "currency"], name="prices_on_sale"
                    )
                ],
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("amount__gte", 0)), name="price_is_not_negative"),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("sale_amount", None),
                            models.Q(("sale_amount__gte", 0), ("sale_amount__lte", models.F("amount"))),
                            _connector="OR",
                        ),
                        name="sale_price_is_not_higher",
                        violation_error_message="The sale price must not be higher than the price.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("is_trial", True),
                            models.Q(
                                ("amount__gt", 0),
                                models.Q(("sale_amount", None), ("sale_amount__gt", 0), _connector="OR"),
                            ),
                            _connector="OR",
                        ),
                        name="only_trials_cost_nothing",
                        violation_error_message="Only a trial may cost nothing.",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="SalesChannel",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("code", models.SlugField(max_length=40, unique=True, verbose_name="code")),
                ("name", models.CharField(max_length=80, verbose_name="name")),
                ("is_enabled", models.BooleanField(default=True, verbose_name="enabled")),
                (
                    "makes_serials",
                    models.BooleanField(
                        default=False,
                        help_text="Else an order that finds no serial is refused, and the shop asks again.",
                        verbose_name="new serials when the stock is empty",
                    ),
                ),
                (
                    "low_stock",
                    models.PositiveIntegerField(
                        default=20,
                        help_text="An alert is raised when a plan has fewer serials left; 0 = never.",
                        verbose_name="low stock",
                    ),
                ),
                (
                    "fee_basis_points",
                    models.PositiveIntegerField(
                        default=0, help_text="In hundredths of a percent: 60 is 0.6 %.", verbose_name="the shop's share"
                    ),
                ),
                (
                    "token_prefix",
                    models.CharField(blank=True, editable=False, max_length=16, verbose_name="token begins with"),
                ),
                ("token_digest", models.CharField(blank=True, editable=False, max_length=64)),
                ("last_used_at", models.DateTimeField(blank=True, editable=False, null=True, verbose_name="last used")),
                ("note", models.CharField(blank=True, max_length=200, verbose_name="note")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="created")),
                (
                    "plans",
                    models.ManyToManyField(
                        help_text="It may hand out serials of these, and no others.",
                        related_name="+",
                        to="serials.plan",
                        verbose_name="plans",
                    ),
                ),
            ],
            options={
                "verbose_name": "outside shop",
                "verbose_name_plural": "outside shops",
                "db_table": "sales_channels",
                "ordering": ["name", "id"],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("token_digest", ""), _negated=True),
                        fields=("token_digest",),
                        name="one_channel_per_token",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("fee_basis_points__lte", 10000)), name="shop_keeps_no_more_than_all"
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("number", models.CharField(max_length=24, unique=True, verbose_name="order number")),
                (
                    "external_number",
                    models.CharField(blank=True, max_length=80, verbose_name="the shop's order number"),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("pending", "to be paid"),
                            ("paid", "paid"),
                            ("fulfilled", "delivered"),
                            ("cancelled", "cancelled"),
                            ("expired", "expired"),
                            ("refunded", "refunded"),
                        ],
                        default="pending",
                        max_length=10,
                        verbose_name="state",
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
                (
                    "subtotal",
                    billing.models.catalogue.AmountField(
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(100000000000),
                        ],
                        verbose_name="before discount",
                    ),
                ),
                (
                    "discount",
                    billing.models.catalogue.AmountField(
                        default=0,
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(100000000000),
                        ],
                        verbose_name="discount",
                    ),
                ),
                (
                    "total",
                    billing.models.catalogue.AmountField(
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(100000000000),
                        ],
                        verbose_name="total",
                    ),
                ),
                (
                    "received",
                    billing.models.catalogue.AmountField(
                        default=0,
                        help_text="What was counted as payment.",
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(100000000000),
                        ],
                        verbose_name="received",
                    ),
                ),
                (
                    "refunded",
                    billing.models.catalogue.AmountField(
                        default=0,
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(100000000000),
                        ],
                        verbose_name="given back",
                    ),
                ),
                (
                    "client_key",
                    models.CharField(
                        blank=True,
                        help_text="The same key of one customer orders once.",
                        max_length=80,
                        verbose_name="idempotency key",
                    ),
                ),
                (
                    "is_first",
                    models.BooleanField(
                        default=False, help_text="The customer had paid none before.", verbose_name="first order"
                    ),
                ),
                ("is_from_balance", models.BooleanField(default=False, verbose_name="paid from the balance")),
                (
                    "is_news",
                    models.BooleanField(
                        default=False, editable=False, help_text="Paid, and the rooms above have not looked at it yet."
                    ),
                ),
                ("trouble", models.CharField(blank=True, max_length=32, verbose_name="waits because")),
                ("created_at", models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="ordered")),
                ("expires_at", models.DateTimeField(blank=True, null=True, verbose_name="to be paid until")),
                ("paid_at", models.DateTimeField(blank=True, null=True, verbose_name="paid at")),
                ("fulfilled_at", models.DateTimeField(blank=True, null=True, verbose_name="delivered at")),
                ("closed_at", models.DateTimeField(blank=True, null=True, verbose_name="closed at")),
                (
                    "booked_day",
                    models.DateField(
                        blank=True,
                        help_text="The operator's day on which it was paid.",
                        null=True,
                        verbose_name="booked on",
                    ),
                ),
                (
                    "coupon",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="orders",
                        to="billing.coupon",
                        verbose_name="coupon",
                    ),
                ),
                (
                    "reseller",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="reseller",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        blank=True,
                        help_text="None when an outside shop sold it.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="orders",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="customer",
                    ),
                ),
                (
                    "channel",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="orders",
                        to="billing.saleschannel",
                        verbose_name="outside shop",
                    ),
                ),
            ],
            options={
                "verbose_name": "order",
                "verbose_name_plural": "orders",
                "db_table": "orders",
                "ordering": ["-id"],
                "indexes": [
                    models.Index(fields=["user", "-id"], name="orders_of_user"),
                    models.Index(
                        condition=models.Q(("state", "pending")), fields=["expires_at"], name="orders_to_expire"
                    ),
                    models.Index(condition=models.Q(("state", "paid")), fields=["paid_at"], name="orders_to_deliver"),
                    models.Index(condition=models.Q(("is_news", True)), fields=["id"], name="orders_that_are_news"),
                    models.Index(fields=["booked_day"], name="orders_by_day"),
                    models.Index(fields=["created_at"], name="orders_by_creation"),
                    models.Index(fields=["state", "-id"], name="orders_by_state"),
                    models.Index(
                        condition=models.Q(("channel__isnull", False)),
                        fields=["channel", "-id"],
                        name="orders_of_channel",
                    ),
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            (
                                "total",
                                django.db.models.expressions.CombinedExpression(
                                    models.F("subtotal"), "-", models.F("discount")
                                ),
                            ),
                            ("discount__gte", 0),
                            ("total__gte", 0),
                        ),
                        name="order_total_adds_up",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("refunded__gte", 0), ("refunded__lte", models.F("received"))),
                        name="order_gives_back_what_it_got",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("booked_day", None),
                                ("paid_at", None),
                                ("received", 0),
                                ("state__in", ["pending", "cancelled", "expired"]),
                            ),
                            models.Q(
                                ("booked_day__isnull", False),
                                ("paid_at__isnull", False),
                                ("state__in", ["paid", "fulfilled", "refunded"]),
                            ),
                            _connector="OR",
                        ),
                        name="paid_orders_say_when",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("channel", None), ("user__isnull", False)),
                            models.Q(("channel__isnull", False), ("user", None)),
                            _connector="OR",
                        ),
                        name="order_has_a_customer_or_a_shop",
                    ),
                    models.UniqueConstraint(
                        condition=models.Q(("channel__isnull", False)),
                        fields=("channel", "external_number"),
                        name="one_order_per_external_number",
                    ),
                    models.UniqueConstraint(
                        condition=models.Q(("client_key", ""), _negated=True),
                        fields=("user", "client_key"),
                        name="one_order_per_client_key",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="CouponUse",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("is_given_back", models.BooleanField(default=False, verbose_name="given back")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="when")),
                (
                    "coupon",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="uses",
                        to="billing.coupon",
                        verbose_name="coupon",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="coupon_uses",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="customer",
                    ),
                ),
                (
                    "order",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="coupon_use",
                        to="billing.order",
                        verbose_name="order",
                    ),
                ),
            ],
            options={
                "verbose_name": "use of a coupon",
                "verbose_name_plural": "uses of coupons",
                "db_table": "coupon_uses",
                "ordering": ["-id"],
                "indexes": [
                    models.Index(
                        condition=models.Q(("is_given_back", False)),
                        fields=["coupon", "user"],
                        name="coupon_uses_that_count",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="OrderTransition",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "from_state",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("pending", "to be paid"),
                            ("paid", "paid"),
                            ("fulfilled", "delivered"),
                            ("cancelled", "cancelled"),
                            ("expired", "expired"),
                            ("refunded", "refunded"),
                        ],
                        max_length=10,
                        verbose_name="from",
                    ),
                ),
                (
                    "to_state",
                    models.CharField(
                        choices=[
                            ("pending", "to be paid"),
                            ("paid", "paid"),
                            ("fulfilled", "delivered"),
                            ("cancelled", "cancelled"),
                            ("expired", "expired"),
                            ("refunded", "refunded"),
                        ],
                        max_length=10,
                        verbose_name="to",
                    ),
                ),
                ("reason", models.CharField(blank=True, max_length=200, verbose_name="why")),
                ("created_at", models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="when")),
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
                    "order",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="transitions",
                        to="billing.order",
                        verbose_name="order",
                    ),
                ),
            ],
            options={
                "verbose_name": "step of an order",
                "verbose_name_plural": "steps of orders",
                "db_table": "order_transitions",
                "ordering": ["id"],
            },
        ),
        migrations.CreateModel(
            name="OrderLine",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("self", "for oneself, redeemed at once"),
                            ("renewal", "renewal"),
                            ("gift", "serial number to hand on"),
                            ("pack", "traffic pack"),
                            ("wholesale", "wholesale"),
                            ("top_up", "prepaid balance"),
                            ("outside", "sold by an outside shop"),
                        ],
                        max_length=10,
                        verbose_name="kind",
                    ),
                ),
                ("quantity", models.PositiveIntegerField(default=1, verbose_name="quantity")),
                (
                    "unit_amount",
                    billing.models.catalogue.AmountField(
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(100000000000),
                        ],
                        verbose_name="price of each",
                    ),
                ),
                (
                    "amount",
                    billing.models.catalogue.AmountField(
                        help_text="After its part of the discount.",
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(100000000000),
                        ],
                        verbose_name="amount",
                    ),
                ),
                ("snapshot", models.JSONField(default=dict, verbose_name="as ordered")),
                (
                    "problem",
                    models.CharField(
                        blank=True,
                        help_text="Why it was delivered otherwise than ordered.",
                        max_length=32,
                        verbose_name="what was different",
                    ),
                ),
                (
                    "lease",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="order_lines",
                        to="serials.lease",
                        verbose_name="for the lease",
                    ),
                ),
                (
                    "order",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="lines",
                        to="billing.order",
                        verbose_name="order",
                    ),
                ),
                (
                    "plan",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="order_lines",
                        to="serials.plan",
                        verbose_name="plan",
                    ),
                ),
                (
                    "pack",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="order_lines",
                        to="billing.packoffer",
                        verbose_name="pack",
                    ),
                ),
            ],
            options={
                "verbose_name": "order line",
                "verbose_name_plural": "order lines",
                "db_table": "order_lines",
                "ordering": ["id"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("kind", "pack"), ("pack__isnull", False), ("plan", None)),
                            models.Q(("kind", "top_up"), ("pack", None), ("plan", None)),
                            models.Q(
                                models.Q(("kind__in", ["pack", "top_up"]), _negated=True), ("plan__isnull", False)
                            ),
                            _connector="OR",
                        ),
                        name="line_is_of_a_plan_or_a_pack",
                    ),
                    models.CheckConstraint(condition=models.Q(("quantity__gte", 1)), name="line_has_a_quantity"),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("amount__gte", 0),
                            (
                                "amount__lte",
                                django.db.models.expressions.CombinedExpression(
                                    models.F("unit_amount"), "*", models.F("quantity")
                                ),
                            ),
                        ),
                        name="line_costs_no_more_than_its_price",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Payment",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("reference", models.CharField(max_length=32, unique=True, verbose_name="reference")),
                (
                    "amount",
                    billing.models.catalogue.AmountField(
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(100000000000),
                        ],
                        verbose_name="amount",
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
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("open", "waiting for the money"),
                            ("paid", "paid"),
                            ("held", "a person must look"),
                            ("closed", "will not be paid"),
                        ],
                        default="open",
                        max_length=8,
                        verbose_name="state",
                    ),
                ),
                ("problem", models.CharField(blank=True, max_length=32, verbose_name="problem")),
                ("redirect_url", models.TextField(blank=True, editable=False, verbose_name="payment page")),
                ("qr_text", models.TextField(blank=True, editable=False, verbose_name="QR code")),
                ("gateway_id", models.CharField(blank=True, max_length=128, verbose_name="the gateway's name for it")),
                ("created_at", models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="begun")),
                ("paid_at", models.DateTimeField(blank=True, null=True, verbose_name="paid at")),
                (
                    "next_query_at",
                    models.DateTimeField(
                        blank=True,
                        help_text="When the gateway is asked, if it has not called.",
                        null=True,
                        verbose_name="asked next",
                    ),
                ),
                ("queries", models.PositiveSmallIntegerField(default=0, verbose_name="times asked")),
                (
                    "order",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="payments",
                        to="billing.order",
                        verbose_name="order",
                    ),
                ),
                (
                    "method",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="payments",
                        to="billing.paymentmethod",
                        verbose_name="payment method",
                    ),
                ),
            ],
            options={
                "verbose_name": "payment",
                "verbose_name_plural": "payments",
                "db_table": "payments",
                "ordering": ["-id"],
                "indexes": [
                    models.Index(fields=["state", "-id"], name="payments_by_state"),
                    models.Index(
                        condition=models.Q(("next_query_at__isnull", False)),
                        fields=["next_query_at"],
                        name="payments_asked_about",
                    ),
                ],
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("amount__gt", 0)), name="payment_is_of_something"),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("state", "paid"), _negated=True), ("paid_at__isnull", False), _connector="OR"
                        ),
                        name="paid_payments_say_when",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="GatewayCallback",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "verdict",
                    models.CharField(
                        choices=[
                            ("counted", "the order is paid"),
                            ("repeated", "known already"),
                            ("held", "a person must look"),
                            ("noted", "no money yet"),
                            ("refused", "not believed"),
                            ("failed", "it could not be worked on"),
                        ],
                        max_length=8,
                        verbose_name="verdict",
                    ),
                ),
                ("reason", models.CharField(blank=True, max_length=40, verbose_name="reason")),
                ("http_method", models.CharField(max_length=8, verbose_name="HTTP method")),
                ("headers", models.JSONField(default=dict, verbose_name="headers")),
                ("query", models.TextField(blank=True, verbose_name="query")),
                ("body", models.TextField(blank=True, verbose_name="body")),
                ("ip", models.GenericIPAddressField(blank=True, null=True, verbose_name="IP address")),
                ("created_at", models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="received")),
                (
                    "payment",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="callbacks",
                        to="billing.payment",
                        verbose_name="payment",
                    ),
                ),
                (
                    "method",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="callbacks",
                        to="billing.paymentmethod",
                        verbose_name="payment method",
                    ),
                ),
            ],
            options={
                "verbose_name": "gateway callback",
                "verbose_name_plural": "gateway callbacks",
                "db_table": "gateway_callbacks",
                "ordering": ["-id"],
                "indexes": [
                    models.Index(fields=["-created_at"], name="callbacks_by_time"),
                    models.Index(fields=["verdict", "-id"], name="callbacks_by_verdict"),
                    models.Index(
                        condition=models.Q(("payment", None), ("verdict", "noted")),
                        fields=["method", "id"],
                        name="callbacks_of_the_unknown",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="DailyFigure",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("day", models.DateField(verbose_name="day")),
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
                ("revenue", models.BigIntegerField(default=0, verbose_name="revenue")),
                ("wholesale", models.BigIntegerField(default=0, verbose_name="wholesale")),
                ("refunds", models.BigIntegerField(default=0, verbose_name="refunds")),
                ("fees", models.BigIntegerField(default=0, verbose_name="fees")),
                ("orders", models.PositiveIntegerField(default=0, verbose_name="orders paid")),
                ("units", models.PositiveIntegerField(default=0, verbose_name="units sold")),
                ("renewals", models.PositiveIntegerField(default=0, verbose_name="renewals")),
                ("first_orders", models.PositiveIntegerField(default=0, verbose_name="first orders")),
                (
                    "plan",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="serials.plan",
                        verbose_name="plan",
                    ),
                ),
                (
                    "reseller",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="reseller",
                    ),
                ),
                (
                    "channel",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="billing.saleschannel",
                        verbose_name="outside shop",
                    ),
                ),
            ],
            options={
                "verbose_name": "figure of a day",
                "verbose_name_plural": "figures of days",
                "db_table": "daily_figures",
                "ordering": ["-day", "id"],
                "indexes": [models.Index(fields=["day", "currency"], name="daily_figures_by_day")],
            },
        ),
        migrations.CreateModel(
            name="ChannelStock",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="since")),
                (
                    "batch",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="channel_stock",
                        to="serials.serialbatch",
                        verbose_name="serial batch",
                    ),
                ),
                (
                    "channel",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="stock",
                        to="billing.saleschannel",
                        verbose_name="outside shop",
                    ),
                ),
            ],
            options={
                "verbose_name": "stock of a shop",
                "verbose_name_plural": "stocks of shops",
                "db_table": "channel_stock",
                "ordering": ["-id"],
            },
        ),
        migrations.CreateModel(
            name="SandboxCharge",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("reference", models.CharField(max_length=32, unique=True)),
                (
                    "amount",
                    billing.models.catalogue.AmountField(
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(100000000000),
                        ]
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
                ("subject", models.CharField(max_length=200)),
                ("notify_url", models.TextField()),
                ("return_url", models.TextField()),
                (
                    "state",
                    models.CharField(
                        choices=[("open", "waiting for the money"), ("paid", "paid"), ("closed", "will not be paid")],
                        default="open",
                        max_length=8,
                    ),
                ),
                ("transaction_id", models.CharField(blank=True, max_length=64)),
                (
                    "paid_amount",
                    billing.models.catalogue.AmountField(
                        default=0,
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(100000000000),
                        ],
                    ),
                ),
                ("paid_at", models.DateTimeField(blank=True, null=True)),
                ("refunded", models.JSONField(default=dict)),
                ("created_at", models.DateTimeField(default=derp_portal.lib.clock.now)),
                (
                    "method",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="+", to="billing.paymentmethod"
                    ),
                ),
                ("payer", models.CharField(blank=True, max_length=64)),
            ],
            options={
                "db_table": "sandbox_charges",
                "ordering": ["-id"],
            },
        ),
        migrations.CreateModel(
            name="SandboxCallback",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("body", models.TextField()),
                ("due_at", models.DateTimeField(default=derp_portal.lib.clock.now)),
                ("attempts", models.PositiveSmallIntegerField(default=0)),
                ("taken_at", models.DateTimeField(blank=True, null=True)),
                (
                    "charge",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="callbacks",
                        to="billing.sandboxcharge",
                    ),
                ),
            ],
            options={
                "db_table": "sandbox_callbacks",
                "ordering": ["due_at", "id"],
                "indexes": [
                    models.Index(
                        condition=models.Q(("taken_at", None)), fields=["due_at"], name="sandbox_callbacks_due"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="SoldSerial",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "amount",
                    billing.models.catalogue.AmountField(
                        help_text="Its part of what was booked.",
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(100000000000),
                        ],
                        verbose_name="amount",
                    ),
                ),
                ("taken_back_at", models.DateTimeField(blank=True, null=True, verbose_name="taken back")),
                (
                    "line",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="sold",
                        to="billing.orderline",
                        verbose_name="order line",
                    ),
                ),
                (
                    "serial",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="sale",
                        to="serials.serialnumber",
                        verbose_name="serial number",
                    ),
                ),
                (
                    "cost",
                    billing.models.catalogue.AmountField(
                        default=0,
                        help_text="Its part of what its buyer has paid and not got back.",
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(100000000000),
                        ],
                        verbose_name="cost",
                    ),
                ),
            ],
            options={
                "verbose_name": "sold serial",
                "verbose_name_plural": "sold serials",
                "db_table": "sold_serials",
                "ordering": ["id"],
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("amount__gte", 0)), name="sold_serial_is_not_negative"),
                    models.CheckConstraint(
                        condition=models.Q(("cost__gte", 0)), name="sold_serial_costs_something_or_nothing"
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Transfer",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("transaction_id", models.CharField(max_length=128, verbose_name="transaction")),
                (
                    "amount",
                    billing.models.catalogue.AmountField(
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(100000000000),
                        ],
                        verbose_name="amount",
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
                (
                    "fee",
                    billing.models.catalogue.AmountField(
                        default=0,
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(100000000000),
                        ],
                        verbose_name="the gateway kept",
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("counted", "counted for the order"),
                            ("held", "a person must look"),
                            ("returned", "given back"),
                        ],
                        max_length=8,
                        verbose_name="state",
                    ),
                ),
                ("problem", models.CharField(blank=True, max_length=32, verbose_name="why it is held")),
                (
                    "source",
                    models.CharField(
                        choices=[
                            ("callback", "the gateway called"),
                            ("query", "the gateway was asked"),
                            ("staff", "confirmed by staff"),
                        ],
                        max_length=8,
                        verbose_name="how we know",
                    ),
                ),
                (
                    "evidence",
                    models.TextField(
                        blank=True, help_text="What the one who confirmed it had seen.", verbose_name="evidence"
                    ),
                ),
                ("paid_at", models.DateTimeField(verbose_name="paid at")),
                ("created_at", models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="received")),
                (
                    "actor",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="confirmed by",
                    ),
                ),
                (
                    "method",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="transfers",
                        to="billing.paymentmethod",
                        verbose_name="payment method",
                    ),
                ),
                (
                    "payment",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="transfers",
                        to="billing.payment",
                        verbose_name="payment",
                    ),
                ),
                ("payer_digest", models.CharField(blank=True, editable=False, max_length=64)),
                (
                    "dispute",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("asked", "the payer's bank asks"),
                            ("open", "disputed by the payer"),
                            ("won", "dispute won"),
                            ("lost", "dispute lost"),
                        ],
                        max_length=5,
                        verbose_name="dispute",
                    ),
                ),
                (
                    "dispute_id",
                    models.CharField(blank=True, max_length=64, verbose_name="the gateway's name of the dispute"),
                ),
            ],
            options={
                "verbose_name": "transfer",
                "verbose_name_plural": "transfers",
                "db_table": "transfers",
                "ordering": ["-id"],
                "indexes": [
                    models.Index(condition=models.Q(("state", "held")), fields=["-id"], name="transfers_held"),
                    models.Index(
                        condition=models.Q(("payer_digest", ""), _negated=True),
                        fields=["payer_digest"],
                        name="transfers_by_payer",
                    ),
                    models.Index(
                        condition=models.Q(("dispute__in", ["asked", "open"])),
                        fields=["-id"],
                        name="transfers_disputed",
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("method", "transaction_id"), name="one_transfer_per_transaction"),
                    models.CheckConstraint(condition=models.Q(("amount__gt", 0)), name="transfer_is_of_something"),
                ],
            },
        ),
        migrations.CreateModel(
            name="Refund",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("number", models.CharField(max_length=32, unique=True, verbose_name="refund number")),
                (
                    "kind",
                    models.CharField(
                        choices=[("order", "of an order"), ("transfer", "of money that was not counted")],
                        default="order",
                        max_length=8,
                        verbose_name="kind",
                    ),
                ),
                (
                    "amount",
                    billing.models.catalogue.AmountField(
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(100000000000),
                        ],
                        verbose_name="amount",
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
                (
                    "state",
                    models.CharField(
                        choices=[("due", "on its way"), ("done", "done"), ("by_hand", "a person must send it")],
                        default="due",
                        max_length=8,
                        verbose_name="state",
                    ),
                ),
                ("takes_back", models.BooleanField(default=False, verbose_name="took back what was delivered")),
                ("reason", models.CharField(max_length=200, verbose_name="reason")),
                ("problem", models.CharField(blank=True, max_length=200, verbose_name="problem")),
                (
                    "reference",
                    models.CharField(
                        blank=True,
                        help_text="The gateway's number, or what a person wrote down.",
                        max_length=128,
                        verbose_name="sent by",
                    ),
                ),
                ("is_news", models.BooleanField(default=False, editable=False)),
                ("attempts", models.PositiveSmallIntegerField(default=0, verbose_name="attempts")),
                ("next_try_at", models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="next try")),
                ("created_at", models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="decided")),
                ("done_at", models.DateTimeField(blank=True, null=True, verbose_name="done at")),
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
                    "order",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="refunds",
                        to="billing.order",
                        verbose_name="order",
                    ),
                ),
                (
                    "transfer",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="refunds",
                        to="billing.transfer",
                        verbose_name="transfer",
                    ),
                ),
            ],
            options={
                "verbose_name": "refund",
                "verbose_name_plural": "refunds",
                "db_table": "refunds",
                "ordering": ["-id"],
                "indexes": [
                    models.Index(condition=models.Q(("state", "due")), fields=["next_try_at"], name="refunds_to_send"),
                    models.Index(condition=models.Q(("state", "by_hand")), fields=["-id"], name="refunds_by_hand"),
                    models.Index(condition=models.Q(("is_news", True)), fields=["id"], name="refunds_that_are_news"),
                ],
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("amount__gt", 0)), name="refund_is_of_something"),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("state", "done"), _negated=True), ("done_at__isnull", False), _connector="OR"
                        ),
                        name="refunds_say_when",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Posting",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.CharField(max_length=80, unique=True, verbose_name="key")),
                (
                    "debit",
                    models.CharField(
                        choices=[
                            ("cash", "money at gateways, banks and shops"),
                            ("customer_funds", "customers' money not yet counted"),
                            ("refunds_due", "refunds to be sent"),
                            ("reseller_payables", "owed to resellers"),
                            ("reseller_funds", "resellers' prepaid money"),
                            ("revenue", "revenue"),
                            ("wholesale", "wholesale"),
                            ("refunds", "refunds"),
                            ("gateway_fees", "fees of gateways and shops"),
                            ("commissions", "commissions of resellers"),
                        ],
                        max_length=20,
                        verbose_name="debit",
                    ),
                ),
                (
                    "credit",
                    models.CharField(
                        choices=[
                            ("cash", "money at gateways, banks and shops"),
                            ("customer_funds", "customers' money not yet counted"),
                            ("refunds_due", "refunds to be sent"),
                            ("reseller_payables", "owed to resellers"),
                            ("reseller_funds", "resellers' prepaid money"),
                            ("revenue", "revenue"),
                            ("wholesale", "wholesale"),
                            ("refunds", "refunds"),
                            ("gateway_fees", "fees of gateways and shops"),
                            ("commissions", "commissions of resellers"),
                        ],
                        max_length=20,
                        verbose_name="credit",
                    ),
                ),
                ("amount", models.BigIntegerField(verbose_name="amount")),
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
                ("booked_day", models.DateField(verbose_name="booked on")),
                ("booked_month", models.DateField(help_text="Its first day.", verbose_name="month")),
                ("note", models.CharField(blank=True, max_length=200, verbose_name="note")),
                ("created_at", models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="when")),
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
                    "line",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="postings",
                        to="billing.orderline",
                        verbose_name="line",
                    ),
                ),
                (
                    "method",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="postings",
                        to="billing.paymentmethod",
                        verbose_name="payment method",
                    ),
                ),
                (
                    "order",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="postings",
                        to="billing.order",
                        verbose_name="order",
                    ),
                ),
                (
                    "plan",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="serials.plan",
                        verbose_name="plan",
                    ),
                ),
                (
                    "reseller",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="reseller",
                    ),
                ),
                (
                    "reverses",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="reversals",
                        to="billing.posting",
                        verbose_name="reverses",
                    ),
                ),
                (
                    "refund",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="postings",
                        to="billing.refund",
                        verbose_name="refund",
                    ),
                ),
                (
                    "channel",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="billing.saleschannel",
                        verbose_name="outside shop",
                    ),
                ),
                (
                    "transfer",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="postings",
                        to="billing.transfer",
                        verbose_name="transfer",
                    ),
                ),
            ],
            options={
                "verbose_name": "posting",
                "verbose_name_plural": "ledger",
                "db_table": "ledger",
                "ordering": ["-id"],
                "indexes": [
                    models.Index(fields=["booked_day", "debit", "credit"], name="ledger_by_day"),
                    models.Index(fields=["booked_month"], name="ledger_by_month"),
                ],
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("amount__gt", 0)), name="posting_is_of_something"),
                    models.CheckConstraint(
                        condition=models.Q(("debit", models.F("credit")), _negated=True), name="posting_moves_something"
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="TrialUse",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "person",
                    models.CharField(
                        help_text="Their e-mail address without tags and other disguises.",
                        max_length=254,
                        verbose_name="person",
                    ),
                ),
                ("is_given_back", models.BooleanField(default=False, verbose_name="given back")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="created")),
                (
                    "order",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="trial_use",
                        to="billing.order",
                        verbose_name="order",
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
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="user",
                    ),
                ),
            ],
            options={
                "verbose_name": "trial",
                "verbose_name_plural": "trials",
                "db_table": "trial_uses",
                "ordering": ["-id"],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("is_given_back", False)),
                        fields=("plan", "person"),
                        name="one_trial_per_person_and_plan",
                    ),
                    models.UniqueConstraint(
                        condition=models.Q(("is_given_back", False)),
                        fields=("plan", "user"),
                        name="one_trial_per_user_and_plan",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="WholesalePrice",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "level",
                    models.CharField(
                        blank=True,
                        help_text="Code of the level of resellers it is for; empty = all.",
                        max_length=40,
                        verbose_name="level",
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
                (
                    "from_quantity",
                    models.PositiveIntegerField(
                        default=1, validators=[django.core.validators.MinValueValidator(1)], verbose_name="from"
                    ),
                ),
                (
                    "amount",
                    billing.models.catalogue.AmountField(
                        help_text="In the smallest unit: 1990 is ¥19.90.",
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(100000000000),
                        ],
                        verbose_name="price of each",
                    ),
                ),
                ("is_active", models.BooleanField(default=True, verbose_name="on sale")),
                (
                    "plan",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="wholesale_prices",
                        to="serials.plan",
                        verbose_name="plan",
                    ),
                ),
            ],
            options={
                "verbose_name": "wholesale price",
                "verbose_name_plural": "wholesale prices",
                "db_table": "wholesale_prices",
                "ordering": ["plan", "currency", "from_quantity"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("amount__gt", 0)),
                        name="wholesale_price_is_positive",
                        violation_error_message="A price must be more than nothing.",
                    ),
                    models.UniqueConstraint(
                        condition=models.Q(("is_active", True)),
                        fields=("plan", "level", "currency", "from_quantity"),
                        name="one_wholesale_price_per_quantity",
                        violation_error_message="There is a price from this quantity on already.",
                    ),
                ],
            },
        ),
        migrations.RunPython(seed_sweeps, migrations.RunPython.noop),
        migrations.RunPython(make_example_prices, migrations.RunPython.noop),
    ]
