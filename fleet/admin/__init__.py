"""The operator's view of the fleet. State is read-only; actions call services, and ask first."""

from . import alerts, enrolment, groups, hosts, moves, observations, relays, rollouts

__all__ = ["alerts", "enrolment", "groups", "hosts", "moves", "observations", "relays", "rollouts"]
