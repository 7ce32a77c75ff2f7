"""What a username and a time zone may look like."""

from __future__ import annotations

from zoneinfo import available_timezones

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.utils.deconstruct import deconstructible
from django.utils.translation import gettext_lazy as _


@deconstructible
class UsernameValidator(RegexValidator):
    """Letters of any script, digits, and `. _ -`.

    No `@`: people may log in by username or e-mail, so a username must never look like somebody's address.
    """

    regex = r"^[\w.-]+\Z"
    message = _("A username may hold letters, digits, dots, dashes and underscores.")


def validate_timezone(name: str) -> None:
    """Raise ValidationError unless `name` is an IANA time zone such as `Asia/Shanghai`."""
    if name not in available_timezones():
        raise ValidationError(_("“%(name)s” is not a known time zone."), code="unknown_timezone", params={"name": name})
