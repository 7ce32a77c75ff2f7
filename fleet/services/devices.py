"""The devices an owner lists: once there is one, only listed ones get through the owner's doors."""

from __future__ import annotations

from django.db import transaction
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import record
from derp_portal.lib.errors import PortalError
from fleet.derp.keys import parse_node_key
from fleet.models import NodeKey

MOST_DEVICES = 1000


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
        User.objects.select_for_update(no_key=True).get(pk=owner.pk)
        known = set(NodeKey.objects.filter(owner=owner).values_list("key", flat=True))
        new = [NodeKey(owner=owner, key=key, name=name) for key, name in wanted.items() if key not in known]
        if len(known) + len(new) > MOST_DEVICES:
            raise PortalError(
                _("At most %(most)s devices can be listed. Nothing was added.") % {"most": MOST_DEVICES},
                code="too_many_devices",
            )
        added = NodeKey.objects.bulk_create(new)
        if added:
            record(actor=actor, event="devices.added", target=owner, devices=[device.key for device in added])
    return added


def remove_node_key(*, node_key_id: int, owner: User, actor: User) -> None:
    """Take a device off the list. Removing twice is fine; a stranger's device is left alone."""
    with transaction.atomic():
        device = NodeKey.objects.select_for_update(no_key=True).filter(pk=node_key_id, owner=owner).first()
        if device:
            record(actor=actor, event="devices.removed", target=owner, device=device.key)
            device.delete()
