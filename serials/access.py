"""One gate per kind of object: strangers get 404, not 403."""

from __future__ import annotations

from django.shortcuts import get_object_or_404

from accounts.models import User
from fleet.access import relay_for
from fleet.models import Relay
from serials.models import Lease
from serials.selectors import leases_in_full


def lease_for(user: User, lease_id: int) -> Lease:
    """The user's own lease with what its page shows, ended ones included. Raises Http404."""
    return get_object_or_404(leases_in_full(user), pk=lease_id)


def relay_of_lease(user: User, lease_id: int, code: str) -> tuple[Lease, Relay]:
    """The user's own lease and one of its relays. Raises Http404, also for a relay of another lease."""
    lease = lease_for(user, lease_id)
    relay = relay_for(user, code)
    return lease, get_object_or_404(Relay, pk=relay.pk, group_id=lease.relay_group_id, released_at=None)
