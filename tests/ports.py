"""Ports for the servers of tests."""

from __future__ import annotations

import contextlib
import random
import socket

_given: set[int] = set()


def free_port() -> int:
    """A port nobody holds on TCP and UDP, below the range from which outgoing connections take theirs."""
    # At random: suites that search side by side in one order hand out what the other is about to use.
    for port in random.sample(range(20000, 32000), 500):
        with contextlib.suppress(OSError), socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("", port))
            udp.bind(("", port))
            if port not in _given:
                _given.add(port)
                return port
    raise AssertionError("no free port")
