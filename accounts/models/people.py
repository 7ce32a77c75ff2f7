"""People: names, roles, how the portal talks to them."""

from __future__ import annotations

from typing import Any, ClassVar
from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from accounts.validators import UsernameValidator, validate_timezone
from derp_portal.lib import clock

LANGUAGES = [("en", _("English")), ("zh-hans", _("Simplified Chinese"))]


class UserManager(BaseUserManager["User"]):
    """Makes users with a hashed password. Sign-up goes through `services.register`, not through here."""

    def create_user(self, username: str, email: str, password: str | None = None, **fields: Any) -> User:
        """A saved user; without a password, one who cannot log in by password.

        The address is kept in small letters: allauth looks for no others.
        """
        user = self.model(username=self.model.normalize_username(username), email=email.strip().lower(), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, username: str, email: str, password: str | None = None, **fields: Any) -> User:
        """An administrator with every permission."""
        return self.create_user(username, email, password, **fields, role=User.Role.ADMIN, is_superuser=True)

    def get_by_natural_key(self, username: str | None) -> User:
        """The user of that name, whatever its case."""
        return self.get(username__iexact=username)


class User(AbstractBaseUser, PermissionsMixin):
    """A person. Never deleted: closing an account is `is_active = False` and `closed_at`."""

    class Role(models.TextChoices):
        """What a person is to the portal; fine-grained staff rights are Django permissions."""

        USER = "user", _("User")
        RESELLER = "reseller", _("Reseller")
        ADMIN = "admin", _("Administrator")

    username = models.CharField(
        _("username"),
        max_length=64,
        unique=True,
        validators=[UsernameValidator()],
        error_messages={"unique": _("A user with that username already exists.")},
    )
    email = models.EmailField(_("e-mail address"))
    role = models.CharField(_("role"), max_length=16, choices=Role, default=Role.USER)
    rental_expiry = models.DateTimeField(
        _("rental expiry"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("The latest end over the user's active leases; kept in step by them."),
    )
    language = models.CharField(
        _("language"), max_length=10, choices=LANGUAGES, blank=True, default="", help_text=_("Empty: as the browser.")
    )
    timezone = models.CharField(
        _("time zone"),
        max_length=64,
        blank=True,
        default="",
        validators=[validate_timezone],
        help_text=_("Empty: the operator's."),
    )
    is_active = models.BooleanField(_("active"), default=True)
    closed_at = models.DateTimeField(pgettext_lazy("account", "closed at"), null=True, blank=True, editable=False)
    signup_ref = models.CharField(
        _("reference at sign-up"),
        max_length=200,
        blank=True,
        default="",
        editable=False,
        help_text=_("What the browser brought along; the rooms above know what it means."),
    )
    session_epoch = models.PositiveIntegerField(_("session epoch"), default=0, editable=False)
    created_at = models.DateTimeField(_("created at"), default=clock.now, editable=False)

    USERNAME_FIELD = "username"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = ["email"]

    objects: ClassVar[UserManager] = UserManager()

    class Meta:
        db_table = "users"
        verbose_name = _("user")
        verbose_name_plural = _("users")
        ordering = ("-created_at", "-id")
        constraints = (
            models.UniqueConstraint(
                Lower("username"),
                name="one_user_per_username",
                violation_error_message=_("A user with that username already exists."),
            ),
            models.UniqueConstraint(
                Lower("email"),
                name="one_user_per_email",
                violation_error_message=_("A user with that e-mail address already exists."),
            ),
            models.CheckConstraint(condition=Q(role__in=["user", "reseller", "admin"]), name="user_role_is_known"),
        )
        indexes = (models.Index(fields=["id"], condition=~Q(signup_ref=""), name="users_with_a_reference"),)

    def __str__(self) -> str:
        return self.username

    @property
    def is_staff(self) -> bool:
        """Whether the person may enter the admin."""
        return self.role == self.Role.ADMIN

    @property
    def zone(self) -> ZoneInfo:
        """The zone in which this person reads times."""
        return ZoneInfo(self.timezone or settings.TIME_ZONE)

    def _get_session_auth_hash(self, secret: str | bytes | None = None) -> str:
        # Django ends sessions when the password changes; raising the epoch ends them without that.
        value = f"{self.password}:{self.session_epoch}"
        return salted_hmac("accounts.User.session", value, secret=secret, algorithm="sha256").hexdigest()
