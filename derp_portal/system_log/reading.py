"""Reading the system log: several tables, each by its own index and one page long, merged by time.

However many rows there are and however far back one reads, a page asks the database once for each table.
"""

from __future__ import annotations

import base64
import binascii
import heapq
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from django.utils.translation import gettext as _

from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError

from .entries import Entry, Kind, Severity
from .sources import SOURCES, Objects, Person, Position, Source

DEFAULT_LIMIT = 50
LARGEST_LIMIT = 500
LARGEST_ID = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Filters:
    """What is wanted; empty means everything.

    `person` is a username, or "system" for the portal itself. `object` is the name of a server, a relay or a user, or a
    kind of object and its number, such as `lease:12`; of failed tasks, a part of the task's name.
    """

    kind: Kind | None = None
    severity: Severity | None = None
    person: str = ""
    object: str = ""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some lines, newest first. `next` gets the older ones; "" when there are none."""

    entries: list[Entry]
    next: str


def read(filters: Filters, *, cursor: str = "", limit: int = DEFAULT_LIMIT) -> Page:
    """At most `limit` lines, newest first, from where the page with `cursor` as its `next` ended.

    What happens while somebody reads on is on no later page, and no line is on two. Raises PortalError
    `invalid_cursor` (422).
    """
    limit = min(max(limit, 1), LARGEST_LIMIT)
    begun_at, positions = _decode(cursor) if cursor else (now(), {})
    wanted = [source for source in SOURCES if filters.kind in (None, source.kind)]
    merged = heapq.merge(
        *_rows_of_each(wanted, filters, begun_at, positions, limit + 1),
        key=lambda found: found[0].at(found[1]),
        reverse=True,
    )
    shown = list(islice(merged, limit))
    for source, row in shown:
        positions[source.name] = Position(source.at(row), row.pk)
    has_more = next(merged, None) is not None
    entries = [source.show(row) for source, row in shown]
    return Page(entries, _encode(begun_at, positions) if has_more else "")


def read_all(filters: Filters, *, most: int) -> Iterator[list[Entry]]:
    """At most `most` lines, newest first, in parts, so that none but one part is in memory."""
    cursor, left = "", most
    while left > 0:
        page = read(filters, cursor=cursor, limit=min(left, LARGEST_LIMIT))
        yield page.entries
        left -= len(page.entries)
        cursor = page.next
        if not cursor:
            return


def _rows_of_each(
    sources: Iterable[Source[Any]],
    filters: Filters,
    begun_at: datetime,
    positions: dict[str, Position],
    limit: int,
) -> list[list[tuple[Source[Any], Any]]]:
    """The next rows of each table that has any which fit the filters."""
    person = Person.named(filters.person) if filters.person else None
    objects = Objects.named(filters.object) if filters.object else None
    until = min(filters.until, begun_at) if filters.until else begun_at
    found = []
    for source in sources:
        chosen = source.chosen(severity=filters.severity, person=person, objects=objects)
        if chosen is not None:
            rows = source.rows(chosen, since=filters.since, until=until, after=positions.get(source.name))
            found.append([(source, row) for row in rows[:limit]])
    return found


def _encode(begun_at: datetime, positions: dict[str, Position]) -> str:
    said = {name: [position.at.isoformat(), position.pk] for name, position in positions.items()}
    text = json.dumps([begun_at.isoformat(), said], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(cursor: str) -> tuple[datetime, dict[str, Position]]:
    try:
        begun_at, said = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        positions = {str(name): Position(_moment(at), _row_id(pk)) for name, (at, pk) in said.items()}
        return _moment(begun_at), positions
    except (binascii.Error, ValueError, TypeError, AttributeError, RecursionError) as error:
        message = _("This place in the log does not exist. Start again from its newest line.")
        raise PortalError(message, code="invalid_cursor", status=422) from error


def _moment(text: Any) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a moment without a zone")
    return moment


def _row_id(value: Any) -> int:
    if not isinstance(value, int) or not 0 < value <= LARGEST_ID:
        raise ValueError("no number of a row")
    return value
