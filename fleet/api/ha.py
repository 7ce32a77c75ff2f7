"""`/api/ha/…`: moving relays off servers, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from ninja import Field, Query, Router, Schema

from accounts.apikit import ErrorOut, Id, Ok, PageOut, PageQuery, TokenAuth, page, reader_of
from fleet import selectors, services
from fleet.models import Evacuation, Move, MoveReason, Server
from fleet.services.failover_plan import PlannedMove
from fleet.words import trouble

from .common import READ_REFUSALS, REFUSALS

ha = Router(tags=["ha"])


class FailoverIn(Schema):
    """Everything may be left out, the body too: then every server that is not healthy is meant."""

    server_id: Id | None = Field(None, description="This server only, healthy or not.")
    dry_run: bool = Field(False, description="Only say what would be done.")


class FailoverOut(Schema):
    """All relays leave one server, for one cause."""

    id: int
    server_id: int | None = Field(description="null once the server is deleted.")
    server: str
    reason: str = Field(description="`failure`, `drain`, `allowance` or `hand`")
    state: str = Field(description="`running`, `done` or `cancelled`")
    by: str | None = Field(description="Who asked for it; null: the portal by itself.")
    lost_at: datetime | None = Field(description="The last sign of life of a server that was lost.")
    started_at: datetime
    ended_at: datetime | None
    waiting: int = Field(description="Relays that wait for a place.")
    placed: int = Field(description="Relays that are being set up elsewhere.")
    answered: int = Field(description="Relays that answer at their new place.")
    cancelled: int = Field(description="Moves called off.")


class PlannedMoveOut(Schema):
    """What a failover would do with one relay. `to_server_id` is null when it would stay; `why` says why."""

    container_id: int
    relay: str
    user_id: int
    from_server_id: int | None
    to_server_id: int | None
    to_server: str | None
    code: str
    why: str


class FailoverAnswer(Ok):
    """What was begun, or with `dry_run` what would be done."""

    message: str
    failovers: list[FailoverOut]
    plan: list[PlannedMoveOut] = []


class Step(Schema):
    """A step of a move."""

    at: datetime
    step: str = Field(description="`lost`, `begun`, `placed`, `answered` or `cancelled`")


class MoveOut(Schema):
    """One relay on its way, or arrived."""

    id: int
    container_id: int
    relay: str
    user_id: int
    failover_id: int | None
    reason: str
    state: str = Field(description="`waiting`, `placed`, `answered` or `cancelled`")
    waits_for: str = Field(description="Why it has no place yet, in words.")
    from_server_id: int | None
    from_ip: str | None
    from_port: int | None
    to_server_id: int | None
    to_ip: str | None
    to_port: int | None
    created_at: datetime
    placed_at: datetime | None
    ended_at: datetime | None
    timeline: list[Step]


class FailoverPage(PageOut):
    """A part of the list, newest first."""

    items: list[FailoverOut]


class MovePage(PageOut):
    """A part of the list, newest first."""

    items: list[MoveOut]


class FailoverDetail(PageOut):
    """A failover with a part of its moves."""

    failover: FailoverOut
    moves: list[MoveOut]


class FailoverQuery(PageQuery):
    """Filters of the list."""

    state: Evacuation.State | None = None
    server_id: Id | None = None
    reason: MoveReason | None = None


class MoveQuery(PageQuery):
    """Filters of the list."""

    relay: str = Field("", description="A relay's code.")
    state: Move.State | None = None
    reason: MoveReason | None = None


@ha.post(
    "/failover",
    response={200: FailoverAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.change_server", "fleet.change_relay")),
)
def failover(request: HttpRequest, data: FailoverIn | None = None) -> dict[str, Any]:
    """Move every relay off that server, or off all servers that are not healthy, now. Asking twice is fine."""
    server_id = data.server_id if data else None
    if server_id is not None:
        get_object_or_404(Server, pk=server_id)
    if data and data.dry_run:
        plan = services.plan_failover(server_id=server_id)
        return {"success": True, "message": _planned(plan), "failovers": [], "plan": [_show_planned(m) for m in plan]}
    begun = services.fail_over(server_id=server_id, actor=reader_of(request))
    shown = selectors.evacuations().filter(pk__in=[one.pk for one in begun])
    return {"success": True, "message": _begun(begun), "failovers": [_show_failover(one) for one in shown]}


@ha.get(
    "/failovers",
    response={200: FailoverPage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.view_evacuation",)),
)
def list_failovers(request: HttpRequest, query: Query[FailoverQuery]) -> dict[str, Any]:
    """Every failover and drain with its progress."""
    found = selectors.evacuations()
    if query.state:
        found = found.filter(state=query.state)
    if query.server_id is not None:
        found = found.filter(server_id=query.server_id)
    if query.reason:
        found = found.filter(reason=query.reason)
    return page(found, query.page, query.per_page, _show_failover)


@ha.get(
    "/failovers/{int:failover_id}",
    response={200: FailoverDetail, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.view_evacuation",)),
)
def show_failover(request: HttpRequest, failover_id: int, query: Query[PageQuery]) -> dict[str, Any]:
    """One failover with its moves, each with its timeline; `page` and `per_page` are those of the moves."""
    found = get_object_or_404(selectors.evacuations(), pk=failover_id)
    part = page(selectors.moves().filter(evacuation=found.pk), query.page, query.per_page, _show_move)
    return part | {"failover": _show_failover(found), "moves": part["items"]}


@ha.get(
    "/moves",
    response={200: MovePage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.view_move",)),
)
def list_moves(request: HttpRequest, query: Query[MoveQuery]) -> dict[str, Any]:
    """Every move of every relay."""
    found = selectors.moves()
    if query.relay:
        found = found.filter(relay__code=query.relay)
    if query.state:
        found = found.filter(state=query.state)
    if query.reason:
        found = found.filter(reason=query.reason)
    return page(found, query.page, query.per_page, _show_move)


def _begun(begun: Sequence[Evacuation]) -> str:
    if not begun:
        return _("There is nothing to move.")
    words = ngettext(
        "The relays of %(count)s server are moving to others.",
        "The relays of %(count)s servers are moving to others.",
        len(begun),
    )
    return words % {"count": len(begun)}


def _planned(plan: Sequence[PlannedMove]) -> str:
    if not plan:
        return _("There is nothing to move.")
    moving = sum(planned.to is not None for planned in plan)
    return _("%(moving)s of %(count)s relays would move. Nothing was changed.") % {
        "moving": moving,
        "count": len(plan),
    }


def _show_planned(planned: PlannedMove) -> dict[str, Any]:
    return {
        "container_id": planned.relay.pk,
        "relay": planned.relay.code,
        "user_id": planned.relay.owner_id,
        "from_server_id": planned.relay.server_id,
        "to_server_id": planned.to.pk if planned.to else None,
        "to_server": planned.to.name if planned.to else None,
        "code": planned.reason,
        "why": trouble(planned.reason),
    }


def _show_failover(one: Any) -> dict[str, Any]:
    names = "id server_id reason state started_at ended_at waiting placed answered cancelled"
    return {name: getattr(one, name) for name in names.split()} | {
        "server": one.server_name,
        "lost_at": one.lost_at if one.reason == MoveReason.FAILURE else None,
        "by": one.actor.username if one.actor else None,
    }


def _show_move(move: Move) -> dict[str, Any]:
    names = "id reason state from_server_id from_ip from_port to_server_id to_ip to_port created_at placed_at ended_at"
    return {name: getattr(move, name) for name in names.split()} | {
        "container_id": move.relay_id,
        "relay": move.relay.code,
        "user_id": move.relay.owner_id,
        "failover_id": move.evacuation_id,
        "waits_for": trouble(move.waits_for),
        "timeline": _timeline(move),
    }


def _timeline(move: Move) -> list[dict[str, Any]]:
    lost_at = move.evacuation.lost_at if move.evacuation and move.reason == MoveReason.FAILURE else None
    steps = [
        ("lost", lost_at),
        ("begun", move.created_at),
        ("placed", move.placed_at),
        (move.state, None if move.is_open else move.ended_at),
    ]
    return [{"step": step, "at": at} for step, at in steps if at]
