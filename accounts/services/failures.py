"""Background tasks that ended in an error nobody foresaw: kept for operators to read, then forgotten."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import CharField

from accounts.models import TaskFailure
from derp_portal.lib import clock

KEPT_DAYS = 90
LONGEST_TRACEBACK = 8_000
REPEATED = timedelta(minutes=1)
"""A sweep that fails at every turn is kept once in so long."""

# What libraries like to put into the words of an error: addresses with credentials or keys in them, what is named as a
# secret, our own tokens, and long random words with upper case and digits, as keys are written.
_SECRETS = (
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)\S+"), r"\1…"),
    (re.compile(r"(?i)\b(bearer|basic)\s+\S+"), r"\1 …"),
    (re.compile(r"(?i)\b(\w*(?:password|passwd|secret|token|api_?key)[\"']?\s*[=:]\s*)\S+"), r"\1…"),
    (re.compile(r"\bdp_[\w-]+"), "dp_…"),
    (re.compile(r"(?=[\w+=-]*[A-Z])(?=[\w+=-]*\d)[\w+=-]{32,}"), "…"),
)


def note_failure(
    *,
    task: str,
    task_id: str,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    error: BaseException | str,
    traceback: str = "",
) -> TaskFailure | None:
    """Keep that a task failed; None when the very same was kept within the last minute.

    Of its arguments numbers are kept, of others the type alone; no address and no key in the error's own words is.
    """
    said = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    what = {
        "task": _fit("task", task),
        "arguments": _fit("arguments", describe_arguments(args, kwargs or {})),
        "error": _fit("error", without_secrets(said)),
    }
    if TaskFailure.objects.filter(**what, created_at__gt=clock.now() - REPEATED).exists():
        return None
    # The end of a traceback is where it happened.
    where = without_secrets(traceback).replace("\x00", "")[-LONGEST_TRACEBACK:]
    with transaction.atomic():
        return TaskFailure.objects.create(**what, task_id=_fit("task_id", task_id), traceback=where)


def forget_failures() -> int:
    """Drop failures that are older than 90 days; the number dropped."""
    old = TaskFailure.objects.filter(created_at__lt=clock.now() - clock.days(KEPT_DAYS))
    # A look takes no write lock, and nearly always there is nothing to drop.
    return old.delete()[0] if old.exists() else 0


def describe_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """`12, str, user_id=7`: numbers as they are, of everything else the type alone, since it may be a secret."""
    named = [f"{name}={_argument(value)}" for name, value in kwargs.items()]
    return ", ".join([*map(_argument, args), *named])


def without_secrets(text: str) -> str:
    """`text` with addresses, tokens and keys blotted out."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _argument(value: Any) -> str:
    return str(value) if value is None or isinstance(value, int) else type(value).__name__


def _fit(field: str, text: str) -> str:
    """As much as the column holds, without NUL, which PostgreSQL refuses."""
    column = TaskFailure._meta.get_field(field)
    assert isinstance(column, CharField)
    return text.replace("\x00", "")[: column.max_length]
