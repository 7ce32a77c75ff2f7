"""The API for monitoring: what operators and their programs read of servers and relays."""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import User
from derp_portal.lib.clock import now
from fleet import services
from fleet.models import Measurement, Metric, Relay, RelayHealth, Server, ServerLoad, Traffic
from fleet.services.phases import enter
from tests.api_client import Caller, make_server, see_running

pytestmark = pytest.mark.django_db

PATHS = ["monitoring/logs", "monitoring/load_analysis", "monitoring/realtime", "monitoring/health"]


@pytest.fixture
def staff(root: User) -> Caller:
    return Caller(root)


def measured(host: Server, *, cpu: float = 20.0, minutes_ago: int = 0, span: str = "reading") -> Measurement:
    moment = now() - timedelta(minutes=minutes_ago)
    return Measurement.objects.create(
        server=host, metric=Metric.CPU, span=span, value=cpu, highest=cpu + 1, timestamp=moment
    )


def relay_on(host: Server, owner: User) -> Relay:
    relay = services.allocate(owner=owner, server=host, run_until=now() + timedelta(days=1), actor=owner)
    see_running(relay)
    return relay


def total(staff: Caller, path: str, **filters: Any) -> int:
    status, answer = staff.get(path, **filters)
    assert status == 200, answer
    return int(answer["total"])


def test_the_log_is_found_by_server_metric_span_and_time(staff: Caller) -> None:
    one, two = make_server(), make_server("two", ip="192.0.2.2")
    oldest = measured(one, minutes_ago=90)
    newest = measured(one, cpu=55.0)
    measured(two, minutes_ago=5)
    measured(one, span="hour", minutes_ago=60)
    status, answer = staff.get("monitoring/logs", server_id=one.pk)
    assert (status, answer["success"], answer["total"]) == (200, True, 2)
    first = answer["items"][0]
    assert (first["server_id"], first["metric"], first["span"]) == (one.pk, "cpu", "reading")
    assert (first["value"], first["highest"]) == (55.0, 56.0)
    hour_ago = (now() - timedelta(hours=1)).isoformat()
    assert total(staff, "monitoring/logs") == 3
    assert total(staff, "monitoring/logs", span="hour") == 1
    assert total(staff, "monitoring/logs", metric="memory") == total(staff, "monitoring/logs", span="day") == 0
    assert total(staff, "monitoring/logs", since=hour_ago) == 2
    day = timezone.localdate(oldest.timestamp).isoformat()
    assert total(staff, "monitoring/logs", since=day) == 3, "a date is the beginning of that day"
    assert total(staff, "monitoring/logs", until=hour_ago, server_id=one.pk, metric="cpu") == 1
    assert staff.get("monitoring/logs", page=2, per_page=2)[1]["pages"] == 2
    assert newest.pk
    for wrong in ({"metric": "mood"}, {"span": "week"}, {"since": "yesterday"}, {"page": 0}):
        assert staff.get("monitoring/logs", **wrong)[0] == 422


def test_a_long_log_is_counted_no_further_than_it_is_paged(staff: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    host = make_server()
    for minute in range(6):
        measured(host, minutes_ago=minute)
    # In its package the router of that name hides the module.
    monkeypatch.setattr(import_module("fleet.api.monitoring"), "MOST_ROWS", 4)
    answer = staff.get("monitoring/logs", per_page=3, page=2)[1]
    assert (answer["total"], answer["pages"], len(answer["items"])) == (4, 2, 1)


def test_the_analysis_says_what_is_left_and_what_to_do(staff: Caller, alice: User) -> None:
    host = make_server(max_relays=2)
    relay_on(host, alice)
    ServerLoad.objects.create(server=host, cpu_percent=97.0, measured_at=now())
    measured(host, cpu=97.0)
    status, answer = staff.get("monitoring/load_analysis")
    assert (status, answer["success"], answer["total"]) == (200, True, 1)
    (one,) = answer["load_analysis"]
    assert (one["server_id"], one["is_current"], one["current"]["cpu"], one["p95"]) == (
        host.pk,
        True,
        97.0,
        {"cpu": 97.0},
    )
    assert one["trend"]["cpu"] == {"recent": 97.0, "before": None, "change": None}
    assert (one["relays"], one["running"], one["headroom"]["places"]) == (1, 1, 1)
    assert (one["advice"], one["reason"]) == ("drain", "cpu")
    assert one["words"] == "Customers feel it (CPU): move relays away from here."
    assert total(staff, "monitoring/load_analysis", region="sg") == 0
    Server.objects.update(is_draining=True)
    assert staff.get("monitoring/load_analysis")[1]["load_analysis"][0]["advice"] == "fine"


def test_realtime_shows_the_latest_of_each_server_and_what_its_relays_carry(staff: Caller, alice: User) -> None:
    host = make_server()
    never = make_server("two", ip="192.0.2.2")
    relay = relay_on(host, alice)
    long_ago = now() - timedelta(hours=3)
    ServerLoad.objects.create(server=host, memory_percent=40.0, error="timeout", measured_at=long_ago)
    for minutes, sent in ((5, 100), (20, 10), (200, 1)):
        Traffic.objects.create(
            relay=relay,
            server=host,
            span=Traffic.Span.READING,
            starts_at=now() - timedelta(minutes=minutes),
            upload_bytes=sent,
            download_bytes=2 * sent,
        )
    answer = staff.get("monitoring/realtime")[1]
    shown = {one["server_id"]: one for one in answer["items"]}
    assert shown[host.pk]["traffic"] == {"upload_bytes": 110, "download_bytes": 220}
    assert (shown[host.pk]["is_current"], shown[host.pk]["error_code"], shown[host.pk]["running"]) == (
        False,
        "timeout",
        1,
    )
    assert shown[host.pk]["error"] == "The server took too long to answer."
    assert (shown[never.pk]["measured_at"], shown[never.pk]["figures"]["cpu"]) == (None, None)
    assert total(staff, "monitoring/realtime", server_id=never.pk) == 1


def test_health_shows_every_relay_that_there_is_and_servers_in_trouble(staff: Caller, alice: User) -> None:
    host, lost = make_server(), make_server("two", ip="192.0.2.2", region="sg")
    well, ill = relay_on(host, alice), relay_on(lost, alice)
    RelayHealth.objects.filter(relay=ill).update(status="unhealthy", error="timeout", failures=4)
    enter(lost, Server.Phase.SUSPECT, "timeout")
    answer = staff.get("monitoring/health")[1]
    assert {one["relay"]: one["status"] for one in answer["items"]} == {well.code: "healthy", ill.code: "unhealthy"}
    assert answer["phases"] == {"healthy": 1, "suspect": 1, "unhealthy": 0, "recovered": 0}
    assert [(one["server"], one["phase"]) for one in answer["servers"]] == [("two", "suspect")]
    (found,) = staff.get("monitoring/health", status="unhealthy")[1]["items"]
    assert (found["error_code"], found["failures"], found["server_id"]) == ("timeout", 4, lost.pk)
    assert found["error"] == "The server took too long to answer."
    for wanted in ({"server_id": host.pk}, {"region": "hk"}, {"phase": "healthy"}, {"container_id": well.pk}):
        (only,) = staff.get("monitoring/health", **wanted)[1]["items"]
        assert only["relay"] == well.code, wanted
    Relay.objects.filter(pk=well.pk).update(released_at=now())
    assert total(staff, "monitoring/health") == 1


def test_no_answer_asks_more_of_the_database_when_there_is_more(staff: Caller, alice: User) -> None:
    def grow(*numbers: int) -> None:
        for number in numbers:
            host = make_server(f"host {number}", ip=f"192.0.2.{number}")
            relay_on(host, alice)
            ServerLoad.objects.create(server=host, cpu_percent=10.0, measured_at=now())
            measured(host)

    def count(path: str) -> int:
        staff.get(path)  # Once a minute a call notes that the token was used.
        with CaptureQueriesContext(connection) as seen:
            assert staff.get(path)[0] == 200
        return len(seen)

    grow(1)
    few = {path: count(path) for path in PATHS}
    grow(2, 3, 4, 5, 6)
    assert {path: count(path) for path in PATHS} == few
    assert max(few.values()) <= 10
