"""`/api/alerts/…`: what operators must know of."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Field, Query, Router, Schema

from accounts.apikit import ErrorOut, Ok, PageOut, PageQuery, TokenAuth, page, reader_of
from fleet.models import Alert
from fleet.services.alerts import resolve_by_hand, wording

from .common import READ_REFUSALS, REFUSALS

alerts = Router(tags=["alerts"])


class AlertRef(Schema):
    """Names an alert."""

    alert_id: int


class AlertAnswer(Ok):
    """The alert the call was about."""

    alert_id: int


class AlertOut(Schema):
    """One alert."""

    id: int
    alert_type: str
    severity: str = Field(description="`info`, `warning` or `critical`")
    message: str = Field(description="In your language.")
    server_id: int | None
    container_id: int | None
    resolved: bool
    created_at: datetime
    resolved_at: datetime | None


class AlertPage(PageOut):
    """A part of the list, newest first."""

    items: list[AlertOut]


class AlertQuery(PageQuery):
    """Filters of the list."""

    resolved: bool | None = Field(None, description="false: what is open; true: what is over.")
    alert_type: Alert.Kind | None = None
    severity: Alert.Severity | None = None
    server_id: int | None = None


@alerts.get(
    "/list",
    response={200: AlertPage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.view_alert",)),
)
def list_alerts(request: HttpRequest, query: Query[AlertQuery]) -> dict[str, Any]:
    """Every alert, open and resolved."""
    said = query.dict(exclude_none=True, exclude={"page", "per_page"})
    return page(Alert.objects.filter(**said), query.page, query.per_page, _show_alert)


@alerts.post(
    "/resolve",
    response={200: AlertAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.change_alert",)),
)
def resolve(request: HttpRequest, data: AlertRef) -> dict[str, Any]:
    """Say that somebody has seen to it. Resolving twice is fine; while the cause lasts it is raised again."""
    target = get_object_or_404(Alert, pk=data.alert_id)
    resolve_by_hand(alert_id=target.pk, actor=reader_of(request))
    return {"success": True, "alert_id": target.pk}


def _show_alert(alert: Alert) -> dict[str, Any]:
    names = "id alert_type severity server_id resolved created_at resolved_at"
    return {name: getattr(alert, name) for name in names.split()} | {
        "message": wording(alert),
        "container_id": alert.relay_id,
    }
