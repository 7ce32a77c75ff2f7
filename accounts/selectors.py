"""Reading: what pages and the API show."""

from __future__ import annotations

from datetime import datetime

from allauth.account.internal.userkit import filter_users_by_email
from django.db.models import QuerySet
from django.utils.translation import gettext as _

from accounts.models import ApiToken, Browser, Notification, User
from derp_portal.lib.errors import PortalError


def user_by_address(email: str) -> User | None:
    """Whose address this is, if it is anybody's."""
    return next(iter(filter_users_by_email(email, prefer_verified=True)), None)


def user_by_id(user_id: int) -> User:
    """The user whom staff named by id. Raises PortalError `not_found`."""
    user = User.objects.filter(pk=user_id).first()
    if user is None:
        raise PortalError(_("There is no such user."), code="not_found", status=404)
    return user


def share_a_browser(a: User, b: User, since: datetime) -> bool:
    """Whether both have signed up or logged in by one and the same browser since then. One query."""
    seen = Browser.objects.filter(last_seen_at__gte=since).order_by()
    return seen.filter(user=a, digest__in=seen.filter(user=b).values("digest")).exists()


def tokens_of(user: User) -> QuerySet[ApiToken]:
    """A person's tokens, newest first, the ended ones too."""
    return ApiToken.objects.filter(user=user)


def notifications_of(user: User) -> QuerySet[Notification]:
    """What the portal wrote to a person, newest first, but for mail that opens the account."""
    return Notification.objects.filter(user=user, is_secret=False)


def notifications_for(user: User, *, everybody: bool) -> QuerySet[Notification]:
    """What `user` may list: their own messages or, for staff who asked for them, everybody's."""
    return Notification.objects.filter(is_secret=False) if everybody and user.is_staff else notifications_of(user)
