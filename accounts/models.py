"""Users, API tokens, the notification outbox and the audit trail."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext_lazy as _

from accounts.validators import UsernameValidator, validate_timezone
from derp_portal.lib import clock
from derp_portal.lib.append_only import AppendOnly

LANGUAGES = [("en", _("English")), ("zh-hans", _("Simplified Chinese"))]


class UserManager(BaseUserManager["User"]):
    """Makes users with a hashed password. Sign-up goes through `services.register`, not through here."""

    def create_user(self, username: str, email: str, password: str | None = None, **fields: Any) -> User:
        """A saved user; without a password, one who cannot log in by password."""
        user = self.model(
            username=self.model.normalize_username(username), email=self.normalize_email(email).strip(), **fields
        )
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
    closed_at = models.DateTimeField(_("closed at"), null=True, blank=True, editable=False)
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


class Notification(models.Model):
    """One message of the outbox, rendered when it was written, so that it says what was true then."""

    class Status(models.TextChoices):
        """Where the message is on its way."""

        QUEUED = "queued", _("Queued")
        SENDING = "sending", _("Sending")
        SENT = "sent", _("Sent")
        FAILED = "failed", _("Failed")

    user = models.ForeignKey(
        User, on_delete=models.PROTECT, null=True, blank=True, related_name="notifications", verbose_name=_("user")
    )
    recipient = models.EmailField(_("recipient"))
    kind = models.CharField(_("kind"), max_length=64)
    dedup_key = models.CharField(_("deduplication key"), max_length=200, unique=True)
    language = models.CharField(_("language"), max_length=10)
    subject = models.CharField(_("subject"), max_length=255)
    body_text = models.TextField(_("text"))
    body_html = models.TextField(_("HTML"), blank=True)
    is_secret = models.BooleanField(
        _("secret"),
        default=False,
        help_text=_("Carries a link that opens the account: shown to nobody, erased when sent."),
    )
    status = models.CharField(_("status"), max_length=8, choices=Status, default=Status.QUEUED)
    attempts = models.PositiveSmallIntegerField(_("attempts"), default=0)
    next_attempt_at = models.DateTimeField(_("next attempt at"), default=clock.now)
    claimed_until = models.DateTimeField(_("claimed until"), null=True, blank=True)
    sent_at = models.DateTimeField(_("sent at"), null=True, blank=True)
    last_error = models.TextField(_("last error"), blank=True)
    created_at = models.DateTimeField(_("created at"), default=clock.now)

    class Meta:
        db_table = "notifications"
        verbose_name = _("notification")
        verbose_name_plural = _("notifications")
        ordering = ("-created_at", "-id")
        indexes = (
            models.Index(
                fields=["next_attempt_at"], condition=Q(status__in=["queued", "sending"]), name="notifications_due"
            ),
            models.Index(fields=["user", "-created_at"], name="notifications_of_user"),
        )
        constraints = (
            models.CheckConstraint(
                condition=Q(status__in=["queued", "sending", "sent", "failed"]), name="notification_status_is_known"
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind} → {self.recipient}"


class AuditEntry(AppendOnly):
    """Who did what to which object, when and from where. Written only by `services.record`."""

    actor = models.ForeignKey(
        User, on_delete=models.PROTECT, null=True, blank=True, related_name="audit_entries", verbose_name=_("actor")
    )
    actor_label = models.CharField(_("actor's name"), max_length=150)
    event = models.CharField(_("event"), max_length=64)
    target_type = models.CharField(_("target type"), max_length=100, blank=True)
    target_id = models.CharField(_("target id"), max_length=64, blank=True)
    target_label = models.CharField(_("target"), max_length=200, blank=True)
    ip = models.GenericIPAddressField(_("IP address"), null=True, blank=True)
    data = models.JSONField(_("details"), default=dict, encoder=DjangoJSONEncoder)
    created_at = models.DateTimeField(_("when"), default=clock.now)

    class Meta:
        db_table = "audit_log"
        verbose_name = _("audit entry")
        verbose_name_plural = _("audit trail")
        ordering = ("-created_at", "-id")
        indexes = (
            models.Index(fields=["target_type", "target_id", "-created_at"], name="audit_log_target"),
            models.Index(fields=["-created_at"], name="audit_log_time"),
        )

    def __str__(self) -> str:
        return f"{self.event} {self.target_label}".strip()


class TaskFailure(models.Model):
    """A background task that ended in an error it did not foresee. Kept for a time, then forgotten."""

    task = models.CharField(_("task"), max_length=120)
    task_id = models.CharField(_("task id"), max_length=64)
    arguments = models.CharField(_("arguments"), max_length=200, blank=True)
    error = models.CharField(_("error"), max_length=200)
    traceback = models.TextField(_("where"), blank=True)
    created_at = models.DateTimeField(_("when"), default=clock.now)

    class Meta:
        db_table = "task_failures"
        verbose_name = _("task failure")
        verbose_name_plural = _("task failures")
        ordering = ("-created_at", "-id")
        indexes = (models.Index(fields=["-created_at"], name="task_failures_time"),)

    def __str__(self) -> str:
        return f"{self.task}: {self.error}"
