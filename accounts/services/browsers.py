"""By which browsers somebody signed up and logged in: a digest and two moments, and neither for ever."""

from __future__ import annotations

from accounts.models import Browser, User
from derp_portal.lib import clock
from derp_portal.lib.secrets import fingerprint

KEPT_DAYS = 400
MOST_BROWSERS = 500
"""Of one person. The one that was not seen for longest is forgotten first: so many that nobody drives out the one that
they share with somebody by throwing browsers away.
"""


def note_browser(*, user: User, name: str) -> None:
    """`user` signed up or logged in by the browser of that name. Noting it again, or twice at once, makes one row."""
    moment = clock.now()
    Browser.objects.bulk_create(
        [Browser(user=user, digest=fingerprint(name), first_seen_at=moment, last_seen_at=moment)],
        update_conflicts=True,
        unique_fields=["user", "digest"],
        update_fields=["last_seen_at"],
    )
    latest = Browser.objects.filter(user=user).order_by("-last_seen_at", "-id")
    if surplus := list(latest.values_list("pk", flat=True)[MOST_BROWSERS : 2 * MOST_BROWSERS]):
        Browser.objects.filter(pk__in=surplus).delete()


def forget_browsers() -> int:
    """Drop browsers that nobody has come by for 400 days; the number dropped."""
    old = Browser.objects.filter(last_seen_at__lt=clock.now() - clock.days(KEPT_DAYS))
    # A look takes no write lock, and nearly always there is nothing to drop.
    return old.delete()[0] if old.exists() else 0
