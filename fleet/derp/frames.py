"""DERP frames: one type byte, four length bytes (big endian), a body. No input or output here.

Written after the protocol notes of Tailscale's `derp` package, protocol version 2.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import nacl.exceptions
from nacl.public import Box, PrivateKey, PublicKey

from fleet.derp.keys import KEY_LENGTH, public_of

MAGIC = "DERP🔑".encode()
PROTOCOL_VERSION = 2
HEADER_LENGTH = 5
MAX_PACKET = 64 * 1024
MAX_CLIENT_INFO = 256 * 1024
MAX_FRAME = 1024 * 1024
PING_LENGTH = 8
MAX_PING = 1000

_HEADER = struct.Struct(">BI")
_RESTARTING = struct.Struct(">II")


class FrameError(ValueError):
    """The other side sent something that is not DERP."""


class FrameType(IntEnum):
    SERVER_KEY = 0x01
    CLIENT_INFO = 0x02
    SERVER_INFO = 0x03
    SEND_PACKET = 0x04
    RECV_PACKET = 0x05
    KEEP_ALIVE = 0x06
    NOTE_PREFERRED = 0x07
    PEER_GONE = 0x08
    PING = 0x12
    PONG = 0x13
    HEALTH = 0x14
    RESTARTING = 0x15


class PeerGoneReason(IntEnum):
    DISCONNECTED = 0x00
    NOT_HERE = 0x01


class Frame(NamedTuple):
    """`type` is a plain int, because peers may send types that this code does not know and must skip."""

    type: int
    body: bytes


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """What a client says of itself. Unknown members are ignored, missing ones read as zero."""

    version: int = PROTOCOL_VERSION
    can_ack_pings: bool = True
    is_prober: bool = False


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a relay says of itself to an admitted client."""

    version: int = PROTOCOL_VERSION


def encode(frame_type: int, body: bytes = b"") -> bytes:
    """Return the frame as it travels. Raises FrameError when the body is longer than any peer would read."""
    if len(body) > MAX_FRAME:
        raise FrameError(f"a frame body has at most {MAX_FRAME} bytes, not {len(body)}")
    return _HEADER.pack(frame_type, len(body)) + body


def decode_header(header: bytes, *, limit: int = MAX_FRAME) -> tuple[int, int]:
    """Return type and body length of the five header bytes. Raises FrameError when the body would pass `limit`."""
    frame_type, length = _HEADER.unpack(header)
    if length > limit:
        raise FrameError(f"frame 0x{frame_type:02x} claims {length} bytes, more than {limit}")
    return frame_type, length


class FrameBuffer:
    """Cuts a byte stream into frames, however the network sliced it."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        self._data += data

    def pop(self) -> Frame | None:
        """Return the next whole frame, or None until more bytes arrive. Raises FrameError."""
        if len(self._data) < HEADER_LENGTH:
            return None
        frame_type, length = decode_header(bytes(self._data[:HEADER_LENGTH]))
        end = HEADER_LENGTH + length
        if len(self._data) < end:
            return None
        body = bytes(self._data[HEADER_LENGTH:end])
        del self._data[:end]
        return Frame(frame_type, body)


def encode_server_key(public: bytes) -> bytes:
    """Return the whole greeting frame of a relay."""
    return encode(FrameType.SERVER_KEY, MAGIC + public)


def decode_server_key(body: bytes) -> bytes:
    """Return the relay's public key from its greeting. Later versions may append to it. Raises FrameError."""
    if not body.startswith(MAGIC) or len(body) < len(MAGIC) + KEY_LENGTH:
        raise FrameError("the greeting is not DERP's")
    return body[len(MAGIC) : len(MAGIC) + KEY_LENGTH]


def seal_client_info(info: ClientInfo, *, client_private: bytes, server_public: bytes) -> bytes:
    """Return the body of a ClientInfo frame; only the relay can read it. Raises FrameError on an unusable key."""
    message = {"version": info.version, "CanAckPings": info.can_ack_pings, "IsProber": info.is_prober}
    return public_of(client_private) + _seal(message, client_private, server_public)


def open_client_info(body: bytes, *, server_private: bytes) -> tuple[bytes, ClientInfo]:
    """Return the client's public key, proven by the box, and its info. Raises FrameError."""
    client_public, sealed = split_key(body)
    message = _open(sealed, server_private, client_public)
    info = ClientInfo(
        version=_version(message),
        can_ack_pings=message.get("CanAckPings") is True,
        is_prober=message.get("IsProber") is True,
    )
    return client_public, info


def seal_server_info(info: ServerInfo, *, server_private: bytes, client_public: bytes) -> bytes:
    """Return the body of a ServerInfo frame; only that client can read it. Raises FrameError on an unusable key."""
    return _seal({"version": info.version}, server_private, client_public)


def open_server_info(body: bytes, *, client_private: bytes, server_public: bytes) -> ServerInfo:
    """Return what the relay says, proven to come from the holder of its key. Raises FrameError."""
    return ServerInfo(version=_version(_open(body, client_private, server_public)))


def encode_packet(frame_type: FrameType, peer: bytes, payload: bytes) -> bytes:
    """Return a SendPacket (`peer` = destination) or RecvPacket (`peer` = source) frame. Raises FrameError."""
    if len(payload) > MAX_PACKET:
        raise FrameError(f"a packet has at most {MAX_PACKET} bytes, not {len(payload)}")
    return encode(frame_type, peer + payload)


def split_key(body: bytes) -> tuple[bytes, bytes]:
    """Split a body that starts with a public key into the key and the rest. Raises FrameError."""
    if len(body) < KEY_LENGTH:
        raise FrameError("the frame is too short for a key")
    return body[:KEY_LENGTH], body[KEY_LENGTH:]


def encode_restarting(*, reconnect_in_ms: int, try_for_ms: int) -> bytes:
    """Return the frame that asks clients to come back after a while and how long to keep trying."""
    return encode(FrameType.RESTARTING, _RESTARTING.pack(reconnect_in_ms, try_for_ms))


def _seal(message: dict[str, Any], private: bytes, public: bytes) -> bytes:
    try:
        return bytes(Box(PrivateKey(private), PublicKey(public)).encrypt(json.dumps(message).encode()))
    except nacl.exceptions.CryptoError as error:
        raise FrameError("the other side's key is unusable") from error


def _open(sealed: bytes, private: bytes, public: bytes) -> dict[str, Any]:
    try:
        message = json.loads(Box(PrivateKey(private), PublicKey(public)).decrypt(sealed))
    except (nacl.exceptions.CryptoError, ValueError, RecursionError) as error:
        raise FrameError("the sealed info cannot be opened") from error
    if not isinstance(message, dict):
        raise FrameError("the sealed info is not an object")
    return message


def _version(message: dict[str, Any]) -> int:
    version = message.get("version", 0)
    return version if isinstance(version, int) else 0
