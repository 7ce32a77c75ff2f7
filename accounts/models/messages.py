"""The notification outbox."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from derp_portal.lib import clock

from .people import User


class Notification(models.Model):
    """One message of the outbox, rendered when it was written, so that it says what was true then."""

    class Status(models.TextChoices):
        """Where the message is on its way."""

        QUEUED = "queued", _("Queued")
        SENDING = "sending", _("Sending")
        SENT = "sent", _("Sent")
        FAILED = "failed", _("Failed")

    user = models.ForeignKey(
        User, on_delete=models.PROTECT, null=True, blank=True, related_name="notifications", verbose_name=_("user")
    )
    recipient = models.EmailField(_("recipient"))
    kind = models.CharField(_("kind"), max_length=64)
    dedup_key = models.CharField(_("deduplication key"), max_length=200, unique=True)
    language = models.CharField(_("language"), max_length=10)
    subject = models.CharField(_("subject"), max_length=255)
    body_text = models.TextField(_("text"))
    body_html = models.TextField(_("HTML"), blank=True)
    is_secret = models.BooleanField(
        _("secret"),
        default=False,
        help_text=_("Carries a link that opens the account: shown to nobody, erased when sent."),
    )
    is_withdrawn = models.BooleanField(
        _("withdrawn"), default=False, help_text=_("Was being sent when it was withdrawn: it is not tried again.")
    )
    status = models.CharField(_("status"), max_length=8, choices=Status, default=Status.QUEUED)
    attempts = models.PositiveSmallIntegerField(_("attempts"), default=0)
    next_attempt_at = models.DateTimeField(_("next attempt at"), default=clock.now)
    claimed_until = models.DateTimeField(_("claimed until"), null=True, blank=True)
    sent_at = models.DateTimeField(_("sent at"), null=True, blank=True)
    last_error = models.TextField(_("last error"), blank=True)
    created_at = models.DateTimeField(_("created at"), default=clock.now)

    class Meta:
        db_table = "notifications"
        verbose_name = _("notification")
        verbose_name_plural = _("notifications")
        ordering = ("-created_at", "-id")
        indexes = (
            models.Index(
                fields=["next_attempt_at"], condition=Q(status__in=["queued", "sending"]), name="notifications_due"
            ),
            models.Index(fields=["user", "-created_at"], name="notifications_of_user"),
        )
        constraints = (
            models.CheckConstraint(
                condition=Q(status__in=["queued", "sending", "sent", "failed"]), name="notification_status_is_known"
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind} → {self.recipient}"
