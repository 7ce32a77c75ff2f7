"""Frames, STUN and keys: what goes out comes back, and nothing else is believed."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.derp import frames, keys, stun
from fleet.derp.frames import ClientInfo, Frame, FrameBuffer, FrameError, FrameType

ALICE, RELAY = keys.derive_private(b"wire", "alice"), keys.derive_private(b"wire", "relay")
transactions = st.binary(min_size=stun.TRANSACTION_LENGTH, max_size=stun.TRANSACTION_LENGTH)


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300))), st.integers(1, 50))
def test_frames_survive_any_slicing_of_the_stream(sent: list[tuple[int, bytes]], step: int) -> None:
    stream = b"".join(frames.encode(kind, body) for kind, body in sent)
    buffer, got = FrameBuffer(), []
    for start in range(0, len(stream), step):
        buffer.feed(stream[start : start + step])
        while (frame := buffer.pop()) is not None:
            got.append(frame)
    assert got == [Frame(*frame) for frame in sent]


@given(st.binary(max_size=200))
def test_garbage_never_breaks_the_frame_readers_in_another_way_than_frame_error(data: bytes) -> None:
    buffer = FrameBuffer()
    buffer.feed(data)
    for read in (
        buffer.pop,
        lambda: frames.decode_server_key(data),
        lambda: frames.open_client_info(data, server_private=RELAY),
        lambda: frames.open_server_info(data, client_private=ALICE, server_public=keys.public_of(RELAY)),
    ):
        try:
            read()
        except FrameError:
            continue


def test_a_frame_that_claims_too_much_is_refused_before_it_is_read() -> None:
    buffer = FrameBuffer()
    buffer.feed(b"\x04\xff\xff\xff\xff")
    with pytest.raises(FrameError):
        buffer.pop()
    with pytest.raises(FrameError):
        frames.encode(FrameType.PING, bytes(frames.MAX_FRAME + 1))
    with pytest.raises(FrameError):
        frames.encode_packet(FrameType.SEND_PACKET, bytes(32), bytes(frames.MAX_PACKET + 1))


@given(st.builds(ClientInfo, st.integers(0, 99), st.booleans(), st.booleans()))
def test_a_relay_reads_what_a_client_says_and_knows_who_said_it(info: ClientInfo) -> None:
    body = frames.seal_client_info(info, client_private=ALICE, server_public=keys.public_of(RELAY))
    assert frames.open_client_info(body, server_private=RELAY) == (keys.public_of(ALICE), info)
    forged = keys.public_of(keys.new_private()) + body[keys.KEY_LENGTH :]
    with pytest.raises(FrameError):
        frames.open_client_info(forged, server_private=RELAY)


def test_a_key_without_strength_is_refused() -> None:
    with pytest.raises(FrameError):
        frames.open_client_info(bytes(200), server_private=RELAY)
    with pytest.raises(FrameError):
        frames.seal_client_info(ClientInfo(), client_private=ALICE, server_public=bytes(32))


@given(transactions, st.ip_addresses(), st.integers(0, 65535))
def test_stun_tells_the_address_it_was_given(
    transaction: bytes, address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    seen = stun.decode_response(stun.encode_response(transaction, str(address), port))
    mapped = getattr(address, "ipv4_mapped", None)
    assert seen == (transaction, mapped or address, port)


def test_an_ipv4_client_seen_through_an_ipv6_socket_is_told_its_ipv4_address() -> None:
    answer = stun.encode_response(bytes(12), "::ffff:192.0.2.7", 4000)
    assert stun.decode_response(answer) == (bytes(12), ipaddress.IPv4Address("192.0.2.7"), 4000)


def test_the_xor_address_is_that_of_the_standard() -> None:
    # RFC 5769, section 2.2: 192.0.2.1 port 32853 travels as a1 47 e1 12 a6 43.
    transaction = bytes.fromhex("b7e7a701bc34d686fa87dfae")
    assert stun.encode_response(transaction, "192.0.2.1", 32853)[-6:] == bytes.fromhex("a147e112a643")


@given(transactions)
def test_a_stun_request_is_read_back_and_any_flipped_bit_is_noticed(transaction: bytes) -> None:
    request = stun.encode_request(transaction)
    assert stun.decode_request(request) == transaction
    for place in range(len(request)):
        broken = bytearray(request)
        broken[place] ^= 1
        with pytest.raises(stun.StunError):
            stun.decode_request(bytes(broken))


@given(st.binary(max_size=100), st.booleans())
def test_garbage_never_breaks_the_stun_readers_in_another_way_than_stun_error(body: bytes, dressed: bool) -> None:
    header = b"\x01\x01" + len(body).to_bytes(2) + stun.MAGIC_COOKIE.to_bytes(4) + bytes(12)
    for read in (stun.decode_request, stun.decode_response):
        try:
            read(header + body if dressed else body)
        except stun.StunError:
            continue


@given(st.binary(min_size=32, max_size=32).filter(any))
def test_a_node_key_has_one_canonical_spelling(raw: bytes) -> None:
    text = keys.format_node_key(raw)
    assert keys.parse_node_key(f"  {text.upper()}\n") == text
    assert keys.node_key_bytes(text) == raw


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ab" * 32,
        "nodekey:",
        "nodekey:" + "ab" * 31,
        "nodekey:" + "ab" * 33,
        "nodekey:" + "zz" * 32,
        "nodekey:" + "00" * 32,
        "privkey:" + "ab" * 32,
        "nodekey: " + "a" * 63,
        "nodekey:" + "\N{ARABIC-INDIC DIGIT ONE}" * 64,
    ],
)
def test_what_is_no_node_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        keys.parse_node_key(text)


@given(st.binary(min_size=1, max_size=64), st.text(max_size=30), st.text(max_size=30))
def test_derived_keys_are_the_same_for_the_same_label_and_differ_for_others(
    secret: bytes, one: str, other: str
) -> None:
    assert keys.derive_private(secret, one) == keys.derive_private(secret, one)
    assert (keys.derive_private(secret, one) == keys.derive_private(secret, other)) is (one == other)


def test_an_empty_secret_derives_no_key() -> None:
    with pytest.raises(ValueError):
        keys.derive_private(b"", "prober")


def test_a_derper_key_file_is_read_back() -> None:
    private = keys.new_private()
    text = keys.format_private(private)
    assert keys.read_derper_key_file(keys.derper_key_file(text)) == private
    for broken in (b"", b"[]", b"{}", b'{"PrivateKey": 1}', b'{"PrivateKey": "privkey:00"}'):
        with pytest.raises(ValueError):
            keys.read_derper_key_file(broken)
