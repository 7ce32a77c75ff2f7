"""The address a request came from, for code that has no request at hand (the audit trail above all)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_client_ip: ContextVar[str | None] = ContextVar("client_ip", default=None)


def current() -> str | None:
    """The trusted address of the person behind the present request; None outside requests."""
    return _client_ip.get()


@contextmanager
def remember(ip: str | None) -> Iterator[None]:
    """Make `ip` the current address inside the block; set by the outermost middleware only."""
    token = _client_ip.set(ip)
    try:
        yield
    finally:
        _client_ip.reset(token)
