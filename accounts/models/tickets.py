"""Tickets: what customers ask, and what is answered."""

from __future__ import annotations

from django.db import models
from django.db.models import Case, F, Q, Value, When
from django.utils.translation import gettext_lazy as _

from derp_portal.lib import clock
from derp_portal.lib.append_only import AppendOnly

from .people import User


class Ticket(models.Model):
    """One matter of a customer's. It reaches the first line, or staff at once; staff may always join."""

    class State(models.TextChoices):
        """Whose turn it is."""

        WAITING = "waiting", _("waits for an answer")
        ANSWERED = "answered", _("has an answer")
        CLOSED = "closed", _("is closed")

    class Queue(models.IntegerChoices):
        """In which order staff look."""

        STAFF = 0, _("waits for the operator")
        FIRST_LINE = 1, _("waits for the seller")
        ANSWERED = 2, _("has an answer")
        CLOSED = 3, _("is closed")

    number = models.CharField(_("ticket number"), max_length=24, unique=True)
    customer = models.ForeignKey(User, on_delete=models.PROTECT, related_name="tickets", verbose_name=_("customer"))
    subject = models.CharField(_("subject"), max_length=120)
    about = models.CharField(
        _("about"), max_length=80, blank=True, help_text=_("Such as “lease:12”; the rooms above know what it means.")
    )
    state = models.CharField(_("state"), max_length=8, choices=State.choices, default=State.WAITING)
    first_line = models.ForeignKey(
        User,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="first_line_tickets",
        verbose_name=_("first line"),
        help_text=_("Whom it reached first; empty: the operator."),
    )
    first_line_since = models.DateTimeField(_("with the first line since"), null=True, blank=True)
    with_staff_since = models.DateTimeField(
        _("with the operator since"), null=True, blank=True, help_text=_("Empty: only the first line has it so far.")
    )
    waiting_since = models.DateTimeField(_("waiting since"), null=True, blank=True)
    client_key = models.CharField(
        _("idempotency key"), max_length=80, blank=True, help_text=_("The same key of one customer opens once.")
    )
    last_message_at = models.DateTimeField(_("last message"), default=clock.now)
    closed_at = models.DateTimeField(_("closed since"), null=True, blank=True)
    created_at = models.DateTimeField(_("opened"), default=clock.now)
    # Kept by the database itself, so that the longest list in the order that staff need has an index.
    queue = models.GeneratedField(
        verbose_name=_("queue"),
        expression=Case(
            When(Q(state="waiting", with_staff_since__isnull=False), then=Value(0)),
            When(Q(state="waiting"), then=Value(1)),
            When(Q(state="answered"), then=Value(2)),
            default=Value(3),
        ),
        output_field=models.PositiveSmallIntegerField(choices=Queue.choices),
        db_persist=True,
    )

    class Meta:
        db_table = "tickets"
        verbose_name = _("ticket")
        verbose_name_plural = _("tickets")
        ordering = ("-last_message_at", "-id")
        constraints = (
            models.CheckConstraint(
                condition=Q(state__in=["waiting", "answered", "closed"]), name="ticket_state_is_known"
            ),
            models.CheckConstraint(
                condition=Q(first_line__isnull=False) | Q(with_staff_since__isnull=False),
                name="ticket_reaches_somebody",
            ),
            models.CheckConstraint(
                condition=Q(first_line=None) | ~Q(first_line=F("customer")), name="ticket_reaches_somebody_else"
            ),
            models.CheckConstraint(
                condition=Q(state="waiting", waiting_since__isnull=False)
                | (~Q(state="waiting") & Q(waiting_since=None)),
                name="ticket_says_since_when_it_waits",
            ),
            models.CheckConstraint(
                condition=Q(state="closed", closed_at__isnull=False) | (~Q(state="closed") & Q(closed_at=None)),
                name="ticket_says_when_it_was_closed",
            ),
            models.CheckConstraint(
                condition=Q(first_line=None, first_line_since=None)
                | Q(first_line__isnull=False, first_line_since__isnull=False),
                name="ticket_says_since_when_it_is_with_the_first_line",
            ),
            models.UniqueConstraint(
                fields=["customer", "client_key"], condition=~Q(client_key=""), name="one_ticket_per_client_key"
            ),
        )
        indexes = (
            models.Index(fields=["customer", "-last_message_at"], name="tickets_of_customer"),
            models.Index(fields=["first_line", "queue", "waiting_since"], name="tickets_of_first_line"),
            models.Index(fields=["queue", "waiting_since", "-last_message_at"], name="tickets_by_queue"),
            models.Index(fields=["about"], condition=~Q(about=""), name="tickets_about"),
            models.Index(
                fields=["waiting_since"],
                condition=Q(state="waiting", with_staff_since=None),
                name="tickets_to_pass_on",
            ),
        )

    def __str__(self) -> str:
        return self.number

    @property
    def is_closed(self) -> bool:
        """Whether nobody waits for anything any more."""
        return self.state == self.State.CLOSED

    @property
    def is_with_staff(self) -> bool:
        """Whether the operator answers; else the first line alone does."""
        return self.with_staff_since is not None


class TicketMessage(AppendOnly):
    """What somebody wrote. A note is for staff's eyes only."""

    class Side(models.TextChoices):
        """As what they wrote it."""

        CUSTOMER = "customer", _("customer")
        SELLER = "seller", _("seller")
        STAFF = "staff", _("the operator")

    ticket = models.ForeignKey(Ticket, on_delete=models.PROTECT, related_name="messages", verbose_name=_("ticket"))
    author = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", verbose_name=_("author"))
    side = models.CharField(_("side"), max_length=8, choices=Side.choices)
    text = models.TextField(_("text"), max_length=10_000)
    is_note = models.BooleanField(_("internal note"), default=False)
    client_key = models.CharField(_("idempotency key"), max_length=80, blank=True)
    created_at = models.DateTimeField(_("written"), default=clock.now)

    class Meta:
        db_table = "ticket_messages"
        verbose_name = _("message of a ticket")
        verbose_name_plural = _("messages of tickets")
        ordering = ("id",)
        constraints = (
            models.CheckConstraint(
                condition=Q(side__in=["customer", "seller", "staff"]), name="ticket_message_side_is_known"
            ),
            models.CheckConstraint(condition=Q(is_note=False) | Q(side="staff"), name="only_staff_write_notes"),
            models.UniqueConstraint(
                fields=["ticket", "author", "client_key"],
                condition=~Q(client_key=""),
                name="one_ticket_message_per_client_key",
            ),
        )

    def __str__(self) -> str:
        return f"{self.ticket_id}: {self.side}"
