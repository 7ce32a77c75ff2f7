"""Who may use a customer's relays: versions of the policy, and what the doors answered."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from derp_portal.lib.append_only import AppendOnly
from fleet.acl import decision

from .relays import Relay


class AclConfig(AppendOnly):
    """One version of a user's policy, as it was set: the newest is in force, an older one can be set again.

    `devices` are `{"key", "name"}` of every listed device, `networks` in their plain form, `servers` the ids of those
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
        ]

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
        FULL = decision.Reason.FULL, _("the plan has no room for more devices")
        REFUSED_BY_DELEGATE = decision.Reason.REFUSED_BY_DELEGATE, _("refused by your Headscale")
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
        ]

    def __str__(self) -> str:
        return f"{self.node_key[:20]} {self.reason}"
