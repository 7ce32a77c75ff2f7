"""Announcements: publishing, changing, withdrawing, and the mails that go with them.

Each verb locks the announcement. Mails are written in parts by a sweep, each part in one transaction with the mark of
how far it came: killed anywhere, it goes on there, and nobody gets two.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import overload

import structlog
from allauth.account.models import EmailAddress
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils import translation
from django.utils.translation import gettext as _

from accounts import mails
from accounts.models import Announcement, ClosedAnnouncement, Notification, User
from accounts.services.audit import record
from accounts.services.outbox import language_of, queue_mail, withdraw_mails
from derp_portal.lib import clock
from derp_portal.lib.errors import PortalError, invalid_input
from derp_portal.lib.texts import one_line, plain

log = structlog.get_logger(__name__)

LONGEST_AGO = timedelta(days=366)
"""So long before now one may be said to have begun."""
LONGEST = {"title": 120, "title_zh": 120, "text": 2000, "text_zh": 2000}
"""Characters."""
PART = 100
"""Accounts that are written to in one transaction."""
MOST_WAITING = 200
"""Mails of announcements in the outbox: what it sends in a minute. More would stand before mail that somebody waits
for, and could not be kept back when the announcement is withdrawn.
"""


def publish_announcement(
    *,
    title: str,
    text: str,
    title_zh: str = "",
    text_zh: str = "",
    tone: str = Announcement.Tone.INFO,
    audience: str = Announcement.Audience.ACCOUNTS,
    starts_at: datetime | None = None,
    ends_at: datetime | None = None,
    by_mail: bool = False,
    client_key: str = "",
    actor: User,
) -> Announcement:
    """Show something above the pages of its audience, from now on or later; `by_mail` also writes it to each of them.

    The same `client_key` of one actor publishes once and gives back the first. Raises PortalError `invalid_input`
    with `fields`, `key_used` for a key that has published something else.
    """
    words = _plain_words(title=title, text=text, title_zh=title_zh, text_zh=text_zh)
    with transaction.atomic():
        author = User.objects.select_for_update(no_key=True).get(pk=actor.pk)
        if client_key and (known := Announcement.objects.filter(author=author, client_key=client_key).first()):
            if known.audience != audience or any(getattr(known, name) != said for name, said in words.items()):
                raise PortalError(
                    _("This key has published something else before. Nothing was published."),
                    code="key_used",
                    status=409,
                )
            return known
        starts_at, ends_at = _whole(starts_at or clock.now()), _whole(ends_at)
        check(words, starts_at, ends_at)
        announcement = Announcement.objects.create(
            **words,
            tone=tone,
            audience=audience,
            starts_at=starts_at,
            ends_at=ends_at,
            mail_asked_at=clock.now() if by_mail else None,
            client_key=client_key,
            author=author,
        )
        record(
            actor=actor, event="announcement.published", target=announcement, audience=str(audience), by_mail=by_mail
        )
    return announcement


def change_announcement(
    *,
    announcement_id: int,
    title: str,
    text: str,
    title_zh: str = "",
    text_zh: str = "",
    tone: str,
    starts_at: datetime,
    ends_at: datetime | None,
    actor: User,
) -> Announcement:
    """Say it in other words or at another time. Mails that were written stay as they are. Whoever closed it sees it
    again only when the words are others; the audit trail keeps what it said before. One that is over may be corrected.
    Raises PortalError `invalid_input`, `withdrawn`.
    """
    words = _plain_words(title=title, text=text, title_zh=title_zh, text_zh=text_zh)
    starts_at, ends_at = _whole(starts_at), _whole(ends_at)
    with transaction.atomic():
        announcement = _locked(announcement_id)
        if announcement.withdrawn_at is not None:
            raise _withdrawn()
        check(words, starts_at, ends_at, before=announcement)
        said = {**words, "tone": tone, "starts_at": starts_at, "ends_at": ends_at}
        before = {name: getattr(announcement, name) for name in said}
        changed = {name: value for name, value in said.items() if value != before[name]}
        if not changed:
            return announcement
        if changed.keys() & words.keys():
            announcement.wording += 1
            ClosedAnnouncement.objects.filter(announcement=announcement).delete()
        for name, value in changed.items():
            setattr(announcement, name, value)
        announcement.save(update_fields=[*changed, "wording"])
        was = {name: before[name] for name in changed}
        record(actor=actor, event="announcement.changed", target=announcement, was=was)
    return announcement


def withdraw_announcement(*, announcement_id: int, actor: User) -> Announcement:
    """Show it no more, and send no more mails of it: what waits in the outbox is dropped. Twice is fine."""
    with transaction.atomic():
        announcement = _locked(announcement_id)
        if announcement.withdrawn_at is not None:
            return announcement
        announcement.withdrawn_at = clock.now()
        announcement.save(update_fields=["withdrawn_at"])
        dropped = withdraw_mails(prefix=_mail_key(announcement, ""))
        record(actor=actor, event="announcement.withdrawn", target=announcement, mails_dropped=dropped)
    return announcement


def mail_announcement(*, announcement_id: int, actor: User) -> Announcement:
    """Write it to each of its audience too, once it is shown. Twice is fine. Raises PortalError `withdrawn`, `over`."""
    with transaction.atomic():
        announcement = _locked(announcement_id)
        if announcement.mail_asked_at is not None:
            return announcement
        if announcement.state == Announcement.State.WITHDRAWN:
            raise _withdrawn()
        if announcement.state == Announcement.State.OVER:
            raise PortalError(_("This announcement is over; nobody needs it by mail."), code="over", status=409)
        announcement.mail_asked_at = clock.now()
        announcement.save(update_fields=["mail_asked_at"])
        record(actor=actor, event="announcement.mailed", target=announcement)
    return announcement


def close_announcement(*, announcement_id: int, wording: int, user: User) -> bool:
    """The reader has read it, in that wording: it is above their pages no more. Twice is fine; False for words that it
    does not say any more, since nobody has read the new ones by that.
    """
    with transaction.atomic():
        announcement = _locked(announcement_id)
        if announcement.wording != wording:
            return False
        ClosedAnnouncement.objects.get_or_create(announcement=announcement, user=user)
    return True


def check(
    words: Mapping[str, str], starts_at: datetime, ends_at: datetime | None, *, before: Announcement | None = None
) -> None:
    """Raise PortalError `invalid_input` with `fields` for words or moments that cannot be. `before` is what changes."""
    said = {name: plain(text) for name, text in words.items()}
    errors = [
        (name, _("At most %(most)s characters, please.") % {"most": longest})
        for name, longest in LONGEST.items()
        if len(said[name]) > longest
    ]
    errors += [(name, _("Please write something.")) for name in ("title", "text") if not said[name]]
    for name, other in (("title_zh", "text_zh"), ("text_zh", "title_zh")):
        if said[other] and not said[name]:
            errors.append((name, _("Title and text go together: write both in Chinese, or neither.")))
    if not (before and before.starts_at == starts_at) and not clock.now() - LONGEST_AGO < starts_at < clock.FURTHEST:
        errors.append(("starts_at", _("This moment is too far away.")))
    if ends_at is not None and ends_at <= starts_at:
        errors.append(("ends_at", _("It must end after it begins.")))
    elif ends_at is not None and ends_at > clock.FURTHEST:
        errors.append(("ends_at", _("This moment is too far away.")))
    elif ends_at is not None and ends_at <= clock.now() and not (before and before.ends_at == ends_at):
        errors.append(("ends_at", _("This moment has passed.")))
    if errors:
        raise invalid_input(errors)


def readers_by_mail(announcement: Announcement) -> QuerySet[User]:
    """Whom its mail goes to, by id: open accounts of its audience whose address is confirmed."""
    confirmed = EmailAddress.objects.filter(user=OuterRef("pk"), email__iexact=OuterRef("email"), verified=True)
    readers = User.objects.filter(Exists(confirmed), is_active=True).order_by("pk")
    if announcement.audience == Announcement.Audience.RESELLERS:
        readers = readers.filter(role=User.Role.RESELLER)
    return readers


def write_announcements() -> int:
    """The sweep: put mails of announcements that are shown now into the outbox, as fast as it sends them; how many were
    written.
    """
    current = Announcement.in_state(Announcement.State.CURRENT)
    due = Announcement.objects.filter(current, mail_asked_at__isnull=False, mailed_at=None)
    written = 0
    for announcement_id in due.order_by("mail_asked_at").values_list("pk", flat=True):
        try:
            while _waiting() < MOST_WAITING and (part := _write_part(announcement_id)) is not None:
                written += part
        except Exception as error:
            # One announcement must not keep the others from being written.
            log.error("announcement_not_written", announcement=announcement_id, exc_info=error)
    return written


def _waiting() -> int:
    """How many stand in the outbox to be sent now. Those that a mail server has put off stand in nobody's way."""
    status = Notification.Status
    now_due = Q(status=status.QUEUED, next_attempt_at__lte=clock.now()) | Q(status=status.SENDING)
    unsent = Notification.objects.filter(kind="announcement", status__in=[status.QUEUED, status.SENDING])
    return unsent.filter(now_due).count()


def _write_part(announcement_id: int) -> int | None:
    """The next part of its mails; None when none is left to write."""
    with transaction.atomic():
        announcement = _locked(announcement_id)
        if announcement.state != Announcement.State.CURRENT or announcement.mailed_at is not None:
            return None
        readers = list(readers_by_mail(announcement).filter(pk__gt=announcement.mailed_up_to)[:PART])
        if not readers:
            announcement.mailed_at = clock.now()
            announcement.save(update_fields=["mailed_at"])
            return None
        composed = {language: _composed(announcement, language) for language in set(map(language_of, readers))}
        written = sum(_write(announcement, reader, composed[language_of(reader)]) for reader in readers)
        Announcement.objects.filter(pk=announcement_id).update(
            mailed_up_to=readers[-1].pk, mailed_count=F("mailed_count") + written
        )
    return written


def _composed(announcement: Announcement, language: str) -> mails.Mail:
    with translation.override(language):
        return mails.compose(mails.Draft(announcement.local_title, mails.paragraphs(announcement.local_text)))


def _write(announcement: Announcement, reader: User, mail: mails.Mail) -> bool:
    key, language = _mail_key(announcement, reader.pk), language_of(reader)
    written = queue_mail(mail=mail, kind="announcement", dedup_key=key, user=reader, language=language, is_urgent=False)
    return written is not None


def _mail_key(announcement: Announcement, reader: int | str) -> str:
    return f"announcement:{announcement.pk}:{reader}"


def _locked(announcement_id: int) -> Announcement:
    found = Announcement.objects.select_for_update(no_key=True).filter(pk=announcement_id).first()
    if found is None:
        raise PortalError(_("There is no such announcement."), code="not_found", status=404)
    return found


def _plain_words(*, title: str, text: str, title_zh: str, text_zh: str) -> dict[str, str]:
    """The words as they are kept. A title is one line: it is the subject of a mail."""
    return {
        "title": one_line(title),
        "title_zh": one_line(title_zh),
        "text": plain(text),
        "text_zh": plain(text_zh),
    }


@overload
def _whole(moment: datetime) -> datetime: ...
@overload
def _whole(moment: datetime | None) -> datetime | None: ...
def _whole(moment: datetime | None) -> datetime | None:
    """Without fractions of a second, which the form of a page does not keep: they would look like a change."""
    return moment and moment.replace(microsecond=0)


def _withdrawn() -> PortalError:
    return PortalError(_("This announcement was withdrawn. Write a new one."), code="withdrawn", status=409)
