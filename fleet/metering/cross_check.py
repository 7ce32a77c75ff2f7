"""A second opinion on the books: what engines count themselves. It books nothing and only raises an alarm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from django.db.models import F

from fleet.engines import open_runtime
from fleet.models import Alert, Meter, Server
from fleet.runtimes.base import Rejected, Runtime, RuntimeFailure
from fleet.services.alerts import raise_alert, resolve_alert

from .counting import is_far_off
from .rounds import read_server

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was booked of a relay since the last time, and what its engine saw passing meanwhile, both in bytes."""

    relay: str
    booked: int
    carried: int

    @property
    def gap(self) -> int:
        return abs(self.carried - self.booked)


def compare_counters(server_id: int, *, runtime_for: Callable[[Server], Runtime] = open_runtime) -> None:
    """Alert operators when the books of the server's relays are far from what its engine saw passing.

    Compared is what came since the last time; a relay that was started anew in between is compared the next time.
    A host that does not answer, or does not count, is left alone. Raises Server.DoesNotExist.
    """
    server = Server.objects.get(pk=server_id)
    read_server(server_id)
    meters = Meter.objects.filter(relay__server=server, generation=F("relay__generation"), failures=0)
    # Only what is compared: the relays' keys would take long to decrypt.
    known = meters.exclude(next_read_at=None).select_related("relay").only(*COMPARED).order_by("pk")
    runtime = runtime_for(server)
    try:
        told = [(meter, carried) for meter in known if (carried := _carried(runtime, meter)) is not None]
    except RuntimeFailure as failure:
        log.warning("counters_not_compared", server=server.name, code=failure.code)
        return
    finally:
        runtime.close()
    compared = [_compare(meter, carried) for meter, carried in told]
    for meter, carried in told:
        # Nothing else of the row: the next reading may have been booked meanwhile.
        Meter.objects.filter(pk=meter.pk).update(
            engine_bytes=carried, engine_since=meter.counts_since, engine_booked=meter.booked_bytes
        )
    _tell(server, [one for one in compared if one])


COMPARED = (
    *("booked_bytes", "counts_since", "engine_bytes", "engine_since", "engine_booked"),
    *("generation", "relay__code", "relay__generation"),
)


def _carried(runtime: Runtime, meter: Meter) -> int | None:
    try:
        return runtime.carried_bytes(meter.relay.container_name)
    except Rejected as refusal:
        if refusal.code != "not_found":
            raise
        return None


def _compare(meter: Meter, carried: int) -> Comparison | None:
    """None for what was not compared before, or counts anew since: the engine does when the container is started."""
    if meter.engine_bytes is None or meter.engine_since != meter.counts_since or carried < meter.engine_bytes:
        return None
    return Comparison(meter.relay.code, meter.booked_bytes - meter.engine_booked, carried - meter.engine_bytes)


def _tell(server: Server, compared: Sequence[Comparison]) -> None:
    subject = str(server.pk)
    differ = [one for one in compared if is_far_off(booked=one.booked, carried=one.carried)]
    if not differ:
        if compared:
            resolve_alert(Alert.Kind.COUNTERS_DIFFER, subject=subject)
        return
    worst = max(differ, key=lambda one: one.gap)
    raise_alert(
        Alert.Kind.COUNTERS_DIFFER,
        severity=Alert.Severity.WARNING,
        subject=subject,
        server=server,
        count=len(differ),
        relay=worst.relay,
        # Plain bytes: every reader gets them in his own language's spelling.
        booked=worst.booked,
        carried=worst.carried,
    )
