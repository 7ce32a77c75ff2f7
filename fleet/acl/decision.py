"""May this client connect to this relay now? Pure: what is known comes in, the answer and its reason go out."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self


class Mode(StrEnum):
    """How a customer's doors decide about devices that are not listed."""

    CLOSED = "closed"
    LEARN = "learn"
    OPEN = "open"
    DELEGATE = "delegate"


class Reason(StrEnum):
    """Why a client got in, or did not."""

    LISTED = "listed"
    NETWORK = "network"
    LEARNED = "learned"
    OPEN = "open"
    DELEGATED = "delegated"
    PROBE = "probe"
    NOT_LISTED = "not_listed"
    REMOVED = "removed"
    FULL = "full"
    REFUSED_BY_DELEGATE = "refused_by_delegate"
    DELEGATE_AWAY = "delegate_away"
    DELEGATE_BUSY = "delegate_busy"
    STOPPED = "stopped"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Door:
    """What a relay's door goes by: whether the relay should run, and its owner's policy of that version.

    `learns_until` is when a learning policy closes; `most_devices` is how many devices may be listed (None = any
    number); `fails_open` says what the silence of a customer's own verifier at `delegate_url` means.
    """

    relay_id: int
    owner_id: int
    should_run: bool
    run_until: datetime
    version: int = 0
    mode: Mode = Mode.CLOSED
    networks: tuple[str, ...] = ()
    learns_until: datetime | None = None
    most_devices: int | None = None
    delegate_url: str = ""
    fails_open: bool = True


@dataclass(frozen=True, slots=True)
class Decision:
    """`is_allowed`, and why."""

    is_allowed: bool
    reason: Reason

    @classmethod
    def yes(cls, reason: Reason) -> Self:
        return cls(True, reason)

    @classmethod
    def no(cls, reason: Reason) -> Self:
        return cls(False, reason)


class Standing(StrEnum):
    """What the customer has said of a device."""

    UNKNOWN = "unknown"
    LISTED = "listed"
    REMOVED = "removed"


def decide(door: Door, *, source: str, standing: Standing, is_probe: bool, moment: datetime) -> Decision | None:
    """The answer, or None when it is the customer's own verifier that has to be asked.

    A device that was removed is turned away from anywhere, as long as it is not listed again. A listed device gets in
    from anywhere, and any device from a listed network. An open or a learning door lets in everybody else too; a
    learning one that is past its time is closed already, whether or not a sweep has said so.
    """
    if not door.should_run:
        return Decision.no(Reason.STOPPED)
    if door.run_until <= moment:
        return Decision.no(Reason.ENDED)
    if is_probe:
        return Decision.yes(Reason.PROBE)
    if standing == Standing.REMOVED:
        return Decision.no(Reason.REMOVED)
    if standing == Standing.LISTED:
        return Decision.yes(Reason.LISTED)
    if is_within(source, door.networks):
        return Decision.yes(Reason.NETWORK)
    match door.mode:
        case Mode.OPEN:
            return Decision.yes(Reason.OPEN)
        case Mode.DELEGATE:
            return None
        case Mode.LEARN if door.learns_until is not None and moment < door.learns_until:
            return Decision.yes(Reason.LEARNED)
    return Decision.no(Reason.NOT_LISTED)


def is_within(source: str, networks: Iterable[str]) -> bool:
    """Whether the address is in one of the networks. What is no address is in none."""
    try:
        address = ipaddress.ip_address(source)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in ipaddress.ip_network(network) for network in networks)


def parse_networks(lines: Iterable[str]) -> tuple[str, ...]:
    """Networks as they are stored: in their plain form, each once, in order. An address alone is a network of one.

    Raises ValueError for what is neither, with the words as its only argument.
    """
    found: dict[str, None] = {}
    for line in lines:
        text = line.strip()
        if not text:
            continue
        try:
            # "192.0.2.7/24" is meant as the network that this address is in.
            found[str(ipaddress.ip_network(text, strict=False))] = None
        except ValueError as error:
            raise ValueError(text) from error
    return tuple(found)
