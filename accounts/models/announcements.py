"""What the operator tells everybody at once."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from derp_portal.lib import clock
from derp_portal.lib.wording import local

from .people import User


class Announcement(models.Model):
    """A notice above every page while it lasts, and by mail when staff ask for it. Withdrawn, never deleted."""

    class Audience(models.TextChoices):
        """Who reads it."""

        EVERYBODY = "everybody", _("everybody, visitors too")
        ACCOUNTS = "accounts", _("everybody with an account")
        RESELLERS = "resellers", _("resellers")

    class Tone(models.TextChoices):
        """How it looks."""

        INFO = "info", _("news")
        WARNING = "warning", _("warning")

    class State(models.TextChoices):
        """Where it is in its life, at the moment of asking."""

        WAITING = "waiting", _("not begun")
        CURRENT = "current", _("shown now")
        OVER = "over", pgettext_lazy("announcement", "over")
        WITHDRAWN = "withdrawn", _("withdrawn")

    title = models.CharField(_("title"), max_length=120)
    title_zh = models.CharField(_("Chinese title"), max_length=120, blank=True)
    text = models.TextField(_("text"), max_length=2000, help_text=_("Plain text; line breaks stay."))
    text_zh = models.TextField(_("Chinese text"), max_length=2000, blank=True)
    wording = models.PositiveIntegerField(
        default=1,
        editable=False,
        help_text=_("Whoever has closed other words has not read these."),
    )
    tone = models.CharField(_("tone"), max_length=8, choices=Tone.choices, default=Tone.INFO)
    audience = models.CharField(_("audience"), max_length=10, choices=Audience.choices, default=Audience.ACCOUNTS)
    starts_at = models.DateTimeField(_("shown from"), default=clock.now)
    ends_at = models.DateTimeField(
        _("shown until"), null=True, blank=True, help_text=_("Empty: until it is withdrawn.")
    )
    withdrawn_at = models.DateTimeField(_("withdrawn"), null=True, blank=True, editable=False)
    mail_asked_at = models.DateTimeField(_("to go by mail since"), null=True, blank=True, editable=False)
    mailed_up_to = models.PositiveBigIntegerField(
        default=0, editable=False, help_text=_("The id of the last account that was looked at.")
    )
    mailed_count = models.PositiveIntegerField(_("mails written"), default=0, editable=False)
    mailed_at = models.DateTimeField(_("all mails written"), null=True, blank=True, editable=False)
    client_key = models.CharField(
        _("idempotency key"), max_length=80, blank=True, editable=False, help_text=_("The same key publishes once.")
    )
    author = models.ForeignKey(
        User, on_delete=models.PROTECT, related_name="+", editable=False, verbose_name=_("author")
    )
    created_at = models.DateTimeField(_("written"), default=clock.now, editable=False)

    class Meta:
        db_table = "announcements"
        verbose_name = _("announcement")
        verbose_name_plural = _("announcements")
        ordering = ("-starts_at", "-id")
        constraints = (
            models.CheckConstraint(
                condition=Q(audience__in=["everybody", "accounts", "resellers"]), name="announcement_audience_is_known"
            ),
            models.CheckConstraint(condition=Q(tone__in=["info", "warning"]), name="announcement_tone_is_known"),
            models.CheckConstraint(
                condition=Q(ends_at=None) | Q(ends_at__gt=F("starts_at")), name="announcement_ends_after_it_begins"
            ),
            models.UniqueConstraint(
                fields=["author", "client_key"], condition=~Q(client_key=""), name="one_announcement_per_client_key"
            ),
        )
        indexes = (
            models.Index(fields=["-starts_at", "-id"], condition=Q(withdrawn_at=None), name="announcements_by_start"),
            models.Index(
                fields=["mail_asked_at"],
                condition=Q(mail_asked_at__isnull=False, mailed_at=None, withdrawn_at=None),
                name="announcements_to_mail",
            ),
        )

    def __str__(self) -> str:
        return self.local_title

    @property
    def local_title(self) -> str:
        """In the reader's language, where it was written in it."""
        return local(self.title, self.title_zh)

    @property
    def local_text(self) -> str:
        """In the reader's language, where it was written in it."""
        return local(self.text, self.text_zh)

    @property
    def state(self) -> State:
        """What it is now."""
        if self.withdrawn_at is not None:
            return self.State.WITHDRAWN
        if self.starts_at > clock.now():
            return self.State.WAITING
        return self.State.OVER if self.ends_at is not None and self.ends_at <= clock.now() else self.State.CURRENT

    @classmethod
    def in_state(cls, state: State) -> Q:
        """The same rule, for the database."""
        now, live = clock.now(), Q(withdrawn_at=None)
        return {
            cls.State.WAITING: live & Q(starts_at__gt=now),
            cls.State.CURRENT: live & Q(starts_at__lte=now) & (Q(ends_at=None) | Q(ends_at__gt=now)),
            cls.State.OVER: live & Q(starts_at__lte=now, ends_at__lte=now),
            cls.State.WITHDRAWN: Q(withdrawn_at__isnull=False),
        }[state]


class ClosedAnnouncement(models.Model):
    """Somebody has read it and closed it: it is above their pages no more."""

    announcement = models.ForeignKey(Announcement, on_delete=models.PROTECT, related_name="closed_by")
    user = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    closed_at = models.DateTimeField(default=clock.now)

    class Meta:
        db_table = "closed_announcements"
        constraints = (
            models.UniqueConstraint(fields=["announcement", "user"], name="announcement_is_closed_once_by_each"),
        )

    def __str__(self) -> str:
        return f"{self.announcement_id}: {self.user_id}"
