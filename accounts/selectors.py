"""Reading: what pages and the API show."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from allauth.account.internal.userkit import filter_users_by_email
from django.contrib.auth.models import AnonymousUser
from django.db.models import Case, F, Max, Q, QuerySet, When
from django.utils.translation import gettext as _

from accounts.models import (
    Announcement,
    ApiToken,
    Browser,
    ClosedAnnouncement,
    Notification,
    Ticket,
    TicketMessage,
    User,
)
from accounts.services.tickets import may_close, may_pass_on, may_reply
from accounts.subjects import Subject, find, may_be_first_line
from derp_portal.lib import clock
from derp_portal.lib.errors import PortalError

MOST_ABOVE_A_PAGE = 3
"""The page is for what one came for; the others are on the page of announcements."""


def user_by_address(email: str) -> User | None:
    """Whose address this is, if it is anybody's."""
    return next(iter(filter_users_by_email(email, prefer_verified=True)), None)


def user_by_id(user_id: int) -> User:
    """The user whom staff named by id. Raises PortalError `not_found`."""
    user = User.objects.filter(pk=user_id).first()
    if user is None:
        raise PortalError(_("There is no such user."), code="not_found", status=404)
    return user


def share_a_browser(a: User, b: User, since: datetime) -> bool:
    """Whether both have signed up or logged in by one and the same browser since then. One query."""
    seen = Browser.objects.filter(last_seen_at__gte=since).order_by()
    return seen.filter(user=a, digest__in=seen.filter(user=b).values("digest")).exists()


def tokens_of(user: User) -> QuerySet[ApiToken]:
    """A person's tokens, newest first, the ended ones too."""
    return ApiToken.objects.filter(user=user)


def notifications_of(user: User) -> QuerySet[Notification]:
    """What the portal wrote to a person, newest first, but for mail that opens the account."""
    return Notification.objects.filter(user=user, is_secret=False)


def notifications_for(user: User, *, everybody: bool) -> QuerySet[Notification]:
    """What `user` may list: their own messages or, for staff who asked for them, everybody's."""
    return Notification.objects.filter(is_secret=False) if everybody and user.is_staff else notifications_of(user)


# --- announcements ------------------------------------------------------------------------------------


def announcements_for(reader: User | AnonymousUser) -> QuerySet[Announcement]:
    """What the reader has been told so far, the latest first: also what is over, not what was withdrawn."""
    told = {Announcement.Audience.EVERYBODY}
    if isinstance(reader, User):
        told.add(Announcement.Audience.ACCOUNTS)
        if reader.role == User.Role.RESELLER:
            told.add(Announcement.Audience.RESELLERS)
    return Announcement.objects.filter(audience__in=told, withdrawn_at=None, starts_at__lte=clock.now())


def with_words(words: str) -> Q:
    """Of announcements: that they contain the words, in whichever language they were written."""
    in_title = Q(title__icontains=words) | Q(title_zh__icontains=words)
    return in_title | Q(text__icontains=words) | Q(text_zh__icontains=words)


def shown_above_pages(reader: User | AnonymousUser) -> list[Announcement]:
    """What stands above each page of the reader's: it lasts, and they have not closed it. Warnings first, then the
    latest. One query.
    """
    lasting = announcements_for(reader).filter(Announcement.in_state(Announcement.State.CURRENT))
    if isinstance(reader, User):
        lasting = lasting.exclude(pk__in=ClosedAnnouncement.objects.filter(user=reader).values("announcement"))
    is_news = Case(When(tone=Announcement.Tone.WARNING, then=0), default=1)
    return list(lasting.order_by(is_news, "-starts_at", "-id")[:MOST_ABOVE_A_PAGE])


# --- tickets ------------------------------------------------------------------------------------------


def tickets_of(user: User) -> QuerySet[Ticket]:
    """What a person has asked, the latest first."""
    return Ticket.objects.filter(customer=user)


def tickets_reached_first(user: User) -> QuerySet[Ticket]:
    """What has reached the user before the operator: what waits comes first, the longest wait on top.

    Nothing for one who is no active reseller any more.
    """
    if not may_be_first_line(user):
        return Ticket.objects.none()
    found = Ticket.objects.filter(first_line=user).select_related("customer")
    return found.order_by(F("waiting_since").asc(nulls_last=True), "-last_message_at", "-id")


def tickets_waiting_for(user: User) -> int:
    """How many tickets wait for the user's answer as the first line."""
    return tickets_reached_first(user).filter(queue=Ticket.Queue.FIRST_LINE).order_by().count()


def all_tickets() -> QuerySet[Ticket]:
    """Everybody's, in the order in which staff look: what waits for them, what waits for a seller, the rest."""
    return Ticket.objects.select_related("customer", "first_line").order_by(
        "queue", "waiting_since", "-last_message_at", "-id"
    )


@dataclass(frozen=True, slots=True)
class ThreadLine:
    """One message, and whose it is to the reader: `mine`, or its side."""

    message: TicketMessage
    is_mine: bool


@dataclass(frozen=True, slots=True)
class TicketCard:
    """A ticket with all that its page says to one of the people it concerns."""

    ticket: Ticket
    side: TicketMessage.Side
    lines: list[ThreadLine]
    subject: Subject | None

    @property
    def version(self) -> str:
        """Another one as soon as the page would show something else."""
        return _version(self.ticket, self.lines[-1].message.pk if self.lines else 0)

    @property
    def is_customers(self) -> bool:
        return self.side == TicketMessage.Side.CUSTOMER

    @property
    def has_seller(self) -> bool:
        """Whether a seller is there to answer, besides the operator or before them."""
        first_line = self.ticket.first_line
        return first_line is not None and may_be_first_line(first_line)

    @property
    def can_reply(self) -> bool:
        return may_reply(self.ticket)

    @property
    def can_close(self) -> bool:
        return may_close(self.ticket, self.side)

    @property
    def can_pass_on(self) -> bool:
        return may_pass_on(self.ticket)


def thread_of(ticket: Ticket, *, with_notes: bool = False) -> QuerySet[TicketMessage]:
    """What was written, the oldest first; internal notes only where they are asked for."""
    found = TicketMessage.objects.filter(ticket=ticket).select_related("author").order_by("id")
    return found if with_notes else found.filter(is_note=False)


def thread_version(ticket: Ticket) -> str:
    """The `version` of the ticket's card, without reading what was written."""
    return _version(ticket, thread_of(ticket).order_by().aggregate(last=Max("pk"))["last"] or 0)


def _version(ticket: Ticket, last: int) -> str:
    return f"{last}-{ticket.state}-{int(ticket.is_with_staff)}"


def ticket_card(ticket: Ticket, reader: User, side: TicketMessage.Side) -> TicketCard:
    """The ticket for its customer or its first line: never with notes."""
    lines = [ThreadLine(message, message.author_id == reader.pk) for message in thread_of(ticket)]
    return TicketCard(ticket, side, lines, find(ticket.about, reader))
