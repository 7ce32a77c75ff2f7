"""Lists of devices that follow Tailscale's or Headscale's API: recorded shapes, rotated keys, answers gone wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import redis
import respx
import time_machine
from django.db import connection
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings
from time_machine import Traveller

from accounts.models import User
from derp_portal.lib.errors import PortalError
from fleet import services
from fleet.acl import turns
from fleet.acl.control_servers import Device, devices_of
from fleet.models import AclConfig, ControlServer, NodeKey, Relay
from fleet.services import control_servers
from fleet.services.control_servers import (
    EVERY,
    LONGEST_PAUSE,
    add_control_server,
    one_at_a_time,
    remove_control_server,
    sync,
    sync_due,
)
from tests.fleet.fleet_parts import group, only_relay, server

HEADSCALE = "https://headscale.example.com"
NODES = f"{HEADSCALE}/api/v1/node"
DEVICES = "https://api.tailscale.com/api/v2/tailnet/-/devices"
TOKEN = "https://api.tailscale.com/api/v2/oauth/token"

pytestmark = pytest.mark.django_db(transaction=True)


def key(number: int) -> str:
    return f"nodekey:{number:064x}"


def headscale_node(number: int, *, name: str = "", **fields: Any) -> dict[str, Any]:
    """As Headscale 0.29 answers."""
    return {
        "id": str(number),
        "machineKey": f"mkey:{number:064x}",
        "nodeKey": key(number),
        "discoKey": f"discokey:{number:064x}",
        "ipAddresses": [f"100.64.0.{number}", f"fd7a:115c:a1e0::{number}"],
        "name": f"host-{number}",
        "user": {"id": "1", "name": "alice", "createdAt": "2026-01-01T00:00:00Z"},
        "lastSeen": "2026-11-01T10:00:00Z",
        "expiry": "0001-01-01T00:00:00Z",
        "preAuthKey": None,
        "createdAt": "2026-01-01T00:00:00Z",
        "registerMethod": "REGISTER_METHOD_CLI",
        "givenName": name or f"given-{number}",
        "online": True,
        **fields,
    }


def tailscale_device(number: int, **fields: Any) -> dict[str, Any]:
    """As Tailscale's API describes a device."""
    return {
        "addresses": [f"100.100.0.{number}"],
        "id": str(10_000 + number),
        "nodeId": f"n{number}CNTRL",
        "user": "alice@example.com",
        "name": f"host-{number}.tail1234.ts.net",
        "hostname": f"host-{number}",
        "clientVersion": "1.90.1",
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "lastSeen": "2026-11-01T10:00:00Z",
        "keyExpiryDisabled": False,
        "expires": "2027-05-01T00:00:00Z",
        "authorized": True,
        "isExternal": False,
        "machineKey": f"mkey:{number:064x}",
        "nodeKey": key(number),
        "blocksIncomingConnections": False,
        **fields,
    }


@pytest.fixture
def clock() -> Iterator[Traveller]:
    with time_machine.travel(datetime(2031, 3, 1, 9, tzinfo=UTC), tick=False) as travel:
        yield travel


@pytest.fixture
def web() -> Iterator[respx.MockRouter]:
    with respx.mock(assert_all_called=False) as router:
        yield router


@pytest.fixture
def headscale(clock: Traveller, web: respx.MockRouter, alice: User) -> ControlServer:
    """alice's Headscale, which knows two devices."""
    web.get(NODES).respond(json={"nodes": [headscale_node(1), headscale_node(2)]})
    return add_control_server(
        owner=alice, kind=ControlServer.Kind.HEADSCALE, credential=" hskey-api-secret ", address=HEADSCALE
    )


def listed(owner: User) -> dict[str, str]:
    return dict(NodeKey.objects.filter(owner=owner, is_removed=False).values_list("key", "name"))


def fresh(server: ControlServer) -> ControlServer:
    return ControlServer.objects.get(pk=server.pk)


def test_headscales_devices_are_listed_with_the_key_it_wants(
    headscale: ControlServer, web: respx.MockRouter, alice: User
) -> None:
    assert listed(alice) == {key(1): "given-1", key(2): "given-2"}
    assert web.calls.last.request.headers["Authorization"] == "Bearer hskey-api-secret"
    device = NodeKey.objects.get(key=key(1))
    assert (device.source, device.control_server_id, device.remote_id) == ("synced", headscale.pk, "1")
    assert (fresh(headscale).device_count, fresh(headscale).error_code) == (2, "")
    [policy] = AclConfig.objects.filter(user=alice)
    assert (policy.reason, policy.author) == ("synced", None)


def test_an_oauth_client_of_tailscale_gets_a_token_first(web: respx.MockRouter, alice: User) -> None:
    token = web.post(TOKEN).respond(json={"access_token": "tskey-short", "expires_in": 3600, "token_type": "Bearer"})
    devices = web.get(DEVICES).respond(json={"devices": [tailscale_device(1), tailscale_device(2)]})
    add_control_server(owner=alice, kind=ControlServer.Kind.TAILSCALE, credential="tskey-client-x", client_id="kABC")
    assert b"client_id=kABC" in token.calls.last.request.content
    assert b"client_secret=tskey-client-x" in token.calls.last.request.content
    assert devices.calls.last.request.headers["Authorization"] == "Bearer tskey-short"
    assert listed(alice) == {key(1): "host-1", key(2): "host-2"}


def test_an_access_token_of_tailscale_is_used_as_it_is(web: respx.MockRouter, alice: User) -> None:
    route = web.get("https://api.tailscale.com/api/v2/tailnet/example.com/devices").respond(
        json={"devices": [tailscale_device(1)]}
    )
    add_control_server(owner=alice, kind=ControlServer.Kind.TAILSCALE, credential="tskey-api-x", tailnet="example.com")
    assert route.calls.last.request.headers["Authorization"] == "Bearer tskey-api-x"
    assert NodeKey.objects.get().remote_id == "n1CNTRL"


def test_the_credential_is_kept_encrypted(headscale: ControlServer) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT credential FROM fleet_controlserver")
        [(kept,)] = cursor.fetchall()
    assert "hskey-api-secret" not in kept
    assert fresh(headscale).credential == "hskey-api-secret"


def test_a_renewed_key_takes_the_place_of_the_old_one_and_cuts_nobody_off(
    headscale: ControlServer, web: respx.MockRouter, alice: User
) -> None:
    relay = running_relay(alice)
    web.get(NODES).respond(json={"nodes": [headscale_node(1), headscale_node(2, nodeKey=key(22))]})
    assert sync(server_id=headscale.pk, at_once=True)
    assert listed(alice) == {key(1): "given-1", key(22): "given-2"}
    assert Relay.objects.get(pk=relay.pk).generation == relay.generation


def test_a_device_that_was_deleted_there_is_turned_away_here_and_cut_off(
    headscale: ControlServer, web: respx.MockRouter, alice: User
) -> None:
    relay = running_relay(alice)
    web.get(NODES).respond(json={"nodes": [headscale_node(1)]})
    sync(server_id=headscale.pk, at_once=True)
    assert set(listed(alice)) == {key(1)}
    assert Relay.objects.get(pk=relay.pk).generation == relay.generation + 1


def running_relay(owner: User) -> Relay:
    server()
    relay = only_relay(group(owner, lasts=timedelta(days=30)))
    Relay.objects.filter(pk=relay.pk).update(observed_state="running", observed_generation=relay.generation)
    return relay


def test_what_was_typed_stays_and_what_was_removed_by_hand_does_not_come_back(
    headscale: ControlServer, web: respx.MockRouter, alice: User
) -> None:
    services.add_node_keys(owner=alice, lines=f"{key(9)} typed", actor=alice)
    services.remove_node_key(node_key_id=NodeKey.objects.get(key=key(1)).pk, owner=alice, actor=alice)
    versions = AclConfig.objects.count()
    for _ in range(2):
        sync(server_id=headscale.pk, at_once=True)
        assert set(listed(alice)) == {key(2), key(9)}
    assert AclConfig.objects.count() == versions, "nothing changed, so there is no new version"


def test_a_device_that_is_not_signed_in_has_no_key_and_is_left_out(
    headscale: ControlServer, web: respx.MockRouter, alice: User
) -> None:
    web.get(NODES).respond(json={"nodes": [headscale_node(1), headscale_node(2, nodeKey="")]})
    sync(server_id=headscale.pk, at_once=True)
    assert set(listed(alice)) == {key(1)}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (httpx.Response(200, json={"nodes": []}), "empty_answer"),
        (httpx.Response(200, json={}), "bad_answer"),
        (httpx.Response(200, json=[]), "bad_answer"),
        (httpx.Response(200, json={"nodes": None}), "bad_answer"),
        (httpx.Response(200, json={"nodes": ["x"]}), "bad_answer"),
        (httpx.Response(200, text="<html>Welcome to nginx!</html>"), "bad_answer"),
        (httpx.Response(401, text="Unauthorized"), "denied"),
        (httpx.Response(403, json={"message": "no"}), "denied"),
        (httpx.Response(404), "not_found"),
        (httpx.Response(502), "unreachable"),
        (httpx.ConnectError("gone"), "unreachable"),
        (httpx.ReadTimeout("slow"), "timeout"),
    ],
)
def test_an_answer_gone_wrong_empties_nothing_and_is_shown(
    headscale: ControlServer, web: respx.MockRouter, alice: User, answer: Any, code: str
) -> None:
    before = listed(alice)
    web.get(NODES).mock(**{"side_effect" if isinstance(answer, Exception) else "return_value": answer})
    sync(server_id=headscale.pk, at_once=True)
    assert listed(alice) == before
    assert (fresh(headscale).error_code, fresh(headscale).failures) == (code, 1)


def test_failures_are_asked_about_less_and_less_often(
    clock: Traveller, headscale: ControlServer, web: respx.MockRouter
) -> None:
    web.get(NODES).respond(500)
    pauses = []
    for _ in range(9):
        clock.move_to(fresh(headscale).next_run_at)
        asked = len(web.calls)
        assert sync_due() == 1
        assert len(web.calls) == asked + 1
        assert sync_due() == 0
        following = fresh(headscale).next_run_at
        assert following is not None
        pauses.append(following - datetime.now(UTC))
    assert pauses[0] <= EVERY * 1.2
    assert pauses[2] > pauses[0] * 2
    assert LONGEST_PAUSE * 0.8 <= pauses[-1] <= LONGEST_PAUSE * 1.2
    web.get(NODES).respond(json={"nodes": [headscale_node(3)]})
    clock.move_to(fresh(headscale).next_run_at)
    sync_due()
    assert (fresh(headscale).failures, fresh(headscale).error_code) == (0, "")


def test_it_is_not_connected_unless_it_answers(web: respx.MockRouter, alice: User) -> None:
    web.get(NODES).respond(401)
    with pytest.raises(PortalError, match="not accepted"):
        add_control_server(owner=alice, kind=ControlServer.Kind.HEADSCALE, credential="x", address=HEADSCALE)
    assert not ControlServer.objects.exists()


def test_it_is_not_connected_when_it_knows_more_devices_than_may_be_listed(web: respx.MockRouter, alice: User) -> None:
    server()
    group(alice, max_devices=1)
    web.get(NODES).respond(json={"nodes": [headscale_node(1), headscale_node(2)]})
    with pytest.raises(PortalError, match="At most 1 devices"):
        add_control_server(owner=alice, kind=ControlServer.Kind.HEADSCALE, credential="x", address=HEADSCALE)
    assert not ControlServer.objects.exists()
    assert listed(alice) == {}


def test_two_that_are_connected_at_once_are_counted_both(
    headscale: ControlServer, web: respx.MockRouter, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        ControlServer.objects.create(owner=alice, kind=ControlServer.Kind.TAILSCALE, credential="meanwhile")
        return httpx.Response(200, json={"nodes": [headscale_node(3)]})

    monkeypatch.setattr(control_servers, "MOST_SERVERS", 2)
    web.get(NODES).mock(side_effect=answer)
    with pytest.raises(PortalError, match="At most 2 control servers"):
        add_control_server(owner=alice, kind=ControlServer.Kind.HEADSCALE, credential="x", address=HEADSCALE)
    assert ControlServer.objects.count() == 2


def test_letters_that_no_database_takes_are_left_out(
    headscale: ControlServer, web: respx.MockRouter, alice: User
) -> None:
    node = headscale_node(3, name="a\0b\ud800c", id="\0\udfff3")
    web.get(NODES).respond(text=json.dumps({"nodes": [node]}))
    sync(server_id=headscale.pk, at_once=True)
    assert listed(alice) == {key(3): "abc"}
    assert NodeKey.objects.get(key=key(3)).remote_id == "3"


def test_one_that_breaks_us_keeps_no_other_from_being_asked(
    clock: Traveller, headscale: ControlServer, web: respx.MockRouter, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    bobs = add_control_server(owner=bob, kind=ControlServer.Kind.HEADSCALE, credential="x", address=HEADSCALE)

    def broken(server: ControlServer) -> list[Device]:
        if server.pk == headscale.pk:
            raise RuntimeError("nobody thought of this")
        return devices_of(server)

    monkeypatch.setattr(control_servers, "devices_of", broken)
    ControlServer.objects.filter(pk=headscale.pk).update(next_run_at=datetime.now(UTC) - timedelta(hours=1))
    clock.shift(EVERY * 2)
    asked = len(web.calls)
    assert sync_due() == 2
    assert len(web.calls) == asked + 1
    assert (fresh(headscale).error_code, fresh(headscale).failures) == ("bad_answer", 1)
    assert (fresh(bobs).error_code, fresh(bobs).succeeded_at) == ("", datetime.now(UTC))
    assert sync_due() == 0


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8080", "http://localhost:8080", "http://[::1]/", "ftp://x.example"]
)
def test_an_address_inside_is_refused(alice: User, address: str) -> None:
    with pytest.raises(PortalError) as refusal:
        add_control_server(owner=alice, kind=ControlServer.Kind.HEADSCALE, credential="x", address=address)
    assert refusal.value.code in ("private_address", "invalid_url")


def test_disconnecting_forgets_the_credential_and_keeps_the_devices(headscale: ControlServer, alice: User) -> None:
    remove_control_server(server_id=headscale.pk, owner=alice)
    remove_control_server(server_id=headscale.pk, owner=alice)
    assert not ControlServer.objects.exists()
    assert len(listed(alice)) == 2


def test_the_pages_connect_ask_and_disconnect(
    web: respx.MockRouter, client: Client, alice: User, bob: User, settings: Settings
) -> None:
    client.force_login(alice)
    web.get(NODES).respond(json={"nodes": [headscale_node(1)]})
    form = {"kind": "headscale", "address": HEADSCALE, "credential": "hskey-api-secret"}
    page = client.post(reverse("control_servers"), form, follow=True).content.decode()
    assert "Your list of devices follows it from now on." in page
    assert "hskey-api-secret" not in page
    [connected] = ControlServer.objects.all()
    web.get(NODES).respond(502)
    page = client.post(reverse("control_server_sync", args=[connected.pk]), follow=True).content.decode()
    assert "Nobody answers at that address." in page
    page = client.post(reverse("control_servers"), {"kind": "headscale", "credential": "x"}).content.decode()
    assert "Which address does it have?" in page
    client.force_login(bob)
    for name in ("control_server_sync", "control_server_remove"):
        assert client.post(reverse(name, args=[connected.pk])).status_code == 404
    client.force_login(alice)
    assert "Disconnect" in client.get(reverse("control_server_remove", args=[connected.pk])).content.decode()
    client.post(reverse("control_server_remove", args=[connected.pk]))
    assert not ControlServer.objects.exists()


def test_one_customer_has_us_ask_one_thing_at_a_time(headscale: ControlServer, alice: User, client: Client) -> None:
    client.force_login(alice)
    address = reverse("control_server_sync", args=[headscale.pk])
    with one_at_a_time(alice.pk):
        assert "We are asking already." in client.post(address, follow=True).content.decode()
    assert "up to date" in client.post(address, follow=True).content.decode()


def test_nobody_is_kept_from_asking_while_the_cache_is_away(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = redis.Redis.from_url("unix:///nowhere/at/all.sock")
    monkeypatch.setattr(turns, "store", lambda: gone)
    with one_at_a_time(alice.pk), one_at_a_time(alice.pk):
        pass


def test_the_output_of_tailscale_status_is_pasted_whole(alice: User) -> None:
    status = {
        "Version": "1.90.1",
        "BackendState": "Running",
        "Self": {"ID": "n1", "PublicKey": key(1), "HostName": "laptop", "Online": True},
        "Peer": {
            key(2): {"ID": "n2", "PublicKey": key(2), "HostName": "phone"},
            "nodekey:" + "0" * 64: {"PublicKey": "nodekey:" + "0" * 64, "HostName": "", "ShareeNode": True},
        },
    }
    added = services.add_node_keys(owner=alice, lines=json.dumps(status, indent=2), actor=alice)
    assert {device.name for device in added} == {"laptop", "phone"}
    alone = services.add_node_keys(
        owner=alice, lines=json.dumps({"Self": {"PublicKey": key(3), "HostName": "x"}, "Peer": None}), actor=alice
    )
    assert [device.key for device in alone] == [key(3)]


@pytest.mark.parametrize("text", ["{", "{}", '{"Self": 3}', '{"Self": {"PublicKey": "short"}}', "{" * 5000])
def test_half_a_status_is_refused_and_nothing_is_added(alice: User, text: str) -> None:
    with pytest.raises(PortalError, match="tailscale status"):
        services.add_node_keys(owner=alice, lines=text, actor=alice)
    assert not NodeKey.objects.exists()
