"""Mails about a lease: it ends soon and it is renewed, which staff may send again; it ends earlier than it did."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from datetime import timedelta

from django.db import transaction
from django.utils.translation import gettext as _

from accounts.models import Notification, User
from accounts.services import notify, record
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from serials.models import Lease

SellerLines = Callable[[Lease], dict[str, str]]
_finders: list[SellerLines] = []


def teach_seller(find: SellerLines) -> None:
    """Called once at the start by the room above that knows who sold a lease.

    `find` gives, where it is not the portal itself, `seller_contact`, `seller_price` and `seller_renewal_url`, each in
    one line or "". The mails about a lease then name them.
    """
    _finders[:] = [find]


def seller_lines(lease: Lease) -> dict[str, str]:
    """What mails about the lease say of who sold it; nothing where no room above knows."""
    return {name: said for find in _finders for name, said in find(lease).items()}


def send_notice(*, lease_id: int, kind: Lease.Notice, actor: User) -> Notification:
    """Staff: tell the customer now, by e-mail, that the lease ends soon or that it is renewed. Each call sends one.

    The reminders that go out by themselves are sent all the same. Raises Lease.DoesNotExist, and PortalError
    `lease_ended` for a lease that is not active: either mail would be untrue.
    """
    with transaction.atomic():
        lease = Lease.objects.select_related("user").get(pk=lease_id)
        if not lease.is_active:
            raise PortalError(
                _("This lease has ended; the customer was told so. Nothing was sent."), code="lease_ended", status=409
            )
        dedup_key = f"lease-notice:{uuid.uuid4()}"
        if kind == Lease.Notice.REMINDER:
            left = math.ceil((lease.ends_at - now()) / timedelta(days=1))
            sent = mail_reminder(lease, days=max(left, 1), dedup_key=dedup_key)
        else:
            sent = mail_renewed(lease, dedup_key=dedup_key)
        assert sent is not None  # The key is a new one.
        record(actor=actor, event="lease.notice_sent", target=lease, kind=kind.value, notification=sent.pk)
    return sent


def mail_reminder(lease: Lease, *, days: int, dedup_key: str) -> Notification | None:
    """The mail that the lease ends in so many days; None when `dedup_key` was used before."""
    return notify(
        kind="lease_reminder",
        dedup_key=dedup_key,
        user=lease.user,
        context={"lease": lease.name, "ends_at": lease.ends_at, "days": days, **seller_lines(lease)},
        button_url="/redeem/",
    )


def mail_renewed(lease: Lease, *, dedup_key: str) -> Notification | None:
    """The mail that the lease is renewed; None when `dedup_key` was used before."""
    return notify(
        kind="lease_renewed",
        dedup_key=dedup_key,
        user=lease.user,
        context={"lease": lease.name, "ends_at": lease.ends_at, **seller_lines(lease)},
        button_url="/dashboard/",
    )


def mail_shortened(lease: Lease, *, dedup_key: str) -> Notification | None:
    """The mail that days of the lease were taken back and it goes on until then; None when `dedup_key` was used."""
    return notify(
        kind="lease_shortened",
        dedup_key=dedup_key,
        user=lease.user,
        context={"lease": lease.name, "ends_at": lease.ends_at, **seller_lines(lease)},
        button_url="/dashboard/",
    )
