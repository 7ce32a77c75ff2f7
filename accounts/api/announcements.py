"""`/api/announcement/…`: what people are told, for them and for programs of the operator's."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest
from ninja import Field, Query, Router, Schema

from accounts import services
from accounts.apikit import ErrorOut, Id, Moment, Ok, PageOut, PageQuery, TokenAuth, page, reader_of, require
from accounts.models import Announcement
from accounts.selectors import announcements_for, with_words
from accounts.services.announcements import LONGEST

announcement = Router(tags=["announcement"])

REFUSED = frozenset({401, 403, 404, 409, 422})
NOT_READ = frozenset({401, 403, 422})
MANAGER = TokenAuth("staff", permissions=("accounts.change_announcement",))


class PublishIn(Schema):
    """What to announce. Without Chinese, everybody reads the first."""

    title: str = Field(max_length=LONGEST["title"])
    text: str = Field(max_length=LONGEST["text"], description="Plain text; line breaks are kept.")
    title_zh: str = Field("", max_length=LONGEST["title_zh"])
    text_zh: str = Field("", max_length=LONGEST["text_zh"])
    tone: Announcement.Tone = Announcement.Tone.INFO
    audience: Announcement.Audience = Announcement.Audience.ACCOUNTS
    starts_at: Moment | None = Field(None, description="Now, when it is not said.")
    ends_at: Moment | None = Field(None, description="Until it is withdrawn, when it is not said.")
    by_mail: bool = Field(False, description="Write it to each of the audience too.")
    client_key: str = Field("", max_length=72, description="The same key publishes once and answers the first.")


class AnnouncementIn(Schema):
    """Which one."""

    announcement_id: Id


class AnnouncementQuery(PageQuery):
    """Filters of the list."""

    state: Announcement.State | None = None
    q: str = Field("", max_length=120, description="Words of the title or the text.")


class AnnouncementOut(Schema):
    """One announcement; `title` and `text` in the reader's language. How many mails are written is for staff."""

    id: int
    title: str
    text: str
    tone: Announcement.Tone
    audience: Announcement.Audience
    state: Announcement.State
    starts_at: datetime
    ends_at: datetime | None
    mails: int | None


class AnnouncementPage(PageOut):
    """A part of the list."""

    items: list[AnnouncementOut]


class AnnouncementAnswer(Ok):
    """An announcement."""

    announcement: AnnouncementOut


def shown(found: Announcement, *, for_staff: bool) -> dict[str, Any]:
    """The announcement as the reader may know it."""
    return {
        "id": found.pk,
        "title": found.local_title,
        "text": found.local_text,
        "tone": found.tone,
        "audience": found.audience,
        "state": found.state,
        "starts_at": found.starts_at,
        "ends_at": found.ends_at,
        "mails": found.mailed_count if for_staff else None,
    }


@announcement.get("/list", response={200: AnnouncementPage, NOT_READ: ErrorOut}, auth=TokenAuth("account"))
def list_announcements(request: HttpRequest, query: Query[AnnouncementQuery]) -> dict[str, Any]:
    """What you have been told, the latest first; not what was withdrawn."""
    return _listed(announcements_for(reader_of(request)), query, for_staff=False)


@announcement.get(
    "/all",
    response={200: AnnouncementPage, NOT_READ: ErrorOut},
    auth=TokenAuth("staff", permissions=("accounts.view_announcement",)),
)
def list_all(request: HttpRequest, query: Query[AnnouncementQuery]) -> dict[str, Any]:
    """Everything, also what has not begun and what was withdrawn, and how many mails of it are written."""
    return _listed(Announcement.objects.all(), query, for_staff=True)


@announcement.post(
    "/publish",
    response={200: AnnouncementAnswer, REFUSED: ErrorOut},
    auth=TokenAuth("staff", permissions=("accounts.add_announcement",)),
)
def publish(request: HttpRequest, data: PublishIn) -> dict[str, Any]:
    """Show something above the pages of its audience, now or later, and write it to them if you say so."""
    reader = reader_of(request)
    if data.by_mail:
        require(reader, *MANAGER.permissions)
    said = data.dict()
    if data.client_key:
        said["client_key"] = f"api:{data.client_key}"
    published = services.publish_announcement(**said, actor=reader)
    return {"success": True, "announcement": shown(published, for_staff=True)}


@announcement.post("/mail", response={200: AnnouncementAnswer, REFUSED: ErrorOut}, auth=MANAGER)
def mail(request: HttpRequest, data: AnnouncementIn) -> dict[str, Any]:
    """Write it to each of its audience too. Twice is fine."""
    found = services.mail_announcement(announcement_id=data.announcement_id, actor=reader_of(request))
    return {"success": True, "announcement": shown(found, for_staff=True)}


@announcement.post("/withdraw", response={200: AnnouncementAnswer, REFUSED: ErrorOut}, auth=MANAGER)
def withdraw(request: HttpRequest, data: AnnouncementIn) -> dict[str, Any]:
    """Show it to nobody any more, and drop its mails that wait to be sent. Twice is fine."""
    found = services.withdraw_announcement(announcement_id=data.announcement_id, actor=reader_of(request))
    return {"success": True, "announcement": shown(found, for_staff=True)}


def _listed(found: QuerySet[Announcement], query: AnnouncementQuery, *, for_staff: bool) -> dict[str, Any]:
    if query.state is not None:
        found = found.filter(Announcement.in_state(query.state))
    if query.q:
        found = found.filter(with_words(query.q))
    return page(found, query.page, query.per_page, lambda one: shown(one, for_staff=for_staff))
