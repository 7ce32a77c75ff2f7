"""API tokens."""

from __future__ import annotations

from datetime import datetime

from django.db import models
from django.utils.translation import gettext_lazy as _

from derp_portal.lib import clock

from .people import User


class ApiToken(models.Model):
    """A bearer token. Only its SHA-256 is kept; 256 random bits need no slow hash."""

    class Scope(models.TextChoices):
        """What a token opens. `staff` is given to administrators only, `reseller` to resellers and administrators."""

        ACCOUNT = "account", _("Account")
        SERIALS = "serials", _("Serial numbers")
        RELAYS = "relays", _("Relays")
        ORDERS = "orders", _("Orders")
        RESELLER = "reseller", _("Reseller")
        STAFF = "staff", _("Staff")

        def is_for(self, user: User) -> bool:
            """Whether tokens of the user may open it as things are now."""
            if self == ApiToken.Scope.RESELLER:
                return user.is_staff or user.role == User.Role.RESELLER
            return user.is_staff or self != ApiToken.Scope.STAFF

    user = models.ForeignKey(User, on_delete=models.PROTECT, related_name="api_tokens", verbose_name=_("user"))
    name = models.CharField(_("name"), max_length=80)
    prefix = models.CharField(_("prefix"), max_length=16, editable=False)
    digest = models.CharField(_("digest"), max_length=64, unique=True, editable=False)
    is_login = models.BooleanField(
        _("made by a login"), default=False, editable=False, help_text=_("Ends with the password that made it.")
    )
    scopes = models.JSONField(_("scopes"), default=list)
    expires_at = models.DateTimeField(_("expires at"), null=True, blank=True)
    last_used_at = models.DateTimeField(_("last used at"), null=True, blank=True, editable=False)
    revoked_at = models.DateTimeField(_("revoked at"), null=True, blank=True, editable=False)
    created_at = models.DateTimeField(_("created at"), default=clock.now, editable=False)

    class Meta:
        db_table = "api_tokens"
        verbose_name = _("API token")
        verbose_name_plural = _("API tokens")
        ordering = ("-created_at", "-id")

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    def is_live(self, now: datetime | None = None) -> bool:
        """Whether the token opens anything at `now`, which is the present when not given."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > (now or clock.now()))

    @property
    def state(self) -> str:
        """`live`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "live" if self.is_live() else "expired"
