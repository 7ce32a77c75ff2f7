"""The queue of terms of one lease: adding to it, moving along it, closing it. Callers hold user and lease locked."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import F, Max, Q, QuerySet

from accounts.models import User
from accounts.services import set_rental_expiry
from derp_portal.lib.clock import now
from fleet.models import Outage, RelayGroup, Wanted
from fleet.services import GroupTerms, set_group
from fleet.services.outages import BLIP
from serials.models import Binding, Lease, LeaseTerm, Plan, SerialNumber

KEEP_PLACE = timedelta(days=14)
"""How long identity and port of an ended lease stay reserved, so that a late renewal needs no new map."""


def open_terms(lease: Lease) -> list[LeaseTerm]:
    """The current term and those to come, in order."""
    return list(
        lease.terms.exclude(state=LeaseTerm.State.DONE)
        .select_related("plan", "serial", "origin__serial")
        .order_by("starts_at")
    )


def last_term(lease: Lease) -> LeaseTerm:
    """The last of the queue, or the term added last when none is open: its plan goes on when days name none.

    A term that was closed early counts only then: it may have been taken back, and still has its old dates.
    """
    terms = open_terms(lease)
    return terms[-1] if terms else lease.terms.select_related("plan").latest("id")


def uncredited_outages() -> QuerySet[Outage]:
    """Outages that stopped a lease's clock and have not been made up for: still open, or long enough and over.

    What was over before the lease last came back to life is owed no more: it was taken away with the rest.
    """
    is_long_enough = Q(ended_at__gte=F("started_at") + BLIP)
    over = is_long_enough & Q(ended_at__gt=F("group__lease__active_since"))
    return Outage.objects.filter(Q(ended_at=None) | over, term=None)


def end_of_queue(lease: Lease) -> datetime:
    """Where a new term would start: at the end of the lease, or now if that has passed.

    While the lease's clock stands its end has not passed, whatever the date: what is added, the making up for the
    outage included, goes on from there, and the customer gets exactly what was owed.
    """
    moment = now()
    if lease.ends_at >= moment:
        return lease.ends_at
    is_owed = lease.is_active and uncredited_outages().filter(group=lease.relay_group_id).exists()
    return lease.ends_at if is_owed else moment


def append_term(
    lease: Lease,
    *,
    plan: Plan,
    duration: timedelta,
    source: LeaseTerm.Source,
    starts_at: datetime | None = None,
    serial: SerialNumber | None = None,
    outage: Outage | None = None,
    origin: LeaseTerm | None = None,
    actor: User | None,
) -> LeaseTerm:
    """Add a term, bind it, and let the relays follow. An ended lease comes back to life.

    It starts at `end_of_queue`; who has asked for that already, and counted from it, names it in `starts_at`.
    """
    starts_at = starts_at or end_of_queue(lease)
    _move_along(lease)  # One whose time ran out a moment ago must not keep the new term waiting.
    has_current = lease.terms.filter(state=LeaseTerm.State.CURRENT).exists()
    term = LeaseTerm.objects.create(
        lease=lease,
        plan=plan,
        starts_at=starts_at,
        ends_at=starts_at + duration,
        state=LeaseTerm.State.QUEUED if has_current else LeaseTerm.State.CURRENT,
        source=source,
        serial=serial,
        outage=outage,
        origin=origin,
        actor=actor,
    )
    Binding.objects.create(user_id=lease.user_id, serial=serial, term=term, relay_group_id=lease.relay_group_id)
    if serial is not None:
        serial.expires_at = term.ends_at
        serial.save(update_fields=["expires_at"])
    lease.ends_at = term.ends_at
    fields = ["ends_at"]
    if not lease.is_active:
        lease.status, lease.ended_at, lease.end_reason = Lease.Status.ACTIVE, None, ""
        lease.active_since = now()
        fields += ["status", "ended_at", "end_reason", "active_since"]
    if source != LeaseTerm.Source.COMPENSATION:
        lease.renewed_at, lease.renewed_to = now(), term.ends_at
        fields += ["renewed_at", "renewed_to"]
    lease.save(update_fields=fields)
    follow(lease, actor=actor)
    return term


def close_terms(lease: Lease, *, first: LeaseTerm | None = None) -> list[LeaseTerm]:
    """Close every open term, or those from `first` on, and with them the lease's time; their serials have nothing
    left to give.

    Returns what was closed. The caller saves the lease.
    """
    closed = [term for term in open_terms(lease) if first is None or term.starts_at >= first.starts_at]
    moment = now()
    for term in closed:
        if term.ends_at > moment:
            term.closed_at = moment
        term.state = LeaseTerm.State.DONE
        term.save(update_fields=["closed_at", "state"])
        serial = term.serial or (term.origin.serial if term.origin else None)
        if serial and term.closed_at:
            serial.expires_at = moment
            serial.save(update_fields=["expires_at"])
    lease.ends_at = min(lease.ends_at, max(moment, first.starts_at) if first else moment)
    return closed


def move_up(lease: Lease, terms: list[LeaseTerm], *, actor: User | None) -> list[LeaseTerm]:
    """Let closed `terms`, which were all to come, follow the end of the lease one after the other, whole.

    Their serials, where they came from one, end with the days that they gave.
    """
    moved = []
    for term in terms:
        origin = term.origin or term
        brought = append_term(
            lease,
            plan=term.plan,
            duration=term.ends_at - term.starts_at,
            source=LeaseTerm.Source.BROUGHT_FORWARD,
            origin=origin,
            actor=actor,
        )
        moved.append(brought)
        if origin.serial:
            origin.serial.expires_at = brought.ends_at
            origin.serial.save(update_fields=["expires_at"])
    return moved


def advance(lease: Lease, *, actor: User | None) -> LeaseTerm | None:
    """Finish terms whose end has passed and make the next one current. Returns the current one, or None."""
    current = _move_along(lease)
    if current:
        follow(lease, actor=actor)
    return current


def _move_along(lease: Lease) -> LeaseTerm | None:
    moment = now()
    current = None
    for term in open_terms(lease):
        if term.ends_at <= moment:
            state = LeaseTerm.State.DONE
        else:
            state = LeaseTerm.State.QUEUED if current else LeaseTerm.State.CURRENT
            current = current or term
        if state != term.state:
            term.state = state
            term.save(update_fields=["state"])
    return current


def quota_start(term: LeaseTerm) -> datetime:
    """From when the term's traffic counts: making up for an outage gives time back, not a fresh quota."""
    if not term.makes_up:
        return term.starts_at
    compensation = LeaseTerm.Source.COMPENSATION
    before = (
        term.lease.terms.filter(starts_at__lt=term.starts_at)
        .exclude(Q(source=compensation) | Q(origin__source=compensation))
        # Brought forward or taken back before it began: its dates are those of a term that never was.
        .exclude(closed_at__lte=F("starts_at"))
    )
    return before.order_by("starts_at").values_list("starts_at", flat=True).last() or term.starts_at


def group_terms(term: LeaseTerm) -> GroupTerms:
    """What the term's plan asks of the fleet."""
    plan = term.plan
    return GroupTerms(
        relay_count=plan.relay_count,
        region_ids=tuple(plan.regions.values_list("id", flat=True)),
        speed=plan.speed_bytes_per_second,
        quota_bytes=plan.quota_bytes,
        period=(quota_start(term), term.ends_at),
        is_monthly=plan.quota_period == plan.QuotaPeriod.MONTH,
        priority=plan.priority,
        fails_open=plan.fails_open,
        max_devices=plan.max_devices,
    )


def follow(lease: Lease, *, actor: User | None) -> None:
    """Write down for the fleet what the lease wants now, and keep the user's `rental_expiry` in step."""
    current = lease.terms.filter(state=LeaseTerm.State.CURRENT).select_related("plan", "origin").first()
    if RelayGroup.objects.filter(pk=lease.relay_group_id, released_at__isnull=False).exists():
        pass  # Staff gave its relays back by hand: the lease goes on to its end and wants nothing of the fleet.
    elif lease.is_active and current:
        set_group(
            group_id=lease.relay_group_id,
            wanted=Wanted.RUNNING,
            run_until=lease.ends_at,
            terms=group_terms(current),
            actor=actor,
        )
    else:
        set_group(group_id=lease.relay_group_id, wanted=Wanted.STOPPED, reason=lease.end_reason, actor=actor)
    latest = Lease.objects.filter(user_id=lease.user_id, status=Lease.Status.ACTIVE).aggregate(end=Max("ends_at"))
    set_rental_expiry(user_id=lease.user_id, expiry=latest["end"])
