"""Regions, the servers in them, and the ports servers have to give."""

from __future__ import annotations

import ipaddress

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from derp_portal.lib.secrets import SecretTextField
from derp_portal.lib.wording import local


class Region(models.Model):
    """A place customers can wish for."""

    code = models.SlugField(_("code"), max_length=32, unique=True)
    name = models.CharField(_("name"), max_length=80)
    name_zh = models.CharField(_("Chinese name"), max_length=80, blank=True)
    latitude = models.FloatField(
        _("latitude"), default=0, validators=[MinValueValidator(-90), MaxValueValidator(90)], help_text=_("Degrees")
    )
    longitude = models.FloatField(
        _("longitude"), default=0, validators=[MinValueValidator(-180), MaxValueValidator(180)], help_text=_("Degrees")
    )

    class Meta:
        ordering = ["code"]
        verbose_name = _("region")
        verbose_name_plural = _("regions")

    def __str__(self) -> str:
        return self.local_name

    @property
    def local_name(self) -> str:
        """The name in the reader's language."""
        return local(self.name, self.name_zh)


class Server(models.Model):
    """A host that runs relays, and how the portal reaches its engine."""

    class Status(models.TextChoices):
        HEALTHY = "healthy", _("healthy")
        UNHEALTHY = "unhealthy", _("unhealthy")

    class Phase(models.TextChoices):
        """How sure we are of the host. The first and the last are `healthy` in `status`, the others `unhealthy`."""

        HEALTHY = "healthy", _("healthy")
        SUSPECT = "suspect", _("suspect")
        UNHEALTHY = "unhealthy", _("lost")
        RECOVERED = "recovered", _("recovered")

    class BilledDirection(models.TextChoices):
        """What the provider counts against the monthly allowance."""

        SUM = "sum", _("in and out together")
        IN = "in", _("incoming")
        OUT = "out", _("outgoing")
        LARGER = "larger", _("the larger of the two")

    class Runtime(models.TextChoices):
        DOCKER = "docker", _("Docker engine")
        PROCESS = "process", _("processes on this machine (not for production)")

    name = models.CharField(_("name"), max_length=80, unique=True)
    ip = models.GenericIPAddressField(_("IP address"), help_text=_("The address customers' devices connect to."))
    region = models.ForeignKey(Region, on_delete=models.PROTECT, related_name="servers", verbose_name=_("region"))
    runtime = models.CharField(_("runtime"), max_length=16, choices=Runtime.choices, default=Runtime.DOCKER)
    endpoint = models.CharField(
        _("engine address"),
        max_length=255,
        blank=True,
        default="unix:///var/run/docker.sock",
        help_text=_(
            "unix:///var/run/docker.sock, tcp://203.0.113.7:2376 with certificates, or ssh://root@203.0.113.7. "
            "Not used for processes."
        ),
    )
    # Empty = the portal's own authority, which the enrolment script has installed on the host.
    tls_ca = SecretTextField(_("certificate authority"), blank=True, null=True)
    tls_certificate = SecretTextField(_("client certificate"), blank=True, null=True)
    tls_key = SecretTextField(_("client key"), blank=True, null=True)
    ssh_host_key = models.TextField(
        _("host key"), blank=True, help_text=_("Kept at the first connection; another one is refused from then on.")
    )
    engine_id = models.CharField(_("engine id"), max_length=120, blank=True, editable=False)
    status = models.CharField(_("status"), max_length=16, choices=Status.choices, default=Status.HEALTHY)
    phase = models.CharField(_("phase"), max_length=16, choices=Phase.choices, default=Phase.HEALTHY)
    phase_since = models.DateTimeField(_("in this phase since"), null=True, blank=True)
    failed_looks = models.PositiveIntegerField(_("failed looks in a row"), default=0)
    relays_answered_at = models.DateTimeField(
        _("relays last answered while the engine was silent"), null=True, blank=True, editable=False
    )
    load = models.FloatField(_("load"), default=0, help_text=_("Relays placed as a share of the most it may carry."))
    hardware = models.JSONField(_("hardware"), default=dict, blank=True)
    engine_version = models.CharField(_("engine version"), max_length=120, blank=True)
    is_enabled = models.BooleanField(_("takes new relays"), default=True)
    is_draining = models.BooleanField(_("draining"), default=False)
    port_first = models.PositiveIntegerField(_("first port"), default=21000)
    port_last = models.PositiveIntegerField(_("last port"), default=21999)
    max_relays = models.PositiveIntegerField(_("most relays"), default=200, validators=[MinValueValidator(1)])
    uplink_mbps = models.PositiveIntegerField(
        _("uplink"), null=True, blank=True, help_text=_("Mbit/s, shared by its relays. Empty = not considered.")
    )
    provider = models.CharField(_("provider"), max_length=80, blank=True)
    monthly_cost = models.PositiveBigIntegerField(
        _("monthly cost"), null=True, blank=True, help_text=_("In the currency's smallest unit, e.g. cents or fen.")
    )
    cost_currency = models.CharField(_("currency"), max_length=3, blank=True, help_text=_("E.g. CNY, USD."))
    provider_renews_on = models.DateField(
        _("to be renewed with the provider on"), null=True, blank=True, help_text=_("Operators are reminded.")
    )
    billed_direction = models.CharField(
        _("traffic the provider counts"), max_length=8, choices=BilledDirection.choices, default=BilledDirection.SUM
    )
    allowance_bytes = models.PositiveBigIntegerField(
        _("monthly allowance"), null=True, blank=True, help_text=_("Bytes. Empty = no limit.")
    )
    allowance_reset_day = models.PositiveSmallIntegerField(
        _("allowance starts anew on day"),
        default=1,
        validators=[MinValueValidator(1), MaxValueValidator(31)],
        help_text=_("Day of the month; in a shorter month its last day."),
    )
    allowance_used_bytes = models.PositiveBigIntegerField(_("used of the allowance"), default=0)
    last_seen_at = models.DateTimeField(_("last seen"), null=True, blank=True)
    error_code = models.CharField(_("last error"), max_length=40, blank=True)
    error_detail = models.TextField(_("error detail"), blank=True)
    error_since = models.DateTimeField(_("in trouble since"), null=True, blank=True)
    # The most containers of ours there may be: a pass writes it before it creates any. What left is gone at 0 only.
    containers = models.PositiveIntegerField(default=0, editable=False)
    # Whoever holds the pass may reconcile this server until then; a dead worker's pass runs out by itself.
    pass_token = models.CharField(max_length=32, blank=True, editable=False)
    pass_until = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated"), auto_now=True)

    class Meta:
        db_table = "servers"
        ordering = ["name"]
        verbose_name = _("server")
        verbose_name_plural = _("servers")
        constraints = [
            models.CheckConstraint(
                condition=Q(port_first__gte=1024, port_last__lte=65535, port_first__lte=F("port_last")),
                name="server_port_range_is_valid",
            ),
            models.UniqueConstraint(
                fields=["engine_id"], condition=~Q(engine_id=""), name="an_engine_is_enrolled_once"
            ),
            models.CheckConstraint(
                condition=Q(allowance_reset_day__gte=1, allowance_reset_day__lte=31), name="reset_day_is_a_day"
            ),
            models.CheckConstraint(
                condition=Q(phase__in=("healthy", "recovered"), status="healthy")
                | Q(phase__in=("suspect", "unhealthy"), status="unhealthy"),
                name="server_status_follows_its_phase",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_loopback(self) -> bool:
        """True when only programs on that very host can reach its relays."""
        return ipaddress.ip_address(self.ip).is_loopback


class Port(models.Model):
    """A port number of a server that is taken: held by a relay, or set aside because the host refused it.

    One number serves DERP over TCP and STUN over UDP. Free numbers have no row.
    """

    server = models.ForeignKey(Server, on_delete=models.CASCADE, related_name="ports", verbose_name=_("server"))
    number = models.PositiveIntegerField(_("number"))
    relay = models.OneToOneField(
        "fleet.Relay", null=True, blank=True, on_delete=models.CASCADE, related_name="port", verbose_name=_("relay")
    )
    set_aside_until = models.DateTimeField(_("set aside until"), null=True, blank=True)

    class Meta:
        verbose_name = _("port")
        verbose_name_plural = _("ports")
        constraints = [
            models.UniqueConstraint(fields=["server", "number"], name="one_live_relay_per_port"),
            models.CheckConstraint(
                condition=Q(relay__isnull=False) | Q(set_aside_until__isnull=False), name="taken_port_says_why"
            ),
        ]

    def __str__(self) -> str:
        return str(self.number)


class ServerEvent(models.Model):
    """Something that happened to a server: every change of its phase, and what operators did. Its timeline."""

    class Kind(models.TextChoices):
        ADDED = "added", pgettext_lazy("server event", "added")
        SUSPECT = "suspect", _("does not answer")
        UNHEALTHY = "unhealthy", _("lost")
        RECOVERED = "recovered", _("came back")
        HEALTHY = "healthy", _("healthy")
        ENGINE = "engine", _("another engine")
        DRAINING = "draining", _("drain begun")
        DRAIN_ENDED = "drain_ended", _("drain ended")
        ENABLED = "enabled", _("takes new relays")
        DISABLED = "disabled", _("takes no new relays")
        ADDRESS = "address", _("address changed")
        PORTS_CHECKED = "ports_checked", _("ports checked")
        ALLOWANCE = "allowance", _("near its allowance")

    server = models.ForeignKey(Server, on_delete=models.CASCADE, related_name="events", verbose_name=_("server"))
    kind = models.CharField(_("event"), max_length=16, choices=Kind.choices)
    detail = models.CharField(_("detail"), max_length=255, blank=True)
    created_at = models.DateTimeField(_("when"), auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = _("server event")
        verbose_name_plural = _("server events")
        indexes = [models.Index(fields=["server", "-id"], name="server_timeline")]

    def __str__(self) -> str:
        return f"{self.server_id} {self.kind}"


class Authority(models.Model):
    """The portal's own certificate authority and its keys to the hosts. There is one."""

    ca_certificate = models.TextField(_("certificate authority"))
    ca_key = SecretTextField()
    client_certificate = models.TextField(_("client certificate"))
    client_key = SecretTextField()
    client_ends_at = models.DateTimeField(_("client certificate ends"))
    ssh_public_key = models.TextField(_("ssh public key"))
    ssh_private_key = SecretTextField()
    is_only_one = models.BooleanField(default=True, unique=True, editable=False)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        verbose_name = _("authority")
        verbose_name_plural = _("authorities")
        constraints = [models.CheckConstraint(condition=Q(is_only_one=True), name="there_is_one_authority")]

    def __str__(self) -> str:
        return f"#{self.pk}"
