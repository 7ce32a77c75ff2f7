"""Regions, the servers in them, and the ports servers have to give."""

from __future__ import annotations

import ipaddress

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.utils.translation import get_language
from django.utils.translation import gettext_lazy as _


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
        return self.name_zh if self.name_zh and (get_language() or "").startswith("zh") else self.name


class Server(models.Model):
    """A host that runs relays, and how the portal reaches its engine."""

    class Status(models.TextChoices):
        HEALTHY = "healthy", _("healthy")
        UNHEALTHY = "unhealthy", _("unhealthy")

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
        help_text=_("Where the Docker engine listens, e.g. unix:///var/run/docker.sock. Not used for processes."),
    )
    status = models.CharField(_("status"), max_length=16, choices=Status.choices, default=Status.HEALTHY)
    load = models.FloatField(_("load"), default=0, help_text=_("Relays placed as a share of the most it may carry."))
    hardware = models.JSONField(_("hardware"), default=dict, blank=True)
    engine_version = models.CharField(_("engine version"), max_length=120, blank=True)
    is_enabled = models.BooleanField(_("takes new relays"), default=True)
    port_first = models.PositiveIntegerField(_("first port"), default=21000)
    port_last = models.PositiveIntegerField(_("last port"), default=21999)
    max_relays = models.PositiveIntegerField(_("most relays"), default=200, validators=[MinValueValidator(1)])
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
