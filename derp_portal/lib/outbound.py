"""HTTP to addresses that customers name: never to a machine that only we can reach.

The address that is connected to is the one that was checked: a name is looked up once, for each connection anew, so
neither a redirect nor a changed DNS record leads elsewhere.

Every wait ends at one moment for the whole question. Time-outs of sockets count from the last byte, so a server that
drips its headers, or says `103 Early Hints` for ever, would else hold a thread for as long as it likes.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import certifi
import httpcore
import httpx
from django.conf import settings

LONGEST_URL = 500
MOST_REDIRECTS = 3
BODY_LIMIT = 8 * 1024 * 1024
_PIECE = 4096
"""So much is sent at a time: where a connection takes anything, it takes this at once."""
_SPECIAL = ipaddress.ip_network("192.0.0.0/24")
"""Kept for protocols; Python's word about it has changed from release to release."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class OutboundFailure(Exception):
    """No answer. `code` is one of `invalid_url`, `private_address`, `unreachable`, `timeout`, `too_large`."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(detail or code)
        self.code = code


class _PrivateAddress(httpcore.ConnectError):
    """The name leads to addresses that are not on the public Internet, and to no other."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the other side said. `headers` are by lower-case name; `body` is whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def check_url(url: str) -> str:
    """The address as it was given, without blanks around it. Raises OutboundFailure; looks nothing up."""
    text = url.strip()
    try:
        parts = urlsplit(text)
        is_plain = parts.scheme in ("http", "https") and parts.hostname and not parts.username and not parts.password
        _port = parts.port
    except ValueError as error:
        raise OutboundFailure("invalid_url") from error
    if not is_plain or len(text) > LONGEST_URL or any(ord(letter) <= 32 for letter in text):
        raise OutboundFailure("invalid_url")
    try:
        address = ipaddress.ip_address(str(parts.hostname))
    except ValueError:
        return text
    if not is_permitted(address):
        raise OutboundFailure("private_address")
    return text


def fetch(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    json: Any = None,
    content: bytes | None = None,
    data: Mapping[str, str] | None = None,
    auth: tuple[str, str] | None = None,
    seconds: float = 15,
) -> Answer:
    """Ask, and read the answer, whatever its status. Raises OutboundFailure.

    All of it, redirects included, takes at most so many seconds. A redirect to another host carries no credentials.
    """
    check_url(url)
    ends = time.monotonic() + seconds
    try:
        with (
            _client(ends) as client,
            client.stream(method, url, headers=headers, json=json, content=content, data=data, auth=auth) as response,
        ):
            if "," in response.headers.get("content-encoding", ""):
                # Packed twice, a few bytes are gigabytes before anybody can count them.
                raise OutboundFailure("too_large")
            body = b"".join(_within(response.iter_bytes()))
            return Answer(response.status_code, dict(response.headers), body)
    except (httpx.TimeoutException, httpcore.TimeoutException) as error:
        raise OutboundFailure("timeout", str(error)) from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise OutboundFailure("invalid_url", str(error)) from error
    except _PrivateAddress as error:
        raise OutboundFailure("private_address", str(error)) from error
    except (httpx.HTTPError, *_HTTPCORE_ERRORS) as error:
        raise OutboundFailure("unreachable", str(error)) from error


_HTTPCORE_ERRORS = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError, httpcore.UnsupportedProtocol)


def _within(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The chunks, as long as they are not too many."""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > BODY_LIMIT:
            raise OutboundFailure("too_large")
        yield chunk


def is_permitted(address: Address) -> bool:
    """Whether a customer may have us speak to it: on the public Internet, or allowed by the operator."""
    if any(address in network for network in _allowed()):
        return True
    inner = _inner(address)
    if inner is not None:
        return is_permitted(inner)
    if address in _SPECIAL:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _inner(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def _allowed() -> list[Network]:
    return [ipaddress.ip_network(network) for network in settings.OUTBOUND_ALLOWED_NETWORKS]


class _Stream(httpcore.NetworkStream):
    """A connection on which nothing waits beyond the end. What httpcore grants each wait is longer, and left aside."""

    def __init__(self, inner: httpcore.NetworkStream, ends: float) -> None:
        self._inner = inner
        self._ends = ends

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._left(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PIECE):
            self._inner.write(buffer[start : start + _PIECE], self._left(httpcore.WriteTimeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._left(httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left), self._ends)

    def close(self) -> None:
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)

    def _left(self, failure: type[httpcore.TimeoutException]) -> float:
        try:
            return _left(self._ends, failure)
        except httpcore.TimeoutException:
            self.close()
            raise


def _left(ends: float, failure: type[httpcore.TimeoutException]) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise failure("out of time")
    return left


def _look_up(host: str, port: int, ends: float) -> list[str]:
    """The addresses of that name. The resolver keeps its own time: a late one is left to a thread that ends with it."""
    answers: SimpleQueue[list[Any] | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=_left(ends, httpcore.ConnectTimeout))
    except Empty:
        raise httpcore.ConnectTimeout("name lookup") from None
    if isinstance(answer, Exception):
        raise httpcore.ConnectError(str(answer)) from answer
    return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in answer))


class _Backend(httpcore.NetworkBackend):
    """Connects to the addresses that were looked up and checked, and to no others; until `ends` at the longest."""

    def __init__(self, ends: float) -> None:
        self._inner = httpcore.SyncBackend()
        self._ends = ends

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        texts = _look_up(host, port, self._ends)
        permitted = [text for text in texts if is_permitted(ipaddress.ip_address(text))]
        if not permitted:
            raise _PrivateAddress(host)

        def connected(text: str, share: float) -> httpcore.NetworkStream:
            left = _left(self._ends, httpcore.ConnectTimeout)
            stream = self._inner.connect_tcp(text, port, left * share, local_address, socket_options)
            return _Stream(stream, self._ends)

        for text in permitted[:-1]:
            try:
                # One that swallows everything must leave time for the next.
                return connected(text, 0.5)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return connected(permitted[-1], 1)

    def connect_unix_socket(self, path: str, timeout: float | None = None, socket_options: Any = None) -> Any:
        raise _PrivateAddress(path)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        self._stream.close()


class _Transport(httpx.BaseTransport):
    """httpcore with our backend: httpx's own transport does not take one."""

    def __init__(self, ends: float) -> None:
        # For one question: a kept connection would outlive the check of its address.
        self._pool = httpcore.ConnectionPool(
            ssl_context=_authorities(), max_keepalive_connections=0, network_backend=_Backend(ends)
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.SyncByteStream)
        response = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        answer = httpx.Response(response.status, headers=response.headers, stream=_Body(response.stream))
        if answer.has_redirect_location:
            # httpx would read all that comes with it, however much, before it goes on.
            answer.close()
            return httpx.Response(response.status, headers={"Location": answer.headers["Location"]})
        return answer

    def close(self) -> None:
        self._pool.close()


@cache
def _authorities() -> ssl.SSLContext:
    """One for all questions: reading the authorities takes longer than many an answer."""
    return ssl.create_default_context(cafile=certifi.where())


def _client(ends: float) -> httpx.Client:
    # Nothing from the environment: a proxy named there would look names up itself. httpx's own time-outs go unused.
    return httpx.Client(
        transport=_Transport(ends), follow_redirects=True, max_redirects=MOST_REDIRECTS, trust_env=False
    )
