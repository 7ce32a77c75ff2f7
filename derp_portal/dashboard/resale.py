"""What of the resellers waits for a decision."""

from __future__ import annotations

from django.utils.translation import gettext as _

from derp_portal.lib import money
from resellers.admin.words import signals_in_words
from resellers.models import Reseller, Settlement, Suspicion

from .shapes import Attention, Item, count_and_first, list_link, page_link


def applications() -> Attention:
    applied = Reseller.objects.filter(state=Reseller.State.APPLIED).select_related("user").defer("payout_details")
    count, rows = count_and_first(applied.order_by("id"))
    return Attention(
        title=_("Applications of resellers"),
        icon="handshake",
        link=list_link("resellers_reseller", "state__exact=applied"),
        count=count,
        items=[
            Item(
                str(reseller),
                reseller.application[:160],
                page_link("resellers_reseller", reseller.pk),
                reseller.terms_accepted_at or reseller.created_at,
            )
            for reseller in rows
        ],
    )


def suspicions() -> Attention:
    waiting = Suspicion.objects.filter(state=Suspicion.State.OPEN).select_related("order", "reseller__user")
    count, rows = count_and_first(waiting.defer("reseller__payout_details").order_by("id"))
    return Attention(
        title=_("Orders that may be a reseller's own"),
        icon="gpp_maybe",
        link=list_link("resellers_suspicion", "state__exact=open"),
        count=count,
        items=[
            Item(
                f"{suspicion.order} · {suspicion.reseller}",
                signals_in_words(suspicion.signals),
                page_link("resellers_suspicion", suspicion.pk),
                suspicion.created_at,
            )
            for suspicion in rows
        ],
    )


def settlements_to_approve() -> Attention:
    return _settlements(_("Settlements to approve"), "request_quote", Settlement.State.OPEN)


def settlements_to_pay() -> Attention:
    return _settlements(_("Settlements to pay"), "payments", Settlement.State.APPROVED)


def _settlements(title: str, icon: str, state: Settlement.State) -> Attention:
    found = Settlement.objects.filter(state=state).select_related("reseller__user").defer("reseller__payout_details")
    count, rows = count_and_first(found.order_by("month", "id"))
    return Attention(
        title=title,
        icon=icon,
        link=list_link("resellers_settlement", f"state__exact={state.value}"),
        count=count,
        items=[
            Item(
                f"{money.for_people(settlement.payable, settlement.currency)} · {settlement.reseller}",
                f"{settlement.month:%Y-%m}",
                page_link("resellers_settlement", settlement.pk),
                settlement.approved_at or settlement.created_at,
            )
            for settlement in rows
        ],
    )
