"""Resellers, their customers, commissions and settlements."""

from .money import CommissionBook, CommissionLine, Settlement, Suspicion
from .people import (
    Attribution,
    LeaseContact,
    Level,
    LevelPeriod,
    LinkDay,
    PayoutMinimum,
    Rate,
    Resale,
    Reseller,
    Signup,
)

__all__ = [
    "Attribution",
    "CommissionBook",
    "CommissionLine",
    "LeaseContact",
    "Level",
    "LevelPeriod",
    "LinkDay",
    "PayoutMinimum",
    "Rate",
    "Resale",
    "Reseller",
    "Settlement",
    "Signup",
    "Suspicion",
]
