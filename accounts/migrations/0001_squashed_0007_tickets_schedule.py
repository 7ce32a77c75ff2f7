"""The room's tables and what an empty portal starts with, in one step: an empty database is ready within seconds.

A portal that took the steps it replaces has taken it too; one that took some of them takes the rest of them. They go once
0.1.0 has been out for a release.
"""

from typing import Any

import django.core.serializers.json
import django.db.models.deletion
import django.db.models.functions.text
from django.conf import settings
from django.db import migrations, models

import accounts.validators
import derp_portal.lib.clock
from derp_portal.lib import beat

SWEEPS = [
    ("Send due mail", "accounts.tasks.deliver_due", 30),
    ("Pass tickets on", "accounts.tasks.pass_on_tickets", 60),
]


def seed_sweeps(apps: Any, _schema_editor: Any) -> None:
    for name, task, seconds in SWEEPS:
        beat.seed(apps, name=name, task=task, every_seconds=seconds)


class Migration(migrations.Migration):
    replaces = [
        ("accounts", "0001_initial"),
        ("accounts", "0002_schedule"),
        ("accounts", "0003_task_failures"),
        ("accounts", "0004_signup_reference"),
        ("accounts", "0005_browsers"),
        ("accounts", "0006_tickets"),
        ("accounts", "0007_tickets_schedule"),
    ]

    initial = True

    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
        beat.LATEST_BEAT_MIGRATION,
    ]

    operations = [
        migrations.CreateModel(
            name="User",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("password", models.CharField(max_length=128, verbose_name="password")),
                ("last_login", models.DateTimeField(blank=True, null=True, verbose_name="last login")),
                (
                    "is_superuser",
                    models.BooleanField(
                        default=False,
                        help_text="Designates that this user has all permissions without explicitly assigning them.",
                        verbose_name="superuser status",
                    ),
                ),
                (
                    "username",
                    models.CharField(
                        error_messages={"unique": "A user with that username already exists."},
                        max_length=64,
                        unique=True,
                        validators=[accounts.validators.UsernameValidator()],
                        verbose_name="username",
                    ),
                ),
                ("email", models.EmailField(max_length=254, verbose_name="e-mail address")),
                (
                    "role",
                    models.CharField(
                        choices=[("user", "User"), ("reseller", "Reseller"), ("admin", "Administrator")],
                        default="user",
                        max_length=16,
                        verbose_name="role",
                    ),
                ),
                (
                    "rental_expiry",
                    models.DateTimeField(
                        blank=True,
                        editable=False,
                        help_text="The latest end over the user's active leases; kept in step by them.",
                        null=True,
                        verbose_name="rental expiry",
                    ),
                ),
                (
                    "language",
                    models.CharField(
                        blank=True,
                        choices=[("en", "English"), ("zh-hans", "Simplified Chinese")],
                        default="",
                        help_text="Empty: as the browser.",
                        max_length=10,
                        verbose_name="language",
                    ),
                ),
                (
                    "timezone",
                    models.CharField(
                        blank=True,
                        default="",
                        help_text="Empty: the operator's.",
                        max_length=64,
                        validators=[accounts.validators.validate_timezone],
                        verbose_name="time zone",
                    ),
                ),
                ("is_active", models.BooleanField(default=True, verbose_name="active")),
                ("closed_at", models.DateTimeField(blank=True, editable=False, null=True, verbose_name="closed at")),
                ("session_epoch", models.PositiveIntegerField(default=0, editable=False, verbose_name="session epoch")),
                (
                    "created_at",
                    models.DateTimeField(default=derp_portal.lib.clock.now, editable=False, verbose_name="created at"),
                ),
                (
                    "groups",
                    models.ManyToManyField(
                        blank=True,
                        help_text="The groups this user belongs to. A user will get all permissions granted to each of their groups.",
                        related_name="user_set",
                        related_query_name="user",
                        to="auth.group",
                        verbose_name="groups",
                    ),
                ),
                (
                    "user_permissions",
                    models.ManyToManyField(
                        blank=True,
                        help_text="Specific permissions for this user.",
                        related_name="user_set",
                        related_query_name="user",
                        to="auth.permission",
                        verbose_name="user permissions",
                    ),
                ),
                (
                    "signup_ref",
                    models.CharField(
                        blank=True,
                        default="",
                        editable=False,
                        help_text="What the browser brought along; the rooms above know what it means.",
                        max_length=200,
                        verbose_name="reference at sign-up",
                    ),
                ),
            ],
            options={
                "verbose_name": "user",
                "verbose_name_plural": "users",
                "db_table": "users",
                "ordering": ("-created_at", "-id"),
                "indexes": [
                    models.Index(
                        condition=models.Q(("signup_ref", ""), _negated=True),
                        fields=["id"],
                        name="users_with_a_reference",
                    )
                ],
                "constraints": [
                    models.UniqueConstraint(
                        django.db.models.functions.text.Lower("username"),
                        name="one_user_per_username",
                        violation_error_message="A user with that username already exists.",
                    ),
                    models.UniqueConstraint(
                        django.db.models.functions.text.Lower("email"),
                        name="one_user_per_email",
                        violation_error_message="A user with that e-mail address already exists.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("role__in", ["user", "reseller", "admin"])), name="user_role_is_known"
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="ApiToken",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=80, verbose_name="name")),
                ("prefix", models.CharField(editable=False, max_length=16, verbose_name="prefix")),
                ("digest", models.CharField(editable=False, max_length=64, unique=True, verbose_name="digest")),
                ("scopes", models.JSONField(default=list, verbose_name="scopes")),
                ("expires_at", models.DateTimeField(blank=True, null=True, verbose_name="expires at")),
                (
                    "last_used_at",
                    models.DateTimeField(blank=True, editable=False, null=True, verbose_name="last used at"),
                ),
                ("revoked_at", models.DateTimeField(blank=True, editable=False, null=True, verbose_name="revoked at")),
                (
                    "created_at",
                    models.DateTimeField(default=derp_portal.lib.clock.now, editable=False, verbose_name="created at"),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="api_tokens",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="user",
                    ),
                ),
            ],
            options={
                "verbose_name": "API token",
                "verbose_name_plural": "API tokens",
                "db_table": "api_tokens",
                "ordering": ("-created_at", "-id"),
            },
        ),
        migrations.CreateModel(
            name="AuditEntry",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("actor_label", models.CharField(max_length=150, verbose_name="actor's name")),
                ("event", models.CharField(max_length=64, verbose_name="event")),
                ("target_type", models.CharField(blank=True, max_length=100, verbose_name="target type")),
                ("target_id", models.CharField(blank=True, max_length=64, verbose_name="target id")),
                ("target_label", models.CharField(blank=True, max_length=200, verbose_name="target")),
                ("ip", models.GenericIPAddressField(blank=True, null=True, verbose_name="IP address")),
                (
                    "data",
                    models.JSONField(
                        default=dict, encoder=django.core.serializers.json.DjangoJSONEncoder, verbose_name="details"
                    ),
                ),
                ("created_at", models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="when")),
                (
                    "actor",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="audit_entries",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="actor",
                    ),
                ),
            ],
            options={
                "verbose_name": "audit entry",
                "verbose_name_plural": "audit trail",
                "db_table": "audit_log",
                "ordering": ("-created_at", "-id"),
                "indexes": [
                    models.Index(fields=["target_type", "target_id", "-created_at"], name="audit_log_target"),
                    models.Index(fields=["-created_at"], name="audit_log_time"),
                ],
            },
        ),
        migrations.CreateModel(
            name="Notification",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("recipient", models.EmailField(max_length=254, verbose_name="recipient")),
                ("kind", models.CharField(max_length=64, verbose_name="kind")),
                ("dedup_key", models.CharField(max_length=200, unique=True, verbose_name="deduplication key")),
                ("language", models.CharField(max_length=10, verbose_name="language")),
                ("subject", models.CharField(max_length=255, verbose_name="subject")),
                ("body_text", models.TextField(verbose_name="text")),
                ("body_html", models.TextField(blank=True, verbose_name="HTML")),
                (
                    "is_secret",
                    models.BooleanField(
                        default=False,
                        help_text="Carries a link that opens the account: shown to nobody, erased when sent.",
                        verbose_name="secret",
                    ),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[("queued", "Queued"), ("sending", "Sending"), ("sent", "Sent"), ("failed", "Failed")],
                        default="queued",
                        max_length=8,
                        verbose_name="status",
                    ),
                ),
                ("attempts", models.PositiveSmallIntegerField(default=0, verbose_name="attempts")),
                (
                    "next_attempt_at",
                    models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="next attempt at"),
                ),
                ("claimed_until", models.DateTimeField(blank=True, null=True, verbose_name="claimed until")),
                ("sent_at", models.DateTimeField(blank=True, null=True, verbose_name="sent at")),
                ("last_error", models.TextField(blank=True, verbose_name="last error")),
                ("created_at", models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="created at")),
                (
                    "user",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="notifications",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="user",
                    ),
                ),
            ],
            options={
                "verbose_name": "notification",
                "verbose_name_plural": "notifications",
                "db_table": "notifications",
                "ordering": ("-created_at", "-id"),
                "indexes": [
                    models.Index(
                        condition=models.Q(("status__in", ["queued", "sending"])),
                        fields=["next_attempt_at"],
                        name="notifications_due",
                    ),
                    models.Index(fields=["user", "-created_at"], name="notifications_of_user"),
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("status__in", ["queued", "sending", "sent", "failed"])),
                        name="notification_status_is_known",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="TaskFailure",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("task", models.CharField(max_length=120, verbose_name="task")),
                ("task_id", models.CharField(max_length=64, verbose_name="task id")),
                ("arguments", models.CharField(blank=True, max_length=200, verbose_name="arguments")),
                ("error", models.CharField(max_length=200, verbose_name="error")),
                ("traceback", models.TextField(blank=True, verbose_name="where")),
                ("created_at", models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="when")),
            ],
            options={
                "verbose_name": "task failure",
                "verbose_name_plural": "task failures",
                "db_table": "task_failures",
                "ordering": ("-created_at", "-id"),
                "indexes": [models.Index(fields=["-created_at"], name="task_failures_time")],
            },
        ),
        migrations.CreateModel(
            name="Browser",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("digest", models.CharField(editable=False, max_length=64)),
                ("first_seen_at", models.DateTimeField(default=derp_portal.lib.clock.now)),
                ("last_seen_at", models.DateTimeField(default=derp_portal.lib.clock.now)),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="browsers",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "db_table": "browsers",
                "ordering": ("-last_seen_at", "-id"),
                "indexes": [
                    models.Index(fields=["digest"], name="browsers_by_digest"),
                    models.Index(fields=["last_seen_at"], name="browsers_by_time"),
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("user", "digest"), name="one_row_per_user_and_browser")
                ],
            },
        ),
        migrations.CreateModel(
            name="Ticket",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("number", models.CharField(max_length=24, unique=True, verbose_name="ticket number")),
                ("subject", models.CharField(max_length=120, verbose_name="subject")),
                (
                    "about",
                    models.CharField(
                        blank=True,
                        help_text="Such as “lease:12”; the rooms above know what it means.",
                        max_length=80,
                        verbose_name="about",
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("waiting", "waits for an answer"),
                            ("answered", "has an answer"),
                            ("closed", "is closed"),
                        ],
                        default="waiting",
                        max_length=8,
                        verbose_name="state",
                    ),
                ),
                (
                    "first_line_since",
                    models.DateTimeField(blank=True, null=True, verbose_name="with the first line since"),
                ),
                (
                    "with_staff_since",
                    models.DateTimeField(
                        blank=True,
                        help_text="Empty: only the first line has it so far.",
                        null=True,
                        verbose_name="with the operator since",
                    ),
                ),
                ("waiting_since", models.DateTimeField(blank=True, null=True, verbose_name="waiting since")),
                (
                    "client_key",
                    models.CharField(
                        blank=True,
                        help_text="The same key of one customer opens once.",
                        max_length=80,
                        verbose_name="idempotency key",
                    ),
                ),
                (
                    "last_message_at",
                    models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="last message"),
                ),
                ("closed_at", models.DateTimeField(blank=True, null=True, verbose_name="closed since")),
                ("created_at", models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="opened")),
                (
                    "queue",
                    models.GeneratedField(
                        db_persist=True,
                        expression=models.Case(
                            models.When(
                                models.Q(("state", "waiting"), ("with_staff_since__isnull", False)),
                                then=models.Value(0),
                            ),
                            models.When(models.Q(("state", "waiting")), then=models.Value(1)),
                            models.When(models.Q(("state", "answered")), then=models.Value(2)),
                            default=models.Value(3),
                        ),
                        output_field=models.PositiveSmallIntegerField(
                            choices=[
                                (0, "waits for the operator"),
                                (1, "waits for the seller"),
                                (2, "has an answer"),
                                (3, "is closed"),
                            ]
                        ),
                        verbose_name="queue",
                    ),
                ),
                (
                    "customer",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="tickets",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="customer",
                    ),
                ),
                (
                    "first_line",
                    models.ForeignKey(
                        blank=True,
                        help_text="Whom it reached first; empty: the operator.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="first_line_tickets",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="first line",
                    ),
                ),
            ],
            options={
                "verbose_name": "ticket",
                "verbose_name_plural": "tickets",
                "db_table": "tickets",
                "ordering": ("-last_message_at", "-id"),
                "indexes": [
                    models.Index(fields=["customer", "-last_message_at"], name="tickets_of_customer"),
                    models.Index(fields=["first_line", "queue", "waiting_since"], name="tickets_of_first_line"),
                    models.Index(fields=["queue", "waiting_since", "-last_message_at"], name="tickets_by_queue"),
                    models.Index(
                        condition=models.Q(("about", ""), _negated=True), fields=["about"], name="tickets_about"
                    ),
                    models.Index(
                        condition=models.Q(("state", "waiting"), ("with_staff_since", None)),
                        fields=["waiting_since"],
                        name="tickets_to_pass_on",
                    ),
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("state__in", ["waiting", "answered", "closed"])),
                        name="ticket_state_is_known",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("first_line__isnull", False), ("with_staff_since__isnull", False), _connector="OR"
                        ),
                        name="ticket_reaches_somebody",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("first_line", None),
                            models.Q(("first_line", models.F("customer")), _negated=True),
                            _connector="OR",
                        ),
                        name="ticket_reaches_somebody_else",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("state", "waiting"), ("waiting_since__isnull", False)),
                            models.Q(models.Q(("state", "waiting"), _negated=True), ("waiting_since", None)),
                            _connector="OR",
                        ),
                        name="ticket_says_since_when_it_waits",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("closed_at__isnull", False), ("state", "closed")),
                            models.Q(models.Q(("state", "closed"), _negated=True), ("closed_at", None)),
                            _connector="OR",
                        ),
                        name="ticket_says_when_it_was_closed",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("first_line", None), ("first_line_since", None)),
                            models.Q(("first_line__isnull", False), ("first_line_since__isnull", False)),
                            _connector="OR",
                        ),
                        name="ticket_says_since_when_it_is_with_the_first_line",
                    ),
                    models.UniqueConstraint(
                        condition=models.Q(("client_key", ""), _negated=True),
                        fields=("customer", "client_key"),
                        name="one_ticket_per_client_key",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="TicketMessage",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "side",
                    models.CharField(
                        choices=[("customer", "customer"), ("seller", "seller"), ("staff", "the operator")],
                        max_length=8,
                        verbose_name="side",
                    ),
                ),
                ("text", models.TextField(max_length=10000, verbose_name="text")),
                ("is_note", models.BooleanField(default=False, verbose_name="internal note")),
                ("client_key", models.CharField(blank=True, max_length=80, verbose_name="idempotency key")),
                ("created_at", models.DateTimeField(default=derp_portal.lib.clock.now, verbose_name="written")),
                (
                    "author",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="author",
                    ),
                ),
                (
                    "ticket",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="messages",
                        to="accounts.ticket",
                        verbose_name="ticket",
                    ),
                ),
            ],
            options={
                "verbose_name": "message of a ticket",
                "verbose_name_plural": "messages of tickets",
                "db_table": "ticket_messages",
                "ordering": ("id",),
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("side__in", ["customer", "seller", "staff"])),
                        name="ticket_message_side_is_known",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("is_note", False), ("side", "staff"), _connector="OR"),
                        name="only_staff_write_notes",
                    ),
                    models.UniqueConstraint(
                        condition=models.Q(("client_key", ""), _negated=True),
                        fields=("ticket", "author", "client_key"),
                        name="one_ticket_message_per_client_key",
                    ),
                ],
            },
        ),
        migrations.RunPython(seed_sweeps, migrations.RunPython.noop),
    ]
