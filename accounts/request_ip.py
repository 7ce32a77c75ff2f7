"""The address a request came from, for code that has no request at hand (the audit trail above all)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from ipaddress import IPv6Address, IPv6Network, ip_address

_client_ip: ContextVar[str | None] = ContextVar("client_ip", default=None)


def current() -> str | None:
    """The trusted address of the person behind the present request; None outside requests."""
    return _client_ip.get()


def as_counted(ip: str | None) -> str:
    """Under which name limits count the address, "" for none: whoever has one of IPv6 has its whole /64.

    Only limits ask for it; everything that is kept keeps the full address. (allauth's own limits do the same.)
    """
    address = ip_address(ip) if ip else None
    if not isinstance(address, IPv6Address):
        return str(address or "")
    return str(address.ipv4_mapped or IPv6Network((address, 64), strict=False))


@contextmanager
def remember(ip: str | None) -> Iterator[None]:
    """Make `ip` the current address inside the block; set by the outermost middleware only."""
    token = _client_ip.set(ip)
    try:
        yield
    finally:
        _client_ip.reset(token)
