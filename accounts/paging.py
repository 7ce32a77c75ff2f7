"""Pages of lists that grow for ever."""

from __future__ import annotations

from typing import Any

from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.utils.functional import cached_property
from django_tables2.rows import BoundRows

COUNTED_AT_MOST = 10_000


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts rows up to a bound: nobody turns further, and counting a million would take longer than the page."""

    @cached_property
    def count(self) -> int:
        """The number of rows, `COUNTED_AT_MOST` at most."""
        rows: Any = self.object_list
        if isinstance(rows, BoundRows):
            rows = rows.data.data
        return rows.order_by()[:COUNTED_AT_MOST].count() if isinstance(rows, QuerySet) else len(rows)
