"""Relays without clients: many in one process, each on a port of its own, for measuring how their counters are read.

They answer every request over TLS with `/debug/varz` as derper 1.102 writes it, as long as the real one; their counters
grow with each answer. Everything else of a relay is missing.

    python -m bench.relay_simulator --certificate FILE --count 200
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import os
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from derp_portal.supervisor import tie_to
from fleet.derp.identity import Identity

ADDRESS = "127.0.0.1"
GROWTH = 1_500_000
"""Bytes in each direction that pass between two readings."""

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = Path(__file__).with_name("derper_varz.txt")


class Connection(asyncio.Protocol):
    """One request, one answer, and the end of the connection, as the portal asks for it with HTTP/1.0."""

    def __init__(self, template: str, readings: Iterator[int]) -> None:
        self._template, self._readings = template, readings
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if b"\r\n\r\n" not in self._received:
            return
        count = str(GROWTH * next(self._readings))
        body = self._template
        for name in ("derp_bytes_received", "derp_bytes_sent"):
            body = body.replace(f"{{{{{name}}}}}", count)
        self._transport.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n\r\n" + body.encode())
        self._transport.close()


async def serve(certificate: Path, count: int) -> None:
    """Print the ports of that many relays, one a line, and answer on them until SIGTERM."""
    loop, ending = asyncio.get_running_loop(), asyncio.Event()
    for ask in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(ask, ending.set)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    template = TEMPLATE.read_text()
    servers = []
    for _number in range(count):
        connection = functools.partial(Connection, template, itertools.count(1))
        servers.append(await loop.create_server(connection, ADDRESS, 0, ssl=context))
    print("\n".join(str(server.sockets[0].getsockname()[1]) for server in servers), flush=True)
    await ending.wait()
    for server in servers:
        server.close()


@contextmanager
def simulated_relays(count: int, identity: Identity) -> Iterator[list[int]]:
    """The ports of that many relays of this identity, in a process of their own that ends with the block."""
    with ExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relays-"))) / "relay.pem"
        file.touch(mode=0o600)
        file.write_text(identity.key_pem + identity.cert_pem)
        command = [sys.executable, "-m", "bench.relay_simulator", "--certificate", str(file), "--count", str(count)]
        process = stack.enter_context(
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, preexec_fn=tie_to(os.getpid()))
        )
        stack.callback(process.terminate)
        assert process.stdout is not None
        ports = [int(line) for line in itertools.islice(process.stdout, count)]
        if len(ports) < count:
            raise RuntimeError(f"the simulator ended with {process.wait()}")
        yield ports


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.relay_simulator", description="Simulated relays.")
    parser.add_argument("--certificate", type=Path, required=True, help="a file with the key and the certificate")
    parser.add_argument("--count", type=int, default=1, help="how many relays (default: 1)")
    options = parser.parse_args()
    asyncio.run(serve(options.certificate, options.count))


if __name__ == "__main__":
    main()
