"""Who resells, who came by them, and whom the owners of leases see as their seller."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce

from accounts.models import User
from billing.models import Order, OrderLine
from billing.services.words import amount_of
from derp_portal.lib.clock import now
from derp_portal.lib.ids import id_in
from fleet.models import AclLog
from resellers.models import Attribution, LeaseContact, Level, Rate, Resale, Reseller
from resellers.services.commissions import NOT_COMMISSIONED
from resellers.services.wholesale import leases_from_stock
from serials.models import Lease
from serials.selectors import leases_in_full

REFUSALS_SHOWN = timedelta(days=30)
"""Older answers of a door help nobody who asks why a device cannot come in now."""


def reseller_of_user(user: User) -> Reseller | None:
    """The user as a reseller, whatever the state of it; None for one who has never applied."""
    return Reseller.objects.select_related("user", "level").filter(user=user).first()


def reseller_of_code(code: str) -> Reseller | None:
    """The active reseller whose link it is; None for a link that leads nowhere."""
    active = Reseller.objects.filter(state=Reseller.State.ACTIVE, code=code.lower())
    return active.select_related("user", "level").first()


def default_level() -> Level | None:
    """What new resellers begin with."""
    return Level.objects.filter(is_default=True).first()


def rates_of(level: Level) -> dict[int | None, int]:
    """The rates in basis points that hold now, by the plan's id; under None the one of every other plan."""
    moment = now()
    began = Q(valid_from=None) | Q(valid_from__lte=moment)
    lasts = Q(valid_until=None) | Q(valid_until__gt=moment)
    rates: dict[int | None, int] = {}
    for rate in Rate.objects.filter(began, lasts, level=level).order_by(F("valid_from").desc(nulls_last=True), "-id"):
        rates.setdefault(rate.plan_id, rate.basis_points)
    return rates


def customers_of(reseller: Reseller) -> QuerySet[Attribution]:
    """Whose customers are the reseller's now, the newest first, with their accounts."""
    return Attribution.objects.filter(reseller=reseller, until=None).select_related("user")


def orders_of_customers() -> QuerySet[Order]:
    """Orders that were paid as a customer: what somebody buys to sell on, or pays in, brings nobody anything."""
    lines = OrderLine.objects.filter(order=OuterRef("pk")).exclude(kind__in=NOT_COMMISSIONED)
    return Order.objects.filter(Exists(lines), paid_at__isnull=False)


def count_customers(reseller: Reseller) -> tuple[int, int]:
    """How many customers the reseller has, and how many of them have ever paid."""
    has_paid = Exists(orders_of_customers().filter(user=OuterRef("user")))
    found = customers_of(reseller).order_by().aggregate(all=Count("pk"), paying=Count("pk", filter=Q(has_paid)))
    return found["all"], found["paying"]


def customers_in_full(reseller: Reseller) -> QuerySet[Attribution]:
    """The same, with how many orders each has paid since (`paid_orders`)."""
    paid = orders_of_customers().filter(user=OuterRef("user"), paid_at__gte=OuterRef("since"))
    count = paid.order_by().values("user").annotate(count=Count("id")).values("count")
    return customers_of(reseller).annotate(paid_orders=Coalesce(Subquery(count), 0))


def leases_sold_by(reseller: Reseller) -> QuerySet[Lease]:
    """The leases whose owners see the reseller as their seller, with what a LeaseCard reads.

    `refused_at` and `refused_why` are of the last device that a relay of the lease turned away, if it was lately.
    """
    refused = AclLog.objects.filter(
        user=OuterRef("user"),
        relay__group=OuterRef("relay_group"),
        is_allowed=False,
        created_at__gt=now() - REFUSALS_SHOWN,
    ).order_by("-created_at")
    sold = leases_in_full(None).filter(reseller_contact__reseller=reseller).select_related("relay_group", "user")
    return sold.annotate(
        refused_at=Subquery(refused.values("created_at")[:1]), refused_why=Subquery(refused.values("reason")[:1])
    )


# --- the customer's side ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seller:
    """Whom the owner of a lease turns to. `price` is in words, "" when the reseller has not said what it was."""

    contact: str
    renewal_url: str
    price: str


def seller_of_lease(lease: Lease) -> Seller | None:
    """The reseller who sold the lease, as its owner is shown them; None where that is the portal itself.

    One who is not active any more, or has said neither who they are nor where one renews, is not shown.
    """
    reseller = _active_seller(lease.pk)
    if reseller is None or not (reseller.contact or reseller.renewal_url):
        return None
    resale = (
        Resale.objects.filter(sold__serial__term__lease=lease, sold__line__order__user=reseller.user_id, price__gt=0)
        .order_by("-sold_on", "-id")
        .first()
    )
    price = amount_of(lease.user, resale.price, resale.currency) if resale else ""
    # One line, whatever was typed: in a mail a paragraph of its own could pass for ours.
    return Seller(" ".join(reseller.contact.split()), reseller.renewal_url, price)


def seller_lines(lease: Lease) -> dict[str, str]:
    """The same for mails about the lease: `serials.services.notices.teach_seller` says how it is asked for."""
    seller = seller_of_lease(lease)
    if seller is None:
        return {}
    return {
        "seller_contact": seller.contact,
        "seller_price": seller.price,
        "seller_renewal_url": seller.renewal_url,
    }


def first_line_of_lease(key: str) -> User | None:
    """Who gets tickets about the lease of that id first: its seller while they are active, with or without a contact.

    `accounts.subjects.teach_first_line` says how it is asked for.
    """
    lease_id = id_in(key)
    reseller = _active_seller(lease_id) if lease_id else None
    return reseller.user if reseller else None


def _active_seller(lease_id: int) -> Reseller | None:
    """As it is noted, or will be: the sweep that notes whose customer a new lease is comes by once a minute."""
    noted = LeaseContact.objects.select_related("reseller__user").defer("reseller__payout_details")
    contact = noted.filter(lease=lease_id).first()
    if contact is None:
        found = leases_from_stock().filter(serial__term__lease=lease_id).values("line__order__user__reseller")
        reseller = (
            Reseller.objects.select_related("user").defer("payout_details").filter(pk=Subquery(found[:1])).first()
        )
    else:
        reseller = contact.reseller
    return reseller if reseller and reseller.state == Reseller.State.ACTIVE else None
