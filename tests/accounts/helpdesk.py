"""What tests of tickets set up: something to ask about, who is asked first, and tickets."""

from __future__ import annotations

import pytest

from accounts import services, subjects
from accounts.models import Notification, Ticket, User
from accounts.subjects import Subject


def teach_boxes(monkeypatch: pytest.MonkeyPatch, first_line: User | None) -> None:
    """Everybody has a box, `box:<their id>`; the first line answers for all of them."""

    def box(key: str, reader: User) -> Subject | None:
        if not User.objects.filter(pk=int(key)).exists():
            return None
        return Subject(f"box:{key}", f"Box {key}", int(key), "shut", "/dashboard/" if int(key) == reader.pk else "")

    def boxes(user: User) -> list[Subject]:
        found = box(str(user.pk), user)
        return [found] if found else []

    monkeypatch.setitem(subjects._kinds, "box", subjects.Kind(boxes, box))
    monkeypatch.setitem(
        subjects._first_lines, "box", lambda _key: User.objects.get(pk=first_line.pk) if first_line else None
    )


def ask(user: User, text: str = "It does not work.", *, about_box: bool = False, subject: str = "Help") -> Ticket:
    """A ticket, about the user's box or about nothing."""
    about = f"box:{user.pk}" if about_box else ""
    return services.open_ticket(user=user, subject=subject, text=text, about=about, actor=user)


def write(ticket: Ticket, user: User, text: str) -> Ticket:
    """What the user writes into it; the ticket as it is then."""
    services.reply(ticket_id=ticket.pk, text=text, actor=user)
    return again(ticket)


def again(ticket: Ticket) -> Ticket:
    """As the database has it."""
    return Ticket.objects.get(pk=ticket.pk)


def mailed(kind: str) -> list[str]:
    """To whom mails of that kind are on their way, the oldest first."""
    return list(Notification.objects.filter(kind=kind).order_by("id").values_list("recipient", flat=True))


def last_mail(kind: str) -> Notification:
    """The latest of that kind."""
    return Notification.objects.filter(kind=kind).latest("id")
