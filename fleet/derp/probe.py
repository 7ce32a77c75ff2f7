"""Look at a relay the way a customer's devices do. That a container runs is not health; a delivered packet is."""

from __future__ import annotations

import secrets
import socket
import time
from dataclasses import dataclass, field
from ipaddress import ip_address

from fleet.derp import stun
from fleet.derp.client import DerpClient
from fleet.derp.errors import NetworkFailure, RelayFailure
from fleet.derp.pinned import deadline_in
from fleet.derp.varz import Varz, read_varz

_STUN_RESEND_SECONDS = 0.4
PROBE_PAYLOAD_BYTES = 64
"""What one probe sends through the relay at most, and receives: a single packet. Metering takes it off."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a relay should be and how to know it. `key_a` and `key_b` are two private keys that its door lets in.

    `stun_port` of -1 means that the relay serves no STUN. `debug_key` None leaves the counters out.
    """

    ip: str
    port: int
    stun_port: int
    host_name: str
    pin: str
    key_a: bytes = field(repr=False)
    key_b: bytes = field(repr=False)
    debug_key: str | None = field(default=None, repr=False)


@dataclass(slots=True)
class ProbeResult:
    """What was seen. Times are milliseconds, None where that step was not reached.

    `error` is the first failure's stable code, "" if there was none: those of `fleet.derp.errors`, and `no_packet`
    and `stun_silent`. `varz_error` stands apart: counters that cannot be read are not ill health. `detail` is for logs.
    """

    tls_ok: bool = False
    derp_ok: bool = False
    packet_ok: bool = False
    stun_ok: bool | None = None
    tls_ms: float | None = None
    derp_ms: float | None = None
    packet_ms: float | None = None
    stun_ms: float | None = None
    server_version: str = ""
    connections: int | None = None
    varz: Varz | None = None
    varz_error: str = ""
    error: str = ""
    detail: str = ""

    @property
    def healthy(self) -> bool:
        """Devices can use this relay. A relay that serves no STUN by choice is not ill for it."""
        return self.tls_ok and self.derp_ok and self.packet_ok and self.stun_ok is not False


def probe(target: Target, timeout: float = 5.0) -> ProbeResult:
    """Look once. Never raises for what the network or the relay does.

    The look at DERP, the one at STUN and the one at the counters each end within `timeout` seconds.
    """
    result = ProbeResult()
    _look_at_derp(target, result, timeout)
    if target.stun_port > 0:
        _look_at_stun(target, result, timeout)
    if target.debug_key is not None and result.tls_ok:
        _look_at_varz(target, target.debug_key, result, timeout)
    return result


def _look_at_derp(target: Target, result: ProbeResult, timeout: float) -> None:
    deadline = deadline_in(timeout)
    alice, bob = _client(target, target.key_a), _client(target, target.key_b)
    try:
        alice.timeout = timeout
        alice.open_tls()
        result.tls_ok, result.tls_ms = True, _ms(alice.tls_seconds)
        alice.timeout = _left(deadline)
        alice.handshake()
        alice.timeout = _left(deadline)
        result.derp_ms = _ms(alice.ping())
        result.derp_ok = True
        bob.timeout = _left(deadline)
        bob.open_tls()
        bob.timeout = _left(deadline)
        bob.handshake()
        result.packet_ms = _ms(_deliver(alice, bob, deadline))
        result.packet_ok = True
    except RelayFailure as failure:
        _note(result, failure.code, str(failure))
    finally:
        alice.close()
        bob.close()


def _deliver(alice: DerpClient, bob: DerpClient, deadline: float) -> float:
    """Return the seconds that a packet takes from one client to the other. Raises RelayFailure."""
    payload = secrets.token_bytes(PROBE_PAYLOAD_BYTES)
    started = time.monotonic()
    try:
        alice.timeout = _left(deadline)
        alice.send_packet(bob.node_key, payload)
        while bob.recv(timeout=_left(deadline)) != (alice.node_key, payload):
            # Left over from an earlier look with the same keys.
            continue
    except NetworkFailure as failure:
        raise RelayFailure("no_packet", str(failure)) from failure
    return time.monotonic() - started


def _look_at_stun(target: Target, result: ProbeResult, timeout: float) -> None:
    try:
        seconds = measure_stun(target.ip, target.stun_port, timeout)
    except OSError as error:
        result.stun_ok = False
        _note(result, "stun_silent", str(error))
    else:
        result.stun_ok, result.stun_ms = True, _ms(seconds)


def measure_stun(ip: str, port: int, timeout: float) -> float:
    """Return the seconds until a STUN answer to one request. Asks again every 0.4 s, because datagrams get lost.

    Raises OSError, after at most `timeout` seconds when nothing valid comes.
    """
    deadline = deadline_in(timeout)
    family = socket.AF_INET if ip_address(ip).version == 4 else socket.AF_INET6
    sent: dict[bytes, float] = {}
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        # Connected, so that only this address may answer and a closed port is reported at once.
        sock.connect((ip, port))
        while _left(deadline) > 0:
            transaction = stun.new_transaction()
            sent[transaction] = time.monotonic()
            sock.send(stun.encode_request(transaction))
            resend_at = min(deadline, deadline_in(_STUN_RESEND_SECONDS))
            while (remaining := _left(resend_at)) > 0:
                sock.settimeout(remaining)
                try:
                    binding = stun.decode_response(sock.recv(2048))
                except (TimeoutError, stun.StunError):
                    continue
                if binding.transaction in sent:
                    return time.monotonic() - sent[binding.transaction]
    raise TimeoutError("no STUN answer")


def _look_at_varz(target: Target, debug_key: str, result: ProbeResult, timeout: float) -> None:
    try:
        varz = read_varz(
            ip=target.ip,
            port=target.port,
            host_name=target.host_name,
            pin=target.pin,
            debug_key=debug_key,
            timeout=timeout,
        )
    except RelayFailure as failure:
        result.varz_error = failure.code
    else:
        result.varz, result.connections, result.server_version = varz, varz.connections, varz.version


def _client(target: Target, key: bytes) -> DerpClient:
    return DerpClient(
        ip=target.ip, port=target.port, host_name=target.host_name, pin=target.pin, private_key=key, is_prober=True
    )


def _note(result: ProbeResult, code: str, detail: str) -> None:
    # The first failure names the cause; later ones often only follow from it.
    if not result.error:
        result.error, result.detail = code, detail


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
