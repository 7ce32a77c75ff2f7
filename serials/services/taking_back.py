"""Taking back what a serial granted: what has not been served yet, and nothing else."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from django.db import transaction
from django.db.models import Q

from accounts.models import User
from accounts.services import record
from derp_portal.lib.clock import now
from serials.models import Lease, LeaseTerm, SerialNumber

from .leases import end_lease, locked_lease
from .notices import mail_shortened
from .terms import close_terms, follow, move_up, open_terms


class Taken(StrEnum):
    """What taking a serial back came to."""

    REVOKED = "revoked"
    """It was unused and is worthless now."""
    DAYS = "days"
    """Its days that were still to be served are gone from the lease."""
    SERVED = "served"
    """Everything it gave had been served, or had been given up; there was nothing left to take."""
    CONVERTED = "converted"
    """Its days were turned into days of another plan: they cannot be told apart any more. Nothing was taken."""


@dataclass(frozen=True, slots=True)
class TakenBack:
    """`seconds` were taken off the lease `lease_id`."""

    what: Taken
    seconds: int = 0
    lease_id: int | None = None


@dataclass(frozen=True, slots=True)
class Unserved:
    """Seconds that a serial has still to give, of those it is worth in all; `is_converted` if nobody can tell."""

    seconds: int
    whole: int
    is_converted: bool = False


def unserved_of(serials: Collection[SerialNumber]) -> dict[int, Unserved]:
    """What each of the serials has still to give, by its id. An unused one has all to give. Three queries."""
    ids = [serial.pk for serial in serials if serial.user_id is not None]
    terms = LeaseTerm.objects.filter(Q(serial__in=ids) | Q(origin__serial__in=ids)).select_related("origin")
    own: dict[int, list[LeaseTerm]] = {}
    for term in terms.order_by("id"):
        serial_id = term.serial_id or (term.origin.serial_id if term.origin else None)
        own.setdefault(serial_id or 0, []).append(term)
    leases = {term.lease_id for some in own.values() for term in some}
    converted = LeaseTerm.objects.filter(lease__in=leases, source=LeaseTerm.Source.CONVERSION)
    conversions = dict(converted.order_by("id").values_list("lease", "id"))
    return {serial.pk: _unserved(serial, own.get(serial.pk, []), conversions) for serial in serials}


def _unserved(serial: SerialNumber, own: list[LeaseTerm], conversions: dict[int, int]) -> Unserved:
    whole = int(timedelta(days=serial.duration_days).total_seconds())
    if serial.status == SerialNumber.Status.UNUSED:
        return Unserved(whole, whole)
    running = [term for term in own if term.state != LeaseTerm.State.DONE]
    if running:
        return Unserved(_left_of(running[-1]), whole)
    closed = [term for term in own if term.closed_at is not None]
    later = bool(closed) and conversions.get(closed[-1].lease_id, 0) > closed[-1].pk
    return Unserved(0, whole, is_converted=later)


def take_back(*, serial_id: int, reason: str, actor: User | None) -> TakenBack:
    """Withdraw a serial for good: revoke it while unused; once used, take the days it has still to give.

    The present term ends now when the days are its own, and later ones move up whole; a lease that has nothing left
    ends. Twice is fine: the second time there is nothing left. Raises SerialNumber.DoesNotExist.
    """
    while True:
        owner_id = SerialNumber.objects.values_list("user_id", flat=True).get(pk=serial_id)
        with transaction.atomic():
            if owner_id is not None:
                User.objects.select_for_update(no_key=True).get(pk=owner_id)
            serial = SerialNumber.objects.select_for_update(no_key=True).get(pk=serial_id)
            if serial.user_id != owner_id:
                continue  # Redeemed in this very moment: begin again, with its owner first.
            taken = _take(serial, actor)
            record(
                actor=actor,
                event="serial.taken_back",
                target=serial,
                what=taken.what.value,
                seconds=taken.seconds,
                lease=taken.lease_id,
                reason=reason,
            )
            return taken


def _take(serial: SerialNumber, actor: User | None) -> TakenBack:
    if serial.status == SerialNumber.Status.REVOKED:
        return TakenBack(Taken.SERVED)
    used = serial.user_id is not None
    serial.status = SerialNumber.Status.REVOKED
    serial.save(update_fields=["status"])
    if not used:
        return TakenBack(Taken.REVOKED)
    term = _open_term_of(serial)
    if term is None:
        left = unserved_of([serial])[serial.pk]
        return TakenBack(Taken.CONVERTED if left.is_converted else Taken.SERVED)
    lease = locked_lease(term.lease_id)
    term.refresh_from_db()
    if term.state == LeaseTerm.State.DONE:
        return TakenBack(Taken.SERVED)
    seconds = _left_of(term)
    following = [one for one in open_terms(lease) if one.starts_at > term.starts_at]
    close_terms(lease, first=term)
    if not following and lease.ends_at <= now():
        lease.save(update_fields=["ends_at"])
        end_lease(lease_id=lease.pk, reason=Lease.EndReason.TAKEN_BACK, actor=actor)
        return TakenBack(Taken.DAYS, seconds, lease.pk)
    if following:
        lease.save(update_fields=["ends_at"])
        move_up(lease, following, actor=actor)
    else:
        # What was bought before goes on to its own end.
        lease.renewed_to = lease.ends_at
        lease.save(update_fields=["ends_at", "renewed_to"])
        follow(lease, actor=actor)
    mail_shortened(lease, dedup_key=f"taken-back:{serial.pk}")
    return TakenBack(Taken.DAYS, seconds, lease.pk)


def _open_term_of(serial: SerialNumber) -> LeaseTerm | None:
    """The term in which the serial's days are still running or to come: its own, or what that was moved up to."""
    mine = Q(serial=serial) | Q(origin__serial=serial)
    return LeaseTerm.objects.filter(mine).exclude(state=LeaseTerm.State.DONE).select_related("plan").last()


def _left_of(term: LeaseTerm) -> int:
    return max(int((term.ends_at - max(term.starts_at, now())).total_seconds()), 0)
