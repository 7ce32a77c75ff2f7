"""`/api/ticket/…`: asking, answering, passing on, closing; for customers, the seller who is asked first, and staff."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from django.db.models import Q
from django.http import Http404, HttpRequest
from ninja import Field, Query, Router, Schema

from accounts import services
from accounts.access import ticket_for
from accounts.apikit import ErrorOut, Id, Ok, PageOut, PageQuery, TokenAuth, page, reader_of, sees_everybody
from accounts.models import Ticket, TicketMessage, User
from accounts.selectors import all_tickets, thread_of, tickets_of, tickets_reached_first
from accounts.services.tickets import LONGEST_SUBJECT, LONGEST_TEXT, side_of
from accounts.words import masked

ticket = Router(tags=["ticket"])

Side = TicketMessage.Side
REFUSED = frozenset({401, 403, 404, 409, 422, 429})
NOT_READ = frozenset({401, 403, 404, 422})


class Role(StrEnum):
    """As what one reads the list."""

    CUSTOMER = "customer"
    SELLER = "seller"
    STAFF = "staff"


class CreateIn(Schema):
    """A question. `about` is one of your own leases or orders, or nothing."""

    subject: str = Field(max_length=LONGEST_SUBJECT)
    text: str = Field(max_length=LONGEST_TEXT, description="Plain text; line breaks are kept.")
    about: str = Field("", max_length=80, examples=["lease:12", "order:310531ABCDEFGHJK"])
    client_key: str = Field("", max_length=72, description="The same key opens once and answers the first ticket.")


class ReplyIn(Schema):
    """Words for a ticket."""

    number: str = Field(max_length=24)
    text: str = Field(max_length=LONGEST_TEXT, description="Plain text; line breaks are kept.")
    client_key: str = Field("", max_length=72, description="The same key writes once.")


class NoteIn(Schema):
    """Words that only staff read."""

    number: str = Field(max_length=24)
    text: str = Field(max_length=LONGEST_TEXT, description="Plain text; line breaks are kept.")


class NumberIn(Schema):
    """Which ticket."""

    number: str = Field(max_length=24)


class TicketQuery(PageQuery):
    """Filters of the list. `user_id` is for staff."""

    role: Role | None = Field(
        None, description="`seller`: those that reached you first; staff with the permission: all, without it, yours."
    )
    state: Ticket.State | None = None
    about: str = Field("", max_length=80)
    q: str = Field("", max_length=120, description="The number from its beginning, or words of the subject.")
    user_id: Id | None = None


class TicketOut(Schema):
    """One ticket. To its first line the customer is known by a part of the address only."""

    number: str
    subject: str
    about: str
    state: Ticket.State
    role: Side
    customer: str
    has_seller: bool
    is_with_operator: bool
    waiting_since: datetime | None
    last_message_at: datetime
    closed_at: datetime | None
    created_at: datetime


class MessageOut(Schema):
    """One message. Whose it is says `side`, and `is_mine` whether it is yours; internal notes are staff's alone."""

    id: int
    side: Side
    is_mine: bool
    is_note: bool
    text: str
    created_at: datetime


class TicketPage(PageOut):
    """A part of the list."""

    items: list[TicketOut]


class TicketAnswer(Ok):
    """A ticket."""

    ticket: TicketOut


class ThreadAnswer(TicketAnswer):
    """A ticket with all that was written, the oldest first."""

    messages: list[MessageOut]


def shown(ticket: Ticket, reader: User) -> dict[str, Any]:
    """The ticket as the reader may know it."""
    side = side_of(ticket, reader)
    assert side is not None
    return {
        "number": ticket.number,
        "subject": ticket.subject,
        "about": ticket.about,
        "state": ticket.state,
        "role": side,
        "customer": masked(ticket.customer.email) if side == Side.SELLER else ticket.customer.username,
        "has_seller": ticket.first_line_id is not None,
        "is_with_operator": ticket.is_with_staff,
        "waiting_since": ticket.waiting_since,
        "last_message_at": ticket.last_message_at,
        "closed_at": ticket.closed_at,
        "created_at": ticket.created_at,
    }


@ticket.post("/create", response={200: TicketAnswer, REFUSED: ErrorOut}, auth=TokenAuth("account"))
def create(request: HttpRequest, data: CreateIn) -> dict[str, Any]:
    """Ask something. A ticket about a lease from a seller's stock reaches the seller first, others the operator."""
    reader = reader_of(request)
    opened = services.open_ticket(
        user=reader,
        subject=data.subject,
        text=data.text,
        about=data.about,
        client_key=f"api:{data.client_key}" if data.client_key else "",
        actor=reader,
    )
    return {"success": True, "ticket": shown(opened, reader)}


@ticket.get(
    "/list",
    response={200: TicketPage, NOT_READ: ErrorOut},
    auth=TokenAuth("account", everybody="accounts.view_ticket"),
)
def list_tickets(request: HttpRequest, query: Query[TicketQuery]) -> dict[str, Any]:
    """Your tickets, or those that reached you first; with a staff token, everybody's."""
    reader, is_for_all = reader_of(request), sees_everybody(request)
    role = query.role or (Role.STAFF if is_for_all else Role.CUSTOMER)
    if role == Role.SELLER:
        found = tickets_reached_first(reader)
    elif role == Role.STAFF and is_for_all:
        found = all_tickets()
    else:
        found = tickets_of(reader).select_related("customer")
    if query.user_id is not None:
        if not is_for_all and query.user_id != reader.pk:
            raise Http404
        found = found.filter(customer_id=query.user_id)
    if query.state is not None:
        found = found.filter(state=query.state)
    if query.about:
        found = found.filter(about=query.about)
    if query.q:
        found = found.filter(Q(number__startswith=query.q.strip().upper()) | Q(subject__icontains=query.q))
    return page(found, query.page, query.per_page, lambda one: shown(one, reader))


@ticket.get(
    "/show",
    response={200: ThreadAnswer, NOT_READ: ErrorOut},
    auth=TokenAuth("account", everybody="accounts.view_ticket"),
)
def show(request: HttpRequest, query: Query[NumberIn]) -> dict[str, Any]:
    """One ticket with all that was written."""
    reader = reader_of(request)
    found, side = ticket_for(reader, query.number, as_staff=sees_everybody(request))
    messages = [
        {
            "id": message.pk,
            "side": message.side,
            "is_mine": message.author_id == reader.pk,
            "is_note": message.is_note,
            "text": message.text,
            "created_at": message.created_at,
        }
        for message in thread_of(found, with_notes=side == Side.STAFF)
    ]
    return {"success": True, "ticket": shown(found, reader), "messages": messages}


@ticket.post(
    "/reply",
    response={200: TicketAnswer, REFUSED: ErrorOut},
    auth=TokenAuth("account", everybody="accounts.change_ticket"),
)
def reply(request: HttpRequest, data: ReplyIn) -> dict[str, Any]:
    """Write into a ticket. What its customer writes waits for an answer; what others write is one."""
    found = _named(request, data.number)
    client_key = f"api:{data.client_key}" if data.client_key else ""
    services.reply(ticket_id=found.pk, text=data.text, client_key=client_key, actor=reader_of(request))
    return _answer(request, found)


@ticket.post(
    "/note",
    response={200: TicketAnswer, REFUSED: ErrorOut},
    auth=TokenAuth("staff", permissions=("accounts.change_ticket",)),
)
def note(request: HttpRequest, data: NoteIn) -> dict[str, Any]:
    """Write something down for staff alone. Nobody is told, and nothing of the ticket changes."""
    found = ticket_for(reader_of(request), data.number, as_staff=True)[0]
    services.add_note(ticket_id=found.pk, text=data.text, actor=reader_of(request))
    return _answer(request, found)


@ticket.post(
    "/close",
    response={200: TicketAnswer, REFUSED: ErrorOut},
    auth=TokenAuth("account", everybody="accounts.change_ticket"),
)
def close(request: HttpRequest, data: NumberIn) -> dict[str, Any]:
    """Say that it is settled. Writing into it opens it again within 30 days."""
    found = _named(request, data.number)
    services.close_ticket(ticket_id=found.pk, actor=reader_of(request))
    return _answer(request, found)


@ticket.post(
    "/pass_on",
    response={200: TicketAnswer, REFUSED: ErrorOut},
    auth=TokenAuth("account", everybody="accounts.change_ticket"),
)
def pass_on(request: HttpRequest, data: NumberIn) -> dict[str, Any]:
    """Make it the operator's: as its customer, as its seller, or as staff who take it over."""
    found = _named(request, data.number)
    services.pass_on(ticket_id=found.pk, actor=reader_of(request))
    return _answer(request, found)


def _named(request: HttpRequest, number: str) -> Ticket:
    return ticket_for(reader_of(request), number, as_staff=sees_everybody(request))[0]


def _answer(request: HttpRequest, found: Ticket) -> dict[str, Any]:
    now = Ticket.objects.select_related("customer").get(pk=found.pk)
    return {"success": True, "ticket": shown(now, reader_of(request))}
