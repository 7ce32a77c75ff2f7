"""One admitted client: what it sends, what waits to be sent to it, and the room in which clients meet."""

from __future__ import annotations

import asyncio

from fleet.derp import frames
from fleet.derp.frames import FrameType, PeerGoneReason
from fleet.derp.relay.limits import Bucket, Rate
from fleet.derp.relay.metrics import Counters

KEEP_ALIVE_SECONDS = 60.0
WRITE_SECONDS = 10.0
QUEUE_FRAMES = 128
_NOT_HERE_RATE = Rate(per_second=1.0, burst=3.0)


class Room:
    """The clients that are connected now, by node key. One event loop only."""

    def __init__(self, counters: Counters, rate: Rate) -> None:
        self.counters = counters
        self._rate = rate
        self._sessions: dict[bytes, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def home_connections(self) -> int:
        return sum(session.is_home for session in self._sessions.values())

    def all(self) -> list[Session]:
        return list(self._sessions.values())

    def find(self, node_key: bytes) -> Session | None:
        return self._sessions.get(node_key)

    def enter(self, session: Session) -> None:
        """Let a client in. The newest connection of a key wins: a device that roamed must not wait for the old one."""
        previous = self._sessions.get(session.node_key)
        self._sessions[session.node_key] = session
        session.bucket = Bucket(self._rate)
        if previous is not None:
            previous.hang_up()

    def leave(self, session: Session) -> None:
        """Forget a client and tell those it has sent packets to."""
        if self._sessions.get(session.node_key) is not session:
            return
        del self._sessions[session.node_key]
        gone = frames.encode(FrameType.PEER_GONE, session.node_key + bytes([PeerGoneReason.DISCONNECTED]))
        for peer in session.sent_to:
            if (other := self.find(peer)) is not None:
                other.queue(gone)

    def set_rate(self, rate: Rate) -> None:
        """Change every client's speed, now and for those to come."""
        self._rate = rate
        for session in self._sessions.values():
            session.bucket = Bucket(rate)


class Session:
    """A client from ServerInfo to hang-up. `run` ends when either side is done; it raises what the network raises."""

    def __init__(self, room: Room, node_key: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.node_key = node_key
        self.is_home = False
        self.sent_to: set[bytes] = set()
        self.bucket = Bucket(Rate())
        self._room = room
        self._reader = reader
        self._writer = writer
        # Bounded, so that a client that stops reading costs a fixed amount of memory.
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(QUEUE_FRAMES)
        self._not_here = Bucket(_NOT_HERE_RATE)

    def queue(self, frame: bytes) -> bool:
        """Put a frame in line for this client, or drop it and say no when the line is full."""
        try:
            self._queue.put_nowait(frame)
        except asyncio.QueueFull:
            self._room.counters.packets_dropped += 1
            return False
        return True

    def hang_up(self) -> None:
        self._writer.transport.abort()

    async def say_goodbye(self, frame: bytes, seconds: float) -> None:
        """Send a last frame, in front of everything in line, and hang up; wait no longer than `seconds`."""
        try:
            self._writer.write(frame)
            async with asyncio.timeout(seconds):
                await self._writer.drain()
        except (OSError, TimeoutError):
            self.hang_up()
        else:
            self._writer.close()

    async def run(self) -> None:
        sending = asyncio.create_task(self._send_all())
        receiving = asyncio.create_task(self._receive_all())
        try:
            done, _ = await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            sending.cancel()
            receiving.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)

    async def _send_all(self) -> None:
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                    frame = await self._queue.get()
            except TimeoutError:
                frame = frames.encode(FrameType.KEEP_ALIVE)
            self._writer.write(frame)
            async with asyncio.timeout(WRITE_SECONDS):
                await self._writer.drain()
            if frame[0] == FrameType.RECV_PACKET:
                counters = self._room.counters
                counters.packets_sent += 1
                counters.bytes_sent += len(frame) - frames.HEADER_LENGTH - len(self.node_key)

    async def _receive_all(self) -> None:
        while True:
            header = await self._reader.readexactly(frames.HEADER_LENGTH)
            frame_type, length = frames.decode_header(header)
            delay = self.bucket.wait_for(length)
            if delay:
                # Not reading is the brake: TCP passes it on to the client.
                await asyncio.sleep(delay)
            self._handle(frame_type, await self._reader.readexactly(length))

    def _handle(self, frame_type: int, body: bytes) -> None:
        if frame_type == FrameType.SEND_PACKET:
            self._relay(*frames.split_key(body))
        elif frame_type == FrameType.PING:
            if not frames.PING_LENGTH <= len(body) <= frames.MAX_PING:
                raise frames.FrameError("a ping of a strange size")
            self.queue(frames.encode(FrameType.PONG, body[: frames.PING_LENGTH]))
        elif frame_type == FrameType.NOTE_PREFERRED:
            self.is_home = body == b"\x01"
        # Other types are skipped: later clients may send what this relay does not know.

    def _relay(self, destination: bytes, payload: bytes) -> None:
        frame = frames.encode_packet(FrameType.RECV_PACKET, self.node_key, payload)
        self._room.counters.packets_received += 1
        self._room.counters.bytes_received += len(payload)
        peer = self._room.find(destination)
        if peer is not None:
            self.sent_to.add(destination)
            peer.queue(frame)
            return
        self._room.counters.packets_dropped += 1
        if self._not_here.allows():
            self.queue(frames.encode(FrameType.PEER_GONE, destination + bytes([PeerGoneReason.NOT_HERE])))
