"""The API for failover, for what is done with hosts, and for alerts: what operators do when machines die."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import translation
from django.utils.translation import gettext

from accounts.models import AuditEntry, User
from derp_portal.lib.clock import now
from fleet import services
from fleet.enrolment import pki
from fleet.models import Alert, Evacuation, Move, Relay, RelayGroup, Server, ServerEvent
from fleet.runtimes.base import Rejected, TaskResult, TaskSpec
from fleet.services.alerts import raise_alert
from fleet.services.authority import authority
from fleet.services.evacuations import carry_on
from fleet.services.moves import note_answers
from fleet.services.phases import enter
from tests.api_client import Caller, make_server
from tests.fleet.fake_engine import FakeEngine
from tests.fleet.fleet_parts import group

pytestmark = pytest.mark.django_db


@pytest.fixture
def staff(root: User) -> Caller:
    return Caller(root)


def refusal(answer: tuple[int, Any]) -> tuple[int, str]:
    status, body = answer
    assert body["success"] is False
    assert body["error"]["message"]
    return status, body["error"]["code"]


def lose(server: Server) -> None:
    """It has not answered for long."""
    enter(server, Server.Phase.SUSPECT, "timeout")
    enter(server, Server.Phase.UNHEALTHY, "timeout")


def settle(relay: Relay) -> None:
    """Its evacuation goes on, and it answers where it is."""
    relay.refresh_from_db()
    note_answers({relay.pk: relay.generation})
    for running in Evacuation.objects.filter(state=Evacuation.State.RUNNING):
        carry_on(running.pk)


def relay_on(owner: User, server: Server) -> Relay:
    return services.allocate(owner=owner, server=server, run_until=now() + timedelta(days=1), actor=owner)


@pytest.fixture
def pair() -> tuple[Server, Server]:
    """Two servers at two addresses, in two regions."""
    return make_server(ip="192.0.2.1"), make_server("two", ip="192.0.2.2", region="sg", endpoint="")


# --- failover -------------------------------------------------------------------------------------


def test_with_nothing_sent_and_every_server_healthy_there_is_nothing_to_move(root: User, alice: User) -> None:
    relay_on(alice, make_server())
    headers = Caller(root).headers
    answer = Client().generic("POST", "/api/ha/failover", headers=headers)
    assert (answer.status_code, answer.json()["message"]) == (200, "There is nothing to move.")
    assert not Evacuation.objects.exists()
    headers["Accept-Language"] = "zh-hans"
    in_chinese = Client().generic("POST", "/api/ha/failover", headers=headers)
    with translation.override("zh-hans"):
        assert in_chinese.json()["message"] == gettext("There is nothing to move.")


def test_what_is_lost_is_failed_over_and_its_timeline_can_be_read(
    staff: Caller, alice: User, pair: tuple[Server, Server]
) -> None:
    relay = relay_on(alice, pair[0])
    lose(pair[0])
    status, answer = staff.post("ha/failover")
    assert (status, answer["message"]) == (200, "The relays of 1 server are moving to others.")
    (begun,) = answer["failovers"]
    assert (begun["server_id"], begun["reason"], begun["by"]) == (pair[0].pk, "failure", "root")
    again = staff.post("ha/failover")[1]
    assert [one["id"] for one in again["failovers"]] == [begun["id"]]
    assert Evacuation.objects.count() == 1
    carry_on(begun["id"])
    settle(relay)
    detail = staff.get(f"ha/failovers/{begun['id']}")[1]
    assert (detail["failover"]["state"], detail["failover"]["answered"], detail["total"]) == ("done", 1, 1)
    (move,) = detail["moves"]
    assert (move["relay"], move["state"], move["to_server_id"]) == (relay.code, "answered", pair[1].pk)
    assert [step["step"] for step in move["timeline"]] == ["lost", "begun", "placed", "answered"]
    moments = [step["at"] for step in move["timeline"]]
    assert moments == sorted(moments)
    assert staff.post("ha/failover")[1]["message"] == "There is nothing to move."


def test_one_server_is_failed_over_by_hand_though_it_is_well(
    staff: Caller, alice: User, pair: tuple[Server, Server]
) -> None:
    relay_on(alice, pair[0])
    (begun,) = staff.post("ha/failover", server_id=pair[0].pk)[1]["failovers"]
    assert (begun["server"], begun["reason"]) == ("one", "hand")
    assert staff.post("ha/failover", server_id=pair[1].pk)[1]["failovers"] == [], "it carries nothing"


def test_a_dry_run_says_who_would_go_where_and_changes_nothing(
    staff: Caller, alice: User, pair: tuple[Server, Server]
) -> None:
    moving, held = relay_on(alice, pair[0]), relay_on(alice, pair[0])
    services.set_quarantine(group_id=held.group_id, is_quarantined=True, actor=None)
    lose(pair[0])
    status, answer = staff.post("ha/failover", dry_run=True)
    assert (status, answer["message"]) == (200, "1 of 2 relays would move. Nothing was changed.")
    assert {one["relay"]: (one["to_server_id"], one["code"]) for one in answer["plan"]} == {
        moving.code: (pair[1].pk, ""),
        held.code: (None, "quarantined"),
    }
    assert not Evacuation.objects.exists()
    assert not Move.objects.exists()


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"server_id": 10**6}, (404, "not_found")),
        ({"server_id": "one"}, (422, "invalid_input")),
        ({"dry_run": "perhaps"}, (422, "invalid_input")),
    ],
)
def test_a_failover_of_nonsense_is_refused_in_words(staff: Caller, sent: dict[str, Any], expected: Any) -> None:
    assert refusal(staff.post("ha/failover", **sent)) == expected
    assert refusal(staff.get("ha/failovers/1000000")) == (404, "not_found")
    assert refusal(staff.get("ha/failovers/one")) == (404, "not_found")


def test_failovers_and_moves_are_found_by_what_they_are(
    staff: Caller, alice: User, pair: tuple[Server, Server]
) -> None:
    relay = relay_on(alice, pair[0])
    staff.post("server/drain", server_id=pair[0].pk)
    carry_on(Evacuation.objects.get().pk)

    def total(path: str, **filters: Any) -> int:
        return int(staff.get(path, **filters)[1]["total"])

    assert total("ha/failovers", state="running", server_id=pair[0].pk, reason="drain") == 1
    assert total("ha/failovers", reason="failure") == total("ha/failovers", server_id=pair[1].pk) == 0
    assert total("ha/moves", relay=relay.code, state="placed", reason="drain") == 1
    assert total("ha/moves", relay="nobody") == total("ha/moves", state="answered") == 0
    assert refusal(staff.get("ha/moves", state="lost")) == (422, "invalid_input")


def test_lists_ask_the_same_number_of_questions_however_long_they_are(staff: Caller, alice: User) -> None:
    here = make_server(ip="192.0.2.1")
    make_server("two", ip="192.0.2.2")
    paths = ["ha/failovers", "ha/moves", "server/list", "server/health", "server/events", "alerts/list"]
    paths += ["container/list"]

    def count(path: str) -> int:
        staff.get(path)  # Once a minute a call notes that the token was used.
        with CaptureQueriesContext(connection) as queries:
            assert staff.get(path)[0] == 200
        return len(queries)

    def happen(number: int) -> None:
        for once in range(number):
            services.move_relay(relay_id=relay_on(alice, here).pk, server_id=None, actor=None)
            gone = Server.objects.create(name=f"gone {once} {number}", ip="192.0.2.9", region=here.region)
            Evacuation.objects.create(server=gone, server_name="gone", reason="drain")
            raise_alert(
                Alert.Kind.SERVER_LOST, severity=Alert.Severity.INFO, subject=str(gone.pk), server=gone, since=1
            )

    happen(1)
    few = {path: count(path) for path in paths}
    happen(4)
    assert {path: count(path) for path in paths} == few


# --- hosts ----------------------------------------------------------------------------------------


def test_a_host_with_certificates_keeps_them_to_itself(staff: Caller) -> None:
    signer = pki.make_authority("theirs", now=now())
    client = pki.issue_client_certificate(signer, "theirs", now=now())
    secrets = {"tls_ca": signer.cert_pem, "tls_certificate": client.cert_pem, "tls_key": client.key_pem}
    fields = {"ip": "203.0.113.7", "region": "hk", "region_name": "Hong Kong", "endpoint": "tcp://203.0.113.7:2376"}
    rent = {"provider": "Cheap", "monthly_cost": 2900, "cost_currency": "CNY", "provider_renews_on": "2031-01-31"}
    life = {"uplink_mbps": 100, "allowance_bytes": 10**12, "allowance_reset_day": 31, "billed_direction": "larger"}
    status, added = staff.post("server/add", **fields, **secrets, **rent, **life)
    assert status == 200, added
    (shown,) = staff.get("server/list")[1]["items"]
    assert (rent | life).items() <= shown.items()
    assert (shown["has_certificates"], shown["phase"], shown["engine_id"]) == (True, "suspect", "")
    spoken = json.dumps(shown) + json.dumps(list(AuditEntry.objects.values_list("data", flat=True)), default=str)
    assert "BEGIN" not in spoken
    bare = {"tls_ca": None, "tls_certificate": None, "tls_key": None, "allowance_bytes": None}
    assert staff.post("server/update", server_id=added["server_id"], **bare)[0] == 200
    (shown,) = staff.get("server/list")[1]["items"]
    assert (shown["has_certificates"], shown["allowance_bytes"], shown["provider"]) == (False, None, "Cheap")


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"tls_key": "no PEM"}, (400, "bad_credentials")),
        ({"tls_ca": "a", "tls_certificate": "b", "tls_key": "c"}, (400, "bad_credentials")),
        ({"endpoint": "http://203.0.113.7"}, (400, "invalid_endpoint")),
        ({"allowance_reset_day": 32}, (422, "invalid_input")),
        ({"provider_renews_on": "soon"}, (422, "invalid_input")),
        ({"uplink_mbps": -1}, (422, "invalid_input")),
    ],
)
def test_what_cannot_be_right_of_a_host_is_refused_and_nothing_is_added(
    staff: Caller, wrong: dict[str, Any], expected: tuple[int, str]
) -> None:
    fields = {"ip": "203.0.113.7", "region": "hk", "region_name": "Hong Kong", "endpoint": "tcp://203.0.113.7:2376"}
    assert refusal(staff.post("server/add", **(fields | wrong))) == expected
    assert not Server.objects.exists()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """The engine that every server has."""
    made = FakeEngine()
    for module in ("enrolment", "port_checks"):
        monkeypatch.setattr(f"fleet.services.{module}.open_runtime", lambda _server: made.runtime())
    return made


def test_a_connection_test_says_what_the_host_is(staff: Caller, engine: FakeEngine) -> None:
    server = make_server()
    for _twice in range(2):
        status, answer = staff.post("server/test", server_id=server.pk)
        assert (status, answer["server_id"]) == (200, server.pk)
        assert answer["message"].startswith("The server answers and can be used")
        assert answer["cores"] >= 1


def test_a_connection_test_that_fails_says_in_words_why_and_what_to_do(staff: Caller, engine: FakeEngine) -> None:
    server = make_server()
    engine.fail(Rejected("wrong_ca", "self-signed certificate"))
    status, answer = staff.post("server/test", server_id=server.pk)
    assert refusal((status, answer)) == (409, "wrong_ca")
    assert answer["error"]["message"] == "The server could not prove that it is the right one."
    assert "authority" in answer["error"]["advice"]
    assert answer["error"]["detail"] == "self-signed certificate"


def test_nothing_that_listens_is_told_apart_from_a_refusal(staff: Caller) -> None:
    server = make_server()
    Server.objects.filter(pk=server.pk).update(runtime="docker", endpoint="unix:///tmp/there-is-no-such.sock")
    assert refusal(staff.post("server/test", server_id=server.pk)) == (502, "no_socket")


def test_a_server_is_drained_and_taken_back(staff: Caller, alice: User, pair: tuple[Server, Server]) -> None:
    relay_on(alice, pair[0])
    answers = [staff.post("server/drain", server_id=pair[0].pk)[1] for _twice in range(2)]
    assert answers[0] == answers[1]
    assert answers[0]["message"] == "1 relay is moving away."
    assert staff.get("server/list")[1]["items"][0]["is_draining"] is True
    for _twice in range(2):
        assert staff.post("server/undrain", server_id=pair[0].pk)[0] == 200
    assert Server.objects.filter(is_draining=True).count() == 0
    assert Evacuation.objects.get().state == Evacuation.State.CANCELLED


def test_a_server_is_disabled_and_enabled_once_however_often_it_is_said(staff: Caller) -> None:
    server = make_server()
    for path in ("server/disable", "server/disable", "server/enable", "server/enable"):
        assert staff.post(path, server_id=server.pk)[0] == 200
    listed = staff.get("server/events", server_id=server.pk)[1]["items"]
    assert [one["event"] for one in listed] == ["enabled", "disabled", "added"]


def test_a_new_address_stands_in_the_maps_at_once(staff: Caller, alice: User) -> None:
    server = make_server(ip="192.0.2.1")
    relay_on(alice, server)
    sent = {"server_id": server.pk, "ip": "192.0.2.50"}
    assert staff.post("server/address", **sent)[1]["relays"] == 1
    assert staff.post("server/address", **sent)[1]["relays"] == 0, "it has it already"
    assert Caller(alice).get("container/list")[1]["items"][0]["ip"] == "192.0.2.50"
    assert refusal(staff.post("server/address", **(sent | {"ip": "300.1.1.1"}))) == (422, "invalid_input")


@pytest.mark.parametrize("udp_ok", [True, False])
def test_ports_are_tried_from_another_server(
    staff: Caller, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, udp_ok: bool
) -> None:
    target, other = (make_server(name, ip=f"192.0.2.{at}") for at, name in enumerate(("one", "two"), 1))
    Server.objects.update(runtime="docker", status="healthy", phase="healthy")
    seen: Mapping[str, Any] = {"tcp": True, "udp": udp_ok, "udp_error": "" if udp_ok else "timeout"}

    def run_task(_runtime: Any, task: TaskSpec) -> TaskResult:
        return TaskResult(0, json.dumps({task.args[-1]: seen}))

    monkeypatch.setattr(type(engine.runtime()), "run_task", run_task)
    status, answer = staff.post("server/check-ports", server_id=target.pk)
    assert (status, answer["tcp_ok"], answer["udp_ok"], answer["seen_from_id"]) == (200, True, udp_ok, other.pk)
    assert ("security group" in answer["message"]) is not udp_ok
    assert ServerEvent.objects.filter(server=target, kind="ports_checked").exists()
    assert refusal(staff.post("server/check-ports", server_id=target.pk, from_id=10**6)) == (404, "not_found")


def test_the_timeline_says_why_in_words_and_the_health_list_how_it_is(staff: Caller) -> None:
    server = make_server()
    lose(server)
    Server.objects.filter(pk=server.pk).update(error_code="timeout")
    newest = staff.get("server/events", server_id=server.pk, event="unhealthy")[1]["items"][0]
    assert (newest["message"], newest["detail"]) == ("lost", "The server took too long to answer.")
    (one,) = staff.get("server/health")[1]["items"]
    assert (one["phase"], one["status"], one["error"]) == ("unhealthy", "unhealthy", newest["detail"])
    assert one["advice"]
    assert refusal(staff.get("server/events", server_id=10**6)) == (404, "not_found")


@pytest.mark.parametrize("path", ["test", "drain", "undrain", "enable", "disable", "check-ports"])
def test_what_is_done_with_a_server_that_is_not_there_is_refused(staff: Caller, path: str) -> None:
    assert refusal(staff.post(f"server/{path}", server_id=10**6)) == (404, "not_found")
    assert refusal(staff.post(f"server/{path}")) == (422, "invalid_input")


def test_an_enrolment_script_is_made_for_the_host(staff: Caller) -> None:
    asked = {"address": "203.0.113.7", "portal_addresses": ["198.51.100.1"], "mirrors": ["https://mirror.example.com"]}
    status, answer = staff.post("server/enroll-script", **asked)
    assert (status, answer["endpoint"]) == (200, "tcp://203.0.113.7:2376")
    assert answer["script"].startswith("#!/usr/bin/env bash")
    over_ssh = staff.post("server/enroll-script", **asked, transport="ssh")[1]
    assert over_ssh["endpoint"].startswith("ssh://")
    assert authority().ssh_public_key.strip() in over_ssh["script"]
    assert "PRIVATE KEY" not in over_ssh["script"]


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"address": "$(reboot)"}, "invalid_enrolment"),
        ({"portal_addresses": ["everywhere"]}, "invalid_enrolment"),
        ({"portal_addresses": []}, "invalid_enrolment"),
        ({"transport": "carrier pigeon"}, "invalid_input"),
        ({"port_first": 80}, "invalid_input"),
    ],
)
def test_a_script_for_nonsense_is_refused(staff: Caller, wrong: dict[str, Any], code: str) -> None:
    asked = {"address": "203.0.113.7", "portal_addresses": ["198.51.100.1"]} | wrong
    status, said = refusal(staff.post("server/enroll-script", **asked))
    assert (status in (400, 422), said) == (True, code)


def test_the_portals_public_key_is_shown_and_never_its_private_one(staff: Caller) -> None:
    answer = staff.get("server/ssh-key")[1]
    assert answer["public_key"].startswith("ssh-")
    assert "PRIVATE" not in json.dumps(answer)


def test_a_lost_server_is_deleted_when_it_is_gone_for_good(staff: Caller) -> None:
    server = make_server()
    Server.objects.filter(pk=server.pk).update(containers=3)
    lose(Server.objects.get())
    assert refusal(staff.post("server/delete", server_id=server.pk)) == (409, "server_in_use")
    assert staff.post("server/delete", server_id=server.pk, gone_for_good=True)[0] == 200
    assert refusal(staff.post("server/delete", server_id=server.pk)) == (404, "not_found")


# --- relays ---------------------------------------------------------------------------------------


def test_a_relay_is_moved_by_hand_and_its_owner_reads_where_to(
    staff: Caller, alice: User, pair: tuple[Server, Server]
) -> None:
    relay = relay_on(alice, pair[0])
    (before,) = Caller(alice).get("container/list")[1]["items"]
    assert (before["moved_at"], before["moved_to"], before["last_move"]) == (None, None, None)
    for _twice in range(2):
        status, answer = staff.post("container/move", container_id=relay.pk, server_id=pair[1].pk)
        assert (status, answer["relay"]["server_id"]) == (200, pair[1].pk)
    assert Move.objects.count() == 1
    (under_way,) = Caller(alice).get("container/list")[1]["items"]
    assert (under_way["moved_at"], under_way["last_move"]["state"]) == (None, "placed")
    settle(relay)
    (after,) = Caller(alice).get("container/list")[1]["items"]
    assert (after["moved_to"], after["last_move"]["from_region"], after["is_primary"]) == ("sg", "hk", True)
    assert after["moved_at"] is not None
    assert (after["host"], after["cert_name"]) == (before["host"], before["cert_name"])


def test_a_relay_that_finds_no_room_elsewhere_stays(staff: Caller, alice: User) -> None:
    relay = relay_on(alice, make_server())
    status, answer = staff.post("container/move", container_id=relay.pk)
    assert refusal((status, answer)) == (409, "no_place")
    assert answer["error"]["reason"] in ("no_server", "no_room")
    assert not Move.objects.exists()
    assert refusal(staff.post("container/move", container_id=relay.pk, server_id=10**6)) == (404, "not_found")
    assert refusal(staff.post("container/move", container_id=10**6)) == (404, "not_found")


def test_an_attacked_customer_is_held_where_he_is_until_he_is_let_go(
    staff: Caller, alice: User, pair: tuple[Server, Server]
) -> None:
    relay = relay_on(alice, pair[0])
    for _twice in range(2):
        status, answer = staff.post("container/quarantine", group_id=relay.group_id, note="flood from everywhere")
        assert (status, answer["note"]) == (200, "flood from everywhere")
        assert answer["quarantined_at"] is not None
    lose(pair[0])
    (begun,) = staff.post("ha/failover")[1]["failovers"]
    carry_on(begun["id"])
    relay.refresh_from_db()
    assert relay.server_id == pair[0].pk
    for _twice in range(2):
        answer = staff.post("container/unquarantine", group_id=relay.group_id)[1]
        assert (answer["quarantined_at"], answer["note"]) == (None, "")
    assert refusal(staff.post("container/quarantine", group_id=10**6)) == (404, "not_found")
    too_long = staff.post("container/quarantine", group_id=relay.group_id, note="x" * 201)
    assert refusal(too_long) == (422, "invalid_input")
    services.release_group(group_id=relay.group_id, actor=None)
    assert refusal(staff.post("container/quarantine", group_id=relay.group_id)) == (409, "released")


def test_relays_are_limited_to_servers_and_move_there(staff: Caller, alice: User, pair: tuple[Server, Server]) -> None:
    relay = relay_on(alice, pair[0])
    for _twice in range(2):
        status, answer = staff.post("container/limit-servers", group_id=relay.group_id, server_ids=[pair[1].pk])
        assert (status, answer["server_ids"]) == (200, [pair[1].pk])
    relay.refresh_from_db()
    assert relay.server_id == pair[1].pk
    assert Move.objects.count() == 1
    unknown = staff.post("container/limit-servers", group_id=relay.group_id, server_ids=[10**6])
    assert refusal(unknown) == (404, "not_found")
    assert staff.post("container/limit-servers", group_id=relay.group_id, server_ids=[])[1]["server_ids"] == []


def test_standbys_are_told_from_the_primary(alice: User, pair: tuple[Server, Server]) -> None:
    bought = group(alice, relays=2)
    assert RelayGroup.objects.get() == bought
    listed = Caller(alice).get("container/list")[1]["items"]
    assert sorted(one["is_primary"] for one in listed) == [False, True]


# --- alerts ---------------------------------------------------------------------------------------


def test_alerts_are_read_in_ones_language_and_resolved_once(staff: Caller) -> None:
    server = make_server()
    alert = raise_alert(
        Alert.Kind.SERVER_LOST, severity=Alert.Severity.CRITICAL, subject="1", server=server, since="today"
    )
    (one,) = staff.get("alerts/list", resolved="false", alert_type="server_lost", severity="critical")[1]["items"]
    assert one["message"].startswith("Server one has not answered since today")
    assert (one["server_id"], one["resolved"]) == (server.pk, False)
    for _twice in range(2):
        assert staff.post("alerts/resolve", alert_id=alert.pk) == (200, {"success": True, "alert_id": alert.pk})
    assert staff.get("alerts/list", resolved="false")[1]["total"] == 0
    assert staff.get("alerts/list", resolved="true", server_id=server.pk)[1]["total"] == 1
    assert AuditEntry.objects.filter(event="alert.resolved").count() == 1
    assert refusal(staff.post("alerts/resolve", alert_id=10**6)) == (404, "not_found")
    assert refusal(staff.get("alerts/list", severity="loud")) == (422, "invalid_input")
