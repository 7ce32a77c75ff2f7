"""What a door goes by, from the cache where it is known and from the database where it is not.

One round trip tells of the door, of the device, and of the newest version of the policy that a change has announced:
what was stored by somebody who read the database before that change is older than it, and counts for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import redis
import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import F

from fleet.models import AclConfig, NodeKey, Relay, RelayGroup, Wanted
from fleet.monitoring.probe_keys import probe_node_keys

from .decision import Door, Mode, Standing

log = structlog.get_logger(__name__)

DOOR_SECONDS = 10
"""So long a door may answer by what the relay should have done: a stop or a new deadline reaches it then at the latest.

A change of the policy reaches it at once.
"""
DEVICE_SECONDS = 3600
FLOOR_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class Known:
    """A door, the portal's own keys that it lets in, and what is known of the device in question."""

    door: Door
    probe_keys: frozenset[str]
    standing: Standing


@cache
def store() -> redis.Redis:
    """The server behind the cache, spoken to plainly: what is kept here is read at every connection of a device."""
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=1, socket_connect_timeout=1)


def known_of(relay_hash: str, node_key: str) -> Known | None:
    """What is known of the relay with that admission hash, and of the device; None when there is no such relay."""
    names = _door_name(relay_hash), _device_name(relay_hash, node_key), _floor_name(relay_hash)
    try:
        told: Any = store().mget(names)
    except redis.RedisError as error:
        log.warning("door_cache_unreachable", error=str(error))
        return _from_database(relay_hash, node_key)
    door, device, floor = told
    least = int(floor or 0)
    if door is not None:
        found, probe_keys = _unpack(door)
        if found.version >= least:
            if node_key in probe_keys:
                return Known(found, probe_keys, Standing.UNKNOWN)
            version, _colon, standing = (device or b"").decode().partition(":")
            if version == str(found.version):
                return Known(found, probe_keys, Standing(standing))
    known = _from_database(relay_hash, node_key)
    if known is not None and known.door.version >= least:
        _remember(relay_hash, node_key, known)
    return known


def forget(group_id: int) -> None:
    """From the commit on the group's doors look anew whether their relays should run. Nothing depends on it."""
    hashes = list(Relay.objects.filter(group=group_id, released_at=None).values_list("admission_hash", flat=True))
    if hashes:
        transaction.on_commit(lambda: store().delete(*map(_door_name, hashes)), robust=True)


def raise_floor(user_id: int, version: int) -> None:
    """From the commit on no door of the user's goes by an older version."""
    hashes = list(Relay.objects.filter(owner=user_id, released_at=None).values_list("admission_hash", flat=True))
    transaction.on_commit(lambda: _raise_floor(hashes, version), robust=True)


def _raise_floor(hashes: Iterable[str], version: int) -> None:
    with store().pipeline(transaction=False) as pipe:
        for relay_hash in hashes:
            # Two changes may be announced in the wrong order: the higher one stands.
            pipe.eval(_RAISE, 1, _floor_name(relay_hash), str(version), str(FLOOR_SECONDS))
        pipe.execute()


_RAISE = """
if tonumber(redis.call("GET", KEYS[1]) or "0") < tonumber(ARGV[1]) then
    redis.call("SET", KEYS[1], ARGV[1], "EX", ARGV[2])
end
"""


def _from_database(relay_hash: str, node_key: str) -> Known | None:
    relay = (
        Relay.objects.filter(admission_hash=relay_hash, released_at=None)
        .only("code", "owner_id", "wanted", "admission_secret")
        .annotate(
            run_until=F("group__run_until"), fails_open=F("group__fails_open"), is_owner_active=F("owner__is_active")
        )
        .first()
    )
    if relay is None:
        return None
    facts: Any = relay
    policy = AclConfig.objects.filter(user=relay.owner_id).defer("devices").order_by("-version").first()
    door = Door(
        relay_id=relay.pk,
        owner_id=relay.owner_id,
        should_run=relay.wanted == Wanted.RUNNING and facts.is_owner_active,
        run_until=facts.run_until,
        version=policy.version if policy else 0,
        mode=Mode(policy.mode) if policy else Mode.CLOSED,
        networks=tuple(policy.networks) if policy else (),
        learns_until=policy.learns_until if policy else None,
        most_devices=most_devices_of(relay.owner_id) if policy and policy.mode == Mode.LEARN else None,
        delegate_url=policy.delegate_url if policy else "",
        fails_open=facts.fails_open,
    )
    return Known(door, frozenset(probe_node_keys(relay)), standing_of(relay.owner_id, node_key))


def standing_of(user_id: int, node_key: str) -> Standing:
    """What the user has said of the device."""
    removed = NodeKey.objects.filter(owner=user_id, key=node_key).values_list("is_removed", flat=True).first()
    if removed is None:
        return Standing.UNKNOWN
    return Standing.REMOVED if removed else Standing.LISTED


def most_devices_of(user_id: int) -> int | None:
    """How many devices the user's plans allow him to list, all together; None without a limit."""
    limits = list(
        RelayGroup.objects.filter(owner=user_id, released_at=None)
        .exclude(wanted=Wanted.ABSENT)
        .values_list("max_devices", flat=True)
    )
    known = [limit for limit in limits if limit is not None]
    return sum(known) if limits and len(known) == len(limits) else None


def _remember(relay_hash: str, node_key: str, known: Known) -> None:
    device = f"{known.door.version}:{known.standing}"
    try:
        with store().pipeline(transaction=False) as pipe:
            pipe.set(_door_name(relay_hash), _pack(known), ex=DOOR_SECONDS)
            pipe.set(_device_name(relay_hash, node_key), device, ex=DEVICE_SECONDS)
            pipe.execute()
    except redis.RedisError as error:
        log.warning("door_cache_unreachable", error=str(error))


def _pack(known: Known) -> str:
    door = known.door
    learns_until = door.learns_until.timestamp() if door.learns_until else None
    return json.dumps(
        [
            *(door.relay_id, door.owner_id, door.should_run, door.run_until.timestamp(), door.version, door.mode),
            *(door.networks, learns_until, door.most_devices, door.delegate_url, door.fails_open),
            sorted(known.probe_keys),
        ]
    )


def _unpack(text: bytes) -> tuple[Door, frozenset[str]]:
    relay_id, owner_id, should_run, run_until, version, mode, networks, learns_until, *rest = json.loads(text)
    most_devices, delegate_url, fails_open, probe_keys = rest
    door = Door(
        relay_id=relay_id,
        owner_id=owner_id,
        should_run=should_run,
        run_until=datetime.fromtimestamp(run_until, UTC),
        version=version,
        mode=Mode(mode),
        networks=tuple(networks),
        learns_until=datetime.fromtimestamp(learns_until, UTC) if learns_until else None,
        most_devices=most_devices,
        delegate_url=delegate_url,
        fails_open=fails_open,
    )
    return door, frozenset(probe_keys)


def _door_name(relay_hash: str) -> str:
    return f"acl:door:{relay_hash}"


def _floor_name(relay_hash: str) -> str:
    return f"acl:floor:{relay_hash}"


def _device_name(relay_hash: str, node_key: str) -> str:
    return f"acl:device:{relay_hash}:{node_key}"
