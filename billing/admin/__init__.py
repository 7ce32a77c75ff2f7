"""The operator's view of money. Amounts are never edited; actions call services, and ask first."""

from . import callbacks, catalogue, channels, finance, methods, orders, payments, refunds

__all__ = ["callbacks", "catalogue", "channels", "finance", "methods", "orders", "payments", "refunds"]
