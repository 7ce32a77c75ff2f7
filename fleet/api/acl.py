"""`/api/acl/…`: who may use a user's relays, in versions, and what the doors say."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from django.db.models import QuerySet
from django.http import Http404, HttpRequest
from ninja import Field, Query, Router, Schema

from accounts.apikit import ErrorOut, Id, Moment, Ok, PageOut, PageQuery, Start, TokenAuth, page, reader_of
from accounts.selectors import user_by_id
from fleet.acl.decision import Mode
from fleet.acl.versions import MOST_DEVICES, Policy, current_policy
from fleet.derp.map import derp_map
from fleet.models import AclConfig, AclLog, NodeKey
from fleet.selectors import nodes_of_owner
from fleet.services import acl as services

from .common import MOST_ROWS, READ_REFUSALS, REFUSALS
from .relays import whose

access = Router(tags=["acl"])


class DeviceOut(Schema):
    """A listed device."""

    key: str
    name: str


class AclOut(Schema):
    """One version of a policy: what a door goes by."""

    user_id: int
    version: int
    mode: Mode = Field(description="`closed`, `learn`, `open` or `delegate`")
    server_ids: list[int] = Field(description="Where the user's relays may run; empty: anywhere.")
    networks: list[str] = Field(description="Whoever comes from there gets in without being listed.")
    devices: list[DeviceOut]
    removed: list[str] = Field(description="Keys that are turned away whatever the mode.")
    delegate_url: str = Field(description="Who is asked, with `delegate`.")
    learns_until: datetime | None
    reason: str
    author_id: int | None = Field(description="null: the portal itself")
    created_at: datetime


class AclDocument(AclOut):
    """The policy, and the map of the relays that go by it."""

    derp_map: dict[str, Any] | None = Field(description="As Tailscale reads it; null while no relay has a place.")


class AclAnswer(Ok):
    """The policy in force."""

    acl: AclDocument


class GenerateIn(Schema):
    """What the policy is to say from now on. What is left out stays as it is."""

    user_id: Id
    server_ids: list[Id] | None = Field(None, max_length=1000, description="Empty: anywhere.")
    mode: Mode | None = None
    node_keys: list[str] | None = Field(None, max_length=MOST_DEVICES, description="All of them, anew.")
    networks: list[str] | None = Field(None, max_length=services.MOST_NETWORKS, examples=[["203.0.113.0/24"]])
    delegate_url: str | None = Field(None, max_length=500, description="With `delegate`: whom to ask.")
    learns_until: Moment | None = Field(None, description="With `learn`: when the doors close.")
    reason: str = Field("", max_length=200)


class RollbackIn(Schema):
    """Which version is to be set again."""

    user_id: Id | None = Field(None, description="Yourself when left out; others are for staff.")
    version: int = Field(ge=1)


class CheckQuery(Schema):
    """Who would come, from where."""

    user_id: Id | None = Field(None, description="Yourself when left out; others are for staff.")
    node_key: str
    ip: str = ""


class CheckAnswer(Ok):
    """What a door of a running relay would say now."""

    is_allowed: bool
    reason: str
    version: int


class WhoseQuery(PageQuery):
    """Whose; others are for staff."""

    user_id: Id | None = None


class OneQuery(Schema):
    """Whose; others are for staff."""

    user_id: Id | None = Field(None, description="Yourself when left out.")


class HistoryPage(PageOut):
    """A part of the versions, newest first."""

    items: list[AclOut]


class LogQuery(WhoseQuery):
    """Filters of the door's log."""

    node_key: str = ""
    is_allowed: bool | None = None
    since: Start | None = None


class LogOut(Schema):
    """One answer of a door."""

    user_id: int
    container_id: int
    node_key: str
    ip_address: str | None
    location: str = Field(description="Two letters of the country; empty when not known.")
    acl_version: int
    is_allowed: bool
    reason: str
    created_at: datetime


class LogPage(PageOut):
    """A part of the log, newest first; 10,000 at most, so narrow it to see what lies before."""

    items: list[LogOut]


@access.post(
    "/generate",
    response={200: AclAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.add_aclconfig",)),
)
def generate(request: HttpRequest, data: GenerateIn) -> dict[str, Any]:
    """Set a user's policy. It is a new version unless it says nothing new; who may no longer get in is cut off."""
    user = user_by_id(data.user_id)
    said = data.dict(exclude_none=True)
    changes: dict[str, Any] = {}
    if "server_ids" in said:
        changes["servers"] = tuple(sorted(set(said["server_ids"])))
    if "mode" in said:
        changes["mode"] = Mode(said["mode"])
    if "learns_until" in said:
        changes["learns_until"] = said["learns_until"]
    if "delegate_url" in said:
        changes["delegate_url"] = said["delegate_url"].strip()
    if "networks" in said:
        changes["networks"] = services.networks_of("\n".join(said["networks"]))
    if "node_keys" in said:
        keys = services.node_keys_of(said["node_keys"])

        def change(policy: Policy) -> Policy:
            # A device that stays keeps its name.
            return replace(policy, devices={key: policy.devices.get(key, "") for key in keys}, **changes)

    else:

        def change(policy: Policy) -> Policy:
            return replace(policy, **changes)

    version = services.change_policy(user_id=user.pk, change=change, reason=data.reason, actor=reader_of(request))
    return {"success": True, "acl": _document(version)}


@access.get(
    "/list",
    response={200: AclAnswer, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("relays", everybody="fleet.view_aclconfig"),
)
def in_force(request: HttpRequest, query: Query[OneQuery]) -> dict[str, Any]:
    """The policy in force. 404 for somebody who never had relays."""
    owner = whose(request, query.user_id) or reader_of(request)
    version = current_policy(owner.pk)
    if version is None:
        raise Http404
    shown = _document(version)
    listed = NodeKey.objects.filter(owner=owner, is_removed=False).order_by("id").values("key", "name")
    # A learning door has listed some since the version was set.
    return {"success": True, "acl": shown | {"devices": list(listed)}}


@access.get(
    "/history",
    response={200: HistoryPage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("relays", everybody="fleet.view_aclconfig"),
)
def history(request: HttpRequest, query: Query[WhoseQuery]) -> dict[str, Any]:
    """Every version there was."""
    owner = whose(request, query.user_id)
    versions: QuerySet[AclConfig] = AclConfig.objects.order_by("-id")
    return page(versions.filter(user=owner) if owner else versions, query.page, query.per_page, _show)


@access.post(
    "/rollback",
    response={200: AclAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("relays", everybody="fleet.add_aclconfig"),
)
def rollback(request: HttpRequest, data: RollbackIn) -> dict[str, Any]:
    """Set an older version again, as a new one; one that was learning comes back closed."""
    owner = whose(request, data.user_id) or reader_of(request)
    version = services.roll_back(user_id=owner.pk, version=data.version, actor=reader_of(request))
    return {"success": True, "acl": _document(version)}


@access.get(
    "/check",
    response={200: CheckAnswer, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("relays", everybody="fleet.view_aclconfig"),
)
def check(request: HttpRequest, query: Query[CheckQuery]) -> dict[str, Any]:
    """Ask as a relay would that runs: nothing is logged, and nobody is let in by it."""
    owner = whose(request, query.user_id) or reader_of(request)
    [node_key] = services.node_keys_of([query.node_key])
    decision, version = services.would_admit(user_id=owner.pk, node_key=node_key, source=query.ip)
    return {"success": True, "is_allowed": decision.is_allowed, "reason": decision.reason, "version": version}


@access.get(
    "/logs",
    response={200: LogPage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("relays", everybody="fleet.view_acllog"),
)
def logs(request: HttpRequest, query: Query[LogQuery]) -> dict[str, Any]:
    """What the doors answered, a few seconds ago and before."""
    owner = whose(request, query.user_id)
    found: QuerySet[AclLog] = AclLog.objects.order_by("-created_at", "-id")
    if owner:
        found = found.filter(user=owner)
    if query.node_key:
        found = found.filter(node_key=query.node_key)
    if query.is_allowed is not None:
        found = found.filter(is_allowed=query.is_allowed)
    if query.since:
        found = found.filter(created_at__gte=query.since)
    return page(found[:MOST_ROWS], query.page, query.per_page, _show_line)


def _document(version: AclConfig) -> dict[str, Any]:
    nodes = nodes_of_owner(version.user_id)
    return _show(version) | {"derp_map": derp_map(nodes) if nodes else None}


def _show(version: AclConfig) -> dict[str, Any]:
    return {
        "user_id": version.user_id,
        "version": version.version,
        "mode": version.mode,
        "server_ids": version.servers,
        "networks": version.networks,
        "devices": version.devices,
        "removed": version.removed,
        "delegate_url": version.delegate_url,
        "learns_until": version.learns_until,
        "reason": version.reason,
        "author_id": version.author_id,
        "created_at": version.created_at,
    }


def _show_line(line: AclLog) -> dict[str, Any]:
    return {
        "user_id": line.user_id,
        "container_id": line.relay_id,
        "node_key": line.node_key,
        "ip_address": line.ip_address,
        "location": line.location,
        "acl_version": line.acl_version,
        "is_allowed": line.is_allowed,
        "reason": line.reason,
        "created_at": line.created_at,
    }
