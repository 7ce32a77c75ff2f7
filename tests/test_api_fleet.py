"""The API for servers, regions and containers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from accounts.models import User
from accounts.services import set_rental_expiry
from derp_portal.lib.clock import now
from fleet import selectors, services
from fleet.models import Outage, Region, Relay, RelayHealth, Server, Wanted
from fleet.selectors import RelayState
from tests.api_client import Caller, make_server, see_running

pytestmark = pytest.mark.django_db


def refusal(answer: tuple[int, Any]) -> tuple[int, str]:
    status, body = answer
    assert body["success"] is False
    return status, body["error"]["code"]


def allocated(owner: User, root: User, **fields: Any) -> Relay:
    return services.allocate(owner=owner, server=None, run_until=now() + timedelta(days=3), actor=root, **fields)


def test_staff_adds_changes_lists_and_deletes_a_server(root: User) -> None:
    caller = Caller(root)
    assert caller.post("region/add", code="hk", name="Hong Kong", name_zh="香港", latitude=22.3)[0] == 200
    status, added = caller.post("server/add", ip="203.0.113.7", region="Hong Kong", max_relays=10)
    assert (status, set(added)) == (200, {"success", "server_id"})
    assert caller.post("server/update", server_id=added["server_id"], ip="203.0.113.8", is_enabled=False)[0] == 200
    _status, listed = caller.get("server/list", region="hk", status="unhealthy", phase="suspect")
    (one,) = listed["items"]  # No engine has answered there yet.
    assert (one["ip"], one["region"], one["is_enabled"], one["max_relays"]) == ("203.0.113.8", "hk", False, 10)
    assert one["traffic"] == {"upload_bytes": 0, "download_bytes": 0}
    assert caller.post("server/delete", server_id=one["id"])[0] == 200
    assert not Server.objects.exists()


def test_a_server_may_bring_its_region_along(root: User) -> None:
    status, _answer = Caller(root).post("server/add", ip="203.0.113.7", region="sg", region_name="Singapore")
    assert (status, Region.objects.get(code="sg").name) == (200, "Singapore")


def test_a_region_that_is_not_known_is_named_beside_those_that_are(root: User) -> None:
    make_server()
    status, answer = Caller(root).post("server/add", ip="203.0.113.7", region="mars")
    assert refusal((status, answer)) == (422, "unknown_region")
    assert answer["error"]["known"] == ["hk"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"ip": "300.1.1.1"},
        {"port_first": 80},
        {"port_first": 30000, "port_last": 29000},
        {"max_relays": 0},
        {"runtime": "vm"},
    ],
)
def test_a_wrong_field_is_refused_and_no_server_is_added(root: User, wrong: dict[str, Any]) -> None:
    Region.objects.create(code="hk", name="Hong Kong")
    fields = {"ip": "203.0.113.7", "region": "hk", "port_first": 21000, "port_last": 21999} | wrong
    status, code = refusal(Caller(root).post("server/add", **fields))
    assert (status, code) in [(422, "invalid_input"), (400, "invalid_port_range")]
    assert not Server.objects.exists()


def test_names_and_codes_are_unique(root: User) -> None:
    caller = Caller(root)
    make_server()
    again = caller.post("server/add", name="one", ip="203.0.113.7", region="hk")
    assert refusal(again) == (409, "server_exists")
    assert refusal(caller.post("region/add", code="hk", name="Again")) == (409, "region_exists")
    assert refusal(caller.post("region/add", code="no good", name="Blank")) == (422, "invalid_input")


def test_a_server_that_carries_relays_is_not_deleted(root: User, alice: User) -> None:
    server = make_server()
    allocated(alice, root)
    status, answer = Caller(root).post("server/delete", server_id=server.pk)
    assert refusal((status, answer)) == (409, "server_in_use")
    assert answer["error"]["relays"] == 1


def test_a_relay_by_hand_ends_with_the_users_lease_or_when_told(root: User, alice: User) -> None:
    caller, server = Caller(root), make_server()
    assert refusal(caller.post("container/allocate", user_id=alice.pk)) == (422, "run_until_required")
    status, answer = caller.post("container/allocate", user_id=alice.pk, server_id=server.pk, run_until="2031-01-01")
    assert (status, answer["container_id"]) == (200, Relay.objects.get().pk)
    assert answer["relay"]["run_until"] == "2031-01-01T16:00:00Z"
    until = now() + timedelta(days=9)
    set_rental_expiry(user_id=alice.pk, expiry=until)
    _status, answer = caller.post("container/allocate", user_id=alice.pk)
    assert Relay.objects.get(pk=answer["container_id"]).group.run_until == until
    past = (now() - timedelta(days=1)).isoformat()
    assert refusal(caller.post("container/allocate", user_id=alice.pk, run_until=past)) == (400, "invalid_run_until")


def test_without_a_server_that_has_room_nothing_is_allocated(root: User, alice: User) -> None:
    answer = Caller(root).post("container/allocate", user_id=alice.pk, run_until="2031-01-01")
    assert refusal(answer) == (409, "no_place")
    assert not Relay.objects.exists()


def test_the_list_says_where_each_relay_is_and_whose(root: User, alice: User, bob: User) -> None:
    server = make_server(ip="203.0.113.7")
    relay = allocated(alice, root)
    see_running(relay)
    Relay.objects.filter(pk=relay.pk).update(upload_bytes=5, download_bytes=7)
    _status, answer = Caller(alice).get("container/list")
    (one,) = answer["items"]
    expected = {
        "id": relay.pk,
        "code": relay.code,
        "server_id": server.pk,
        "region": "hk",
        "host": relay.host_name,
        "ip": "203.0.113.7",
        "derp_port": relay.port.number,
        "stun_port": relay.port.number,
        "status": "running",
        "cert_name": relay.pin,
        "upload_bytes": 5,
        "download_bytes": 7,
    }
    assert expected.items() <= one.items()
    assert one["health"]["status"] == "healthy"
    assert Caller(bob).get("container/list")[1]["total"] == 0
    assert refusal(Caller(bob).get("container/list", user_id=alice.pk)) == (404, "not_found")
    staff = Caller(root)
    assert staff.get("container/list", user_id=alice.pk, server_id=server.pk, status="running")[1]["total"] == 1
    assert staff.get("container/list", status="stopped")[1]["total"] == 0
    assert staff.get("container/list", user_id=bob.pk)[1]["total"] == 0


def test_the_database_finds_relays_by_the_state_that_is_shown(root: User, alice: User) -> None:
    make_server()
    made = [allocated(alice, root) for _number in range(8)]
    see_running(made[0])
    RelayHealth.objects.create(relay=made[1], status=RelayHealth.Status.UNHEALTHY)
    Relay.objects.filter(pk=made[2].pk).update(trouble_code="disk_full")
    Relay.objects.filter(pk=made[3].pk).update(wanted=Wanted.STOPPED)
    see_running(made[4])
    Relay.objects.filter(pk=made[4].pk).update(generation=2)
    for late in made[5:7]:
        type(late.group).objects.filter(pk=late.group_id).update(run_until=now())
    Outage.objects.create(group=made[6].group, cause="disk_full", started_at=now())
    shown = {relay.pk: selectors.relay_state(relay) for relay in selectors.relays()}
    assert set(shown.values()) == set(RelayState)
    for state in RelayState:
        found = set(selectors.in_state(selectors.relays(), state).values_list("pk", flat=True))
        assert found == {pk for pk, one in shown.items() if one == state}, state


def test_restarting_makes_a_new_generation_and_releasing_ends_it(root: User, alice: User) -> None:
    make_server()
    relay = allocated(alice, root)
    caller = Caller(root)
    assert caller.post("container/restart", container_id=relay.pk)[0] == 200
    relay.refresh_from_db()
    assert relay.generation == 2
    for _twice in range(2):
        assert caller.post("container/release", container_id=relay.pk) == (
            200,
            {"success": True, "container_id": relay.pk},
        )
    assert refusal(caller.post("container/restart", container_id=relay.pk)) == (409, "relay_released")
    assert refusal(caller.post("container/restart", container_id=10**6)) == (404, "not_found")
