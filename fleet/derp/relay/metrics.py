"""What this relay counts, under derper's names in `/debug/varz`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

VERSION = "development relay"


@dataclass(slots=True)
class Counters:
    """Payload bytes, not TLS or frame headers; since the start of the process."""

    bytes_received: int = 0
    bytes_sent: int = 0
    packets_received: int = 0
    packets_sent: int = 0
    accepts: int = 0
    packets_dropped: int = 0
    started_at: float = field(default_factory=time.time)

    def render(self, *, connections: int, home_connections: int) -> str:
        """Return Prometheus text. derper strips the `gauge_` of its internal names here, so this does not have it."""
        lines: list[str] = []
        for name, kind, value in (
            ("process_start_time_seconds", "gauge", self.started_at),
            ("derp_accepts", "counter", self.accepts),
            ("derp_bytes_received", "counter", self.bytes_received),
            ("derp_bytes_sent", "counter", self.bytes_sent),
            ("derp_packets_received", "counter", self.packets_received),
            ("derp_packets_sent", "counter", self.packets_sent),
            ("derp_packets_dropped", "counter", self.packets_dropped),
            ("derp_current_connections", "gauge", connections),
            ("derp_current_home_connections", "gauge", home_connections),
        ):
            lines += [f"# TYPE {name} {kind}", f"{name} {value}"]
        return "\n".join([*lines, f'version{{version="{VERSION}",binary="relay"}} 1']) + "\n"
