"""The operator's view of people, tokens, mail and the audit trail. State is read-only; actions call services."""

from __future__ import annotations

from .people import ReadOnlyAdmin, UserAdmin

__all__ = ["ReadOnlyAdmin", "UserAdmin"]
