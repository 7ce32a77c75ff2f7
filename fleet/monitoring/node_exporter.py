"""Reading a host's figures off its Prometheus node exporter. What answers is not trusted."""

from __future__ import annotations

import ipaddress
import math
import re
import time
from collections.abc import Iterator

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from .figures import MOST_INTERFACES, FiguresFailure, Snapshot, is_counted, percent

PORT = 9100

CONNECT_SECONDS = 2.0
READ_SECONDS = 3.0
WHOLE_SECONDS = 5.0
LARGEST_ANSWER = 4 * 1024 * 1024

_WANTED = re.compile(
    r"node_(?:boot_time_seconds|load1|cpu_seconds_total|memory_MemTotal_bytes|memory_MemAvailable_bytes"
    r"|filesystem_(?:size|free|avail)_bytes|network_(?:receive|transmit)_bytes_total)[ {]"
)
_NOT_BUSY = frozenset({"idle", "iowait"})


def open_client() -> httpx.Client:
    """A client for many hosts and threads; to be closed. It takes no proxy or password from the environment."""
    return httpx.Client(
        timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        # What a compressed answer unpacks to would have no bound.
        headers={"Accept": "text/plain", "Accept-Encoding": "identity", "User-Agent": "derp-portal"},
        follow_redirects=False,
        trust_env=False,
    )


def read_exporter(client: httpx.Client, ip: str, *, port: int = PORT) -> Snapshot:
    """What the exporter on that host tells now. Returns or raises FiguresFailure within about `WHOLE_SECONDS`."""
    host = f"[{ip}]" if ipaddress.ip_address(ip).version == 6 else ip
    try:
        text = _fetch(client, f"http://{host}:{port}/metrics")
    except httpx.TimeoutException as error:
        raise FiguresFailure("timeout", str(error)) from error
    except (httpx.ProtocolError, httpx.DecodingError) as error:
        raise FiguresFailure("bad_figures", str(error)) from error
    except httpx.HTTPError as error:
        raise FiguresFailure("connection_refused" if _was_refused(error) else "unreachable", str(error)) from error
    return parse_exporter(text, at=time.time())


def parse_exporter(text: str, *, at: float) -> Snapshot:
    """The exporter's text as a snapshot. Raises FiguresFailure `bad_figures` for what is no node exporter's."""
    # A full page has thousands of lines, and the parser is slow: it is given the few that are read.
    lines = "\n".join(line for line in text.splitlines() if _WANTED.match(line))
    try:
        return _snapshot(_samples(lines), at)
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        raise FiguresFailure("bad_figures", str(error)[:200]) from error


def _fetch(client: httpx.Client, url: str) -> str:
    ends = time.monotonic() + WHOLE_SECONDS
    body = bytearray()
    with client.stream("GET", url) as answer:
        if answer.status_code != 200 or answer.headers.get("Content-Encoding", "identity") != "identity":
            raise FiguresFailure("bad_figures", f"HTTP {answer.status_code}")
        for part in answer.iter_raw():
            body += part
            if len(body) > LARGEST_ANSWER:
                raise FiguresFailure("bad_figures", "the answer does not end")
            if time.monotonic() > ends:
                raise FiguresFailure("timeout", "the answer takes too long")
    return body.decode(errors="replace")


def _was_refused(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ConnectionRefusedError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _samples(text: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if math.isfinite(sample.value) and sample.value >= 0:
                # Without HELP and TYPE the parser takes them as they stand.
                yield sample


def _snapshot(samples: Iterator[Sample], at: float) -> Snapshot:
    plain: dict[str, float] = {}
    busy = total = 0.0
    received: dict[str, float] = {}
    sent: dict[str, float] = {}
    for name, labels, value, *_rest in samples:
        if name == "node_cpu_seconds_total":
            total += value
            busy += 0.0 if labels["mode"] in _NOT_BUSY else value
        elif name.startswith("node_filesystem_"):
            # "/" may be listed twice; what is mounted last is what is seen.
            if labels["mountpoint"] == "/":
                plain[name] = value
        elif name.startswith("node_network_"):
            counts = received if name == "node_network_receive_bytes_total" else sent
            if is_counted(labels["device"]) and len(counts) < MOST_INTERFACES:
                counts[labels["device"]] = value
        else:
            plain[name] = value
    if not total:
        raise FiguresFailure("bad_figures", "no node_cpu_seconds_total")
    return Snapshot(
        at=at,
        boot_time=plain.get("node_boot_time_seconds", 0.0),
        cpu_busy=busy,
        cpu_total=total,
        memory_percent=_memory(plain),
        memory_bytes=int(plain.get("node_memory_MemTotal_bytes", 0)) or None,
        disk_percent=_disk(plain),
        load_average=plain.get("node_load1"),
        received=received,
        sent=sent,
    )


def _memory(plain: dict[str, float]) -> float | None:
    total, available = plain.get("node_memory_MemTotal_bytes"), plain.get("node_memory_MemAvailable_bytes")
    return None if total is None or available is None else percent(total - available, total)


def _disk(plain: dict[str, float]) -> float | None:
    """As `df` has it: of what is used and what programs without privileges may still use."""
    try:
        used = plain["node_filesystem_size_bytes"] - plain["node_filesystem_free_bytes"]
        return percent(used, used + plain["node_filesystem_avail_bytes"])
    except KeyError:
        return None
