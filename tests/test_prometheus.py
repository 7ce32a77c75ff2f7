"""/metrics: who may read it, what it says, and that dashboards and alerts ask for nothing that is not there."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from prometheus_client.parser import text_string_to_metric_families

from accounts.models import User
from accounts.services import note_failure
from accounts.tasks import deliver_notification
from derp_portal import prometheus
from derp_portal.lib.clock import now
from fleet.models import Alert, Meter, Relay
from fleet.services.alerts import raise_alert
from serials import services as serials
from tests.api_client import make_code, make_server, see_running
from tests.conftest import make_user

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
NAME = re.compile(r"\bderp_portal_\w+")
OUTSIDE: dict[str, Any] = {"REMOTE_ADDR": "203.0.113.9"}
BESIDE: dict[str, Any] = {"REMOTE_ADDR": "127.0.0.1"}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that is there is given the time it takes, however busy the machine is."""
    monkeypatch.setattr(prometheus, "BROKER_SECONDS", 60.0)


def figures(client: Client) -> dict[str, float]:
    """Every sample, named as in the text."""
    text = client.get("/metrics", **BESIDE).text
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


@pytest.fixture
def relay(alice: User) -> Relay:
    """alice's, running and carrying."""
    make_server()
    serials.activate(user=alice, code=make_code(days=3))
    relay = Relay.objects.get()
    see_running(relay)
    Relay.objects.update(upload_bytes=1000, download_bytes=2**40)
    return relay


def test_it_counts_the_fleet_the_leases_and_the_people(client: Client, relay: Relay, root: User) -> None:
    raise_alert(Alert.Kind.NO_ROOM, severity=Alert.Severity.CRITICAL, subject="fleet", count=1)
    Meter.objects.update_or_create(
        relay=relay, generation=relay.generation, defaults={"next_read_at": now() - timedelta(minutes=6)}
    )
    note_failure(task="t", task_id="1", error="e")
    said = figures(client)
    assert {name: said[name] for name in EXPECTED} == EXPECTED


EXPECTED = {
    "derp_portal_up{part=database}": 1,
    "derp_portal_up{part=broker}": 1,
    "derp_portal_servers{phase=healthy}": 1,
    "derp_portal_servers{phase=unhealthy}": 0,
    "derp_portal_relays{observed=running}": 1,
    "derp_portal_relays{observed=exited}": 0,
    "derp_portal_relays_wanted_running": 1,
    "derp_portal_relays_running": 1,
    "derp_portal_relays_unplaced": 0,
    "derp_portal_relays_unhealthy": 0,
    "derp_portal_alerts_open{severity=critical}": 1,
    "derp_portal_alerts_open{severity=warning}": 0,
    "derp_portal_evacuations_open": 0,
    "derp_portal_moves_open": 0,
    "derp_portal_leases_active": 1,
    "derp_portal_leases_ending": 1,
    "derp_portal_users{role=admin}": 1,
    "derp_portal_users{role=user}": 1,
    "derp_portal_traffic_bytes_total{direction=upload}": 1000,
    "derp_portal_traffic_bytes_total{direction=download}": 2**40,
    "derp_portal_meters_overdue": 1,
    "derp_portal_task_failures": 1,
}


def test_it_counts_what_waits_in_the_queues(client: Client, db: None) -> None:
    assert figures(client)["derp_portal_queue_length{queue=notify}"] == 0
    for number in range(3):
        deliver_notification.delay(number)
    said = figures(client)
    assert said["derp_portal_queue_length{queue=notify}"] == 3
    assert said["derp_portal_queue_length{queue=suspects}"] == 0


def test_a_scrape_asks_no_more_of_the_database_when_there_is_more(client: Client, relay: Relay) -> None:
    with CaptureQueriesContext(connection) as few:
        figures(client)
    for number in range(5):
        make_server(f"server {number}")
        serials.activate(user=make_user(f"customer{number}"), code=make_code())
    with CaptureQueriesContext(connection) as many:
        figures(client)
    assert len(many) == len(few) <= 12


def test_without_a_broker_the_rest_is_told(client: Client, db: None, settings: Any) -> None:
    settings.REDIS_URL = "unix:///nowhere/valkey.sock"
    said = figures(client)
    assert said["derp_portal_up{part=broker}"] == 0
    assert said["derp_portal_relays_wanted_running"] == 0
    assert "derp_portal_queue_length{queue=fleet}" not in said


def test_without_a_database_the_rest_is_told(client: Client, db: None) -> None:
    def away(*_: object) -> None:
        raise OperationalError("away")

    with connection.execute_wrapper(away):
        said = figures(client)
    assert said["derp_portal_up{part=database}"] == 0
    assert said["derp_portal_queue_length{queue=fleet}"] == 0
    assert "derp_portal_leases_active" not in said


def test_where_no_token_is_set_only_this_machine_and_operators_get_them(alice: User, root: User, settings: Any) -> None:
    settings.METRICS_TOKEN = ""
    assert status(None, **BESIDE) == 200
    assert status(None, **OUTSIDE) == 404
    assert status(None, **OUTSIDE, HTTP_AUTHORIZATION="Bearer ") == 404
    assert status(alice, **OUTSIDE) == 404
    assert status(root, **OUTSIDE) == 200
    assert status(make_user("helen", role="admin"), **OUTSIDE) == 404


def test_a_proxy_on_this_machine_does_not_make_strangers_neighbours(db: None, settings: Any) -> None:
    for hops in (0, 1):
        settings.TRUSTED_PROXIES = hops
        assert status(None, **BESIDE, HTTP_X_FORWARDED_FOR="203.0.113.9") == 404
        assert status(None, **BESIDE, HTTP_X_FORWARDED_FOR="127.0.0.1") == 404
        assert status(None, **BESIDE) == 200


def test_where_a_token_is_set_it_and_operators_open_them(alice: User, root: User, settings: Any) -> None:
    settings.METRICS_TOKEN = "correct horse"
    assert status(None, **OUTSIDE, HTTP_AUTHORIZATION="Bearer correct horse") == 200
    assert status(None, **OUTSIDE, HTTP_AUTHORIZATION="Bearer wrong") == 404
    assert status(None, **OUTSIDE, HTTP_AUTHORIZATION="Basic correct horse") == 404
    assert status(None, **BESIDE) == 404
    assert status(alice, **OUTSIDE) == 404
    assert status(root, **OUTSIDE) == 200


def status(user: User | None, **meta: Any) -> int:
    client = Client()
    if user:
        client.force_login(user)
    return client.get("/metrics", **meta).status_code


def test_every_figure_that_dashboard_and_alerts_ask_for_is_exported(client: Client, relay: Relay) -> None:
    exported = {name.partition("{")[0] for name in figures(client)}
    dashboard = json.loads((DEPLOY / "grafana" / "derp-portal.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    asked += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    named = {name for expression in asked for name in NAME.findall(expression)}
    assert named
    assert named <= exported


def test_every_figure_is_on_the_dashboard_or_in_an_alert(client: Client, relay: Relay) -> None:
    exported = {name.partition("{")[0] for name in figures(client)}
    used = set()
    for path in ("grafana/derp-portal.json", "prometheus/alerts.yml"):
        used |= set(NAME.findall((DEPLOY / path).read_text()))
    assert exported - used == set()


def test_the_scrape_file_asks_where_the_figures_are(client: Client, db: None) -> None:
    [job] = yaml.safe_load((DEPLOY / "prometheus" / "scrape.yml").read_text())["scrape_configs"]
    assert client.get(job["metrics_path"], **BESIDE).status_code == 200
    assert job["authorization"]["type"] == "Bearer"
