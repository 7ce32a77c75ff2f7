"""`/api/rollout/…`: bringing a new relay image to the fleet in steps."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Field, Query, Router, Schema

from accounts.apikit import ErrorOut, Id, Ok, PageOut, PageQuery, TokenAuth, page, reader_of
from fleet.models import Rollout, Server
from fleet.services.rollout_relays import progress_of
from fleet.services.rollouts import (
    cancel_rollout,
    resume_rollout,
    roll_back,
    start_rollout,
    stop_rollout,
    why_stopped,
)

from .common import READ_REFUSALS, REFUSALS

rollout = Router(tags=["rollout"])


class RolloutIn(Schema):
    """What to bring to the fleet, and how fast."""

    image: str = Field(
        max_length=200,
        description="One that the portal has stored, or a reference with a registry's name in it.",
        examples=["derp-portal/derper:1.102.3-w2", "registry.example.com/derper:1.102.3"],
    )
    canary_id: Id | None = Field(
        None, description="The server whose relays go first; the one with the fewest relays when left out."
    )
    percent_per_hour: int = Field(20, ge=1, le=100, description="Of all relays, once the canary's work.")


class RolloutRef(Schema):
    """Names a roll-out."""

    rollout_id: Id


class RolloutBrief(Schema):
    """A roll-out in short."""

    id: int
    image: str
    state: Rollout.State
    stopped_because: str = Field(description="A code; empty unless it is stopped.")
    reason: str = Field(description="The same in words.")
    canary_id: int | None
    percent_per_hour: int
    started_at: datetime
    ended_at: datetime | None


class ServerProgressOut(Schema):
    """One server's relays. `server_id` is null for those without a place."""

    server_id: int | None
    server: str
    done: int
    total: int
    images: dict[str, int] = Field(description="Relays by the image they are to run.")
    versions: dict[str, int] = Field(description="Relays by the version that answered their last probe.")


class RolloutOut(RolloutBrief):
    """A roll-out and how far it is."""

    done: int = Field(description="Relays on Docker hosts that have the image now.")
    total: int
    servers: list[ServerProgressOut]


class RolloutAnswer(Ok):
    """The roll-out the call was about; of a roll back, the new one."""

    rollout_id: int
    rollout: RolloutOut


class RolloutPage(PageOut):
    """A part of the list, newest first."""

    items: list[RolloutBrief]


class RolloutQuery(PageQuery):
    """Filters of the list."""

    state: Rollout.State | None = None


@rollout.post(
    "/start",
    response={200: RolloutAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.add_rollout",)),
)
def start(request: HttpRequest, data: RolloutIn) -> dict[str, Any]:
    """Begin to bring an image to every relay: a canary server first, then so many relays an hour."""
    if data.canary_id is not None:
        get_object_or_404(Server, pk=data.canary_id)
    return _answer(start_rollout(**data.dict(), actor=reader_of(request)))


@rollout.get(
    "/list",
    response={200: RolloutPage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.view_rollout",)),
)
def list_rollouts(request: HttpRequest, query: Query[RolloutQuery]) -> dict[str, Any]:
    """Every roll-out, newest first."""
    found = Rollout.objects.filter(state=query.state) if query.state else Rollout.objects.all()
    return page(found, query.page, query.per_page, _brief)


@rollout.get(
    "/{int:rollout_id}",
    response={200: RolloutAnswer, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.view_rollout",)),
)
def show(request: HttpRequest, rollout_id: int) -> dict[str, Any]:
    """One roll-out, and how far it is on each server."""
    return _answer(get_object_or_404(Rollout, pk=rollout_id))


@rollout.post(
    "/stop",
    response={200: RolloutAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.change_rollout",)),
)
def stop(request: HttpRequest, data: RolloutRef) -> dict[str, Any]:
    """Change no other relay until it is resumed."""
    target = get_object_or_404(Rollout, pk=data.rollout_id)
    return _answer(stop_rollout(rollout_id=target.pk, actor=reader_of(request)))


@rollout.post(
    "/resume",
    response={200: RolloutAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.change_rollout",)),
)
def resume(request: HttpRequest, data: RolloutRef) -> dict[str, Any]:
    """Go on where it stopped, at its pace from now on."""
    target = get_object_or_404(Rollout, pk=data.rollout_id)
    return _answer(resume_rollout(rollout_id=target.pk, actor=reader_of(request)))


@rollout.post(
    "/cancel",
    response={200: RolloutAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.change_rollout",)),
)
def cancel(request: HttpRequest, data: RolloutRef) -> dict[str, Any]:
    """Call it off. Relays that have the image keep it."""
    target = get_object_or_404(Rollout, pk=data.rollout_id)
    return _answer(cancel_rollout(rollout_id=target.pk, actor=reader_of(request)))


@rollout.post(
    "/rollback",
    response={200: RolloutAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.add_rollout", "fleet.change_rollout")),
)
def rollback(request: HttpRequest, data: RolloutRef) -> dict[str, Any]:
    """Call the latest roll-out off and bring the former image back within an hour. Answers with that new roll-out."""
    target = get_object_or_404(Rollout, pk=data.rollout_id)
    return _answer(roll_back(rollout_id=target.pk, actor=reader_of(request)))


def _brief(one: Rollout) -> dict[str, Any]:
    names = "id image state stopped_because canary_id percent_per_hour started_at ended_at"
    return {name: getattr(one, name) for name in names.split()} | {"reason": why_stopped(one)}


def _answer(one: Rollout) -> dict[str, Any]:
    progress = progress_of(one)
    far = {"done": progress.done, "total": progress.total, "servers": progress.servers}
    return {"success": True, "rollout_id": one.pk, "rollout": _brief(one) | far}
