"""What staff do about resellers: applications, suspicions, settlements, whose customer somebody is."""

from __future__ import annotations

from typing import Any, Literal

from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Field, Query, Schema

from accounts.apikit import ErrorOut, Id, Ok, PageOut, PageQuery, TokenAuth, page, reader_of
from accounts.models import User
from accounts.services import record
from billing.api.finance_fields import Month
from billing.finance.days import month_named
from fleet.api import READ_REFUSALS, REFUSALS
from resellers import services
from resellers.models import Level, Reseller, Settlement, Suspicion

from .fields import (
    AttributionAnswer,
    ResellerBrief,
    SettlementAnswer,
    SuspicionAnswer,
    SuspicionPage,
    show_reseller,
    show_settlement,
    show_suspicion,
)
from .own import reseller

DESK_REFUSALS = REFUSALS | {400}


class ListedOut(ResellerBrief):
    """A reseller as staff see them. Where they are paid is for the admin only."""

    user_id: int
    username: str
    application: str
    renewal_url: str


class ResellerQuery(PageQuery):
    """Filters of the list."""

    state: Reseller.State | None = None
    q: str = Field("", max_length=120, description="Part of a link code, user name or e-mail address.")


class ResellerPage(PageOut):
    """A part of the list, newest first."""

    items: list[ListedOut]


class ListedAnswer(Ok):
    """The reseller that the call was about."""

    reseller: ListedOut


class DecideIn(Schema):
    """What becomes of a reseller."""

    reseller_id: Id
    decision: Literal["approve", "reject", "suspend"]
    reason: str = Field("", max_length=200, description="Needed to reject or suspend; the applicant is told.")
    level: str = Field("", max_length=40, description="Of `approve`: code of their level; the one they have if empty.")


class RunIn(Schema):
    """Which month to settle."""

    month: Month | None = Field(None, description="All that are over when left out.")


class RunAnswer(Ok):
    """How many settlements were made; those that were there stay."""

    made: int


class SettlementDecisionIn(Schema):
    """What becomes of a settlement."""

    settlement_id: Id
    decision: Literal["approve", "pay", "reject"]
    reference: str = Field("", max_length=128, description="Of `pay`: by which transfer.")
    reason: str = Field("", max_length=200, description="Of `reject`; the reseller is told.")


class SuspicionQuery(PageQuery):
    """Filter of the list."""

    state: Suspicion.State | None = None


class SuspicionDecisionIn(Schema):
    """What becomes of an order that may be the reseller's own."""

    suspicion_id: Id
    decision: Literal["clear", "confirm"] = Field(description="`clear`: it earns; `confirm`: it earns nothing.")
    reason: str = Field(max_length=200)


class AssignIn(Schema):
    """Whose customer somebody is from now on."""

    user_id: Id
    reseller_code: str | None = Field(description="null: nobody's.")
    reason: str = Field(max_length=200)


@reseller.get(
    "/list",
    response={200: ResellerPage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("resellers.view_reseller",)),
)
def list_resellers(request: HttpRequest, query: Query[ResellerQuery]) -> dict[str, Any]:
    """Resellers and those who want to be one."""
    found = _listed()
    if query.state:
        found = found.filter(state=query.state)
    if text := query.q.strip():
        named = Q(code__icontains=text) | Q(user__username__icontains=text) | Q(user__email__icontains=text)
        found = found.filter(named)
    return page(found.order_by("-id"), query.page, query.per_page, _show_listed)


@reseller.post(
    "/decide",
    response={200: ListedAnswer, DESK_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("resellers.change_reseller",)),
)
def decide(request: HttpRequest, data: DecideIn) -> dict[str, Any]:
    """Approve, reject or suspend. Approving one who is active changes their `level` only. Twice is fine."""
    actor = reader_of(request)
    target = get_object_or_404(Reseller, pk=data.reseller_id)
    if data.decision == "approve":
        level = get_object_or_404(Level, code=data.level) if data.level else None
        is_other = level is not None and level.pk != target.level_id
        services.approve(reseller_id=target.pk, level=level if is_other else None, actor=actor)
        if level is not None:
            services.set_level(reseller_id=target.pk, level=level, actor=actor)
    else:
        service = services.reject if data.decision == "reject" else services.suspend
        service(reseller_id=target.pk, reason=data.reason, actor=actor)
    return {"success": True, "reseller": _show_listed(_listed().get(pk=target.pk))}


@reseller.post(
    "/run",
    response={200: RunAnswer, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("resellers.add_settlement",)),
)
def run(request: HttpRequest, data: RunIn) -> dict[str, Any]:
    """Settle a month that is over, or all that are. Beat does it by itself; twice is fine."""
    made = services.run_month(month=month_named(data.month)) if data.month else services.run_months()
    record(actor=reader_of(request), event="settlements.run", count=made, month=data.month or "")
    return {"success": True, "made": made}


@reseller.post(
    "/settlement/decide",
    response={200: SettlementAnswer, DESK_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("resellers.change_settlement",)),
)
def decide_settlement(request: HttpRequest, data: SettlementDecisionIn) -> dict[str, Any]:
    """Approve it, say that you have paid it, or reject it: then it is carried into the next month. Twice is fine."""
    actor = reader_of(request)
    target = get_object_or_404(Settlement, pk=data.settlement_id)
    if data.decision == "approve":
        done = services.approve_settlement(settlement_id=target.pk, actor=actor)
    elif data.decision == "pay":
        done = services.pay_settlement(settlement_id=target.pk, reference=data.reference, actor=actor)
    else:
        done = services.reject_settlement(settlement_id=target.pk, reason=data.reason, actor=actor)
    return {"success": True, "settlement": show_settlement(done)}


@reseller.get(
    "/suspicions",
    response={200: SuspicionPage, READ_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("resellers.view_suspicion",)),
)
def list_suspicions(request: HttpRequest, query: Query[SuspicionQuery]) -> dict[str, Any]:
    """Orders that may be the reseller's own; `state=open` is what a person must look at."""
    found = Suspicion.objects.select_related("order", "reseller").defer("reseller__payout_details")
    if query.state:
        found = found.filter(state=query.state)
    return page(found.order_by("-id"), query.page, query.per_page, show_suspicion)


@reseller.post(
    "/suspicion/decide",
    response={200: SuspicionAnswer, DESK_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("resellers.change_suspicion",)),
)
def decide_suspicion(request: HttpRequest, data: SuspicionDecisionIn) -> dict[str, Any]:
    """Let the order earn, or earn nothing for good. Twice is fine; the other way: 409 `already_decided`."""
    target = get_object_or_404(Suspicion, pk=data.suspicion_id)
    service = services.clear if data.decision == "clear" else services.confirm
    service(suspicion_id=target.pk, reason=data.reason, actor=reader_of(request))
    decided = Suspicion.objects.select_related("order", "reseller").get(pk=target.pk)
    return {"success": True, "suspicion": show_suspicion(decided)}


@reseller.post(
    "/assign",
    response={200: AttributionAnswer, DESK_REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("resellers.change_attribution",)),
)
def assign(request: HttpRequest, data: AssignIn) -> dict[str, Any]:
    """Say whose customer somebody is from now on. What was earned before stays. Twice is fine."""
    user = get_object_or_404(User, pk=data.user_id)
    active = Reseller.objects.filter(state=Reseller.State.ACTIVE).select_related("user")
    seller = None if data.reseller_code is None else get_object_or_404(active, code=data.reseller_code.lower())
    found = services.correct_attribution(user_id=user.pk, reseller=seller, reason=data.reason, actor=reader_of(request))
    shown = {
        "user_id": user.pk,
        "reseller_code": seller.code if seller else None,
        "since": found.since if found else None,
    }
    return {"success": True, "attribution": shown}


def _listed() -> QuerySet[Reseller]:
    return Reseller.objects.select_related("user", "level").defer("payout_details")


def _show_listed(seller: Reseller) -> dict[str, Any]:
    names = ("user_id", "application", "renewal_url")
    more = {name: getattr(seller, name) for name in names}
    return show_reseller(seller) | more | {"username": seller.user.username}
