"""Watching the doors: strangers who try keys, devices that are shared, open relays that were found, doors that fail."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import redis
import structlog
from django.db.models import Count

from accounts.models import User
from derp_portal.lib.clock import now
from fleet.acl.doors import store
from fleet.models import AclLog, Alert

from .alerts import lasting, raise_alert, resolve_alert

log = structlog.get_logger(__name__)

SPAN = timedelta(hours=1)
MOST_UNKNOWN = 20
MOST_SOURCES = 10
MOST_IN_THE_OPEN = 20
ERRORS = "acl:errors"
DOOR = "door"


def count_error() -> None:
    """The door could not answer somebody."""
    try:
        store().incr(ERRORS)
    except redis.RedisError as error:
        log.warning("door_cache_unreachable", error=str(error))


def watch_doors() -> None:
    """Sweep: alerts for what the last hour's log shows, and their end."""
    recent = AclLog.objects.filter(created_at__gt=now() - SPAN).order_by()
    unknown = (
        recent.filter(reason=AclLog.Reason.NOT_LISTED).values("user").annotate(count=Count("node_key", distinct=True))
    )
    _say(Alert.Kind.UNKNOWN_KEYS, {row["user"]: row for row in unknown.filter(count__gte=MOST_UNKNOWN)})
    opened = recent.filter(reason=AclLog.Reason.OPEN).values("user").annotate(count=Count("node_key", distinct=True))
    _say(Alert.Kind.OPEN_RELAY, {row["user"]: row for row in opened.filter(count__gte=MOST_IN_THE_OPEN)})
    shared = (
        recent.filter(is_allowed=True).values("user", "node_key").annotate(count=Count("ip_address", distinct=True))
    )
    _say(Alert.Kind.MANY_SOURCES, {row["user"]: row for row in shared.filter(count__gte=MOST_SOURCES)})
    _say_errors()


def _say(kind: Alert.Kind, found: Mapping[int, Mapping[str, Any]]) -> None:
    names = dict(User.objects.filter(pk__in=found).values_list("id", "username"))
    for user_id, row in found.items():
        raise_alert(
            kind,
            severity=Alert.Severity.WARNING,
            subject=f"user:{user_id}",
            user=names[user_id],
            count=row["count"],
            node_key=row.get("node_key", ""),
        )
    for subject in lasting(kind).values_list("subject", flat=True).distinct():
        if int(subject.removeprefix("user:")) not in found:
            resolve_alert(kind, subject=subject)


def _say_errors() -> None:
    count: Any = store().getdel(ERRORS)
    if count:
        raise_alert(Alert.Kind.DOOR_ERRORS, severity=Alert.Severity.CRITICAL, subject=DOOR, count=int(count))
    else:
        resolve_alert(Alert.Kind.DOOR_ERRORS, subject=DOOR)
