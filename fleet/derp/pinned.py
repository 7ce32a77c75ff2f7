"""A TLS connection to exactly one certificate, where every wait ends at a deadline.

Socket time-outs count from the last byte, so a server that drips bytes can hold a caller for ever. Here each call
takes a deadline on the monotonic clock, and nothing outlasts it.
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, lru_cache, partial
from ipaddress import ip_address
from typing import Self, TypeVar

from cryptography import x509

from fleet.derp.errors import NetworkFailure, NotOurRelay
from fleet.derp.identity import covers, is_ip, pin_of

_CHUNK = 64 * 1024
CERTIFICATES = 4096
"""Read ones that are remembered: the same relays are asked again and again."""

_T = TypeVar("_T")


def deadline_in(seconds: float) -> float:
    """Return the moment, on the monotonic clock, `seconds` from now."""
    return time.monotonic() + seconds


class PinnedConnection:
    """Speaks to `ip:port` and to nobody else than the holder of the certificate named by `pin`.

    The checks are those of a Tailscale client: this certificate, within its dates, valid for `host_name`. Everything
    raises `NetworkFailure` or `NotOurRelay`.
    """

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self._tls = tls

    @classmethod
    def open(cls, *, ip: str, port: int, host_name: str, pin: str, deadline: float) -> Self:
        plain = _dial(ip, port, deadline)
        try:
            # As in a Tailscale client, an IP address is never sent as server name.
            server_name = None if is_ip(host_name) else host_name
            tls = _context().wrap_socket(plain, server_hostname=server_name, do_handshake_on_connect=False)
        except OSError as error:
            plain.close()
            raise _translated(error) from error
        connection = cls(tls)
        try:
            connection._patiently(tls.do_handshake, deadline)
            _check(tls.getpeercert(binary_form=True) or b"", host_name=host_name, pin=pin)
        except BaseException:
            connection.close()
            raise
        return connection

    def send(self, data: bytes, deadline: float) -> None:
        """Send everything or raise."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._patiently(partial(self._tls.send, rest), deadline) :]

    def receive(self, deadline: float) -> bytes:
        """Return the next bytes, at least one; b"" when the other side has closed in good order."""
        return self._patiently(lambda: self._tls.recv(_CHUNK), deadline)

    def close(self) -> None:
        self._tls.close()

    def _patiently(self, step: Callable[[], _T], deadline: float) -> _T:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                _wait(self._tls, select.POLLIN, deadline)
            except ssl.SSLWantWriteError:
                _wait(self._tls, select.POLLOUT, deadline)
            except OSError as error:
                raise _translated(error) from error


def _dial(ip: str, port: int, deadline: float) -> socket.socket:
    family = socket.AF_INET if ip_address(ip).version == 4 else socket.AF_INET6
    plain = socket.socket(family, socket.SOCK_STREAM)
    try:
        plain.setblocking(False)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started = plain.connect_ex((ip, port))
        if started not in (0, errno.EINPROGRESS):
            raise OSError(started, "connect")
        _wait(plain, select.POLLOUT, deadline)
        failed = plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            raise OSError(failed, "connect")
    except OSError as error:
        plain.close()
        raise _translated(error) from error
    except NetworkFailure:
        plain.close()
        raise
    return plain


@cache
def _context() -> ssl.SSLContext:
    """One for all connections: it is never changed, and takes longer to make than a relay to answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The pin replaces the authorities; `_check` does what is switched off here.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _check(der: bytes, *, host_name: str, pin: str) -> None:
    if pin_of(der) != pin:
        raise NotOurRelay("pin_mismatch")
    certificate = _certificate(der)
    now = datetime.now(UTC)
    if now > certificate.not_valid_after_utc:
        raise NotOurRelay("cert_expired")
    if now < certificate.not_valid_before_utc:
        raise NotOurRelay("cert_not_yet_valid")
    if not _covers(der, host_name):
        raise NotOurRelay("name_mismatch")


@lru_cache(CERTIFICATES)
def _certificate(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


@lru_cache(CERTIFICATES)
def _covers(der: bytes, host_name: str) -> bool:
    return covers(_certificate(der), host_name)


def _wait(sock: socket.socket, event: int, deadline: float) -> None:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise NetworkFailure("timeout")
    # For one socket and one wait; `selectors` would take as long as the rest of a reading.
    waiting = select.poll()
    waiting.register(sock, event)
    if not waiting.poll(remaining * 1000):
        raise NetworkFailure("timeout")


def _translated(error: OSError) -> NetworkFailure | NotOurRelay:
    detail = error.strerror or str(error)
    if isinstance(error, ssl.SSLEOFError):
        return NetworkFailure("reset", detail)
    if isinstance(error, ssl.SSLError):
        return NotOurRelay("tls_failed", detail)
    if error.errno == errno.ECONNREFUSED:
        return NetworkFailure("refused", detail)
    if error.errno == errno.ETIMEDOUT:
        return NetworkFailure("timeout", detail)
    if error.errno in (errno.ECONNRESET, errno.EPIPE):
        return NetworkFailure("reset", detail)
    return NetworkFailure("unreachable", detail)
