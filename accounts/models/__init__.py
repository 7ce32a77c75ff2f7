"""Users, API tokens, announcements, the notification outbox, tickets and the audit trail."""

from __future__ import annotations

from .announcements import Announcement, ClosedAnnouncement
from .browsers import Browser
from .messages import Notification
from .people import LANGUAGES, User, UserManager
from .tickets import Ticket, TicketMessage
from .tokens import ApiToken
from .trail import AuditEntry, TaskFailure

__all__ = [
    "LANGUAGES",
    "Announcement",
    "ApiToken",
    "AuditEntry",
    "Browser",
    "ClosedAnnouncement",
    "Notification",
    "TaskFailure",
    "Ticket",
    "TicketMessage",
    "User",
    "UserManager",
]
