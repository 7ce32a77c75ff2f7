"""Relays on their way: why, from where to where, and when each step was done."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from .hosts import Server
from .relays import Relay


class MoveReason(models.TextChoices):
    """Why relays go. The first three are one server's relays all together, an `Evacuation`."""

    FAILURE = "failure", _("the server was lost")
    DRAIN = "drain", _("the server is drained")
    ALLOWANCE = "allowance", _("the server's traffic allowance is nearly used up")
    RESCUE = "rescue", _("the relay did not work there")
    HAND = "hand", _("moved by hand")
    ADDRESS = "address", _("the server's address changed")


class Evacuation(models.Model):
    """All relays leave one server: after its loss, for a drain, or because its allowance is nearly used up."""

    class State(models.TextChoices):
        RUNNING = "running", _("under way")
        DONE = "done", _("done")
        CANCELLED = "cancelled", _("called off")

    server = models.ForeignKey(
        Server, null=True, on_delete=models.SET_NULL, related_name="evacuations", verbose_name=_("server")
    )
    server_name = models.CharField(_("server"), max_length=80)
    reason = models.CharField(_("reason"), max_length=12, choices=MoveReason.choices)
    state = models.CharField(_("state"), max_length=12, choices=State.choices, default=State.RUNNING)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        verbose_name=_("by"),
        help_text=_("Empty = the portal by itself."),
    )
    lost_at = models.DateTimeField(_("last sign of life"), null=True, blank=True)
    started_at = models.DateTimeField(_("begun"), auto_now_add=True)
    ended_at = models.DateTimeField(_("ended"), null=True, blank=True)

    class Meta:
        db_table = "evacuations"
        ordering = ["-id"]
        verbose_name = _("failover")
        verbose_name_plural = _("failovers")
        constraints = [
            models.UniqueConstraint(
                fields=["server"], condition=Q(state="running"), name="one_open_evacuation_per_server"
            ),
            models.CheckConstraint(
                condition=Q(state="running", ended_at=None) | ~Q(state="running") & Q(ended_at__isnull=False),
                name="evacuation_ends_when_it_is_over",
            ),
        ]

    def __str__(self) -> str:
        return f"#{self.pk} {self.server_name}"


class Move(models.Model):
    """One relay going from one place to another, keeping its identity. Kept for ever: its owner sees it too.

    While it is `placed` the old container is left alone where its host still runs it, so that sessions last until
    the new one answers.
    """

    class State(models.TextChoices):
        WAITING = "waiting", _("waiting for a place")
        PLACED = "placed", _("being set up")
        ANSWERED = "answered", _("done")
        CANCELLED = "cancelled", _("called off")

    OPEN = (State.WAITING, State.PLACED)

    relay = models.ForeignKey(Relay, on_delete=models.PROTECT, related_name="moves", verbose_name=_("relay"))
    evacuation = models.ForeignKey(
        Evacuation, null=True, blank=True, on_delete=models.PROTECT, related_name="moves", verbose_name=_("failover")
    )
    reason = models.CharField(_("reason"), max_length=12, choices=MoveReason.choices)
    state = models.CharField(_("state"), max_length=12, choices=State.choices, default=State.WAITING)
    waits_for = models.CharField(_("waits because"), max_length=40, blank=True)
    from_server = models.ForeignKey(
        Server, null=True, blank=True, on_delete=models.SET_NULL, related_name="+", verbose_name=_("old server")
    )
    to_server = models.ForeignKey(
        Server, null=True, blank=True, on_delete=models.SET_NULL, related_name="+", verbose_name=_("new server")
    )
    from_ip = models.GenericIPAddressField(_("old address"), null=True, blank=True)
    from_port = models.PositiveIntegerField(_("old port"), null=True, blank=True)
    to_ip = models.GenericIPAddressField(_("new address"), null=True, blank=True)
    to_port = models.PositiveIntegerField(_("new port"), null=True, blank=True)
    from_generation = models.PositiveIntegerField(_("old generation"))
    to_generation = models.PositiveIntegerField(_("new generation"), null=True, blank=True)
    created_at = models.DateTimeField(_("begun"), auto_now_add=True)
    placed_at = models.DateTimeField(_("place found"), null=True, blank=True)
    ended_at = models.DateTimeField(_("answered"), null=True, blank=True)

    class Meta:
        db_table = "moves"
        ordering = ["-id"]
        verbose_name = _("move")
        verbose_name_plural = _("moves")
        constraints = [
            models.UniqueConstraint(
                fields=["relay"], condition=Q(state__in=("waiting", "placed")), name="one_open_move_per_relay"
            ),
        ]
        indexes = [
            models.Index(fields=["from_server"], condition=Q(state="placed"), name="moves_that_keep_a_container"),
            models.Index(fields=["id"], condition=Q(state__in=("waiting", "placed")), name="open_moves"),
            models.Index(fields=["evacuation", "state"], name="moves_of_an_evacuation"),
        ]

    def __str__(self) -> str:
        return f"{self.relay_id}: {self.state}"

    @property
    def is_open(self) -> bool:
        """True until the relay answers at its new place, or the move was called off."""
        return self.state in self.OPEN
