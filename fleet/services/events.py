"""Rows that tell what happened to a relay."""

from __future__ import annotations

from fleet.models import Relay, RelayEvent


def relay_event(relay: Relay, kind: RelayEvent.Kind, detail: str = "") -> RelayEvent:
    """Write down that `kind` happened to `relay` on the server where it is now."""
    return RelayEvent.objects.create(
        relay=relay, kind=kind, server_id=relay.server_id, generation=relay.generation, detail=detail[:255]
    )
