"""Every answer of every door: kept in memory of the cache server at once, in `acl_logs` a few seconds later.

A line has a name of its own before it is written, so that a batch written twice, by a worker that died after writing
it or by two at once, is there once.
"""

from __future__ import annotations

import ipaddress
import json
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
import structlog
from django.conf import settings
from iptocc import country_code

from derp_portal.lib.clock import now
from fleet.models import AclLog, NodeKey, Relay
from fleet.monitoring.retention import delete_in_batches

from .decision import Decision, Door, Reason
from .doors import store
from .knocks import note_knocks
from .versions import learn_devices

log = structlog.get_logger(__name__)

WAITING = "acl:log"
TAKEN = "acl:log:taken:"
BATCH = 1000
SEEN_EVERY = timedelta(minutes=1)


def note(door: Door, decision: Decision, *, node_key: str, source: str) -> None:
    """Put the answer on its way to the log. With the cache server away it is written down directly."""
    line = [uuid.uuid4().hex, door.owner_id, door.relay_id, node_key, source[:64], door.version]
    text = json.dumps([*line, decision.is_allowed, decision.reason, now().timestamp()])
    try:
        store().rpush(WAITING, text)
    except redis.RedisError as error:
        log.warning("door_log_unreachable", error=str(error))
        write([text])


def write_down() -> int:
    """Sweep: write what waits, and what a worker that died had taken. Returns how many lines there were."""
    kept = store()
    taken = [name.decode() for name in kept.scan_iter(f"{TAKEN}*")]
    if kept.exists(WAITING):
        name = f"{TAKEN}{uuid.uuid4().hex}"
        # All of it at once, and by one worker only: what comes now starts a new list.
        if _take(kept, name):
            taken.append(name)
    written = 0
    for name in taken:
        lines: Any = kept.lrange(name, 0, -1)
        for first in range(0, len(lines), BATCH):
            write(lines[first : first + BATCH])
        written += len(lines)
        kept.delete(name)
    return written


def _take(kept: redis.Redis, name: str) -> bool:
    try:
        kept.rename(WAITING, name)
    except redis.ResponseError:
        # Somebody else was faster.
        return False
    return True


def write(lines: Iterable[str | bytes]) -> None:
    """Write these lines, and list the devices that a learning door let in. Lines that are there already stay."""
    rows = [_row(json.loads(line)) for line in lines]
    live = set(Relay.objects.filter(pk__in={row.relay_id for row in rows}).values_list("id", flat=True))
    AclLog.objects.bulk_create([row for row in rows if row.relay_id in live], ignore_conflicts=True)
    _list_learned(rows)
    _note_seen(rows)
    note_knocks(rows)


def _row(told: list[Any]) -> AclLog:
    key, user_id, relay_id, node_key, source, version, is_allowed, reason, moment = told
    address = _address(source)
    return AclLog(
        key=uuid.UUID(key),
        user_id=user_id,
        relay_id=relay_id,
        node_key=node_key,
        ip_address=address,
        location=country_of(address),
        acl_version=version,
        is_allowed=is_allowed,
        reason=reason,
        created_at=datetime.fromtimestamp(moment, UTC),
    )


def _list_learned(rows: Iterable[AclLog]) -> None:
    learned: dict[int, dict[str, None]] = {}
    for row in rows:
        if row.reason == Reason.LEARNED:
            learned.setdefault(row.user_id, {})[row.node_key] = None
    for user_id, node_keys in sorted(learned.items()):
        learn_devices(user_id, node_keys)


def _note_seen(rows: Iterable[AclLog]) -> None:
    """Devices that got in were seen. To the minute: a device that comes and goes is written once."""
    latest: dict[tuple[int, str], datetime] = {}
    for row in rows:
        if row.is_allowed:
            pair = (row.user_id, row.node_key)
            latest[pair] = max(latest.get(pair, row.created_at), row.created_at)
    users, keys = {user for user, _key in latest}, {key for _user, key in latest}
    stale = []
    for device in NodeKey.objects.filter(owner__in=users, key__in=keys).only("owner_id", "key", "last_seen_at"):
        moment = latest.get((device.owner_id, device.key))
        if moment and (device.last_seen_at is None or moment - device.last_seen_at > SEEN_EVERY):
            device.last_seen_at = moment
            stale.append(device)
    NodeKey.objects.bulk_update(stale, ["last_seen_at"])


def _address(source: str) -> str | None:
    try:
        # Which network card it came in by is nobody's business, and no address to the database.
        return str(ipaddress.ip_address(source.partition("%")[0]))
    except ValueError:
        return None


def country_of(address: str | None) -> str:
    """The two letters of the country an address is registered in, "" for none known."""
    return (country_code(address) or "") if address else ""


def waiting() -> Iterator[int]:
    """How many lines wait in each list, for whoever looks after the portal."""
    kept = store()
    for name in (WAITING, *(name.decode() for name in kept.scan_iter(f"{TAKEN}*"))):
        yield int(kept.llen(name))


def forget_old_answers() -> None:
    """Sweep: what is older than operators want to keep."""
    before = now() - timedelta(days=settings.ACL_LOG_DAYS)
    delete_in_batches(AclLog.objects.filter(created_at__lt=before).order_by("created_at"))
