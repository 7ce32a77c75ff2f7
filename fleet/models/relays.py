"""Relay groups (what one grant runs), relays, and the devices that may use them."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from derp_portal.lib.secrets import SecretTextField

from .hosts import Region, Server

REGION_ID_FIRST, REGION_ID_LAST = 950, 998
"""Region ids we hand out: in the range Tailscale reserves for users' own relays, clear of Headscale's embedded 999."""


class Wanted(models.TextChoices):
    RUNNING = "running", _("running")
    STOPPED = "stopped", _("stopped, place kept")
    ABSENT = "absent", _("gone")


class RelayGroup(models.Model):
    """The relays that run for one grant, and the derp map that names them.

    Whoever grants (a lease, or an operator by hand) writes the wanted state and the deadline here and nothing
    else; relays stop when `run_until` passes even if everything above has failed.
    """

    class Taken(models.TextChoices):
        """How its owner's tailnet got the map."""

        PASTE = "paste", _("pasted")
        POLL = "poll", _("polled")
        PUSH = "push", _("pushed")

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="relay_groups", verbose_name=_("owner")
    )
    label = models.CharField(_("label"), max_length=80, blank=True)
    wanted = models.CharField(_("wanted"), max_length=8, choices=Wanted.choices, default=Wanted.RUNNING)
    wanted_reason = models.CharField(_("reason"), max_length=40, blank=True)
    run_until = models.DateTimeField(_("runs until"))
    relay_count = models.PositiveSmallIntegerField(_("relays"), default=1)
    regions = models.ManyToManyField(
        Region,
        blank=True,
        related_name="+",
        verbose_name=_("regions wished for"),
        help_text=_("Tried first; when they have no room, another region is taken."),
    )
    servers = models.ManyToManyField(
        Server,
        blank=True,
        related_name="+",
        verbose_name=_("servers allowed"),
        help_text=_("None chosen = every server. Its relays run nowhere else, failover included."),
    )
    priority = models.SmallIntegerField(
        _("priority"), default=0, help_text=_("Where room is short, higher ones get a place first.")
    )
    quarantined_at = models.DateTimeField(
        _("quarantined"),
        null=True,
        blank=True,
        help_text=_("Its relays are not moved by themselves, so that an attack stays where it is."),
    )
    quarantine_note = models.CharField(_("why"), max_length=200, blank=True)
    speed_bytes_per_second = models.PositiveBigIntegerField(_("speed limit"), default=0, help_text=_("0 = no limit"))
    quota_bytes = models.PositiveBigIntegerField(_("quota"), null=True, blank=True, help_text=_("Empty = no limit"))
    period_start = models.DateTimeField(_("quota period from"), null=True, blank=True)
    period_end = models.DateTimeField(_("quota period to"), null=True, blank=True)
    is_monthly = models.BooleanField(
        _("counts by calendar month"), default=False, help_text=_("Else over the whole quota period.")
    )
    over_quota_since = models.DateTimeField(_("over its quota since"), null=True, blank=True, editable=False)
    fails_open = models.BooleanField(
        _("lets everybody in while the portal does not answer"),
        default=True,
        help_text=_("Else those that were let in before, and nobody else."),
    )
    max_devices = models.PositiveIntegerField(
        _("devices"), null=True, blank=True, help_text=_("How many may be listed; empty = no limit.")
    )
    map_token = SecretTextField(blank=True, null=True)
    map_token_hash = models.CharField(max_length=64, unique=True, null=True, blank=True)
    map_fetched_at = models.DateTimeField(_("map URL last fetched"), null=True, blank=True, editable=False)
    omits_default = models.BooleanField(
        _("without Tailscale's own relays"), default=False, help_text=_("Only while there is a standby.")
    )
    taken_by = models.CharField(
        _("map handed over by"), max_length=8, choices=Taken.choices, blank=True, editable=False
    )
    taken_digest = models.CharField(max_length=64, blank=True, editable=False)
    taken_at = models.DateTimeField(_("map handed over"), null=True, blank=True, editable=False)
    last_map = models.JSONField(null=True, blank=True, editable=False)
    released_at = models.DateTimeField(_("released"), null=True, blank=True)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = _("relay group")
        verbose_name_plural = _("relay groups")
        indexes = [
            models.Index(fields=["run_until"], condition=Q(wanted="running"), name="running_groups_by_deadline"),
            models.Index(fields=["id"], condition=Q(over_quota_since__isnull=False), name="groups_over_quota"),
        ]

    def __str__(self) -> str:
        return self.label or f"#{self.pk}"


class Relay(models.Model):
    """One DERP relay: its lasting identity, where it should run, and what was last seen of it."""

    class Observed(models.TextChoices):
        UNKNOWN = "unknown", _("not seen yet")
        ABSENT = "absent", _("absent")
        CREATED = "created", pgettext_lazy("container", "created")
        RUNNING = "running", _("running")
        RESTARTING = "restarting", _("restarting")
        EXITED = "exited", _("exited")

    code = models.CharField(_("code"), max_length=16, unique=True)
    group = models.ForeignKey(RelayGroup, on_delete=models.PROTECT, related_name="relays", verbose_name=_("group"))
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="relays", verbose_name=_("owner")
    )
    slot = models.PositiveSmallIntegerField(_("slot"), help_text=_("0 is the primary, 1 and up are standbys."))
    server = models.ForeignKey(
        Server, null=True, blank=True, on_delete=models.PROTECT, related_name="relays", verbose_name=_("server")
    )
    region_id = models.PositiveSmallIntegerField(_("region id in the map"))

    # Identity: made once, moves with the relay.
    host_name = models.CharField(_("host name"), max_length=253)
    derper_key = SecretTextField()
    certificate = models.TextField(_("certificate"))
    certificate_key = SecretTextField()
    certificate_ends_at = models.DateTimeField(_("certificate ends"))
    pin = models.CharField(_("pin"), max_length=80)
    # The certificate's successor, announced before it counts.
    next_certificate = models.TextField(_("next certificate"), blank=True, editable=False)
    next_certificate_key = SecretTextField(blank=True, null=True, editable=False)
    next_pin = models.CharField(_("next pin"), max_length=80, blank=True, editable=False)
    next_ends_at = models.DateTimeField(_("next certificate ends"), null=True, blank=True, editable=False)
    next_switch_at = models.DateTimeField(_("certificate switched"), null=True, blank=True, editable=False)
    admission_secret = SecretTextField()
    admission_hash = models.CharField(max_length=64, unique=True)
    debug_key = SecretTextField()

    wanted = models.CharField(_("wanted"), max_length=8, choices=Wanted.choices, default=Wanted.RUNNING)
    generation = models.PositiveIntegerField(_("generation"), default=1)
    image = models.CharField(
        _("relay image"), max_length=200, blank=True, help_text=_("Empty = the fleet's present one.")
    )

    # Written by the reconciler alone.
    observed_state = models.CharField(_("observed"), max_length=12, choices=Observed.choices, default=Observed.UNKNOWN)
    observed_generation = models.PositiveIntegerField(_("observed generation"), default=0)
    container_id = models.CharField(_("container id"), max_length=80, blank=True)
    started_at = models.DateTimeField(_("started"), null=True, blank=True)
    applied_speed = models.PositiveBigIntegerField(_("speed limit in force"), default=0)
    applied_deadline = models.DateTimeField(_("deadline known to its host"), null=True, blank=True)
    observed_at = models.DateTimeField(_("observed at"), null=True, blank=True)
    trouble_code = models.CharField(_("trouble"), max_length=40, blank=True)
    trouble_detail = models.TextField(_("trouble in detail"), blank=True)
    trouble_since = models.DateTimeField(_("in trouble since"), null=True, blank=True)
    tries = models.PositiveIntegerField(_("attempts"), default=0, editable=False)
    next_try_at = models.DateTimeField(_("next attempt at"), null=True, blank=True, editable=False)

    upload_bytes = models.PositiveBigIntegerField(_("uploaded"), default=0, help_text=_("From customers to the relay"))
    download_bytes = models.PositiveBigIntegerField(_("downloaded"), default=0)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    released_at = models.DateTimeField(_("released"), null=True, blank=True)

    class Meta:
        db_table = "user_containers"
        ordering = ["group_id", "slot", "id"]
        verbose_name = _("relay")
        verbose_name_plural = _("relays")
        constraints = [
            models.UniqueConstraint(
                fields=["group", "slot"], condition=Q(released_at=None), name="one_live_relay_per_slot"
            ),
            models.UniqueConstraint(
                fields=["group", "region_id"], condition=Q(released_at=None), name="one_live_relay_per_region_id"
            ),
            models.CheckConstraint(
                condition=Q(region_id__gte=REGION_ID_FIRST, region_id__lte=REGION_ID_LAST),
                name="region_id_is_ours_to_give",
            ),
        ]
        indexes = [
            models.Index(fields=["server"], condition=Q(released_at=None), name="live_relays_by_server"),
            models.Index(fields=["certificate_ends_at"], condition=Q(released_at=None), name="certificates_by_end"),
            models.Index(fields=["next_switch_at"], condition=Q(released_at=None), name="certificates_to_switch"),
            models.Index(fields=["id"], condition=Q(server=None, wanted="running"), name="relays_waiting_for_a_place"),
        ]

    def __str__(self) -> str:
        return self.code

    @property
    def container_name(self) -> str:
        """Code and generation: creating the same one twice collides instead of duplicating."""
        return f"{self.code}-{self.generation}"

    @property
    def is_running(self) -> bool:
        """True when the host last showed this very generation running."""
        return self.observed_state == self.Observed.RUNNING and self.observed_generation == self.generation


class NodeKey(models.Model):
    """A device its owner has listed, or has removed so that it does not come back by itself."""

    class Source(models.TextChoices):
        """How it came to be listed."""

        HAND = "hand", _("by hand")
        LEARNED = "learned", _("came while the door was learning")
        APPROVED = "approved", _("knocked and was approved")
        SYNCED = "synced", _("from your control server")

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="node_keys", verbose_name=_("owner")
    )
    key = models.CharField(_("node key"), max_length=72, help_text=_("nodekey: and 64 hexadecimal digits"))
    name = models.CharField(_("name"), max_length=80, blank=True)
    source = models.CharField(_("source"), max_length=8, choices=Source.choices, default=Source.HAND)
    control_server = models.ForeignKey(
        "fleet.ControlServer",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="devices",
        verbose_name=_("control server"),
    )
    remote_id = models.CharField(_("id at its control server"), max_length=80, blank=True, editable=False)
    is_removed = models.BooleanField(_("removed"), default=False)
    last_seen_at = models.DateTimeField(_("last seen"), null=True, blank=True, editable=False)
    created_at = models.DateTimeField(_("added"), auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = _("device")
        verbose_name_plural = _("devices")
        constraints = [models.UniqueConstraint(fields=["owner", "key"], name="a_device_is_listed_once")]

    def __str__(self) -> str:
        return self.name or f"{self.key[:20]}…"
