"""What happened: the audit trail, and tasks that failed."""

from __future__ import annotations

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.utils.translation import gettext_lazy as _

from derp_portal.lib import clock
from derp_portal.lib.append_only import AppendOnly

from .people import User


class AuditEntry(AppendOnly):
    """Who did what to which object, when and from where. Written only by `services.record`."""

    actor = models.ForeignKey(
        User, on_delete=models.PROTECT, null=True, blank=True, related_name="audit_entries", verbose_name=_("actor")
    )
    actor_label = models.CharField(_("actor's name"), max_length=150)
    event = models.CharField(_("event"), max_length=64)
    target_type = models.CharField(_("target type"), max_length=100, blank=True)
    target_id = models.CharField(_("target id"), max_length=64, blank=True)
    target_label = models.CharField(_("target"), max_length=200, blank=True)
    ip = models.GenericIPAddressField(_("IP address"), null=True, blank=True)
    data = models.JSONField(_("details"), default=dict, encoder=DjangoJSONEncoder)
    created_at = models.DateTimeField(_("when"), default=clock.now)

    class Meta:
        db_table = "audit_log"
        verbose_name = _("audit entry")
        verbose_name_plural = _("audit trail")
        ordering = ("-created_at", "-id")
        indexes = (
            models.Index(fields=["target_type", "target_id", "-created_at"], name="audit_log_target"),
            models.Index(fields=["-created_at"], name="audit_log_time"),
        )

    def __str__(self) -> str:
        return f"{self.event} {self.target_label}".strip()


class TaskFailure(models.Model):
    """A background task that ended in an error it did not foresee. Kept for a time, then forgotten."""

    task = models.CharField(_("task"), max_length=120)
    task_id = models.CharField(_("task id"), max_length=64)
    arguments = models.CharField(_("arguments"), max_length=200, blank=True)
    error = models.CharField(_("error"), max_length=200)
    traceback = models.TextField(_("where"), blank=True)
    created_at = models.DateTimeField(_("when"), default=clock.now)

    class Meta:
        db_table = "task_failures"
        verbose_name = _("task failure")
        verbose_name_plural = _("task failures")
        ordering = ("-created_at", "-id")
        indexes = (models.Index(fields=["-created_at"], name="task_failures_time"),)

    def __str__(self) -> str:
        return f"{self.task}: {self.error}"
