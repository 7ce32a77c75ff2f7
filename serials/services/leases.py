"""Leases: opening, renewing by staff, ending."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from django.db import transaction
from django.db.models import QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from accounts.models import User
from accounts.services import deactivate_user, notify, record
from derp_portal.lib.clock import FURTHEST, now
from derp_portal.lib.errors import PortalError
from fleet import services as fleet
from fleet.models import RelayGroup
from fleet.services import create_group
from fleet.services.groups import GroupTerms
from serials.models import Lease, LeaseTerm, Plan

from .notices import mail_renewed, seller_lines
from .terms import append_term, close_terms, end_of_queue, follow, last_term, move_up, open_terms

DEFAULT_NAME = gettext_noop("My relay")


def locked_lease(lease_id: int) -> Lease:
    """The lease with its user's row and its own locked, in that order. Raises Lease.DoesNotExist.

    Locked as an UPDATE locks, without the key: whoever only writes a row that names the user (an audit entry, while
    holding a relay group) is not kept waiting, which could otherwise go in a circle.
    """
    user_id = Lease.objects.values_list("user_id", flat=True).get(pk=lease_id)
    User.objects.select_for_update(no_key=True).get(pk=user_id)
    return Lease.objects.select_for_update(of=("self",), no_key=True).select_related("user").get(pk=lease_id)


def open_lease(*, user: User, name: str, plan: Plan, actor: User | None) -> Lease:
    """A new lease without terms yet; the caller adds the first one in the same transaction, with the user locked.

    An unnamed one is called after its number, so that no two of a user's leases read the same.
    """
    name = " ".join(name.split())[:60]
    if not name:
        number = Lease.objects.filter(user=user).count() + 1
        name = _(DEFAULT_NAME) if number == 1 else f"{_(DEFAULT_NAME)} {number}"
    moment = now()
    terms = GroupTerms(relay_count=plan.relay_count, region_ids=tuple(plan.regions.values_list("id", flat=True)))
    group = create_group(owner=user, label=name[:60], run_until=moment, terms=terms, actor=actor)
    return Lease.objects.create(
        user=user,
        name=name[:60],
        started_at=moment,
        ends_at=moment,
        renewed_at=moment,
        renewed_to=moment,
        active_since=moment,
        relay_group=group,
    )


def renew_lease(*, lease_id: int, until: datetime, actor: User) -> LeaseTerm | None:
    """Staff: let the lease run until `until` (exclusive), under its last plan; the customer is told by e-mail.

    The same moment twice adds nothing and returns None. Raises Lease.DoesNotExist, PortalError `date_too_early` when
    that would shorten it (ending is another verb), `date_too_far` after 2099, `lease_released` when its place has been
    given away.
    """
    _check_not_too_far(until)
    with transaction.atomic():
        lease = locked_lease(lease_id)
        if lease.released_at or lease.relay_group.released_at:
            raise PortalError(
                _("The place of this lease has been released. Open a new one instead."),
                code="lease_released",
                status=409,
            )
        if lease.is_active and until == lease.ends_at:
            return None
        start = end_of_queue(lease)
        if until <= start:
            raise PortalError(
                _("The lease already runs until then or longer. To shorten it, end it."),
                code="date_too_early",
                status=409,
                ends_at=lease.ends_at.isoformat(),
            )
        term = append_term(
            lease,
            plan=last_term(lease).plan,
            starts_at=start,
            duration=until - start,
            source=LeaseTerm.Source.STAFF,
            actor=actor,
        )
        record(actor=actor, event="lease.renewed", target=lease, until=until.isoformat())
        tell_renewed(lease, term)
    return term


def default_first(leases: Iterable[Lease]) -> list[Lease]:
    """Active leases before ended ones, the one that ends last first: the first is meant when none is named."""
    return sorted(leases, key=lambda lease: (not lease.is_active, -lease.ends_at.timestamp(), lease.pk))


def usable_leases(user: User) -> list[Lease]:
    """Leases that days can be added to: active ones, and ended ones whose place is reserved; the default first."""
    found = Lease.objects.filter(user=user, released_at=None, relay_group__released_at=None)
    return default_first(found.select_related("relay_group"))


def lease_to_renew(user: User) -> Lease | None:
    """The user's lease that goes on when staff renew the user; None when that opens a new one."""
    return next(iter(usable_leases(user)), None)


def renew_user(*, user_id: int, until: datetime, plan: Plan | None = None, actor: User) -> Lease:
    """Staff: renew the user to `until`: `lease_to_renew`, or a new lease when none is left to renew.

    Raises User.DoesNotExist and what `renew_lease` raises, PortalError `no_plan` for a new lease without a plan to use.
    """
    _check_not_too_far(until)
    with transaction.atomic():
        user = User.objects.select_for_update(no_key=True).get(pk=user_id)
        lease = lease_to_renew(user)
        if lease:
            renew_lease(lease_id=lease.pk, until=until, actor=actor)
            lease.refresh_from_db()
            return lease
        plan = plan or Plan.objects.filter(is_public=True).first()
        if plan is None:
            raise PortalError(_("There is no plan yet. Make one first."), code="no_plan", status=409)
        lease = open_lease(user=user, name="", plan=plan, actor=actor)
        start = end_of_queue(lease)
        if until <= start:
            raise PortalError(_("The end must lie in the future."), code="date_too_early", status=409)
        term = append_term(
            lease, plan=plan, starts_at=start, duration=until - start, source=LeaseTerm.Source.STAFF, actor=actor
        )
        record(actor=actor, event="lease.renewed", target=lease, until=until.isoformat())
        tell_renewed(lease, term)
    return lease


def _check_not_too_far(until: datetime) -> None:
    if until > FURTHEST:
        raise PortalError(_("That is too far away: a lease may run until the end of 2099."), code="date_too_far")


def tell_renewed(lease: Lease, term: LeaseTerm) -> None:
    """The "renewed" e-mail, once a term."""
    mail_renewed(lease, dedup_key=f"lease-renewed:{term.pk}")


def present_and_next_term(lease: Lease) -> tuple[LeaseTerm | None, LeaseTerm | None]:
    """The term that runs and the one after it; None where there is none."""
    terms = open_terms(lease) if lease.is_active else []
    return (terms[0] if terms else None), (terms[1] if terms[1:] else None)


def start_next_term(*, lease_id: int, term_id: int, actor: User) -> LeaseTerm:
    """End the current term now and begin the next one, `term_id`, with its own quota; later ones move up with it.

    What was left of the current term is given up. `term_id` is what the reader saw as the next one, so that a second
    click does not start the one after it. Raises Lease.DoesNotExist, PortalError `not_next_term`.
    """
    with transaction.atomic():
        lease = locked_lease(lease_id)
        terms = open_terms(lease)
        queued = terms[1:]
        if not lease.is_active or not queued or queued[0].pk != term_id:
            raise PortalError(
                _("That is not the term that comes next. Nothing was changed."), code="not_next_term", status=409
            )
        given_up = terms[0].ends_at - now()
        close_terms(lease)
        started = move_up(lease, queued, actor=actor)
        record(
            actor=actor,
            event="lease.next_term_started",
            target=lease,
            term=started[0].pk,
            given_up_seconds=int(given_up.total_seconds()),
        )
    return started[0]


def end_lease(*, lease_id: int, reason: Lease.EndReason, note: str = "", actor: User | None) -> Lease:
    """End the lease now and let its relays go; their place stays reserved for a while. Ending twice is fine.

    `note` is for the audit trail, in the actor's own words. Raises Lease.DoesNotExist. Does not wait for the
    containers.
    """
    with transaction.atomic():
        lease = locked_lease(lease_id)
        if not lease.is_active:
            return lease  # A second sweep may arrive.
        close_terms(lease)
        lease.status = Lease.Status.EXPIRED if reason == Lease.EndReason.EXPIRED else Lease.Status.ENDED
        lease.ended_at, lease.end_reason = now(), reason
        lease.save(update_fields=["status", "ended_at", "end_reason", "ends_at"])
        follow(lease, actor=actor)
        record(actor=actor, event="lease.ended", target=lease, reason=reason.value, note=note)
        notify(
            kind="lease_ended",
            dedup_key=f"lease-ended:{lease.pk}:{lease.ended_at.isoformat()}",
            user=lease.user,
            context={
                "lease": lease.name,
                "ended_at": lease.ended_at,
                "was_taken_back": reason == Lease.EndReason.TAKEN_BACK,
                **seller_lines(lease),
            },
            button_url="/redeem/",
        )
    return lease


def rename_lease(*, lease_id: int, name: str, actor: User) -> Lease:
    """Give the lease another name. Raises PortalError `invalid_name` for an empty one."""
    name = " ".join(name.split())[:60]
    if not name:
        raise PortalError(_("Please give it a name."), code="invalid_name")
    with transaction.atomic():
        lease = locked_lease(lease_id)
        lease.name = name
        lease.save(update_fields=["name"])
        record(actor=actor, event="lease.renamed", target=lease, name=name)
    return lease


def close_account(*, user_id: int, actor: User) -> None:
    """End all the user's leases, release relays given by hand, lock the account; history stays. Twice is fine."""
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=user_id)
        active = Lease.objects.filter(user_id=user_id, status=Lease.Status.ACTIVE)
        leases = dict(active.values_list("relay_group_id", "id"))
        # In the order in which whoever counts their traffic locks the groups.
        for group_id in sorted({*leases, *groups_by_hand(user_id).values_list("id", flat=True)}):
            if group_id in leases:
                end_lease(lease_id=leases[group_id], reason=Lease.EndReason.ACCOUNT_CLOSED, actor=actor)
            else:
                fleet.release_group(group_id=group_id, actor=actor)
        deactivate_user(user_id=user_id, actor=actor)


def groups_by_hand(user_id: int) -> QuerySet[RelayGroup]:
    """The user's relays that no lease stands behind and that are not released: no end of a lease stops them."""
    return RelayGroup.objects.filter(owner_id=user_id, lease=None, released_at=None)


def release_relay(*, relay_id: int, actor: User | None) -> None:
    """Staff: release one relay for good, place and identity. Releasing twice is fine.

    Raises Relay.DoesNotExist, and PortalError `lease_active` for a relay that a lease wants running: it would be
    missing from the customer's map while their days go on.
    """
    with transaction.atomic():
        lease_id = Lease.objects.filter(relay_group__relays=relay_id).values_list("id", flat=True).first()
        lease = locked_lease(lease_id) if lease_id is not None else None
        if lease and lease.is_active:
            raise PortalError(
                _("This relay belongs to a lease that still runs. End the lease first."),
                code="lease_active",
                status=409,
                lease_id=lease.pk,
            )
        fleet.release_relay(relay_id=relay_id, actor=actor)
        if lease and not lease.released_at and lease.relay_group.released_at:
            lease.released_at = now()
            lease.save(update_fields=["released_at"])
