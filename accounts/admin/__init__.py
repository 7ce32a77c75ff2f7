"""The operator's view of people, tokens, mail, tickets, the audit trail. State is read-only; actions call services."""

from __future__ import annotations

from .announcements import AnnouncementAdmin
from .people import UserAdmin
from .tickets import TicketAdmin

__all__ = ["AnnouncementAdmin", "TicketAdmin", "UserAdmin"]
