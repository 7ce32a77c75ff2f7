"""Leases, renewing a user, and how a plan is shown."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from ninja import Field, Query, Router, Schema
from pydantic import model_validator

from accounts.apikit import ErrorOut, Id, Moment, Ok, PageOut, PageQuery, TokenAuth, page, reader_of
from accounts.selectors import user_by_id
from derp_portal.lib.errors import PortalError
from fleet.api import READ_REFUSALS, REFUSALS, RelayBrief, relay_brief, whose
from serials import services
from serials.models import Lease, LeaseTerm, Plan
from serials.selectors import lease_card, leases_in_full

lease = Router(tags=["lease"])
renewal = Router(tags=["user"])


class PlanOut(Schema):
    """What a term of this plan gives."""

    code: str
    name: str = Field(description="In the reader's language.")
    days: int
    relay_count: int
    max_devices: int | None
    fails_open: bool
    speed_bytes_per_second: int = Field(description="For each device; 0 means no limit.")
    quota_bytes: int | None = Field(description="For each quota period; null means no limit.")
    quota_period: Plan.QuotaPeriod = Field(description="`term`: the whole term; `month`: each calendar month.")
    regions: list[str] = Field(description="Codes; empty means every region.")


class TermOut(Schema):
    """A stretch of a lease under one plan, running or to come."""

    term_id: int
    plan: str
    starts_at: datetime
    ends_at: datetime
    state: LeaseTerm.State
    source: LeaseTerm.Source


class LeaseOut(Schema):
    """A lease: its relays, its end, and the terms that lead there."""

    id: int
    name: str
    user_id: int
    status: Lease.Status
    started_at: datetime
    expires_at: datetime
    ended_at: datetime | None
    end_reason: Lease.EndReason | None = Field(description="null while it is active.")
    plan: str | None = Field(description="Code of the plan in force now.")
    terms: list[TermOut] = Field(description="The current term and those to come.")
    relays: list[RelayBrief]


class LeasePage(PageOut):
    """A part of the list, newest first."""

    items: list[LeaseOut]


class LeaseQuery(PageQuery):
    """Filters of the list; `user_id` of others is for staff."""

    user_id: Id | None = None
    status: Lease.Status | None = None


class LeaseEnd(Schema):
    """Which lease ends now."""

    lease_id: Id
    note: str = Field("", max_length=200, description="Why; kept in the audit trail.", examples=["refunded"])


class NextTermIn(Schema):
    """Whose next term begins now, and which one that is."""

    lease_id: Id
    term_id: Id = Field(description="The first of the lease's terms that is still to come.")


class NoticeIn(Schema):
    """Which lease the customer is told about, and what."""

    lease_id: Id
    kind: Lease.Notice


class NoticeOut(Ok):
    """The mail that is on its way."""

    notification_id: int


class LeaseAnswer(Ok):
    """The lease the call was about."""

    lease: LeaseOut


class RenewIn(Schema):
    """Whose lease is to last until when. One of `until` and `end_date` is needed."""

    user_id: Id
    until: Moment | None = None
    end_date: Moment | None = Field(None, description="Another name for `until`.")
    plan: str = Field("", description="Code of the plan for a user without a lease; else the lease keeps its own.")

    @model_validator(mode="after")
    def _says_until_when(self) -> RenewIn:
        if (self.until is None) == (self.end_date is None):
            raise ValueError(_("send either until or end_date"))
        return self


class RenewOut(LeaseAnswer):
    """The renewed lease, and the end of the user's last one."""

    rental_expiry: datetime


@lease.get(
    "/list",
    response={200: LeasePage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("serials", everybody="serials.view_lease"),
)
def list_leases(request: HttpRequest, query: Query[LeaseQuery]) -> dict[str, Any]:
    """Your leases, ended ones included; with the staff scope, everybody's."""
    found = leases_in_full(whose(request, query.user_id))
    if query.status:
        found = found.filter(status=query.status)
    return page(found, query.page, query.per_page, show_lease)


@lease.post(
    "/end",
    response={200: LeaseAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("serials.change_lease",)),
)
def end(request: HttpRequest, data: LeaseEnd) -> dict[str, Any]:
    """End a lease now: its relays stop, their place stays reserved for 14 days. Ending twice is fine."""
    target = get_object_or_404(Lease, pk=data.lease_id)
    reason = Lease.EndReason.STAFF
    services.end_lease(lease_id=target.pk, reason=reason, note=data.note, actor=reader_of(request))
    return {"success": True, "lease": show_lease(leases_in_full(None).get(pk=target.pk))}


@lease.post(
    "/start_next",
    response={200: LeaseAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("serials", everybody="serials.change_lease"),
)
def start_next(request: HttpRequest, data: NextTermIn) -> dict[str, Any]:
    """Begin the next term now, with a quota of its own; what is left of the current one is given up.

    `term_id` must be the term that comes next: asked twice, the second is refused with 409 `not_next_term`.
    """
    target = get_object_or_404(leases_in_full(whose(request, None)), pk=data.lease_id)
    services.start_next_term(lease_id=target.pk, term_id=data.term_id, actor=reader_of(request))
    return {"success": True, "lease": show_lease(leases_in_full(None).get(pk=target.pk))}


@lease.post(
    "/notify",
    response={200: NoticeOut, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("serials.change_lease",)),
)
def notify(request: HttpRequest, data: NoticeIn) -> dict[str, Any]:
    """Tell the customer now, by mail, that the lease ends soon or is renewed. An ended one: 409 `lease_ended`."""
    target = get_object_or_404(Lease, pk=data.lease_id)
    sent = services.send_notice(lease_id=target.pk, kind=data.kind, actor=reader_of(request))
    return {"success": True, "notification_id": sent.pk}


@renewal.post(
    "/renew",
    response={200: RenewOut, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("accounts.change_user", "serials.change_lease")),
)
def renew(request: HttpRequest, data: RenewIn) -> dict[str, Any]:
    """Let a user's lease run until a chosen day; they are told by mail. Never shortens it (409 `date_too_early`)."""
    owner = user_by_id(data.user_id)
    until = data.until or data.end_date
    assert until is not None  # The schema asks for one of them.
    chosen = plan_named(data.plan) if data.plan else None
    renewed = services.renew_user(user_id=owner.pk, until=until, plan=chosen, actor=reader_of(request))
    owner.refresh_from_db(fields=["rental_expiry"])
    shown = show_lease(leases_in_full(None).get(pk=renewed.pk))
    return {"success": True, "lease": shown, "rental_expiry": owner.rental_expiry}


def plan_named(code: str) -> Plan:
    """The plan of that code, shown to customers or not. Raises PortalError `unknown_plan`."""
    found = Plan.objects.filter(code=code).first()
    if found is None:
        raise PortalError(_("There is no plan “%(plan)s”.") % {"plan": code}, code="unknown_plan", status=422)
    return found


def show_lease(one: Lease) -> dict[str, Any]:
    """A lease from `leases_in_full()` as `LeaseOut`; queries nothing."""
    card = lease_card(one)
    return {
        "id": one.pk,
        "name": one.name,
        "user_id": one.user_id,
        "status": one.status,
        "started_at": one.started_at,
        "expires_at": one.ends_at,
        "ended_at": one.ended_at,
        "end_reason": one.end_reason or None,
        "plan": card.current.plan.code if card.current else None,
        "terms": [
            {
                "term_id": term.pk,
                "plan": term.plan.code,
                "starts_at": term.starts_at,
                "ends_at": term.ends_at,
                "state": term.state,
                "source": term.source,
            }
            for term in card.open_terms
        ],
        "relays": [relay_brief(each.relay) for each in card.relays],
    }


def show_plan(one: Plan) -> dict[str, Any]:
    """A plan from `public_plans()` as `PlanOut`; queries nothing."""
    names = (
        "code",
        "days",
        "relay_count",
        "max_devices",
        "fails_open",
        "speed_bytes_per_second",
        "quota_bytes",
        "quota_period",
    )
    return {name: getattr(one, name) for name in names} | {
        "name": one.local_name,
        "regions": [region.code for region in one.regions.all()],
    }
