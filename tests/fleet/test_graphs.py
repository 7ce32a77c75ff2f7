"""Graphs of servers: what was measured, step by step, and nothing where nothing was."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from hypothesis import given
from hypothesis import strategies as st

from accounts.models import User
from fleet.graphs import HEIGHT, RANGES, _path, _round_top, graphs_of
from fleet.models import Measurement, Metric, Server, ServerLoad
from tests.conftest import make_user
from tests.fleet.fleet_parts import region, server

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 3, 10, 12, 34, 56, tzinfo=UTC)
THREE_HOURS, TWO_DAYS, _TWO_WEEKS, YEAR = RANGES
Span = Measurement.Span


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as travel:
        yield travel


def measured(host: Server, metric: Metric, span: Span, ago: timedelta, value: float, highest: float = 0) -> None:
    Measurement.objects.create(
        server=host, metric=metric, span=span, timestamp=NOW - ago, value=value, highest=max(value, highest)
    )


def test_readings_are_gathered_into_steps_and_a_gap_breaks_the_line() -> None:
    host = server()
    for ago, value in ((1, 20.0), (2, 40.0), (6, 50.0), (30, 10.0), (60 * 4, 99.0)):
        measured(host, Metric.CPU, Span.READING, timedelta(minutes=ago), value, highest=value + 5)
    cpu, network, relays = graphs_of([host.pk], THREE_HOURS)[host.pk]
    [line] = cpu.lines
    assert (line.latest, line.mean, line.highest) == ("30 %", "30 %", "55 %")
    assert line.path == "M29 90.0 L29 90.0 M34 50.0 L35 70.0"
    assert (cpu.top, cpu.width) == ("100 %", 35)
    assert network.is_empty
    assert relays.is_empty


def test_hours_and_days_are_drawn_from_their_own_rows() -> None:
    host, other = server(), server(2)
    measured(host, Metric.NETWORK_IN, Span.HOUR, timedelta(minutes=34, seconds=56), 2_500_000)
    measured(host, Metric.NETWORK_IN, Span.HOUR, timedelta(hours=60), 9e9)
    measured(host, Metric.NETWORK_OUT, Span.DAY, timedelta(hours=12, minutes=34, seconds=56), 7)
    measured(other, Metric.NETWORK_IN, Span.HOUR, timedelta(minutes=34, seconds=56), 1)
    [line] = graphs_of([host.pk], TWO_DAYS)[host.pk][1].lines
    assert (str(line.name), line.latest) == ("incoming", "20 Mbit/s")
    assert line.path == "M47 50.0 L47 50.0"
    [line] = graphs_of([host.pk], YEAR)[host.pk][1].lines
    assert str(line.name) == "outgoing"
    assert line.path.startswith("M364 ")


@given(st.dictionaries(st.integers(0, 364), st.floats(0, 10**12), min_size=1))
def test_every_value_lies_within_the_graph(values: dict[int, float]) -> None:
    path = _path(values, _round_top(max(values.values())))
    points = [point.split() for point in path.replace("M", "L").split("L")[1:]]
    assert {int(x) for x, _y in points} == set(values)
    assert all(0 <= float(y) <= HEIGHT for _x, y in points)


@pytest.fixture
def roots(client: Client, root: User) -> Client:
    client.force_login(root)
    return client


def page(client: Client, **query: str) -> str:
    answer = client.get(reverse("admin:fleet_graphs"), query)
    assert answer.status_code == 200
    return answer.content.decode()


def test_the_page_shows_ten_servers_and_leads_to_the_others(roots: Client) -> None:
    for number in range(1, 13):
        measured(server(number, name=f"host-{number:02}"), Metric.CPU, Span.HOUR, timedelta(hours=1), number)
    first = page(roots)
    assert "host-10" in first
    assert "host-11" not in first
    assert "CPU: last 7 %, mean 7 %, highest 7 %" in first
    assert "range=48h&amp;page=2" in first
    second = page(roots, page="2")
    assert "host-12" in second
    assert "host-10" not in second
    assert "host-12" in page(roots, page="99"), "behind the end is the end"


def test_the_page_is_narrowed_by_region_and_name_and_survives_nonsense(roots: Client) -> None:
    server(1, name="here-1")
    server(2, name="there-2", region=region("there"))
    narrowed = page(roots, region="there")
    assert "there-2" in narrowed
    assert "here-1" not in narrowed
    assert "there-2" in page(roots, q="THERE")
    assert "No server is like this." in page(roots, q="nobody")
    nonsense = page(roots, region="?", range="7y", page="-1", q=" ")
    assert "here-1" in nonsense
    assert "Nothing was measured in this time." in nonsense


def test_more_servers_take_no_more_queries(roots: Client) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            page(roots)
        return len(captured)

    server(1)
    page(roots)
    few = queries()
    for number in range(2, 9):
        ServerLoad.objects.create(server=server(number))
    assert queries() == few


def test_who_may_not_see_the_load_does_not_see_its_graphs(client: Client) -> None:
    client.force_login(make_user("helen", role="admin"))
    assert client.get(reverse("admin:fleet_graphs")).status_code == 403
