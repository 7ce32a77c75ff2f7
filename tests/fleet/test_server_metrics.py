"""Figures of hosts: read off real exporters and this machine, kept, rolled up, forgotten, and judged."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st
from time_machine import Traveller

from accounts.models import User
from fleet.load_analysis import Advice, Headroom, Resource, advise, analyse, servers_to_analyse
from fleet.models import Measurement, Metric, Relay, Server, ServerLoad, Traffic
from fleet.monitoring import node_exporter
from fleet.monitoring.figures import FiguresFailure, Snapshot, figures_between, is_counted
from fleet.monitoring.local_figures import read_this_machine
from fleet.monitoring.measuring import is_fresh, measure_servers
from fleet.monitoring.node_exporter import open_client, parse_exporter, read_exporter
from fleet.monitoring.retention import delete_in_batches, forget_old_readings, roll_up, roll_up_day, roll_up_hour
from tests.fleet.engines import wait_until
from tests.fleet.fleet_parts import group, only_relay, server
from tests.parts import need
from tests.ports import free_port

NOON = datetime(2031, 3, 10, 12, tzinfo=UTC)
Span = Measurement.Span


@pytest.fixture
def clock() -> Iterator[Traveller]:
    with time_machine.travel(NOON, tick=False) as travel:
        yield travel


@contextmanager
def answering(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port where each connection is given to `serve`."""
    listener = socket.create_server(("127.0.0.1", 0))

    def loop() -> None:
        while True:
            try:
                peer, _address = listener.accept()
            except OSError:
                return
            with closing(peer):
                try:
                    serve(peer)
                except OSError:
                    continue  # The reader had enough, which is what is tested.

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long who answers takes says how busy the machine is."""
    for name in ("CONNECT_SECONDS", "READ_SECONDS", "WHOLE_SECONDS"):
        monkeypatch.setattr(node_exporter, name, 60.0)


@pytest.fixture
def exporter(tmp_path: Path, patience: None) -> Iterator[int]:
    """The port of a real node exporter of this machine."""
    program, port = need("node-exporter"), free_port()
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([program, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        wait_until(lambda: listens(port), what="the exporter")
        yield port
    finally:
        process.terminate()
        process.wait(60)


def listens(port: int) -> bool:
    with closing(socket.socket()) as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def read(port: int) -> Snapshot:
    with open_client() as client:
        return read_exporter(client, "127.0.0.1", port=port)


def failure(port: int) -> str:
    with pytest.raises(FiguresFailure) as caught:
        read(port)
    return caught.value.code


# --- reading -----------------------------------------------------------------------------------------


def test_a_real_exporter_and_this_machines_own_figures_agree(exporter: int) -> None:
    # Other programs start and end meanwhile: what is told lies between what was and what is.
    before, told, after = read_this_machine(), read(exporter), read_this_machine()

    def lies_between(figure: str, margin: float) -> bool:
        low, high = sorted((getattr(before, figure), getattr(after, figure)))
        return bool(low - margin <= getattr(told, figure) <= high + margin)

    assert told.memory_bytes == before.memory_bytes
    assert lies_between("boot_time", 2)
    assert lies_between("cpu_total", before.cpu_total * 0.02)
    assert lies_between("memory_percent", 5)
    assert lies_between("load_average", 1)
    assert set(told.received) == set(before.received)


def test_two_readings_of_a_real_exporter_give_every_figure(exporter: int) -> None:
    before = read(exporter)
    ends = time.monotonic() + 1.2
    while time.monotonic() < ends:
        pass  # One core is busy, so that there is something to measure.
    figures = figures_between(before, read(exporter))
    assert figures.cpu_percent is not None
    assert 0 < figures.cpu_percent <= 100
    assert figures.memory_percent is not None


def test_what_is_no_exporter_is_told_apart(patience: None) -> None:
    assert failure(free_port()) == "connection_refused"
    not_found = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    with answering(lambda peer: peer.sendall(peer.recv(4096) and not_found)) as port:
        assert failure(port) == "bad_figures"
    other = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nup 1\n\n"
    with answering(lambda peer: peer.sendall(peer.recv(4096) and other)) as port:
        assert failure(port) == "bad_figures"
    with answering(lambda peer: peer.sendall(peer.recv(4096) and b"SSH-2.0-OpenSSH_9.2\r\n")) as port:
        assert failure(port) == "bad_figures"


def test_an_answer_without_end_and_a_silent_one_are_given_up(request: pytest.FixtureRequest) -> None:
    def flood(peer: socket.socket) -> None:
        peer.recv(4096)
        peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            peer.sendall(b"# " + b"x" * 65536 + b"\n")

    def trickle(peer: socket.socket) -> None:
        peer.recv(4096)
        peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            peer.sendall(b"#")
            time.sleep(0.5)

    with answering(trickle) as port:
        began = time.monotonic()
        assert failure(port) == "timeout"
        assert time.monotonic() - began < 60
    request.getfixturevalue("patience")
    with answering(flood) as port:
        assert failure(port) == "bad_figures"


def test_a_proxy_in_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch, exporter: int) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    assert read(exporter).cpu_total > 0


@given(
    st.lists(
        st.one_of(
            st.text(),
            st.builds(
                "node_{}{}".format,
                st.sampled_from(["load1", "cpu_seconds_total", "boot_time_seconds", "network_receive_bytes_total"]),
                st.text(max_size=60),
            ),
        )
    )
)
def test_no_text_brings_the_reader_down(lines: list[str]) -> None:
    try:
        parse_exporter("\n".join(lines), at=1.0)
    except FiguresFailure as caught:
        assert caught.code == "bad_figures"


def test_numbers_that_are_none_are_left_out() -> None:
    text = 'node_cpu_seconds_total{cpu="0",mode="user"} 5\nnode_load1 NaN\nnode_boot_time_seconds +Inf\n'
    text += 'node_network_receive_bytes_total{device="eth0"} -4\nnode_memory_MemTotal_bytes 100\n'
    told = parse_exporter(text, at=1.0)
    assert (told.cpu_busy, told.load_average, told.boot_time, told.received) == (5, None, 0, {})
    assert (told.memory_percent, told.disk_percent) == (None, None)


def test_only_lines_to_the_world_are_counted() -> None:
    names = ["eth0", "ens3", "enp1s0", "venet0", "wlan0", "lo", "veth12ab", "docker0", "br-12", "br0", "eth0.5", "wg0"]
    assert [name for name in names if is_counted(name)] == ["eth0", "ens3", "enp1s0", "venet0", "wlan0"]


# --- from counters to figures ----------------------------------------------------------------------


def snapshot(at: float, busy: float, total: float, *, boot: float = 0.0, **bytes_of: float) -> Snapshot:
    return Snapshot(at=at, boot_time=boot, cpu_busy=busy, cpu_total=total, received=bytes_of, sent=bytes_of)


def test_rates_are_what_grew_in_the_time_between() -> None:
    figures = figures_between(snapshot(0, 10, 100, eth0=500), snapshot(30, 25, 160, eth0=3500))
    assert (figures.cpu_percent, figures.network_in) == (25.0, 100.0)


@pytest.mark.parametrize(
    "before",
    [None, snapshot(29.9, 1, 1, eth0=1), snapshot(-1000, 1, 1, eth0=1), snapshot(0, 1, 999, eth0=1)],
    ids=["nothing before", "too near", "too long ago", "counted less"],
)
def test_what_cannot_be_compared_gives_no_rate(before: Snapshot | None) -> None:
    figures = figures_between(before, snapshot(30, 25, 160, eth0=3500))
    assert (figures.cpu_percent, figures.network_in) == (None, None)


def test_a_reboot_is_no_flood_and_a_clock_put_right_is_no_reboot() -> None:
    rebooted = figures_between(snapshot(0, 1, 2, eth0=1), snapshot(30, 25, 160, boot=900, eth0=3500))
    assert rebooted.network_in is None
    assert figures_between(snapshot(0, 1, 2, eth0=1), snapshot(30, 25, 160, boot=2, eth0=3001)).network_in == 100


def test_an_interface_that_was_reset_or_is_new_tells_nothing_of_itself() -> None:
    before, after = snapshot(0, 1, 2, eth0=100, eth1=900), snapshot(30, 2, 3, eth0=400, eth1=5, eth2=10**9)
    assert figures_between(before, after).network_in == 10


# --- measuring -------------------------------------------------------------------------------------


def far(number: int, **fields: Any) -> Server:
    """A server on another machine."""
    return server(number, endpoint=f"tcp://192.0.2.{number}:2376", **fields)


class World:
    """Exporters that count as the clock goes: half busy, 1000 bytes a second. Those in `silent` do not answer."""

    def __init__(self) -> None:
        self.silent: dict[str, str] = {}
        self.asked: list[str] = []

    def read(self, client: httpx.Client, ip: str) -> Snapshot:
        self.asked.append(ip)
        if ip in self.silent:
            raise FiguresFailure(self.silent[ip])
        moment = time.time()
        counted = {"eth0": moment * 1000}
        return Snapshot(moment, 1.0, moment / 2, moment, 40.0, 2**30, 30.0, 0.5, counted, counted)

    def sweep(self) -> int:
        return measure_servers(read=self.read)


@pytest.mark.both_databases
@pytest.mark.django_db
def test_every_due_server_is_measured_and_what_is_known_becomes_history(clock: Traveller, alice: User) -> None:
    world, here = World(), far(1)
    far(2)
    relay = only_relay(group(alice))
    Relay.objects.filter(pk=relay.pk).update(server=here, observed_state=Relay.Observed.RUNNING)
    assert world.sweep() == 2
    assert world.sweep() == 0, "nobody is due"
    first = ServerLoad.objects.get(server=here)
    assert (first.cpu_percent, first.network_in, first.memory_percent) == (None, None, 40.0)
    assert not Measurement.objects.filter(metric=Metric.CPU).exists()
    clock.shift(30)
    assert world.sweep() == 2
    load = ServerLoad.objects.get(server=here)
    assert (load.cpu_percent, load.network_in, load.containers_running) == (50.0, 1000.0, 1)
    assert is_fresh(load)
    assert load.measured_at is not None
    assert Measurement.objects.filter(server=here, timestamp=load.measured_at).count() == len(Metric)


@pytest.mark.django_db
def test_a_server_that_gives_no_figures_keeps_what_it_had_and_says_why(clock: Traveller) -> None:
    world, here = World(), far(1)
    world.sweep()
    rows = Measurement.objects.count()
    clock.shift(200)
    world.silent[here.ip] = "timeout"
    world.sweep()
    load = ServerLoad.objects.get(server=here)
    assert (load.error, load.memory_percent, load.measured_at) == ("timeout", 40.0, NOON)
    assert not is_fresh(load)
    assert Measurement.objects.count() == rows
    world.silent.clear()
    clock.shift(30)
    world.sweep()
    assert ServerLoad.objects.get(server=here).error == ""


@pytest.mark.django_db
def test_a_lost_server_that_gives_no_figures_is_asked_less_often(clock: Traveller) -> None:
    world, lost = World(), far(1, phase=Server.Phase.UNHEALTHY)
    world.silent[lost.ip] = "timeout"
    assert world.sweep() == 1
    clock.shift(60)
    assert world.sweep() == 0
    clock.shift(70)
    assert world.sweep() == 1


@pytest.mark.django_db
def test_this_machine_is_measured_without_an_exporter() -> None:
    world = World()
    server(1, runtime=Server.Runtime.PROCESS)
    server(2, endpoint="unix:///var/run/docker.sock")
    server(3, ip="127.0.0.9", endpoint="tcp://127.0.0.9:2376")
    assert world.sweep() == 3
    assert world.asked == []
    assert set(ServerLoad.objects.values_list("memory_percent", flat=True)) != {None}


@pytest.mark.django_db(transaction=True)
def test_a_server_deleted_while_it_is_asked_costs_the_others_nothing() -> None:
    world, gone, stays = World(), far(1), far(2)

    def read(client: httpx.Client, ip: str) -> Snapshot:
        if ip == gone.ip:
            deleter = threading.Thread(target=delete)
            deleter.start()
            deleter.join()
        return world.read(client, ip)

    def delete() -> None:
        Server.objects.filter(pk=gone.pk).delete()
        connection.close()

    measure_servers(read=read)
    assert list(ServerLoad.objects.exclude(measured_at=None).values_list("server", flat=True)) == [stays.pk]


@pytest.mark.django_db
def test_many_servers_cost_no_more_queries_than_few(clock: Traveller) -> None:
    world = World()

    def queries() -> int:
        clock.shift(30)
        with CaptureQueriesContext(connection) as seen:
            world.sweep()
        return len(seen)

    for number in range(1, 3):
        far(number)
    world.sweep()
    few = queries()
    for number in range(3, 13):
        far(number)
    world.sweep()
    assert queries() == few <= 14


# --- history ---------------------------------------------------------------------------------------


def history(host: Server, *, hours: int, end: datetime, every: int = 10, metric: Metric = Metric.CPU) -> None:
    """Readings up to `end`: in hour n of the day the values n, n + 1, … in turn."""
    start = end - timedelta(hours=hours)
    moments = [start + timedelta(minutes=minute) for minute in range(0, hours * 60, every)]
    Measurement.objects.bulk_create(
        Measurement(server=host, metric=metric, value=value, highest=value, timestamp=moment)
        for moment in moments
        for value in [float(moment.hour + moment.minute // every)]
    )


def kept(span: Measurement.Span) -> list[tuple[Any, ...]]:
    rows = Measurement.objects.filter(span=span).order_by("server", "metric", "timestamp")
    return list(rows.values_list("server", "metric", "timestamp", "value", "highest"))


@pytest.mark.both_databases
@pytest.mark.django_db
def test_readings_become_hours_and_days_and_doing_it_again_changes_nothing(clock: Traveller) -> None:
    midnight = NOON.replace(hour=0)
    history(server(1), hours=36, end=NOON)
    clock.shift(timedelta(minutes=10))
    roll_up()
    hours, days = kept(Span.HOUR), kept(Span.DAY)
    assert len(hours) == 36
    assert hours[-1][2:] == (NOON - timedelta(hours=1), 11 + 2.5, 11 + 5.0)
    assert days == [(hours[0][0], "cpu", midnight - timedelta(days=1), 11.5 + 2.5, 23 + 5.0)]
    roll_up()
    for hour in hours:
        roll_up_hour(hour[2])
    roll_up_day(days[0][2])
    assert (kept(Span.HOUR), kept(Span.DAY)) == (hours, days)


@pytest.mark.django_db
def test_an_hour_is_rolled_up_only_when_nothing_more_will_come(clock: Traveller) -> None:
    history(server(1), hours=1, end=NOON)
    clock.shift(timedelta(minutes=4))
    roll_up()
    assert kept(Span.HOUR) == []
    clock.shift(timedelta(minutes=2))
    roll_up()
    assert len(kept(Span.HOUR)) == 1


@pytest.mark.django_db
def test_what_is_too_old_is_forgotten_and_only_after_it_was_rolled_up(clock: Traveller) -> None:
    host = server(1)
    history(host, hours=72, end=NOON)
    old = NOON - timedelta(days=91)
    Measurement.objects.create(server=host, metric=Metric.CPU, span=Span.HOUR, value=7, highest=9, timestamp=old)
    forget_old_readings()
    readings = Measurement.objects.filter(span=Span.READING)
    assert readings.earliest("timestamp").timestamp == NOON - timedelta(hours=48)
    assert len(kept(Span.HOUR)) == 71, "the last hour has not settled, the old one is gone"
    assert kept(Span.DAY)[0][2:] == (old.replace(hour=0), 7, 9)
    before = kept(Span.HOUR), kept(Span.DAY)
    forget_old_readings()
    assert (kept(Span.HOUR), kept(Span.DAY)) == before


@pytest.mark.django_db
def test_old_traffic_is_forgotten_but_not_its_days(clock: Traveller, alice: User) -> None:
    server(1)
    relay = only_relay(group(alice))
    for span, age in (
        (Traffic.Span.READING, timedelta(hours=50)),
        (Traffic.Span.READING, timedelta(hours=47)),
        (Traffic.Span.HOUR, timedelta(days=92)),
        (Traffic.Span.HOUR, timedelta(days=89)),
        (Traffic.Span.DAY, timedelta(days=900)),
    ):
        Traffic.objects.create(relay=relay, span=span, starts_at=NOON - age)
    forget_old_readings()
    left = Traffic.objects.order_by("starts_at").values_list("span", "starts_at")
    ages = [timedelta(days=900), timedelta(days=89), timedelta(hours=47)]
    assert list(left) == list(zip(["day", "hour", "reading"], [NOON - age for age in ages], strict=True))


@pytest.mark.django_db
def test_rows_are_deleted_in_bounded_batches(clock: Traveller) -> None:
    history(server(1), hours=2, end=NOON)
    rows = Measurement.objects.order_by("timestamp")
    assert delete_in_batches(rows, batch=5, most_batches=2) == 10
    assert delete_in_batches(rows, batch=2, most_batches=99) == 2
    assert not rows.exists()


# --- analysis --------------------------------------------------------------------------------------

ROOM = Headroom(places=50, cpu=None, memory=None, uplink=None)


@pytest.mark.parametrize(
    ("headroom", "used", "rising", "expected"),
    [
        (ROOM, {}, {}, (Advice.FINE, None)),
        (ROOM, {Resource.CPU: 79.0}, {Resource.CPU: -5.0}, (Advice.FINE, None)),
        (ROOM, {Resource.CPU: 70.0}, {Resource.CPU: 12.0}, (Advice.ADD_CAPACITY, Resource.CPU)),
        (ROOM, {Resource.CPU: 81.0, Resource.DISK: 96.0}, {}, (Advice.DRAIN, Resource.DISK)),
        (Headroom(10, None, None, None), {}, {}, (Advice.ADD_CAPACITY, Resource.PLACES)),
        (Headroom(50, 40, 3, None), {Resource.MEMORY: 60.0}, {}, (Advice.ADD_CAPACITY, Resource.MEMORY)),
    ],
)
def test_the_advice_follows_from_what_is_used_and_what_is_left(
    headroom: Headroom, used: dict[Resource, float], rising: dict[Resource, float], expected: Any
) -> None:
    assert advise(headroom, places=100, used=used, rising=rising) == expected


@pytest.mark.both_databases
@pytest.mark.django_db
def test_an_analysis_has_p95_trend_and_headroom(clock: Traveller, alice: User) -> None:
    host = server(1, max_relays=100, uplink_mbps=8)
    for _ in range(6):
        relay = only_relay(group(alice))
        Relay.objects.filter(pk=relay.pk).update(observed_state=Relay.Observed.RUNNING)
    ServerLoad.objects.create(server=host, measured_at=NOON, disk_percent=10, counters={"memory_bytes": 2**30})
    for number in range(100):
        moment = NOON - timedelta(minutes=7 * number)
        for metric, value in ((Metric.CPU, number + 1.0), (Metric.MEMORY, 30.0), (Metric.NETWORK_OUT, 300_000.0)):
            Measurement.objects.create(server=host, metric=metric, value=value, highest=value, timestamp=moment)
    [found] = analyse(list(servers_to_analyse()))
    assert found.p95 == {Metric.CPU: 95.0, Metric.MEMORY: 30.0, Metric.NETWORK_OUT: 300_000.0}
    assert found.trend[Metric.MEMORY].change == 0
    falling = found.trend[Metric.CPU].change
    assert falling is not None
    assert falling < 0
    # 50 % of 1 GiB are 4 relays of 128 MiB; 30 % of the line by 6 relays leaves 50 %, which is 10 more.
    assert found.headroom == Headroom(places=94, cpu=0, memory=4, uplink=10)
    assert (found.advice, found.reason) == (Advice.DRAIN, Resource.CPU)
    assert found.words == "Customers feel it (CPU): move relays away from here."


@pytest.mark.django_db
def test_a_server_that_was_never_measured_is_judged_by_its_places(clock: Traveller) -> None:
    server(1, max_relays=10)
    [found] = analyse(list(servers_to_analyse()))
    assert (found.is_current, found.p95, found.advice) == (False, {}, Advice.FINE)
    assert found.words == "All is well: room for 10 more relays."
