"""What the providers of hosts want of us: to be paid in time, and not more traffic than was bought."""

from __future__ import annotations

from datetime import timedelta

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from fleet.models import Alert, Evacuation, MoveReason, Server, ServerEvent
from fleet.selectors import NEAR_ALLOWANCE

from .alerts import raise_alert, resolve_alert
from .evacuations import open_evacuation, should_run_on
from .phases import server_event

REMIND_BEFORE = timedelta(days=7)


def remind_of_renewals() -> None:
    """Sweep: tell operators a week before a provider wants to be paid, until the date is moved on."""
    soon = timezone.localdate() + REMIND_BEFORE
    for server in Server.objects.filter(provider_renews_on__lte=soon):
        subject = f"{server.pk}:{server.provider_renews_on}"
        if Alert.objects.filter(alert_type=Alert.Kind.PROVIDER_RENEWAL, subject=subject, resolved=True).exists():
            continue  # Somebody has seen to it by hand.
        raise_alert(
            Alert.Kind.PROVIDER_RENEWAL,
            severity=Alert.Severity.WARNING,
            subject=subject,
            server=server,
            provider=server.provider or "–",
            date=server.provider_renews_on,
        )
    for alert in Alert.objects.filter(alert_type=Alert.Kind.PROVIDER_RENEWAL, resolved=False).select_related("server"):
        if alert.server is None or alert.subject != f"{alert.server.pk}:{alert.server.provider_renews_on}":
            resolve_alert(Alert.Kind.PROVIDER_RENEWAL, subject=alert.subject)


def leave_servers_near_their_allowance() -> None:
    """Sweep: relays leave a server before its provider cuts it off or charges more, a few at a time."""
    with_allowance = Server.objects.filter(allowance_bytes__gt=0)
    near = with_allowance.filter(allowance_used_bytes__gte=F("allowance_bytes") / 10 * NEAR_ALLOWANCE)
    for server in near:
        raise_alert(
            Alert.Kind.ALLOWANCE,
            severity=Alert.Severity.WARNING,
            subject=str(server.pk),
            server=server,
            percent=server.allowance_used_bytes * 100 // (server.allowance_bytes or 1),
        )
        _leave(server.pk)
    for server in with_allowance.exclude(pk__in=near.values("pk")):
        resolve_alert(Alert.Kind.ALLOWANCE, subject=str(server.pk))


def _leave(server_id: int) -> None:
    with transaction.atomic():
        server = Server.objects.select_for_update(no_key=True).get(pk=server_id)
        is_leaving = server.evacuations.filter(state=Evacuation.State.RUNNING).exists()
        if is_leaving or not should_run_on(server_id).filter(group__quarantined_at=None).exists():
            return
        server_event(server, ServerEvent.Kind.ALLOWANCE)
        open_evacuation(server, MoveReason.ALLOWANCE, actor=None)
