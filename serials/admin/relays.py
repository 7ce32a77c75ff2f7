"""Relays, with what was granted in mind: one that a running lease needs cannot be released."""

from __future__ import annotations

from django.contrib import admin

from fleet.admin.relays import RelayAdmin
from fleet.models import Relay
from serials import services

admin.site.unregister(Relay)


@admin.register(Relay)
class LeasedRelayAdmin(RelayAdmin):
    """A relay's page whose release asks the lease first."""

    release_service = staticmethod(services.release_relay)
