"""The devices an owner lists: those, and nobody else, get through the doors of a closed policy."""

from __future__ import annotations

from dataclasses import replace

from django.db import transaction
from django.utils.translation import gettext as _

from accounts.models import User
from derp_portal.lib.errors import PortalError
from fleet.derp.keys import parse_node_key
from fleet.models import NodeKey

from .acl import change_policy


def add_node_keys(*, owner: User, lines: str, actor: User) -> list[NodeKey]:
    """List devices, one a line: `nodekey:…`, optionally followed by a name. Known ones are left as they are.

    Raises PortalError `invalid_node_key` naming the line, or `too_many_devices`; then nothing was added.
    """
    wanted: dict[str, str] = {}
    for number, line in enumerate(lines.splitlines(), start=1):
        key, _space, name = line.strip().partition(" ")
        if not key:
            continue
        try:
            wanted[parse_node_key(key)] = name.strip()[:80]
        except ValueError as error:
            raise PortalError(
                _(
                    "Line %(number)s is not a node key. It should read nodekey: followed by 64 characters (0-9, a-f). "
                    "Nothing was added."
                )
                % {"number": number},
                code="invalid_node_key",
                line=number,
            ) from error
    with transaction.atomic():
        known = set(NodeKey.objects.filter(owner=owner, is_removed=False).values_list("key", flat=True))
        change_policy(
            user_id=owner.pk,
            # What is known keeps its name.
            change=lambda policy: replace(
                policy, devices={**wanted, **policy.devices}, removed=policy.removed - wanted.keys()
            ),
            reason="",
            actor=actor,
        )
        return list(NodeKey.objects.filter(owner=owner, key__in=wanted.keys() - known).order_by("id"))


def remove_node_key(*, node_key_id: int, owner: User, actor: User) -> None:
    """Take a device off the list. Removing twice is fine; a stranger's device is left alone."""
    device = NodeKey.objects.filter(pk=node_key_id, owner=owner).first()
    if device is not None:
        gone = device.key
        change_policy(
            user_id=owner.pk,
            change=lambda policy: replace(
                policy,
                devices={key: name for key, name in policy.devices.items() if key != gone},
                # Or a door that learns would list it again.
                removed=policy.removed | {gone},
            ),
            reason="",
            actor=actor,
        )
