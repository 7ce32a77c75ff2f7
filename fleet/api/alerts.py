"""`/api/alerts/…`: what operators must know of."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Field, Query, Router, Schema

from accounts.apikit import ErrorOut, Id, Ok, PageOut, PageQuery, TokenAuth, page, reader_of
from fleet.models import Alert, Server, Silence
from fleet.services import alerts as services
from fleet.services.alert_words import wording

from .common import MOST_ROWS, READ_REFUSALS, REFUSALS

A_YEAR = 365 * 24 * 60

alerts = Router(tags=["alerts"])


class AlertRef(Schema):
    """Names an alert."""

    alert_id: Id


class AlertAnswer(Ok):
    """The alert the call was about."""

    alert_id: int


class AlertIn(Schema):
    """What operators are to be told."""

    severity: Alert.Severity = Field(description="`info`, `warning` or `critical`")
    message: str = Field(description="As it is to be read; at most 2,000 characters.")
    server_id: Id | None = Field(None, description="The server it is about, if it is about one.")


class AlertOut(Schema):
    """One alert."""

    id: int
    alert_type: str
    severity: str = Field(description="`info`, `warning` or `critical`")
    message: str = Field(description="In your language.")
    server_id: int | None
    container_id: int | None
    rule_id: int | None
    resolved: bool
    created_at: datetime
    acknowledged_at: datetime | None
    resolved_at: datetime | None


class AlertPage(PageOut):
    """A part of the list, newest first; 10,000 at most, so use the filters to see what lies before."""

    items: list[AlertOut]


class AlertQuery(PageQuery):
    """Filters of the list."""

    resolved: bool | None = Field(None, description="false: what is open; true: what is over.")
    acknowledged: bool | None = Field(None, description="true: what somebody looks into or has seen to.")
    alert_type: Alert.Kind | None = None
    severity: Alert.Severity | None = None
    server_id: Id | None = None


class SilenceIn(Schema):
    """What is to tell nobody, and for how long."""

    minutes: int = Field(ge=1, le=A_YEAR, description="From now on.")
    alert_type: Alert.Kind | None = Field(None, description="Without it: every kind.")
    server_id: Id | None = Field(None, description="Without it: every server, and what is about none.")
    note: str = Field("", max_length=200)


class SilenceAnswer(Ok):
    """The silence that was made."""

    silence_id: int
    ends_at: datetime


class SilenceOut(Schema):
    """One silence."""

    id: int
    alert_type: str = Field(description="Empty: every kind.")
    server_id: int | None
    starts_at: datetime
    ends_at: datetime
    note: str


class SilencePage(PageOut):
    """A part of the list, the one that ends last first."""

    items: list[SilenceOut]


@alerts.get(
    "/list",
    response={200: AlertPage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.view_alert",)),
)
def list_alerts(request: HttpRequest, query: Query[AlertQuery]) -> dict[str, Any]:
    """Every alert, open and resolved."""
    said = query.dict(exclude_none=True, exclude={"page", "per_page", "acknowledged"})
    if query.acknowledged is not None:
        said["acknowledged_at__isnull"] = not query.acknowledged
    return page(Alert.objects.filter(**said)[:MOST_ROWS], query.page, query.per_page, _show_alert)


@alerts.post(
    "/send",
    response={200: AlertAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.add_alert",)),
)
def send(request: HttpRequest, data: AlertIn) -> dict[str, Any]:
    """Tell every operator something, by their channels or by mail. It is open until somebody resolves it."""
    server = get_object_or_404(Server, pk=data.server_id) if data.server_id is not None else None
    sent = services.send_alert(severity=data.severity, message=data.message, server=server, actor=reader_of(request))
    return {"success": True, "alert_id": sent.pk}


@alerts.post(
    "/acknowledge",
    response={200: AlertAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.change_alert",)),
)
def acknowledge(request: HttpRequest, data: AlertRef) -> dict[str, Any]:
    """Say that you look into it: nobody is reminded any more. Twice is fine."""
    target = get_object_or_404(Alert, pk=data.alert_id)
    services.acknowledge(alert_id=target.pk, actor=reader_of(request))
    return {"success": True, "alert_id": target.pk}


@alerts.post(
    "/resolve",
    response={200: AlertAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.change_alert",)),
)
def resolve(request: HttpRequest, data: AlertRef) -> dict[str, Any]:
    """Say that somebody has seen to it. Resolving twice is fine; while the cause lasts it stays quiet for 24 hours."""
    target = get_object_or_404(Alert, pk=data.alert_id)
    services.resolve_by_hand(alert_id=target.pk, actor=reader_of(request))
    return {"success": True, "alert_id": target.pk}


@alerts.get(
    "/silence",
    response={200: SilencePage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.view_silence",)),
)
def list_silences(request: HttpRequest, query: Query[PageQuery]) -> dict[str, Any]:
    """Every silence, past ones too."""
    return page(Silence.objects.order_by("-ends_at", "-id"), query.page, query.per_page)


@alerts.post(
    "/silence",
    response={200: SilenceAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.add_silence",)),
)
def silence(request: HttpRequest, data: SilenceIn) -> dict[str, Any]:
    """Keep alerts from telling anybody for a while. They are raised and listed all the same."""
    server = get_object_or_404(Server, pk=data.server_id) if data.server_id is not None else None
    made = services.silence(
        kind=data.alert_type or "", server=server, minutes=data.minutes, note=data.note, actor=reader_of(request)
    )
    return {"success": True, "silence_id": made.pk, "ends_at": made.ends_at}


def _show_alert(alert: Alert) -> dict[str, Any]:
    names = "id alert_type severity server_id rule_id resolved created_at acknowledged_at resolved_at"
    return {name: getattr(alert, name) for name in names.split()} | {
        "message": wording(alert),
        "container_id": alert.relay_id,
    }
