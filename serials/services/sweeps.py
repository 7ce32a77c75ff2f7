"""What time brings about. Each sweep finds its work by state, one lease a transaction; running it twice is harmless."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q

from accounts.services import notify, record
from derp_portal.lib.clock import days, now
from fleet.services import release_group
from serials.models import Lease, LeaseTerm, Reminder, SerialNumber

from .leases import end_lease, locked_lease
from .notices import mail_reminder
from .terms import KEEP_PLACE, advance, append_term, last_term, uncredited_outages

log = structlog.get_logger(__name__)

BATCH = 500
REMINDER_DAYS = (1, 3, 7)


def expire_serials() -> int:
    """Unused serials past their last day, and used ones whose term is over, become `expired`."""
    due = SerialNumber.objects.filter(
        status__in=[SerialNumber.Status.UNUSED, SerialNumber.Status.USED], expires_at__lte=now()
    )
    with transaction.atomic():
        # One that somebody is just redeeming or revoking is not waited for; the next sweep looks at it again.
        free = due.select_for_update(skip_locked=True, no_key=True)
        return due.filter(pk__in=free.values("pk")).update(status=SerialNumber.Status.EXPIRED)


def expire_leases() -> int:
    """End the leases whose time is up. One whose clock stands, or that is owed time, waits for its due."""
    due = Lease.objects.filter(~_is_owed_time(), status=Lease.Status.ACTIVE, ends_at__lte=now())
    return _each("lease_not_expired", due.order_by("ends_at").values_list("id", flat=True)[:BATCH], _expire)


def _is_owed_time() -> Exists:
    """Of a lease: its clock stands, or it has not yet been given what it lost."""
    return Exists(uncredited_outages().filter(group=OuterRef("relay_group")))


def _expire(lease_id: int) -> None:
    with transaction.atomic():
        lease = locked_lease(lease_id)
        if lease.is_active and lease.ends_at <= now():  # A renewal may have come first.
            end_lease(lease_id=lease_id, reason=Lease.EndReason.EXPIRED, actor=None)


def advance_terms() -> int:
    """Where a term is over and another waits, the next one's plan takes effect."""
    waits = Exists(LeaseTerm.objects.filter(lease=OuterRef("lease"), state=LeaseTerm.State.QUEUED))
    due = LeaseTerm.objects.filter(waits, state=LeaseTerm.State.CURRENT, ends_at__lte=now())
    return _each("term_not_advanced", due.order_by("ends_at").values_list("lease_id", flat=True)[:BATCH], _advance)


def _advance(lease_id: int) -> None:
    with transaction.atomic():
        lease = locked_lease(lease_id)
        if lease.is_active:
            advance(lease, actor=None)


def release_ended_leases() -> int:
    """Give back places of leases that ended longer ago than places are kept."""
    due = Lease.objects.filter(~Q(status=Lease.Status.ACTIVE), released_at=None, ended_at__lte=now() - KEEP_PLACE)
    return _each("lease_not_released", due.order_by("ended_at").values_list("id", flat=True)[:BATCH], _release)


def _release(lease_id: int) -> None:
    with transaction.atomic():
        lease = locked_lease(lease_id)
        if lease.is_active or lease.released_at:
            return
        lease.released_at = now()
        lease.save(update_fields=["released_at"])
        release_group(group_id=lease.relay_group_id, actor=None)
        record(actor=None, event="lease.released", target=lease)


def compensate_outages() -> int:
    """Add each outage's length to its lease, once."""
    due = uncredited_outages().filter(ended_at__isnull=False, group__lease__status=Lease.Status.ACTIVE)
    return _each("outage_not_credited", due.order_by("ended_at").values_list("id", flat=True)[:BATCH], _compensate)


def _compensate(outage_id: int) -> None:
    lease_id = Lease.objects.values_list("id", flat=True).get(relay_group__outages=outage_id)
    with transaction.atomic():
        lease = locked_lease(lease_id)
        outage = uncredited_outages().filter(pk=outage_id).first()
        if not lease.is_active or outage is None or outage.ended_at is None:
            return  # Another sweep came first, or the lease was ended and what it was owed went with the rest.
        length = outage.ended_at - outage.started_at
        append_term(
            lease,
            plan=last_term(lease).plan,
            duration=length,
            source=LeaseTerm.Source.COMPENSATION,
            outage=outage,
            actor=None,
        )
        record(actor=None, event="lease.compensated", target=lease, seconds=int(length.total_seconds()))
        notify(
            kind="lease_compensated",
            dedup_key=f"outage-compensated:{outage.pk}",
            user=lease.user,
            context={
                "lease": lease.name,
                "minutes": max(1, round(length.total_seconds() / 60)),
                "started_at": outage.started_at,
                "ends_at": lease.ends_at,
            },
            button_url="/dashboard/",
        )


def send_reminders() -> int:
    """Remind of leases that end in 7, 3 and 1 days, each once for each renewal; making up for an outage is none.

    While a lease's clock stands, or it has not got back what it lost, nobody knows its end: it waits.
    Only the nearest of the reminders that are due is sent, and none whose moment lay before or at the last renewal: a
    three-day lease is not told on its first day that it ends within seven.
    """
    sent = 0
    for position, count in enumerate(REMINDER_DAYS):
        nearest = now() + days(REMINDER_DAYS[position - 1]) if position else now()
        reminded = Reminder.objects.filter(lease=OuterRef("pk"), lease_end=OuterRef("renewed_to"), days=count)
        due = Lease.objects.filter(
            ~Exists(reminded),
            ~_is_owed_time(),
            status=Lease.Status.ACTIVE,
            ends_at__gt=nearest,
            ends_at__lte=now() + days(count),
            renewed_at__lt=F("ends_at") - days(count),
        )
        ids = due.order_by("ends_at").values_list("id", flat=True)[:BATCH]
        sent += _each("reminder_not_sent", ids, lambda lease_id, count=count: _remind(lease_id, count))  # type: ignore[misc]
    return sent


def _remind(lease_id: int, count: int) -> None:
    with transaction.atomic():
        lease = locked_lease(lease_id)
        if not lease.is_active or lease.ends_at > now() + days(count):
            return
        reminder, is_first = Reminder.objects.get_or_create(lease=lease, lease_end=lease.renewed_to, days=count)
        if is_first:
            mail_reminder(lease, days=count, dedup_key=f"lease-reminder:{reminder.pk}")


def _each(trouble: str, ids: Iterable[int], do: Callable[[int], None]) -> int:
    """Do it for every id; one that fails is logged, tried again by the next sweep, and stops no other."""
    done = 0
    for number in list(ids):
        try:
            do(number)
        except Exception:
            log.exception(trouble, id=number)
        else:
            done += 1
    return done
