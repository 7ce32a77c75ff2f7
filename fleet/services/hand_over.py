"""How a map reaches its owner's tailnet: pasted, polled, or pushed into the policy file."""

from __future__ import annotations

import difflib
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from django.db import transaction
from django.db.models import F
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import record
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from derp_portal.lib.outbound import OutboundFailure
from fleet.acl.policy_files import PolicyFile, read_policy, write_policy
from fleet.derp.hujson import NotHuJson, entries_of, set_entries, set_flag
from fleet.models import ControlServer, MapPush, RelayGroup
from fleet.selectors import map_digest, map_of_nodes, nodes_of, omits_default
from fleet.words import outbound_words

log = structlog.get_logger(__name__)

OUTER, INNER, FLAG = "derpMap", "Regions", "OmitDefaultRegions"
EVERY = timedelta(minutes=5)
LONGEST_PAUSE = timedelta(hours=6)
CLAIM = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Preview:
    """What a push would change: the lines of the difference, and the version of the policy file it is made from."""

    lines: tuple[str, ...]
    etag: str


def note_taken(*, group_id: int, how: RelayGroup.Taken, digest: str) -> None:
    """The owner's tailnet has the map of that digest, as far as one can tell."""
    RelayGroup.objects.filter(pk=group_id).update(taken_by=how, taken_digest=digest, taken_at=now())


def set_only_ours(*, group_id: int, is_wanted: bool, actor: User) -> None:
    """Leave Tailscale's own relays out of the map, or in. Raises PortalError `no_standby` without a second relay."""
    with transaction.atomic():
        group = RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
        if is_wanted and len(nodes_of(group)) < 2:
            said = _("That needs a second relay: with only one, its failure would cut your devices off.")
            raise PortalError(said, code="no_standby", status=409)
        if group.omits_default != is_wanted:
            group.omits_default = is_wanted
            group.save(update_fields=["omits_default"])
            record(actor=actor, event="group.only_ours" if is_wanted else "group.not_only_ours", target=group)


def preview_push(*, group: RelayGroup, server: ControlServer) -> Preview:
    """What pushing now would change. Raises PortalError with what stands in the way; nothing is written anywhere."""
    present, after = _asked(group, server)
    lines = difflib.unified_diff(present.text.splitlines(), after.splitlines(), lineterm="", n=2)
    return Preview(tuple(lines)[2:], present.etag)


def push_map(*, group_id: int, server_id: int, etag: str, is_automatic: bool, actor: User) -> MapPush:
    """Write the map into that version of the owner's policy file; every other byte of it stays.

    With `is_automatic` later maps follow by themselves. Raises PortalError: `conflict` when the file is another one by
    now, `not_ours` when an entry of one of our numbers was written by somebody else, or what the control server said.
    """
    group = RelayGroup.objects.get(pk=group_id, owner=actor)
    server = ControlServer.objects.get(pk=server_id, owner=actor, kind=ControlServer.Kind.TAILSCALE)
    present, after = _asked(group, server)
    if present.etag != etag:
        raise _refusal(OutboundFailure("conflict"))
    push = _write(group, server, present, after)
    MapPush.objects.filter(pk=push.pk).update(
        is_automatic=is_automatic, next_run_at=now() + EVERY if is_automatic else None
    )
    record(actor=actor, event="map.pushed", target=group, is_automatic=is_automatic)
    return push


def undo_push(*, group_id: int, actor: User) -> bool:
    """Put the policy file back as it was; where others changed it since, take only our entries out.

    False when nothing was pushed. Raises PortalError with what stands in the way; later maps follow no more either way.
    """
    push = MapPush.objects.filter(group=group_id, group__owner=actor).select_related("control_server", "group").first()
    if push is None:
        return False
    MapPush.objects.filter(pk=push.pk).update(is_automatic=False, next_run_at=None)
    try:
        present = read_policy(push.control_server)
        if present.etag == push.etag:
            text = push.text_before
        else:
            text = _without(present.text, push.entries, sets_flag=push.sets_flag)
        if text != present.text:
            write_policy(push.control_server, text, etag=present.etag)
    except (OutboundFailure, NotHuJson) as failure:
        raise _refusal(failure) from failure
    with transaction.atomic():
        push.delete()
        RelayGroup.objects.filter(pk=group_id).update(taken_by="", taken_digest="", taken_at=None)
        record(actor=actor, event="map.push_undone", target=push.group)
    return True


def push_due(*, limit: int = 50) -> int:
    """Sweep: maps that changed since they were pushed follow by themselves. Several may run at once."""
    due = MapPush.objects.filter(is_automatic=True, next_run_at__lte=now()).order_by("next_run_at")
    return sum(_follow(pk) for pk in list(due.values_list("id", flat=True)[:limit]))


def _follow(push_id: int) -> bool:
    moment = now()
    if not MapPush.objects.filter(pk=push_id, next_run_at__lte=moment).update(next_run_at=moment + CLAIM):
        return False
    push = MapPush.objects.select_related("group", "control_server").get(pk=push_id)
    group = push.group
    nodes = nodes_of(group)
    if group.released_at or not nodes:
        MapPush.objects.filter(pk=push_id).update(next_run_at=None if group.released_at else moment + EVERY)
        return False
    if map_digest(group, nodes) == group.taken_digest:
        MapPush.objects.filter(pk=push_id).update(next_run_at=moment + EVERY, failures=0, error_code="")
        return False
    try:
        present, after = _asked(group, push.control_server)
        _write(group, push.control_server, present, after)
    except PortalError as failure:
        pause = min(EVERY * 2 ** min(push.failures, 10), LONGEST_PAUSE) * random.uniform(0.8, 1.2)
        log.info("map_push_failed", group=group.pk, code=failure.code)
        MapPush.objects.filter(pk=push_id).update(
            error_code=failure.code, failures=F("failures") + 1, next_run_at=moment + pause
        )
        return False
    MapPush.objects.filter(pk=push_id).update(next_run_at=moment + EVERY)
    return True


def _asked(group: RelayGroup, server: ControlServer) -> tuple[PolicyFile, str]:
    """The policy file as it is, and as it should be."""
    if group.released_at:
        raise PortalError(_("Its relays have been released."), code="released", status=409)
    nodes = nodes_of(group)
    if not nodes:
        raise PortalError(_("The relay has no place yet. We are on it; ask again soon."), code="no_place", status=503)
    wanted = map_of_nodes(group, nodes)[INNER]
    push = MapPush.objects.filter(group=group).first()
    written: Mapping[str, Any] = push.entries if push else {}
    try:
        present = read_policy(server)
        entries = entries_of(present.text, OUTER, INNER)
        names = {node.host_name for node in nodes}
        for name in wanted:
            if name in entries and not _is_ours(entries[name], written.get(name), names):
                raise OutboundFailure("not_ours")
        gone = {name for name in written if name in entries and _is_ours(entries[name], written[name], names)}
        after = set_entries(present.text, OUTER, INNER, wanted, frozenset(gone - wanted.keys()))
        if omits_default(group, nodes):
            after = set_flag(after, OUTER, FLAG, True)
        elif push and push.sets_flag:
            after = set_flag(after, OUTER, FLAG, False)
    except (OutboundFailure, NotHuJson) as failure:
        raise _refusal(failure) from failure
    return present, after


def _is_ours(entry: Any, written: Any, names: set[str]) -> bool:
    """What we wrote, or what the owner pasted from us: it names our relays."""
    if entry == written:
        return True
    nodes = entry.get("Nodes") if isinstance(entry, dict) else None
    named = {node.get("HostName") for node in nodes or () if isinstance(node, dict)}
    return bool(named) and named <= names


def _without(text: str, written: Mapping[str, Any], *, sets_flag: bool) -> str:
    """The text without what we wrote, where that still stands as it was written. Raises NotHuJson."""
    ours = {name for name, entry in entries_of(text, OUTER, INNER).items() if written.get(name) == entry}
    text = set_entries(text, OUTER, INNER, {}, frozenset(ours))
    return set_flag(text, OUTER, FLAG, False) if sets_flag else text


def _write(group: RelayGroup, server: ControlServer, present: PolicyFile, after: str) -> MapPush:
    nodes = nodes_of(group)
    digest = map_digest(group, nodes)
    entries, sets_flag = map_of_nodes(group, nodes)[INNER], omits_default(group, nodes)
    push = MapPush.objects.filter(group=group).first()
    try:
        if push is None or push.control_server_id != server.pk:
            before = present.text
        elif push.etag == present.etag:
            # Nobody but us has written since: undoing puts back what stood there before our first push.
            before = push.text_before
        else:
            before = _without(after, entries, sets_flag=sets_flag)
        etag = write_policy(server, after, etag=present.etag).etag if after != present.text else present.etag
    except (OutboundFailure, NotHuJson) as failure:
        raise _refusal(failure) from failure
    with transaction.atomic():
        push, _is_new = MapPush.objects.update_or_create(
            group=group,
            defaults={
                "control_server": server,
                "entries": entries,
                "sets_flag": sets_flag,
                "text_before": before,
                "etag": etag,
                "pushed_at": now(),
                "failures": 0,
                "error_code": "",
            },
        )
        note_taken(group_id=group.pk, how=RelayGroup.Taken.PUSH, digest=digest)
    return push


def _refusal(failure: OutboundFailure | NotHuJson) -> PortalError:
    code = failure.code if isinstance(failure, OutboundFailure) else "bad_policy_file"
    return PortalError(outbound_words(code), code=code, status=409)
