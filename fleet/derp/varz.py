"""Read a relay's own counters from `/debug/varz`. They count from zero at each start of the relay's process."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from fleet.derp.errors import NotOurRelay, RelayFailure
from fleet.derp.pinned import PinnedConnection, deadline_in

_MAX_BODY = 4 * 1024 * 1024


class VarzFailure(RelayFailure):
    """The relay answered, but gave no counters. Codes: `debug_refused`, `bad_varz`."""


@dataclass(frozen=True, slots=True)
class Varz:
    """Payload bytes and connection counts since `started_at` (Unix seconds), by which a restart is told apart."""

    bytes_received: int
    bytes_sent: int
    connections: int
    home_connections: int
    accepts: int
    started_at: float
    version: str


def read_varz(*, ip: str, port: int, host_name: str, pin: str, debug_key: str, timeout: float = 5.0) -> Varz:
    """Ask a relay for its counters, over the pinned connection only, because the key travels in the request.

    Raises RelayFailure: `NetworkFailure`, `NotOurRelay` or `VarzFailure`. Returns or raises within `timeout` seconds.
    """
    deadline = deadline_in(timeout)
    connection = PinnedConnection.open(ip=ip, port=port, host_name=host_name, pin=pin, deadline=deadline)
    try:
        # HTTP/1.0: the answer is never chunked and ends with the connection. X-Forwarded-For makes derper ask for the
        # key from loopback too, so a wrong key shows in development already.
        connection.send(
            f"GET /debug/varz?debugkey={quote(debug_key, safe='')} HTTP/1.0\r\n"
            f"Host: {host_name}\r\nX-Forwarded-For: prober\r\n\r\n".encode(),
            deadline,
        )
        answer = bytearray()
        while data := connection.receive(deadline):
            answer += data
            if len(answer) > _MAX_BODY:
                raise VarzFailure("bad_varz", "the answer does not end")
    finally:
        connection.close()
    head, separator, body = bytes(answer).partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0].split(b" ")
    if not separator or len(status) < 2:
        raise NotOurRelay("not_derp", "no HTTP answer")
    if status[1] != b"200":
        raise VarzFailure("debug_refused", status[1].decode(errors="replace"))
    return parse_varz(body)


def parse_varz(text: bytes) -> Varz:
    """Read derper's Prometheus text. Raises VarzFailure when a counter is missing or unreadable.

    Of some three hundred lines seven are needed, each a name and a number: a parser for all of the format, over all of
    the text, takes twice as long as the relay takes to answer.
    """
    lines = b"\n" + text
    try:
        return Varz(
            bytes_received=int(_number(lines, b"derp_bytes_received")),
            bytes_sent=int(_number(lines, b"derp_bytes_sent")),
            connections=int(_number(lines, b"derp_current_connections")),
            home_connections=int(_number(lines, b"derp_current_home_connections")),
            accepts=int(_number(lines, b"derp_accepts")),
            # The other start time is worked out anew from the host's clock, and a clock that is put right would look
            # like a new process whose every byte is still to be counted.
            started_at=_number(lines, b"process_start_unix_time", b"process_start_time_seconds"),
            # A derper built without version control says so in its version: "1.102.3-ERR-BuildInfo".
            version=_label(lines, b'version{version="').partition("-ERR-")[0],
        )
    except (ValueError, OverflowError) as error:
        raise VarzFailure("bad_varz", str(error)) from error


def _number(lines: bytes, *names: bytes) -> float:
    """The sample without labels of the first of these names that is there; ValueError for none, or no finite number."""
    for name in names:
        start = lines.find(b"\n" + name + b" ")
        if start >= 0:
            end = lines.find(b"\n", start + 1)
            value = float(lines[start + len(name) + 2 : end if end >= 0 else None])
            break
    else:
        raise ValueError(f"{names[0].decode()} is missing")
    if not 0 <= value < 2**63:
        raise ValueError(f"{name.decode()} is {value}")
    return value


def _label(lines: bytes, begin: bytes) -> str:
    start = lines.find(b"\n" + begin)
    return lines[start + 1 + len(begin) :].partition(b'"')[0].decode(errors="replace") if start >= 0 else ""
