"""The system log: everything in one list by time, filtered, page by page, as quick with a million rows as with none."""

from __future__ import annotations

import ast
import csv
import io
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import time_machine
from django.conf import settings
from django.db import connection
from django.db.models import Q
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import translation
from django.utils.timezone import localtime

from accounts.models import AuditEntry, TaskFailure, User
from accounts.services import note_failure, record
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from derp_portal.system_log import Filters, Kind, read, read_all
from derp_portal.system_log.entries import Severity
from derp_portal.system_log.sources import SOURCES, Position, Source
from derp_portal.system_log.words import AUDIT, VERBS, audit_words
from fleet.models import Alert, Evacuation, Move, MoveReason, Relay, RelayEvent, Server, ServerEvent
from fleet.services.alerts import raise_alert
from serials import services as serials
from tests.api_client import Caller, make_code, make_server
from tests.conftest import make_user
from tests.serials.shop import START

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("accounts", "fleet", "serials", "billing", "resellers", "derp_portal")


@pytest.fixture
def noon() -> Iterator[None]:
    """A day that does not end while the test runs."""
    with time_machine.travel(START):
        yield


@pytest.fixture
def relay(alice: User) -> Relay:
    """alice's, on a server named hk-1."""
    make_server("hk-1")
    serials.activate(user=alice, code=make_code())
    return Relay.objects.get()


@pytest.fixture
def troubles(relay: Relay, root: User) -> Relay:
    """One line of every kind at least."""
    server = relay.server
    assert server is not None
    record(actor=root, event="server.changed", target=server)
    ServerEvent.objects.create(server=server, kind=ServerEvent.Kind.UNHEALTHY, detail="timeout")
    RelayEvent.objects.create(relay=relay, kind=RelayEvent.Kind.TROUBLE, generation=1, detail="disk_full")
    leaving = Evacuation.objects.create(
        server=server, server_name=server.name, reason=MoveReason.FAILURE, state=Evacuation.State.DONE, ended_at=now()
    )
    Move.objects.create(
        relay=relay, evacuation=leaving, reason=MoveReason.FAILURE, from_server=server, from_generation=1
    )
    raise_alert(Alert.Kind.SERVER_LOST, severity=Alert.Severity.CRITICAL, subject="1", server=server, since="noon")
    note_failure(task="fleet.tasks.rescue", task_id="1", args=(3,), error=ValueError("unexpected"))
    return relay


def lines(**filters: Any) -> list[tuple[str, str, str]]:
    """(kind, severity, message) of all that fits, newest first."""
    found = [entry for part in read_all(Filters(**filters), most=1000) for entry in part]
    return [(entry.kind.value, entry.severity.value, entry.message) for entry in found]


def test_it_has_what_every_table_knows_newest_first(troubles: Relay) -> None:
    assert lines()[:7] == [
        ("task", "warning", "The task failed: ValueError: unexpected"),
        ("alert", "critical", "Server hk-1 has not answered since noon; its relays are being moved."),
        ("failover", "warning", "Relay moves from hk-1 to –: the server was lost (waiting for a place)"),
        ("failover", "critical", "Relays leave the server: the server was lost (done)"),
        ("relay", "warning", "In trouble: The server's disk is full."),
        ("server", "critical", "Lost: The server took too long to answer."),
        ("audit", "info", "Server changed"),
    ]


def test_it_speaks_the_readers_language(troubles: Relay) -> None:
    with translation.override("zh-hans"):
        said = lines(kind=Kind.SERVER)
    assert said != lines(kind=Kind.SERVER)


@pytest.mark.parametrize("kind", Kind)
def test_a_kind_is_all_that_is_shown_of_it(troubles: Relay, kind: Kind) -> None:
    found = lines(kind=kind)
    assert found == [line for line in lines() if line[0] == kind]
    assert found


@pytest.mark.parametrize("severity", Severity)
def test_a_severity_is_all_that_is_shown_of_it(troubles: Relay, severity: Severity) -> None:
    found = lines(severity=severity)
    assert found == [line for line in lines() if line[1] == severity]
    assert found


def test_of_a_person_it_shows_what_they_did_and_what_is_theirs(troubles: Relay, alice: User, bob: User) -> None:
    record(actor=bob, event="user.role_changed", target=alice)
    record(actor=bob, event="user.logged_in", target=bob)
    found = [entry for part in read_all(Filters(person="ALICE"), most=1000) for entry in part]
    assert {entry.kind for entry in found} == {Kind.AUDIT, Kind.RELAY, Kind.FAILOVER}
    assert {entry.person for entry in found} == {"alice", "bob"}
    assert {entry.object for entry in found if entry.person == "bob"} == {"alice"}
    assert lines(person="nobody-of-that-name") == []


def test_of_the_portal_it_shows_what_nobody_did_by_hand(troubles: Relay) -> None:
    found = read(Filters(person="system")).entries
    assert {entry.person for entry in found} == {"system"}
    assert {entry.kind for entry in found} == {Kind.AUDIT, Kind.FAILOVER}


def test_of_a_server_it_shows_all_that_happened_to_it(troubles: Relay) -> None:
    make_server("other")
    found = lines(object="HK-1")
    assert {kind for kind, _severity, _message in found} == {"audit", "server", "relay", "failover", "alert"}
    assert {line[2] for line in lines(object="other")} == {"Server added", "Added"}


def test_of_a_relay_it_shows_all_that_happened_to_it(troubles: Relay) -> None:
    found = read(Filters(object=troubles.code)).entries
    assert {entry.object for entry in found} == {troubles.code}
    assert {entry.kind for entry in found} >= {Kind.RELAY, Kind.FAILOVER}


def test_other_objects_are_found_by_kind_and_number_and_tasks_by_a_part_of_their_name(troubles: Relay) -> None:
    [entry] = AuditEntry.objects.filter(event="serial.activated")
    number = int(entry.target_id)
    assert "Serial redeemed" in [line[2] for line in lines(object=f"{entry.target_type.split('.')[1]}:{number}")]
    assert lines(object=f"relay:{troubles.pk}") == lines(object=troubles.code)
    assert [line[0] for line in lines(object="tasks.resc")] == ["task"]
    assert lines(object="lease:" + "9" * 40) == []
    assert lines(object="nothing of that name") == []


def test_it_shows_a_stretch_of_time(troubles: Relay) -> None:
    long_ago = now() - timedelta(days=30)
    TaskFailure.objects.update(created_at=long_ago)
    ServerEvent.objects.update(created_at=long_ago)
    old = lines(until=now() - timedelta(days=1))
    assert {line[0] for line in old} == {"task", "server"}
    assert lines(since=now() - timedelta(days=1), kind=Kind.SERVER) == []
    assert lines(since=long_ago, until=long_ago) == old


def test_page_after_page_shows_every_line_once_though_more_happens_meanwhile(troubles: Relay, root: User) -> None:
    for number in range(20):
        note_failure(task=f"t{number}", task_id="1", error="e")
        record(actor=root, event="user.logged_in", target=root)
    # All at one moment: then only their numbers tell them apart.
    TaskFailure.objects.update(created_at=now())
    expected = [entry for part in read_all(Filters(), most=1000) for entry in part]
    shown, cursor = [], ""
    while True:
        page = read(Filters(), cursor=cursor, limit=3)
        shown += page.entries
        record(actor=root, event="user.logged_in", target=root)
        note_failure(task=f"more {len(shown)}", task_id="1", error="e")
        cursor = page.next
        if not cursor:
            break
    assert len({entry.link for entry in expected}) == len(expected) > 45
    assert shown == expected


def test_reading_all_of_it_stops_where_it_should(troubles: Relay) -> None:
    assert sum(len(part) for part in read_all(Filters(), most=4)) == 4


@pytest.mark.parametrize("cursor", ["x", "!!", "W10", "bnVsbA", "WzEsIDJd", "é", "W251bGwsIHt9XQ"])
def test_a_cursor_that_nobody_gave_is_refused(db: None, cursor: str) -> None:
    with pytest.raises(PortalError) as refusal:
        read(Filters(), cursor=cursor)
    assert refusal.value.code == "invalid_cursor"


def test_a_page_asks_each_table_once_however_much_there_is(troubles: Relay, root: User) -> None:
    with CaptureQueriesContext(connection) as few:
        read(Filters(person="alice", object="hk-1", severity=Severity.WARNING))
        read(Filters())
    for number in range(60):
        record(actor=root, event="user.logged_in", target=root)
        RelayEvent.objects.create(relay=troubles, kind=RelayEvent.Kind.TROUBLE, generation=number)
    with CaptureQueriesContext(connection) as many:
        read(Filters(person="alice", object="hk-1", severity=Severity.WARNING))
        page = read(Filters())
    assert page.next
    assert len(many) == len(few)
    with CaptureQueriesContext(connection) as second:
        read(Filters(), cursor=page.next)
    assert len(second) == len(SOURCES)


@pytest.mark.both_databases
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_every_table_is_read_along_an_index_and_never_sorted(db: None, source: Source[Any]) -> None:
    position = Position(now() - timedelta(hours=1), 1_000_000)
    rows = source.rows(Q(), since=None, until=now(), after=position).select_related(None)[:50]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            # A table without rows is soonest read whole and sorted, whatever its indexes, and more so once an
            # autovacuum has counted its rows. The question is what the indexes can do: sort only where they cannot.
            cursor.execute(f"ANALYZE {connection.ops.quote_name(rows.model._meta.db_table)}")
            for choice in ("seqscan", "bitmapscan", "sort"):
                cursor.execute(f"SET LOCAL enable_{choice} = off")
        plan = rows.explain()
        assert "Index Scan" in plan
        assert "Seq Scan" not in plan
        assert "Sort  " not in plan.replace("Incremental Sort  ", "")
    else:
        plan = rows.explain()
        assert "USE TEMP B-TREE FOR ORDER BY" not in plan
        assert "USING" in plan


@pytest.mark.usefixtures("noon")
def test_the_operations_answer_is_pages_by_cursor(troubles: Relay, root: User) -> None:
    caller = Caller(root)
    status, first = caller.get("logs/system", per_page=4)
    assert (status, first["success"], len(first["logs"])) == (200, True, 4)
    assert first["logs"][0]["message"] == "API token issued"
    assert first["logs"][1] | {"at": "", "link": ""} == {
        "at": "",
        "kind": "task",
        "severity": "warning",
        "person": "",
        "object": "fleet.tasks.rescue(3)",
        "message": "The task failed: ValueError: unexpected",
        "link": "",
    }
    _status, second = caller.get("logs/system", per_page=200, cursor=first["next"])
    assert second["next"] is None
    assert second["logs"][0]["kind"] == "failover"
    _status, servers = caller.get("logs/system", kind="server", severity="critical", since="2020-01-01", object="hk-1")
    assert [line["kind"] for line in servers["logs"]] == ["server"]
    today = localtime(now(), ZoneInfo(settings.TIME_ZONE)).date()
    assert caller.get("logs/system", since=today.isoformat(), until=today.isoformat(), kind="server")[1]["logs"]
    assert not caller.get("logs/system", since=(today + timedelta(days=1)).isoformat())[1]["logs"]
    assert not caller.get("logs/system", until=(today - timedelta(days=1)).isoformat())[1]["logs"]
    assert caller.get("logs/system", since="soon")[0] == 422
    assert caller.get("logs/system", cursor="nonsense")[1]["error"]["code"] == "invalid_cursor"
    assert caller.get("logs/system", kind="nonsense")[0] == 422


@pytest.fixture
def roots(client: Client, root: User) -> Client:
    """root's browser."""
    client.force_login(root)
    return client


def test_the_page_narrows_and_leads_on(troubles: Relay, roots: Client) -> None:
    for number in range(60):
        note_failure(task=f"t{number}", task_id="1", error="e")
    page = roots.get(reverse("system_log"), {"kind": "task"})
    assert len(page.context["lines"]) == 50
    older = roots.get(reverse("system_log") + page.context["next_page"])
    assert [entry.object for entry, _colour in older.context["lines"]][-1] == "fleet.tasks.rescue(3)"
    assert older.context["next_page"] == ""
    assert {entry.kind for entry, _colour in older.context["lines"]} == {Kind.TASK}
    for entry, _colour in roots.get(reverse("system_log"), {"severity": "critical"}).context["lines"]:
        assert roots.get(entry.link).status_code == 200


def test_a_field_that_means_nothing_says_so_and_narrows_nothing(troubles: Relay, roots: Client) -> None:
    page = roots.get(reverse("system_log"), {"since": "soon", "kind": "task"})
    assert page.status_code == 200
    assert {entry.kind for entry, _colour in page.context["lines"]} == {Kind.TASK}
    assert "Enter a valid date/time." in page.text
    assert roots.get(reverse("system_log"), {"cursor": "nonsense"}).status_code == 422


def test_the_menu_shows_it_to_those_who_may_read_it_alone(roots: Client, db: None) -> None:
    assert reverse("system_log") in roots.get(reverse("admin:index")).text
    helen = Client()
    helen.force_login(make_user("helen", role="admin"))
    assert reverse("system_log") not in helen.get(reverse("admin:index")).text
    assert helen.get(reverse("system_log")).status_code == 403
    assert helen.get(reverse("system_log_export")).status_code == 403


def test_the_export_has_what_fits_and_no_formula_and_is_written_down(troubles: Relay, roots: Client) -> None:
    Server.objects.update(name="=HYPERLINK(1)")
    answer = roots.get(reverse("system_log_export"), {"kind": "server", "severity": "critical"})
    assert answer["Content-Disposition"] == 'attachment; filename="system-log.csv"'
    text = b"".join(answer.streaming_content).decode()  # type: ignore[attr-defined]
    head, line = csv.reader(io.StringIO(text.removeprefix("\ufeff")))
    assert head[1:6] == ["kind", "severity", "person", "object", "what happened"]
    assert line[1:6] == ["server", "critical", "", "'=HYPERLINK(1)", "Lost: The server took too long to answer."]
    [entry] = AuditEntry.objects.filter(event="system_log.exported")
    assert entry.data == {"filters": {"kind": "server", "severity": "critical"}}


def test_the_export_is_in_the_readers_language_and_leaves_the_thread_in_its_own(troubles: Relay, roots: Client) -> None:
    User.objects.filter(username="root").update(language="zh-hans", timezone="Asia/Tokyo")
    answer = roots.get(reverse("system_log_export"), {"kind": "server"})
    translation.activate("en")
    parts = iter(answer.streaming_content)  # type: ignore[attr-defined]
    first = next(parts)
    assert translation.get_language() == "en"
    assert first.startswith(b"\xef\xbb\xbf")
    assert b"+09:00" in b"".join(parts)


def test_the_export_is_bounded(troubles: Relay, roots: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("derp_portal.system_log.page.LARGEST_EXPORT", 2)
    answer = roots.get(reverse("system_log_export"))
    assert len(b"".join(answer.streaming_content).splitlines()) == 3  # type: ignore[attr-defined]


def events_in(path: Path) -> set[str]:
    """Every event that the file records by a name that is written out."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword) and node.arg == "event":
            found |= {one.value for one in ast.walk(node.value) if isinstance(one, ast.Constant)}
    return {event for event in found if isinstance(event, str) and event.count(".") == 1 and event[-1] != "."}


def test_every_event_of_the_audit_trail_has_words() -> None:
    events: set[str] = set()
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            events |= events_in(path)
    assert len(events) > 50
    known = {event for event in events if event in AUDIT or event.partition(".")[2] in VERBS}
    assert events - known == set(), "name them in derp_portal/system_log/words.py"


def test_an_event_without_words_is_shown_as_it_is() -> None:
    assert audit_words("unknown.thing") == "unknown.thing"
    assert audit_words("plan.changed") == "plan changed"
    assert audit_words("nothing.changed") == "nothing.changed"
