"""The statement of a settlement, as PDF."""

from __future__ import annotations

from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import pgettext
from reportlab.platypus import Flowable

from billing.paper import FAINT, document, facts, heading, moment_text, seller, table, text
from derp_portal.lib import money
from resellers.models import Settlement
from resellers.selectors import lines_of
from resellers.words import tail_of

MOST_LINES = 1000
"""More than these are on the settlement's page and not on paper."""


def statement_pdf(settlement: Settlement, *, shows_account: bool) -> bytes:
    """What a settlement is made of and what became of it, in the active language, times in the reseller's zone.

    The end of the account is for the reseller and for those who pay.
    """
    reseller, month = settlement.reseller, date_format(settlement.month, "Y-m")

    def amount(minor: int) -> str:
        return money.for_people(minor, settlement.currency)

    known: list[tuple[object, object]] = [
        (_("Month"), month),
        (pgettext("who pays", "Paid by"), seller()),
        (_("Reseller"), f"{reseller.user.username} <{reseller.user.email}>"),
        (_("State"), settlement.get_state_display()),
    ]
    if settlement.paid_at:
        known.append((pgettext("settlement", "Paid"), moment_text(settlement.paid_at, reseller.user.zone)))
        known.append((_("Reference of the payment"), settlement.payout_reference))
    elif reseller.payout_details:
        tail = tail_of(reseller.payout_details) if shows_account else ""
        known.append((_("Paid to"), f"{reseller.get_payout_kind_display()} {tail}".strip()))
    sums: list[tuple[object, object]] = [
        (_("Of the month"), amount(settlement.amount)),
        (_("Carried in"), amount(settlement.carried_in)),
        (_("Payable"), amount(settlement.payable)),
    ]
    found = lines_of(settlement).order_by("id")
    rows = [
        (
            f"{line.order.number} · {line.get_kind_display()}",
            date_format(line.created_at.astimezone(reseller.user.zone), "Y-m-d"),
            amount(line.base),
            amount(line.amount),
        )
        for line in found[: MOST_LINES + 1]
    ]
    story: list[Flowable] = [facts(known), facts(sums), heading(_("Commissions"))]
    story.append(table((_("Order"), _("When"), _("Of"), _("Commission")), rows[:MOST_LINES], share=0.46))
    if len(rows) > MOST_LINES:
        more = _("These are the first %(count)s; the page of the settlement has all of them.") % {"count": MOST_LINES}
        story.append(text(more, colour=FAINT))
    return document(_("Statement of commissions"), story, foot=f"{reseller.code} · {month}")
