"""Outages: when a group's clock stands, and by how much its deadline moves when it goes on."""

from __future__ import annotations

from django.db import transaction

from derp_portal.lib.clock import now
from fleet.models import Outage, Relay, RelayEvent, RelayGroup, Wanted

from .events import relay_event


def note_trouble(relay: Relay, code: str, detail: str = "") -> None:
    """The relay cannot run for this reason. Opens an outage when none of its group's relays runs.

    Saying the same again keeps the moment at which the trouble began.
    """
    if relay.trouble_code != code:
        relay.trouble_since = relay.trouble_since or now()
        relay.trouble_code = code
        relay_event(relay, RelayEvent.Kind.TROUBLE, f"{code} {detail}".strip())
    relay.trouble_detail = detail[:2000]
    relay.save(update_fields=["trouble_code", "trouble_detail", "trouble_since"])
    open_outage_if_down(relay.group_id, code)


def clear_trouble(relay: Relay) -> None:
    """The relay runs again: write it down, and close its group's outage, both or neither."""
    with transaction.atomic():
        group = RelayGroup.objects.select_for_update(no_key=True).get(pk=relay.group_id)
        close_outage(group)
        if relay.trouble_code:
            relay.trouble_code = relay.trouble_detail = ""
            relay.trouble_since = None
            relay.save(update_fields=["trouble_code", "trouble_detail", "trouble_since"])
            relay_event(relay, RelayEvent.Kind.RECOVERED)


def open_outage_if_down(group_id: int, cause: str) -> Outage | None:
    """Stop the group's clock unless one of its relays runs, or it should not run anyway."""
    with transaction.atomic():
        group = RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
        if group.wanted != Wanted.RUNNING or group.run_until <= now():
            return None
        if any(relay.is_running and not relay.trouble_code for relay in group.relays.filter(released_at=None)):
            return None
        outage, _created = Outage.objects.get_or_create(
            group=group, ended_at=None, defaults={"cause": cause, "started_at": now()}
        )
        return outage


def close_outage(group: RelayGroup) -> Outage | None:
    """Let the locked group's clock go on: its deadline moves by as long as the outage lasted."""
    outage = group.outages.filter(ended_at=None).first()
    if outage is None:
        return None
    outage.ended_at = now()
    outage.save(update_fields=["ended_at"])
    group.run_until += outage.ended_at - outage.started_at
    group.save(update_fields=["run_until"])
    return outage
