"""The system log: what people, servers, relays, failovers, alerts and background tasks did, in one list by time."""

from __future__ import annotations

from .entries import Entry, Kind
from .reading import LARGEST_LIMIT, Filters, Page, read, read_all

__all__ = ["LARGEST_LIMIT", "Entry", "Filters", "Kind", "Page", "read", "read_all"]
