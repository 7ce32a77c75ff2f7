"""The operator's home: what needs attention first, today's figures, then room by region and what runs out when."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.utils.translation import gettext as _

from .fleet import ending, failed_mails, figures, open_outages, relays_in_trouble, rooms, stock, unhealthy_servers
from .money import disputes, held_transfers, low_stock, money_figures, money_to_confirm, refunds_by_hand, stuck_orders
from .resale import applications, settlements_to_approve, settlements_to_pay, suspicions
from .shapes import Attention
from .support import waiting_tickets

NEEDED = ("fleet.view_server", "fleet.view_relay", "serials.view_lease", "serials.view_serialnumber")
NEEDED_FOR_MONEY = ("billing.view_order", "billing.view_transfer", "billing.view_refund", "billing.view_saleschannel")
NEEDED_FOR_RESELLERS = ("resellers.view_reseller", "resellers.view_suspicion", "resellers.view_settlement")


def operator_dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Fill the admin's first page, in a number of queries that does not grow with the rows.

    What is about money or resellers is for those who may look at it, sums for those who may read the ledger, and the
    rest for those who may look at servers, relays, leases and serials. Tickets are for those who may look at them.
    Staff who may do none of it see the lists they may open, and no figures.
    """
    sees_fleet, sees_money = request.user.has_perms(NEEDED), request.user.has_perms(NEEDED_FOR_MONEY)
    sees_resellers = request.user.has_perms(NEEDED_FOR_RESELLERS)
    sees_tickets = request.user.has_perm("accounts.view_ticket")
    if not (sees_fleet or sees_money or sees_resellers or sees_tickets):
        return context
    kinds: list[Attention] = []
    more: dict[str, Any] = {}
    if sees_fleet:
        kinds += [unhealthy_servers(), relays_in_trouble(), open_outages()]
        more |= {"figures": figures(), "rooms": rooms(), "stock": stock(), "ending": ending(), "has_rooms": True}
    if sees_tickets:
        kinds.append(waiting_tickets())
    if sees_money:
        kinds += [disputes(), stuck_orders(), held_transfers(), money_to_confirm(), refunds_by_hand(), low_stock()]
        if request.user.has_perm("billing.view_posting"):
            more["money"] = money_figures()
    if sees_resellers:
        kinds += [applications(), suspicions(), settlements_to_approve(), settlements_to_pay()]
        more["has_resellers"] = True
    if sees_fleet:
        kinds.append(failed_mails())
    return {
        **context,
        **more,
        "title": _("Overview"),
        "attention": [kind for kind in kinds if kind.count],
        "has_figures": True,
    }
