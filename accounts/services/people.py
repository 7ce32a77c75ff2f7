"""Signing up, profiles, roles, and the end of an account."""

from __future__ import annotations

from datetime import datetime

from allauth.account.adapter import get_adapter
from allauth.account.internal.userkit import filter_users_by_email
from allauth.account.models import EmailAddress
from allauth.core import context as allauth_context
from django.contrib.sessions.models import Session
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import translation
from django.utils.translation import gettext as _

from accounts.models import LANGUAGES, User
from accounts.services.audit import record
from accounts.services.tokens import revoke_all, revoke_logins
from accounts.validators import validate_timezone
from accounts.wakeups import signed_up_with_a_reference
from derp_portal.lib import clock
from derp_portal.lib.errors import PortalError, invalid_input

SESSIONS_AT_ONCE = 1000
"""A portal that has never dropped any has very many, and one that writes so long would hold others up."""


def register(
    *, username: str, email: str, password: str, language: str = "", signup_ref: str = "", ip: str | None = None
) -> User:
    """Sign somebody up and send the mail that confirms the address; they cannot log in before.

    `language` is that of the reader when empty; `signup_ref` is kept for the rooms above as it came. Raises
    PortalError `invalid_input` with `fields`, a list of `{"field", "message"}`.
    """
    username, email = username.strip(), email.strip().lower()
    if errors := _sign_up_errors(username, email, password, language):
        raise invalid_input(errors)
    user = User(username=username, email=email, language=_known_language(language or translation.get_language() or ""))
    user.set_password(password)
    user.signup_ref = signup_ref[:200]
    try:
        with transaction.atomic():
            user.save()
            address = EmailAddress.objects.create(user=user, email=email, primary=True, verified=False)
            signed_up(user=user, ip=ip)
            address.send_confirmation(allauth_context.request, signup=True)
    except IntegrityError as error:
        # Somebody took the name or the address since we looked.
        raise invalid_input([("username", _("A user with that username or e-mail address already exists."))]) from error
    return user


def signed_up(*, user: User, ip: str | None = None) -> None:
    """Note in the audit trail that `user` came to be; both doors, the page and the API, call it."""
    record(actor=user, event="user.registered", target=user, ip=ip, language=user.language)
    if user.signup_ref:
        signed_up_with_a_reference.send(sender=User, user=user)


def take_signup_ref(*, user_id: int) -> str:
    """The reference that somebody signed up with, "" when there is none left: whoever takes it keeps what it said."""
    with transaction.atomic():
        user = User.objects.select_for_update(no_key=True).get(pk=user_id)
        reference, user.signup_ref = user.signup_ref, ""
        if reference:
            user.save(update_fields=["signup_ref"])
    return reference


def update_profile(
    *, user_id: int, actor: User | None, language: str | None = None, timezone: str | None = None
) -> User:
    """Change how the portal talks to a person; None leaves a field as it is, "" goes back to the default.

    Raises ValidationError for a time zone nobody knows, User.DoesNotExist.
    """
    if timezone:
        validate_timezone(timezone)
    with transaction.atomic():
        user = User.objects.select_for_update(no_key=True).get(pk=user_id)
        wanted = {"language": None if language is None else _known_language(language), "timezone": timezone}
        changes = {name: value for name, value in wanted.items() if value is not None and value != getattr(user, name)}
        if changes:
            for name, value in changes.items():
                setattr(user, name, value)
            user.save(update_fields=list(changes))
            record(actor=actor, event="user.profile_changed", target=user, **changes)
    return user


def set_rental_expiry(*, user_id: int, expiry: datetime | None) -> None:
    """Keep `users.rental_expiry` in step with the user's leases; called in the transaction that changes them.

    Raises User.DoesNotExist. The lease's own audit entry tells the story.
    """
    if not User.objects.filter(pk=user_id).update(rental_expiry=expiry):
        raise User.DoesNotExist(f"no user {user_id}")


def change_role(*, user_id: int, role: str, actor: User | None) -> User:
    """Make somebody a customer, a reseller or an administrator. The same role again is fine.

    Raises PortalError `own_role` for one's own role: the last administrator must not lock everybody out.
    """
    role = User.Role(role)
    with transaction.atomic():
        user = User.objects.select_for_update(no_key=True).get(pk=user_id)
        if user.role == role:
            return user
        if actor is not None and actor.pk == user.pk:
            raise PortalError(_("You cannot change your own role; ask another administrator."), code="own_role")
        before, user.role = user.role, role
        changed = ["role"]
        if role != User.Role.ADMIN and user.is_superuser:
            user.is_superuser = False
            changed.append("is_superuser")
        user.save(update_fields=changed)
        record(actor=actor, event="user.role_changed", target=user, before=before, after=role)
    return user


def deactivate_user(*, user_id: int, actor: User | None) -> User:
    """Switch an account off: no login, tokens revoked, sessions ended. Doing it twice is fine; nothing is deleted."""
    with transaction.atomic():
        user = User.objects.select_for_update(no_key=True).get(pk=user_id)
        if not user.is_active:
            return user
        if actor is not None and actor.pk == user.pk and user.is_staff:
            raise PortalError(_("You cannot switch off your own administrator account."), code="own_account")
        user.is_active = False
        user.closed_at = clock.now()
        user.session_epoch += 1
        user.save(update_fields=["is_active", "closed_at", "session_epoch"])
        revoked = revoke_all(user_id=user.pk)
        record(actor=actor, event="user.deactivated", target=user, revoked_tokens=revoked)
    return user


def reactivate_user(*, user_id: int, actor: User | None) -> User:
    """Let a person in again. Their sessions and tokens stay ended."""
    with transaction.atomic():
        user = User.objects.select_for_update(no_key=True).get(pk=user_id)
        if user.is_active:
            return user
        user.is_active, user.closed_at = True, None
        user.save(update_fields=["is_active", "closed_at"])
        record(actor=actor, event="user.reactivated", target=user)
    return user


def note_new_password(*, user_id: int, actor: User | None) -> None:
    """There is a new password: whoever knew the old one is logged out of the API too. Tokens made by hand stay."""
    with transaction.atomic():
        user = User.objects.select_for_update(no_key=True).get(pk=user_id)
        revoked = revoke_logins(user_id=user.pk)
        record(actor=actor, event="user.password_changed", target=user, revoked_tokens=revoked)


def end_sessions(*, user_id: int, actor: User | None) -> None:
    """Sign a person out of every browser. API tokens stay."""
    with transaction.atomic():
        User.objects.filter(pk=user_id).update(session_epoch=F("session_epoch") + 1)
        record(actor=actor, event="user.sessions_ended", target=User.objects.get(pk=user_id))


def forget_sessions() -> int:
    """Drop sessions that have expired, as `clearsessions` does, but so many in one go; the number dropped."""
    old = Session.objects.filter(expire_date__lt=clock.now()).order_by("expire_date")
    keys = list(old.values_list("pk", flat=True)[:SESSIONS_AT_ONCE])
    return Session.objects.filter(pk__in=keys).delete()[0] if keys else 0


def _known_language(code: str) -> str:
    """`code` as we store it; "" for a language the portal does not speak."""
    return code if code in dict(LANGUAGES) else ""


def _sign_up_errors(username: str, email: str, password: str, language: str) -> list[tuple[str, str]]:
    adapter = get_adapter()
    errors: list[tuple[str, str]] = []
    minimum, maximum = 3, User._meta.get_field("username").max_length or 64
    if not minimum <= len(username) <= maximum:
        message = _("A username has %(minimum)d to %(maximum)d characters.")
        errors.append(("username", message % {"minimum": minimum, "maximum": maximum}))
    else:
        try:
            adapter.clean_username(username)
        except ValidationError as error:
            errors += [("username", message) for message in error.messages]
    try:
        User._meta.get_field("email").clean(email, None)
        if filter_users_by_email(email):
            errors.append(("email", _("A user with that e-mail address already exists.")))
    except ValidationError as error:
        errors += [("email", message) for message in error.messages]
    try:
        adapter.clean_password(password, User(username=username, email=email))
    except ValidationError as error:
        errors += [("password", message) for message in error.messages]
    if language and not _known_language(language):
        errors.append(("language", _("The portal does not speak this language.")))
    return errors
