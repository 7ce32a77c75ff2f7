"""`/api/user/…` for oneself and `/api/notifications/…`; mounted by the composition."""

from __future__ import annotations

from .people import notifications, user

__all__ = ["notifications", "user"]
