"""Outages: when a group's clock stands, and by how much its deadline moves when it goes on."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import transaction

from derp_portal.lib.clock import now
from fleet.models import Outage, Relay, RelayEvent, RelayGroup, Wanted

from .events import relay_event

BLIP = timedelta(minutes=1)
"""An outage shorter than this is a restart's length, and nobody makes up for it."""
SAME_OUTAGE = timedelta(minutes=5)
"""A blip that is over for no longer than this goes on when the group falls again: a crash loop is one outage."""


def note_trouble(relay: Relay, code: str, detail: str = "", *, since: datetime | None = None) -> None:
    """The relay cannot run for this reason. Opens an outage when none of its group's relays runs.

    `since` is when it fell silent, if that was before now. Saying the same again keeps the moment at which the
    trouble began.
    """
    if relay.trouble_code != code:
        relay.trouble_since = relay.trouble_since or now()
        relay.trouble_code = code
        relay_event(relay, RelayEvent.Kind.TROUBLE, f"{code} {detail}".strip())
    relay.trouble_detail = detail[:2000]
    relay.save(update_fields=["trouble_code", "trouble_detail", "trouble_since"])
    open_outage_if_down(relay.group_id, code, since=since)


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


def open_outage_if_down(group_id: int, cause: str, *, since: datetime | None = None) -> Outage | None:
    """Stop the group's clock unless one of its relays runs, or it should not run anyway.

    `since` is when its relays fell silent, if that was before now: the clock is put back to it.

    A blip of a moment ago is taken up again instead of another one begun, or a relay that falls every minute would
    cost its owner all the time between and owe him nothing.
    """
    with transaction.atomic():
        group = RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
        if group.wanted != Wanted.RUNNING or group.run_until <= now():
            return None
        if any(relay.is_running and not relay.trouble_code for relay in group.relays.filter(released_at=None)):
            return None
        last = group.outages.order_by("-id").first()
        if last and last.ended_at is None:
            return last
        if last and last.ended_at and _is_fresh_blip(last.started_at, last.ended_at):
            group.run_until -= last.ended_at - last.started_at
            group.save(update_fields=["run_until"])
            last.ended_at = None
            last.save(update_fields=["ended_at"])
            return last
        return Outage.objects.create(
            group=group, cause=cause, started_at=max(_after(last, since or now()), group.created_at)
        )


def _after(last: Outage | None, moment: datetime) -> datetime:
    """Outages of one group never overlap, or the time in both would be given back twice."""
    return max(moment, last.ended_at) if last and last.ended_at else moment


def _is_fresh_blip(started_at: datetime, ended_at: datetime) -> bool:
    return ended_at - started_at < BLIP and now() - ended_at < SAME_OUTAGE


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
