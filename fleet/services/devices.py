"""The devices an owner lists: those, and nobody else, get through the doors of a closed policy."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from django.db import transaction
from django.utils.translation import gettext as _

from accounts.models import User
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from derp_portal.lib.texts import can_be_kept
from fleet.derp.keys import parse_node_key
from fleet.models import Knock, NodeKey

from .acl import change_policy

NO_KEY = re.compile("(nodekey:0*)?")
"""What stands for a missing one."""


def add_node_keys(*, owner: User, lines: str, actor: User) -> list[NodeKey]:
    """List devices, one a line: `nodekey:…`, optionally followed by a name; or what `tailscale status --json` says.

    Known ones are left as they are.

    Raises PortalError `invalid_node_key` naming the line, or `too_many_devices`; then nothing was added.
    """
    wanted = _from_status(lines) if lines.lstrip().startswith("{") else _from_lines(lines)
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


def approve_knock(*, knock_id: int, owner: User, name: str = "") -> NodeKey | None:
    """List a device that was turned away; None for one that is seen to. Raises PortalError `too_many_devices`."""
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=owner.pk)
        knock = Knock.objects.filter(pk=knock_id, user=owner).first()
        if knock is None:
            return None
        key, name = knock.node_key, name.replace("\0", "").strip()[:80]
        change_policy(
            user_id=owner.pk,
            change=lambda policy: replace(
                policy,
                devices={key: name, **policy.devices},
                removed=policy.removed - {key},
            ),
            source=NodeKey.Source.APPROVED,
            reason="",
            actor=owner,
        )
        knock.delete()
        return NodeKey.objects.get(owner=owner, key=key)


def dismiss_knock(*, knock_id: int, owner: User) -> None:
    """Put it aside: it is not told of again. Once more is fine."""
    Knock.objects.filter(pk=knock_id, user=owner, dismissed_at=None).update(dismissed_at=now())


def _from_lines(lines: str) -> dict[str, str]:
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
    return wanted


def _from_status(text: str) -> dict[str, str]:
    """Names by key of every device in the output of `tailscale status --json`, the own one included."""
    try:
        status: Any = json.loads(text)
        peers = [status["Self"], *(status.get("Peer") or {}).values()]
        # A user whom a device is shared with stands there without a device of his own.
        keyed = [peer for peer in peers if not NO_KEY.fullmatch(peer.get("PublicKey", ""))]
        names = {parse_node_key(peer["PublicKey"]): str(peer.get("HostName") or "")[:80] for peer in keyed}
        if not all(map(can_be_kept, names.values())):
            raise ValueError("a name that cannot be kept")
        return names
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        said = _("This does not read like the whole output of tailscale status --json. Nothing was added.")
        raise PortalError(said, code="invalid_node_key") from error
