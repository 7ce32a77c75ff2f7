"""A batch of serials as a CSV file, sent while it is read."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from django.http import StreamingHttpResponse
from django.utils.timezone import localtime
from django.utils.translation import gettext as _
from django.utils.translation import pgettext

from derp_portal.lib.spreadsheets import BYTE_ORDER_MARK, safe_cell
from serials.codes import grouped
from serials.models import SerialBatch, SerialNumber

__all__ = ["csv_of", "safe_cell"]

CHUNK = 2000


def csv_of(batch: SerialBatch) -> StreamingHttpResponse:
    """All serials of the batch with their states. Starts with a byte-order mark: Excel needs it for Chinese names."""
    response = StreamingHttpResponse(_lines(batch), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="serials-{batch.pk}.csv"'
    return response


class _Line:
    """A file for csv.writer that hands each line straight back."""

    def write(self, line: str) -> str:
        return line


def _lines(batch: SerialBatch) -> Iterator[str]:
    writer = csv.writer(_Line())
    first = (pgettext("serial number", "code"), _("status"), _("plan"), _("days"))
    header = (*first, _("redeem before"), _("redeemed by"), _("note"))
    yield BYTE_ORDER_MARK + writer.writerow([safe_cell(cell) for cell in header])
    words = dict(SerialNumber.Status.choices)
    before = localtime(batch.activate_before) if batch.activate_before else None
    last_moment = f"{before:%Y-%m-%d %H:%M}" if before else ""
    rows = SerialNumber.objects.filter(batch=batch).order_by("id")
    for code, status, days, user in rows.values_list("code", "status", "duration_days", "user__username").iterator(
        chunk_size=CHUNK
    ):
        cells = (grouped(code), words[status], batch.plan.code, days, last_moment, user, batch.note)
        yield writer.writerow([safe_cell(cell) for cell in cells])
