"""What operators must know of: raised once, closed when it is over."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from .hosts import Server
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
        indexes = [models.Index(fields=["resolved", "-id"], name="open_alerts_first")]

    def __str__(self) -> str:
        return self.message
