"""Announcements, and who sees them: what their tests share."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from accounts import services
from accounts.models import Announcement, Notification, User
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
BEGUN = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=9)
LATER = datetime(2099, 1, 1, tzinfo=UTC)
TITLE, TEXT = "Works on Sunday", "Hong Kong will be away for an hour.\nYour relay moves meanwhile."


def publish(root: User, **fields: Any) -> Announcement:
    return services.publish_announcement(**{"title": TITLE, "text": TEXT, "actor": root, **fields})


def browser_of(user: User | None) -> Client:
    browser = Client(headers={"Accept-Language": "en"})
    if user is not None:
        browser.force_login(user)
    return browser


def sees(user: User | None, *, at: str = "/", title: str = TITLE) -> bool:
    """Whether it stands above the page."""
    return title in browser_of(user).get(at).text


def refusal(verb: Any, **arguments: Any) -> PortalError:
    with pytest.raises(PortalError) as refused:
        verb(**arguments)
    return refused.value


def written_to() -> list[str]:
    return sorted(Notification.objects.filter(kind="announcement").values_list("recipient", flat=True))


def publish_over(root: User) -> Announcement:
    moment = now().replace(microsecond=0)
    return Announcement.objects.create(
        title="Over", text="x", author=root, starts_at=moment - timedelta(hours=2), ends_at=moment - timedelta(hours=1)
    )
