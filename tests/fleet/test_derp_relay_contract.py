"""What the portal expects of any relay, asked of derper itself and of the bundled development relay."""

from __future__ import annotations

import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fleet.derp import frames
from fleet.derp.client import DerpClient
from fleet.derp.errors import Denied, NetworkFailure, NotOurRelay
from fleet.derp.frames import FrameType
from fleet.derp.identity import make_identity
from fleet.derp.keys import format_node_key, public_of
from fleet.derp.probe import ProbeResult, Target, probe
from fleet.derp.varz import Varz, VarzFailure, read_varz
from tests.fleet.derp_door import Door, open_door
from tests.fleet.derp_processes import (
    BUNDLED,
    DERPER,
    KEY_A,
    KEY_B,
    STRANGER,
    RelayProcess,
    running_relay,
)
from tests.parts import need
from tests.ports import free_port


@pytest.fixture(scope="module", params=[DERPER, BUNDLED])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == DERPER:
        need("derper")
    return str(request.param)


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    with open_door() as door:
        yield door


@pytest.fixture(scope="module")
def guarded(kind: str, door: Door, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """One relay with a door; most tests only look at it, so they share it."""
    with running_relay(kind, tmp_path_factory.mktemp(kind), flags=["-verify-client-url", door.url]) as relay:
        yield relay


@pytest.fixture
def relay(guarded: RelayProcess, door: Door) -> RelayProcess:
    door.status, door.answer = 200, None
    door.refused.clear()
    door.asked.clear()
    return guarded


PATIENCE = 60.0
"""Seconds: that a relay is fast is not part of the contract."""


def look(target: Target) -> ProbeResult:
    return probe(target, timeout=PATIENCE)


def client(relay: RelayProcess, key: bytes, **changes: object) -> DerpClient:
    target = relay.target
    arguments: dict[str, object] = {"ip": target.ip, "port": target.port, "host_name": target.host_name}
    arguments |= {"pin": target.pin, "timeout": PATIENCE}
    return DerpClient(**(arguments | changes), private_key=key)  # type: ignore[arg-type]


def varz(relay: RelayProcess, target: Target | None = None) -> Varz:
    target = target or relay.target
    assert target.debug_key is not None
    return read_varz(
        ip=target.ip,
        port=target.port,
        host_name=target.host_name,
        pin=target.pin,
        debug_key=target.debug_key,
        timeout=PATIENCE,
    )


def eventually(true: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_running_relay_is_healthy(relay: RelayProcess) -> None:
    result = look(relay.target)
    assert result.healthy, result
    assert (result.error, result.varz_error) == ("", "")
    assert None not in (result.tls_ms, result.derp_ms, result.packet_ms, result.stun_ms)
    assert result.server_version


def test_a_relay_known_by_an_ip_address_is_healthy(kind: str, tmp_path: Path) -> None:
    with running_relay(kind, tmp_path, host_name="127.0.0.1") as relay:
        assert look(relay.target).healthy


def test_another_certificate_is_not_our_relay(relay: RelayProcess) -> None:
    result = look(replace(relay.target, pin=make_identity(relay.host_name).pin))
    assert (result.healthy, result.tls_ok, result.error) == (False, False, "pin_mismatch")


def test_a_relay_answers_only_to_its_own_name(relay: RelayProcess) -> None:
    # asyncio hangs up without the alert that derper sends.
    assert look(replace(relay.target, host_name="other.relay.internal")).error in {"tls_failed", "reset"}


def test_an_expired_certificate_is_ill_health(kind: str, tmp_path: Path) -> None:
    host_name = "old.relay.internal"
    identity = make_identity(host_name, days=1, now=datetime.now(UTC) - timedelta(days=3))
    with running_relay(kind, tmp_path, host_name=host_name, identity=identity) as relay:
        result = look(relay.target)
    assert (result.healthy, result.error) == (False, "cert_expired")


def test_nobody_listening_is_told_apart(relay: RelayProcess) -> None:
    port = free_port()
    result = look(replace(relay.target, port=port, stun_port=port))
    assert (result.error, result.stun_ok) == ("refused", False)


def test_the_door_is_asked_for_every_client(relay: RelayProcess, door: Door) -> None:
    with client(relay, KEY_A) as alice:
        assert door.asked == [{"NodePublic": alice.node_key, "Source": "127.0.0.1"}]


def test_a_client_the_door_refuses_is_denied(relay: RelayProcess, door: Door) -> None:
    door.refused.add(format_node_key(public_of(STRANGER)))
    with pytest.raises(Denied), client(relay, STRANGER):
        pass
    result = look(replace(relay.target, key_a=STRANGER))
    assert (result.tls_ok, result.derp_ok, result.error) == (True, False, "denied")


@pytest.mark.parametrize("status", [404, 500, 502])
def test_a_door_that_answers_an_error_denies_in_spite_of_fail_open(
    relay: RelayProcess, door: Door, status: int
) -> None:
    door.status = status
    with pytest.raises(Denied), client(relay, KEY_A):
        pass


@pytest.mark.parametrize("answer", [b"", b"<html>", b"{}", b'{"Allow": false}', b'{"Allow": "yes"}'])
def test_a_door_that_does_not_clearly_say_yes_denies(relay: RelayProcess, door: Door, answer: bytes) -> None:
    door.answer = answer
    with pytest.raises(Denied), client(relay, KEY_A):
        pass


@pytest.mark.parametrize(
    ("flag", "admitted"),
    [
        ("-verify-client-url-fail-open", True),
        ("-verify-client-url-fail-open=true", True),
        ("-verify-client-url-fail-open=false", False),
    ],
)
def test_a_dead_door_is_open_or_shut_as_asked(kind: str, tmp_path: Path, flag: str, admitted: bool) -> None:
    flags = ["-verify-client-url", f"http://127.0.0.1:{free_port()}/derp/admit", flag]
    with running_relay(kind, tmp_path, flags=flags) as relay:
        result = look(relay.target)
    assert result.healthy is admitted
    assert result.error == ("" if admitted else "denied")


def test_the_largest_packet_arrives_whole_and_names_its_sender(relay: RelayProcess) -> None:
    payload = secrets.token_bytes(frames.MAX_PACKET)
    with client(relay, KEY_A) as alice, client(relay, KEY_B) as bob:
        alice.send_packet(bob.node_key, payload)
        assert bob.recv() == (alice.node_key, payload)
        bob.send_packet(alice.node_key, b"")
        assert alice.recv() == (bob.node_key, b"")


def test_a_client_hears_that_its_peer_has_left(relay: RelayProcess) -> None:
    with client(relay, KEY_B) as bob:
        with client(relay, KEY_A) as alice:
            alice.send_packet(bob.node_key, b"hello")
            assert bob.recv().payload == b"hello"
        frame = bob.next_frame()
    assert frame == (FrameType.PEER_GONE, public_of(KEY_A) + bytes([frames.PeerGoneReason.DISCONNECTED]))


def test_the_newest_connection_of_a_key_gets_the_packets(relay: RelayProcess) -> None:
    with client(relay, KEY_B), client(relay, KEY_B) as newest, client(relay, KEY_A) as alice:
        alice.send_packet(newest.node_key, b"to the newest")
        assert newest.recv().payload == b"to the newest"


def test_counters_hold_payload_bytes_in_both_directions(relay: RelayProcess) -> None:
    before = varz(relay)
    with client(relay, KEY_A) as alice, client(relay, KEY_B) as bob:
        alice.send_packet(bob.node_key, b"x" * 1000)
        bob.recv()
        assert eventually(lambda: varz(relay).bytes_sent == before.bytes_sent + 1000)
        after = varz(relay)
    assert after.bytes_received == before.bytes_received + 1000
    assert after.accepts == before.accepts + 2
    assert after.connections >= 2
    assert after.started_at == before.started_at
    assert eventually(lambda: varz(relay).connections == 0)


def test_a_home_client_is_counted_as_such(relay: RelayProcess) -> None:
    with client(relay, KEY_A) as alice:
        alice.send_raw(frames.encode(FrameType.NOTE_PREFERRED, b"\x01"))
        assert eventually(lambda: varz(relay).home_connections == 1)


@pytest.mark.parametrize("key", ["", "wrong"])
def test_counters_are_refused_without_the_key(relay: RelayProcess, key: str) -> None:
    target = replace(relay.target, debug_key=key)
    with pytest.raises(VarzFailure) as refusal:
        varz(relay, target)
    assert refusal.value.code == "debug_refused"
    result = look(target)
    assert (result.healthy, result.varz_error) == (True, "debug_refused")


def test_a_new_rate_file_slows_clients_that_are_connected(kind: str, tmp_path: Path) -> None:
    with running_relay(kind, tmp_path) as relay, client(relay, KEY_A) as alice, client(relay, KEY_B) as bob:
        relay.set_rate('{"PerClientRateLimitBytesPerSec": 32768, "PerClientRateBurstBytes": 1}')
        # derper says so too when it starts.
        assert eventually(lambda: relay.log().count("rate") > (kind == DERPER))

        def takes_its_time() -> bool:
            # The first packet uses the bucket up, the second has to wait for it to fill: two seconds, far above noise.
            started = time.monotonic()
            for _ in range(2):
                alice.send_packet(bob.node_key, bytes(frames.MAX_PACKET))
                bob.recv()
            return time.monotonic() - started > 1.0

        # What derper has read it may still be about to apply.
        assert eventually(takes_its_time)


def test_a_broken_rate_file_harms_nobody(kind: str, tmp_path: Path) -> None:
    with running_relay(kind, tmp_path) as relay:
        relay.set_rate("{not json")
        assert eventually(lambda: "rate" in relay.log())
        assert look(relay.target).healthy


def test_connections_above_the_accept_limit_are_closed(tmp_path: Path) -> None:
    """The bundled relay's: derper was seen to end itself at such a limit, which we therefore never set."""
    flags = ["-accept-connection-limit", "0.01", "-accept-connection-burst", "3"]
    with running_relay(BUNDLED, tmp_path, flags=flags) as relay:
        # Looking whether the relay serves has used up some of the three, more on a busy machine.
        with pytest.raises(NetworkFailure):
            for _connection in range(3):
                with client(relay, KEY_A):
                    pass
        assert relay.process.poll() is None


GARBAGE = [
    b"\x00" * 100,
    b"\r\n\r\n",
    b"GET / HTTP/9\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /derp HTTP/1.1\r\nHost: x\r\n" + b"A: " + b"a" * 2_000_000 + b"\r\n\r\n",
    b"GET /derp HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n" + b"\xff" * 64,
    b"GET /derp HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n"
    + frames.encode(FrameType.CLIENT_INFO, bytes(200)),
    b"POST /debug/varz?debugkey=%ff HTTP/1.1\r\nHost: x\r\n\r\n",
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_strangers_garbage_does_not_harm_the_relay(relay: RelayProcess, garbage: bytes) -> None:
    with socket.create_connection(("127.0.0.1", relay.port), PATIENCE) as plain:
        plain.sendall(garbage[:1000])
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.sendto(garbage[:1000], ("127.0.0.1", relay.port))
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", relay.port), PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=relay.host_name) as tls,
    ):
        tls.settimeout(5)
        try:
            tls.sendall(garbage)
            tls.recv(100)
        except OSError:
            pass  # The relay may hang up in the middle: that is the point.
    assert look(relay.target).healthy


@pytest.mark.parametrize(
    "misdeed",
    [
        frames.encode(FrameType.SEND_PACKET, b"short"),
        frames.encode(FrameType.SEND_PACKET, bytes(32 + frames.MAX_PACKET + 1)),
        frames.encode(FrameType.PING, b"1"),
        frames.encode(FrameType.PING, bytes(5000)),
        frames.encode(0x10),
        b"\x04\xff\xff\xff\xff",
        b"\x05",
    ],
)
def test_a_misbehaving_client_harms_nobody_else(relay: RelayProcess, misdeed: bytes) -> None:
    with client(relay, STRANGER) as stranger:
        # The relay may hang up while the misdeed is still on its way.
        with suppress(NetworkFailure):
            stranger.send_raw(misdeed)
        assert look(relay.target).healthy


def test_frames_of_an_unknown_type_are_skipped(relay: RelayProcess) -> None:
    with client(relay, KEY_A) as alice:
        alice.send_raw(frames.encode(0x7F, b"from the future"))
        assert alice.ping() >= 0


def test_sigterm_ends_the_relay_cleanly(kind: str, tmp_path: Path) -> None:
    with running_relay(kind, tmp_path) as relay, client(relay, KEY_A) as alice:
        relay.process.terminate()
        assert relay.process.wait(PATIENCE) == 0
        if kind == BUNDLED:
            assert alice.next_frame().type == FrameType.RESTARTING
        with pytest.raises((NetworkFailure, NotOurRelay)):
            alice.ping()


def test_a_server_that_says_nothing_costs_only_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        started = time.monotonic()
        result = probe(Target("127.0.0.1", port, port, "x.relay.internal", "sha256-raw:", KEY_A, KEY_B), timeout=0.5)
    assert (result.error, result.healthy) == ("timeout", False)
    assert time.monotonic() - started < PATIENCE / 2, "it would never have said anything"
