"""The operator's view of what was granted. State is read-only; actions call services, and ask first."""

from . import customers, leases, numbers, plans, relays

__all__ = ["customers", "leases", "numbers", "plans", "relays"]
