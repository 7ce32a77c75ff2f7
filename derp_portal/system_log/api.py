"""`/api/logs/…`: the system log, for operators."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from ninja import Field, Query, Router, Schema

from accounts.apikit import ErrorOut, Moment, Ok, Start, TokenAuth

from .entries import Kind, Severity
from .page import NEEDED
from .reading import DEFAULT_LIMIT, Filters, read

LARGEST_PER_PAGE = 200

logs = Router(tags=["logs"])


class LogQuery(Schema):
    """Filters of the log, and where to read on."""

    kind: Kind | None = None
    severity: Severity | None = None
    person: str = Field("", max_length=80, description="A username; `system` is the portal itself.")
    object: str = Field(
        "",
        max_length=80,
        description="A server's, relay's or user's name, or a kind and a number like `lease:12`. "
        "Of failed tasks: a part of the task's name.",
    )
    since: Start | None = None
    until: Moment | None = None
    cursor: str = Field("", max_length=2000, description="`next` of the page before.")
    per_page: int = Field(DEFAULT_LIMIT, ge=1, le=LARGEST_PER_PAGE)


class LogOut(Schema):
    """One line of the log."""

    at: datetime
    kind: str = Field(description="`audit`, `server`, `relay`, `failover`, `task` or `alert`")
    severity: str = Field(description="`info`, `warning` or `critical`")
    person: str = Field(description="Who did it, or whose relay it is; `system` is the portal itself.")
    object: str
    message: str = Field(description="In your language.")
    link: str = Field(description="Its page in the admin.")


class LogPage(Ok):
    """Some lines, newest first."""

    logs: list[LogOut]
    next: str | None = Field(description="The `cursor` of the page that follows; null: there is none.")


@logs.get(
    "/system",
    response={200: LogPage, frozenset({401, 403, 422}): ErrorOut},
    auth=TokenAuth("staff", permissions=NEEDED),
)
def system_log(request: HttpRequest, query: Query[LogQuery]) -> dict[str, Any]:
    """What people, servers, relays, failovers, alerts and background tasks did, newest first."""
    filters = Filters(**query.dict(exclude={"cursor", "per_page"}))
    page = read(filters, cursor=query.cursor, limit=query.per_page)
    return {"success": True, "logs": page.entries, "next": page.next or None}
