"""Redeeming a serial: what it would do, shown first; and doing it, exactly once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from django.db import transaction
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import notify, record
from derp_portal.lib.clock import days, now
from derp_portal.lib.errors import PortalError
from serials.models import Lease, LeaseTerm, Plan, SerialNumber

from .attempts import watched_look
from .leases import open_lease, tell_renewed, usable_leases
from .numbers import check_redeemable, find_serial
from .terms import append_term, close_terms, end_of_queue, open_terms


class How(StrEnum):
    """What to do with a serial's days when there is a lease already."""

    QUEUE = "queue"
    CONVERT = "convert"
    NEW = "new"


@dataclass(frozen=True, slots=True)
class Effect:
    """What redeeming in one way would do: which lease, from when the serial's plan counts, until when all lasts.

    `converted` is how long the remaining time of the other plans becomes under the serial's plan.
    """

    how: How
    lease: Lease | None
    starts_at: datetime
    ends_at: datetime
    is_other_plan: bool = False
    converted: timedelta | None = None

    @property
    def key(self) -> str:
        """Names this choice in a form."""
        return f"{self.how}:{self.lease.pk if self.lease else ''}"

    @property
    def leaves_quota(self) -> bool:
        """Whether a traffic quota is running that these days do not reset: people must know before and after."""
        is_added = self.lease is not None and self.how == How.QUEUE and self.lease.is_active
        return is_added and self.lease is not None and self.lease.relay_group.quota_bytes is not None


def preview(*, user: User, code: str, ip: str | None = None) -> tuple[SerialNumber, list[Effect]]:
    """The serial and the effects to choose from, the default first. Changes nothing.

    Raises RateLimited and SerialRefused as `activate` would.
    """
    with watched_look(user=user, ip=ip):
        serial = find_serial(code)
        check_redeemable(serial, by=user)
    duration = days(serial.duration_days)
    effects: list[Effect] = []
    for lease in usable_leases(user):
        terms = open_terms(lease)
        other = any(term.plan_id != serial.plan_id for term in terms)
        start = end_of_queue(lease)
        effects.append(Effect(How.QUEUE, lease, start, start + duration, is_other_plan=other))
        if other:
            converted = converted_time(terms, serial.plan)
            effects.append(Effect(How.CONVERT, lease, now(), now() + duration + converted, True, converted))
    effects.append(Effect(How.NEW, None, now(), now() + duration))
    return serial, effects


def converted_time(terms: list[LeaseTerm], plan: Plan) -> timedelta:
    """How long what is left of `terms` lasts under `plan`, by the worth of their days; whole seconds, never more."""
    moment = now()
    worth = sum(
        int((term.ends_at - max(term.starts_at, moment)).total_seconds()) * term.plan.day_value
        for term in terms
        if term.ends_at > moment
    )
    return timedelta(seconds=worth // plan.day_value)


def activate(
    *,
    user: User,
    code: str,
    how: How = How.QUEUE,
    lease_id: int | None = None,
    lease_name: str = "",
    actor: User | None = None,
    ip: str | None = None,
) -> tuple[SerialNumber, Lease]:
    """Redeem a serial for `user`. Exactly one activation of a serial ever wins; days add up, nothing is overwritten.

    Without `lease_id` the days go to the default lease of `usable_leases`, or to a new one if there is none. Raises
    RateLimited, SerialRefused (`serial_*`), PortalError `lease_not_found`, `account_inactive`; then nothing has
    changed.
    """
    with watched_look(user=user, ip=ip):
        return redeem(user=user, code=code, how=how, lease_id=lease_id, lease_name=lease_name, actor=actor or user)


def redeem(
    *,
    user: User,
    code: str,
    how: How = How.QUEUE,
    lease_id: int | None = None,
    lease_name: str = "",
    actor: User | None,
) -> tuple[SerialNumber, Lease]:
    """`activate` without a watch on guessers, for those who did not type the code: it was made for them just now."""
    with transaction.atomic():
        owner = User.objects.select_for_update(no_key=True).get(pk=user.pk)
        if not owner.is_active:
            # It may have been closed since the request began.
            raise PortalError(_("This account is switched off."), code="account_inactive", status=403)
        serial = find_serial(code, lock=True)
        check_redeemable(serial, by=owner)
        lease = None if how == How.NEW else _target(owner, lease_id)
        is_new = lease is None
        if lease is None:
            lease = open_lease(user=owner, name=lease_name, plan=serial.plan, actor=actor)
        serial.status, serial.user, serial.used_at = SerialNumber.Status.USED, owner, now()
        serial.save(update_fields=["status", "user", "used_at"])
        term = _add_days(serial, lease, how, actor)
        record(actor=actor, event="serial.activated", target=serial, lease=lease.pk, how=how.value, term=term.pk)
        _tell(lease, term, is_new=is_new)
    return serial, lease


def _target(owner: User, lease_id: int | None) -> Lease | None:
    usable = usable_leases(owner)
    if lease_id is None:
        chosen = usable[0] if usable else None
    else:
        chosen = next((lease for lease in usable if lease.pk == lease_id), None)
        if chosen is None:
            raise PortalError(
                _("There is no such lease of yours to extend. The serial number was not used."),
                code="lease_not_found",
                status=404,
            )
    if chosen is None:
        return None
    return Lease.objects.select_for_update(of=("self",), no_key=True).select_related("user").get(pk=chosen.pk)


def _add_days(serial: SerialNumber, lease: Lease, how: How, actor: User | None) -> LeaseTerm:
    """The serial's term; converting puts it first and the worth of everything else behind it."""
    converted = None
    if how == How.CONVERT:
        converted = converted_time(open_terms(lease), serial.plan)
        close_terms(lease)
    term = append_term(
        lease,
        plan=serial.plan,
        duration=days(serial.duration_days),
        source=LeaseTerm.Source.SERIAL,
        serial=serial,
        actor=actor,
    )
    if converted:
        append_term(lease, plan=serial.plan, duration=converted, source=LeaseTerm.Source.CONVERSION, actor=actor)
    return term


def _tell(lease: Lease, term: LeaseTerm, *, is_new: bool) -> None:
    if not is_new:
        tell_renewed(lease, term)
        return
    notify(
        kind="lease_started",
        dedup_key=f"lease-started:{lease.pk}",
        user=lease.user,
        context={"lease": lease.name, "ends_at": lease.ends_at},
        button_url="/dashboard/",
    )
