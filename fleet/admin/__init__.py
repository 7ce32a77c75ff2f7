"""The operator's view of the fleet. State is read-only; actions call services, and ask first."""

from . import (
    acl,
    alert_rules,
    alerts,
    enrolment,
    groups,
    hosts,
    metrics,
    moves,
    observations,
    relays,
    rollouts,
    traffic,
)

__all__ = [
    "acl",
    "alert_rules",
    "alerts",
    "enrolment",
    "groups",
    "hosts",
    "metrics",
    "moves",
    "observations",
    "relays",
    "rollouts",
    "traffic",
]
