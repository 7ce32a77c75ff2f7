"""The gates: one for each kind of object. Strangers get 404, so that they cannot learn what exists."""

from __future__ import annotations

from django.http import Http404, HttpRequest
from django.shortcuts import get_object_or_404

from accounts.models import Announcement, ApiToken, Notification, Ticket, TicketMessage, User
from accounts.selectors import announcements_for, notifications_of, tokens_of
from accounts.services.tickets import side_of


def signed_in(request: HttpRequest) -> User:
    """Who is signed in, for views behind `login_required` and in the admin."""
    assert isinstance(request.user, User)
    return request.user


def token_for(user: User, token_id: int) -> ApiToken:
    """The user's own token. Raises Http404."""
    return get_object_or_404(tokens_of(user), pk=token_id)


def notification_for(user: User, notification_id: int) -> Notification:
    """A message to the user. Raises Http404."""
    return get_object_or_404(notifications_of(user), pk=notification_id)


def announcement_for(user: User, announcement_id: int) -> Announcement:
    """An announcement to the user. Raises Http404."""
    return get_object_or_404(announcements_for(user), pk=announcement_id)


def ticket_for(user: User, number: str, *, as_staff: bool = False) -> tuple[Ticket, TicketMessage.Side]:
    """A ticket of the user's own, or one that reached them first, and on which side they are. Raises Http404.

    `as_staff` opens the others too; staff without it are strangers here, their pages are in the admin.
    """
    tickets = Ticket.objects.select_related("customer", "first_line")
    ticket = get_object_or_404(tickets, number=number.strip().upper())
    side = side_of(ticket, user)
    if side is None or (side == TicketMessage.Side.STAFF and not as_staff):
        raise Http404
    return ticket, side
