"""The relay's sockets: DERP over TLS, STUN over UDP, and the few HTTP paths that clients and the portal ask for."""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
import ssl
from collections.abc import Coroutine
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from typing import cast

from fleet.derp import frames, stun
from fleet.derp.frames import FrameType
from fleet.derp.identity import certificate_stem, is_ip
from fleet.derp.keys import public_of, read_derper_key_file
from fleet.derp.relay import http
from fleet.derp.relay.admission import Door
from fleet.derp.relay.limits import Bucket, Rate, read_rate_file
from fleet.derp.relay.metrics import Counters
from fleet.derp.relay.options import Options
from fleet.derp.relay.session import Room, Session

HANDSHAKE_SECONDS = 10.0
GOODBYE_SECONDS = 1.0
_RECONNECT_IN_MS, _TRY_FOR_MS = 500, 30_000
# What a stranger's bytes or the network may do to one connection. Everything else is a bug, logged with its trace.
_EXPECTED = (OSError, EOFError, TimeoutError, ValueError)

log = logging.getLogger(__name__)


class Relay:
    """One relay in one event loop. `start` raises OSError or ValueError when files or sockets cannot be had."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.counters = Counters()
        self._private = read_derper_key_file(options.key_path.read_bytes())
        self._tls = _tls_context(options)
        rate = read_rate_file(options.rate_config) if options.rate_config else Rate()
        self._room = Room(self.counters, rate)
        self._door = Door(options.verify_url, options.verify_fail_open)
        self._accepts = Bucket(Rate(options.accept_limit, options.accept_burst))
        self._listener: socket.socket | None = None
        self._stun: asyncio.DatagramTransport | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._listener = _bind(self.options.host, self.options.port, socket.SOCK_STREAM)
        self._listener.listen(256)
        if self.options.stun_port is not None:
            sock = _bind(self.options.host, self.options.stun_port, socket.SOCK_DGRAM)
            self._stun, _ = await loop.create_datagram_endpoint(StunAnswerer, sock=sock)
        self._spawn(self._accept_all(self._listener))

    def reload_rate(self) -> None:
        """Read the rate file again; on any fault keep the rate that holds."""
        if self.options.rate_config is None:
            return
        try:
            self._room.set_rate(read_rate_file(self.options.rate_config))
        except (OSError, ValueError) as error:
            log.error("the rate file was not taken: %s", error)
        else:
            log.info("the rate file was taken")

    async def stop(self) -> None:
        """Tell the clients to come back soon, and close everything."""
        if self._listener is not None:
            self._listener.close()
        if self._stun is not None:
            self._stun.close()
        goodbye = frames.encode_restarting(reconnect_in_ms=_RECONNECT_IN_MS, try_for_ms=_TRY_FOR_MS)
        await asyncio.gather(*(session.say_goodbye(goodbye, GOODBYE_SECONDS) for session in self._room.all()))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept_all(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError as error:
                # Out of file descriptors, most likely: going on at once would only burn the processor.
                log.warning("cannot accept: %s", error)
                await asyncio.sleep(0.1)
                continue
            if self._accepts.allows():
                self._spawn(self._serve(sock))
            else:
                sock.close()

    async def _serve(self, sock: socket.socket) -> None:
        """Serve one connection to its end, whatever comes over it."""
        writer: asyncio.StreamWriter | None = None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader, writer = await self._start_tls(sock)
            await self._answer(reader, writer)
        except _EXPECTED as error:
            log.debug("a connection ended: %r", error)
        except Exception:
            log.exception("a connection failed")
        finally:
            if writer is None:
                sock.close()
            else:
                writer.close()

    async def _start_tls(self, sock: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=http.MAX_HEAD)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            sock,
            ssl=self._tls,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
            ssl_shutdown_timeout=GOODBYE_SECONDS,
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            request = await http.read_request(reader)
        if request.path == "/derp" and request.headers.get("upgrade", "").lower() == "derp":
            await self._serve_derp(request, reader, writer)
            return
        writer.write(self._page(request))
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            await writer.drain()

    def _page(self, request: http.Request) -> bytes:
        if request.method not in ("GET", "HEAD"):
            return http.response(HTTPStatus.METHOD_NOT_ALLOWED)
        if request.path == "/derp":
            return http.response(HTTPStatus.UPGRADE_REQUIRED, "DERP requires connection upgrade\n")
        if request.path == "/generate_204":
            return http.response(HTTPStatus.NO_CONTENT)
        if request.path.startswith("/debug/"):
            return self._debug_page(request)
        # As derper with -home blank: an empty page for every path, /derp/probe and /derp/latency-check among them.
        return http.response(HTTPStatus.OK, content_type="text/html; charset=utf-8")

    def _debug_page(self, request: http.Request) -> bytes:
        if not self._knows_debug_key(request.query.get("debugkey", [""])[0]):
            return http.response(HTTPStatus.FORBIDDEN, "debug access denied\n")
        if request.path != "/debug/varz":
            return http.response(HTTPStatus.NOT_FOUND)
        body = self.counters.render(connections=len(self._room), home_connections=self._room.home_connections)
        return http.response(HTTPStatus.OK, body)

    def _knows_debug_key(self, given: str) -> bool:
        # Stricter than derper, which also trusts loopback: on a development machine everybody is loopback.
        if self.options.debug_key_path is None or not given:
            return False
        try:
            wanted = self.options.debug_key_path.read_bytes().strip()
        except OSError as error:
            log.warning("the debug key cannot be read: %s", error)
            return False
        return hmac.compare_digest(wanted, given.encode(errors="surrogateescape"))

    async def _serve_derp(
        self, request: http.Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.counters.accepts += 1
        public = public_of(self._private)
        if request.headers.get("derp-fast-start") != "1":
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n"
                + f"Derp-Version: {frames.PROTOCOL_VERSION}\r\nDerp-Public-Key: {public.hex()}\r\n\r\n".encode()
            )
        writer.write(frames.encode_server_key(public))
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            client_public, _ = await self._client_info(reader)
        source = _source(writer)
        if not await self._door.admits(client_public, source):
            log.info("the door refused a client from %s", source)
            return
        body = frames.seal_server_info(frames.ServerInfo(), server_private=self._private, client_public=client_public)
        session = Session(self._room, client_public, reader, writer)
        writer.write(frames.encode(FrameType.SERVER_INFO, body))
        self._room.enter(session)
        try:
            await session.run()
        finally:
            self._room.leave(session)

    async def _client_info(self, reader: asyncio.StreamReader) -> tuple[bytes, frames.ClientInfo]:
        header = await reader.readexactly(frames.HEADER_LENGTH)
        frame_type, length = frames.decode_header(header, limit=frames.MAX_CLIENT_INFO)
        if frame_type != FrameType.CLIENT_INFO:
            raise frames.FrameError("the client did not introduce itself")
        return frames.open_client_info(await reader.readexactly(length), server_private=self._private)


class StunAnswerer(asyncio.DatagramProtocol):
    """Answers Tailscale clients' binding requests and nothing else."""

    transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not checked at run time: before Python 3.12 asyncio's own datagram transport is not an instance of this type.
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        try:
            transaction = stun.decode_request(data)
        except stun.StunError:
            return
        self.transport.sendto(stun.encode_response(transaction, addr[0], addr[1]), addr)


def _tls_context(options: Options) -> ssl.SSLContext:
    stem = certificate_stem(options.hostname)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(options.cert_dir / f"{stem}.crt", options.cert_dir / f"{stem}.key")

    def check_name(_socket: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int | None:
        return None if name == options.hostname else ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

    if not is_ip(options.hostname):
        # As derper: under a host name it answers to that name only, which keeps scanners from learning it.
        context.sni_callback = check_name
    return context


def _bind(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """Return a bound, non-blocking socket; "" binds every address, IPv4 through an IPv6 socket where there is IPv6."""
    dual = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual or ":" in host else socket.AF_INET
    sock = socket.socket(family, kind)
    try:
        if dual:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _source(writer: asyncio.StreamWriter) -> str:
    address = ip_address(str(writer.get_extra_info("peername")[0]).partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)
