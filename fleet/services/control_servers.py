"""Lists of devices that follow a customer's control server by themselves."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta

import redis
import structlog
from django.db import transaction
from django.db.models import F
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import record
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from derp_portal.lib.outbound import OutboundFailure, check_url
from fleet.acl.control_servers import Device, devices_of
from fleet.acl.turns import turn_of
from fleet.acl.versions import Policy
from fleet.models import ControlServer, NodeKey
from fleet.words import outbound_words

from .acl import change_policy

log = structlog.get_logger(__name__)

EVERY = timedelta(minutes=15)
LONGEST_PAUSE = timedelta(hours=12)
CLAIM = timedelta(minutes=5)
"""Longer than asking can take: who asks has the server to himself for so long."""
MOST_SERVERS = 5
LONGEST_QUESTION = 90
"""Taking a map back is four questions of at most fifteen seconds."""
SYNCED = "synced"
"""The reason of a version that a control server brought about."""


@contextmanager
def one_at_a_time(user_id: int) -> Iterator[None]:
    """For what a customer has us ask while he waits: one question at a time, or a few clicks would hold every thread.

    Raises PortalError `busy`. With the cache away everybody may: that must not keep customers from their lists.
    """
    with ExitStack() as stack:
        try:
            is_ours = stack.enter_context(turn_of(f"outbound:{user_id}", most=1, seconds=LONGEST_QUESTION))
        except redis.RedisError as error:
            log.warning("outbound_without_cache", error=str(error))
            is_ours = True
        if not is_ours:
            raise PortalError(_("We are asking already. Try again in a moment."), code="busy", status=429)
        yield


def add_control_server(
    *, owner: User, kind: ControlServer.Kind, credential: str, address: str = "", tailnet: str = "", client_id: str = ""
) -> ControlServer:
    """Connect one, after it has answered. Raises PortalError with what it said; then nothing was connected."""
    _check_room(owner)
    server = ControlServer(
        owner=owner,
        kind=kind,
        credential=credential.strip(),
        tailnet=tailnet.strip() or "-",
        client_id=client_id.strip(),
    )
    try:
        if kind == ControlServer.Kind.HEADSCALE:
            server.address = check_url(address)
        devices = devices_of(server)
    except OutboundFailure as failure:
        raise PortalError(outbound_words(failure.code), code=failure.code, status=422) from failure
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=owner.pk)
        _check_room(owner)
        server.save()
        record(actor=owner, event="control_server.added", target=server, kind=kind)
        _take(server, devices)
    return server


def _check_room(owner: User) -> None:
    if ControlServer.objects.filter(owner=owner).count() >= MOST_SERVERS:
        said = _("At most %(most)s control servers can be connected.") % {"most": MOST_SERVERS}
        raise PortalError(said, code="too_many", status=409)


def remove_control_server(*, server_id: int, owner: User) -> None:
    """Disconnect it and forget its credentials; the devices stay listed. Once more is fine."""
    with transaction.atomic():
        server = ControlServer.objects.filter(pk=server_id, owner=owner).first()
        if server is not None:
            record(actor=owner, event="control_server.removed", target=server)
            server.delete()


def sync_due(*, limit: int = 100) -> int:
    """Sweep: ask every control server whose time has come. Several may run at once."""
    due = ControlServer.objects.filter(next_run_at__lte=now()).order_by("next_run_at")
    return sum(_sync_or_note(server) for server in list(due.only("failures")[:limit]))


def _sync_or_note(server: ControlServer) -> bool:
    """One whose answer we cannot cope with must not keep those after it from their turn."""
    try:
        return sync(server_id=server.pk)
    except Exception:
        log.exception("control_server_sync_failed", control_server=server.pk)
        _note_failure(server, "bad_answer")
        return True


def sync(*, server_id: int, at_once: bool = False) -> bool:
    """Ask one and take its devices; False when somebody else is asking, or its time has not come."""
    moment = now()
    mine = ControlServer.objects.filter(pk=server_id)
    if not at_once:
        mine = mine.filter(next_run_at__lte=moment)
    if not mine.update(next_run_at=moment + CLAIM, ran_at=moment):
        return False
    server = ControlServer.objects.select_related("owner").get(pk=server_id)
    try:
        _take(server, devices_of(server))
    except (OutboundFailure, PortalError) as failure:
        _note_failure(server, failure.code)
    return True


def _note_failure(server: ControlServer, code: str) -> None:
    pause = min(EVERY * 2 ** min(server.failures, 10), LONGEST_PAUSE)
    log.info("control_server_failed", control_server=server.pk, code=code)
    ControlServer.objects.filter(pk=server.pk).update(
        error_code=code, failures=F("failures") + 1, next_run_at=now() + pause * random.uniform(0.8, 1.2)
    )


def _take(server: ControlServer, devices: list[Device]) -> None:
    """Make the list follow. Nothing that was typed, learned or approved is taken off, and nothing removed comes back.

    An empty answer is taken for a fault: a control server that lost its data must not lock its devices out too.
    """
    listed = NodeKey.objects.filter(control_server=server, is_removed=False)
    if not devices and listed.exists():
        raise OutboundFailure("empty_answer")
    told = {device.key: device for device in devices}
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=server.owner_id)
        ours = dict(listed.values_list("key", "remote_id"))
        gone = ours.keys() - told.keys()
        ids = {device.remote_id for device in devices}
        change_policy(
            user_id=server.owner_id,
            change=lambda policy: _following(policy, told, gone),
            source=NodeKey.Source.SYNCED,
            superseded={key for key in gone if ours[key] in ids},
            reason=SYNCED,
            actor=None,
        )
        synced = NodeKey.objects.filter(owner=server.owner_id, source=NodeKey.Source.SYNCED, key__in=told)
        for device in synced:
            device.control_server, device.remote_id = server, told[device.key].remote_id
        NodeKey.objects.bulk_update(synced, ["control_server", "remote_id"])
        ControlServer.objects.filter(pk=server.pk).update(
            ran_at=now(),
            succeeded_at=now(),
            failures=0,
            error_code="",
            device_count=len(devices),
            next_run_at=now() + EVERY * random.uniform(0.9, 1.1),
        )


def _following(policy: Policy, told: Mapping[str, Device], gone: set[str]) -> Policy:
    kept = {key: name for key, name in policy.devices.items() if key not in gone}
    new = {key: device.name for key, device in told.items() if key not in kept and key not in policy.removed}
    return replace(policy, devices=kept | new)
