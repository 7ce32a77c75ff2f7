"""Relay groups: what the rooms above may want of the fleet."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import record
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from derp_portal.lib.secrets import fingerprint, new_secret
from fleet.acl.doors import forget
from fleet.acl.versions import ensure_policy
from fleet.derp.identity import make_identity, new_host_name
from fleet.engines import fleet_image
from fleet.models import MoveReason, Port, Relay, RelayEvent, RelayGroup, Server, Wanted
from fleet.models.relays import REGION_ID_FIRST, REGION_ID_LAST
from fleet.selectors import derp_map_of, map_url_of
from fleet.words import trouble

from .events import relay_event
from .moves import give_up_moves, set_up_elsewhere, start_move
from .outages import close_outage, note_trouble
from .placement import NoPlace, candidates, place, sibling_addresses
from .quotas import usage_of
from .wake import wake_server

OVER_QUOTA = "over_quota"
"""The reason of a group that stands for its quota alone: it starts by itself once there is some again."""

FETCH_NOTED_EVERY = timedelta(minutes=10)
CODE_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"


@dataclass(frozen=True, slots=True)
class GroupTerms:
    """What a grant gives: how many relays, where, how fast, how much.

    `region_ids` empty means anywhere; `speed` is bytes per second, 0 for no limit; `quota_bytes` None for no
    limit within `period` (start, end), or within each calendar month if `is_monthly`. `priority` decides who gets a
    place first where room is short. `fails_open` says what a silent portal means at the doors; `max_devices` is how
    many the owner may list, None for any number.
    """

    relay_count: int = 1
    region_ids: tuple[int, ...] = ()
    speed: int = 0
    quota_bytes: int | None = None
    period: tuple[datetime, datetime] | None = None
    is_monthly: bool = False
    priority: int = 0
    fails_open: bool = True
    max_devices: int | None = None


def create_group(*, owner: User, label: str, run_until: datetime, terms: GroupTerms, actor: User | None) -> RelayGroup:
    """Make a group that should run until `run_until`, with its relays and a map URL of its own."""
    with transaction.atomic():
        token = new_secret()
        group = RelayGroup.objects.create(
            owner=owner, label=label, run_until=run_until, map_token=token, map_token_hash=fingerprint(token)
        )
        policy = ensure_policy(user=owner)
        group.servers.set(Server.objects.filter(pk__in=policy.servers))
        record(actor=actor, event="group.created", target=group, run_until=run_until.isoformat())
        _apply_terms(group, terms)
        ensure_relays(group_id=group.pk)
    return group


def set_group(
    *,
    group_id: int,
    wanted: Wanted,
    reason: str = "",
    run_until: datetime | None = None,
    terms: GroupTerms | None = None,
    actor: User | None,
) -> RelayGroup:
    """Say what the group should do from now on. Saying the same twice changes nothing.

    One that has used up its quota stands although it is wanted running; it starts when there is some again.

    A group that was released stays so: raises ValueError, since its relays' identities are gone.
    """
    with transaction.atomic():
        group = RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
        if group.released_at:
            raise ValueError(f"group {group_id} has been released")
        before = group.wanted
        if run_until is not None:
            group.run_until = run_until
            group.save(update_fields=["run_until"])
        if terms is not None:
            _apply_terms(group, terms)
        if wanted == Wanted.RUNNING and usage_of([group])[group.pk].is_over:
            want(group, Wanted.STOPPED, OVER_QUOTA)
        else:
            want(group, wanted, reason)
        if group.wanted == before == Wanted.RUNNING and terms is not None:
            ensure_relays(group_id=group.pk)
        if group.wanted != before:
            record(actor=actor, event=f"group.{group.wanted}", target=group, reason=group.wanted_reason)
    return group


def want(group: RelayGroup, wanted: Wanted, reason: str) -> None:
    """Write down, for the locked group and its relays, what they should do, and wake their servers."""
    changed = group.wanted != wanted
    is_over_quota = reason == OVER_QUOTA
    group.wanted, group.wanted_reason = wanted, reason
    group.over_quota_since = (group.over_quota_since or now()) if is_over_quota else None
    group.save(update_fields=["wanted", "wanted_reason", "over_quota_since"])
    live = group.relays.filter(released_at=None)
    live.exclude(wanted=wanted).update(wanted=wanted, next_try_at=None, tries=0)
    forget(group.pk)
    if wanted != Wanted.RUNNING:
        close_outage(group)
    elif changed:
        ensure_relays(group_id=group.pk)
    for server_id in set(live.exclude(server=None).values_list("server_id", flat=True)):
        wake_server(server_id)


def limit_servers(*, group_id: int, server_ids: Collection[int], actor: User | None) -> RelayGroup:
    """Let the group's relays run on these servers only, on every server if none is named; the others move there now.

    Raises PortalError `released` for a group that has none any more, `no_place` when a relay that would have to move
    finds no room on those servers. Then nothing was changed.
    """
    with transaction.atomic():
        group = RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
        if group.released_at:
            raise PortalError(_("Its relays have been released."), code="released", status=409)
        group.servers.set(server_ids)
        live = group.relays.filter(released_at=None).select_related("server").order_by("slot")
        for relay in live.exclude(server=None).exclude(server__in=server_ids) if server_ids else ():
            relay.group = group
            move = start_move(relay, reason=MoveReason.HAND)
            if not set_up_elsewhere(move, relay):
                raise PortalError(
                    _("%(relay)s cannot move to any of these servers: %(reason)s Nothing was changed.")
                    % {"relay": relay.code, "reason": trouble(move.waits_for)},
                    code="no_place",
                    status=409,
                    reason=move.waits_for,
                )
        ensure_relays(group_id=group.pk)
        names = sorted(group.servers.values_list("name", flat=True))
        record(actor=actor, event="group.servers_limited", target=group, servers=names)
    return group


def _apply_terms(group: RelayGroup, terms: GroupTerms) -> None:
    start, end = terms.period or (None, None)
    group.relay_count = terms.relay_count
    group.speed_bytes_per_second = terms.speed
    group.quota_bytes = terms.quota_bytes
    group.period_start, group.period_end = start, end
    group.is_monthly, group.priority = terms.is_monthly, terms.priority
    group.fails_open, group.max_devices = terms.fails_open, terms.max_devices
    fields = ["relay_count", "speed_bytes_per_second", "quota_bytes", "period_start", "period_end"]
    group.save(update_fields=[*fields, "is_monthly", "priority", "fails_open", "max_devices"])
    group.regions.set(terms.region_ids)


def ensure_relays(*, group_id: int) -> list[Relay]:
    """Bring the group to its number of relays and find a place for those that have none.

    The primary always gets a row, placed or waiting; a standby only once a second server can take it, since
    two relays on one address would fall together. Surplus standbys are released.
    """
    with transaction.atomic():
        group = RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
        if group.released_at or group.wanted != Wanted.RUNNING:
            return []
        relays = list(group.relays.filter(released_at=None).order_by("slot"))
        for surplus in [relay for relay in relays if relay.slot >= max(group.relay_count, 1)]:
            release_one(surplus)
            relays.remove(surplus)
        slots = {relay.slot for relay in relays}
        for slot in range(max(group.relay_count, 1)):
            if slot not in slots:
                relay = _add_relay(group, slot)
                if relay:
                    relays.append(relay)
        for relay in relays:
            if relay.server_id is None:
                _try_to_place(relay, group)
        return relays


def _add_relay(group: RelayGroup, slot: int) -> Relay | None:
    """A new relay in that slot; None when it is a standby and there is no second place for it yet."""
    try:
        if slot > 0:
            # Asked before an identity is made, which takes its time.
            candidates(group, apart_from=sibling_addresses(group.pk))
        with transaction.atomic():
            relay = _new_relay(group, slot)
            try:
                place(relay)
            except NoPlace as error:
                if slot > 0:
                    raise
                note_trouble(relay, error.code)
            return relay
    except NoPlace:
        return None


def _try_to_place(relay: Relay, group: RelayGroup) -> None:
    relay.group = group
    try:
        place(relay)
    except NoPlace as error:
        note_trouble(relay, error.code)


def _taken_region_ids(group: RelayGroup) -> set[int]:
    """Ids the new relay should not have: those of its owner's maps, or of its own map alone once those run out.

    A Headscale that polls two maps of one customer would let the later one replace the earlier.
    """
    of_owner = Relay.objects.filter(owner_id=group.owner_id, released_at=None)
    taken = set(of_owner.values_list("region_id", flat=True))
    if len(taken) <= REGION_ID_LAST - REGION_ID_FIRST:
        return taken
    return set(of_owner.filter(group=group).values_list("region_id", flat=True))


def _new_relay(group: RelayGroup, slot: int) -> Relay:
    code = "r" + "".join(secrets.choice(CODE_ALPHABET) for _ in range(9))
    host_name = new_host_name(code)
    identity = make_identity(host_name)
    secret = new_secret()
    used = _taken_region_ids(group)
    return Relay.objects.create(
        code=code,
        group=group,
        owner_id=group.owner_id,
        slot=slot,
        region_id=next(number for number in range(REGION_ID_FIRST, REGION_ID_LAST + 1) if number not in used),
        host_name=host_name,
        derper_key=identity.private_key,
        certificate=identity.cert_pem,
        certificate_key=identity.key_pem,
        certificate_ends_at=identity.not_after,
        pin=identity.pin,
        admission_secret=secret,
        admission_hash=fingerprint(secret),
        debug_key=new_secret(),
        # By name, so that a new version of the portal replaces no relay before a roll-out does.
        image=fleet_image(),
    )


def release_group(*, group_id: int, actor: User | None) -> RelayGroup:
    """Let everything go for good: containers, ports, identities. The history and the last map stay.

    Releasing twice is fine.
    """
    with transaction.atomic():
        group = RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
        if group.released_at:
            return group
        # Headscale may poll for ever, and a map without regions would stop it from starting.
        group.last_map = derp_map_of(group) or group.last_map
        group.wanted, group.wanted_reason, group.released_at = Wanted.ABSENT, "released", now()
        group.save(update_fields=["last_map", "wanted", "wanted_reason", "released_at"])
        close_outage(group)
        for relay in group.relays.filter(released_at=None):
            release_one(relay)
        record(actor=actor, event="group.released", target=group)
    return group


def release_one(relay: Relay) -> None:
    """Give the relay's place back; its container is then nobody's and the next pass reaps it."""
    server_id = relay.server_id
    relay_event(relay, RelayEvent.Kind.RELEASED)
    Port.objects.filter(relay=relay).delete()
    give_up_moves(relay)
    relay.wanted, relay.released_at = Wanted.ABSENT, now()
    relay.trouble_code = relay.trouble_detail = ""
    relay.trouble_since = None
    relay.save(update_fields=["wanted", "released_at", "trouble_code", "trouble_detail", "trouble_since"])
    if server_id:
        wake_server(server_id)


def restart_in_place(relay: Relay) -> None:
    """Give the relay (group locked) a fresh container where it is: same identity, same port, sessions are cut."""
    relay.generation += 1
    relay.next_try_at, relay.tries = None, 0
    relay.save(update_fields=["generation", "next_try_at", "tries"])
    relay_event(relay, RelayEvent.Kind.RESTARTED)
    if relay.server_id:
        wake_server(relay.server_id)


def rotate_map_token(*, group_id: int, actor: User) -> str:
    """A new secret map URL; the old one answers 404 from now on. Returns its address."""
    with transaction.atomic():
        group = RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
        token = new_secret()
        group.map_token, group.map_token_hash = token, fingerprint(token)
        group.save(update_fields=["map_token", "map_token_hash"])
        record(actor=actor, event="group.map_url_rotated", target=group)
    return map_url_of(group)


def note_map_fetched(group: RelayGroup) -> None:
    """Somebody polls the map, so changes reach him by themselves. Written at most every ten minutes."""
    moment = now()
    if group.released_at is None and (
        group.map_fetched_at is None or moment - group.map_fetched_at > FETCH_NOTED_EVERY
    ):
        RelayGroup.objects.filter(pk=group.pk).update(map_fetched_at=moment)
        # Whoever polls has what there is; whoever pushes too has told us more.
        RelayGroup.objects.filter(pk=group.pk, taken_by="").update(taken_by=RelayGroup.Taken.POLL, taken_at=moment)


def revoke_map_token(*, group_id: int, actor: User) -> None:
    """Turn the secret map URL off until a new one is made."""
    with transaction.atomic():
        group = RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
        group.map_token, group.map_token_hash = None, None
        group.save(update_fields=["map_token", "map_token_hash"])
        record(actor=actor, event="group.map_url_revoked", target=group)
