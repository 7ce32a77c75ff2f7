"""Fixtures of the tests of money."""

from tests.serials.conftest import clock, plan, server, unhurried, unlocked

__all__ = ["clock", "plan", "server", "unhurried", "unlocked"]
