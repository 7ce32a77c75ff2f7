"""Mails about tickets. What is an internal note never gets here."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth.backends import ModelBackend
from django.urls import reverse
from django.utils import translation

from accounts.models import Ticket, TicketMessage, User
from accounts.services.outbox import notify
from derp_portal.lib import clock

Side = TicketMessage.Side

QUOTED = 1500
"""Characters of a message that a mail repeats; the page has all of it."""


def tell_opened(ticket: Ticket, message: TicketMessage) -> None:
    """To the first line, or to staff where there is none."""
    _tell_answerers(ticket, "ticket_opened", f"{ticket.pk}", {"quote": quoted(message)})


def tell_replied(ticket: Ticket, message: TicketMessage) -> None:
    """What the customer wrote to whoever answers, an answer to the customer."""
    assert not message.is_note
    context = {"quote": quoted(message), "is_seller": message.side == Side.SELLER}
    if message.side == Side.CUSTOMER:
        _tell_answerers(ticket, "ticket_message", f"{message.pk}", context)
    else:
        _tell_customer(ticket, "ticket_answered", f"{message.pk}", context)


def tell_passed_on(ticket: Ticket, *, by: TicketMessage.Side | None, why: str) -> None:
    """To staff, unless they took it; and to the customer, unless they asked for it."""
    key = f"{ticket.pk}:{ticket.with_staff_since}"
    if by != Side.STAFF:
        _tell_staff(ticket, "ticket_passed_on", key, {"why": why})
    if by != Side.CUSTOMER:
        _tell_customer(ticket, "ticket_with_staff", key, {"why": why})


def tell_handed_over(ticket: Ticket, *, is_new_to_staff: bool) -> None:
    """The lease has another seller, or none: to whoever answers now, and to the customer once it is staff."""
    if is_new_to_staff:
        tell_passed_on(ticket, by=None, why="reassigned")
    elif ticket.state == Ticket.State.WAITING and ticket.first_line is not None and not ticket.is_with_staff:
        key = f"{ticket.pk}:{clock.now()}"
        first = ticket.messages.filter(is_note=False).first()
        assert first is not None
        _tell(ticket.first_line, ticket, "ticket_opened", key, {"quote": quoted(first), "is_first_line": True})


def tell_closed(ticket: Ticket, side: TicketMessage.Side) -> None:
    """To the customer, when somebody else closed it."""
    key = f"{ticket.pk}:{ticket.closed_at}"
    _tell_customer(ticket, "ticket_closed", key, {"is_seller": side == Side.SELLER})


def quoted(message: TicketMessage) -> str:
    """The message with a mark before each line: no line of it can pass for a part of the mail, and none is empty."""
    text = message.text if len(message.text) <= QUOTED else message.text[:QUOTED].rstrip() + " …"
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def staff() -> list[User | str]:
    """Who is told for the operator: the addresses of SUPPORT_EMAIL or, without any, every administrator who may look
    at tickets. An address that is an administrator's is them, so that they read their own language.
    """
    may_look = ModelBackend().with_perm("accounts.view_ticket").filter(role=User.Role.ADMIN)
    if not settings.SUPPORT_EMAIL:
        return list(may_look)
    known = {user.email.lower(): user for user in may_look}
    return [known.get(address.lower(), address) for address in settings.SUPPORT_EMAIL]


def _tell_answerers(ticket: Ticket, kind: str, key: str, context: dict[str, Any]) -> None:
    if ticket.is_with_staff or ticket.first_line is None:
        _tell_staff(ticket, kind, key, context)
    else:
        _tell(ticket.first_line, ticket, kind, key, {**context, "is_first_line": True})


def _tell_customer(ticket: Ticket, kind: str, key: str, context: dict[str, Any]) -> None:
    _tell(ticket.customer, ticket, kind, key, context)


def _tell_staff(ticket: Ticket, kind: str, key: str, context: dict[str, Any]) -> None:
    button = reverse("admin:accounts_ticket_change", args=[ticket.pk])
    for person in staff():
        if isinstance(person, User):
            _tell(person, ticket, kind, key, context, button=button)
            continue
        # Nobody's language is known: the operator's, not that of the customer whose request this is.
        with translation.override(settings.LANGUAGE_CODE):
            notify(
                kind=kind,
                dedup_key=f"{kind}:{key}:{person}"[:200],
                email=person,
                context={"ticket": ticket, **context},
                button_url=button,
            )


def _tell(user: User, ticket: Ticket, kind: str, key: str, context: dict[str, Any], *, button: str = "") -> None:
    notify(
        kind=kind,
        dedup_key=f"{kind}:{key}:{user.pk}",
        user=user,
        context={"ticket": ticket, **context},
        button_url=button or reverse("ticket", args=[ticket.number]),
    )
