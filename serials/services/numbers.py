"""Serial numbers: making, finding and revoking them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from django.db import transaction
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import record
from derp_portal.lib.clock import FURTHEST, now
from derp_portal.lib.errors import PortalError
from serials.codes import canonical, is_well_formed, new_code
from serials.models import LONGEST_DAYS, Plan, SerialBatch, SerialNumber

MOST_AT_ONCE = 100_000
CHUNK = 5000


class SerialRefused(PortalError):
    """The serial cannot be redeemed; nothing was changed. `code` says why."""


def generate(
    *,
    count: int,
    plan: Plan | None = None,
    duration_days: int | None = None,
    activate_before: datetime | None = None,
    note: str = "",
    actor: User | None,
) -> SerialBatch:
    """Make `count` unused serials of a plan. Without `duration_days` they are worth the plan's days.

    Without `plan` it is the shown plan of just those days, or else the first shown one. Raises PortalError
    `invalid_count`, `invalid_days`, `invalid_activate_before`, `no_plan`; then none was made.
    """
    if not 1 <= count <= MOST_AT_ONCE:
        raise PortalError(
            _("Between 1 and %(most)s serials can be made at once.") % {"most": MOST_AT_ONCE}, code="invalid_count"
        )
    plan = plan or _plan_for(duration_days)
    days = plan.days if duration_days is None else duration_days
    if not 1 <= days <= LONGEST_DAYS:
        raise PortalError(
            _("A serial is worth between 1 and %(most)s days.") % {"most": LONGEST_DAYS}, code="invalid_days"
        )
    if activate_before is not None and not now() < activate_before <= FURTHEST:
        raise PortalError(
            _("The last day to redeem must lie in the future, and before the year 2100."),
            code="invalid_activate_before",
        )
    with transaction.atomic():
        batch = SerialBatch.objects.create(
            plan=plan,
            duration_days=days,
            count=count,
            activate_before=activate_before,
            note=note[:200],
            created_by=actor,
        )
        for start in range(0, count, CHUNK):
            SerialNumber.objects.bulk_create(
                SerialNumber(code=new_code(), batch=batch, plan=plan, duration_days=days, expires_at=activate_before)
                for _number in range(min(CHUNK, count - start))
            )
        record(actor=actor, event="serials.generated", target=batch, count=count, plan=plan.code, days=days)
    return batch


def _plan_for(duration_days: int | None) -> Plan:
    shown = Plan.objects.filter(is_public=True)
    fitting = shown.filter(days=duration_days).first() if duration_days is not None else None
    plan = fitting or shown.first()
    if plan is None:
        raise PortalError(_("There is no plan yet. Make one first."), code="no_plan", status=409)
    return plan


def revoke_serials(*, serials: Iterable[int], actor: User | None) -> int:
    """Make unused serials worthless, by id. Used and expired ones are left alone. Returns how many were revoked."""
    with transaction.atomic():
        ids = list(serials)
        revoked = 0
        for start in range(0, len(ids), CHUNK):
            unused = SerialNumber.objects.filter(pk__in=ids[start : start + CHUNK], status=SerialNumber.Status.UNUSED)
            revoked += unused.update(status=SerialNumber.Status.REVOKED)
        if revoked:
            record(actor=actor, event="serials.revoked", target=actor, count=revoked, ids=ids[:1000])
    return revoked


def find_serial(text: str, *, lock: bool = False) -> SerialNumber:
    """The serial that `text` names, however it was typed. Raises SerialRefused `serial_unknown`, `serial_malformed`.

    A malformed code is looked up like any other, so that time and queries tell nothing about which codes exist.
    """
    code = canonical(text)
    queryset = SerialNumber.objects.select_for_update(of=("self",), no_key=True) if lock else SerialNumber.objects.all()
    serial = queryset.select_related("plan").filter(code=code).first()
    if serial is not None:
        return serial
    if is_well_formed(code):
        raise SerialRefused(
            _("We do not know this serial number. Please check it against what you received."),
            code="serial_unknown",
            status=404,
        )
    raise SerialRefused(
        _("This is not a valid serial number: one of its 24 letters and digits is missing or mistyped."),
        code="serial_malformed",
        status=400,
    )


def check_redeemable(serial: SerialNumber, *, by: User) -> None:
    """Raises SerialRefused `serial_revoked`, `serial_yours`, `serial_used` or `serial_expired`."""
    if serial.status == SerialNumber.Status.REVOKED:
        raise SerialRefused(
            _("This serial number has been withdrawn by the seller. Please ask where you bought it."),
            code="serial_revoked",
            status=410,
        )
    if serial.user_id == by.pk:
        raise SerialRefused(
            _("You have redeemed this serial number already. Its days are on your lease."),
            code="serial_yours",
            status=409,
        )
    if serial.user_id is not None or serial.status == SerialNumber.Status.USED:
        raise SerialRefused(
            _("This serial number has been used already, by another account. Please ask where you bought it."),
            code="serial_used",
            status=409,
        )
    if serial.status == SerialNumber.Status.EXPIRED or (serial.expires_at and serial.expires_at <= now()):
        raise SerialRefused(
            _("The last day to redeem this serial number has passed. Please ask where you bought it."),
            code="serial_expired",
            status=410,
        )
