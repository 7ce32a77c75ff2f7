"""The operator's view of resellers. What was earned is never edited; actions call services, and ask first."""

from . import customers, earnings, levels, people, prices, settlements, wholesale

__all__ = ["customers", "earnings", "levels", "people", "prices", "settlements", "wholesale"]
