"""What every part of the API shares: bearer tokens with scopes, one error envelope, one shape of list."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import structlog
from django.conf import settings
from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.core.exceptions import ValidationError as InvalidValue
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.utils import translation
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from ninja import Field, NinjaAPI, Schema
from ninja.errors import HttpError, ValidationError
from ninja.parser import Parser
from ninja.security import HttpBearer
from pydantic import BeforeValidator, WithJsonSchema

from accounts import services
from accounts.models import ApiToken, User
from derp_portal.lib import clock, ids
from derp_portal.lib.errors import PortalError
from derp_portal.lib.texts import can_be_kept

log = structlog.get_logger(__name__)

DEFAULT_PER_PAGE = 50
LARGEST_PER_PAGE = 200


class Ok(Schema):
    """An answer that has nothing to add."""

    success: bool = True


class ErrorDetail(Schema):
    """`code` is stable and for programs, `message` is for people and in their language. More keys may follow."""

    code: str
    message: str


class ErrorOut(Schema):
    """The one shape of every error of the API."""

    success: bool = False
    error: ErrorDetail


class PageQuery(Schema):
    """Which part of a list is wanted."""

    page: int = Field(1, ge=1)
    per_page: int = Field(DEFAULT_PER_PAGE, ge=1, le=LARGEST_PER_PAGE)


class PageOut(Ok):
    """A part of a list; the endpoint adds `items`."""

    page: int
    pages: int
    total: int


Id = Annotated[int, Field(ge=1, le=ids.LARGEST)]
"""A row's number, as requests name it."""


def parse_moment(value: object) -> datetime:
    """An ISO moment, or a date: then the end of that day. What names no zone is in the operator's.

    Raises ValueError for what is neither.
    """
    text, zone = str(value).strip(), ZoneInfo(settings.TIME_ZONE)
    try:
        if len(text) <= len("2026-01-01"):
            return clock.end_of_day(date.fromisoformat(text), zone).astimezone(UTC)
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(_("must be a date like 2026-12-31 or a moment like 2026-12-31T18:00:00+08:00")) from error


Moment = Annotated[
    datetime,
    BeforeValidator(parse_moment),
    WithJsonSchema(
        {
            "type": "string",
            "description": "A moment, or a date: then the end of that day. Without a zone, the operator's.",
            "examples": ["2026-12-31", "2026-12-31T18:00:00+08:00"],
        }
    ),
]
"""A field that is sent as a moment or a date."""


def parse_start(value: object) -> datetime:
    """An ISO moment, or a date: then its first moment, where `parse_moment` takes its last. Raises ValueError too."""
    with suppress(ValueError, OverflowError):
        # A day begins when the one before it ends.
        value = date.fromisoformat(str(value).strip()) - timedelta(days=1)
    return parse_moment(value)


Start = Annotated[
    datetime,
    BeforeValidator(parse_start),
    WithJsonSchema(
        {
            "type": "string",
            "description": "A moment, or a date: then the beginning of that day. Without a zone, the operator's.",
            "examples": ["2026-12-31", "2026-12-31T18:00:00+08:00"],
        }
    ),
]
"""The moment from which on something is wanted."""


def require(user: User, *permissions: str) -> None:
    """Raise PortalError `forbidden` unless the user has all of these permissions of Django's."""
    if missing := [name for name in permissions if not user.has_perm(name)]:
        raise PortalError(_("You may not do this."), code="forbidden", status=403, permissions=missing)


class TokenAuth(HttpBearer):
    """`Authorization: Bearer dp_…`, with a token that has all of the given scopes.

    Sets `request.auth` to the ApiToken and `request.user` to its owner. `TokenAuth("staff")` also asks that the owner
    still is an administrator, `TokenAuth("reseller")` that they still are a reseller or an administrator.

    `permissions` are Django's, those of the matching pages in the admin: the owner needs all of them. `everybody` is
    the one that lets an administrator's token with the staff scope see what belongs to others, see `sees_everybody`.
    """

    def __init__(self, *scopes: str, permissions: tuple[str, ...] = (), everybody: str = "") -> None:
        super().__init__()
        self.scopes = [ApiToken.Scope(scope) for scope in scopes]
        self.permissions = permissions
        self.everybody = everybody

    def authenticate(self, request: HttpRequest, token: str) -> ApiToken | None:
        """The token, or None (401) when it opens nothing. Raises PortalError `missing_scope` or `forbidden` (403)."""
        found = services.authenticate_token(secret=token)
        if found is None:
            return None
        request.user = found.user
        if found.user.language and not request.headers.get("Accept-Language"):
            translation.activate(found.user.language)
        for scope in self.scopes:
            if scope not in found.scopes or not scope.is_for(found.user):
                message = _("This token lacks the scope “%(scope)s”.") % {"scope": scope.value}
                raise PortalError(message, code="missing_scope", status=403, scope=scope.value)
        require(found.user, *self.permissions)
        request.sees_everybody = self._sees_everybody(found)  # type: ignore[attr-defined]
        return found

    def _sees_everybody(self, token: ApiToken) -> bool:
        has_scope = ApiToken.Scope.STAFF in token.scopes and token.user.is_staff
        return bool(self.everybody) and has_scope and token.user.has_perm(self.everybody)


def reader_of(request: HttpRequest) -> User:
    """The owner of the token that opened this endpoint."""
    if not isinstance(request.user, User):
        raise PermissionDenied
    return request.user


def sees_everybody(request: HttpRequest) -> bool:
    """Whether this request may see what belongs to others: an administrator's who has the permission that the
    endpoint names as `everybody`, with a token that has the staff scope.

    Without one of them an administrator's token sees what its owner would see as a customer.
    """
    return bool(getattr(request, "sees_everybody", False))


def page(
    queryset: QuerySet[Any], page: int = 1, per_page: int = DEFAULT_PER_PAGE, show: Callable[[Any], Any] | None = None
) -> dict[str, Any]:
    """One page of an ordered list: `{"success", "items", "page", "pages", "total"}`.

    A page behind the last is empty, so that a program may read on until it finds nothing. `show` turns a row into
    what is answered; without it the endpoint's response schema does.
    """
    paginator: Paginator[Model] = Paginator(queryset, min(max(per_page, 1), LARGEST_PER_PAGE))
    number = max(page, 1)
    rows = list(paginator.page(number)) if number <= paginator.num_pages else []
    items = [show(row) for row in rows] if show else rows
    return {
        "success": True,
        "items": items,
        "page": number,
        "pages": paginator.num_pages,
        "total": paginator.count,
    }


REFUSED: dict[str, Promise] = {
    "missing": gettext_lazy("This field is missing."),
    "int_parsing": gettext_lazy("This must be a whole number."),
    "int_type": gettext_lazy("This must be a whole number."),
    "int_from_float": gettext_lazy("This must be a whole number."),
    "float_parsing": gettext_lazy("This must be a number."),
    "bool_parsing": gettext_lazy("This must be true or false."),
    "string_type": gettext_lazy("This must be a text."),
    "list_type": gettext_lazy("This must be a list."),
    "enum": gettext_lazy("This must be one of: %(expected)s."),
    "literal_error": gettext_lazy("This must be one of: %(expected)s."),
    "greater_than_equal": gettext_lazy("This must be at least %(ge)s."),
    "greater_than": gettext_lazy("This must be more than %(gt)s."),
    "less_than_equal": gettext_lazy("This must be at most %(le)s."),
    "less_than": gettext_lazy("This must be less than %(lt)s."),
    "string_too_long": gettext_lazy("This must have at most %(max_length)s characters."),
    "string_too_short": gettext_lazy("This must have at least %(min_length)s characters."),
    "too_long": gettext_lazy("This must have at most %(max_length)s entries."),
    "too_short": gettext_lazy("This must have at least %(min_length)s entries."),
    "extra_forbidden": gettext_lazy("There is no such field here."),
}
"""What a schema refuses, by pydantic's names of it (https://docs.pydantic.dev/latest/errors/validation_errors/)."""


def _what_is_wrong(error: dict[str, Any]) -> str:
    """In the reader's language; what is seldom refused keeps pydantic's own English words."""
    context = error.get("ctx") or {}
    if error.get("type") in ("value_error", "assertion_error") and "error" in context:
        # A validator of ours said it.
        return str(context["error"])
    words = REFUSED.get(error.get("type", ""))
    return str(words) % context if words else str(error.get("msg", ""))


class CarefulParser(Parser):
    """Reads JSON as ninja does, and refuses texts in it that no database can keep."""

    def parse_body(self, request: HttpRequest) -> Any:
        """What the body says. Raises ValueError, which ninja words."""
        said = super().parse_body(request)
        if not _can_be_kept(said):
            raise ValueError("a text with a zero byte or half of a surrogate pair")
        return said


def _can_be_kept(said: Any) -> bool:
    if isinstance(said, str):
        return can_be_kept(said)
    if isinstance(said, dict):
        return all(map(_can_be_kept, [*said, *said.values()]))
    return not isinstance(said, list) or all(map(_can_be_kept, said))


def error_response(
    api: NinjaAPI, request: HttpRequest, *, code: str, message: str, status: int, **extra: Any
) -> HttpResponse:
    """`{"success": false, "error": {"code", "message", …}}` with that status."""
    body = {"success": False, "error": {"code": code, "message": message, **extra}}
    response = api.create_response(request, body, status=status)
    if status == 401:
        response["WWW-Authenticate"] = "Bearer"
    if retry_after := extra.get("retry_after"):
        response["Retry-After"] = str(retry_after)
    return response


def install_handlers(api: NinjaAPI) -> None:
    """Make every error of `api` leave in the one envelope."""

    def portal_error(request: HttpRequest, error: PortalError) -> HttpResponse:
        return error_response(
            api, request, code=error.code, message=str(error.message), status=error.status, **error.extra
        )

    def invalid_input(request: HttpRequest, error: ValidationError) -> HttpResponse:
        fields = [{"field": _field_of(one), "message": _what_is_wrong(one)} for one in error.errors]
        message = _("Some fields are missing or wrong: %(fields)s.") % {
            "fields": ", ".join(dict.fromkeys(one["field"] for one in fields))
        }
        return error_response(api, request, code="invalid_input", message=message, status=422, fields=fields)

    def invalid_value(request: HttpRequest, error: InvalidValue) -> HttpResponse:
        """What a model refused, in the shape of what a schema refuses."""
        by_field = error.message_dict if hasattr(error, "error_dict") else {"": error.messages}
        fields = [{"field": field, "message": text} for field, texts in by_field.items() for text in texts]
        message = " ".join(one["message"] for one in fields)
        return error_response(api, request, code="invalid_input", message=message, status=422, fields=fields)

    def http_error(request: HttpRequest, error: HttpError) -> HttpResponse:
        code, message = _words_for(error.status_code)
        wait = getattr(error, "wait", None)
        extra = {"retry_after": int(wait)} if wait else {}
        return error_response(api, request, code=code, message=message, status=error.status_code, **extra)

    def not_found(request: HttpRequest, _error: Http404) -> HttpResponse:
        code, message = _words_for(404)
        return error_response(api, request, code=code, message=message, status=404)

    def forbidden(request: HttpRequest, _error: PermissionDenied) -> HttpResponse:
        code, message = _words_for(403)
        return error_response(api, request, code=code, message=message, status=403)

    def internal_error(request: HttpRequest, error: Exception) -> HttpResponse:
        log.error("api_failed", path=request.path, exc_info=error)
        code, message = _words_for(500)
        return error_response(api, request, code=code, message=message, status=500)

    def too_large(request: HttpRequest, _error: RequestDataTooBig) -> HttpResponse:
        code, message = _words_for(413)
        return error_response(api, request, code=code, message=message, status=413)

    api.exception_handler(PortalError)(portal_error)
    api.exception_handler(RequestDataTooBig)(too_large)
    api.exception_handler(ValidationError)(invalid_input)
    api.exception_handler(InvalidValue)(invalid_value)
    api.exception_handler(HttpError)(http_error)
    api.exception_handler(Http404)(not_found)
    api.exception_handler(PermissionDenied)(forbidden)
    api.exception_handler(Exception)(internal_error)


def _words_for(status: int) -> tuple[str, str]:
    """The code and the sentence for a status that a library chose."""
    known = {
        400: ("invalid_request", _("The request could not be read; send JSON as the documentation shows.")),
        401: ("unauthorized", _("Send a valid token: “Authorization: Bearer dp_…”.")),
        403: ("forbidden", _("You may not do this.")),
        404: ("not_found", _("There is no such thing here.")),
        413: ("too_large", _("The request is too large; nothing was changed.")),
        429: ("rate_limited", _("Too many attempts. Wait a little, then try again.")),
        500: ("internal_error", _("Something broke on our side. It was logged; try again later.")),
    }
    return known.get(status, known[400] if status < 500 else known[500])


def _field_of(error: dict[str, Any]) -> str:
    """The path of the field, without the words by which ninja names the place (body, query) and its parameter."""
    location = [str(part) for part in error.get("loc", ())]
    return ".".join(location[2:] or location[1:] or location) or "body"
