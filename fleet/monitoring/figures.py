"""What is read off a host at one moment, and the figures that two such moments give. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SHORTEST, LONGEST = 1.0, 600.0
"""Seconds between two snapshots that still give rates: a shorter stretch is noise, a longer one is not "now"."""

CLOCK_PUT_RIGHT = 60.0
"""Boot times differ by less than so many seconds when a clock was only put right."""

MOST_INTERFACES = 64

_PLAIN = re.compile(r"[A-Za-z0-9_.:@-]{1,32}")
_VIRTUAL = re.compile(
    r"lo\d*|(veth|docker|br-|virbr|cni|flannel|cali|kube|lxc|lxdbr|podman|vnet|tap|tun|wg|tailscale|dummy|ifb|bond|team"
    r"|sit|gre|ip6tnl|vxlan).*|br\d+|.*\.\d+"
)


class FiguresFailure(Exception):
    """A host gave no figures. Codes: `unreachable`, `connection_refused`, `timeout`, `bad_figures`."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


def is_counted(interface: str) -> bool:
    """Whether the interface is a host's line to the world.

    Bytes that pass containers, bridges, bonds, VLANs and tunnels pass the line below them too and would count twice.
    """
    return bool(_PLAIN.fullmatch(interface)) and not _VIRTUAL.fullmatch(interface)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything read off a host at `at` (Unix seconds of the portal's clock).

    `cpu_busy` and `cpu_total` are seconds over all cores since the boot, `received` and `sent` bytes for each
    interface. What the host does not tell is None or empty.
    """

    at: float
    boot_time: float = 0.0
    cpu_busy: float = 0.0
    cpu_total: float = 0.0
    memory_percent: float | None = None
    memory_bytes: int | None = None
    disk_percent: float | None = None
    load_average: float | None = None
    received: Mapping[str, float] = field(default_factory=dict)
    sent: Mapping[str, float] = field(default_factory=dict)

    def counters(self) -> dict[str, Any]:
        """What the next snapshot is compared with, fit for JSON. `from_counters` reads it back."""
        names = ("at", "boot_time", "cpu_busy", "cpu_total", "memory_bytes", "received", "sent")
        return {name: value for name, value in asdict(self).items() if name in names}

    @classmethod
    def from_counters(cls, kept: Mapping[str, Any]) -> Snapshot | None:
        """The snapshot that was kept; None when there was none yet."""
        return cls(**kept) if kept else None


@dataclass(frozen=True, slots=True)
class Figures:
    """How a host is doing. Percent, or bytes per second; None is not known (yet), which is not nothing."""

    cpu_percent: float | None
    memory_percent: float | None
    disk_percent: float | None
    load_average: float | None
    network_in: float | None
    network_out: float | None


def figures_between(before: Snapshot | None, after: Snapshot) -> Figures:
    """The present figures; rates are means since `before`, and unknown when the host was booted in between."""
    cpu = network_in = network_out = None
    if before is not None and _can_be_compared(before, after):
        seconds = after.at - before.at
        cpu = percent(after.cpu_busy - before.cpu_busy, after.cpu_total - before.cpu_total)
        network_in = _rate(before.received, after.received, seconds)
        network_out = _rate(before.sent, after.sent, seconds)
    return Figures(
        cpu_percent=cpu,
        memory_percent=after.memory_percent,
        disk_percent=after.disk_percent,
        load_average=after.load_average,
        network_in=network_in,
        network_out=network_out,
    )


def percent(part: float, whole: float) -> float | None:
    """`part` of `whole`, within 0 and 100; None when there is no whole."""
    if whole <= 0 or not math.isfinite(part) or not math.isfinite(whole):
        return None
    return min(max(100 * part / whole, 0.0), 100.0)


def _can_be_compared(before: Snapshot, after: Snapshot) -> bool:
    is_same_boot = abs(after.boot_time - before.boot_time) < CLOCK_PUT_RIGHT and after.cpu_total >= before.cpu_total
    return is_same_boot and SHORTEST <= after.at - before.at <= LONGEST


def _rate(before: Mapping[str, float], after: Mapping[str, float], seconds: float) -> float | None:
    # An interface that is new, or that was reset, tells nothing yet: a wrapped counter must not look like a flood.
    grown = [count - before[name] for name, count in after.items() if name in before and count >= before[name]]
    return sum(grown) / seconds if grown else None
