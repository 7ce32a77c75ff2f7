"""One gate per kind of object: strangers get 404, not 403."""

from __future__ import annotations

from django.shortcuts import get_object_or_404

from accounts.models import User
from fleet.models import NodeKey, Relay
from fleet.selectors import relays


def relay_for(user: User, code: str) -> Relay:
    """The user's own relay, released ones included. Raises Http404."""
    return get_object_or_404(relays(), code=code, owner=user)


def node_key_for(user: User, node_key_id: int) -> NodeKey:
    """The user's own device. Raises Http404."""
    return get_object_or_404(NodeKey, pk=node_key_id, owner=user, is_removed=False)
