"""Setting who may use a customer's relays. Every change is a version; the newest is in force."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from datetime import timedelta

from django.db import transaction
from django.db.models import OuterRef, Subquery
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import record
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from derp_portal.lib.outbound import OutboundFailure, check_url
from fleet.acl import delegate
from fleet.acl.decision import Decision, Door, Mode, Reason, decide, parse_networks
from fleet.acl.door_log import write_down
from fleet.acl.doors import most_devices_of, standing_of
from fleet.acl.versions import MOST_DEVICES, Policy, add_version, current_policy, listed_devices, room_for
from fleet.derp.keys import parse_node_key
from fleet.models import AclConfig, NodeKey, RelayGroup, Server, Wanted
from fleet.words import outbound_words

from .groups import limit_servers, restart_in_place

MOST_NETWORKS = 100
SWEEP = 200
LOOKED_BACK = timedelta(days=60)
"""Doors close without the sweep; it writes that down, also after the portal was away for as long as this."""
LEARNED = "learned"
"""The reason of the version in which a policy closed by itself."""


def change_policy(
    *,
    user_id: int,
    change: Callable[[Policy], Policy],
    source: NodeKey.Source = NodeKey.Source.HAND,
    superseded: Collection[str] = (),
    reason: str,
    actor: User | None,
) -> AclConfig:
    """Make `change` of the policy in force a new version, and bring devices, servers and live sessions in line.

    A change that changes nothing gives the version in force. New devices came from `source`; `superseded` keys
    belong to no device any more, so that nobody has to be cut off for them. Raises PortalError: `too_many_devices`,
    `too_many_networks`, `no_end` for learning without an end ahead, `not_found` for servers that are not there, and
    whatever `limit_servers` raises; then nothing was changed.
    """
    with transaction.atomic():
        user = User.objects.select_for_update(no_key=True).get(pk=user_id)
        present = current_policy(user_id)
        before = policy_now(user_id, present) if present else None
        after = change(before or Policy())
        after = _tidy(after)
        if before == after and present is not None:
            return present
        _check(after, before or Policy(), most_devices_of(user_id))
        version = add_version(
            user,
            after,
            after=present.version if present else 0,
            before=before or Policy(),
            source=source,
            reason=reason,
            author=actor,
        )
        if before is None or before.servers != after.servers:
            _limit_servers(user, after.servers, actor)
        if before is not None and after.shuts_out(before, superseded=superseded):
            _end_sessions(user)
        record(actor=actor, event="acl.changed", target=user, version=version.version, mode=after.mode)
    return version


def policy_now(user_id: int, version: AclConfig) -> Policy:
    """What that version, the one in force, says with the devices that are listed now."""
    return replace(Policy.of(version), devices=listed_devices(user_id))


def _tidy(policy: Policy) -> Policy:
    """Only a learning policy has an end, only a delegating one an address; what is listed is not removed."""
    removed = frozenset(sorted(policy.removed - policy.devices.keys())[:MOST_DEVICES])
    return replace(
        policy,
        learns_until=policy.learns_until if policy.mode == Mode.LEARN else None,
        delegate_url=policy.delegate_url if policy.mode == Mode.DELEGATE else "",
        removed=removed,
    )


def roll_back(*, user_id: int, version: int, actor: User | None) -> AclConfig:
    """Set again what an older version said. Learning is not begun again, which would open the doors anew.

    Of a version that was learning it is closed, with what it had learned by its end. On which servers the relays may
    run is staff's word: who sets an own version again leaves that as it is.

    Raises PortalError `not_found`, and what `change_policy` raises.
    """
    old = AclConfig.objects.filter(user=user_id, version=version).first()
    if old is None:
        raise PortalError(_("There is no such version."), code="not_found", status=404)
    policy = Policy.of(old)
    if policy.mode == Mode.LEARN:
        following = AclConfig.objects.filter(user=user_id, version=version + 1).first()
        learned = Policy.of(following).devices if following else listed_devices(user_id)
        policy = replace(policy, mode=Mode.CLOSED, devices={**learned, **policy.devices})
    is_by_staff = actor is not None and actor.is_staff and actor.pk != user_id

    def change(present: Policy) -> Policy:
        return policy if is_by_staff else replace(policy, servers=present.servers)

    reason = _("As in version %(version)s") % {"version": version}
    return change_policy(user_id=user_id, change=change, reason=reason, actor=actor)


def check_delegate(url: str) -> None:
    """Raises PortalError `invalid_url` or `private_address` unless a customer may have us ask there."""
    try:
        check_url(url)
    except OutboundFailure as failure:
        raise PortalError(outbound_words(failure.code), code=failure.code, status=422) from failure


def networks_of(lines: str) -> tuple[str, ...]:
    """What was typed, one network a line. Raises PortalError `invalid_network` naming the line."""
    try:
        return parse_networks(lines.splitlines())
    except ValueError as error:
        said = _("“%(text)s” is not a network. It should read like 203.0.113.0/24 or 2001:db8::/32.")
        raise PortalError(said % {"text": str(error)[:60]}, code="invalid_network", status=422) from error


def node_keys_of(keys: Iterable[str]) -> list[str]:
    """Node keys as they are stored, each once. Raises PortalError `invalid_node_key` naming the first that is none."""
    found: dict[str, None] = {}
    for key in keys:
        try:
            found[parse_node_key(key.strip())] = None
        except ValueError as error:
            said = _("“%(text)s” is not a node key. It should read nodekey: followed by 64 characters (0-9, a-f).")
            raise PortalError(said % {"text": key[:80]}, code="invalid_node_key", status=422) from error
    return list(found)


def would_admit(*, user_id: int, node_key: str, source: str) -> tuple[Decision, int]:
    """What the door of a running relay of the user's would say now, and by which version (0 = none yet).

    Where plans differ in what silence of the user's own verifier means, it is the answer of the stricter one.
    """
    version = current_policy(user_id)
    policy = Policy.of(version) if version else Policy()
    groups = RelayGroup.objects.filter(owner=user_id, released_at=None).exclude(wanted=Wanted.ABSENT)
    door = Door(
        relay_id=0,
        owner_id=user_id,
        should_run=True,
        run_until=now() + timedelta(days=1),
        mode=policy.mode,
        networks=policy.networks,
        learns_until=policy.learns_until,
        most_devices=most_devices_of(user_id),
        delegate_url=policy.delegate_url,
        fails_open=all(groups.values_list("fails_open", flat=True)),
    )
    standing = standing_of(user_id, node_key)
    decision = decide(door, source=source, standing=standing, is_probe=False, moment=now())
    decision = decision or delegate.ask(door, node_key=node_key, source=source)
    most = door.most_devices
    if decision.reason == Reason.LEARNED and most is not None and not room_for(user_id, most):
        decision = Decision.no(Reason.FULL)
    return decision, version.version if version else 0


def _check(policy: Policy, before: Policy, limit: int | None) -> None:
    most = MOST_DEVICES if limit is None else min(limit, MOST_DEVICES)
    # Whoever has more than a new plan allows keeps them, and may take some off.
    if len(policy.devices) > most and policy.devices.keys() - before.devices.keys():
        said = _("At most %(most)s devices can be listed. Nothing was added.") % {"most": most}
        raise PortalError(said, code="too_many_devices")
    if policy.mode == Mode.DELEGATE:
        check_delegate(policy.delegate_url)
    if len(policy.networks) > MOST_NETWORKS:
        said = _("At most %(most)s networks can be listed. Nothing was changed.") % {"most": MOST_NETWORKS}
        raise PortalError(said, code="too_many_networks")
    if policy.mode == Mode.LEARN and (policy.learns_until is None or policy.learns_until <= now()):
        raise PortalError(_("Learning needs an end that lies ahead."), code="no_end", status=422)
    known = set(Server.objects.filter(pk__in=policy.servers).values_list("id", flat=True))
    if missing := sorted(set(policy.servers) - known):
        said = _("There is no server %(id)s.") % {"id": missing[0]}
        raise PortalError(said, code="not_found", status=404)


def _limit_servers(user: User, servers: tuple[int, ...], actor: User | None) -> None:
    # All of them before the first server: who holds one of the groups may wait for a server that an earlier one took.
    groups = RelayGroup.objects.select_for_update(no_key=True).filter(owner=user, released_at=None).order_by("pk")
    for group_id in list(groups.values_list("id", flat=True)):
        limit_servers(group_id=group_id, server_ids=servers, actor=actor)


def _end_sessions(user: User) -> None:
    """Restart the user's relays: a relay asks at the door only when somebody connects.

    One whose fresh container has not been seen yet is about to start anyway: ten changes in a row restart it once.
    """
    groups = RelayGroup.objects.select_for_update(no_key=True).filter(owner=user, released_at=None).order_by("pk")
    for group in groups:
        for relay in group.relays.filter(released_at=None, wanted=Wanted.RUNNING).exclude(server=None):
            if relay.is_running:
                relay.group = group
                restart_in_place(relay)


def close_what_has_learned() -> int:
    """Sweep: policies whose time to learn is over are closed, with every device that came. Returns how many."""
    write_down()
    newest = AclConfig.objects.filter(user=OuterRef("user")).order_by("-version").values("id")[:1]
    moment = now()
    lately = AclConfig.objects.filter(learns_until__gt=moment - LOOKED_BACK, learns_until__lte=moment)
    over = lately.filter(id=Subquery(newest), mode=AclConfig.Mode.LEARN)
    users = list(over.order_by("id").values_list("user", flat=True)[:SWEEP])
    for user_id in users:
        change_policy(user_id=user_id, change=_closed, reason=LEARNED, actor=None)
    return len(users)


def _closed(policy: Policy) -> Policy:
    # Somebody may have begun anew meanwhile.
    is_over = policy.mode == Mode.LEARN and policy.learns_until is not None and policy.learns_until <= now()
    return replace(policy, mode=Mode.CLOSED) if is_over else policy
