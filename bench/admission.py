"""Answers at the door against an empty view of the same server, and against a Headscale's own verifier."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

from accounts.models import User
from derp_portal.lib.clock import now
from fleet.acl import door_log
from fleet.models import AclConfig, AclLog, NodeKey, Region, Relay, Server
from fleet.services import GroupTerms, create_group
from tests import parts
from tests.fleet.engines import wait_until
from tests.fleet.headscale import Headscale
from tests.ports import free_port

CONNECTIONS = 8
REQUESTS = 4000
ROUNDS = 3
ASKED = 500
"""So many different devices connect; the others are only known."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Answers a second, and the seconds within which 99 of 100 of them came."""

    per_second: float
    p99: float


def measure() -> None:
    """First the portal with few and with a million devices, then a Headscale beside it, where there is one."""
    relay = _relay()
    with _portal() as port:
        empty = lambda: _load(port, "/bench/empty/", [f"nodekey:{n:064x}" for n in range(ASKED)])  # noqa: E731
        door = f"/derp/admit/{relay.admission_secret}"
        few = _compare("admission, 1,000 devices", relay, 1_000, empty, lambda keys: _load(port, door, keys))
        many = _compare("admission, 1,000,000 devices", relay, 1_000_000, empty, lambda keys: _load(port, door, keys))
        flat = many.per_second / few.per_second
        print(f"{'admission, a million devices against 1,000':<46} {flat:6.2f} x", flush=True)
        if not parts.has("headscale"):
            print("headscale: not measured, it is not here")
            return
        for nodes in (1_000, 10_000):
            with _headscale(nodes) as (other, keys):
                theirs = _median([_load(other, "/verify", keys) for _ in range(ROUNDS)])
            _say(f"admission against headscale, {nodes:,} nodes", few, theirs, "its /verify")


def _compare(
    what: str, relay: Relay, devices: int, empty: Callable[[], Rate], door: Callable[[Sequence[str]], Rate]
) -> Rate:
    keys = _list_devices(relay.owner, devices)
    asked = random.Random(1).sample(keys, ASKED)
    door(asked)  # Once for the memory: what is measured is a day like any other.
    bare, ours = [], []
    for _ in range(ROUNDS):
        bare.append(empty())
        ours.append(door(asked))
    before, start = AclLog.objects.count(), time.perf_counter()
    door_log.write_down()
    written, took = AclLog.objects.count() - before, time.perf_counter() - start
    median = _median(ours)
    _say(what, median, _median(bare), f"empty view; {written:,} lines written down at {written / took:,.0f}/s")
    return median


def _say(what: str, ours: Rate, bare: Rate, baseline: str) -> None:
    p99 = f"p99 {ours.p99 / bare.p99:.2f} x: {ours.p99 * 1000:.1f} ms / {bare.p99 * 1000:.1f} ms"
    rates = f"{ours.per_second:,.0f}/s / {bare.per_second:,.0f}/s"
    print(f"{what:<46} {ours.per_second / bare.per_second:6.2f} x {baseline} ({rates}; {p99})", flush=True)


def _median(rates: Sequence[Rate]) -> Rate:
    return Rate(statistics.median(r.per_second for r in rates), statistics.median(r.p99 for r in rates))


def _relay() -> Relay:
    owner = User.objects.create_user("bench-door", "bench-door@example.com")
    region = Region.objects.get_or_create(code="bench", defaults={"name": "Bench"})[0]
    Server.objects.create(
        name="bench-door", ip="192.0.2.77", region=region, endpoint="tcp://192.0.2.77:2376",
        status=Server.Status.HEALTHY, port_first=21000, port_last=21009,
    )  # fmt: skip
    group = create_group(
        owner=owner, label="door", run_until=now() + timedelta(days=30), terms=GroupTerms(), actor=None
    )
    AclConfig.objects.create(user=owner, version=2, mode="closed")
    return group.relays.select_related("owner").get()


def _list_devices(owner: User, count: int) -> list[str]:
    """That many devices in all: a thousand of this owner's, the others of people who have as many each."""
    per_owner = 1000
    keys = [f"nodekey:{number:064x}" for number in range(per_owner)]
    for first in range(0, count, per_owner):
        name = f"bench-devices-{first}"
        somebody = owner if first == 0 else User.objects.create_user(name, f"{name}@example.com")
        NodeKey.objects.bulk_create((NodeKey(owner=somebody, key=key) for key in keys), ignore_conflicts=True)
    return keys


@contextmanager
def _portal() -> Iterator[int]:
    """The server as production starts it, with one worker."""
    port = free_port()
    where = ("--host", "127.0.0.1", "--port", str(port))
    how = ("--workers", "1", "--blocking-threads", "4", "--no-ws", "--no-access-log", "--log-level", "error")
    command = [sys.executable, "-m", "granian", "derp_portal.wsgi:application", "--interface", "wsgi", *where, *how]
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "bench.admission_settings"}
    process = subprocess.Popen(command, env=env)
    try:
        wait_until(lambda: _answers(port), seconds=30, what="granian")
        yield port
    finally:
        process.terminate()
        process.wait(20)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _load(port: int, path: str, keys: Sequence[str]) -> Rate:
    """Ask over so many connections at once, each question with the next device."""
    took: list[float] = []
    each = REQUESTS // CONNECTIONS
    start = threading.Barrier(CONNECTIONS + 1)

    def ask(number: int) -> None:
        mine = []
        with socket.create_connection(("127.0.0.1", port)) as link:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            questions = [_question(port, path, keys[(number * each + turn) % len(keys)]) for turn in range(each)]
            start.wait()
            for question in questions:
                began = time.perf_counter()
                link.sendall(question)
                _read_answer(link)
                mine.append(time.perf_counter() - began)
        took.extend(mine)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    whole = time.perf_counter() - began
    assert len(took) == each * CONNECTIONS, "a connection broke"
    return Rate(len(took) / whole, statistics.quantiles(took, n=100)[98])


def _question(port: int, path: str, key: str) -> bytes:
    body = json.dumps({"NodePublic": key, "Source": "198.51.100.7"}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _read_answer(link: socket.socket) -> None:
    answer = b""
    while b"}" not in answer:
        part = link.recv(4096)
        assert part, "the server hung up"
        answer += part
    assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
    assert b"true" in answer, answer[-50:]


MAP = {
    "Regions": {
        "950": {
            "RegionID": 950,
            "RegionCode": "b",
            "RegionName": "B",
            "Nodes": [{"Name": "950a", "RegionID": 950, "HostName": "a.relay.internal", "IPv4": "127.0.0.1"}],
        }
    }
}


@contextmanager
def _headscale(nodes: int) -> Iterator[tuple[int, list[str]]]:
    """A Headscale that knows so many nodes: its port, and the keys of some of them."""
    with ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="hs-", dir="/tmp"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        source = ThreadingHTTPServer(("127.0.0.1", 0), _Map)
        thread = threading.Thread(target=source.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        stack.callback(thread.join)
        stack.callback(source.shutdown)
        headscale = Headscale(home, f"http://127.0.0.1:{source.server_port}/")
        headscale.start()
        stack.callback(headscale.stop)
        headscale.add_user("bench")
        headscale.add_node("bench", "first")
        headscale.stop()
        keys = _copy_node(home / "db.sqlite", nodes)
        headscale.start()
        yield int(headscale.url.rpartition(":")[2]), keys


class _Map(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(MAP).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


def _copy_node(database: Path, nodes: int) -> list[str]:
    """Make the first node many, straight in the table: registering each would take a quarter of an hour."""
    with sqlite3.connect(database) as db:
        db.row_factory = sqlite3.Row
        first = dict(db.execute("SELECT * FROM nodes").fetchone())
        names = list(first)
        rows, keys = [], []
        for number in range(2, nodes + 1):
            key = f"nodekey:{uuid4().hex}{uuid4().hex}"
            keys.append(key)
            new = {
                "id": number,
                "machine_key": f"mkey:{uuid4().hex}{uuid4().hex}",
                "node_key": key,
                "hostname": f"n{number}",
                "given_name": f"n{number}",
                "ipv4": f"100.{64 + number // 65536}.{number // 256 % 256}.{number % 256}",
                "ipv6": f"fd7a:115c:a1e0::{number:x}",
            }
            rows.append(tuple((first | new)[name] for name in names))
        marks = ",".join("?" * len(names))
        db.executemany(f"INSERT INTO nodes ({','.join(names)}) VALUES ({marks})", rows)
    return keys[:ASKED]
