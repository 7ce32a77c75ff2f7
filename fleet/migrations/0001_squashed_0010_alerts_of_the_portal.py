"""The room's tables and what an empty portal starts with, in one step: an empty database is ready within seconds.

A portal that took the steps it replaces has taken it too; one that took some of them takes the rest of them. They go once
0.1.0 has been out for a release.
"""

from typing import Any

import django.core.validators
import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import derp_portal.lib.secrets
from derp_portal.lib import beat

MINUTE = 60

SWEEPS = [
    ("Fleet: reconcile every server", "fleet.tasks.reconcile_all", 15),
    ("Fleet: places for waiting relays", "fleet.tasks.place_waiting", 20),
    ("Fleet: probe relays", "fleet.tasks.probe_due", 10),
    ("Fleet: look at servers", "fleet.tasks.look_at_servers", 3600),
    ("Fleet: watch servers that do not answer", "fleet.tasks.watch_suspects", 5),
    ("Fleet: failovers and drains go on", "fleet.tasks.carry_on_evacuations", 5),
    ("Fleet: relays that do not work where they are", "fleet.tasks.rescue", 20),
    ("Fleet: roll-out of a relay image", "fleet.tasks.roll_out", 20),
    ("Fleet: renewals and allowances of servers", "fleet.tasks.care_for_servers", 900),
    ("Fleet: read the relays' counters", "fleet.tasks.meter_due", 10),
    ("Fleet: quotas", "fleet.tasks.keep_quotas", 10),
    ("Fleet: figures of servers", "fleet.tasks.measure_servers", 30),
    ("Fleet: alert rules", "fleet.tasks.watch_rules", 30),
    ("Fleet: deliver alerts", "fleet.tasks.deliver_alerts", 10),
    ("Fleet: compare the books with the engines' counters", "fleet.tasks.compare_counters", 3600),
    ("Fleet: forget old readings", "fleet.tasks.forget_readings", 3600),
    ("Fleet: write down what doors answered", "fleet.tasks.write_door_log", 5),
    ("Fleet: close doors that have learned", "fleet.tasks.close_learned", 60),
    ("Fleet: watch the doors", "fleet.tasks.watch_doors", 300),
    ("Fleet: renew certificates of relays", "fleet.tasks.renew_certificates", 600),
    ("Fleet: push changed maps", "fleet.tasks.push_maps", 60),
    ("Fleet: follow control servers", "fleet.tasks.sync_devices", 60),
]
RULES = [
    # name, figure, threshold, for how long, severity
    ("CPU over 90 %", "cpu", 90, 10 * MINUTE, "warning"),
    ("Memory over 92 %", "memory", 92, 10 * MINUTE, "warning"),
    ("Disk over 85 %", "disk", 85, 5 * MINUTE, "warning"),
    ("Disk over 95 %", "disk", 95, 1 * MINUTE, "critical"),
    ("Load over 16", "load", 16, 15 * MINUTE, "warning"),
]


def ship_rules(apps: Any, _schema_editor: Any) -> None:
    """Rules are the operators' from then on; one that was renamed or deleted does not come back."""
    rules = apps.get_model("fleet", "AlertRule").objects
    for name, metric, threshold, seconds, severity in RULES:
        rules.create(name=name, metric=metric, threshold=threshold, for_seconds=seconds, severity=severity)


def seed_sweeps(apps: Any, _schema_editor: Any) -> None:
    for name, task, seconds in SWEEPS:
        beat.seed(apps, name=name, task=task, every_seconds=seconds)


class Migration(migrations.Migration):
    replaces = [
        ("fleet", "0001_initial"),
        ("fleet", "0002_schedule"),
        ("fleet", "0003_survival"),
        ("fleet", "0004_survival_schedule"),
        ("fleet", "0005_metering"),
        ("fleet", "0006_monitoring_schedule"),
        ("fleet", "0007_shipped_alert_rules"),
        ("fleet", "0008_acl"),
        ("fleet", "0009_acl_schedule"),
        ("fleet", "0010_alerts_of_the_portal"),
    ]

    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        beat.LATEST_BEAT_MIGRATION,
    ]

    operations = [
        migrations.CreateModel(
            name="Region",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("code", models.SlugField(max_length=32, unique=True, verbose_name="code")),
                ("name", models.CharField(max_length=80, verbose_name="name")),
                ("name_zh", models.CharField(blank=True, max_length=80, verbose_name="Chinese name")),
                (
                    "latitude",
                    models.FloatField(
                        default=0,
                        help_text="Degrees",
                        validators=[
                            django.core.validators.MinValueValidator(-90),
                            django.core.validators.MaxValueValidator(90),
                        ],
                        verbose_name="latitude",
                    ),
                ),
                (
                    "longitude",
                    models.FloatField(
                        default=0,
                        help_text="Degrees",
                        validators=[
                            django.core.validators.MinValueValidator(-180),
                            django.core.validators.MaxValueValidator(180),
                        ],
                        verbose_name="longitude",
                    ),
                ),
            ],
            options={
                "verbose_name": "region",
                "verbose_name_plural": "regions",
                "ordering": ["code"],
            },
        ),
        migrations.CreateModel(
            name="Server",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=80, unique=True, verbose_name="name")),
                (
                    "ip",
                    models.GenericIPAddressField(
                        help_text="The address customers' devices connect to.", verbose_name="IP address"
                    ),
                ),
                (
                    "runtime",
                    models.CharField(
                        choices=[
                            ("docker", "Docker engine"),
                            ("process", "processes on this machine (not for production)"),
                        ],
                        default="docker",
                        max_length=16,
                        verbose_name="runtime",
                    ),
                ),
                (
                    "endpoint",
                    models.CharField(
                        blank=True,
                        default="unix:///var/run/docker.sock",
                        help_text="unix:///var/run/docker.sock, tcp://203.0.113.7:2376 with certificates, or ssh://root@203.0.113.7. Not used for processes.",
                        max_length=255,
                        verbose_name="engine address",
                    ),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[("healthy", "healthy"), ("unhealthy", "unhealthy")],
                        default="healthy",
                        max_length=16,
                        verbose_name="status",
                    ),
                ),
                (
                    "load",
                    models.FloatField(
                        default=0, help_text="Relays placed as a share of the most it may carry.", verbose_name="load"
                    ),
                ),
                ("hardware", models.JSONField(blank=True, default=dict, verbose_name="hardware")),
                ("engine_version", models.CharField(blank=True, max_length=120, verbose_name="engine version")),
                ("is_enabled", models.BooleanField(default=True, verbose_name="takes new relays")),
                ("port_first", models.PositiveIntegerField(default=21000, verbose_name="first port")),
                ("port_last", models.PositiveIntegerField(default=21999, verbose_name="last port")),
                (
                    "max_relays",
                    models.PositiveIntegerField(
                        default=200,
                        validators=[django.core.validators.MinValueValidator(1)],
                        verbose_name="most relays",
                    ),
                ),
                ("last_seen_at", models.DateTimeField(blank=True, null=True, verbose_name="last seen")),
                ("error_code", models.CharField(blank=True, max_length=40, verbose_name="last error")),
                ("error_detail", models.TextField(blank=True, verbose_name="error detail")),
                ("error_since", models.DateTimeField(blank=True, null=True, verbose_name="in trouble since")),
                ("containers", models.PositiveIntegerField(default=0, editable=False)),
                ("pass_token", models.CharField(blank=True, editable=False, max_length=32)),
                ("pass_until", models.DateTimeField(blank=True, editable=False, null=True)),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="created")),
                ("updated_at", models.DateTimeField(auto_now=True, verbose_name="updated")),
                (
                    "region",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="servers",
                        to="fleet.region",
                        verbose_name="region",
                    ),
                ),
                (
                    "allowance_bytes",
                    models.PositiveBigIntegerField(
                        blank=True, help_text="Bytes. Empty = no limit.", null=True, verbose_name="monthly allowance"
                    ),
                ),
                (
                    "allowance_reset_day",
                    models.PositiveSmallIntegerField(
                        default=1,
                        help_text="Day of the month; in a shorter month its last day.",
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(31),
                        ],
                        verbose_name="allowance starts anew on day",
                    ),
                ),
                (
                    "allowance_used_bytes",
                    models.PositiveBigIntegerField(default=0, verbose_name="used of the allowance"),
                ),
                (
                    "billed_direction",
                    models.CharField(
                        choices=[
                            ("sum", "in and out together"),
                            ("in", "incoming"),
                            ("out", "outgoing"),
                            ("larger", "the larger of the two"),
                        ],
                        default="sum",
                        max_length=8,
                        verbose_name="traffic the provider counts",
                    ),
                ),
                (
                    "cost_currency",
                    models.CharField(blank=True, help_text="E.g. CNY, USD.", max_length=3, verbose_name="currency"),
                ),
                ("engine_id", models.CharField(blank=True, editable=False, max_length=120, verbose_name="engine id")),
                ("failed_looks", models.PositiveIntegerField(default=0, verbose_name="failed looks in a row")),
                ("is_draining", models.BooleanField(default=False, verbose_name="draining")),
                (
                    "monthly_cost",
                    models.PositiveBigIntegerField(
                        blank=True,
                        help_text="In the currency's smallest unit, e.g. cents or fen.",
                        null=True,
                        verbose_name="monthly cost",
                    ),
                ),
                (
                    "phase",
                    models.CharField(
                        choices=[
                            ("healthy", "healthy"),
                            ("suspect", "suspect"),
                            ("unhealthy", "lost"),
                            ("recovered", "recovered"),
                        ],
                        default="healthy",
                        max_length=16,
                        verbose_name="phase",
                    ),
                ),
                ("phase_since", models.DateTimeField(blank=True, null=True, verbose_name="in this phase since")),
                ("provider", models.CharField(blank=True, max_length=80, verbose_name="provider")),
                (
                    "provider_renews_on",
                    models.DateField(
                        blank=True,
                        help_text="Operators are reminded.",
                        null=True,
                        verbose_name="to be renewed with the provider on",
                    ),
                ),
                (
                    "relays_answered_at",
                    models.DateTimeField(
                        blank=True,
                        editable=False,
                        null=True,
                        verbose_name="relays last answered while the engine was silent",
                    ),
                ),
                (
                    "ssh_host_key",
                    models.TextField(
                        blank=True,
                        help_text="Kept at the first connection; another one is refused from then on.",
                        verbose_name="host key",
                    ),
                ),
                (
                    "tls_ca",
                    derp_portal.lib.secrets.SecretTextField(
                        blank=True, null=True, verbose_name="certificate authority"
                    ),
                ),
                (
                    "tls_certificate",
                    derp_portal.lib.secrets.SecretTextField(blank=True, null=True, verbose_name="client certificate"),
                ),
                ("tls_key", derp_portal.lib.secrets.SecretTextField(blank=True, null=True, verbose_name="client key")),
                (
                    "uplink_mbps",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="Mbit/s, shared by its relays. Empty = not considered.",
                        null=True,
                        verbose_name="uplink",
                    ),
                ),
            ],
            options={
                "verbose_name": "server",
                "verbose_name_plural": "servers",
                "db_table": "servers",
                "ordering": ["name"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            ("port_first__gte", 1024),
                            ("port_first__lte", models.F("port_last")),
                            ("port_last__lte", 65535),
                        ),
                        name="server_port_range_is_valid",
                    ),
                    models.UniqueConstraint(
                        condition=models.Q(("engine_id", ""), _negated=True),
                        fields=("engine_id",),
                        name="an_engine_is_enrolled_once",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("allowance_reset_day__gte", 1), ("allowance_reset_day__lte", 31)),
                        name="reset_day_is_a_day",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("phase__in", ("healthy", "recovered")), ("status", "healthy")),
                            models.Q(("phase__in", ("suspect", "unhealthy")), ("status", "unhealthy")),
                            _connector="OR",
                        ),
                        name="server_status_follows_its_phase",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="RelayGroup",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("label", models.CharField(blank=True, max_length=80, verbose_name="label")),
                (
                    "wanted",
                    models.CharField(
                        choices=[("running", "running"), ("stopped", "stopped, place kept"), ("absent", "gone")],
                        default="running",
                        max_length=8,
                        verbose_name="wanted",
                    ),
                ),
                ("wanted_reason", models.CharField(blank=True, max_length=40, verbose_name="reason")),
                ("run_until", models.DateTimeField(verbose_name="runs until")),
                ("relay_count", models.PositiveSmallIntegerField(default=1, verbose_name="relays")),
                (
                    "speed_bytes_per_second",
                    models.PositiveBigIntegerField(default=0, help_text="0 = no limit", verbose_name="speed limit"),
                ),
                (
                    "quota_bytes",
                    models.PositiveBigIntegerField(
                        blank=True, help_text="Empty = no limit", null=True, verbose_name="quota"
                    ),
                ),
                ("period_start", models.DateTimeField(blank=True, null=True, verbose_name="quota period from")),
                ("period_end", models.DateTimeField(blank=True, null=True, verbose_name="quota period to")),
                ("map_token", derp_portal.lib.secrets.SecretTextField(blank=True, null=True)),
                ("map_token_hash", models.CharField(blank=True, max_length=64, null=True, unique=True)),
                ("last_map", models.JSONField(blank=True, editable=False, null=True)),
                ("released_at", models.DateTimeField(blank=True, null=True, verbose_name="released")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="created")),
                (
                    "owner",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="relay_groups",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="owner",
                    ),
                ),
                (
                    "regions",
                    models.ManyToManyField(
                        blank=True,
                        help_text="Tried first; when they have no room, another region is taken.",
                        related_name="+",
                        to="fleet.region",
                        verbose_name="regions wished for",
                    ),
                ),
                (
                    "map_fetched_at",
                    models.DateTimeField(blank=True, editable=False, null=True, verbose_name="map URL last fetched"),
                ),
                (
                    "priority",
                    models.SmallIntegerField(
                        default=0,
                        help_text="Where room is short, higher ones get a place first.",
                        verbose_name="priority",
                    ),
                ),
                ("quarantine_note", models.CharField(blank=True, max_length=200, verbose_name="why")),
                (
                    "quarantined_at",
                    models.DateTimeField(
                        blank=True,
                        help_text="Its relays are not moved by themselves, so that an attack stays where it is.",
                        null=True,
                        verbose_name="quarantined",
                    ),
                ),
                (
                    "servers",
                    models.ManyToManyField(
                        blank=True,
                        help_text="None chosen = every server. Its relays run nowhere else, failover included.",
                        related_name="+",
                        to="fleet.server",
                        verbose_name="servers allowed",
                    ),
                ),
                (
                    "is_monthly",
                    models.BooleanField(
                        default=False,
                        help_text="Else over the whole quota period.",
                        verbose_name="counts by calendar month",
                    ),
                ),
                (
                    "over_quota_since",
                    models.DateTimeField(blank=True, editable=False, null=True, verbose_name="over its quota since"),
                ),
                (
                    "fails_open",
                    models.BooleanField(
                        default=True,
                        help_text="Else those that were let in before, and nobody else.",
                        verbose_name="lets everybody in while the portal does not answer",
                    ),
                ),
                (
                    "max_devices",
                    models.PositiveIntegerField(
                        blank=True,
                        help_text="How many may be listed; empty = no limit.",
                        null=True,
                        verbose_name="devices",
                    ),
                ),
                (
                    "omits_default",
                    models.BooleanField(
                        default=False,
                        help_text="Only while there is a standby.",
                        verbose_name="without Tailscale's own relays",
                    ),
                ),
                (
                    "taken_at",
                    models.DateTimeField(blank=True, editable=False, null=True, verbose_name="map handed over"),
                ),
                (
                    "taken_by",
                    models.CharField(
                        blank=True,
                        choices=[("paste", "pasted"), ("poll", "polled"), ("push", "pushed")],
                        editable=False,
                        max_length=8,
                        verbose_name="map handed over by",
                    ),
                ),
                ("taken_digest", models.CharField(blank=True, editable=False, max_length=64)),
            ],
            options={
                "verbose_name": "relay group",
                "verbose_name_plural": "relay groups",
                "ordering": ["-id"],
                "indexes": [
                    models.Index(
                        condition=models.Q(("wanted", "running")),
                        fields=["run_until"],
                        name="running_groups_by_deadline",
                    ),
                    models.Index(
                        condition=models.Q(("over_quota_since__isnull", False)), fields=["id"], name="groups_over_quota"
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Relay",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("code", models.CharField(max_length=16, unique=True, verbose_name="code")),
                (
                    "slot",
                    models.PositiveSmallIntegerField(
                        help_text="0 is the primary, 1 and up are standbys.", verbose_name="slot"
                    ),
                ),
                ("region_id", models.PositiveSmallIntegerField(verbose_name="region id in the map")),
                ("host_name", models.CharField(max_length=253, verbose_name="host name")),
                ("derper_key", derp_portal.lib.secrets.SecretTextField()),
                ("certificate", models.TextField(verbose_name="certificate")),
                ("certificate_key", derp_portal.lib.secrets.SecretTextField()),
                ("certificate_ends_at", models.DateTimeField(verbose_name="certificate ends")),
                ("pin", models.CharField(max_length=80, verbose_name="pin")),
                ("admission_secret", derp_portal.lib.secrets.SecretTextField()),
                ("admission_hash", models.CharField(max_length=64, unique=True)),
                ("debug_key", derp_portal.lib.secrets.SecretTextField()),
                (
                    "wanted",
                    models.CharField(
                        choices=[("running", "running"), ("stopped", "stopped, place kept"), ("absent", "gone")],
                        default="running",
                        max_length=8,
                        verbose_name="wanted",
                    ),
                ),
                ("generation", models.PositiveIntegerField(default=1, verbose_name="generation")),
                (
                    "observed_state",
                    models.CharField(
                        choices=[
                            ("unknown", "not seen yet"),
                            ("absent", "absent"),
                            ("created", "created"),
                            ("running", "running"),
                            ("restarting", "restarting"),
                            ("exited", "exited"),
                        ],
                        default="unknown",
                        max_length=12,
                        verbose_name="observed",
                    ),
                ),
                ("observed_generation", models.PositiveIntegerField(default=0, verbose_name="observed generation")),
                ("container_id", models.CharField(blank=True, max_length=80, verbose_name="container id")),
                ("started_at", models.DateTimeField(blank=True, null=True, verbose_name="started")),
                ("applied_speed", models.PositiveBigIntegerField(default=0, verbose_name="speed limit in force")),
                ("observed_at", models.DateTimeField(blank=True, null=True, verbose_name="observed at")),
                ("trouble_code", models.CharField(blank=True, max_length=40, verbose_name="trouble")),
                ("trouble_detail", models.TextField(blank=True, verbose_name="trouble in detail")),
                ("trouble_since", models.DateTimeField(blank=True, null=True, verbose_name="in trouble since")),
                ("tries", models.PositiveIntegerField(default=0, editable=False, verbose_name="attempts")),
                (
                    "next_try_at",
                    models.DateTimeField(blank=True, editable=False, null=True, verbose_name="next attempt at"),
                ),
                (
                    "upload_bytes",
                    models.PositiveBigIntegerField(
                        default=0, help_text="From customers to the relay", verbose_name="uploaded"
                    ),
                ),
                ("download_bytes", models.PositiveBigIntegerField(default=0, verbose_name="downloaded")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="created")),
                ("released_at", models.DateTimeField(blank=True, null=True, verbose_name="released")),
                (
                    "owner",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="relays",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="owner",
                    ),
                ),
                (
                    "group",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="relays",
                        to="fleet.relaygroup",
                        verbose_name="group",
                    ),
                ),
                (
                    "server",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="relays",
                        to="fleet.server",
                        verbose_name="server",
                    ),
                ),
                (
                    "applied_deadline",
                    models.DateTimeField(blank=True, null=True, verbose_name="deadline known to its host"),
                ),
                (
                    "image",
                    models.CharField(
                        blank=True,
                        help_text="Empty = the fleet's present one.",
                        max_length=200,
                        verbose_name="relay image",
                    ),
                ),
                ("next_certificate", models.TextField(blank=True, editable=False, verbose_name="next certificate")),
                (
                    "next_certificate_key",
                    derp_portal.lib.secrets.SecretTextField(blank=True, editable=False, null=True),
                ),
                (
                    "next_ends_at",
                    models.DateTimeField(blank=True, editable=False, null=True, verbose_name="next certificate ends"),
                ),
                ("next_pin", models.CharField(blank=True, editable=False, max_length=80, verbose_name="next pin")),
                (
                    "next_switch_at",
                    models.DateTimeField(blank=True, editable=False, null=True, verbose_name="certificate switched"),
                ),
            ],
            options={
                "verbose_name": "relay",
                "verbose_name_plural": "relays",
                "db_table": "user_containers",
                "ordering": ["group_id", "slot", "id"],
                "indexes": [
                    models.Index(
                        condition=models.Q(("released_at", None)), fields=["server"], name="live_relays_by_server"
                    ),
                    models.Index(
                        condition=models.Q(("server", None), ("wanted", "running")),
                        fields=["id"],
                        name="relays_waiting_for_a_place",
                    ),
                    models.Index(
                        condition=models.Q(("released_at", None)),
                        fields=["certificate_ends_at"],
                        name="certificates_by_end",
                    ),
                    models.Index(
                        condition=models.Q(("released_at", None)),
                        fields=["next_switch_at"],
                        name="certificates_to_switch",
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("released_at", None)),
                        fields=("group", "slot"),
                        name="one_live_relay_per_slot",
                    ),
                    models.UniqueConstraint(
                        condition=models.Q(("released_at", None)),
                        fields=("group", "region_id"),
                        name="one_live_relay_per_region_id",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("region_id__gte", 950), ("region_id__lte", 998)),
                        name="region_id_is_ours_to_give",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Outage",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("cause", models.CharField(max_length=40, verbose_name="cause")),
                ("started_at", models.DateTimeField(verbose_name="from")),
                ("ended_at", models.DateTimeField(blank=True, null=True, verbose_name="to")),
                (
                    "group",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="outages",
                        to="fleet.relaygroup",
                        verbose_name="group",
                    ),
                ),
            ],
            options={
                "verbose_name": "outage",
                "verbose_name_plural": "outages",
                "ordering": ["-id"],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("ended_at", None)), fields=("group",), name="one_open_outage_per_group"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("ended_at", None), ("ended_at__gte", models.F("started_at")), _connector="OR"
                        ),
                        name="outage_ends_after_it_starts",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="RelayHealth",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "status",
                    models.CharField(
                        choices=[("starting", "starting"), ("healthy", "healthy"), ("unhealthy", "unhealthy")],
                        default="starting",
                        max_length=12,
                        verbose_name="status",
                    ),
                ),
                ("tls_ok", models.BooleanField(default=False, verbose_name="TLS")),
                ("derp_ok", models.BooleanField(default=False, verbose_name="DERP")),
                ("packet_ok", models.BooleanField(default=False, verbose_name="packet")),
                ("stun_ok", models.BooleanField(default=False, verbose_name="STUN")),
                (
                    "latency_ms",
                    models.FloatField(blank=True, help_text="Ping over DERP", null=True, verbose_name="latency (ms)"),
                ),
                ("stun_ms", models.FloatField(blank=True, null=True, verbose_name="STUN latency (ms)")),
                ("connections", models.PositiveIntegerField(blank=True, null=True, verbose_name="connections")),
                ("version", models.CharField(blank=True, max_length=80, verbose_name="relay version")),
                ("error", models.CharField(blank=True, max_length=40, verbose_name="error")),
                ("failures", models.PositiveIntegerField(default=0, verbose_name="failures in a row")),
                ("checked_at", models.DateTimeField(blank=True, null=True, verbose_name="checked")),
                ("healthy_at", models.DateTimeField(blank=True, null=True, verbose_name="last healthy")),
                (
                    "relay",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="health",
                        to="fleet.relay",
                        verbose_name="relay",
                    ),
                ),
                ("successes", models.PositiveIntegerField(default=0, verbose_name="successes in a row")),
            ],
            options={
                "verbose_name": "relay health",
                "verbose_name_plural": "relay health",
                "db_table": "docker_health_status",
                "indexes": [models.Index(fields=["checked_at"], name="health_by_check_time")],
            },
        ),
        migrations.CreateModel(
            name="RelayEvent",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("placed", "place found"),
                            ("started", "started"),
                            ("stopped", "stopped"),
                            ("trouble", "in trouble"),
                            ("recovered", "recovered"),
                            ("moved", "moved"),
                            ("restarted", "restart asked for"),
                            ("port_changed", "port changed"),
                            ("certificate", "certificate renewed"),
                            ("unhealthy", "probes fail"),
                            ("healthy", "probes answer"),
                            ("released", "released"),
                        ],
                        max_length=16,
                        verbose_name="event",
                    ),
                ),
                ("generation", models.PositiveIntegerField(verbose_name="generation")),
                ("detail", models.CharField(blank=True, max_length=255, verbose_name="detail")),
                ("created_at", models.DateTimeField(auto_now_add=True, db_index=True, verbose_name="when")),
                (
                    "relay",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="events",
                        to="fleet.relay",
                        verbose_name="relay",
                    ),
                ),
                (
                    "server",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="fleet.server",
                        verbose_name="server",
                    ),
                ),
            ],
            options={
                "verbose_name": "relay event",
                "verbose_name_plural": "relay events",
                "ordering": ["-id"],
            },
        ),
        migrations.CreateModel(
            name="Port",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("number", models.PositiveIntegerField(verbose_name="number")),
                ("set_aside_until", models.DateTimeField(blank=True, null=True, verbose_name="set aside until")),
                (
                    "relay",
                    models.OneToOneField(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="port",
                        to="fleet.relay",
                        verbose_name="relay",
                    ),
                ),
                (
                    "server",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="ports",
                        to="fleet.server",
                        verbose_name="server",
                    ),
                ),
            ],
            options={
                "verbose_name": "port",
                "verbose_name_plural": "ports",
                "constraints": [
                    models.UniqueConstraint(fields=("server", "number"), name="one_live_relay_per_port"),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("relay__isnull", False), ("set_aside_until__isnull", False), _connector="OR"
                        ),
                        name="taken_port_says_why",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Authority",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("ca_certificate", models.TextField(verbose_name="certificate authority")),
                ("ca_key", derp_portal.lib.secrets.SecretTextField()),
                ("client_certificate", models.TextField(verbose_name="client certificate")),
                ("client_key", derp_portal.lib.secrets.SecretTextField()),
                ("client_ends_at", models.DateTimeField(verbose_name="client certificate ends")),
                ("ssh_public_key", models.TextField(verbose_name="ssh public key")),
                ("ssh_private_key", derp_portal.lib.secrets.SecretTextField()),
                ("is_only_one", models.BooleanField(default=True, editable=False, unique=True)),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="created")),
            ],
            options={
                "verbose_name": "authority",
                "verbose_name_plural": "authorities",
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("is_only_one", True)), name="there_is_one_authority")
                ],
            },
        ),
        migrations.CreateModel(
            name="Evacuation",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("server_name", models.CharField(max_length=80, verbose_name="server")),
                (
                    "reason",
                    models.CharField(
                        choices=[
                            ("failure", "the server was lost"),
                            ("drain", "the server is drained"),
                            ("allowance", "the server's traffic allowance is nearly used up"),
                            ("rescue", "the relay did not work there"),
                            ("hand", "moved by hand"),
                            ("address", "the server's address changed"),
                        ],
                        max_length=12,
                        verbose_name="reason",
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[("running", "under way"), ("done", "done"), ("cancelled", "called off")],
                        default="running",
                        max_length=12,
                        verbose_name="state",
                    ),
                ),
                ("lost_at", models.DateTimeField(blank=True, null=True, verbose_name="last sign of life")),
                ("started_at", models.DateTimeField(auto_now_add=True, verbose_name="begun")),
                ("ended_at", models.DateTimeField(blank=True, null=True, verbose_name="ended")),
                (
                    "actor",
                    models.ForeignKey(
                        blank=True,
                        help_text="Empty = the portal by itself.",
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="by",
                    ),
                ),
                (
                    "server",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="evacuations",
                        to="fleet.server",
                        verbose_name="server",
                    ),
                ),
            ],
            options={
                "verbose_name": "failover",
                "verbose_name_plural": "failovers",
                "db_table": "evacuations",
                "ordering": ["-id"],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("state", "running")),
                        fields=("server",),
                        name="one_open_evacuation_per_server",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("ended_at", None), ("state", "running")),
                            models.Q(models.Q(("state", "running"), _negated=True), ("ended_at__isnull", False)),
                            _connector="OR",
                        ),
                        name="evacuation_ends_when_it_is_over",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Move",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "reason",
                    models.CharField(
                        choices=[
                            ("failure", "the server was lost"),
                            ("drain", "the server is drained"),
                            ("allowance", "the server's traffic allowance is nearly used up"),
                            ("rescue", "the relay did not work there"),
                            ("hand", "moved by hand"),
                            ("address", "the server's address changed"),
                        ],
                        max_length=12,
                        verbose_name="reason",
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("waiting", "waiting for a place"),
                            ("placed", "being set up"),
                            ("answered", "done"),
                            ("cancelled", "called off"),
                        ],
                        default="waiting",
                        max_length=12,
                        verbose_name="state",
                    ),
                ),
                ("waits_for", models.CharField(blank=True, max_length=40, verbose_name="waits because")),
                ("from_ip", models.GenericIPAddressField(blank=True, null=True, verbose_name="old address")),
                ("from_port", models.PositiveIntegerField(blank=True, null=True, verbose_name="old port")),
                ("to_ip", models.GenericIPAddressField(blank=True, null=True, verbose_name="new address")),
                ("to_port", models.PositiveIntegerField(blank=True, null=True, verbose_name="new port")),
                ("from_generation", models.PositiveIntegerField(verbose_name="old generation")),
                ("to_generation", models.PositiveIntegerField(blank=True, null=True, verbose_name="new generation")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="begun")),
                ("placed_at", models.DateTimeField(blank=True, null=True, verbose_name="place found")),
                ("ended_at", models.DateTimeField(blank=True, null=True, verbose_name="answered")),
                (
                    "evacuation",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="moves",
                        to="fleet.evacuation",
                        verbose_name="failover",
                    ),
                ),
                (
                    "from_server",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="fleet.server",
                        verbose_name="old server",
                    ),
                ),
                (
                    "relay",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="moves",
                        to="fleet.relay",
                        verbose_name="relay",
                    ),
                ),
                (
                    "to_server",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="fleet.server",
                        verbose_name="new server",
                    ),
                ),
            ],
            options={
                "verbose_name": "move",
                "verbose_name_plural": "moves",
                "db_table": "moves",
                "ordering": ["-id"],
                "indexes": [
                    models.Index(
                        condition=models.Q(("state", "placed")),
                        fields=["from_server"],
                        name="moves_that_keep_a_container",
                    ),
                    models.Index(
                        condition=models.Q(("state__in", ("waiting", "placed"))), fields=["id"], name="open_moves"
                    ),
                    models.Index(fields=["evacuation", "state"], name="moves_of_an_evacuation"),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("state__in", ("waiting", "placed"))),
                        fields=("relay",),
                        name="one_open_move_per_relay",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Rollout",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "image",
                    models.CharField(
                        help_text="One that the portal has stored, or a reference with a registry's name in it.",
                        max_length=200,
                        verbose_name="relay image",
                    ),
                ),
                (
                    "percent_per_hour",
                    models.PositiveSmallIntegerField(
                        default=20,
                        help_text="Of all relays, once the canary's work.",
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(100),
                        ],
                        verbose_name="percent an hour",
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("canary", "on the canary server"),
                            ("running", "under way"),
                            ("stopped", "stopped"),
                            ("done", "done"),
                            ("cancelled", "called off"),
                        ],
                        default="canary",
                        max_length=12,
                        verbose_name="state",
                    ),
                ),
                ("stopped_because", models.CharField(blank=True, max_length=40, verbose_name="stopped because")),
                ("paced_from", models.DateTimeField(blank=True, null=True, verbose_name="under way since")),
                ("paced_done", models.PositiveIntegerField(default=0, editable=False)),
                ("started_at", models.DateTimeField(auto_now_add=True, verbose_name="begun")),
                ("ended_at", models.DateTimeField(blank=True, null=True, verbose_name="ended")),
                (
                    "actor",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="by",
                    ),
                ),
                (
                    "canary",
                    models.ForeignKey(
                        blank=True,
                        help_text="Its relays go first. Empty = the server with the fewest relays.",
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="fleet.server",
                        verbose_name="canary server",
                    ),
                ),
            ],
            options={
                "verbose_name": "roll-out",
                "verbose_name_plural": "roll-outs",
                "db_table": "rollouts",
                "ordering": ["-id"],
                "constraints": [
                    models.UniqueConstraint(
                        models.Value(1),
                        condition=models.Q(("state__in", ("canary", "running", "stopped"))),
                        name="one_rollout_at_a_time",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="ServerEvent",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("added", "added"),
                            ("suspect", "does not answer"),
                            ("unhealthy", "lost"),
                            ("recovered", "came back"),
                            ("healthy", "healthy"),
                            ("engine", "another engine"),
                            ("draining", "drain begun"),
                            ("drain_ended", "drain ended"),
                            ("enabled", "takes new relays"),
                            ("disabled", "takes no new relays"),
                            ("address", "address changed"),
                            ("ports_checked", "ports checked"),
                            ("allowance", "near its allowance"),
                        ],
                        max_length=16,
                        verbose_name="event",
                    ),
                ),
                ("detail", models.CharField(blank=True, max_length=255, verbose_name="detail")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="when")),
                (
                    "server",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="events",
                        to="fleet.server",
                        verbose_name="server",
                    ),
                ),
            ],
            options={
                "verbose_name": "server event",
                "verbose_name_plural": "server events",
                "ordering": ["-id"],
                "indexes": [models.Index(fields=["server", "-id"], name="server_timeline")],
            },
        ),
        migrations.CreateModel(
            name="AlertChannel",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=80, verbose_name="name")),
                (
                    "address",
                    derp_portal.lib.secrets.SecretTextField(
                        help_text="An Apprise address. It holds keys and is not shown again.", verbose_name="address"
                    ),
                ),
                (
                    "min_severity",
                    models.CharField(
                        choices=[("info", "information"), ("warning", "warning"), ("critical", "critical")],
                        default="warning",
                        max_length=12,
                        verbose_name="from severity",
                    ),
                ),
                ("is_enabled", models.BooleanField(default=True, verbose_name="in use")),
                ("last_sent_at", models.DateTimeField(blank=True, editable=False, null=True, verbose_name="last sent")),
                ("last_error", models.CharField(blank=True, editable=False, max_length=200, verbose_name="last error")),
                (
                    "owner",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="alert_channels",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="operator",
                    ),
                ),
            ],
            options={
                "verbose_name": "alert channel",
                "verbose_name_plural": "alert channels",
                "ordering": ["owner_id", "name"],
                "constraints": [models.UniqueConstraint(fields=("owner", "name"), name="channel_names_are_unique")],
            },
        ),
        migrations.CreateModel(
            name="AlertRule",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=80, unique=True, verbose_name="name")),
                (
                    "metric",
                    models.CharField(
                        choices=[
                            ("cpu", "CPU (%)"),
                            ("memory", "memory (%)"),
                            ("disk", "disk (%)"),
                            ("load", "load average, 1 minute"),
                            ("network_in", "incoming (bytes/s)"),
                            ("network_out", "outgoing (bytes/s)"),
                            ("containers", "relays running"),
                        ],
                        max_length=16,
                        verbose_name="figure",
                    ),
                ),
                (
                    "comparison",
                    models.CharField(
                        choices=[("over", "over"), ("under", "under")],
                        default="over",
                        max_length=8,
                        verbose_name="comparison",
                    ),
                ),
                ("threshold", models.FloatField(help_text="In the unit of the figure.", verbose_name="threshold")),
                (
                    "for_seconds",
                    models.PositiveIntegerField(default=300, help_text="Seconds", verbose_name="for how long"),
                ),
                (
                    "severity",
                    models.CharField(
                        choices=[("info", "information"), ("warning", "warning"), ("critical", "critical")],
                        default="warning",
                        max_length=12,
                        verbose_name="severity",
                    ),
                ),
                (
                    "remind_seconds",
                    models.PositiveIntegerField(
                        default=14400,
                        help_text="Seconds, until it is acknowledged or over. 0 = never.",
                        verbose_name="remind every",
                    ),
                ),
                ("is_enabled", models.BooleanField(default=True, verbose_name="in force")),
                (
                    "regions",
                    models.ManyToManyField(
                        blank=True,
                        help_text="None chosen = all.",
                        related_name="+",
                        to="fleet.region",
                        verbose_name="regions",
                    ),
                ),
                (
                    "servers",
                    models.ManyToManyField(
                        blank=True,
                        help_text="None chosen = all.",
                        related_name="+",
                        to="fleet.server",
                        verbose_name="servers",
                    ),
                ),
            ],
            options={
                "verbose_name": "alert rule",
                "verbose_name_plural": "alert rules",
                "ordering": ["name"],
            },
        ),
        migrations.CreateModel(
            name="Alert",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "alert_type",
                    models.CharField(
                        choices=[
                            ("server_lost", "A server is lost"),
                            ("no_room", "Relays find no place"),
                            ("rollout_stopped", "A roll-out has stopped"),
                            ("provider_renewal", "A server must be renewed with its provider"),
                            ("allowance", "A server nears its traffic allowance"),
                            ("foreign_host", "A server is not ours to use"),
                            ("certificate_ends", "A certificate ends soon"),
                            ("counters_differ", "Traffic books and an engine's counters differ"),
                            ("unknown_keys", "Many unknown devices knock"),
                            ("many_sources", "A device connects from many addresses"),
                            ("open_relay", "An open relay is used by many"),
                            ("door_errors", "The door could not answer"),
                            ("metric", "A figure is over its threshold"),
                            ("portal", "Something needs a person"),
                            ("manual", "Sent by hand"),
                        ],
                        max_length=32,
                        verbose_name="alert",
                    ),
                ),
                (
                    "severity",
                    models.CharField(
                        choices=[("info", "information"), ("warning", "warning"), ("critical", "critical")],
                        max_length=12,
                        verbose_name="severity",
                    ),
                ),
                (
                    "subject",
                    models.CharField(help_text="What it is about, as a key.", max_length=80, verbose_name="subject"),
                ),
                ("message", models.TextField(verbose_name="message")),
                ("params", models.JSONField(default=dict, editable=False)),
                ("resolved", models.BooleanField(default=False, verbose_name="resolved")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="raised")),
                ("resolved_at", models.DateTimeField(blank=True, null=True, verbose_name="resolved at")),
                (
                    "relay",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="alerts",
                        to="fleet.relay",
                        verbose_name="relay",
                    ),
                ),
                (
                    "server",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="alerts",
                        to="fleet.server",
                        verbose_name="server",
                    ),
                ),
                ("acknowledged_at", models.DateTimeField(blank=True, null=True, verbose_name="acknowledged")),
                (
                    "acknowledged_by",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="acknowledged by",
                    ),
                ),
                ("told_at", models.DateTimeField(blank=True, editable=False, null=True, verbose_name="last told")),
                (
                    "rule",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="alerts",
                        to="fleet.alertrule",
                        verbose_name="rule",
                    ),
                ),
            ],
            options={
                "verbose_name": "alert",
                "verbose_name_plural": "alerts",
                "db_table": "system_alerts",
                "ordering": ["-id"],
                "indexes": [
                    models.Index(fields=["resolved", "-id"], name="open_alerts_first"),
                    models.Index(fields=["severity", "-id"], name="alerts_by_severity"),
                    models.Index(fields=["alert_type", "subject"], name="alerts_of_a_subject"),
                    models.Index(
                        condition=models.Q(("resolved", True)), fields=["resolved_at"], name="alerts_lately_resolved"
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("resolved", False)),
                        fields=("alert_type", "subject"),
                        name="one_open_alert_per_subject",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="AlertDelivery",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="queued")),
                ("not_before", models.DateTimeField(verbose_name="not before")),
                ("tries", models.PositiveSmallIntegerField(default=0, verbose_name="attempts")),
                ("sent_at", models.DateTimeField(blank=True, null=True, verbose_name="sent")),
                ("error", models.CharField(blank=True, max_length=200, verbose_name="error")),
                (
                    "alert",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="deliveries",
                        to="fleet.alert",
                        verbose_name="alert",
                    ),
                ),
                (
                    "channel",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="deliveries",
                        to="fleet.alertchannel",
                        verbose_name="channel",
                    ),
                ),
            ],
            options={
                "verbose_name": "alert delivery",
                "verbose_name_plural": "alert deliveries",
                "ordering": ["-id"],
                "indexes": [
                    models.Index(condition=models.Q(("sent_at", None)), fields=["not_before"], name="deliveries_due"),
                    models.Index(fields=["created_at"], name="deliveries_by_age"),
                ],
            },
        ),
        migrations.CreateModel(
            name="Breach",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("since", models.DateTimeField(verbose_name="since")),
                (
                    "rule",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="breaches",
                        to="fleet.alertrule",
                        verbose_name="rule",
                    ),
                ),
                (
                    "server",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="breaches",
                        to="fleet.server",
                        verbose_name="server",
                    ),
                ),
            ],
            options={
                "verbose_name": "breach",
                "verbose_name_plural": "breaches",
                "constraints": [
                    models.UniqueConstraint(fields=("rule", "server"), name="one_breach_per_rule_and_server")
                ],
            },
        ),
        migrations.CreateModel(
            name="Measurement",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "metric",
                    models.CharField(
                        choices=[
                            ("cpu", "CPU (%)"),
                            ("memory", "memory (%)"),
                            ("disk", "disk (%)"),
                            ("load", "load average, 1 minute"),
                            ("network_in", "incoming (bytes/s)"),
                            ("network_out", "outgoing (bytes/s)"),
                            ("containers", "relays running"),
                        ],
                        max_length=16,
                        verbose_name="metric",
                    ),
                ),
                (
                    "span",
                    models.CharField(
                        choices=[("reading", "reading"), ("hour", "hour"), ("day", "day")],
                        default="reading",
                        max_length=8,
                        verbose_name="span",
                    ),
                ),
                ("value", models.FloatField(verbose_name="value")),
                ("highest", models.FloatField(verbose_name="highest")),
                ("timestamp", models.DateTimeField(verbose_name="when")),
                (
                    "server",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="measurements",
                        to="fleet.server",
                        verbose_name="server",
                    ),
                ),
            ],
            options={
                "verbose_name": "measurement",
                "verbose_name_plural": "measurements",
                "db_table": "monitoring_logs",
                "ordering": ["-timestamp", "-id"],
                "indexes": [
                    models.Index(fields=["server", "metric", "span", "timestamp"], name="measurements_of_a_server"),
                    models.Index(fields=["span", "timestamp"], name="measurements_by_age"),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("span", "reading"), _negated=True),
                        fields=("server", "metric", "span", "timestamp"),
                        name="one_measurement_per_bucket",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Meter",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("generation", models.PositiveIntegerField(verbose_name="generation")),
                ("counts_since", models.FloatField(default=0, help_text="Unix seconds", verbose_name="counts since")),
                ("raw_received", models.PositiveBigIntegerField(default=0, verbose_name="received, raw")),
                ("raw_sent", models.PositiveBigIntegerField(default=0, verbose_name="sent, raw")),
                ("read_at", models.DateTimeField(blank=True, null=True, verbose_name="last read")),
                (
                    "next_read_at",
                    models.DateTimeField(
                        blank=True, help_text="Empty = its container is gone.", null=True, verbose_name="to be read at"
                    ),
                ),
                (
                    "own_received",
                    models.PositiveBigIntegerField(
                        default=0,
                        help_text="What the portal's probes sent; nobody pays for it.",
                        verbose_name="own bytes not yet taken off",
                    ),
                ),
                (
                    "own_sent",
                    models.PositiveBigIntegerField(default=0, verbose_name="own bytes received, not yet taken off"),
                ),
                (
                    "booked_bytes",
                    models.PositiveBigIntegerField(
                        default=0, help_text="All that this meter has added to the books.", verbose_name="booked"
                    ),
                ),
                (
                    "engine_bytes",
                    models.PositiveBigIntegerField(blank=True, null=True, verbose_name="engine's counter"),
                ),
                ("engine_since", models.FloatField(default=0, editable=False)),
                ("engine_booked", models.PositiveBigIntegerField(default=0, editable=False)),
                ("failures", models.PositiveIntegerField(default=0, verbose_name="failures in a row")),
                ("error", models.CharField(blank=True, max_length=40, verbose_name="error")),
                (
                    "relay",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="meters",
                        to="fleet.relay",
                        verbose_name="relay",
                    ),
                ),
            ],
            options={
                "verbose_name": "meter",
                "verbose_name_plural": "meters",
                "ordering": ["-id"],
                "indexes": [
                    models.Index(
                        condition=models.Q(("next_read_at__isnull", False)),
                        fields=["next_read_at"],
                        name="meters_to_be_read",
                    )
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("relay", "generation"), name="one_meter_per_container")
                ],
            },
        ),
        migrations.CreateModel(
            name="QuotaPeriod",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("starts_at", models.DateTimeField(verbose_name="from")),
                ("ends_at", models.DateTimeField(verbose_name="to")),
                (
                    "used_bytes",
                    models.PositiveBigIntegerField(
                        default=0, help_text="Uploaded and downloaded together", verbose_name="used"
                    ),
                ),
                (
                    "noticed_percent",
                    models.PositiveSmallIntegerField(default=0, editable=False, verbose_name="told of"),
                ),
                ("is_due", models.BooleanField(default=False, editable=False)),
                (
                    "group",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="periods",
                        to="fleet.relaygroup",
                        verbose_name="group",
                    ),
                ),
            ],
            options={
                "verbose_name": "quota period",
                "verbose_name_plural": "quota periods",
                "ordering": ["-starts_at"],
                "indexes": [
                    models.Index(condition=models.Q(("is_due", True)), fields=["id"], name="periods_to_be_judged")
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("group", "starts_at"), name="one_quota_period_per_start"),
                    models.CheckConstraint(
                        condition=models.Q(("ends_at__gt", models.F("starts_at"))), name="quota_period_has_length"
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="RelayUptime",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("day", models.DateField(verbose_name="day")),
                ("probes", models.PositiveIntegerField(default=0, verbose_name="probes")),
                ("answered", models.PositiveIntegerField(default=0, verbose_name="answered")),
                ("latency_sum_ms", models.FloatField(default=0, verbose_name="sum of latencies (ms)")),
                (
                    "relay",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="uptime",
                        to="fleet.relay",
                        verbose_name="relay",
                    ),
                ),
            ],
            options={
                "verbose_name": "uptime",
                "verbose_name_plural": "uptime",
                "ordering": ["-day"],
                "constraints": [
                    models.UniqueConstraint(fields=("relay", "day"), name="one_uptime_per_relay_and_day"),
                    models.CheckConstraint(
                        condition=models.Q(("answered__lte", models.F("probes"))), name="no_more_answers_than_probes"
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="ServerLoad",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("cpu_percent", models.FloatField(blank=True, null=True, verbose_name="CPU (%)")),
                ("memory_percent", models.FloatField(blank=True, null=True, verbose_name="memory (%)")),
                ("disk_percent", models.FloatField(blank=True, null=True, verbose_name="disk (%)")),
                ("load_average", models.FloatField(blank=True, null=True, verbose_name="load average, 1 minute")),
                ("network_in", models.FloatField(blank=True, null=True, verbose_name="incoming (bytes/s)")),
                ("network_out", models.FloatField(blank=True, null=True, verbose_name="outgoing (bytes/s)")),
                ("containers_running", models.PositiveIntegerField(default=0, verbose_name="relays running")),
                ("counters", models.JSONField(default=dict, editable=False)),
                ("error", models.CharField(blank=True, max_length=40, verbose_name="error")),
                ("measured_at", models.DateTimeField(blank=True, null=True, verbose_name="measured")),
                ("looked_at", models.DateTimeField(blank=True, null=True, verbose_name="last looked")),
                (
                    "server",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="figures",
                        to="fleet.server",
                        verbose_name="server",
                    ),
                ),
            ],
            options={
                "verbose_name": "load of a server",
                "verbose_name_plural": "load of servers",
                "db_table": "server_load_status",
            },
        ),
        migrations.CreateModel(
            name="Silence",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "alert_type",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("server_lost", "A server is lost"),
                            ("no_room", "Relays find no place"),
                            ("rollout_stopped", "A roll-out has stopped"),
                            ("provider_renewal", "A server must be renewed with its provider"),
                            ("allowance", "A server nears its traffic allowance"),
                            ("foreign_host", "A server is not ours to use"),
                            ("certificate_ends", "A certificate ends soon"),
                            ("counters_differ", "Traffic books and an engine's counters differ"),
                            ("unknown_keys", "Many unknown devices knock"),
                            ("many_sources", "A device connects from many addresses"),
                            ("open_relay", "An open relay is used by many"),
                            ("door_errors", "The door could not answer"),
                            ("metric", "A figure is over its threshold"),
                            ("portal", "Something needs a person"),
                            ("manual", "Sent by hand"),
                        ],
                        help_text="Empty = every kind.",
                        max_length=32,
                        verbose_name="alert",
                    ),
                ),
                ("starts_at", models.DateTimeField(verbose_name="from")),
                ("ends_at", models.DateTimeField(verbose_name="to")),
                ("note", models.CharField(blank=True, max_length=200, verbose_name="why")),
                (
                    "server",
                    models.ForeignKey(
                        blank=True,
                        help_text="Empty = every server.",
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="silences",
                        to="fleet.server",
                        verbose_name="server",
                    ),
                ),
            ],
            options={
                "verbose_name": "silence",
                "verbose_name_plural": "silences",
                "ordering": ["-ends_at"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("ends_at__gt", models.F("starts_at"))), name="silence_has_length"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Traffic",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "span",
                    models.CharField(
                        choices=[("reading", "reading"), ("hour", "hour"), ("day", "day")],
                        max_length=8,
                        verbose_name="span",
                    ),
                ),
                ("starts_at", models.DateTimeField(verbose_name="from")),
                ("upload_bytes", models.PositiveBigIntegerField(default=0, verbose_name="uploaded")),
                ("download_bytes", models.PositiveBigIntegerField(default=0, verbose_name="downloaded")),
                (
                    "unmeasured_seconds",
                    models.PositiveIntegerField(
                        default=0,
                        help_text="What passed then is unknown, not nothing.",
                        verbose_name="seconds not measured",
                    ),
                ),
                (
                    "relay",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="traffic",
                        to="fleet.relay",
                        verbose_name="relay",
                    ),
                ),
                (
                    "server",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="traffic",
                        to="fleet.server",
                        verbose_name="server",
                    ),
                ),
            ],
            options={
                "verbose_name": "traffic",
                "verbose_name_plural": "traffic",
                "db_table": "traffic",
                "ordering": ["-starts_at", "-id"],
                "indexes": [
                    models.Index(fields=["relay", "span", "starts_at"], name="traffic_of_a_relay"),
                    models.Index(fields=["server", "span", "starts_at"], name="traffic_of_a_server"),
                    models.Index(fields=["span", "starts_at"], name="traffic_by_age"),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("span", "reading"), _negated=True),
                        fields=("relay", "server", "span", "starts_at"),
                        name="one_bucket_per_place_and_span",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="TrafficPack",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("extra_bytes", models.PositiveBigIntegerField(verbose_name="bytes")),
                (
                    "key",
                    models.CharField(
                        help_text="The same key adds its pack once.", max_length=120, unique=True, verbose_name="key"
                    ),
                ),
                ("note", models.CharField(blank=True, max_length=200, verbose_name="note")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="added")),
                (
                    "actor",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="added by",
                    ),
                ),
                (
                    "group",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="packs",
                        to="fleet.relaygroup",
                        verbose_name="group",
                    ),
                ),
                (
                    "period",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="packs",
                        to="fleet.quotaperiod",
                        verbose_name="period",
                    ),
                ),
            ],
            options={
                "verbose_name": "traffic pack",
                "verbose_name_plural": "traffic packs",
                "ordering": ["-id"],
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("extra_bytes__gt", 0)), name="a_pack_holds_something")
                ],
            },
        ),
        migrations.CreateModel(
            name="UserLimit",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "quota_bytes",
                    models.PositiveBigIntegerField(
                        blank=True,
                        help_text="Bytes for each group and period. Empty = no limit.",
                        null=True,
                        verbose_name="quota",
                    ),
                ),
                ("note", models.CharField(blank=True, max_length=200, verbose_name="why")),
                ("updated_at", models.DateTimeField(auto_now=True, verbose_name="changed")),
                (
                    "owner",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="traffic_limit",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="owner",
                    ),
                ),
            ],
            options={
                "verbose_name": "limit of a user",
                "verbose_name_plural": "limits of users",
            },
        ),
        migrations.CreateModel(
            name="AclConfig",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("version", models.PositiveIntegerField(verbose_name="version")),
                (
                    "mode",
                    models.CharField(
                        choices=[
                            ("closed", "closed: listed devices only"),
                            ("learn", "learning: whoever comes is listed, then closed"),
                            ("open", "open: everybody who has the map"),
                            ("delegate", "asking your own Headscale"),
                        ],
                        max_length=8,
                        verbose_name="mode",
                    ),
                ),
                ("servers", models.JSONField(default=list, verbose_name="servers")),
                ("networks", models.JSONField(default=list, verbose_name="networks")),
                ("devices", models.JSONField(default=list, verbose_name="devices")),
                ("removed", models.JSONField(default=list, verbose_name="removed devices")),
                ("delegate_url", models.CharField(blank=True, max_length=500, verbose_name="address of your verifier")),
                ("learns_until", models.DateTimeField(blank=True, null=True, verbose_name="learns until")),
                ("reason", models.CharField(blank=True, max_length=200, verbose_name="why")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="set")),
                (
                    "author",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="set by",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="acl_versions",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="user",
                    ),
                ),
            ],
            options={
                "verbose_name": "access policy",
                "verbose_name_plural": "access policies",
                "db_table": "acl_configs",
                "ordering": ["-id"],
                "indexes": [
                    models.Index(condition=models.Q(("mode", "learn")), fields=["learns_until"], name="learning_by_end")
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("user", "version"), name="one_policy_per_version"),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("mode", "learn"), _negated=True), ("learns_until__isnull", False), _connector="OR"
                        ),
                        name="learning_has_an_end",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("mode", "delegate"), _negated=True),
                            models.Q(("delegate_url", ""), _negated=True),
                            _connector="OR",
                        ),
                        name="delegate_has_an_address",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="AclLog",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.UUIDField(editable=False, unique=True)),
                ("node_key", models.CharField(max_length=72, verbose_name="node key")),
                ("ip_address", models.GenericIPAddressField(blank=True, null=True, verbose_name="IP address")),
                ("location", models.CharField(blank=True, max_length=80, verbose_name="location")),
                ("acl_version", models.PositiveIntegerField(verbose_name="version of the policy")),
                ("is_allowed", models.BooleanField(verbose_name="let in")),
                (
                    "reason",
                    models.CharField(
                        choices=[
                            ("listed", "listed"),
                            ("network", "from a listed network"),
                            ("learned", "came while the door was learning"),
                            ("open", "the door is open"),
                            ("delegated", "let in by your Headscale"),
                            ("not_listed", "not listed"),
                            ("removed", "removed"),
                            ("full", "the plan has no room for more devices"),
                            ("refused_by_delegate", "refused by your Headscale"),
                            ("delegate_away", "your Headscale did not answer"),
                            ("stopped", "the relay was stopped"),
                            ("ended", "the lease had ended"),
                        ],
                        max_length=24,
                        verbose_name="why",
                    ),
                ),
                ("created_at", models.DateTimeField(verbose_name="when")),
                (
                    "relay",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="door_log",
                        to="fleet.relay",
                        verbose_name="relay",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="door_log",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="user",
                    ),
                ),
            ],
            options={
                "verbose_name": "answer at the door",
                "verbose_name_plural": "answers at the door",
                "db_table": "acl_logs",
                "ordering": ["-created_at", "-id"],
                "indexes": [
                    models.Index(fields=["user", "-created_at"], name="door_log_of_a_user"),
                    models.Index(fields=["created_at"], name="door_log_by_age"),
                    models.Index(fields=["node_key", "-created_at"], name="door_log_of_a_device"),
                    models.Index(fields=["ip_address", "-created_at"], name="door_log_of_an_address"),
                    models.Index(
                        condition=models.Q(("is_allowed", False)),
                        fields=["user", "-created_at"],
                        name="refusals_of_a_user",
                    ),
                    models.Index(
                        condition=models.Q(("is_allowed", False)),
                        fields=["-created_at", "-id"],
                        name="refusals_newest_first",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="ControlServer",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(
                        choices=[("tailscale", "Tailscale"), ("headscale", "Headscale")],
                        max_length=10,
                        verbose_name="kind",
                    ),
                ),
                (
                    "address",
                    models.CharField(
                        blank=True, help_text="Of a Headscale server.", max_length=500, verbose_name="address"
                    ),
                ),
                ("tailnet", models.CharField(blank=True, default="-", max_length=200, verbose_name="tailnet")),
                (
                    "client_id",
                    models.CharField(
                        blank=True, help_text="Empty for an API key.", max_length=100, verbose_name="OAuth client"
                    ),
                ),
                ("credential", derp_portal.lib.secrets.SecretTextField()),
                ("next_run_at", models.DateTimeField(blank=True, null=True, verbose_name="asked next")),
                ("ran_at", models.DateTimeField(blank=True, null=True, verbose_name="last asked")),
                ("succeeded_at", models.DateTimeField(blank=True, null=True, verbose_name="last answer")),
                ("failures", models.PositiveIntegerField(default=0, verbose_name="failures in a row")),
                ("error_code", models.CharField(blank=True, max_length=40, verbose_name="what went wrong")),
                ("device_count", models.PositiveIntegerField(default=0, verbose_name="devices")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="added")),
                (
                    "owner",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="control_servers",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="user",
                    ),
                ),
            ],
            options={
                "verbose_name": "control server",
                "verbose_name_plural": "control servers",
                "ordering": ["id"],
                "indexes": [models.Index(fields=["next_run_at"], name="control_servers_due")],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("kind", "headscale"), _negated=True),
                            models.Q(("address", ""), _negated=True),
                            _connector="OR",
                        ),
                        name="headscale_has_an_address",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="NodeKey",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "key",
                    models.CharField(
                        help_text="nodekey: and 64 hexadecimal digits", max_length=72, verbose_name="node key"
                    ),
                ),
                ("name", models.CharField(blank=True, max_length=80, verbose_name="name")),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="added")),
                (
                    "owner",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="node_keys",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="owner",
                    ),
                ),
                ("is_removed", models.BooleanField(default=False, verbose_name="removed")),
                ("last_seen_at", models.DateTimeField(blank=True, editable=False, null=True, verbose_name="last seen")),
                (
                    "remote_id",
                    models.CharField(
                        blank=True, editable=False, max_length=80, verbose_name="id at its control server"
                    ),
                ),
                (
                    "source",
                    models.CharField(
                        choices=[
                            ("hand", "by hand"),
                            ("learned", "came while the door was learning"),
                            ("approved", "knocked and was approved"),
                            ("synced", "from your control server"),
                        ],
                        default="hand",
                        max_length=8,
                        verbose_name="source",
                    ),
                ),
                (
                    "control_server",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="devices",
                        to="fleet.controlserver",
                        verbose_name="control server",
                    ),
                ),
            ],
            options={
                "verbose_name": "device",
                "verbose_name_plural": "devices",
                "ordering": ["-id"],
                "constraints": [models.UniqueConstraint(fields=("owner", "key"), name="a_device_is_listed_once")],
            },
        ),
        migrations.CreateModel(
            name="Knock",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("node_key", models.CharField(max_length=72, verbose_name="node key")),
                ("ip_address", models.GenericIPAddressField(blank=True, null=True, verbose_name="IP address")),
                ("location", models.CharField(blank=True, max_length=80, verbose_name="location")),
                ("times", models.PositiveIntegerField(default=0, verbose_name="times")),
                ("first_at", models.DateTimeField(verbose_name="first")),
                ("last_at", models.DateTimeField(verbose_name="last")),
                ("dismissed_at", models.DateTimeField(blank=True, null=True, verbose_name="dismissed")),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="knocks",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="user",
                    ),
                ),
            ],
            options={
                "verbose_name": "knock",
                "verbose_name_plural": "knocks",
                "ordering": ["-last_at", "-id"],
                "indexes": [models.Index(fields=["last_at"], name="knocks_by_age")],
                "constraints": [
                    models.UniqueConstraint(fields=("user", "node_key"), name="a_device_knocks_in_one_row")
                ],
            },
        ),
        migrations.CreateModel(
            name="MapPush",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("entries", models.JSONField(default=dict, verbose_name="entries written")),
                ("sets_flag", models.BooleanField(default=False, verbose_name="without Tailscale's own relays")),
                ("text_before", derp_portal.lib.secrets.SecretTextField()),
                ("etag", models.CharField(max_length=200)),
                ("pushed_at", models.DateTimeField(verbose_name="pushed")),
                ("is_automatic", models.BooleanField(default=False, verbose_name="later maps follow by themselves")),
                ("next_run_at", models.DateTimeField(blank=True, null=True, verbose_name="looked at next")),
                ("failures", models.PositiveIntegerField(default=0, verbose_name="failures in a row")),
                ("error_code", models.CharField(blank=True, max_length=40, verbose_name="what went wrong")),
                (
                    "control_server",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="map_pushes",
                        to="fleet.controlserver",
                        verbose_name="control server",
                    ),
                ),
                (
                    "group",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="map_push",
                        to="fleet.relaygroup",
                        verbose_name="relay group",
                    ),
                ),
            ],
            options={
                "verbose_name": "pushed map",
                "verbose_name_plural": "pushed maps",
                "ordering": ["-id"],
                "indexes": [
                    models.Index(
                        condition=models.Q(("is_automatic", True)), fields=["next_run_at"], name="map_pushes_due"
                    )
                ],
            },
        ),
        migrations.RunPython(seed_sweeps, migrations.RunPython.noop),
        migrations.RunPython(ship_rules, migrations.RunPython.noop),
    ]
