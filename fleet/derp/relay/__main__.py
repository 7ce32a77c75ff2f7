"""`python -m fleet.derp.relay`: run the development relay until SIGTERM or SIGINT. SIGHUP re-reads the rate file."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence

from fleet.derp.relay.options import Options, UsageError, parse
from fleet.derp.relay.server import Relay

log = logging.getLogger("relay")


async def serve(options: Options) -> None:
    """Run until a signal asks to stop; print one line once clients can connect."""
    stopping = asyncio.Event()
    relay = Relay(options)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, relay.reload_rate)
    try:
        await relay.start()
        log.info("serving %s on %s:%s", options.hostname, options.host, options.port)
        await stopping.wait()
    finally:
        await relay.stop()


def main(arguments: Sequence[str]) -> int:
    """Return the exit status: 0 after a signal, 1 when it cannot start, 2 when it was asked for nonsense."""
    logging.basicConfig(level=logging.INFO, format="relay: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        options = parse(arguments)
    except UsageError as error:
        log.error("%s", error)
        return 2
    try:
        asyncio.run(serve(options))
    except (OSError, ValueError) as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
