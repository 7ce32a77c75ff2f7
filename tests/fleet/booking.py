"""Traffic in the books, for tests of what is read from them."""

from __future__ import annotations

from datetime import datetime

from derp_portal.lib.clock import day_of
from fleet.models import Relay, Traffic

GB = 1000**3


def booked(
    relay: Relay,
    at: datetime,
    upload: int,
    download: int | None = None,
    *,
    unmeasured: int = 0,
    spans: tuple[Traffic.Span, ...] = (Traffic.Span.HOUR, Traffic.Span.DAY),
) -> None:
    """So many bytes (as many down as up unless said) of the relay, in the hour and the day of `at`."""
    starts = {
        Traffic.Span.READING: at,
        Traffic.Span.HOUR: at.replace(minute=0, second=0, microsecond=0),
        Traffic.Span.DAY: day_of(at),
    }
    for span in spans:
        row, _new = Traffic.objects.get_or_create(
            relay=relay, span=span, starts_at=starts[span], defaults={"server": relay.server}
        )
        row.upload_bytes += upload
        row.download_bytes += upload if download is None else download
        row.unmeasured_seconds += unmeasured
        row.save()
