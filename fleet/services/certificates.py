"""Relays' certificates are renewed long before they end: announced, then switched, never all of a map at once.

A map pins exactly one certificate of each relay, so a switch is a change of the map. Whoever pasted it has weeks to
prepare and a second relay meanwhile; for whoever polls or pushes nothing is to be done.
"""

from __future__ import annotations

from datetime import timedelta

import structlog
from django.db import transaction
from django.db.models import Q

from accounts.models import User
from accounts.services import notify, record
from derp_portal.lib.clock import now
from fleet.derp.identity import make_identity
from fleet.models import Relay, RelayEvent, RelayGroup
from fleet.selectors import polls_its_map

from .events import relay_event
from .groups import restart_in_place

log = structlog.get_logger(__name__)

RENEW_BEFORE = timedelta(days=60)
"""So long before its end a certificate gets a successor: far longer than the announcement takes."""
ANNOUNCED = timedelta(days=14)
APART = timedelta(days=7)
"""So far apart are the switches of two relays of one map: the other one serves whoever still has the old map."""
SWEEP = 100
NEXT = ("next_certificate", "next_certificate_key", "next_pin", "next_ends_at", "next_switch_at")


def renew_certificates() -> None:
    """Sweep: successors for certificates that end, and switches whose day has come."""
    ending = Relay.objects.filter(released_at=None, next_switch_at=None, certificate_ends_at__lt=now() + RENEW_BEFORE)
    for relay_id in list(ending.order_by("certificate_ends_at").values_list("id", flat=True)[:SWEEP]):
        prepare_certificate(relay_id=relay_id)
    due = Relay.objects.filter(released_at=None, next_switch_at__lte=now())
    for relay_id in list(due.order_by("next_switch_at", "-slot").values_list("id", flat=True)[:SWEEP]):
        switch_certificate(relay_id=relay_id)


def prepare_certificate(*, relay_id: int) -> None:
    """Make the successor and tell the owner from when it counts: standbys first. Once more is fine."""
    with transaction.atomic():
        group_id = Relay.objects.values_list("group_id", flat=True).get(pk=relay_id)
        RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
        relay = Relay.objects.select_related("group", "owner").get(pk=relay_id)
        if relay.released_at or relay.next_switch_at:
            return
        identity = make_identity(relay.host_name)
        siblings = Relay.objects.filter(group=group_id, released_at=None).exclude(pk=relay_id)
        later = siblings.filter(slot__gt=relay.slot).count()
        relay.next_certificate, relay.next_certificate_key = identity.cert_pem, identity.key_pem
        relay.next_pin, relay.next_ends_at = identity.pin, identity.not_after
        relay.next_switch_at = now() + ANNOUNCED + APART * later
        relay.save(update_fields=NEXT)
        record(actor=None, event="relay.certificate_prepared", target=relay, until=relay.next_switch_at.isoformat())
        _tell(relay, "certificate_soon", has_standby=siblings.exists())


def switch_certificate(*, relay_id: int, actor: User | None = None) -> bool:
    """Put the successor in force and restart the relay; False when there is none, or a sibling was switched lately.

    The owner may have it at once: then he has the new map already, or is about to paste it.
    """
    with transaction.atomic():
        group_id = Relay.objects.values_list("group_id", flat=True).get(pk=relay_id)
        group = RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
        relay = Relay.objects.select_related("owner").get(pk=relay_id)
        if relay.released_at or not relay.next_switch_at:
            return False
        lately = RelayEvent.objects.filter(
            Q(created_at__gt=now() - APART + timedelta(days=1)),
            relay__group=group_id,
            kind=RelayEvent.Kind.CERTIFICATE,
        ).exclude(relay=relay_id)
        if actor is None and lately.exists():
            return False
        before = relay.pin
        relay.group = group
        relay.certificate, relay.certificate_key = relay.next_certificate, relay.next_certificate_key
        assert relay.next_ends_at is not None  # They are set together.
        relay.pin, relay.certificate_ends_at = relay.next_pin, relay.next_ends_at
        relay.next_certificate = relay.next_pin = ""
        relay.next_certificate_key = relay.next_ends_at = relay.next_switch_at = None
        relay.save(update_fields=["certificate", "certificate_key", "pin", "certificate_ends_at", *NEXT])
        relay_event(relay, RelayEvent.Kind.CERTIFICATE)
        restart_in_place(relay)
        record(actor=actor, event="relay.certificate_switched", target=relay)
        has_standby = Relay.objects.filter(group=group_id, released_at=None).exclude(pk=relay_id).exists()
        _tell(relay, "certificate_changed", has_standby=has_standby, before=before)
    return True


def _tell(relay: Relay, kind: str, *, has_standby: bool, before: str = "") -> None:
    notify(
        kind=kind,
        dedup_key=f"{kind}:{relay.pk}:{relay.next_pin or relay.pin}",
        user=relay.owner,
        context={
            "relay": relay,
            "before": before,
            "has_standby": has_standby,
            "polls": polls_its_map(relay.group),
            "pushes": relay.group.taken_by == RelayGroup.Taken.PUSH,
        },
        button_url="/dashboard/",
    )
