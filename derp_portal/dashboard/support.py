"""What customers wait for."""

from __future__ import annotations

from django.utils.translation import gettext as _

from accounts.models import Ticket

from .shapes import Attention, Item, count_and_first, list_link, page_link


def waiting_tickets() -> Attention:
    """Those that wait for the operator; what waits for a seller comes by itself."""
    waiting = Ticket.objects.filter(queue=Ticket.Queue.STAFF).select_related("customer")
    count, rows = count_and_first(waiting.order_by("waiting_since", "id"))
    return Attention(
        title=_("Tickets that wait for an answer"),
        icon="support_agent",
        link=list_link("accounts_ticket", "turn=staff"),
        count=count,
        items=[
            Item(
                f"{ticket.number} · {ticket.customer}",
                ticket.subject,
                page_link("accounts_ticket", ticket.pk),
                ticket.waiting_since,
            )
            for ticket in rows
        ],
    )
