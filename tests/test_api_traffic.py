"""The API for traffic: usage, rates, sums, who is over, limits of users and servers, packs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import User
from derp_portal.lib.clock import now
from fleet import services
from fleet.models import Meter, QuotaPeriod, Relay, RelayGroup, Server, Traffic, TrafficPack, UserLimit
from fleet.services.groups import OVER_QUOTA
from fleet.services.quota_keeping import judge_group
from fleet.services.quotas import present_periods
from tests.api_client import Caller, make_server
from tests.fleet.booking import GB, booked
from tests.fleet.fleet_parts import group, only_relay
from tests.serials.shop import START

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def noon() -> Iterator[None]:
    """The clock stands: what is booked now is of today and of the last minutes when it is asked for, too."""
    with time_machine.travel(START, tick=False):
        yield


@pytest.fixture
def staff(root: User) -> Caller:
    return Caller(root)


@pytest.fixture
def relay(alice: User) -> Relay:
    """alice's, of a group that may use a hundred gigabytes."""
    make_server()
    made = group(alice, quota_bytes=100 * GB, period=(now() - timedelta(hours=3), now() + timedelta(days=30)))
    return only_relay(made)


def use(relay: Relay, used: int) -> None:
    """Its group has used so much, and is judged for it."""
    period = present_periods([RelayGroup.objects.get(pk=relay.group_id)])[relay.group_id]
    QuotaPeriod.objects.filter(pk=period.pk).update(used_bytes=used)
    judge_group(relay.group_id)


def code_of(answer: tuple[int, Any]) -> tuple[int, str]:
    return answer[0], answer[1]["error"]["code"]


def test_usage_tells_today_the_period_all_and_the_quota(alice: User, relay: Relay) -> None:
    booked(relay, now(), 3, 4, unmeasured=5)
    use(relay, 7)
    Relay.objects.filter(pk=relay.pk).update(upload_bytes=30, download_bytes=40)
    [one] = Caller(alice).get("container/usage")[1]["items"]
    assert (one["container_id"], one["relay"], one["user_id"]) == (relay.pk, relay.code, alice.pk)
    assert one["today"] == one["period"] == {"upload_bytes": 3, "download_bytes": 4, "unmeasured_seconds": 5}
    assert (one["total_upload_bytes"], one["total_download_bytes"]) == (30, 40)
    quota = one["quota"]
    assert (quota["used_bytes"], quota["limit_bytes"], quota["left_bytes"]) == (7, 100 * GB, 100 * GB - 7)


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("container/usage", "container_id"),
        ("container/usage", "relay_id"),
        ("traffic/realtime", "container_id"),
    ],
)
def test_a_strangers_relay_does_not_exist(alice: User, bob: User, relay: Relay, path: str, query: str) -> None:
    assert Caller(alice).get(path, **{query: relay.pk})[0] == 200
    assert code_of(Caller(bob).get(path, **{query: relay.pk})) == (404, "not_found")
    assert Caller(bob).get(path)[1]["items"] == []


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("traffic/realtime", {"by": "server"}),
        ("traffic/statistics", {"by": "server"}),
        ("traffic/statistics", {"by": "user"}),
        ("traffic/statistics", {"server_id": 1}),
    ],
)
def test_servers_and_other_people_are_nothing_to_a_customer(alice: User, path: str, query: dict[str, Any]) -> None:
    assert code_of(Caller(alice).get(path, **query)) == (404, "not_found")


def test_rates_of_relays_and_servers(staff: Caller, alice: User, relay: Relay) -> None:
    moment = now()
    Meter.objects.create(relay=relay, generation=1, read_at=moment)
    for minute in range(1, 6):
        booked(relay, moment - timedelta(minutes=minute, seconds=-5), 60_000, spans=(Traffic.Span.READING,))
    [one] = Caller(alice).get("traffic/realtime")[1]["items"]
    assert (one["id"], one["name"]) == (relay.pk, relay.code)
    assert one["upload_bytes_per_second"] == pytest.approx(1000, rel=0.05)
    [server] = staff.get("traffic/realtime", by="server")[1]["items"]
    assert server["download_bytes_per_second"] == pytest.approx(1000, rel=0.05)


def test_statistics_by_everything_and_for_some_days(staff: Caller, alice: User, bob: User, relay: Relay) -> None:
    booked(relay, now(), 3)
    booked(relay, now() - timedelta(days=2), 10)
    for by, key in (("relay", relay.pk), ("server", relay.server_id), ("user", alice.pk)):
        [row] = staff.get("traffic/statistics", by=by)[1]["items"]
        assert (row["id"], row["upload_bytes"]) == (key, 13), by
    days = Caller(alice).get("traffic/statistics")[1]["items"]
    assert [day["upload_bytes"] for day in days] == [3, 10]
    assert days[0]["day"] == now().date().isoformat()
    since = (now() - timedelta(days=1)).isoformat()
    assert [day["upload_bytes"] for day in staff.get("traffic/statistics", since=since)[1]["items"]] == [3]
    today = now().date().isoformat()
    assert [day["day"] for day in staff.get("traffic/statistics", since=today)[1]["items"]] == [today]
    assert staff.get("traffic/statistics", since="yesterday")[0] == 422
    assert Caller(bob).get("traffic/statistics")[1]["items"] == []
    assert staff.get("traffic/statistics", per_page=1)[1]["pages"] == 2


def test_over_limit_names_groups_and_servers(staff: Caller, relay: Relay) -> None:
    assert staff.get("traffic/over_limit")[1]["items"] == []
    use(relay, 100 * GB)
    Server.objects.update(allowance_bytes=10, allowance_used_bytes=11)
    answer = staff.get("traffic/over_limit")[1]
    [one] = answer["items"]
    assert (one["group_id"], one["username"], one["relays"]) == (relay.group_id, "alice", 1)
    assert one["over_quota_since"]
    assert [found["server_id"] for found in answer["servers"]] == [relay.server_id]


@pytest.mark.django_db(transaction=True)
def test_a_users_limit_stops_starts_and_is_removed(staff: Caller, alice: User, relay: Relay) -> None:
    use(relay, 10 * GB)
    status, answer = staff.post("traffic/limit", user_id=alice.pk, quota_bytes=GB, note="abuse")
    assert (status, answer["is_limited"], answer["quota_bytes"]) == (200, True, GB)
    assert RelayGroup.objects.get().wanted_reason == OVER_QUOTA
    assert staff.post("traffic/limit", user_id=alice.pk, quota_bytes=None)[1]["is_limited"] is True
    assert RelayGroup.objects.get().wanted_reason == ""
    for _twice in range(2):
        assert staff.post("traffic/limit", user_id=alice.pk, remove=True)[1]["is_limited"] is False
    assert not UserLimit.objects.exists()


@pytest.mark.parametrize("sent", [{}, {"quota_bytes": 5, "remove": True}, {"quota_bytes": -1}])
def test_a_limit_that_says_nothing_or_both_is_refused(staff: Caller, alice: User, sent: dict[str, Any]) -> None:
    assert code_of(staff.post("traffic/limit", user_id=alice.pk, **sent)) == (422, "invalid_input")


def test_a_pack_sent_twice_counts_once_and_starts_the_relays(staff: Caller, relay: Relay) -> None:
    use(relay, 100 * GB)
    for where in ({"group_id": relay.group_id}, {"container_id": relay.pk}):
        status, answer = staff.post("traffic/pack", **where, bytes=5 * GB, key="order 7")
        assert (status, answer["quota"]["limit_bytes"]) == (200, 105 * GB)
        assert answer["quota"]["over_quota_since"] is None
    assert TrafficPack.objects.count() == 1
    assert RelayGroup.objects.get().wanted == "running"


def test_a_pack_of_nonsense_is_refused_in_words(staff: Caller, alice: User, relay: Relay) -> None:
    assert code_of(staff.post("traffic/pack", bytes=1, key="a")) == (422, "invalid_input")
    assert code_of(staff.post("traffic/pack", group_id=relay.group_id, bytes=0, key="a")) == (422, "invalid_input")
    assert code_of(staff.post("traffic/pack", group_id=10**6, bytes=1, key="a")) == (404, "not_found")
    free = group(alice)
    assert code_of(staff.post("traffic/pack", group_id=free.pk, bytes=1, key="a")) == (409, "no_limit")
    services.release_group(group_id=relay.group_id, actor=None)
    assert code_of(staff.post("traffic/pack", group_id=relay.group_id, bytes=1, key="a")) == (409, "released")


def test_a_servers_traffic_is_seen_and_limited(staff: Caller, relay: Relay) -> None:
    booked(relay, now(), 3, 4)
    [one] = staff.get("server/traffic")[1]["items"]
    assert (one["today"]["download_bytes"], one["allowance_bytes"], one["is_over"]) == (4, None, False)
    sent = {"server_id": relay.server_id, "allowance_bytes": 5 * GB, "allowance_reset_day": 15}
    changed = staff.post("server/traffic", **sent, billed_direction="out")[1]["server"]
    assert (changed["allowance_bytes"], changed["allowance_reset_day"], changed["billed_direction"]) == (
        5 * GB,
        15,
        "out",
    )
    kept = staff.post("server/traffic", server_id=relay.server_id, allowance_reset_day=1)[1]["server"]
    assert (kept["allowance_bytes"], kept["allowance_reset_day"]) == (5 * GB, 1)
    lifted = staff.post("server/traffic", server_id=relay.server_id, allowance_bytes=None)[1]["server"]
    assert lifted["allowance_bytes"] is None


def test_no_list_asks_more_of_the_database_when_there_is_more(staff: Caller, alice: User) -> None:
    def grow(count: int, start: int = 0) -> None:
        for number in range(start, start + count):
            make_server(f"server {number}", ip=f"192.0.2.{number + 1}", endpoint="")
            made = group(alice, quota_bytes=GB)
            relay = only_relay(made)
            Meter.objects.create(relay=relay, generation=1, read_at=now())
            for day in range(number + 1):
                booked(relay, now() - timedelta(days=day), 5)
            booked(relay, now(), 5, spans=(Traffic.Span.READING,))
            use(relay, GB)

    paths = [
        *("container/usage", "traffic/realtime", "traffic/realtime?by=server", "traffic/statistics"),
        *("traffic/statistics?by=user", "traffic/over_limit", "server/traffic"),
    ]

    def questions(path: str) -> int:
        staff.get(path)
        with CaptureQueriesContext(connection) as asked:
            status, answer = staff.get(path)
        assert status == 200
        assert answer["items"]
        return len(asked)

    grow(1)
    few = {path: questions(path) for path in paths}
    grow(6, start=1)
    assert {path: questions(path) for path in paths} == few
