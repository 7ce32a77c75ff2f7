"""A blocking DERP client, for probes and tests."""

from __future__ import annotations

import secrets
import time
from collections import deque
from types import TracebackType
from typing import NamedTuple, Self

from fleet.derp import frames
from fleet.derp.errors import Denied, NetworkFailure, NotOurRelay
from fleet.derp.frames import Frame, FrameType
from fleet.derp.keys import format_node_key, node_key_bytes, public_of
from fleet.derp.pinned import PinnedConnection, deadline_in

_MAX_RESPONSE_HEAD = 16 * 1024


class Packet(NamedTuple):
    """A packet that came through the relay; `source` is a `nodekey:`."""

    source: str
    payload: bytes


class DerpClient:
    """One client's session with a relay. Enter it to connect; every call gives up after `timeout` seconds.

    Every call raises only `RelayFailure`: `Denied` when the door refused this key, `NetworkFailure` when nothing
    usable answered, `NotOurRelay` when something else than this relay did. Not for use by several threads.
    """

    def __init__(
        self,
        *,
        ip: str,
        port: int,
        host_name: str,
        pin: str,
        private_key: bytes,
        timeout: float = 5.0,
        is_prober: bool = True,
    ) -> None:
        self.node_key = format_node_key(public_of(private_key))
        self.timeout = timeout
        self.tls_seconds = 0.0
        self.gone: list[str] = []
        """Node keys that the relay said have left, or were never there."""
        self._address = (ip, port, host_name, pin)
        self._private = private_key
        self._is_prober = is_prober
        self._connection: PinnedConnection | None = None
        self._buffer = frames.FrameBuffer()
        self._packets: deque[Packet] = deque()

    def __enter__(self) -> Self:
        self.open_tls()
        try:
            self.handshake()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open_tls(self) -> None:
        """Connect and check the certificate; `tls_seconds` then tells how long it took."""
        ip, port, host_name, pin = self._address
        started = time.monotonic()
        self._connection = PinnedConnection.open(
            ip=ip, port=port, host_name=host_name, pin=pin, deadline=deadline_in(self.timeout)
        )
        self.tls_seconds = time.monotonic() - started

    def handshake(self) -> frames.ServerInfo:
        """Upgrade to DERP, prove our key, and wait until the relay has let us in."""
        deadline = deadline_in(self.timeout)
        self._upgrade(deadline)
        try:
            server_public = frames.decode_server_key(self._expect(FrameType.SERVER_KEY, deadline))
            info = frames.ClientInfo(is_prober=self._is_prober)
            body = frames.seal_client_info(info, client_private=self._private, server_public=server_public)
            self._send(frames.encode(FrameType.CLIENT_INFO, body), deadline)
            answer = self._admitted(deadline)
            return frames.open_server_info(answer, client_private=self._private, server_public=server_public)
        except frames.FrameError as error:
            raise NotOurRelay("not_derp", str(error)) from error

    def send_packet(self, destination: str, payload: bytes) -> None:
        """Hand the relay a packet for the holder of a node key. The relay may drop it without a word."""
        frame = frames.encode_packet(FrameType.SEND_PACKET, node_key_bytes(destination), payload)
        self._send(frame, deadline_in(self.timeout))

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are: how tests misbehave."""
        self._send(data, deadline_in(self.timeout))

    def recv(self, timeout: float | None = None) -> Packet:
        """Return the next packet for us, in the order they came."""
        deadline = deadline_in(self.timeout if timeout is None else timeout)
        while not self._packets:
            self._take(self._next_frame(deadline), deadline)
        return self._packets.popleft()

    def ping(self) -> float:
        """Return the seconds that the relay took to answer. Packets that arrive meanwhile are kept for `recv`."""
        deadline = deadline_in(self.timeout)
        token = secrets.token_bytes(frames.PING_LENGTH)
        started = time.monotonic()
        self._send(frames.encode(FrameType.PING, token), deadline)
        while True:
            frame = self._next_frame(deadline)
            if frame == (FrameType.PONG, token):
                return time.monotonic() - started
            self._take(frame, deadline)

    def next_frame(self, timeout: float | None = None) -> Frame:
        """Return the next frame of any kind, unhandled: how tests see what a relay says."""
        return self._next_frame(deadline_in(self.timeout if timeout is None else timeout))

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _upgrade(self, deadline: float) -> None:
        host_name = self._address[2]
        host = f"[{host_name}]" if ":" in host_name else host_name
        self._send(
            f"GET /derp HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n".encode(), deadline
        )
        head = b""
        while b"\r\n\r\n" not in head:
            data = self._receive(deadline)
            if not data or len(head) > _MAX_RESPONSE_HEAD:
                raise NotOurRelay("not_derp", "no answer to the upgrade")
            head += data
        head, _, rest = head.partition(b"\r\n\r\n")
        status = head.split(b"\r\n", 1)[0].split(b" ")
        if len(status) < 2 or not status[0].startswith(b"HTTP/1.") or status[1] != b"101":
            raise NotOurRelay("not_derp", "the upgrade was refused")
        self._buffer.feed(rest)

    def _admitted(self, deadline: float) -> bytes:
        try:
            return self._expect(FrameType.SERVER_INFO, deadline)
        except NetworkFailure as error:
            # A relay says no by hanging up in good order, once it knows who we are, instead of greeting us.
            if error.code == "closed":
                raise Denied from error
            raise

    def _expect(self, wanted: FrameType, deadline: float) -> bytes:
        frame = self._next_frame(deadline)
        if frame.type != wanted:
            raise NotOurRelay("not_derp", f"frame 0x{frame.type:02x} came instead of 0x{wanted:02x}")
        return frame.body

    def _next_frame(self, deadline: float) -> Frame:
        while True:
            try:
                frame = self._buffer.pop()
            except frames.FrameError as error:
                raise NotOurRelay("not_derp", str(error)) from error
            if frame is not None:
                return frame
            data = self._receive(deadline)
            if not data:
                raise NetworkFailure("closed", "the relay hung up")
            self._buffer.feed(data)

    def _take(self, frame: Frame, deadline: float) -> None:
        try:
            if frame.type == FrameType.RECV_PACKET:
                source, payload = frames.split_key(frame.body)
                self._packets.append(Packet(format_node_key(source), payload))
            elif frame.type == FrameType.PEER_GONE:
                self.gone.append(format_node_key(frames.split_key(frame.body)[0]))
            elif frame.type == FrameType.PING:
                self._send(frames.encode(FrameType.PONG, frame.body[: frames.PING_LENGTH]), deadline)
        except frames.FrameError as error:
            raise NotOurRelay("not_derp", str(error)) from error

    def _send(self, data: bytes, deadline: float) -> None:
        self._open_connection().send(data, deadline)

    def _receive(self, deadline: float) -> bytes:
        return self._open_connection().receive(deadline)

    def _open_connection(self) -> PinnedConnection:
        if self._connection is None:
            raise NetworkFailure("closed", "not connected")
        return self._connection
