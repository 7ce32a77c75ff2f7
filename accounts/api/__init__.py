"""`/api/user/…` for oneself, `/api/announcement/…`, `/api/notifications/…`, `/api/ticket/…`; mounted above."""

from __future__ import annotations

from .announcements import announcement
from .people import notifications, user
from .tickets import ticket

__all__ = ["announcement", "notifications", "ticket", "user"]
