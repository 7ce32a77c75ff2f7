"""What was seen of relays: health, happenings, and the times a customer went without."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from .hosts import Server
from .relays import Relay, RelayGroup


class RelayHealth(models.Model):
    """The latest probe of a relay, made as a client would: TLS with pin, DERP handshake, packet, STUN."""

    class Status(models.TextChoices):
        STARTING = "starting", _("starting")
        HEALTHY = "healthy", _("healthy")
        UNHEALTHY = "unhealthy", _("unhealthy")

    relay = models.OneToOneField(Relay, on_delete=models.CASCADE, related_name="health", verbose_name=_("relay"))
    status = models.CharField(_("status"), max_length=12, choices=Status.choices, default=Status.STARTING)
    tls_ok = models.BooleanField(_("TLS"), default=False)
    derp_ok = models.BooleanField(_("DERP"), default=False)
    packet_ok = models.BooleanField(_("packet"), default=False)
    stun_ok = models.BooleanField(_("STUN"), default=False)
    latency_ms = models.FloatField(_("latency (ms)"), null=True, blank=True, help_text=_("Ping over DERP"))
    stun_ms = models.FloatField(_("STUN latency (ms)"), null=True, blank=True)
    connections = models.PositiveIntegerField(_("connections"), null=True, blank=True)
    version = models.CharField(_("relay version"), max_length=80, blank=True)
    error = models.CharField(_("error"), max_length=40, blank=True)
    failures = models.PositiveIntegerField(_("failures in a row"), default=0)
    successes = models.PositiveIntegerField(_("successes in a row"), default=0)
    checked_at = models.DateTimeField(_("checked"), null=True, blank=True)
    healthy_at = models.DateTimeField(_("last healthy"), null=True, blank=True)

    class Meta:
        db_table = "docker_health_status"
        verbose_name = _("relay health")
        verbose_name_plural = _("relay health")
        indexes = [models.Index(fields=["checked_at"], name="health_by_check_time")]

    def __str__(self) -> str:
        return f"{self.relay_id}: {self.status}"


class RelayUptime(models.Model):
    """How many probes of a relay that should have run answered on one day (UTC); uptime is the share that did."""

    relay = models.ForeignKey(Relay, on_delete=models.PROTECT, related_name="uptime", verbose_name=_("relay"))
    day = models.DateField(_("day"))
    probes = models.PositiveIntegerField(_("probes"), default=0)
    answered = models.PositiveIntegerField(_("answered"), default=0)
    latency_sum_ms = models.FloatField(_("sum of latencies (ms)"), default=0)

    class Meta:
        ordering = ["-day"]
        verbose_name = _("uptime")
        verbose_name_plural = _("uptime")
        constraints = [
            models.UniqueConstraint(fields=["relay", "day"], name="one_uptime_per_relay_and_day"),
            models.CheckConstraint(condition=Q(answered__lte=F("probes")), name="no_more_answers_than_probes"),
        ]

    def __str__(self) -> str:
        return f"{self.relay_id} {self.day}"


class RelayEvent(models.Model):
    """Something that happened to a relay; kept for ever, shown to its owner and to operators."""

    class Kind(models.TextChoices):
        PLACED = "placed", _("place found")
        STARTED = "started", _("started")
        STOPPED = "stopped", _("stopped")
        TROUBLE = "trouble", _("in trouble")
        RECOVERED = "recovered", _("recovered")
        MOVED = "moved", _("moved")
        RESTARTED = "restarted", _("restart asked for")
        PORT_CHANGED = "port_changed", _("port changed")
        CERTIFICATE = "certificate", _("certificate renewed")
        UNHEALTHY = "unhealthy", _("probes fail")
        HEALTHY = "healthy", _("probes answer")
        RELEASED = "released", _("released")

    relay = models.ForeignKey(Relay, on_delete=models.PROTECT, related_name="events", verbose_name=_("relay"))
    kind = models.CharField(_("event"), max_length=16, choices=Kind.choices)
    server = models.ForeignKey(
        Server, null=True, blank=True, on_delete=models.SET_NULL, related_name="+", verbose_name=_("server")
    )
    generation = models.PositiveIntegerField(_("generation"))
    detail = models.CharField(_("detail"), max_length=255, blank=True)
    created_at = models.DateTimeField(_("when"), auto_now_add=True, db_index=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = _("relay event")
        verbose_name_plural = _("relay events")

    def __str__(self) -> str:
        return f"{self.relay_id} {self.kind}"


class Outage(models.Model):
    """A time in which a group that should have run had no relay running, through no fault of its owner.

    While it is open the group's clock stands; when it closes, `run_until` has been moved by its length.
    """

    group = models.ForeignKey(RelayGroup, on_delete=models.PROTECT, related_name="outages", verbose_name=_("group"))
    cause = models.CharField(_("cause"), max_length=40)
    started_at = models.DateTimeField(_("from"))
    ended_at = models.DateTimeField(_("to"), null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = _("outage")
        verbose_name_plural = _("outages")
        constraints = [
            models.UniqueConstraint(fields=["group"], condition=Q(ended_at=None), name="one_open_outage_per_group"),
            models.CheckConstraint(
                condition=Q(ended_at=None) | Q(ended_at__gte=F("started_at")), name="outage_ends_after_it_starts"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.group_id}: {self.cause}"
