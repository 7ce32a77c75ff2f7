"""`/api/container/usage`, `/api/traffic/…`, `/api/server/traffic`: what passed, what may pass, who is over it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db.models import QuerySet
from django.http import Http404, HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Query, Router

from accounts.apikit import ErrorOut, PageQuery, TokenAuth, page, reader_of, sees_everybody
from accounts.selectors import user_by_id
from derp_portal.lib.clock import now
from fleet import services
from fleet import traffic as books
from fleet.models import Relay, RelayGroup, Server
from fleet.selectors import servers
from fleet.services.quota_keeping import add_pack, limit_user, unlimit_user
from fleet.services.quotas import Usage, usage_of

from .common import READ_REFUSALS, REFUSALS
from .hosts import server
from .relays import container, whose
from .traffic_fields import (
    OverLimitPage,
    PackIn,
    PackOut,
    Per,
    RatePage,
    RealtimeQuery,
    ServerLimitIn,
    ServerTrafficAnswer,
    ServerTrafficPage,
    ServerTrafficQuery,
    Side,
    StatisticsPage,
    StatisticsQuery,
    UsagePage,
    UsageQuery,
    UserLimitIn,
    UserLimitOut,
)

traffic = Router(tags=["traffic"])

OF_EVERYBODY = TokenAuth("relays", everybody="fleet.view_relay")


@container.get("/usage", response={200: UsagePage, READ_REFUSALS: ErrorOut}, auth=OF_EVERYBODY)
def usage(request: HttpRequest, query: Query[UsageQuery]) -> dict[str, Any]:
    """What relays carried today, in this period and ever. Your own; with the staff scope, everybody's."""
    found = _relays_of(request, query.user_id, query.container_id or query.relay_id).select_related("group")
    if query.server_id is not None:
        found = found.filter(server=query.server_id)
    answer = page(found.order_by("-id"), query.page, query.per_page)
    listed: list[Relay] = answer["items"]
    quotas = usage_of({relay.group_id: relay.group for relay in listed}.values())
    ids = [relay.pk for relay in listed]
    today = books.today_of(ids)
    period = books.in_period_of(ids, [one.period for one in quotas.values()])
    items = [
        {
            "container_id": relay.pk,
            "relay": relay.code,
            "user_id": relay.owner_id,
            "server_id": relay.server_id,
            "today": _show_amount(today.get(relay.pk, books.NOTHING)),
            "period": _show_amount(period.get(relay.pk, books.NOTHING)),
            "total_upload_bytes": relay.upload_bytes,
            "total_download_bytes": relay.download_bytes,
            "quota": _show_quota(relay.group, quotas[relay.group_id]),
        }
        for relay in listed
    ]
    return answer | {"items": items}


@traffic.get("/realtime", response={200: RatePage, READ_REFUSALS: ErrorOut}, auth=OF_EVERYBODY)
def realtime(request: HttpRequest, query: Query[RealtimeQuery]) -> dict[str, Any]:
    """The present rate of each relay (your own; staff: all) or server (staff)."""
    if query.by == Side.SERVER:
        answer = page(_servers_of(request, query.server_id), query.page, query.per_page)
        rates = books.rates_of_servers([one.pk for one in answer["items"]])
        names = {one.pk: one.name for one in answer["items"]}
    else:
        found = _relays_of(request, None, query.container_id)
        if query.server_id is not None:
            found = found.filter(server=query.server_id)
        answer = page(found.order_by("-id"), query.page, query.per_page)
        rates = books.rates_of_relays([one.pk for one in answer["items"]])
        names = {one.pk: one.code for one in answer["items"]}
    items = [_show_rate(pk, name, rates.get(pk, books.Rate())) for pk, name in names.items()]
    return answer | {"by": query.by, "items": items}


@traffic.get("/statistics", response={200: StatisticsPage, READ_REFUSALS: ErrorOut}, auth=OF_EVERYBODY)
def statistics(request: HttpRequest, query: Query[StatisticsQuery]) -> dict[str, Any]:
    """What passed, by relay, server, user or day. Your own; with the staff scope, everybody's."""
    if query.by in (Per.SERVER, Per.USER) or query.server_id is not None:
        _only_staff(request)
    until = query.until or now()
    rows = books.statistics(
        query.by,
        since=query.since or until - timedelta(days=30),
        until=until,
        owner=whose(request, query.user_id),
        server_id=query.server_id,
    )
    return page(rows, query.page, query.per_page, lambda row: _show_sum(query.by, row)) | {"by": query.by}


@traffic.get(
    "/over_limit",
    response={200: OverLimitPage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.view_relaygroup", "fleet.view_server")),
)
def over_limit(request: HttpRequest, query: Query[PageQuery]) -> dict[str, Any]:
    """Groups that stand because their quota is used up, and servers over their allowance."""
    answer = page(books.groups_over_quota(), query.page, query.per_page)
    quotas = usage_of(answer["items"])
    items = [
        _show_quota(group, quotas[group.pk])
        | {"user_id": group.owner_id, "username": group.owner.username, "label": str(group), "relays": group.live}
        for group in answer["items"]
    ]
    over = [
        {
            "server_id": one.pk,
            "name": one.name,
            "allowance_bytes": one.allowance_bytes,
            "allowance_used_bytes": one.allowance_used_bytes,
        }
        for one in books.servers_over_allowance()
    ]
    return answer | {"items": items, "servers": over}


@traffic.post(
    "/limit",
    response={200: UserLimitOut, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.change_userlimit",)),
)
def limit(request: HttpRequest, data: UserLimitIn) -> dict[str, Any]:
    """Give a user a quota of his own, whatever his plans say, or take it away. His relays follow at once."""
    owner = user_by_id(data.user_id)
    if data.remove:
        unlimit_user(user_id=owner.pk, actor=reader_of(request))
    else:
        limit_user(user_id=owner.pk, quota_bytes=data.quota_bytes, note=data.note, actor=reader_of(request))
    return {"success": True, "user_id": owner.pk, "is_limited": not data.remove, "quota_bytes": data.quota_bytes}


@traffic.post(
    "/pack",
    response={200: PackOut, REFUSALS | {400}: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.add_trafficpack",)),
)
def pack(request: HttpRequest, data: PackIn) -> dict[str, Any]:
    """Add a traffic pack. Relays that stand for their quota run again at once. The same key adds once."""
    if data.group_id is not None:
        group = get_object_or_404(RelayGroup, pk=data.group_id)
    else:
        group = get_object_or_404(RelayGroup, relays=data.container_id)
    added = add_pack(group_id=group.pk, extra_bytes=data.bytes, key=data.key, note=data.note, actor=reader_of(request))
    group.refresh_from_db()
    return {"success": True, "pack_id": added.pk, "quota": _show_quota(group, usage_of([group])[group.pk])}


@server.get(
    "/traffic",
    response={200: ServerTrafficPage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.view_server",)),
)
def server_traffic(request: HttpRequest, query: Query[ServerTrafficQuery]) -> dict[str, Any]:
    """What the relays of each server carry, and its monthly allowance."""
    found = servers().filter(pk=query.server_id) if query.server_id is not None else servers()
    answer = page(found, query.page, query.per_page)
    today = books.today_of_servers([one.pk for one in answer["items"]])
    return answer | {"items": [_show_server(one, today.get(one.pk, books.NOTHING)) for one in answer["items"]]}


@server.post(
    "/traffic",
    response={200: ServerTrafficAnswer, REFUSALS | {400}: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.change_server",)),
)
def limit_server(request: HttpRequest, data: ServerLimitIn) -> dict[str, Any]:
    """Set a server's monthly allowance, on which day it begins anew, and what its provider counts."""
    target = get_object_or_404(Server, pk=data.server_id)
    sent = data.dict(exclude_unset=True, exclude={"server_id"})
    changes = {name: value for name, value in sent.items() if value is not None or name == "allowance_bytes"}
    services.update_server(server_id=target.pk, **changes, actor=reader_of(request))
    changed = servers().get(pk=target.pk)
    today = books.today_of_servers([target.pk]).get(target.pk, books.NOTHING)
    return {"success": True, "server": _show_server(changed, today)}


def _relays_of(request: HttpRequest, user_id: int | None, relay_id: int | None) -> QuerySet[Relay]:
    """The live relays the reader may see; one that is named also when it is released. Raises Http404."""
    owner = whose(request, user_id)
    found = Relay.objects.filter(owner=owner) if owner else Relay.objects.all()
    if relay_id is None:
        return found.filter(released_at=None)
    return found.filter(pk=get_object_or_404(found, pk=relay_id).pk)


def _servers_of(request: HttpRequest, server_id: int | None) -> QuerySet[Server]:
    _only_staff(request)
    found = Server.objects.order_by("name")
    return found.filter(pk=get_object_or_404(Server, pk=server_id).pk) if server_id is not None else found


def _only_staff(request: HttpRequest) -> None:
    """Servers and other people are nothing a customer may know of. Raises Http404."""
    if not sees_everybody(request):
        raise Http404


def _show_amount(amount: books.Amount) -> dict[str, Any]:
    return {
        "upload_bytes": amount.upload,
        "download_bytes": amount.download,
        "unmeasured_seconds": amount.unmeasured_seconds,
    }


def _show_quota(group: RelayGroup, one: Usage) -> dict[str, Any]:
    return {
        "group_id": group.pk,
        "period_start": one.period.starts_at,
        "period_end": one.period.ends_at,
        "used_bytes": one.used,
        "limit_bytes": one.limit,
        "left_bytes": one.left,
        "percent": one.percent,
        "over_quota_since": group.over_quota_since,
    }


def _show_rate(pk: int, name: str, rate: books.Rate) -> dict[str, Any]:
    return {
        "id": pk,
        "name": name,
        "upload_bytes_per_second": round(rate.upload, 1),
        "download_bytes_per_second": round(rate.download, 1),
        "read_at": rate.read_at,
    }


def _show_sum(by: Per, row: dict[str, Any]) -> dict[str, Any]:
    key = {"day": row["key"].date().isoformat()} if by == Per.DAY else {"id": row["key"]}
    return key | {
        "upload_bytes": row["uploaded"],
        "download_bytes": row["downloaded"],
        "unmeasured_seconds": row["unmeasured"],
    }


def _show_server(one: Any, today: books.Amount) -> dict[str, Any]:
    names = "name allowance_bytes allowance_used_bytes allowance_reset_day billed_direction"
    return {name: getattr(one, name) for name in names.split()} | {
        "server_id": one.pk,
        "today": _show_amount(today),
        "total_upload_bytes": one.uploaded,
        "total_download_bytes": one.downloaded,
        "is_over": one.allowance_bytes is not None and one.allowance_used_bytes >= one.allowance_bytes,
    }
