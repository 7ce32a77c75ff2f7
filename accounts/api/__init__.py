"""`/api/user/…` for oneself, `/api/notifications/…` and `/api/ticket/…`; mounted by the composition."""

from __future__ import annotations

from .people import notifications, user
from .tickets import ticket

__all__ = ["notifications", "ticket", "user"]
