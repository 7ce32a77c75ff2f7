"""The figures of the machine the portal runs on, which needs no exporter."""

from __future__ import annotations

import time

import psutil

from .figures import MOST_INTERFACES, FiguresFailure, Snapshot, is_counted, percent


def read_this_machine() -> Snapshot:
    """What this machine tells now. Raises FiguresFailure `bad_figures` where it tells nothing, as without /proc."""
    try:
        cpu, memory, disk = psutil.cpu_times(), psutil.virtual_memory(), psutil.disk_usage("/")
        interfaces = {name: counts for name, counts in psutil.net_io_counters(pernic=True).items() if is_counted(name)}
        counted = dict(sorted(interfaces.items())[:MOST_INTERFACES])
        # The kernel counts what guests use in `user` and `nice` already.
        total = sum(cpu) - getattr(cpu, "guest", 0.0) - getattr(cpu, "guest_nice", 0.0)
        return Snapshot(
            at=time.time(),
            boot_time=psutil.boot_time(),
            cpu_busy=total - cpu.idle - getattr(cpu, "iowait", 0.0),
            cpu_total=total,
            memory_percent=percent(memory.total - memory.available, memory.total),
            memory_bytes=memory.total,
            disk_percent=percent(disk.used, disk.used + disk.free),
            load_average=psutil.getloadavg()[0],
            received={name: float(counts.bytes_recv) for name, counts in counted.items()},
            sent={name: float(counts.bytes_sent) for name, counts in counted.items()},
        )
    except (psutil.Error, OSError, NotImplementedError) as error:
        raise FiguresFailure("bad_figures", str(error)) from error
