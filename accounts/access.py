"""The gates: one for each kind of object. Strangers get 404, so that they cannot learn what exists."""

from __future__ import annotations

from django.http import HttpRequest
from django.shortcuts import get_object_or_404

from accounts.models import ApiToken, Notification, User
from accounts.selectors import notifications_of, tokens_of


def signed_in(request: HttpRequest) -> User:
    """Who is signed in, for views behind `login_required` and in the admin."""
    assert isinstance(request.user, User)
    return request.user


def token_for(user: User, token_id: int) -> ApiToken:
    """The user's own token. Raises Http404."""
    return get_object_or_404(tokens_of(user), pk=token_id)


def notification_for(user: User, notification_id: int) -> Notification:
    """A message to the user. Raises Http404."""
    return get_object_or_404(notifications_of(user), pk=notification_id)
