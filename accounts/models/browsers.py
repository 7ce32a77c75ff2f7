"""Browsers that people signed up or logged in by, told apart by a random cookie of ours."""

from __future__ import annotations

from django.db import models

from derp_portal.lib import clock

from .people import User


class Browser(models.Model):
    """One browser of one person. Two people's rows with one digest are one browser. Written by `services.browsers`."""

    user = models.ForeignKey(User, on_delete=models.PROTECT, related_name="browsers")
    digest = models.CharField(max_length=64, editable=False)
    first_seen_at = models.DateTimeField(default=clock.now)
    last_seen_at = models.DateTimeField(default=clock.now)

    class Meta:
        db_table = "browsers"
        ordering = ("-last_seen_at", "-id")
        constraints = (models.UniqueConstraint(fields=["user", "digest"], name="one_row_per_user_and_browser"),)
        indexes = (
            models.Index(fields=["digest"], name="browsers_by_digest"),
            models.Index(fields=["last_seen_at"], name="browsers_by_time"),
        )

    def __str__(self) -> str:
        return f"{self.user_id}: {self.digest[:8]}"
