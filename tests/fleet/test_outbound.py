"""Speaking to addresses that customers name: never to a private one, whatever the name, redirect or resolver."""

from __future__ import annotations

import gzip
import socket
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from itertools import repeat
from threading import Event, Thread
from typing import Any

import httpcore
import pytest
from pytest_django.fixtures import Settings

from derp_portal.lib import outbound
from derp_portal.lib.outbound import OutboundFailure, check_url, fetch, is_permitted


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif self.path == "/long":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * (outbound.BODY_LIMIT + 1))
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"secret of the inside")

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test output quiet."""


@contextmanager
def listening(host: str) -> Iterator[int]:
    server = ThreadingHTTPServer((host, 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def inside() -> Iterator[int]:
    """A server that only this machine can reach."""
    with listening("127.0.0.1") as port:
        yield port


@contextmanager
def saying(first: bytes, piece: bytes, pause: float) -> Iterator[int]:
    """A server that answers `first`, and then `piece` for as long as anybody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            connection, _address = server.accept()
            with connection, suppress(OSError):
                connection.sendall(first)
                for part in repeat(piece):
                    connection.sendall(part)
                    time.sleep(pause)

        thread = Thread(target=talk, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)


def refusal(url: str, seconds: float = 30) -> str:
    with pytest.raises(OutboundFailure) as failure:
        fetch("GET", url, seconds=seconds)
    return failure.value.code


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.0.8", "240.0.0.1"),
        *("::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:c0a8:101::1"),
    ],
)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_permitted(ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "64:ff9b::101:101"])
def test_a_public_address_is_permitted(address: str) -> None:
    assert is_permitted(ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        *("", "headscale.example.com", "ftp://a.example/", "file:///etc/passwd", "http://", "http://user:x@a.example/"),
        *("http://a.example:99999/", "http://a.example/\r\nX: y", "http://[::1", "https://a.example/" + "x" * 500),
    ],
)
def test_what_is_no_plain_web_address_is_refused_when_it_is_entered(url: str) -> None:
    with pytest.raises(OutboundFailure) as failure:
        check_url(url)
    assert failure.value.code == "invalid_url"


def test_a_private_address_is_refused_when_it_is_entered() -> None:
    for url in ("http://127.0.0.1/", "http://[::1]:8080/verify", "https://10.0.0.1/"):
        with pytest.raises(OutboundFailure) as failure:
            check_url(url)
        assert failure.value.code == "private_address"


def test_a_name_that_leads_inside_is_refused(inside: int) -> None:
    assert refusal(f"http://localhost:{inside}/") == "private_address"


def test_other_spellings_of_a_private_address_are_refused(inside: int) -> None:
    for host in ("127.1", "2130706433", "0x7f000001", "0"):
        assert refusal(f"http://{host}:{inside}/") in ("private_address", "unreachable")


def test_a_redirect_that_leads_inside_is_refused(
    inside: int, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first server is one that is allowed, the second is on another address of this machine."""
    settings.OUTBOUND_ALLOWED_NETWORKS = ["127.0.0.2/32"]
    with listening("127.0.0.2") as port:
        assert fetch("GET", f"http://127.0.0.2:{port}/").body == b"secret of the inside"
        assert refusal(f"http://127.0.0.2:{port}/to/http://127.0.0.1:{inside}/") == "private_address"
        assert refusal(f"http://127.0.0.2:{port}/to/http://localhost:{inside}/") == "private_address"
        assert refusal(f"http://127.0.0.2:{port}/to/file:///etc/passwd") in ("invalid_url", "unreachable")


def test_a_name_that_changes_between_the_check_and_the_connection_leads_nowhere(
    inside: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is looked up once for each connection, and what was looked up is what is connected to."""
    looked_up = []

    def rebinding(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        looked_up.append(host)
        address = "1.1.1.1" if len(looked_up) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    connected = []

    class Backend:
        def connect_tcp(self, host: str, *args: Any) -> Any:
            connected.append(host)
            raise httpcore.ConnectError("nobody there")

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(httpcore, "SyncBackend", Backend)
    assert refusal(f"http://rebind.example:{inside}/") == "unreachable"
    assert refusal(f"http://rebind.example:{inside}/") == "private_address"
    assert connected == ["1.1.1.1"]


def test_of_several_addresses_only_the_public_ones_are_tried(inside: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    class Backend:
        def connect_tcp(self, host: str, *args: Any) -> Any:
            tried.append(host)
            raise httpcore.ConnectError("nobody there")

    addresses = ["10.0.0.1", "1.1.1.1", "127.0.0.1", "8.8.8.8"]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    monkeypatch.setattr(httpcore, "SyncBackend", Backend)
    assert refusal("http://several.example/") == "unreachable"
    assert tried == ["1.1.1.1", "8.8.8.8"]


def test_what_the_operator_allows_is_reached_and_an_endless_answer_is_cut(inside: int, settings: Settings) -> None:
    settings.OUTBOUND_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    assert fetch("GET", f"http://localhost:{inside}/").status == 200
    assert refusal(f"http://localhost:{inside}/long") == "too_large"
    loop = f"http://127.0.0.1:{inside}"
    assert refusal(f"{loop}/to/{loop}/to/{loop}/to/{loop}/to/{loop}/to/{loop}/") == "unreachable"


def test_a_proxy_named_in_the_environment_is_not_used(inside: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{inside}")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{inside}")
    look_up = socket.getaddrinfo

    def knows_no_names(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        # What a real resolver takes to say so depends on where the suite runs.
        if host == "name.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", knows_no_names)
    assert refusal("http://name.invalid/") == "unreachable"


@pytest.mark.parametrize(
    ("scheme", "first", "piece", "pause"),
    [
        ("http", b"HTTP/1.1 200 OK\r\nX-Drip: ", b"x", 0.1),
        ("http", b"", b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n", 0),
        ("http", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;", b"x", 0.1),
        # A gzip header without its end, and then empty blocks: nothing ever comes out of it.
        (
            *("http", b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\x08\0\0\0\0\0\0\x03"),
            *(b"\0\0\0\xff\xff", 0.1),
        ),
        # A TLS record that says it is long, byte by byte.
        ("https", b"\x16\x03\x03\x40\x00", b"\x02", 0.1),
    ],
    ids=["headers", "early hints", "chunk extension", "gzip of nothing", "tls"],
)
def test_a_server_that_never_comes_to_an_end_holds_nobody(
    settings: Settings, scheme: str, first: bytes, piece: bytes, pause: float
) -> None:
    settings.OUTBOUND_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    with saying(first, piece, pause) as port:
        started = time.monotonic()
        assert refusal(f"{scheme}://127.0.0.1:{port}/", seconds=1) == "timeout"
        assert time.monotonic() - started < 30


def test_a_server_that_takes_in_nothing_holds_nobody(settings: Settings) -> None:
    settings.OUTBOUND_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        started = time.monotonic()
        with pytest.raises(OutboundFailure, match="time") as failure:
            fetch("POST", f"http://127.0.0.1:{server.getsockname()[1]}/", content=bytes(32 << 20), seconds=1)
        assert failure.value.code == "timeout"
        assert time.monotonic() - started < 30


def test_what_comes_with_a_redirect_is_not_read(settings: Settings, inside: int) -> None:
    settings.OUTBOUND_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    first = f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{inside}/\r\n\r\n".encode()
    with saying(first, bytes(65536), 0) as port:
        assert fetch("GET", f"http://127.0.0.1:{port}/", seconds=30).body == b"secret of the inside"


def test_what_was_packed_twice_is_not_unpacked(settings: Settings) -> None:
    settings.OUTBOUND_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    packed = gzip.compress(gzip.compress(bytes(64 << 20)))
    with saying(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip, gzip\r\n\r\n", packed, 1) as port:
        tracemalloc.start()
        try:
            assert refusal(f"http://127.0.0.1:{port}/") == "too_large"
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()


def test_a_resolver_that_is_late_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    done = Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: done.wait(60))
    started = time.monotonic()
    try:
        assert refusal("http://slow.example/", seconds=0.5) == "timeout"
    finally:
        done.set()
    assert time.monotonic() - started < 30
