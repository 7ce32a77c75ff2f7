"""The versions of a user's policy: the newest is in force, and the rows that doors look at are as it says."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from accounts.models import User
from derp_portal.lib.clock import now
from fleet.models import AclConfig, NodeKey

from .decision import Mode
from .doors import raise_floor

LONGEST_REASON = 200
MOST_DEVICES = 1000
"""So many a policy lists, whatever a plan allows."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What one version says. `devices` are names by node key; no `servers` means any."""

    mode: Mode = Mode.CLOSED
    devices: Mapping[str, str] = field(default_factory=dict)
    networks: tuple[str, ...] = ()
    servers: tuple[int, ...] = ()
    learns_until: datetime | None = None
    removed: frozenset[str] = frozenset()
    delegate_url: str = ""

    @classmethod
    def of(cls, version: AclConfig) -> Policy:
        return cls(
            mode=Mode(version.mode),
            devices={device["key"]: device["name"] for device in version.devices},
            networks=tuple(version.networks),
            servers=tuple(version.servers),
            learns_until=version.learns_until,
            removed=frozenset(version.removed),
            delegate_url=version.delegate_url,
        )

    def shuts_out(self, before: Policy, *, superseded: Collection[str] = ()) -> bool:
        """Whether somebody who got in by `before` may not get in by this: then live sessions have to end.

        `superseded` are keys that no device has any more.
        """
        if before.devices.keys() - self.devices.keys() - set(superseded):
            return True
        if set(before.networks) - set(self.networks) or self.removed - before.removed:
            return True
        if self.mode == before.mode == Mode.DELEGATE and self.delegate_url != before.delegate_url:
            return True
        return OPENNESS[self.mode] < OPENNESS[before.mode]


NOTHING = Policy()

OPENNESS = {Mode.CLOSED: 0, Mode.DELEGATE: 1, Mode.LEARN: 2, Mode.OPEN: 3}
"""What lets in more stands higher. Whoever a customer's own verifier let in may be unknown to the list."""


def current_policy(user_id: int) -> AclConfig | None:
    """The version in force; None for a user who never had relays."""
    return AclConfig.objects.filter(user=user_id).order_by("-version").first()


def ensure_policy(*, user: User) -> AclConfig:
    """The user's policy; whoever has none gets one that learns for a day and closes then."""
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=user.pk)
        present = current_policy(user.pk)
        if present is not None:
            return present
        until = now() + timedelta(hours=settings.ACL_LEARN_HOURS)
        return add_version(user, Policy(mode=Mode.LEARN, learns_until=until), author=None)


def listed_devices(user_id: int) -> dict[str, str]:
    """Names by node key of all that are listed now, those included that a learning door listed since the version."""
    listed = NodeKey.objects.filter(owner=user_id, is_removed=False)
    return dict(listed.order_by("id").values_list("key", "name"))


def learn_device(user_id: int, node_key: str, most: int) -> bool:
    """List a device that came to a learning door, as long as there is room; whether it is listed now."""
    learn_devices(user_id, [node_key], most)
    return NodeKey.objects.filter(owner=user_id, key=node_key, is_removed=False).exists()


def learn_devices(user_id: int, node_keys: Collection[str], most: int | None = None) -> None:
    """List devices that came to a learning door, the first ones first, as long as there is room."""
    if NodeKey.objects.filter(owner=user_id, key__in=node_keys).count() == len(node_keys):
        return
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=user_id)
        devices = NodeKey.objects.filter(owner=user_id)
        known = set(devices.filter(key__in=node_keys).values_list("key", flat=True))
        new = [key for key in node_keys if key not in known][: room_for(user_id, most)]
        NodeKey.objects.bulk_create(NodeKey(owner_id=user_id, key=key, source=NodeKey.Source.LEARNED) for key in new)


def room_for(user_id: int, most: int | None) -> int:
    """How many more devices may be listed, when the plan allows `most`; None is as many as a policy may hold."""
    most = MOST_DEVICES if most is None else min(most, MOST_DEVICES)
    return max(most - NodeKey.objects.filter(owner=user_id, is_removed=False).count(), 0)


def add_version(
    user: User,
    policy: Policy,
    *,
    after: int = 0,
    before: Policy = NOTHING,
    source: NodeKey.Source = NodeKey.Source.HAND,
    reason: str = "",
    author: User | None,
) -> AclConfig:
    """Put the policy in force as the version that follows `after`; `before` is the policy it was made from.

    Devices that are new in it came from `source`.

    Call with the user locked.
    """
    version = AclConfig.objects.create(
        user=user,
        version=after + 1,
        mode=policy.mode,
        devices=[{"key": key, "name": name} for key, name in policy.devices.items()],
        networks=list(policy.networks),
        servers=list(policy.servers),
        learns_until=policy.learns_until,
        removed=sorted(policy.removed),
        delegate_url=policy.delegate_url,
        reason=reason[:LONGEST_REASON],
        author=author,
    )
    _list_devices(user, before, policy, source)
    raise_floor(user.pk, version.version)
    return version


def _list_devices(user: User, before: Policy, after: Policy, source: NodeKey.Source) -> None:
    """Make the rows that doors look at those of the version. What a learning door lists meanwhile is left alone."""
    kept = after.devices.keys() | after.removed
    NodeKey.objects.filter(owner=user, key__in=(before.devices.keys() | before.removed) - kept).delete()
    rows = [
        NodeKey(owner=user, key=key, name=name, source=source)
        for key, name in after.devices.items()
        if before.devices.get(key) != name
    ]
    rows += [NodeKey(owner=user, key=key, is_removed=True) for key in sorted(after.removed - before.removed)]
    NodeKey.objects.bulk_create(
        rows, update_conflicts=True, unique_fields=["owner", "key"], update_fields=["name", "is_removed"]
    )
