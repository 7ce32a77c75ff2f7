"""Serial numbers: made, looked at, redeemed, withdrawn, verified."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.http import Http404, HttpRequest
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from ninja import Field, Query, Router, Schema
from pydantic import model_validator

from accounts import request_ip
from accounts.apikit import ErrorOut, Id, Moment, Ok, PageOut, PageQuery, TokenAuth, page, reader_of, sees_everybody
from derp_portal.lib.errors import PortalError
from derp_portal.lib.wording import enumeration
from fleet.api import READ_REFUSALS, REFUSALS, RelayBrief, relay_brief, whose
from serials import services
from serials.codes import canonical, grouped
from serials.models import LONGEST_DAYS, Lease, SerialBatch, SerialNumber
from serials.selectors import lease_card, leases_in_full, lookup_serials, serials_of
from serials.services.activation import Effect
from serials.services.attempts import count_refusal, refuse_guessers, watched_look
from serials.services.numbers import MOST_AT_ONCE, find_serial

from .leases import plan_named

serial = Router(tags=["serial"])

REDEEM_REFUSALS = frozenset({400, 401, 403, 404, 409, 410, 422, 429})
EXAMPLE_CODE = "7Q2M-4XKD-9TRB-0WHC-5ZNE-3VFA"


class GenerateIn(Schema):
    """How many serials, worth what. Without `plan`, the shown plan of just those days or else the first one."""

    duration_days: int | None = Field(
        None, ge=1, le=LONGEST_DAYS, description="What each is worth; the plan's days when left out.", examples=[30]
    )
    plan: str = Field("", description="Code of a plan.", examples=["30-days"])
    count: int = Field(1, ge=1, le=MOST_AT_ONCE)
    activate_before: Moment | None = Field(None, description="The last moment to redeem them.")
    note: str = Field("", max_length=200)


class GenerateOut(Ok):
    """The new serials, ready to be handed out."""

    serial_numbers: list[str]
    batch_id: int


class CodeIn(Schema):
    """A serial, however it is typed: case, dashes and spaces do not matter."""

    code: str = Field(max_length=200, examples=[EXAMPLE_CODE])


class ActivateIn(CodeIn):
    """A serial to redeem. Without `how` the days are added to the end of your lease; a first serial opens one."""

    how: services.How = Field(
        services.How.QUEUE,
        description="`queue`: behind what is left; `convert`: turn what is left into days of this plan; `new`: a lease "
        "of its own.",
    )
    lease_id: Id | None = Field(None, description="Which of your leases; the default one when left out.")
    lease_name: str = Field("", max_length=60, description="What a new lease is called.")


class ActivatedLease(Schema):
    """The lease that got the days."""

    id: int
    status: Lease.Status
    expires_at: datetime


class ActivateOut(Ok):
    """The lease and its relays. Relays start within seconds: ask `/api/container/list`."""

    lease: ActivatedLease
    relays: list[RelayBrief]


class EffectOut(Schema):
    """What redeeming in one way would do."""

    how: services.How
    lease_id: int | None
    lease_name: str | None
    starts_at: datetime = Field(description="When the serial's plan begins to count.")
    ends_at: datetime = Field(description="When the lease would end.")
    is_other_plan: bool = Field(description="Whether the lease runs under another plan now.")
    converted_seconds: int | None = Field(description="How long the rest of the other plans becomes under this one.")


class PreviewOut(Ok):
    """The serial's worth and the ways to redeem it, the default first."""

    plan: str
    duration_days: int
    effects: list[EffectOut]


class SerialOut(Schema):
    """A serial. To those it does not belong to, only `code` and `status` are shown; the rest is null."""

    id: int | None = None
    code: str
    status: SerialNumber.Status
    plan: str | None = None
    duration_days: int | None = None
    batch_id: int | None = None
    user_id: int | None = None
    lease_id: int | None = None
    created_at: datetime | None = None
    used_at: datetime | None = None
    expires_at: datetime | None = Field(
        None, description="While unused, the last moment to redeem it; then the end of what it granted."
    )


class StatusOut(Ok):
    """One serial."""

    serial: SerialOut


class SerialPage(PageOut):
    """A part of the list, newest first."""

    items: list[SerialOut]


class SerialQuery(PageQuery):
    """Filters of the list; `user_id` of others is for staff."""

    status: SerialNumber.Status | None = None
    plan: str = Field("", description="Code of a plan.")
    batch_id: Id | None = None
    user_id: Id | None = None
    q: str = Field("", max_length=200, description="Part of a code, or of the name or address of who redeemed it.")


class RevokeIn(Schema):
    """Which serials to withdraw: a whole batch, or some codes."""

    codes: list[str] = Field([], max_length=1000, examples=[[EXAMPLE_CODE]])
    batch_id: Id | None = None

    @model_validator(mode="after")
    def _names_one_of_both(self) -> RevokeIn:
        if bool(self.codes) == (self.batch_id is not None):
            raise ValueError(_("send either codes or batch_id"))
        return self


class RevokeOut(Ok):
    """How many became worthless; used and expired ones are left alone."""

    revoked: int


class VerifyIn(CodeIn):
    """Do this serial, this user and this relay or server belong together?"""

    user_id: Id | None = Field(None, description="You, when left out; others are for staff.")
    relay: str | None = Field(None, max_length=16, description="Code of a relay.")
    server_id: Id | None = None


class VerifyOut(Ok):
    """The verdict. `reason` is empty, or why not: unknown_serial, other_user, other_relay, other_server, over."""

    valid: bool
    reason: str


@serial.post(
    "/generate",
    response={200: GenerateOut, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("serials.change_serialbatch",)),
)
def generate(request: HttpRequest, data: GenerateIn) -> dict[str, Any]:
    """Make serials, up to 100,000 at once."""
    batch = services.generate(
        count=data.count,
        plan=plan_named(data.plan) if data.plan else None,
        duration_days=data.duration_days,
        activate_before=data.activate_before,
        note=data.note,
        actor=reader_of(request),
    )
    codes = batch.serials.order_by("id").values_list("code", flat=True)
    return {"success": True, "serial_numbers": [grouped(code) for code in codes], "batch_id": batch.pk}


@serial.post("/activate", response={200: ActivateOut, REDEEM_REFUSALS: ErrorOut}, auth=TokenAuth("serials"))
def activate(request: HttpRequest, data: ActivateIn) -> dict[str, Any]:
    """Redeem a serial. Days add up, nothing is overwritten; a refusal changes nothing."""
    user = reader_of(request)
    _serial, lease = services.activate(
        user=user,
        code=data.code,
        how=data.how,
        lease_id=data.lease_id,
        lease_name=data.lease_name,
        ip=request_ip.current(),
    )
    card = lease_card(leases_in_full(user).get(pk=lease.pk))
    return {
        "success": True,
        "lease": {"id": lease.pk, "status": card.lease.status, "expires_at": card.lease.ends_at},
        "relays": [relay_brief(each.relay) for each in card.relays],
    }


@serial.post("/preview", response={200: PreviewOut, REDEEM_REFUSALS: ErrorOut}, auth=TokenAuth("serials"))
def preview(request: HttpRequest, data: CodeIn) -> dict[str, Any]:
    """What redeeming would do, in each way there is. Changes nothing."""
    found, effects = services.preview(user=reader_of(request), code=data.code, ip=request_ip.current())
    return {
        "success": True,
        "plan": found.plan.code,
        "duration_days": found.duration_days,
        "effects": [_show_effect(effect) for effect in effects],
    }


@serial.get(
    "/status",
    response={200: StatusOut, REDEEM_REFUSALS: ErrorOut},
    auth=TokenAuth("serials", everybody="serials.view_serialnumber"),
)
def status(request: HttpRequest, query: Query[CodeIn]) -> dict[str, Any]:
    """Whether a serial can be redeemed. Who redeemed it, and staff, see all of it; for others failures are counted."""
    reader = reader_of(request)
    visible = serials_of(None if sees_everybody(request) else reader)
    own = visible.filter(code=canonical(query.code)).first()
    if own is not None:
        return {"success": True, "serial": _show_serial(own)}
    with watched_look(user=reader, ip=request_ip.current()):
        found = find_serial(query.code)
    return {"success": True, "serial": {"code": grouped(found.code), "status": found.status}}


@serial.get(
    "/list",
    response={200: SerialPage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("serials", everybody="serials.change_serialnumber"),
)
def list_serials(request: HttpRequest, query: Query[SerialQuery]) -> dict[str, Any]:
    """The serials you redeemed; with the staff scope, all there are."""
    found = serials_of(whose(request, query.user_id))
    if query.status:
        found = found.filter(status=query.status)
    if query.plan:
        found = found.filter(plan__code=query.plan)
    if query.batch_id is not None:
        found = found.filter(batch_id=query.batch_id)
    if query.q:
        found = lookup_serials(found, query.q)
    return page(found, query.page, query.per_page, _show_serial)


@serial.post(
    "/revoke",
    response={200: RevokeOut, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("serials.change_serialnumber",)),
)
def revoke(request: HttpRequest, data: RevokeIn) -> dict[str, Any]:
    """Make unused serials worthless. A code nobody knows is refused (404 `serial_unknown`), and nothing changes."""
    if data.batch_id is not None:
        ids = list(get_object_or_404(SerialBatch, pk=data.batch_id).serials.values_list("id", flat=True))
    else:
        ids = _ids_of(data.codes)
    return {"success": True, "revoked": services.revoke_serials(serials=ids, actor=reader_of(request))}


@serial.post(
    "/verify",
    response={200: VerifyOut, REDEEM_REFUSALS: ErrorOut},
    auth=TokenAuth("serials", everybody="serials.view_serialnumber"),
)
def verify(request: HttpRequest, data: VerifyIn) -> dict[str, Any]:
    """Check a binding: serial, user and, if named, relay and server."""
    reader = reader_of(request)
    is_watched = not sees_everybody(request)
    if is_watched:
        if data.user_id not in (None, reader.pk):
            raise Http404
        refuse_guessers(user=reader, ip=request_ip.current())
    verdict = services.verify_binding(
        code=data.code,
        user_id=reader.pk if data.user_id is None else data.user_id,
        relay_code=data.relay,
        server_id=data.server_id,
    )
    if is_watched and not verdict.valid:
        count_refusal(user=reader, ip=request_ip.current())
    return {"success": True, "valid": verdict.valid, "reason": verdict.reason}


def _ids_of(codes: list[str]) -> list[int]:
    wanted = {canonical(code): code for code in codes}
    ids = dict(SerialNumber.objects.filter(code__in=wanted).values_list("code", "id"))
    if unknown := [typed for code, typed in wanted.items() if code not in ids]:
        raise PortalError(
            _("These are no serial numbers of ours: %(codes)s. None was withdrawn.") % {"codes": enumeration(unknown)},
            code="serial_unknown",
            status=404,
            codes=unknown,
        )
    return list(ids.values())


def _show_effect(effect: Effect) -> dict[str, Any]:
    return {
        "how": effect.how,
        "lease_id": effect.lease.pk if effect.lease else None,
        "lease_name": effect.lease.name if effect.lease else None,
        "starts_at": effect.starts_at,
        "ends_at": effect.ends_at,
        "is_other_plan": effect.is_other_plan,
        "converted_seconds": None if effect.converted is None else int(effect.converted.total_seconds()),
    }


def _show_serial(one: SerialNumber) -> dict[str, Any]:
    """A serial from `serials_of()`; queries nothing."""
    term = getattr(one, "term", None)
    names = ("id", "status", "duration_days", "batch_id", "user_id", "created_at", "used_at", "expires_at")
    return {name: getattr(one, name) for name in names} | {
        "code": grouped(one.code),
        "plan": one.plan.code,
        "lease_id": term.lease_id if term else None,
    }
