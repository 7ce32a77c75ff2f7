"""The operator's view of the fleet. State is read-only; actions call services, and ask first."""

from . import groups, hosts, observations, relays

__all__ = ["groups", "hosts", "observations", "relays"]
