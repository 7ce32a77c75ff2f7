"""How hosts are doing: the latest figures of each, and their history."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from .hosts import Server


class Metric(models.TextChoices):
    """What is measured of a server, with its unit."""

    CPU = "cpu", _("CPU (%)")
    MEMORY = "memory", _("memory (%)")
    DISK = "disk", _("disk (%)")
    LOAD = "load", _("load average, 1 minute")
    NETWORK_IN = "network_in", _("incoming (bytes/s)")
    NETWORK_OUT = "network_out", _("outgoing (bytes/s)")
    CONTAINERS = "containers", _("relays running")


class ServerLoad(models.Model):
    """The latest figures of a server, and the raw counters that the next rates are taken from."""

    server = models.OneToOneField(Server, on_delete=models.CASCADE, related_name="figures", verbose_name=_("server"))
    cpu_percent = models.FloatField(_("CPU (%)"), null=True, blank=True)
    memory_percent = models.FloatField(_("memory (%)"), null=True, blank=True)
    disk_percent = models.FloatField(_("disk (%)"), null=True, blank=True)
    load_average = models.FloatField(_("load average, 1 minute"), null=True, blank=True)
    network_in = models.FloatField(_("incoming (bytes/s)"), null=True, blank=True)
    network_out = models.FloatField(_("outgoing (bytes/s)"), null=True, blank=True)
    containers_running = models.PositiveIntegerField(_("relays running"), default=0)
    counters = models.JSONField(default=dict, editable=False)
    error = models.CharField(_("error"), max_length=40, blank=True)
    measured_at = models.DateTimeField(_("measured"), null=True, blank=True)
    looked_at = models.DateTimeField(_("last looked"), null=True, blank=True)

    class Meta:
        db_table = "server_load_status"
        verbose_name = _("load of a server")
        verbose_name_plural = _("load of servers")

    def __str__(self) -> str:
        return str(self.server_id)


class Measurement(models.Model):
    """One value of one metric of a server at one time, or its mean and highest over an hour or a day."""

    class Span(models.TextChoices):
        READING = "reading", _("reading")
        HOUR = "hour", _("hour")
        DAY = "day", _("day")

    server = models.ForeignKey(Server, on_delete=models.CASCADE, related_name="measurements", verbose_name=_("server"))
    metric = models.CharField(_("metric"), max_length=16, choices=Metric.choices)
    span = models.CharField(_("span"), max_length=8, choices=Span.choices, default=Span.READING)
    value = models.FloatField(_("value"))
    highest = models.FloatField(_("highest"))
    timestamp = models.DateTimeField(_("when"))

    class Meta:
        db_table = "monitoring_logs"
        ordering = ["-timestamp", "-id"]
        verbose_name = _("measurement")
        verbose_name_plural = _("measurements")
        constraints = [
            models.UniqueConstraint(
                fields=["server", "metric", "span", "timestamp"],
                condition=~Q(span="reading"),
                name="one_measurement_per_bucket",
            ),
        ]
        indexes = [
            models.Index(fields=["server", "metric", "span", "timestamp"], name="measurements_of_a_server"),
            models.Index(fields=["span", "timestamp"], name="measurements_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.server_id} {self.metric} {self.value}"
