"""Who may use a customer's relays: versions of the policy, and what the doors answered."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from derp_portal.lib.append_only import AppendOnly
from derp_portal.lib.secrets import SecretTextField
from fleet.acl import decision

from .relays import Relay, RelayGroup


class AclConfig(AppendOnly):
    """One version of a user's policy, as it was set: the newest is in force, an older one can be set again.

    `devices` are `{"key", "name"}` of every listed device, `removed` the keys of those that are turned away whatever
    the mode, `networks` in their plain form, `servers` the ids of those
    that the user's relays may run on (empty = any).
    """

    class Mode(models.TextChoices):
        CLOSED = "closed", _("closed: listed devices only")
        LEARN = "learn", _("learning: whoever comes is listed, then closed")
        OPEN = "open", _("open: everybody who has the map")
        DELEGATE = "delegate", _("asking your own Headscale")

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="acl_versions", verbose_name=_("user")
    )
    version = models.PositiveIntegerField(_("version"))
    mode = models.CharField(_("mode"), max_length=8, choices=Mode.choices)
    servers = models.JSONField(_("servers"), default=list)
    networks = models.JSONField(_("networks"), default=list)
    devices = models.JSONField(_("devices"), default=list)
    removed = models.JSONField(_("removed devices"), default=list)
    delegate_url = models.CharField(_("address of your verifier"), max_length=500, blank=True)
    learns_until = models.DateTimeField(_("learns until"), null=True, blank=True)
    reason = models.CharField(_("why"), max_length=200, blank=True)
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("set by"),
    )
    created_at = models.DateTimeField(_("set"), auto_now_add=True)

    class Meta:
        db_table = "acl_configs"
        ordering = ["-id"]
        verbose_name = _("access policy")
        verbose_name_plural = _("access policies")
        constraints = [
            models.UniqueConstraint(fields=["user", "version"], name="one_policy_per_version"),
            models.CheckConstraint(
                condition=~Q(mode="learn") | Q(learns_until__isnull=False), name="learning_has_an_end"
            ),
            models.CheckConstraint(condition=~Q(mode="delegate") | ~Q(delegate_url=""), name="delegate_has_an_address"),
        ]
        indexes = [models.Index(fields=["learns_until"], condition=Q(mode="learn"), name="learning_by_end")]

    def __str__(self) -> str:
        return f"{self.user_id} v{self.version}"


class AclLog(models.Model):
    """One answer of a door. Written in batches, a few seconds later; kept for a time, then forgotten."""

    class Reason(models.TextChoices):
        LISTED = decision.Reason.LISTED, _("listed")
        NETWORK = decision.Reason.NETWORK, _("from a listed network")
        LEARNED = decision.Reason.LEARNED, _("came while the door was learning")
        OPEN = decision.Reason.OPEN, _("the door is open")
        DELEGATED = decision.Reason.DELEGATED, _("let in by your Headscale")
        NOT_LISTED = decision.Reason.NOT_LISTED, _("not listed")
        REMOVED = decision.Reason.REMOVED, _("removed")
        FULL = decision.Reason.FULL, _("the plan has no room for more devices")
        REFUSED_BY_DELEGATE = decision.Reason.REFUSED_BY_DELEGATE, _("refused by your Headscale")
        DELEGATE_AWAY = decision.Reason.DELEGATE_AWAY, _("your Headscale did not answer")
        DELEGATE_BUSY = decision.Reason.DELEGATE_BUSY, _("your Headscale was being asked about other devices")
        STOPPED = decision.Reason.STOPPED, _("the relay was stopped")
        ENDED = decision.Reason.ENDED, _("the lease had ended")

    # Named before it is written, so that a batch written twice is one.
    key = models.UUIDField(unique=True, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="door_log", verbose_name=_("user")
    )
    relay = models.ForeignKey(Relay, on_delete=models.CASCADE, related_name="door_log", verbose_name=_("relay"))
    node_key = models.CharField(_("node key"), max_length=72)
    ip_address = models.GenericIPAddressField(_("IP address"), null=True, blank=True)
    location = models.CharField(_("location"), max_length=80, blank=True)
    acl_version = models.PositiveIntegerField(_("version of the policy"))
    is_allowed = models.BooleanField(_("let in"))
    reason = models.CharField(_("why"), max_length=24, choices=Reason.choices)
    created_at = models.DateTimeField(_("when"))

    class Meta:
        db_table = "acl_logs"
        ordering = ["-created_at", "-id"]
        verbose_name = _("answer at the door")
        verbose_name_plural = _("answers at the door")
        indexes = [
            models.Index(fields=["user", "-created_at"], name="door_log_of_a_user"),
            models.Index(fields=["created_at"], name="door_log_by_age"),
            models.Index(fields=["node_key", "-created_at"], name="door_log_of_a_device"),
            models.Index(fields=["ip_address", "-created_at"], name="door_log_of_an_address"),
            models.Index(fields=["user", "-created_at"], condition=Q(is_allowed=False), name="refusals_of_a_user"),
            models.Index(fields=["-created_at", "-id"], condition=Q(is_allowed=False), name="refusals_newest_first"),
        ]

    def __str__(self) -> str:
        return f"{self.node_key[:20]} {self.reason}"


class Knock(models.Model):
    """A device that is not listed and was turned away: told to its owner once, who lists it or not."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="knocks", verbose_name=_("user")
    )
    node_key = models.CharField(_("node key"), max_length=72)
    ip_address = models.GenericIPAddressField(_("IP address"), null=True, blank=True)
    location = models.CharField(_("location"), max_length=80, blank=True)
    times = models.PositiveIntegerField(_("times"), default=0)
    first_at = models.DateTimeField(_("first"))
    last_at = models.DateTimeField(_("last"))
    dismissed_at = models.DateTimeField(_("dismissed"), null=True, blank=True)

    class Meta:
        ordering = ["-last_at", "-id"]
        verbose_name = _("knock")
        verbose_name_plural = _("knocks")
        constraints = [models.UniqueConstraint(fields=["user", "node_key"], name="a_device_knocks_in_one_row")]
        indexes = [models.Index(fields=["last_at"], name="knocks_by_age")]

    def __str__(self) -> str:
        return f"{self.node_key[:20]}… ×{self.times}"


class ControlServer(models.Model):
    """Where a user's devices are known: asked on a schedule, so that the list follows it by itself."""

    class Kind(models.TextChoices):
        TAILSCALE = "tailscale", "Tailscale"
        HEADSCALE = "headscale", "Headscale"

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="control_servers", verbose_name=_("user")
    )
    kind = models.CharField(_("kind"), max_length=10, choices=Kind.choices)
    address = models.CharField(_("address"), max_length=500, blank=True, help_text=_("Of a Headscale server."))
    tailnet = models.CharField(_("tailnet"), max_length=200, default="-", blank=True)
    client_id = models.CharField(_("OAuth client"), max_length=100, blank=True, help_text=_("Empty for an API key."))
    credential = SecretTextField()
    next_run_at = models.DateTimeField(_("asked next"), null=True, blank=True)
    ran_at = models.DateTimeField(_("last asked"), null=True, blank=True)
    succeeded_at = models.DateTimeField(_("last answer"), null=True, blank=True)
    failures = models.PositiveIntegerField(_("failures in a row"), default=0)
    error_code = models.CharField(_("what went wrong"), max_length=40, blank=True)
    device_count = models.PositiveIntegerField(_("devices"), default=0)
    created_at = models.DateTimeField(_("added"), auto_now_add=True)

    class Meta:
        ordering = ["id"]
        verbose_name = _("control server")
        verbose_name_plural = _("control servers")
        constraints = [
            models.CheckConstraint(condition=~Q(kind="headscale") | ~Q(address=""), name="headscale_has_an_address"),
        ]
        indexes = [models.Index(fields=["next_run_at"], name="control_servers_due")]

    def __str__(self) -> str:
        return self.address or (self.tailnet if self.tailnet not in ("", "-") else "Tailscale")


class MapPush(models.Model):
    """A map that stands in its owner's policy file: what we wrote there, and how the file was before."""

    group = models.OneToOneField(
        RelayGroup, on_delete=models.CASCADE, related_name="map_push", verbose_name=_("relay group")
    )
    control_server = models.ForeignKey(
        ControlServer, on_delete=models.CASCADE, related_name="map_pushes", verbose_name=_("control server")
    )
    entries = models.JSONField(_("entries written"), default=dict)
    sets_flag = models.BooleanField(_("without Tailscale's own relays"), default=False)
    text_before = SecretTextField()
    etag = models.CharField(max_length=200)
    pushed_at = models.DateTimeField(_("pushed"))
    is_automatic = models.BooleanField(_("later maps follow by themselves"), default=False)
    next_run_at = models.DateTimeField(_("looked at next"), null=True, blank=True)
    failures = models.PositiveIntegerField(_("failures in a row"), default=0)
    error_code = models.CharField(_("what went wrong"), max_length=40, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = _("pushed map")
        verbose_name_plural = _("pushed maps")
        indexes = [models.Index(fields=["next_run_at"], condition=Q(is_automatic=True), name="map_pushes_due")]

    def __str__(self) -> str:
        return str(self.group)
