"""Devices that are not listed and were turned away: their owner is told once of each, and may list it with one tap."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from django.core import signing
from django.db import transaction
from django.db.models import Count, F, Q
from django.urls import reverse

from accounts.models import User
from accounts.services import notify
from derp_portal.lib.clock import now
from fleet.models import AclLog, Knock, NodeKey

from .decision import Reason

MOST_KNOCKS = 100
"""So many wait for a user's word at once: whoever knocks with ever new keys fills no table. All of it is in the log."""
MOST_ROWS = 1000
"""So many a user has together with those that were put aside, which stay as long as their devices keep coming."""
MAILS_A_DAY = 5
TAP_DAYS = 7
_SALT = "fleet.acl.knock"


def note_knocks(rows: Iterable[AclLog]) -> None:
    """Count who was turned away for not being listed, and tell the owners of those that are new."""
    turned_away: dict[tuple[int, str], list[AclLog]] = {}
    for row in rows:
        if row.reason == Reason.NOT_LISTED:
            turned_away.setdefault((row.user_id, row.node_key), []).append(row)
    for (user_id, node_key), lines in sorted(turned_away.items()):
        _note(user_id, node_key, lines)


def _note(user_id: int, node_key: str, lines: list[AclLog]) -> None:
    latest = max(lines, key=lambda line: line.created_at)
    where = {"ip_address": latest.ip_address, "location": latest.location, "last_at": latest.created_at}
    mine = Knock.objects.filter(user=user_id)
    if mine.filter(node_key=node_key).update(times=F("times") + len(lines), **where):
        return
    kept = mine.aggregate(waiting=Count("id", filter=Q(dismissed_at=None)), all=Count("id"))
    if kept["waiting"] >= MOST_KNOCKS or kept["all"] >= MOST_ROWS:
        return
    if NodeKey.objects.filter(owner=user_id, key=node_key).exists():
        return
    with transaction.atomic():
        knock, is_new = Knock.objects.get_or_create(
            user_id=user_id,
            node_key=node_key,
            defaults={"times": len(lines), "first_at": min(line.created_at for line in lines), **where},
        )
        if is_new:
            _tell(knock)


def _tell(knock: Knock) -> None:
    """Mail, but a few a day only: the others are on the page."""
    since = now() - timedelta(days=1)
    newer = Knock.objects.filter(user=knock.user_id, first_at__gt=since).exclude(pk=knock.pk).count()
    if newer >= MAILS_A_DAY:
        return
    notify(
        kind="knock",
        dedup_key=f"knock:{knock.user_id}:{knock.node_key}",
        user=User.objects.get(pk=knock.user_id),
        context={"knock": knock},
        button_url=reverse("knock_approve", args=[tap_of(knock)]),
        is_secret=True,
    )


def tap_of(knock: Knock) -> str:
    """What stands in the mail's link: whoever has it may list this device, and nothing else."""
    return signing.dumps([knock.user_id, knock.node_key], salt=_SALT)


def knock_of(tap: str) -> Knock | None:
    """The knock of a link; None for one that is forged, too old, or seen to."""
    try:
        user_id, node_key = signing.loads(tap, salt=_SALT, max_age=timedelta(days=TAP_DAYS))
    except (signing.BadSignature, ValueError, TypeError):
        return None
    return Knock.objects.filter(user=user_id, node_key=node_key).select_related("user").first()


def forget_old_knocks() -> None:
    """Sweep: who has not come for a month is forgotten, and so is who is listed by now."""
    Knock.objects.filter(last_at__lt=now() - timedelta(days=30)).delete()


def waiting_knocks(user: User) -> int:
    """How many devices wait for the user's word."""
    return Knock.objects.filter(user=user, dismissed_at=None).count()
