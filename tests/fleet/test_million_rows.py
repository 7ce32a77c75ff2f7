"""A million monitoring rows slow no page and no sweep.

Told by what PostgreSQL really does for each query, never by a clock: which tables it goes through from end to end, how
many rows it touches of those that grow, and how many it sorts. All of that must depend on what is shown or due, not on
how much there is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django.fixtures import Settings
from pytest_django.plugin import DjangoDbBlocker

from accounts.models import AuditEntry, User
from derp_portal.lib.clock import now
from fleet.acl.door_log import forget_old_answers
from fleet.derp.varz import Varz
from fleet.graphs import RANGES, Range
from fleet.metering import reading
from fleet.metering.rounds import meter_due
from fleet.models import (
    AclLog,
    Alert,
    AlertChannel,
    AlertDelivery,
    Measurement,
    Meter,
    Port,
    QuotaPeriod,
    Relay,
    RelayGroup,
    RelayHealth,
    Server,
    ServerLoad,
    Traffic,
)
from fleet.monitoring.figures import Snapshot
from fleet.monitoring.measuring import measure_servers
from fleet.monitoring.probing import relays_due_for_a_probe
from fleet.monitoring.retention import forget_old_readings
from fleet.reconciler.desired import SECRETS
from fleet.services.alert_delivery import deliver_due, forget_old_deliveries
from fleet.services.alert_rules import watch_rules
from fleet.services.door_watch import watch_doors
from fleet.services.providers import count_allowances
from fleet.services.quota_keeping import keep_quotas
from tests.api_client import Caller
from tests.conftest import make_user
from tests.fleet.fleet_parts import server

# In one worker: the rows take longer than all questions about them.
pytestmark = [pytest.mark.both_databases, pytest.mark.django_db, pytest.mark.xdist_group("million-rows")]

SERVERS, RELAYS_EACH, OWN_RELAYS = 20, 50, 4
RELAYS = SERVERS * RELAYS_EACH
DUE = 20
OPEN_ALERTS, WAITING = 40, 30
A_WHILE = timedelta(hours=1)
"""Nothing comes due while these tests run."""

HISTORY = (Measurement, Traffic, Alert, AlertDelivery, AuditEntry, AclLog)
FLEET = (Server, ServerLoad, RelayGroup, Relay, Port, RelayHealth, Meter, QuotaPeriod)
GROWING = {model._meta.db_table for model in HISTORY}
COUNTED_AT_MOST = 11_000
"""Lists of these tables count 10,000 rows, and that count is the dearest thing a page may do."""


@dataclass(frozen=True)
class Fleet:
    """Who looks, and a relay and a server to ask about."""

    customer: User
    operator: User
    relay: Relay
    server: Server


def fill_fleet() -> Fleet:
    """Servers full of running relays; a few of them, and of everything that waits for a sweep, are due."""
    customer, others, operator = make_user("customer"), make_user("others"), make_user("operator", role="admin")
    User.objects.filter(pk=operator.pk).update(is_superuser=True)
    operator.refresh_from_db()
    servers = [server(number, provider="x") for number in range(1, SERVERS + 1)]
    ServerLoad.objects.bulk_create(
        ServerLoad(server=one, cpu_percent=99.0, memory_percent=50.0, measured_at=now(), looked_at=now())
        for one in servers
    )
    owners = [customer if index < OWN_RELAYS else others for index in range(RELAYS)]
    groups = RelayGroup.objects.bulk_create(
        RelayGroup(owner=owner, run_until=now() + timedelta(days=30), quota_bytes=10**12) for owner in owners
    )
    relays = Relay.objects.bulk_create(
        Relay(
            code=f"r{index}",
            group=group,
            owner=group.owner,
            slot=0,
            server=servers[index % SERVERS],
            region_id=950,
            host_name=f"r{index}.relay.internal",
            certificate_ends_at=now() + timedelta(days=300),
            pin="pin",
            admission_hash=str(index),
            **dict.fromkeys(SECRETS, "secret"),
            observed_state=Relay.Observed.RUNNING,
            observed_generation=1,
        )
        for index, group in enumerate(groups)
    )
    Port.objects.bulk_create(
        Port(server=relay.server, number=21000 + index // SERVERS, relay=relay) for index, relay in enumerate(relays)
    )
    overdue, later = now() - timedelta(minutes=5), now() + A_WHILE
    RelayHealth.objects.bulk_create(
        RelayHealth(relay=relay, status="healthy", checked_at=overdue if index < DUE else later)
        for index, relay in enumerate(relays)
    )
    Meter.objects.bulk_create(
        Meter(
            relay=relay,
            generation=1,
            counts_since=1.0,
            read_at=now() - timedelta(minutes=1),
            next_read_at=overdue if index < DUE else later,
        )
        for index, relay in enumerate(relays)
    )
    channel = AlertChannel.objects.create(name="mail", owner=operator, address="json://127.0.0.1:9/")
    fill_history(channel.pk, customer.pk, others.pk)
    return Fleet(customer, operator, relays[0], servers[0])


def fill_history(channel_id: int, customer_id: int, others_id: int) -> None:
    """A million measurements, and hundreds of thousands of everything else; as old as retention lets them become."""
    with connection.cursor() as cursor:
        for span, unit, step, steps in (
            ("reading", "minute", "30 seconds", 5760),
            ("hour", "hour", "1 hour", 2160),
            ("day", "day", "1 day", 120),
        ):
            cursor.execute(
                """
                INSERT INTO monitoring_logs (server_id, metric, span, value, highest, timestamp)
                SELECT servers.id, metric, %s, (series * 7919) %% 80, 99,
                    date_trunc(%s, now(), 'UTC') - series * %s::interval
                FROM generate_series(1, %s) series, servers,
                    unnest(ARRAY['cpu', 'memory', 'disk', 'load', 'network_in', 'network_out', 'containers']) metric
                """,
                [span, unit, step, steps],
            )
        for span, unit, step, steps in (
            ("reading", "minute", "1 minute", 180),
            ("hour", "hour", "1 hour", 168),
            ("day", "day", "1 day", 120),
        ):
            cursor.execute(
                """
                INSERT INTO traffic
                    (relay_id, server_id, span, starts_at, upload_bytes, download_bytes, unmeasured_seconds)
                SELECT id, server_id, %s, date_trunc(%s, now(), 'UTC') - series * %s::interval, 1000, 1000, 0
                FROM generate_series(0, %s) series, user_containers
                """,
                [span, unit, step, steps - 1],
            )
        cursor.execute(
            """
            INSERT INTO system_alerts
                (alert_type, severity, subject, message, params, server_id, resolved, created_at, resolved_at)
            SELECT 'metric', 'warning', 'old:' || series, 'cpu',
                '{"server": "one", "rule": "full", "metric": "cpu", "value": "99", "threshold": "90", "unit": "%%"}',
                (SELECT min(id) FROM servers) + series %% %s, series > %s,
                now() - series * interval '1 minute', now() - series * interval '1 minute' + interval '10 seconds'
            FROM generate_series(1, 100000) series
            """,
            [SERVERS, OPEN_ALERTS],
        )
        cursor.execute(
            """
            INSERT INTO fleet_alertdelivery (alert_id, channel_id, created_at, not_before, tries, sent_at, error)
            SELECT id, %s, created_at, created_at, 1, created_at, '' FROM system_alerts
            """,
            [channel_id],
        )
        cursor.execute(
            """
            UPDATE fleet_alertdelivery SET sent_at = NULL
            WHERE id IN (SELECT id FROM fleet_alertdelivery ORDER BY created_at DESC LIMIT %s)
            """,
            [WAITING],
        )
        cursor.execute(
            """
            INSERT INTO audit_log (actor_label, event, target_type, target_id, target_label, data, created_at)
            SELECT 'system', 'group.changed', 'fleet.relaygroup', series %% 1000, '', '{}',
                now() - (100000 - series) * interval '1 minute'
            FROM generate_series(1, 100000) series
            """,
            [],
        )
        cursor.execute(
            """
            INSERT INTO acl_logs
                (key, user_id, relay_id, node_key, ip_address, location, acl_version, is_allowed, reason, created_at)
            SELECT gen_random_uuid(), CASE WHEN series %% 2 = 0 THEN %s ELSE %s END,
                (SELECT min(id) FROM user_containers),
                'nodekey:' || lpad((series %% 500)::text, 64, '0'), ('198.51.100.' || series %% 100)::inet, 'HK',
                1, series %% 10 > 0,
                CASE WHEN series %% 10 > 0 THEN 'listed' ELSE 'not_listed' END, now() - series * interval '26 seconds'
            FROM generate_series(1, 300000) series
            """,
            [customer_id, others_id],
        )
        # Foreign keys of so many rows are checked once here, not at the end of every test.
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET CONSTRAINTS ALL DEFERRED")
        # Only these: what the planner learns of the size of a table, an empty one too, outlives the rollback.
        filled = sorted(model._meta.db_table for model in (*HISTORY, *FLEET))
        cursor.execute(f"ANALYZE {', '.join(filled)}")


@pytest.fixture(scope="module")
def fleet(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Fleet]:
    """Filled once for all tests here; whatever one of them does is rolled back to this."""
    with django_db_blocker.unblock():
        if connection.vendor != "postgresql":
            pytest.skip("needs postgresql: its planner says what it does for each query")
        with transaction.atomic():
            yield fill_fleet()
            transaction.set_rollback(True)


@pytest.fixture(autouse=True)
def _filled_before_the_tests_own_transaction(fleet: Fleet, db: None) -> None:
    """A test's transaction must lie within that of the rows."""


# --- what the database does --------------------------------------------------------------------------------------


@dataclass
class Work:
    """What one query did with the tables that grow."""

    whole: set[str]
    """Tables that a write would go through from end to end; of a read the rows tell."""

    rows: int = 0
    """Rows looked at, also those that did not fit."""

    most_sorted: int = 0


def work_of(sql: str) -> Work:
    """Run the query (a write is only planned, for it has been run) and see what it took."""
    is_read = sql.startswith("SELECT")
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN ({'ANALYZE, TIMING OFF, ' if is_read else ''}FORMAT JSON) {sql}")
        [[plan]] = cursor.fetchall()
    work = Work(set())
    _walk((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"], work)
    if is_read:
        # With a bound, or where the table is small, the first rows of it may be all that is read.
        work.whole.clear()
    return work


def _walk(node: dict[str, Any], work: Work) -> None:
    rows = node.get("Actual Rows", 0) * node.get("Actual Loops", 1)
    if node.get("Relation Name") in GROWING and node["Node Type"] != "ModifyTable":
        if node["Node Type"] == "Seq Scan":
            work.whole.add(node["Relation Name"])
        dropped = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        work.rows += rows + dropped * node.get("Actual Loops", 1)
    if "Sort" in node["Node Type"]:
        work.most_sorted = max(work.most_sorted, sum(below.get("Actual Rows", 0) for below in node["Plans"]))
    for below in node.get("Plans", ()):
        _walk(below, work)


def check(run: Callable[[], object], *, rows: int, queries: int) -> None:
    """At most so many queries; none goes through a growing table, all look at so many of its rows at most."""
    with CaptureQueriesContext(connection) as captured:
        run()
    said = [query["sql"] for query in captured.captured_queries]
    # Django says of `executemany` how often it ran.
    single = [sql for sql in said if sql.startswith(("SELECT", "UPDATE", "DELETE"))]
    found = [(sql, work_of(sql)) for sql in single if any(f'"{table}"' in sql for table in GROWING)]
    slow = [f"{work}: {sql[:1500]}" for sql, work in found if work.whole or max(work.rows, work.most_sorted) > rows]
    assert not slow, "\n".join(slow)
    assert len(said) <= queries, "\n".join(said)


# --- pages and API -------------------------------------------------------------------------------------------------


def test_there_are_as_many_rows_as_promised() -> None:
    assert Measurement.objects.count() >= 1_000_000
    assert Traffic.objects.count() >= 400_000
    assert Alert.objects.count() == AlertDelivery.objects.count() == 100_000


@pytest.mark.parametrize("path", ["/traffic/", "/traffic/?range=48h", "/traffic/?range=90d", "/traffic/live/"])
def test_a_customers_traffic_takes_what_his_own_relays_have(fleet: Fleet, path: str) -> None:
    client = Client()
    client.force_login(fleet.customer)
    client.get("/traffic/")
    check(lambda: _ok(client.get(path)), rows=OWN_RELAYS * 24 * 31, queries=25)


@pytest.mark.parametrize(
    "query", ["", "?is_allowed=false", "?search=" + "0" * 61 + "007", "?search=198.51.100.7", "?page=7"]
)
def test_a_customers_door_log_takes_what_it_shows(fleet: Fleet, query: str) -> None:
    client = Client()
    client.force_login(fleet.customer)
    client.get("/devices/")
    check(lambda: _ok(client.get(f"/devices/log/{query}")), rows=2 * COUNTED_AT_MOST, queries=14)


def test_a_customers_file_takes_what_his_own_relays_have(fleet: Fleet) -> None:
    client = Client()
    client.force_login(fleet.customer)
    check(lambda: b"".join(_ok(client.get("/traffic/daily.csv"))), rows=OWN_RELAYS * 121, queries=10)


@pytest.mark.parametrize(
    "path",
    [
        "fleet/traffic/",
        "fleet/traffic/?span__exact=hour",
        "fleet/traffic/?q=r7",
        "fleet/measurement/",
        "fleet/measurement/?span=hour",
        "fleet/alert/",
        "fleet/alert/?resolved__exact=0",
        "fleet/alertdelivery/",
        "accounts/auditentry/",
        "system-log/",
        "system-log/?kind=audit",
        "system-log/?kind=alert&severity=critical",
        "system-log/?object=server-1",
        "fleet/acllog/",
        "fleet/acllog/?is_allowed__exact=0",
        "fleet/acllog/?q=nodekey:" + "0" * 61 + "007",
        "fleet/relay/",
        "fleet/server/",
        "",
    ],
)
def test_an_operators_page_takes_what_it_shows(fleet: Fleet, path: str) -> None:
    client = Client()
    client.force_login(fleet.operator)
    client.get("/admin/fleet/region/")
    check(lambda: _ok(client.get(f"/admin/{path}")), rows=COUNTED_AT_MOST, queries=40)


@pytest.mark.parametrize(
    ("path", "query", "rows"),
    [
        ("monitoring/logs", {}, COUNTED_AT_MOST),
        ("monitoring/logs", {"metric": "cpu"}, 10 * COUNTED_AT_MOST),
        ("monitoring/logs", {"span": "hour"}, COUNTED_AT_MOST),
        # All that is kept of one server.
        ("monitoring/logs", {"server_id": 0}, 7 * (5760 + 2160 + 120)),
        ("monitoring/realtime", {}, RELAYS * 61),
        ("monitoring/health", {}, 0),
        # A day of each server: of all its metrics where they are found by time.
        ("monitoring/load_analysis", {}, SERVERS * 7 * 2880),
        ("monitoring/load_analysis", {"server_id": 0}, 7 * 2880),
        ("traffic/realtime", {}, 50 * 10),
        ("traffic/realtime", {"by": "server"}, RELAYS * 6),
        ("traffic/statistics", {}, RELAYS * 31),
        ("traffic/statistics", {"by": "day"}, RELAYS * 31),
        ("traffic/statistics", {"by": "server"}, RELAYS * 31),
        ("traffic/over_limit", {}, 0),
        ("container/usage", {}, 50 * 24 * 31),
        ("server/traffic", {}, RELAYS),
        ("alerts/list", {}, COUNTED_AT_MOST),
        ("alerts/list", {"resolved": "false"}, OPEN_ALERTS),
        ("logs/system", {}, 200),
    ],
)
def test_the_api_takes_what_it_answers(fleet: Fleet, path: str, query: dict[str, Any], rows: int) -> None:
    operator = Caller(fleet.operator)
    query = {name: fleet.server.pk if name == "server_id" else value for name, value in query.items()}
    check(lambda: _equals(operator.get(path, **query)[0], 200), rows=rows, queries=25)


def test_prometheus_takes_no_more(fleet: Fleet) -> None:
    check(lambda: _ok(Client().get("/metrics")), rows=OPEN_ALERTS, queries=20)


# --- sweeps --------------------------------------------------------------------------------------------------------


def test_metering_takes_what_is_due(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    said = Varz(9000, 9000, 1, 1, 1, 1.0, "")
    monkeypatch.setattr(reading, "read_varz", lambda **_asked: said)
    check(lambda: _equals(meter_due(), DUE), rows=DUE * 4, queries=25)


def test_quotas_take_what_crossed_a_threshold(fleet: Fleet) -> None:
    QuotaPeriod.objects.create(
        group=fleet.relay.group,
        starts_at=now() - timedelta(days=40),
        ends_at=now() - timedelta(days=10),
        is_due=True,
    )
    check(keep_quotas, rows=10, queries=30)


def test_measuring_takes_what_is_due(fleet: Fleet) -> None:
    ServerLoad.objects.update(looked_at=now() - timedelta(minutes=5))

    def read(_client: object, _ip: str) -> Snapshot:
        return Snapshot(at=now().timestamp(), memory_percent=50.0)

    check(lambda: _equals(measure_servers(read=read), SERVERS), rows=0, queries=25)


def test_forgetting_deliveries_takes_what_goes(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.services.alert_delivery.KEPT", timedelta(minutes=99_000))
    check(forget_old_deliveries, rows=2 * 1001, queries=10)
    assert AlertDelivery.objects.count() <= 99_000


@pytest.mark.parametrize("reach", RANGES, ids=lambda reach: reach.key)
def test_graphs_take_what_they_draw(fleet: Fleet, reach: Range) -> None:
    client = Client()
    client.force_login(fleet.operator)
    drawn = reach.steps * (reach.step // timedelta(seconds=30) if reach.key == "3h" else 1)
    check(
        lambda: _ok(client.get("/admin/fleet/serverload/graphs/", {"range": reach.key})),
        # Of all servers where they are found by time.
        rows=SERVERS * 7 * (drawn + 1),
        queries=20,
    )


def test_forgetting_takes_what_is_rolled_up_or_goes(fleet: Fleet) -> None:
    """Two days of readings are kept, so an hour of them is new and an hour has become too old."""
    check(forget_old_readings, rows=5000 + SERVERS * 7 * 121, queries=40)


def test_the_rules_take_what_is_open_and_what_ended_since_yesterday(fleet: Fleet) -> None:
    check(watch_rules, rows=OPEN_ALERTS + 24 * 60, queries=40 + 6 * SERVERS * 3)


def test_deliveries_take_what_waits(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.services.alert_delivery._send", lambda *_args, **_words: "")
    check(lambda: _equals(deliver_due(), 1), rows=2 * WAITING, queries=15 + WAITING)


def test_watching_the_doors_takes_the_last_hour(fleet: Fleet) -> None:
    check(watch_doors, rows=3 * 150, queries=15)


def test_forgetting_answers_takes_what_goes(fleet: Fleet, settings: Settings) -> None:
    settings.ACL_LOG_DAYS = 89
    check(forget_old_answers, rows=2 * 5001, queries=12)


def test_probing_takes_what_is_due(fleet: Fleet) -> None:
    check(lambda: _equals(len(relays_due_for_a_probe(limit=500)), DUE), rows=0, queries=1)


def test_allowances_take_the_days_of_their_month(fleet: Fleet) -> None:
    check(count_allowances, rows=RELAYS * 32, queries=5)


def _ok(answer: Any) -> Any:
    assert answer.status_code == 200, answer
    return answer


def _equals(found: object, expected: object) -> None:
    assert found == expected
