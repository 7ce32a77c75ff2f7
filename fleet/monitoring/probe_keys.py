"""Who the portal's own probes are, for the relays they ask and for the doors that let them in."""

from __future__ import annotations

from django.conf import settings

from fleet.derp.keys import derive_private, format_node_key, public_of
from fleet.models import Relay


def probe_keys(relay: Relay) -> tuple[bytes, bytes]:
    """The private keys of the portal's two clients for this relay: the same at every probe, known to nobody else."""
    secret = settings.FIELD_KEYS[-1].encode()
    return derive_private(secret, f"probe-a:{relay.code}"), derive_private(secret, f"probe-b:{relay.code}")


def probe_node_keys(relay: Relay) -> set[str]:
    """The node keys of the portal's own probe, which the relay's door lets in whatever devices are listed."""
    return {format_node_key(public_of(private)) for private in probe_keys(relay)}
