"""The API for serials, leases, plans and maps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import ANY

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import AuditEntry, Notification, User
from derp_portal.lib.clock import now
from fleet import services as fleet
from fleet.models import Relay
from serials import services
from serials.codes import canonical
from serials.models import Lease, Plan, SerialNumber
from tests.api_client import Caller, make_batch, make_code, make_server, other_plan

pytestmark = pytest.mark.django_db


def refusal(answer: tuple[int, Any]) -> tuple[int, str]:
    status, body = answer
    assert body["success"] is False
    assert body["error"]["message"]
    return status, body["error"]["code"]


def test_staff_generates_serials_and_a_customer_redeems_one_for_a_relay(root: User, alice: User) -> None:
    make_server()
    status, made = Caller(root).post("serial/generate", duration_days=30, count=3)
    assert (status, len(made["serial_numbers"])) == (200, 3)
    status, answer = Caller(alice).post("serial/activate", code=made["serial_numbers"][0].lower())
    lease, relay = Lease.objects.get(user=alice), Relay.objects.get(owner=alice)
    assert status == 200
    assert answer == {
        "success": True,
        "lease": {"id": lease.pk, "status": "active", "expires_at": ANY},
        "relays": [{"id": relay.pk, "code": relay.code, "status": "starting"}],
    }
    assert datetime.fromisoformat(answer["lease"]["expires_at"]) == lease.ends_at.replace(
        microsecond=lease.ends_at.microsecond // 1000 * 1000
    )


def test_a_second_serial_adds_its_days_to_the_same_lease(alice: User) -> None:
    caller = Caller(alice)
    _status, first = caller.post("serial/activate", code=make_code(30))
    _status, second = caller.post("serial/activate", code=make_code(30))
    ends = [datetime.fromisoformat(answer["lease"]["expires_at"]) for answer in (first, second)]
    assert first["lease"]["id"] == second["lease"]["id"]
    assert ends[1] - ends[0] == timedelta(days=30)


@pytest.mark.parametrize(("sent", "name"), [("  Office \t 2 ", "Office 2"), ("   ", "My relay")])
def test_a_name_is_taken_without_the_space_around_it(alice: User, sent: str, name: str) -> None:
    Caller(alice).post("serial/activate", code=make_code(), how="new", lease_name=sent)
    assert Lease.objects.get().name == name


def test_a_second_lease_has_a_name_of_its_own(alice: User) -> None:
    caller = Caller(alice)
    caller.post("serial/activate", code=make_code())
    caller.post("serial/activate", code=make_code(), how="new", lease_name="Office")
    assert set(Lease.objects.values_list("name", flat=True)) == {"My relay", "Office"}


def test_each_unfit_serial_has_a_code_of_its_own_and_changes_nothing(alice: User, bob: User, root: User) -> None:
    caller = Caller(alice)
    used, withdrawn, late = make_code(), make_code(), make_code(activate_before=now() + timedelta(hours=1))
    services.activate(user=bob, code=used)
    Caller(root).post("serial/revoke", codes=[withdrawn])
    SerialNumber.objects.filter(code=canonical(late)).update(expires_at=now())
    assert refusal(caller.post("serial/activate", code=used)) == (409, "serial_used")
    assert refusal(caller.post("serial/activate", code=withdrawn)) == (410, "serial_revoked")
    assert refusal(caller.post("serial/activate", code=late)) == (410, "serial_expired")
    assert refusal(caller.post("serial/activate", code="nonsense")) == (400, "serial_malformed")
    assert refusal(caller.post("serial/activate")) == (422, "invalid_input")
    assert not Lease.objects.filter(user=alice).exists()


def test_guessing_serials_is_slowed_down(alice: User) -> None:
    caller = Caller(alice)
    # Guesses are counted by the minute; none may end between two of them.
    with time_machine.travel(now(), tick=False):
        answers = [caller.get("serial/status", code="guess") for _number in range(12)]
        assert refusal(answers[0]) == (400, "serial_malformed")
        assert refusal(answers[-1]) == (429, "rate_limited")
        assert refusal(caller.post("serial/verify", code="guess")) == (429, "rate_limited")


def test_preview_shows_every_way_and_changes_nothing(alice: User) -> None:
    services.activate(user=alice, code=make_code(30))
    code = make_code(10, plan=other_plan())
    status, answer = Caller(alice).post("serial/preview", code=code)
    assert (status, answer["plan"], answer["duration_days"]) == (200, "other", 10)
    assert [effect["how"] for effect in answer["effects"]] == ["queue", "convert", "new"]
    assert answer["effects"][1]["converted_seconds"] > 0
    assert SerialNumber.objects.get(code=canonical(code)).status == "unused"


def test_a_serial_tells_its_owner_and_staff_all_and_strangers_only_its_status(
    alice: User, bob: User, root: User
) -> None:
    code = make_code()
    services.activate(user=alice, code=code)
    for reader in (alice, root):
        _status, answer = Caller(reader).get("serial/status", code=code)
        assert (answer["serial"]["user_id"], answer["serial"]["status"]) == (alice.pk, "used")
        assert answer["serial"]["lease_id"] == Lease.objects.get().pk
    _status, answer = Caller(bob).get("serial/status", code=code)
    assert {name: value for name, value in answer["serial"].items() if value is not None} == {
        "code": code,
        "status": "used",
    }


def test_the_list_of_serials_is_ones_own_and_staff_may_filter_all(alice: User, bob: User, root: User) -> None:
    batch = make_batch(3)
    mine = batch.serials.first()
    assert mine is not None
    services.activate(user=alice, code=mine.code)
    assert [one["id"] for one in Caller(alice).get("serial/list")[1]["items"]] == [mine.pk]
    assert Caller(bob).get("serial/list")[1]["total"] == 0
    assert refusal(Caller(bob).get("serial/list", user_id=alice.pk)) == (404, "not_found")
    staff = Caller(root)
    asked: list[tuple[dict[str, Any], int]] = [
        ({}, 3),
        ({"status": "unused"}, 2),
        ({"batch_id": batch.pk}, 3),
        ({"user_id": alice.pk}, 1),
        ({"plan": "no-such"}, 0),
        ({"q": "ALICE@EX"}, 1),  # Three letters alone may well stand in somebody's code.
        ({"q": mine.code[2:12].lower()}, 1),
        ({"q": "--"}, 0),
        ({"page": 2, "per_page": 2}, 3),
    ]
    for filters, total in asked:
        status, answer = staff.get("serial/list", **filters)
        assert (status, answer["total"]) == (200, total), filters
    assert refusal(staff.get("serial/list", per_page=201)) == (422, "invalid_input")


def test_an_administrator_without_the_staff_scope_sees_what_a_customer_would(alice: User, root: User) -> None:
    services.activate(user=alice, code=make_code())
    assert Caller(root, "serials").get("serial/list")[1]["total"] == 0
    assert refusal(Caller(root, "serials").post("serial/generate")) == (403, "missing_scope")


def test_revoking_a_batch_leaves_used_serials_alone(alice: User, root: User) -> None:
    batch = make_batch(3)
    first = batch.serials.first()
    assert first is not None
    services.activate(user=alice, code=first.code)
    assert Caller(root).post("serial/revoke", batch_id=batch.pk) == (200, {"success": True, "revoked": 2})
    assert Caller(root).post("serial/revoke", batch_id=batch.pk) == (200, {"success": True, "revoked": 0})


def test_revoking_with_an_unknown_code_changes_nothing(root: User) -> None:
    code = make_code()
    assert refusal(Caller(root).post("serial/revoke", codes=[code, "nonsense"])) == (404, "serial_unknown")
    assert refusal(Caller(root).post("serial/revoke")) == (422, "invalid_input")
    assert SerialNumber.objects.get().status == "unused"


def test_a_binding_is_verified_against_user_relay_and_server(alice: User, bob: User, root: User) -> None:
    server = make_server()
    code = make_code()
    services.activate(user=alice, code=code)
    relay = Relay.objects.get()
    cases: list[tuple[Caller, dict[str, Any], tuple[bool, str]]] = [
        (Caller(alice), {}, (True, "")),
        (Caller(alice), {"relay": relay.code, "server_id": server.pk}, (True, "")),
        (Caller(alice), {"relay": "rnosuch"}, (False, "other_relay")),
        (Caller(alice), {"server_id": server.pk + 1}, (False, "other_server")),
        (Caller(bob), {}, (False, "other_user")),
        (Caller(root), {"user_id": alice.pk}, (True, "")),
    ]
    for caller, asked, expected in cases:
        _status, answer = caller.post("serial/verify", code=code, **asked)
        assert (answer["valid"], answer["reason"]) == expected
    assert refusal(Caller(bob).post("serial/verify", code=code, user_id=alice.pk)) == (404, "not_found")


@pytest.mark.parametrize(
    ("said", "end"),
    [
        ({"end_date": "2031-05-31"}, datetime(2031, 5, 31, 16, tzinfo=UTC)),
        ({"until": "2031-05-31T18:00:00+02:00"}, datetime(2031, 5, 31, 16, tzinfo=UTC)),
        ({"until": "2031-06-01T00:00"}, datetime(2031, 5, 31, 16, tzinfo=UTC)),
    ],
)
def test_staff_renews_a_user_to_the_end_of_a_day_in_the_operators_zone(
    root: User, alice: User, said: dict[str, str], end: datetime
) -> None:
    status, answer = Caller(root).post("user/renew", user_id=alice.pk, **said)
    alice.refresh_from_db()
    assert status == 200
    assert datetime.fromisoformat(answer["rental_expiry"]) == end == alice.rental_expiry
    assert answer["lease"]["terms"][0]["source"] == "staff"


def test_renewing_to_an_earlier_day_or_without_one_is_refused(root: User, alice: User) -> None:
    caller = Caller(root)
    services.activate(user=alice, code=make_code(30))
    tomorrow = (now() + timedelta(days=1)).isoformat()
    assert refusal(caller.post("user/renew", user_id=alice.pk, until=tomorrow)) == (409, "date_too_early")
    assert refusal(caller.post("user/renew", user_id=alice.pk)) == (422, "invalid_input")
    assert refusal(caller.post("user/renew", user_id=alice.pk, until="9999-12-31")) == (422, "invalid_input")
    assert refusal(caller.post("user/renew", user_id=alice.pk, until="soon")) == (422, "invalid_input")
    assert refusal(caller.post("user/renew", user_id=10**6, until="2031-01-01")) == (404, "not_found")
    answer = caller.post("user/renew", user_id=alice.pk, until="2031-01-01", plan="nosuch")
    assert refusal(answer) == (422, "unknown_plan")


def test_plans_on_offer_are_shown_to_everybody_and_hidden_ones_are_not(db: None) -> None:
    Plan.objects.create(code="secret", name="Secret", days=1, is_public=False)
    status, answer = Caller(None).get("plan/list")
    assert status == 200
    assert {3, 5, 30, 365} <= {one["days"] for one in answer["items"]}
    assert "secret" not in {one["code"] for one in answer["items"]}


def test_ending_a_lease_stops_its_relays(root: User, alice: User) -> None:
    make_server()
    _serial, lease = services.activate(user=alice, code=make_code())
    caller = Caller(root)
    assert caller.get("lease/list")[1]["items"][0]["end_reason"] is None
    first = caller.post("lease/end", lease_id=lease.pk, note="refunded")
    status, answer = caller.post("lease/end", lease_id=lease.pk, note="again")
    assert (status, answer) == first
    assert (answer["lease"]["status"], answer["lease"]["end_reason"]) == ("ended", "staff")
    assert AuditEntry.objects.get(event="lease.ended").data["note"] == "refunded"
    assert [relay["status"] for relay in answer["lease"]["relays"]] == ["stopped"]
    assert refusal(Caller(root).post("lease/end", lease_id=10**6)) == (404, "not_found")


def test_no_caller_makes_an_ended_lease_look_expired(root: User, alice: User) -> None:
    _serial, lease = services.activate(user=alice, code=make_code())
    _status, answer = Caller(root).post("lease/end", lease_id=lease.pk, reason="expired")
    assert (answer["lease"]["status"], answer["lease"]["end_reason"]) == ("ended", "staff")


def test_staff_has_a_notice_about_a_lease_sent(root: User, alice: User) -> None:
    _serial, lease = services.activate(user=alice, code=make_code())
    caller = Caller(root)
    for kind in ("reminder", "renewed"):
        status, answer = caller.post("lease/notify", lease_id=lease.pk, kind=kind)
        assert status == 200
        sent = Notification.objects.get(pk=answer["notification_id"])
        assert (sent.user, sent.kind) == (alice, f"lease_{kind}")
    assert refusal(caller.post("lease/notify", lease_id=lease.pk, kind="birthday")) == (422, "invalid_input")
    assert refusal(caller.post("lease/notify", lease_id=10**6, kind="renewed")) == (404, "not_found")
    caller.post("lease/end", lease_id=lease.pk)
    assert refusal(caller.post("lease/notify", lease_id=lease.pk, kind="reminder")) == (409, "lease_ended")


def test_lists_take_the_same_number_of_queries_however_long_they_are(alice: User, root: User) -> None:
    make_server()
    make_server("two", "127.0.0.2", "sg")
    staff = Caller(root)
    paths = ["serial/list", "lease/list", "container/list", "server/list", "region/list", "plan/list"]

    def queries() -> dict[str, int]:
        counts = {}
        for path in paths:
            staff.get(path)  # Once a minute a call notes that the token was used.
            with CaptureQueriesContext(connection) as captured:
                assert staff.get(path)[0] == 200
            counts[path] = len(captured)
        return counts

    services.activate(user=alice, code=make_code())
    before = queries()
    for _number in range(4):
        services.activate(user=alice, code=make_code(), how=services.How.NEW)
    assert queries() == before
    assert max(before.values()) <= 9


def test_the_map_comes_in_three_spellings_with_its_secret_address(alice: User) -> None:
    make_server(ip="203.0.113.7")
    _serial, lease = services.activate(user=alice, code=make_code())
    status, answer = Caller(alice).get("acl/derpmap")
    relay = Relay.objects.get()
    assert (status, answer["lease_id"]) == (200, lease.pk)
    node = answer["derp_map"]["Regions"]["950"]["Nodes"][0]
    assert (node["HostName"], node["CertName"], node["IPv4"]) == (relay.host_name, relay.pin, "203.0.113.7")
    assert relay.host_name in answer["headscale_yaml"]
    assert answer["policy"].startswith('"derpMap": {')
    assert answer["map_url"].endswith(".json")


def test_with_two_leases_the_map_must_be_chosen_and_strangers_see_none(alice: User, bob: User, root: User) -> None:
    make_server()
    caller = Caller(alice)
    assert refusal(caller.get("acl/derpmap")) == (404, "no_relays")
    first = services.activate(user=alice, code=make_code())[1]
    second = services.activate(user=alice, code=make_code(), how=services.How.NEW)[1]
    status, answer = caller.get("acl/derpmap")
    assert refusal((status, answer)) == (400, "lease_id_required")
    assert {one["lease_id"] for one in answer["error"]["choices"]} == {first.pk, second.pk}
    for reader in (caller, Caller(root)):
        assert reader.get("acl/derpmap", lease_id=second.pk)[1]["lease_id"] == second.pk
        assert reader.get("acl/derpmap", group_id=second.relay_group_id)[1]["lease_id"] == second.pk
    assert refusal(Caller(bob).get("acl/derpmap", lease_id=second.pk)) == (404, "not_found")
    assert refusal(Caller(bob).get("acl/derpmap", group_id=second.relay_group_id)) == (404, "not_found")


def test_a_relay_without_a_place_has_no_map_yet(alice: User) -> None:
    _serial, lease = services.activate(user=alice, code=make_code())
    assert refusal(Caller(alice).get("acl/derpmap")) == (503, "no_place")
    fleet.release_group(group_id=lease.relay_group_id, actor=None)
    assert refusal(Caller(alice).get("acl/derpmap", lease_id=lease.pk)) == (410, "gone")


def test_a_relay_of_a_running_lease_is_not_released(alice: User, root: User) -> None:
    make_server()
    _serial, lease = services.activate(user=alice, code=make_code())
    relay = Relay.objects.get()
    assert refusal(Caller(root).post("container/release", container_id=relay.pk)) == (409, "lease_active")
    services.end_lease(lease_id=lease.pk, reason=Lease.EndReason.STAFF, actor=root)
    assert Caller(root).post("container/release", container_id=relay.pk)[0] == 200
    lease.refresh_from_db()
    assert lease.released_at is not None
    # The next serial opens a new lease rather than one whose relays are gone.
    assert services.activate(user=alice, code=make_code())[1].pk != lease.pk
