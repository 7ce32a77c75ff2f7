"""What the providers of hosts want of us: to be paid in time, and not more traffic than was bought."""

from __future__ import annotations

from calendar import monthrange
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F, Q, Sum
from django.utils import timezone

from derp_portal.lib.clock import day_of, now
from fleet.models import Alert, Evacuation, MoveReason, Server, ServerEvent, Traffic
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


def count_allowances() -> None:
    """Sweep: add up what each server carried since its allowance last started anew, in whole days UTC. Two queries.

    What customers send comes in at the host, what they receive goes out. The provider counts a little more than the
    books: headers, retransmissions, the portal's own checks.
    """
    today = day_of(now())
    servers = list(Server.objects.only("allowance_reset_day", "billed_direction", "allowance_used_bytes"))
    since = {server.allowance_reset_day: last_reset(today, server.allowance_reset_day) for server in servers}
    started = Q()
    for day, moment in since.items():
        started |= Q(server__allowance_reset_day=day, starts_at__gte=moment)
    rows = Traffic.objects.filter(started, span=Traffic.Span.DAY, starts_at__gte=min(since.values(), default=today))
    sums = rows.order_by().values("server").annotate(incoming=Sum("upload_bytes"), outgoing=Sum("download_bytes"))
    found = {row["server"]: (row["incoming"], row["outgoing"]) for row in sums}
    changed = []
    for server in servers:
        used = _billed(server.billed_direction, *found.get(server.pk, (0, 0)))
        if used != server.allowance_used_bytes:
            server.allowance_used_bytes = used
            changed.append(server)
    Server.objects.bulk_update(changed, ["allowance_used_bytes"])


def last_reset(today: datetime, reset_day: int) -> datetime:
    """The day not after `today` on which an allowance started anew; in a shorter month that is its last day."""
    year, month = today.year, today.month
    while True:
        day = min(reset_day, monthrange(year, month)[1])
        if (year, month, day) <= (today.year, today.month, today.day):
            return today.replace(year=year, month=month, day=day)
        year, month = (year, month - 1) if month > 1 else (year - 1, 12)


def _billed(direction: str, incoming: int, outgoing: int) -> int:
    match direction:
        case Server.BilledDirection.IN:
            return incoming
        case Server.BilledDirection.OUT:
            return outgoing
        case Server.BilledDirection.LARGER:
            return max(incoming, outgoing)
    return incoming + outgoing


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
