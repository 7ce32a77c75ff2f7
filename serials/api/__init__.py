"""`/api/serial/…`, `/api/lease/…`, `/api/acl/…`, and what of `/api/user/…` and `/api/container/…` needs leases;
mounted by the composition."""

from .leases import PlanOut, lease, renewal, show_plan
from .numbers import serial
from .relays import acl, release

__all__ = ["PlanOut", "acl", "lease", "release", "renewal", "serial", "show_plan"]
