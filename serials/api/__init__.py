"""`/api/serial/…`, `/api/plan/…`, `/api/lease/…`, `/api/acl/…`, and what of `/api/user/…` and `/api/container/…` needs
leases; mounted by the composition."""

from .leases import lease, plan, renewal
from .numbers import serial
from .relays import acl, release

__all__ = ["acl", "lease", "plan", "release", "renewal", "serial"]
