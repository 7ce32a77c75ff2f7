"""The versions of a user's policy: the newest is in force, and the rows that doors look at are as it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType

from django.conf import settings
from django.db import transaction

from accounts.models import User
from derp_portal.lib.clock import now
from fleet.models import AclConfig, NodeKey

from .decision import Mode
from .doors import raise_floor

LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class Policy:
    """What one version says. `devices` are names by node key; no `servers` means any."""

    mode: Mode = Mode.CLOSED
    devices: Mapping[str, str] = field(default_factory=dict)
    networks: tuple[str, ...] = ()
    servers: tuple[int, ...] = ()
    learns_until: datetime | None = None

    @classmethod
    def of(cls, version: AclConfig) -> Policy:
        return cls(
            mode=Mode(version.mode),
            devices={device["key"]: device["name"] for device in version.devices},
            networks=tuple(version.networks),
            servers=tuple(version.servers),
            learns_until=version.learns_until,
        )

    def shuts_out(self, before: Policy) -> bool:
        """Whether somebody who got in by `before` may not get in by this: then live sessions have to end."""
        if before.devices.keys() - self.devices.keys() or set(before.networks) - set(self.networks):
            return True
        return OPENNESS[self.mode] < OPENNESS[before.mode]


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
    return dict(NodeKey.objects.filter(owner=user_id).order_by("id").values_list("key", "name"))


def add_version(
    user: User,
    policy: Policy,
    *,
    after: int = 0,
    before: Mapping[str, str] = MappingProxyType({}),
    reason: str = "",
    author: User | None,
) -> AclConfig:
    """Put the policy in force as the version that follows `after`; `before` are the devices it was made from.

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
        reason=reason[:LONGEST_REASON],
        author=author,
    )
    _list_devices(user, before, policy.devices)
    raise_floor(user.pk, version.version)
    return version


def _list_devices(user: User, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Make the rows that doors look at those of the version. What a learning door lists meanwhile is left alone."""
    NodeKey.objects.filter(owner=user, key__in=before.keys() - after.keys()).delete()
    NodeKey.objects.bulk_create(
        [NodeKey(owner=user, key=key, name=name) for key, name in after.items() if key not in before],
        ignore_conflicts=True,
    )
    for key in before.keys() & after.keys():
        if before[key] != after[key]:
            NodeKey.objects.filter(owner=user, key=key).update(name=after[key])
