"""What one line of the system log is, whatever table it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db import models
from django.utils.translation import gettext_lazy as _

from fleet.models import Alert

Severity = Alert.Severity


class Kind(models.TextChoices):
    """Where a line comes from."""

    AUDIT = "audit", _("audit")
    SERVER = "server", _("server")
    RELAY = "relay", _("relay")
    FAILOVER = "failover", _("failover")
    TASK = "task", _("failed task")
    ALERT = "alert", _("alert")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line. `person` is who did it, or whose relay it is; `message` is in the reader's language; `link` is the
    address of a page in the admin.
    """

    at: datetime
    kind: Kind
    severity: Severity
    person: str
    object: str
    message: str
    link: str
