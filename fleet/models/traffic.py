"""What relays carried, as they count it themselves, and how much each group may use."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from derp_portal.lib.append_only import AppendOnly

from .hosts import Server
from .relays import Relay, RelayGroup


class Meter(models.Model):
    """The last reading of one container's own counters: what the next one is compared with.

    A relay has one for each of its generations, since two of its containers run side by side during a move.
    `counts_since` tells its processes apart. The reading moves in the same transaction that books the difference, so
    that a reading taken twice, or lost with its worker, never counts twice.
    """

    relay = models.ForeignKey(Relay, on_delete=models.CASCADE, related_name="meters", verbose_name=_("relay"))
    generation = models.PositiveIntegerField(_("generation"))
    counts_since = models.FloatField(_("counts since"), default=0, help_text=_("Unix seconds"))
    raw_received = models.PositiveBigIntegerField(_("received, raw"), default=0)
    raw_sent = models.PositiveBigIntegerField(_("sent, raw"), default=0)
    read_at = models.DateTimeField(_("last read"), null=True, blank=True)
    next_read_at = models.DateTimeField(
        _("to be read at"), null=True, blank=True, help_text=_("Empty = its container is gone.")
    )
    own_received = models.PositiveBigIntegerField(
        _("own bytes not yet taken off"), default=0, help_text=_("What the portal's probes sent; nobody pays for it.")
    )
    own_sent = models.PositiveBigIntegerField(_("own bytes received, not yet taken off"), default=0)
    booked_bytes = models.PositiveBigIntegerField(
        _("booked"), default=0, help_text=_("All that this meter has added to the books.")
    )
    # Where the books, this process's counters and the engine's stood when they were last compared.
    engine_bytes = models.PositiveBigIntegerField(_("engine's counter"), null=True, blank=True)
    engine_since = models.FloatField(default=0, editable=False)
    engine_booked = models.PositiveBigIntegerField(default=0, editable=False)
    failures = models.PositiveIntegerField(_("failures in a row"), default=0)
    error = models.CharField(_("error"), max_length=40, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = _("meter")
        verbose_name_plural = _("meters")
        constraints = [
            models.UniqueConstraint(fields=["relay", "generation"], name="one_meter_per_container"),
        ]
        indexes = [
            models.Index(fields=["next_read_at"], condition=Q(next_read_at__isnull=False), name="meters_to_be_read")
        ]

    def __str__(self) -> str:
        return f"{self.relay_id}-{self.generation}"


class Traffic(models.Model):
    """Payload bytes of one relay on one server in one stretch of time. What has no row was measured and is nothing.

    Upload is from customers to the relay, download from the relay to customers; relayed bytes appear in both.
    """

    class Span(models.TextChoices):
        READING = "reading", _("reading")
        HOUR = "hour", _("hour")
        DAY = "day", _("day")

    relay = models.ForeignKey(Relay, on_delete=models.PROTECT, related_name="traffic", verbose_name=_("relay"))
    server = models.ForeignKey(
        Server, null=True, blank=True, on_delete=models.SET_NULL, related_name="traffic", verbose_name=_("server")
    )
    span = models.CharField(_("span"), max_length=8, choices=Span.choices)
    starts_at = models.DateTimeField(_("from"))
    upload_bytes = models.PositiveBigIntegerField(_("uploaded"), default=0)
    download_bytes = models.PositiveBigIntegerField(_("downloaded"), default=0)
    unmeasured_seconds = models.PositiveIntegerField(
        _("seconds not measured"), default=0, help_text=_("What passed then is unknown, not nothing.")
    )

    class Meta:
        db_table = "traffic"
        ordering = ["-starts_at", "-id"]
        verbose_name = _("traffic")
        verbose_name_plural = _("traffic")
        constraints = [
            models.UniqueConstraint(
                fields=["relay", "server", "span", "starts_at"],
                condition=~Q(span="reading"),
                name="one_bucket_per_place_and_span",
            ),
        ]
        indexes = [
            models.Index(fields=["relay", "span", "starts_at"], name="traffic_of_a_relay"),
            models.Index(fields=["server", "span", "starts_at"], name="traffic_of_a_server"),
            models.Index(fields=["span", "starts_at"], name="traffic_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.relay_id} {self.span} {self.starts_at:%Y-%m-%d %H:%M}"


class QuotaPeriod(models.Model):
    """One stretch of time over which a group's traffic is counted against its quota."""

    group = models.ForeignKey(RelayGroup, on_delete=models.CASCADE, related_name="periods", verbose_name=_("group"))
    starts_at = models.DateTimeField(_("from"))
    ends_at = models.DateTimeField(_("to"))
    used_bytes = models.PositiveBigIntegerField(_("used"), default=0, help_text=_("Uploaded and downloaded together"))
    noticed_percent = models.PositiveSmallIntegerField(_("told of"), default=0, editable=False)
    # Set with the bytes that crossed a threshold, cleared by whoever has acted on it: a dead worker leaves it to do.
    is_due = models.BooleanField(default=False, editable=False)

    class Meta:
        ordering = ["-starts_at"]
        verbose_name = _("quota period")
        verbose_name_plural = _("quota periods")
        constraints = [
            models.UniqueConstraint(fields=["group", "starts_at"], name="one_quota_period_per_start"),
            models.CheckConstraint(condition=Q(ends_at__gt=F("starts_at")), name="quota_period_has_length"),
        ]
        indexes = [models.Index(fields=["id"], condition=Q(is_due=True), name="periods_to_be_judged")]

    def __str__(self) -> str:
        return f"{self.group_id} {self.starts_at:%Y-%m-%d}"


class TrafficPack(AppendOnly):
    """More traffic for one quota period. Packs are added and never changed."""

    group = models.ForeignKey(RelayGroup, on_delete=models.PROTECT, related_name="packs", verbose_name=_("group"))
    period = models.ForeignKey(QuotaPeriod, on_delete=models.PROTECT, related_name="packs", verbose_name=_("period"))
    extra_bytes = models.PositiveBigIntegerField(_("bytes"))
    key = models.CharField(_("key"), max_length=120, unique=True, help_text=_("The same key adds its pack once."))
    note = models.CharField(_("note"), max_length=200, blank=True)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("added by"),
    )
    created_at = models.DateTimeField(_("added"), auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = _("traffic pack")
        verbose_name_plural = _("traffic packs")
        constraints = [models.CheckConstraint(condition=Q(extra_bytes__gt=0), name="a_pack_holds_something")]

    def __str__(self) -> str:
        return f"{self.group_id} +{self.extra_bytes}"


class UserLimit(models.Model):
    """What one customer may use, whatever the plans of his groups say."""

    owner = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="traffic_limit", verbose_name=_("owner")
    )
    quota_bytes = models.PositiveBigIntegerField(
        _("quota"), null=True, blank=True, help_text=_("Bytes for each group and period. Empty = no limit.")
    )
    note = models.CharField(_("why"), max_length=200, blank=True)
    updated_at = models.DateTimeField(_("changed"), auto_now=True)

    class Meta:
        verbose_name = _("limit of a user")
        verbose_name_plural = _("limits of users")

    def __str__(self) -> str:
        return str(self.owner)
