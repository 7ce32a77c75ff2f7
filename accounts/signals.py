"""What people do on allauth's pages, told to the audit trail. (Sign-up is told by the adapter and the API.)"""

from __future__ import annotations

from typing import Any

from allauth.account import signals
from allauth.account.models import EmailAddress
from django.contrib.auth.signals import user_logged_in
from django.dispatch import receiver
from django.http import HttpRequest

from accounts.device_cookie import browser_of
from accounts.models import User
from accounts.services import note_browser, note_new_password, record


@receiver(user_logged_in)
def note_login(user: User, request: HttpRequest | None = None, **_kwargs: Any) -> None:
    """Somebody logged in by a browser."""
    record(actor=user, event="user.logged_in", target=user)
    if request is not None:
        note_browser(user=user, name=browser_of(request))


@receiver(signals.email_confirmed)
def note_confirmation(email_address: EmailAddress, **_kwargs: Any) -> None:
    """Somebody opened the link in the confirmation mail."""
    record(actor=email_address.user, event="user.email_confirmed", target=email_address.user, email=email_address.email)


@receiver(signals.email_changed)
def note_new_address(user: User, to_email_address: EmailAddress, **_kwargs: Any) -> None:
    """The primary address is another one now."""
    record(actor=user, event="user.email_changed", target=user, email=to_email_address.email)


@receiver([signals.password_changed, signals.password_set, signals.password_reset])
def end_logins_of_the_old_password(user: User, **_kwargs: Any) -> None:
    """There is a new password."""
    note_new_password(user_id=user.pk, actor=user)
