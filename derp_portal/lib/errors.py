"""The one kind of error that is meant for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class PortalError(Exception):
    """Something a person did cannot be done; nothing was changed.

    `code` is stable and for programs, `message` is translated (lazy is fine) and for people,
    `status` is the HTTP status that fits, `extra` travels in the API's error object.
    """

    code = "error"
    status = 400

    def __init__(self, message: Any, *, code: str | None = None, status: int | None = None, **extra: Any) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.status = status or type(self).status
        self.extra = extra

    def __str__(self) -> str:
        return str(self.message)


def invalid_input(errors: Sequence[tuple[str, str]]) -> PortalError:
    """What was typed into the named fields is refused: pairs of a field and the message about it."""
    fields = [{"field": field, "message": message} for field, message in errors]
    return PortalError(" ".join(message for _field, message in errors), code="invalid_input", status=422, fields=fields)
