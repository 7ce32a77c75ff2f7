"""`/api/container/…`: relays."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from django.db.models import QuerySet
from django.http import Http404, HttpRequest
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from ninja import Field, Query, Router, Schema

from accounts.apikit import ErrorOut, Id, Moment, Ok, PageOut, PageQuery, TokenAuth, page, reader_of, sees_everybody
from accounts.models import User
from accounts.selectors import user_by_id
from derp_portal.lib.errors import PortalError
from fleet import selectors, services
from fleet.models import Move, Relay, RelayGroup, RelayHealth, Server
from fleet.selectors import RelayState, latest_move, node_of, relay_state, why_in_trouble

from .common import READ_REFUSALS, REFUSALS

container = Router(tags=["container"])


class RelayStatus(StrEnum):
    """A relay in one word: does it serve?"""

    RUNNING = "running"
    STARTING = "starting"
    TROUBLE = "trouble"
    STOPPED = "stopped"


STATUS_OF = {
    RelayState.UP: RelayStatus.RUNNING,
    RelayState.STARTING: RelayStatus.STARTING,
    RelayState.TROUBLE: RelayStatus.TROUBLE,
    RelayState.STOPPED: RelayStatus.STOPPED,
}
STATE_OF = {status: state for state, status in STATUS_OF.items()}


class AllocateIn(Schema):
    """A relay by hand, with no lease behind it."""

    user_id: Id
    server_id: Id | None = Field(None, description="Where; the best server when left out.")
    run_until: Moment | None = Field(None, description="The user's `rental_expiry` when left out.")


class ContainerRef(Schema):
    """Names a relay by its id."""

    container_id: Id


class MoveIn(ContainerRef):
    """Which relay, and where to."""

    server_id: Id | None = Field(None, description="The best other server when left out.")


class GroupRef(Schema):
    """Names the relays of one lease, or of one relay by hand."""

    group_id: Id


class QuarantineIn(GroupRef):
    """Which relays, and why."""

    note: str = Field("", max_length=200)


class LimitIn(GroupRef):
    """Which relays, and on which servers they may run."""

    server_ids: list[Id] = Field(max_length=1000, description="None named: on every server.")


class GroupAnswer(Ok):
    """The relays the call was about."""

    group_id: int
    quarantined_at: datetime | None
    note: str
    server_ids: list[int] = Field(description="The servers they are limited to; empty: every server.")


class RelayBrief(Schema):
    """A relay in short."""

    id: int
    code: str
    status: RelayStatus


class HealthOut(Schema):
    """The latest probe, made as a client would."""

    status: str = Field(description="`starting`, `healthy` or `unhealthy`")
    tls_ok: bool
    derp_ok: bool
    packet_ok: bool
    stun_ok: bool
    latency_ms: float | None
    stun_ms: float | None
    connections: int | None
    version: str
    checked_at: datetime | None


class LastMove(Schema):
    """A relay's latest move, under way or done; regions by their codes, null when not known."""

    state: str = Field(description="`waiting`, `placed` (being set up) or `answered` (done)")
    reason: str
    from_region: str | None
    to_region: str | None
    created_at: datetime
    ended_at: datetime | None


class ContainerOut(RelayBrief):
    """A relay. `server_id`, `region`, `ip` and the ports are null while it has no place."""

    user_id: int
    group_id: int
    is_primary: bool = Field(description="Or a standby of the same map.")
    server_id: int | None
    region: str | None
    region_id: int = Field(description="Its region id in the derp map.")
    host: str
    ip: str | None
    derp_port: int | None
    stun_port: int | None
    cert_name: str = Field(description="The certificate's pin, as in the derp map.")
    trouble: str = Field(description="What is wrong, in words; empty when nothing is.")
    health: HealthOut | None
    latency_ms: float | None = Field(description="Of the latest probe: a ping over DERP, from the portal.")
    uptime: float | None = Field(
        description="Share of this month's probes (UTC) that it answered while it should have run, 0 to 1."
    )
    image: str = Field(description="The relay image it is to run.")
    moved_at: datetime | None = Field(description="When it last moved; null if it never did, or is on its way.")
    moved_to: str | None = Field(description="The code of the region it moved to.")
    last_move: LastMove | None
    upload_bytes: int
    download_bytes: int
    run_until: datetime
    created_at: datetime


class ContainerPage(PageOut):
    """A part of the list."""

    items: list[ContainerOut]


class ContainerAnswer(Ok):
    """The relay the call was about."""

    container_id: int
    relay: ContainerOut


class ContainerQuery(PageQuery):
    """Filters of the list; `user_id` of others is for staff."""

    user_id: Id | None = None
    server_id: Id | None = None
    status: RelayStatus | None = None


@container.post(
    "/allocate",
    response={200: ContainerAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.add_relay",)),
)
def allocate(request: HttpRequest, data: AllocateIn) -> dict[str, Any]:
    """Give a user a relay by hand. It has its place when this answers and runs soon after."""
    owner = user_by_id(data.user_id)
    on = get_object_or_404(Server, pk=data.server_id) if data.server_id is not None else None
    run_until = data.run_until or owner.rental_expiry
    if run_until is None:
        raise PortalError(
            _("This user has no lease to end with. Say until when the relay should run."),
            code="run_until_required",
            status=422,
        )
    made = services.allocate(owner=owner, server=on, run_until=run_until, actor=reader_of(request))
    return _container_answer(made.pk)


@container.get(
    "/list",
    response={200: ContainerPage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("relays", everybody="fleet.view_relay"),
)
def list_containers(request: HttpRequest, query: Query[ContainerQuery]) -> dict[str, Any]:
    """Your relays; with the staff scope, everybody's. Released ones are left out."""
    found: QuerySet[Relay] = selectors.live_relays(whose(request, query.user_id))
    if query.server_id is not None:
        found = found.filter(server_id=query.server_id)
    if query.status:
        found = selectors.in_state(found, STATE_OF[query.status])
    return page(found, query.page, query.per_page, show_container)


@container.post(
    "/restart",
    response={200: ContainerAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.change_relay",)),
)
def restart(request: HttpRequest, data: ContainerRef) -> dict[str, Any]:
    """Replace the relay's container by a fresh one: same identity, same port, sessions are cut."""
    target = get_object_or_404(Relay, pk=data.container_id)
    services.restart_relay(relay_id=target.pk, actor=reader_of(request))
    return _container_answer(target.pk)


@container.post(
    "/move",
    response={200: ContainerAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.change_relay",)),
)
def move(request: HttpRequest, data: MoveIn) -> dict[str, Any]:
    """Move a relay; a quarantined one too. Its identity stays, and the old container serves until the new one answers.

    409 `no_place` when no server can take it; then it stays where it is.
    """
    target = get_object_or_404(Relay, pk=data.container_id)
    if data.server_id is not None:
        get_object_or_404(Server, pk=data.server_id)
    services.move_relay(relay_id=target.pk, server_id=data.server_id, actor=reader_of(request))
    return _container_answer(target.pk)


@container.post(
    "/quarantine",
    response={200: GroupAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.change_relaygroup",)),
)
def quarantine(request: HttpRequest, data: QuarantineIn) -> dict[str, Any]:
    """Hold relays where they are, so that no failover drags an attack on them to the next host."""
    group = get_object_or_404(RelayGroup, pk=data.group_id)
    services.set_quarantine(group_id=group.pk, is_quarantined=True, note=data.note, actor=reader_of(request))
    return _group_answer(group.pk)


@container.post(
    "/unquarantine",
    response={200: GroupAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.change_relaygroup",)),
)
def unquarantine(request: HttpRequest, data: GroupRef) -> dict[str, Any]:
    """Let relays move by themselves again."""
    group = get_object_or_404(RelayGroup, pk=data.group_id)
    services.set_quarantine(group_id=group.pk, is_quarantined=False, actor=reader_of(request))
    return _group_answer(group.pk)


@container.post(
    "/limit-servers",
    response={200: GroupAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.change_relaygroup",)),
)
def limit_servers(request: HttpRequest, data: LimitIn) -> dict[str, Any]:
    """Let relays run on these servers only; the others move there now, or nothing is changed (409 `no_place`)."""
    group = get_object_or_404(RelayGroup, pk=data.group_id)
    wanted = set(data.server_ids)
    if Server.objects.filter(pk__in=wanted).count() < len(wanted):
        raise Http404
    services.limit_servers(group_id=group.pk, server_ids=wanted, actor=reader_of(request))
    return _group_answer(group.pk)


def whose(request: HttpRequest, user_id: int | None) -> User | None:
    """Whose things a list shows: the reader's or, with the staff scope, anybody's (None: everybody's).

    Raises Http404 for a stranger's id, and for one that nobody has.
    """
    reader = reader_of(request)
    if not sees_everybody(request):
        if user_id not in (None, reader.pk):
            raise Http404
        return reader
    return None if user_id is None else get_object_or_404(User, pk=user_id)


def relay_brief(relay: Relay) -> dict[str, Any]:
    """A relay as activation and lease lists show it. Needs what `relay_state` needs."""
    return {"id": relay.pk, "code": relay.code, "status": STATUS_OF[relay_state(relay)]}


def show_container(relay: Any) -> dict[str, Any]:
    """A relay from `selectors.relays()` as `ContainerOut`; queries nothing."""
    node, moved = node_of(relay), latest_move(relay)
    health: RelayHealth | None = getattr(relay, "health", None)
    arrived = moved if moved and moved.state == Move.State.ANSWERED else None
    return relay_brief(relay) | {
        "user_id": relay.owner_id,
        "group_id": relay.group_id,
        "is_primary": relay.slot == 0,
        "server_id": relay.server_id,
        "region": relay.server.region.code if relay.server else None,
        "region_id": relay.region_id,
        "host": relay.host_name,
        "ip": relay.server.ip if relay.server else None,
        "derp_port": node.derp_port if node else None,
        "stun_port": node.stun_port if node else None,
        "cert_name": relay.pin,
        "trouble": why_in_trouble(relay),
        "health": health,
        "latency_ms": health.latency_ms if health else None,
        "uptime": relay.month_uptime,
        "image": relay.image,
        "moved_at": arrived.ended_at if arrived else None,
        "moved_to": _region_of(arrived.to_server) if arrived else None,
        "last_move": _show_last_move(moved) if moved else None,
        "upload_bytes": relay.upload_bytes,
        "download_bytes": relay.download_bytes,
        "run_until": relay.group.run_until,
        "created_at": relay.created_at,
    }


def _container_answer(relay_id: int) -> dict[str, Any]:
    relay = selectors.relays().get(pk=relay_id)
    return {"success": True, "container_id": relay.pk, "relay": show_container(relay)}


def _show_last_move(moved: Move) -> dict[str, Any]:
    return {
        "state": moved.state,
        "reason": moved.reason,
        "from_region": _region_of(moved.from_server),
        "to_region": _region_of(moved.to_server),
        "created_at": moved.created_at,
        "ended_at": moved.ended_at,
    }


def _region_of(where: Server | None) -> str | None:
    return where.region.code if where else None


def _group_answer(group_id: int) -> dict[str, Any]:
    group = RelayGroup.objects.get(pk=group_id)
    return {
        "success": True,
        "group_id": group.pk,
        "quarantined_at": group.quarantined_at,
        "note": group.quarantine_note,
        "server_ids": sorted(group.servers.values_list("id", flat=True)),
    }
