"""Bringing a new relay image to the fleet in steps."""

from __future__ import annotations

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from .hosts import Server


class Rollout(models.Model):
    """One change of the relay image over the whole fleet: a canary server first, then so many relays an hour.

    The image of the latest finished one is what new relays get.
    """

    class State(models.TextChoices):
        CANARY = "canary", _("on the canary server")
        RUNNING = "running", _("under way")
        STOPPED = "stopped", _("stopped")
        DONE = "done", _("done")
        CANCELLED = "cancelled", _("called off")

    OPEN = (State.CANARY, State.RUNNING, State.STOPPED)

    image = models.CharField(
        _("relay image"),
        max_length=200,
        help_text=_("One that the portal has stored, or a reference with a registry's name in it."),
    )
    canary = models.ForeignKey(
        Server,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        verbose_name=_("canary server"),
        help_text=_("Its relays go first. Empty = the server with the fewest relays."),
    )
    percent_per_hour = models.PositiveSmallIntegerField(
        _("percent an hour"),
        default=20,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text=_("Of all relays, once the canary's work."),
    )
    state = models.CharField(_("state"), max_length=12, choices=State.choices, default=State.CANARY)
    stopped_because = models.CharField(_("stopped because"), max_length=40, blank=True)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        verbose_name=_("by"),
    )
    # When the present pace began; a stop and a resumption must not let the relays of the pause come all at once.
    paced_from = models.DateTimeField(_("under way since"), null=True, blank=True)
    paced_done = models.PositiveIntegerField(default=0, editable=False)
    started_at = models.DateTimeField(_("begun"), auto_now_add=True)
    ended_at = models.DateTimeField(_("ended"), null=True, blank=True)

    class Meta:
        db_table = "rollouts"
        ordering = ["-id"]
        verbose_name = _("roll-out")
        verbose_name_plural = _("roll-outs")
        constraints = [
            models.UniqueConstraint(
                models.Value(1), condition=Q(state__in=("canary", "running", "stopped")), name="one_rollout_at_a_time"
            ),
        ]

    def __str__(self) -> str:
        return self.image

    @property
    def is_open(self) -> bool:
        return self.state in self.OPEN
