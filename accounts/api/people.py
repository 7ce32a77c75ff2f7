"""`/api/user/…` for oneself, and `/api/notifications/…`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db.models import QuerySet
from django.http import Http404, HttpRequest
from django.utils.translation import gettext as _
from ninja import Field, Query, Router, Schema

from accounts import ratelimit, request_ip, services
from accounts.adapter import SIGNUP_REF_COOKIE
from accounts.apikit import ErrorOut, Id, Ok, PageOut, PageQuery, TokenAuth, page, reader_of, sees_everybody
from accounts.models import Notification, User
from accounts.selectors import notifications_for, user_by_id

user = Router(tags=["user"])
notifications = Router(tags=["notifications"])

MINUTE, HOUR = 60, 3600
LOGINS_AN_HOUR = 100
"""Of one account, from wherever."""


class RegisterIn(Schema):
    """A new account."""

    username: str
    email: str
    password: str
    language: str = ""
    ref: str = Field("", max_length=200, description="What the cookie `ref` of a reseller's link holds.")


class RegisterOut(Ok):
    """The new user's id."""

    user_id: int


class LoginIn(Schema):
    """Either of `username` and `email`; each of them may hold the other."""

    username: str = ""
    email: str = ""
    password: str


class LoginOut(Ok):
    """The token, shown this once."""

    token: str
    expires_at: datetime


class MeOut(Ok):
    """The token's owner."""

    id: int
    username: str
    email: str
    role: str
    rental_expiry: datetime | None
    language: str
    timezone: str
    created_at: datetime


class MessageIn(Schema):
    """An operator's own words. `message` is another name for `body`."""

    user_id: Id
    subject: str = Field(max_length=255)
    body: str = ""
    message: str = ""


class MessageOut(Ok):
    """What was done."""

    message: str


class NotificationQuery(PageQuery):
    """Filters of the list; `user_id` is for staff."""

    user_id: Id | None = None
    kind: str = ""
    status: str = ""


class NotificationOut(Schema):
    """One message."""

    id: int
    user_id: int | None
    recipient: str
    kind: str
    subject: str
    body: str = Field(alias="body_text")
    language: str
    status: str
    attempts: int
    created_at: datetime
    sent_at: datetime | None


class NotificationPage(PageOut):
    """A part of the list, newest first."""

    items: list[NotificationOut]


@user.post("/register", response={200: RegisterOut, 422: ErrorOut, 429: ErrorOut}, auth=None)
def register(request: HttpRequest, data: RegisterIn) -> dict[str, Any]:
    """Sign up. A mail with a link follows; logging in works once the link was opened."""
    ip = request_ip.current()
    ratelimit.hit(scope="register", key=request_ip.as_counted(ip), limit=20, window_seconds=HOUR)
    new = services.register(
        username=data.username,
        email=data.email,
        password=data.password,
        language=data.language,
        signup_ref=data.ref or request.COOKIES.get(SIGNUP_REF_COOKIE, ""),
        ip=ip,
    )
    return {"success": True, "user_id": new.pk}


@user.post("/login", response={200: LoginOut, 401: ErrorOut, 403: ErrorOut, 429: ErrorOut}, auth=None)
def login(request: HttpRequest, data: LoginIn) -> dict[str, Any]:
    """Exchange name and password for a token of 30 days, with every scope the account may have."""
    name = (data.email or data.username).strip()
    ip = request_ip.as_counted(request_ip.current())
    ratelimit.hit(scope="login-ip", key=ip, limit=60, window_seconds=5 * MINUTE)
    # Capitals make no other account of it.
    account = name.lower()
    # The account's narrow limit is counted together with the address: a stranger must not lock anybody out.
    ratelimit.hit(scope="login", key=f"{ip} {account}", limit=10, window_seconds=5 * MINUTE)
    # The wide one is for guessers with very many addresses, and shuts nothing but this door; the page has its own.
    ratelimit.hit(scope="login-account", key=account, limit=LOGINS_AN_HOUR, window_seconds=HOUR)
    token, secret = services.log_in(request=request, login=name, password=data.password)
    return {"success": True, "token": secret, "expires_at": token.expires_at}


@user.get("/me", response={200: MeOut, 401: ErrorOut, 403: ErrorOut}, auth=TokenAuth("account"))
def me(request: HttpRequest) -> User:
    """Who the token belongs to."""
    return reader_of(request)


@notifications.post(
    "/send",
    response={200: MessageOut, 403: ErrorOut, 404: ErrorOut, 422: ErrorOut},
    auth=TokenAuth("staff", permissions=("accounts.add_notification",)),
)
def send(request: HttpRequest, data: MessageIn) -> dict[str, Any]:
    """Write to a user, by mail."""
    recipient = user_by_id(data.user_id)
    body = data.body or data.message
    services.send_message(actor=reader_of(request), user=recipient, subject=data.subject, body=body)
    return {"success": True, "message": _("Sent")}


@notifications.get(
    "/list",
    response={200: NotificationPage, 401: ErrorOut},
    auth=TokenAuth("account", everybody="accounts.view_notification"),
)
def list_notifications(request: HttpRequest, query: Query[NotificationQuery]) -> dict[str, Any]:
    """The messages written to you, newest first; with a staff token, those written to anybody."""
    reader, is_for_all = reader_of(request), sees_everybody(request)
    found: QuerySet[Notification] = notifications_for(reader, everybody=is_for_all)
    if query.user_id is not None:
        if not is_for_all and query.user_id != reader.pk:
            raise Http404
        found = found.filter(user_id=query.user_id)
    if query.kind:
        found = found.filter(kind=query.kind)
    if query.status:
        found = found.filter(status=query.status)
    return page(found, query.page, query.per_page)
