"""What operators must know of: raised once, closed when it is over."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from derp_portal.lib.secrets import SecretTextField

from .hosts import Region, Server
from .metrics import Metric
from .relays import Relay


class Alert(models.Model):
    """Something is wrong, or soon will be. One open alert for each kind and subject."""

    class Severity(models.TextChoices):
        INFO = "info", _("information")
        WARNING = "warning", _("warning")
        CRITICAL = "critical", _("critical")

    class Kind(models.TextChoices):
        SERVER_LOST = "server_lost", _("A server is lost")
        NO_ROOM = "no_room", _("Relays find no place")
        ROLLOUT_STOPPED = "rollout_stopped", _("A roll-out has stopped")
        PROVIDER_RENEWAL = "provider_renewal", _("A server must be renewed with its provider")
        ALLOWANCE = "allowance", _("A server nears its traffic allowance")
        FOREIGN_HOST = "foreign_host", _("A server is not ours to use")
        CERTIFICATE_ENDS = "certificate_ends", _("A certificate ends soon")
        COUNTERS_DIFFER = "counters_differ", _("Traffic books and an engine's counters differ")
        UNKNOWN_KEYS = "unknown_keys", _("Many unknown devices knock")
        MANY_SOURCES = "many_sources", _("A device connects from many addresses")
        OPEN_RELAY = "open_relay", _("An open relay is used by many")
        DOOR_ERRORS = "door_errors", _("The door could not answer")
        METRIC = "metric", _("A figure is over its threshold")
        PORTAL = "portal", _("Something needs a person")
        MANUAL = "manual", _("Sent by hand")

    alert_type = models.CharField(_("alert"), max_length=32, choices=Kind.choices)
    severity = models.CharField(_("severity"), max_length=12, choices=Severity.choices)
    subject = models.CharField(_("subject"), max_length=80, help_text=_("What it is about, as a key."))
    message = models.TextField(_("message"))
    params = models.JSONField(default=dict, editable=False)
    server = models.ForeignKey(
        Server, null=True, blank=True, on_delete=models.CASCADE, related_name="alerts", verbose_name=_("server")
    )
    relay = models.ForeignKey(
        Relay, null=True, blank=True, on_delete=models.CASCADE, related_name="alerts", verbose_name=_("relay")
    )
    rule = models.ForeignKey(
        "fleet.AlertRule",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="alerts",
        verbose_name=_("rule"),
    )
    acknowledged_at = models.DateTimeField(_("acknowledged"), null=True, blank=True)
    acknowledged_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        verbose_name=_("acknowledged by"),
    )
    told_at = models.DateTimeField(_("last told"), null=True, blank=True, editable=False)
    resolved = models.BooleanField(_("resolved"), default=False)
    created_at = models.DateTimeField(_("raised"), auto_now_add=True)
    resolved_at = models.DateTimeField(_("resolved at"), null=True, blank=True)

    class Meta:
        db_table = "system_alerts"
        ordering = ["-id"]
        verbose_name = _("alert")
        verbose_name_plural = _("alerts")
        constraints = [
            models.UniqueConstraint(
                fields=["alert_type", "subject"], condition=Q(resolved=False), name="one_open_alert_per_subject"
            ),
        ]
        indexes = [
            models.Index(fields=["resolved", "-id"], name="open_alerts_first"),
            models.Index(fields=["severity", "-id"], name="alerts_by_severity"),
            models.Index(fields=["alert_type", "subject"], name="alerts_of_a_subject"),
            models.Index(fields=["resolved_at"], condition=Q(resolved=True), name="alerts_lately_resolved"),
        ]

    def __str__(self) -> str:
        return self.message


class AlertRule(models.Model):
    """When a figure of a server is an alert: over or under a threshold for so long."""

    class Comparison(models.TextChoices):
        OVER = "over", _("over")
        UNDER = "under", _("under")

    name = models.CharField(_("name"), max_length=80, unique=True)
    metric = models.CharField(_("figure"), max_length=16, choices=Metric.choices)
    comparison = models.CharField(_("comparison"), max_length=8, choices=Comparison.choices, default=Comparison.OVER)
    threshold = models.FloatField(_("threshold"), help_text=_("In the unit of the figure."))
    for_seconds = models.PositiveIntegerField(_("for how long"), default=300, help_text=_("Seconds"))
    severity = models.CharField(
        _("severity"), max_length=12, choices=Alert.Severity.choices, default=Alert.Severity.WARNING
    )
    servers = models.ManyToManyField(
        Server, blank=True, related_name="+", verbose_name=_("servers"), help_text=_("None chosen = all.")
    )
    regions = models.ManyToManyField(
        Region, blank=True, related_name="+", verbose_name=_("regions"), help_text=_("None chosen = all.")
    )
    remind_seconds = models.PositiveIntegerField(
        _("remind every"), default=14400, help_text=_("Seconds, until it is acknowledged or over. 0 = never.")
    )
    is_enabled = models.BooleanField(_("in force"), default=True)

    class Meta:
        ordering = ["name"]
        verbose_name = _("alert rule")
        verbose_name_plural = _("alert rules")

    def __str__(self) -> str:
        return self.name


class Breach(models.Model):
    """A figure that is past a rule's threshold now, and since when: an alert once that has lasted long enough."""

    rule = models.ForeignKey(AlertRule, on_delete=models.CASCADE, related_name="breaches", verbose_name=_("rule"))
    server = models.ForeignKey(Server, on_delete=models.CASCADE, related_name="breaches", verbose_name=_("server"))
    since = models.DateTimeField(_("since"))

    class Meta:
        verbose_name = _("breach")
        verbose_name_plural = _("breaches")
        constraints = [models.UniqueConstraint(fields=["rule", "server"], name="one_breach_per_rule_and_server")]

    def __str__(self) -> str:
        return f"{self.rule_id}: {self.server_id}"


class AlertChannel(models.Model):
    """Where one operator wants to be told, of what severity and up."""

    name = models.CharField(_("name"), max_length=80)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="alert_channels", verbose_name=_("operator")
    )
    address = SecretTextField(_("address"), help_text=_("An Apprise address. It holds keys and is not shown again."))
    min_severity = models.CharField(
        _("from severity"), max_length=12, choices=Alert.Severity.choices, default=Alert.Severity.WARNING
    )
    is_enabled = models.BooleanField(_("in use"), default=True)
    last_sent_at = models.DateTimeField(_("last sent"), null=True, blank=True, editable=False)
    last_error = models.CharField(_("last error"), max_length=200, blank=True, editable=False)

    class Meta:
        ordering = ["owner_id", "name"]
        verbose_name = _("alert channel")
        verbose_name_plural = _("alert channels")
        constraints = [models.UniqueConstraint(fields=["owner", "name"], name="channel_names_are_unique")]

    def __str__(self) -> str:
        return self.name


class AlertDelivery(models.Model):
    """One message that a channel is to get: queued with its alert, so that a storm goes out as one."""

    alert = models.ForeignKey(Alert, on_delete=models.CASCADE, related_name="deliveries", verbose_name=_("alert"))
    channel = models.ForeignKey(
        AlertChannel, on_delete=models.CASCADE, related_name="deliveries", verbose_name=_("channel")
    )
    created_at = models.DateTimeField(_("queued"), auto_now_add=True)
    not_before = models.DateTimeField(_("not before"))
    tries = models.PositiveSmallIntegerField(_("attempts"), default=0)
    sent_at = models.DateTimeField(_("sent"), null=True, blank=True)
    error = models.CharField(_("error"), max_length=200, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = _("alert delivery")
        verbose_name_plural = _("alert deliveries")
        indexes = [
            models.Index(fields=["not_before"], condition=Q(sent_at=None), name="deliveries_due"),
            models.Index(fields=["created_at"], name="deliveries_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.alert_id} → {self.channel_id}"


class Silence(models.Model):
    """A time in which alerts of one kind, or of one server, are kept but tell nobody."""

    alert_type = models.CharField(
        _("alert"), max_length=32, choices=Alert.Kind.choices, blank=True, help_text=_("Empty = every kind.")
    )
    server = models.ForeignKey(
        Server,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="silences",
        verbose_name=_("server"),
        help_text=_("Empty = every server."),
    )
    starts_at = models.DateTimeField(_("from"))
    ends_at = models.DateTimeField(_("to"))
    note = models.CharField(_("why"), max_length=200, blank=True)

    class Meta:
        ordering = ["-ends_at"]
        verbose_name = _("silence")
        verbose_name_plural = _("silences")
        constraints = [
            models.CheckConstraint(condition=Q(ends_at__gt=models.F("starts_at")), name="silence_has_length"),
        ]

    def __str__(self) -> str:
        return self.note or f"#{self.pk}"
