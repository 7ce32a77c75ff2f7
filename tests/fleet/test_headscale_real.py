"""With a real Headscale: its devices are followed, its verifier is asked, and our map is all it needs to start."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from pytest_django.fixtures import Settings
from pytest_django.live_server_helper import LiveServer

from accounts.models import User
from derp_portal.lib.clock import now
from fleet import door
from fleet.acl import delegate
from fleet.acl.decision import Mode
from fleet.models import ControlServer, NodeKey, Relay, RelayGroup
from fleet.selectors import map_url_of
from fleet.services.acl import change_policy
from fleet.services.control_servers import add_control_server, sync
from fleet.services.groups import release_group
from serials.models import Lease
from serials.services import activate, expire_leases
from tests.fleet.fleet_parts import server
from tests.fleet.headscale import Headscale
from tests.serials.shop import make_plan, new_code_of

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def group(alice: User) -> RelayGroup:
    server()
    return RelayGroup.objects.get(pk=activate(user=alice, code=new_code_of(make_plan(3)))[1].relay_group_id)


@pytest.fixture
def headscale(live_server: LiveServer, settings: Settings, group: RelayGroup) -> Iterator[Headscale]:
    """One whose only source of relays is the customer's secret map URL."""
    settings.PUBLIC_URL = live_server.url
    settings.OUTBOUND_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    home = Path(tempfile.mkdtemp(prefix="hs-", dir="/tmp"))
    one = Headscale(home, map_url_of(group))
    try:
        one.start()
        yield one
    finally:
        one.stop()
        shutil.rmtree(home, ignore_errors=True)


def test_it_starts_on_our_map_alone_also_after_the_lease_has_ended_and_everything_was_released(
    headscale: Headscale, group: RelayGroup
) -> None:
    region = str(Relay.objects.get().region_id)
    assert RelayGroup.objects.get(pk=group.pk).map_fetched_at is not None
    Lease.objects.update(ends_at=now() - timedelta(seconds=1))
    group.lease.terms.update(starts_at=now() - timedelta(days=4), ends_at=now() - timedelta(seconds=1))
    expire_leases()
    headscale.stop()
    headscale.start()
    release_group(group_id=group.pk, actor=None)
    headscale.stop()
    headscale.start()
    assert region in headscale.log.read_text() or headscale.is_up()


def test_its_devices_are_followed(headscale: Headscale, alice: User) -> None:
    headscale.add_user("alice")
    headscale.add_node("alice", "phone")
    headscale.add_node("alice", "laptop")
    connected = add_control_server(
        owner=alice, kind=ControlServer.Kind.HEADSCALE, credential=headscale.api_key(), address=headscale.url
    )
    listed = NodeKey.objects.filter(owner=alice, is_removed=False)
    assert set(listed.values_list("name", "source")) == {("phone", "synced"), ("laptop", "synced")}
    headscale.delete_node(1)
    sync(server_id=connected.pk, at_once=True)
    assert [device.name for device in listed.all()] == ["laptop"]
    headscale.delete_node(2)
    sync(server_id=connected.pk, at_once=True)
    assert [device.name for device in listed.all()] == ["laptop"], "an empty answer empties nothing"
    assert ControlServer.objects.get().error_code == "empty_answer"
    headscale.stop()
    sync(server_id=connected.pk, at_once=True)
    assert ControlServer.objects.get().error_code == "unreachable"
    assert listed.count() == 1


def test_a_wrong_key_is_told(headscale: Headscale, alice: User) -> None:
    connected = ControlServer.objects.create(owner=alice, kind="headscale", address=headscale.url, credential="wrong")
    sync(server_id=connected.pk, at_once=True)
    assert ControlServer.objects.get().error_code == "denied"


def test_its_verifier_decides_at_the_door(headscale: Headscale, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delegate, "SECONDS", 60)  # A slow one is not what this is about.
    headscale.add_user("alice")
    headscale.add_node("alice", "phone")
    add_control_server(
        owner=alice, kind=ControlServer.Kind.HEADSCALE, credential=headscale.api_key(), address=headscale.url
    )
    known = NodeKey.objects.get().key
    change_policy(
        user_id=alice.pk,
        change=lambda policy: replace(policy, mode=Mode.DELEGATE, delegate_url=f"{headscale.url}/verify", devices={}),
        reason="",
        actor=alice,
    )
    secret = Relay.objects.get().admission_secret
    assert door.admits(secret, door.Question(known, "198.51.100.7"))
    assert not door.admits(secret, door.Question("nodekey:" + "7" * 64, "198.51.100.7"))
