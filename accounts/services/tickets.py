"""Tickets: opening, answering, passing on, closing.

Each verb locks the ticket, what a customer does the customer's row before it: there they meet the limit of open
tickets, and whoever hands their tickets to somebody else (docs/locking.md).
"""

from __future__ import annotations

from datetime import timedelta
from zoneinfo import ZoneInfo

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from accounts import ratelimit, subjects
from accounts.models import Ticket, TicketMessage, User
from accounts.services import ticket_mails
from accounts.services.audit import record
from derp_portal.lib import clock
from derp_portal.lib.errors import PortalError, invalid_input
from derp_portal.lib.numbers import dated_number
from derp_portal.lib.texts import one_line, plain

log = structlog.get_logger(__name__)

State, Side = Ticket.State, TicketMessage.Side

MOST_OPEN = 20
MOST_OPENED_IN_AN_HOUR = 20
MOST_REPLIES_IN_AN_HOUR = 120
HOUR = 3600
REOPENED_WITHIN = timedelta(days=30)
LONGEST_SUBJECT = 120
LONGEST_TEXT = 10_000
BATCH = 500


def open_ticket(
    *, user: User, subject: str, text: str, about: str = "", client_key: str = "", actor: User | None
) -> Ticket:
    """Ask something. It reaches the first line of what it is about, or staff where there is none.

    The same `client_key` of one user opens once and gives back the first ticket. Raises PortalError `invalid_input`,
    `not_found` for an `about` that is not the user's own, `too_many_tickets`, `account_inactive`; RateLimited.
    """
    subject, text = _checked_subject(subject), _checked_text(text)
    ratelimit.hit(scope="ticket", key=str(user.pk), limit=MOST_OPENED_IN_AN_HOUR, window_seconds=HOUR)
    with transaction.atomic():
        customer = User.objects.select_for_update(no_key=True).get(pk=user.pk)
        own = subjects.own(about, customer)
        # As its room spells it: by this name the lease's tickets are found when it is reassigned.
        about = own.about if own else about
        if client_key and (known := Ticket.objects.filter(customer=customer, client_key=client_key).first()):
            first = known.messages.order_by("pk").first()
            if (known.subject, known.about, first and first.text) != (subject, about, text):
                raise _key_used()
            return known
        if not customer.is_active:
            raise PortalError(_("This account is switched off."), code="account_inactive", status=403)
        if about and own is None:
            raise _unknown(_("There is no such thing of yours to ask about."))
        _check_room(customer.pk)
        first_line, moment = subjects.first_line_of(about, customer), clock.now()
        ticket = Ticket.objects.create(
            number=dated_number(clock.local_day(clock.now(), ZoneInfo(settings.TIME_ZONE)), letters=8),
            customer=customer,
            subject=subject,
            about=about,
            first_line=first_line,
            first_line_since=moment if first_line else None,
            with_staff_since=None if first_line else moment,
            waiting_since=moment,
            client_key=client_key,
            last_message_at=moment,
            created_at=moment,
        )
        message = TicketMessage.objects.create(
            ticket=ticket, author=customer, side=Side.CUSTOMER, text=text, created_at=moment
        )
        record(actor=actor, event="ticket.opened", target=ticket, about=about, first_line=_name(first_line))
        ticket_mails.tell_opened(ticket, message)
    return ticket


def reply(*, ticket_id: int, text: str, client_key: str = "", actor: User) -> TicketMessage:
    """Write into the ticket: as its customer, as its first line, or as staff, whichever the actor is.

    A customer's words wait for an answer; others' are one, but for those of a seller in a ticket that waits for staff:
    whoever asked for the operator goes on waiting. Staff who answer take the ticket over. A closed ticket opens again
    within thirty days. The same `client_key` writes once. Raises PortalError `invalid_input`, `not_found` for
    strangers, `ticket_closed`, `too_many_tickets`, `key_used`; RateLimited.
    """
    text = _checked_text(text)
    ratelimit.hit(scope="ticket-reply", key=str(actor.pk), limit=MOST_REPLIES_IN_AN_HOUR, window_seconds=HOUR)
    with transaction.atomic():
        ticket, side = _locked_for(ticket_id, actor, with_customer=True)
        if client_key and (known := ticket.messages.filter(author=actor, client_key=client_key).first()):
            if known.text != text:
                raise _key_used()
            return known  # type: ignore[no-any-return]
        moment, was_closed = clock.now(), ticket.is_closed
        if ticket.closed_at is not None and ticket.closed_at <= moment - REOPENED_WITHIN:
            raise PortalError(
                _("This ticket was closed more than %(days)s days ago. Please open a new one and name its number.")
                % {"days": REOPENED_WITHIN.days},
                code="ticket_closed",
                status=409,
            )
        if was_closed:
            side = _reopen_with_whoever_is_asked_now(ticket, actor)
        message = TicketMessage.objects.create(
            ticket=ticket, author=actor, side=side, text=text, client_key=client_key, created_at=moment
        )
        ticket.last_message_at, ticket.closed_at = moment, None
        if side == Side.CUSTOMER:
            ticket.state, ticket.waiting_since = State.WAITING, ticket.waiting_since or moment
            _reach_somebody(ticket)
        elif side == Side.STAFF or not ticket.is_with_staff:
            ticket.state, ticket.waiting_since = State.ANSWERED, None
            if side == Side.STAFF and not ticket.is_with_staff:
                ticket.with_staff_since = moment
        elif was_closed:
            ticket.state = State.ANSWERED
        _save(ticket)
        if was_closed:
            record(actor=actor, event="ticket.reopened", target=ticket)
        record(actor=actor, event="ticket.replied", target=ticket, side=side.value)
        ticket_mails.tell_replied(ticket, message)
    return message


def add_note(*, ticket_id: int, text: str, actor: User) -> TicketMessage:
    """Staff: write something down for staff alone. Nobody is told, and nothing of the ticket changes."""
    text = _checked_text(text)
    with transaction.atomic():
        ticket, side = _locked_for(ticket_id, actor, as_staff=True)
        message = TicketMessage.objects.create(ticket=ticket, author=actor, side=side, text=text, is_note=True)
        record(actor=actor, event="ticket.noted", target=ticket)
    return message


def pass_on(*, ticket_id: int, actor: User) -> Ticket:
    """Make it the operator's: its customer asks for them, the first line gives it up, or staff take it over.

    The first line may still read and answer. Twice is fine. Raises PortalError `not_found`, `ticket_closed`.
    """
    with transaction.atomic():
        ticket, side = _locked_for(ticket_id, actor)
        if ticket.is_with_staff:
            return ticket
        if ticket.is_closed:
            raise PortalError(
                _("This ticket is closed. Write into it to open it again."), code="ticket_closed", status=409
            )
        _pass_on(ticket, actor=actor, side=side, why=side.value)
    return ticket


def close_ticket(*, ticket_id: int, actor: User) -> Ticket:
    """It is settled. Its customer and staff may say so, and the first line while nobody but them has it.

    Twice is fine. Raises PortalError `not_found`, `with_staff`.
    """
    with transaction.atomic():
        ticket, side = _locked_for(ticket_id, actor)
        if ticket.is_closed:
            return ticket
        if side == Side.SELLER and ticket.is_with_staff:
            raise PortalError(
                _("The operator has this ticket now; they or the customer close it."), code="with_staff", status=409
            )
        ticket.state, ticket.waiting_since, ticket.closed_at = State.CLOSED, None, clock.now()
        _save(ticket)
        record(actor=actor, event="ticket.closed", target=ticket, side=side.value)
        if side != Side.CUSTOMER:
            ticket_mails.tell_closed(ticket, side)
    return ticket


def pass_on_overdue(*, limit: int = BATCH) -> int:
    """The sweep: what waits for a first line that has let it wait too long, or is none any more, goes to staff.

    Several may run at once. Returns how many were passed on.
    """
    count = last = 0
    while batch := list(overdue().filter(pk__gt=last).order_by("pk").values_list("pk", flat=True)[:limit]):
        for ticket_id in batch:
            try:
                count += _pass_on_if_due(ticket_id)
            except Exception as error:
                # One ticket must not keep the others from being passed on.
                log.error("ticket_not_passed_on", ticket=ticket_id, exc_info=error)
        last = batch[-1]
    return count


def overdue() -> QuerySet[Ticket]:
    """Tickets that their first line has had for too long, or cannot answer any more."""
    waiting = Ticket.objects.filter(state=State.WAITING, with_staff_since=None)
    moment = clock.now() - timedelta(hours=settings.TICKET_FIRST_LINE_HOURS)
    # Whoever got it from another seller has as long as the one before.
    too_long = Q(waiting_since__lte=moment, first_line_since__lte=moment)
    return waiting.filter(too_long | ~Q(first_line__role=User.Role.RESELLER) | Q(first_line__is_active=False))


def follow_subject(*, about: str, actor: User | None) -> int:
    """Somebody else is asked about the subject now: its tickets go to them, or to staff. Closed ones go in silence.

    Whoever had them sees them no more. The caller holds the customer's row. Returns how many went.
    """
    count = 0
    with transaction.atomic():
        found = Ticket.objects.filter(about=about).exclude(about="")
        for ticket_id in list(found.order_by("pk").values_list("pk", flat=True)):
            ticket = _locked(ticket_id)
            before, was_with_staff = ticket.first_line, ticket.is_with_staff
            if not _follow(ticket):
                continue
            _save(ticket)
            after = _name(ticket.first_line)
            record(actor=actor, event="ticket.handed_over", target=ticket, before=_name(before), after=after)
            if not ticket.is_closed:
                ticket_mails.tell_handed_over(ticket, is_new_to_staff=ticket.is_with_staff and not was_with_staff)
            count += 1
    return count


# --- who may -----------------------------------------------------------------------------------------


def side_of(ticket: Ticket, user: User) -> TicketMessage.Side | None:
    """As what the user may write into the ticket; None for a stranger."""
    if ticket.customer_id == user.pk:
        return Side.CUSTOMER
    if ticket.first_line_id == user.pk and subjects.may_be_first_line(user):
        return Side.SELLER
    return Side.STAFF if user.is_staff and user.is_active else None


def may_close(ticket: Ticket, side: TicketMessage.Side) -> bool:
    """Whether that side may close it as things are."""
    return not ticket.is_closed and (side != Side.SELLER or not ticket.is_with_staff)


def may_pass_on(ticket: Ticket) -> bool:
    """Whether there is anything to pass on."""
    return not ticket.is_closed and not ticket.is_with_staff


def may_reply(ticket: Ticket) -> bool:
    """Whether one may still write into it."""
    return ticket.closed_at is None or ticket.closed_at > clock.now() - REOPENED_WITHIN


def _locked(ticket_id: int) -> Ticket:
    tickets = Ticket.objects.select_for_update(of=("self",), no_key=True)
    return tickets.select_related("customer", "first_line").get(pk=ticket_id)


def _locked_for(
    ticket_id: int, actor: User, *, as_staff: bool = False, with_customer: bool = False
) -> tuple[Ticket, TicketMessage.Side]:
    """The ticket, locked, and the side the actor is on: asked anew, since somebody may have been suspended meanwhile.

    Raises PortalError `not_found`.
    """
    whose = Ticket.objects.filter(pk=ticket_id).values_list("customer_id", flat=True).first()
    if whose is not None and (with_customer or whose == actor.pk):
        User.objects.select_for_update(no_key=True).get(pk=whose)
    if whose is not None:
        ticket = _locked(ticket_id)
        side = side_of(ticket, User.objects.get(pk=actor.pk))
        if side is not None and (not as_staff or side == Side.STAFF):
            return ticket, side
    raise _unknown(_("There is no such ticket."))


# --- parts -------------------------------------------------------------------------------------------


def _reopen_with_whoever_is_asked_now(ticket: Ticket, actor: User) -> TicketMessage.Side:
    """While it was closed, somebody else may have come to be asked about it: the actor's side may be another now."""
    _follow(ticket)
    side = side_of(ticket, User.objects.get(pk=actor.pk))
    if side is None:
        raise _unknown(_("There is no such ticket."))
    if side == Side.CUSTOMER:
        _check_room(ticket.customer_id)
    return side


def _follow(ticket: Ticket) -> bool:
    """Give it to whoever is asked about its subject now; whether that is somebody else than before."""
    first_line = subjects.first_line_of(ticket.about, ticket.customer)
    if ticket.first_line == first_line:
        return False
    ticket.first_line, ticket.first_line_since = first_line, clock.now() if first_line else None
    if first_line is None and not ticket.is_with_staff:
        ticket.with_staff_since = clock.now()
    return True


def _reach_somebody(ticket: Ticket) -> None:
    """See to it that whoever the ticket waits for is still there to answer."""
    first_line = ticket.first_line
    if not ticket.is_with_staff and (first_line is None or not subjects.may_be_first_line(first_line)):
        ticket.with_staff_since = clock.now()


def _pass_on_if_due(ticket_id: int) -> bool:
    with transaction.atomic():
        ticket = _locked(ticket_id)
        if not overdue().filter(pk=ticket_id).exists():
            return False  # Somebody answered meanwhile.
        is_there = ticket.first_line is not None and subjects.may_be_first_line(ticket.first_line)
        _pass_on(ticket, actor=None, side=None, why="no_answer" if is_there else "seller_gone")
    return True


def _pass_on(ticket: Ticket, *, actor: User | None, side: TicketMessage.Side | None, why: str) -> None:
    ticket.with_staff_since = clock.now()
    if side != Side.STAFF:
        # Whoever asks for the operator waits for them, also after an answer that did not help.
        ticket.state, ticket.waiting_since = State.WAITING, ticket.waiting_since or clock.now()
    _save(ticket)
    record(actor=actor, event="ticket.passed_on", target=ticket, why=why)
    ticket_mails.tell_passed_on(ticket, by=side, why=why)


def _save(ticket: Ticket) -> None:
    ticket.save(
        update_fields=[
            "state",
            "first_line",
            "first_line_since",
            "with_staff_since",
            "waiting_since",
            "last_message_at",
            "closed_at",
        ]
    )


def _check_room(customer_id: int) -> None:
    if Ticket.objects.filter(customer=customer_id).exclude(state=State.CLOSED).count() >= MOST_OPEN:
        raise PortalError(
            _("You have %(most)s tickets that are not closed. Close one that is settled, or go on in one of them.")
            % {"most": MOST_OPEN},
            code="too_many_tickets",
            status=409,
        )


def _key_used() -> PortalError:
    return PortalError(
        _("This was sent before, in other words. Look at the ticket, and send what is missing there."),
        code="key_used",
        status=409,
    )


def _checked_subject(subject: str) -> str:
    line = one_line(subject)
    if not line:
        raise invalid_input([("subject", _("Please say in a few words what it is about."))])
    if len(line) > LONGEST_SUBJECT:
        raise invalid_input([("subject", _("At most %(most)s characters, please.") % {"most": LONGEST_SUBJECT})])
    return line


def _checked_text(text: str) -> str:
    kept = plain(text)
    if not kept:
        raise invalid_input([("text", _("Please write something: the message is empty."))])
    if len(kept) > LONGEST_TEXT:
        raise invalid_input([("text", _("At most %(most)s characters, please.") % {"most": LONGEST_TEXT})])
    return kept


def _unknown(message: str) -> PortalError:
    return PortalError(message, code="not_found", status=404)


def _name(user: User | None) -> str:
    return user.get_username() if user else ""
