"""What tickets can be about. The rooms above teach it at the start; this one knows nothing of leases or orders.

A subject is kept as `kind:key`, such as `lease:12`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from accounts.models import User


@dataclass(frozen=True, slots=True)
class Subject:
    """A thing that a ticket is about, as one reader sees it. `url` is "" for a reader who has no page of it."""

    about: str
    label: str
    owner_id: int | None
    state: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a kind of subject is read.

    `choices` are the latest of a person's own, for a form. `find` reads the one of that key for a reader, None when
    there is none; it does not ask whose it is.
    """

    choices: Callable[[User], list[Subject]]
    find: Callable[[str, User], Subject | None]


FirstLine = Callable[[str], User | None]
_kinds: dict[str, Kind] = {}
_first_lines: dict[str, FirstLine] = {}


def teach(name: str, *, choices: Callable[[User], list[Subject]], find: Callable[[str, User], Subject | None]) -> None:
    """Let a room above say how a kind of subject is read."""
    _kinds[name] = Kind(choices, find)


def teach_first_line(name: str, find: FirstLine) -> None:
    """Let a room above say who gets tickets about a subject of that kind first; None is the operator."""
    _first_lines[name] = find


def choices(user: User) -> list[Subject]:
    """What the user may ask about, one kind after the other."""
    return [subject for kind in _kinds.values() for subject in kind.choices(user)]


def find(about: str, reader: User) -> Subject | None:
    """The subject for that reader; None for what no room knows, and for ""."""
    name, _colon, key = about.partition(":")
    kind = _kinds.get(name)
    # No database looks for a text with a zero byte in it.
    return kind.find(key, reader) if kind and key and "\0" not in key else None


def own(about: str, user: User) -> Subject | None:
    """The same, if it is the user's own."""
    subject = find(about, user)
    return subject if subject is not None and subject.owner_id == user.pk else None


def first_line_of(about: str, customer: User) -> User | None:
    """Who gets the customer's tickets about it first; None is the operator. Nobody is their own first line."""
    name, _colon, key = about.partition(":")
    asked = _first_lines.get(name)
    found = asked(key) if asked and key else None
    return found if found is not None and found.pk != customer.pk and may_be_first_line(found) else None


def may_be_first_line(user: User) -> bool:
    """Whether the user answers tickets as things are now: a reseller who is not suspended."""
    return user.is_active and user.role == User.Role.RESELLER
