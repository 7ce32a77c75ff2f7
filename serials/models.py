"""Plans, serials, leases and their terms, bindings, reminders."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from derp_portal.lib.append_only import AppendOnly
from derp_portal.lib.wording import local
from fleet.models import Outage, Region, RelayGroup

LONGEST_DAYS = 3660


class Plan(models.Model):
    """What a term gives while it is the current one."""

    class QuotaPeriod(models.TextChoices):
        """Over what the quota is counted."""

        TERM = "term", _("the whole term")
        MONTH = "month", _("each calendar month")

    code = models.SlugField(_("code"), max_length=40, unique=True)
    name = models.CharField(_("name"), max_length=80)
    name_zh = models.CharField(_("Chinese name"), max_length=80, blank=True)
    days = models.PositiveIntegerField(_("days"), validators=[MinValueValidator(1)])
    relay_count = models.PositiveSmallIntegerField(
        _("relays"),
        default=2,
        validators=[MinValueValidator(1)],
        help_text=_("A primary and standbys on other servers, where there are any: losing one then changes nothing."),
    )
    speed_bytes_per_second = models.PositiveBigIntegerField(
        _("speed limit"), default=0, help_text=_("Bytes per second for each device; 0 = no limit.")
    )
    quota_bytes = models.PositiveBigIntegerField(
        _("traffic quota"), null=True, blank=True, help_text=_("Bytes per quota period; empty = no limit.")
    )
    quota_period = models.CharField(
        _("quota period"), max_length=8, choices=QuotaPeriod.choices, default=QuotaPeriod.TERM
    )
    regions = models.ManyToManyField(
        Region,
        blank=True,
        related_name="+",
        verbose_name=_("regions"),
        help_text=_("Tried first; when they have no room, another region is taken. None chosen = anywhere."),
    )
    day_value = models.PositiveIntegerField(
        _("worth of a day"),
        default=100,
        validators=[MinValueValidator(1)],
        help_text=_("Only the ratio between plans counts: it converts days of one plan into days of another."),
    )
    fails_open = models.BooleanField(
        _("relays let everybody in while the portal does not answer"),
        default=True,
        help_text=_("Else only devices that were let in before: nobody new gets in until the portal is back."),
    )
    max_devices = models.PositiveIntegerField(
        _("devices"), null=True, blank=True, help_text=_("How many a customer may list; empty = no limit.")
    )
    is_public = models.BooleanField(_("shown to customers"), default=True)
    priority = models.SmallIntegerField(
        _("priority"), default=0, help_text=_("Where room is short, relays of higher ones get a place first.")
    )
    position = models.PositiveSmallIntegerField(_("position"), default=0)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        db_table = "plans"
        ordering = ["position", "days", "id"]
        verbose_name = _("plan")
        verbose_name_plural = _("plans")
        constraints = [
            models.CheckConstraint(condition=Q(days__gte=1), name="plan_has_days"),
            models.CheckConstraint(condition=Q(day_value__gte=1), name="plan_day_has_worth"),
            models.CheckConstraint(condition=Q(relay_count__gte=1), name="plan_has_a_relay"),
        ]

    def __str__(self) -> str:
        return self.local_name

    @property
    def local_name(self) -> str:
        """The name in the reader's language."""
        return local(self.name, self.name_zh)


class SerialBatch(models.Model):
    """Serials generated in one call."""

    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="batches", verbose_name=_("plan"))
    duration_days = models.PositiveIntegerField(_("days"))
    count = models.PositiveIntegerField(_("count"))
    activate_before = models.DateTimeField(_("redeem before"), null=True, blank=True)
    note = models.CharField(_("note"), max_length=200, blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("created by"),
    )
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = _("serial batch")
        verbose_name_plural = _("serial batches")

    def __str__(self) -> str:
        return f"#{self.pk} {self.plan} × {self.count}"


class SerialNumber(models.Model):
    """A code worth days of a plan, once.

    `expires_at` is the last moment to redeem it while unused, and the end of the term it granted once used.
    """

    class Status(models.TextChoices):
        UNUSED = "unused", _("unused")
        USED = "used", _("used")
        EXPIRED = "expired", _("expired")
        REVOKED = "revoked", _("revoked")

    code = models.CharField(pgettext_lazy("serial number", "code"), max_length=24, unique=True)
    batch = models.ForeignKey(SerialBatch, on_delete=models.PROTECT, related_name="serials", verbose_name=_("batch"))
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="serials", verbose_name=_("plan"))
    duration_days = models.PositiveIntegerField(_("days"))
    status = models.CharField(_("status"), max_length=8, choices=Status.choices, default=Status.UNUSED)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="serials",
        verbose_name=_("redeemed by"),
    )
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    used_at = models.DateTimeField(_("redeemed"), null=True, blank=True)
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)

    class Meta:
        db_table = "serial_numbers"
        ordering = ["-id"]
        verbose_name = _("serial number")
        verbose_name_plural = _("serial numbers")
        constraints = [
            models.CheckConstraint(
                condition=~Q(status="used") | Q(user__isnull=False, used_at__isnull=False),
                name="used_serial_says_who_and_when",
            ),
            models.CheckConstraint(
                condition=~Q(status="unused") | Q(user=None, used_at=None), name="unused_serial_has_no_user"
            ),
            models.CheckConstraint(condition=Q(duration_days__gte=1), name="serial_has_days"),
        ]
        indexes = [
            models.Index(fields=["expires_at"], condition=Q(status__in=["unused", "used"]), name="serials_to_expire"),
            models.Index(fields=["user", "-used_at"], name="serials_by_user"),
        ]

    def __str__(self) -> str:
        return f"{self.code[:4]}-…-{self.code[-4:]}"


class Lease(models.Model):
    """A customer's right to relays: a queue of terms, one relay group, one end."""

    class Status(models.TextChoices):
        ACTIVE = "active", _("active")
        EXPIRED = "expired", _("expired")
        ENDED = "ended", _("ended by staff")

    class EndReason(models.TextChoices):
        EXPIRED = "expired", _("its time was up")
        STAFF = "staff", _("ended by staff")
        ACCOUNT_CLOSED = "account_closed", _("the account was closed")
        TAKEN_BACK = "taken_back", _("what was paid for it was given back")

    class Notice(models.TextChoices):
        REMINDER = "reminder", _("It ends soon")
        RENEWED = "renewed", _("It is renewed")

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="leases", verbose_name=_("user")
    )
    name = models.CharField(_("name"), max_length=60)
    status = models.CharField(_("status"), max_length=8, choices=Status.choices, default=Status.ACTIVE)
    started_at = models.DateTimeField(_("from"))
    ends_at = models.DateTimeField(_("to"), help_text=_("The end of its last term."))
    renewed_at = models.DateTimeField(_("last renewed"))
    renewed_to = models.DateTimeField(
        _("renewed to"), help_text=_("The end its last renewal gave; what made up for an outage came on top.")
    )
    active_since = models.DateTimeField(
        _("active since"), help_text=_("When it began, or came back to life after it had ended.")
    )
    relay_group = models.OneToOneField(
        RelayGroup, on_delete=models.PROTECT, related_name="lease", verbose_name=_("relay group")
    )
    ended_at = models.DateTimeField(_("ended"), null=True, blank=True)
    end_reason = models.CharField(_("why it ended"), max_length=14, choices=EndReason.choices, blank=True)
    released_at = models.DateTimeField(_("place released"), null=True, blank=True)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        db_table = "leases"
        ordering = ["-id"]
        verbose_name = _("lease")
        verbose_name_plural = _("leases")
        constraints = [
            models.CheckConstraint(
                condition=Q(status="active", ended_at=None) | (~Q(status="active") & Q(ended_at__isnull=False)),
                name="lease_says_when_it_ended",
            ),
        ]
        indexes = [
            models.Index(fields=["ends_at"], condition=Q(status="active"), name="active_leases_by_end"),
            models.Index(
                fields=["ended_at"],
                condition=~Q(status="active") & Q(released_at=None),
                name="ended_leases_to_release",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_active(self) -> bool:
        return self.status == self.Status.ACTIVE


class LeaseTerm(models.Model):
    """A stretch of a lease under one plan. Append-only: dates never change, closing early happens at most once."""

    class Source(models.TextChoices):
        SERIAL = "serial", _("serial number")
        STAFF = "staff", _("renewed by staff")
        COMPENSATION = "compensation", _("made up for an outage")
        CONVERSION = "conversion", _("converted from another plan")
        BROUGHT_FORWARD = "forward", _("brought forward")

    class State(models.TextChoices):
        QUEUED = "queued", _("to come")
        CURRENT = "current", _("current")
        DONE = "done", _("done")

    lease = models.ForeignKey(Lease, on_delete=models.PROTECT, related_name="terms", verbose_name=_("lease"))
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="+", verbose_name=_("plan"))
    starts_at = models.DateTimeField(_("from"))
    ends_at = models.DateTimeField(_("to"))
    state = models.CharField(_("state"), max_length=8, choices=State.choices, default=State.QUEUED)
    closed_at = models.DateTimeField(_("closed early"), null=True, blank=True)
    source = models.CharField(_("source"), max_length=12, choices=Source.choices)
    serial = models.OneToOneField(
        SerialNumber, null=True, blank=True, on_delete=models.PROTECT, related_name="term", verbose_name=_("serial")
    )
    outage = models.OneToOneField(
        Outage, null=True, blank=True, on_delete=models.PROTECT, related_name="term", verbose_name=_("outage")
    )
    origin = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="continued_by",
        verbose_name=_("goes on from"),
        help_text=_("The first term of the same days, when they were moved up."),
    )
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("by"),
    )
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        db_table = "lease_terms"
        ordering = ["starts_at", "id"]
        verbose_name = _("term")
        verbose_name_plural = _("terms")
        constraints = [
            models.UniqueConstraint(fields=["lease"], condition=Q(state="current"), name="one_current_term_per_lease"),
            models.CheckConstraint(condition=Q(ends_at__gt=F("starts_at")), name="term_ends_after_it_starts"),
            models.CheckConstraint(
                condition=Q(source="serial", serial__isnull=False) | (~Q(source="serial") & Q(serial=None)),
                name="serial_terms_name_their_serial",
            ),
        ]
        indexes = [
            models.Index(fields=["ends_at"], condition=Q(state="current"), name="current_terms_by_end"),
        ]

    def __str__(self) -> str:
        return f"{self.lease_id}: {self.plan_id} {self.starts_at:%F}–{self.ends_at:%F}"

    @property
    def makes_up(self) -> bool:
        """Whether it gives time back for an outage, under whatever term it was moved up: it brings no traffic."""
        return (self.origin or self).source == LeaseTerm.Source.COMPENSATION


class Binding(AppendOnly):
    """User ↔ serial ↔ term ↔ relays: what was wired together when a term was granted. Never a device."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="bindings", verbose_name=_("user")
    )
    serial = models.OneToOneField(
        SerialNumber, null=True, blank=True, on_delete=models.PROTECT, related_name="binding", verbose_name=_("serial")
    )
    term = models.OneToOneField(LeaseTerm, on_delete=models.PROTECT, related_name="binding", verbose_name=_("term"))
    relay_group = models.ForeignKey(
        RelayGroup, on_delete=models.PROTECT, related_name="bindings", verbose_name=_("relay group")
    )
    created_at = models.DateTimeField(_("bound"), auto_now_add=True)

    class Meta:
        db_table = "bindings"
        ordering = ["-id"]
        verbose_name = _("binding")
        verbose_name_plural = _("bindings")

    def __str__(self) -> str:
        return f"{self.user_id}: {self.term_id}"


class Reminder(AppendOnly):
    """A reminder that was sent: once for each lease, end and number of days.

    The end is the lease's `renewed_to`: a renewal makes a new one, making up for an outage does not.
    """

    lease = models.ForeignKey(Lease, on_delete=models.PROTECT, related_name="reminders", verbose_name=_("lease"))
    lease_end: models.DateTimeField[datetime, datetime] = models.DateTimeField(_("for the end on"))
    days = models.PositiveSmallIntegerField(_("days before"))
    created_at = models.DateTimeField(_("sent"), auto_now_add=True)

    class Meta:
        db_table = "reminders"
        ordering = ["-id"]
        verbose_name = _("reminder")
        verbose_name_plural = _("reminders")
        constraints = [
            models.UniqueConstraint(fields=["lease", "lease_end", "days"], name="one_reminder_per_lease_end_and_days")
        ]

    def __str__(self) -> str:
        return f"{self.lease_id}: {self.days}"
