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

from accounts.apikit import ErrorOut, Moment, Ok, PageOut, PageQuery, TokenAuth, page, reader_of, sees_everybody
from accounts.models import User
from accounts.selectors import user_by_id
from derp_portal.lib.errors import PortalError
from fleet import selectors, services
from fleet.models import Relay, RelayHealth, Server
from fleet.selectors import RelayState, node_of, relay_state, why_in_trouble

from .hosts import READ_REFUSALS, REFUSALS

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

    user_id: int
    server_id: int | None = Field(None, description="Where; the best server when left out.")
    run_until: Moment | None = Field(None, description="The user's `rental_expiry` when left out.")


class ContainerRef(Schema):
    """Names a relay by its id."""

    container_id: int


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


class ContainerOut(RelayBrief):
    """A relay. `server_id`, `region`, `ip` and the ports are null while it has no place."""

    user_id: int
    group_id: int
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

    user_id: int | None = None
    server_id: int | None = None
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


def show_container(relay: Relay) -> dict[str, Any]:
    """A relay from `selectors.relays()` as `ContainerOut`; queries nothing."""
    node = node_of(relay)
    health: RelayHealth | None = getattr(relay, "health", None)
    return relay_brief(relay) | {
        "user_id": relay.owner_id,
        "group_id": relay.group_id,
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
        "upload_bytes": relay.upload_bytes,
        "download_bytes": relay.download_bytes,
        "run_until": relay.group.run_until,
        "created_at": relay.created_at,
    }


def _container_answer(relay_id: int) -> dict[str, Any]:
    relay = selectors.relays().get(pk=relay_id)
    return {"success": True, "container_id": relay.pk, "relay": show_container(relay)}
