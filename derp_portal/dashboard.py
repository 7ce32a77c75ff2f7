"""The operator's home: what needs attention first, today's figures, then room by region and what runs out when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, F, Min, Q
from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _

from accounts.models import Notification, User
from derp_portal.lib.clock import now
from fleet.models import Outage, Relay, Server, Wanted
from fleet.selectors import in_trouble, relays, servers, why_in_trouble
from fleet.words import trouble
from serials.models import Lease, Plan, SerialNumber

SHOWN = 5
SOON = timedelta(days=7)
PACE = timedelta(days=30)
"""How far back the pace is taken at which places fill."""
NEEDED = ("fleet.view_server", "fleet.view_relay", "serials.view_lease", "serials.view_serialnumber")


@dataclass(frozen=True, slots=True)
class Item:
    """Something that needs attention."""

    title: str
    reason: str
    link: str
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Attention:
    """Things of one kind that need attention: the first few, how many there are, and where the rest is."""

    title: str
    icon: str
    link: str
    count: int
    items: list[Item]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of today, with where it comes from."""

    title: str
    value: str
    link: str
    note: str = ""


@dataclass(slots=True)
class RegionRoom:
    """Places for relays in one region: taken of those there are, and in how many days they are full at this pace."""

    name: str
    servers: int = 0
    taken: int = 0
    places: int = 0
    pace: int = field(default=0, repr=False)

    @property
    def share(self) -> int:
        """Percent taken, 100 at most."""
        return min(round(100 * self.taken / self.places), 100) if self.places else 100

    @property
    def days_left(self) -> int | None:
        """None when it does not fill, or not within a year."""
        if not self.pace or not self.places:
            return None
        left = max(self.places - self.taken, 0) * PACE.days // self.pace
        return left if left <= 365 else None


def operator_dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Fill the admin's first page, in a number of queries that does not grow with the rows.

    Staff who may not look at servers, relays, leases and serials see the lists they may open, and no figures.
    """
    if not request.user.has_perms(NEEDED):
        return context
    kinds = [_unhealthy_servers(), _relays_in_trouble(), _open_outages(), _failed_mails()]
    return {
        **context,
        "title": _("Overview"),
        "attention": [kind for kind in kinds if kind.count],
        "figures": _figures(),
        "rooms": _rooms(),
        "stock": _stock(),
        "ending": _ending(),
        "has_figures": True,
    }


def _list(name: str, query: str = "") -> str:
    return reverse(f"admin:{name}_changelist") + (f"?{query}" if query else "")


def _page(name: str, pk: int) -> str:
    return reverse(f"admin:{name}_change", args=[pk])


def _unhealthy_servers() -> Attention:
    found = Server.objects.filter(status=Server.Status.UNHEALTHY)
    return Attention(
        title=_("Unhealthy servers"),
        icon="dns",
        link=_list("fleet_server", "status__exact=unhealthy"),
        count=found.count(),
        items=[
            Item(server.name, trouble(server.error_code), _page("fleet_server", server.pk), server.error_since)
            for server in found.order_by(F("error_since").asc(nulls_last=True))[:SHOWN]
        ],
    )


def _relays_in_trouble() -> Attention:
    found = relays().filter(in_trouble())
    return Attention(
        title=_("Relays in trouble"),
        icon="emergency",
        link=_list("fleet_relay", "trouble=yes"),
        count=found.count(),
        items=[
            Item(
                f"{relay.code} · {relay.owner}",
                why_in_trouble(relay),
                _page("fleet_relay", relay.pk),
                relay.trouble_since,
            )
            for relay in found.order_by(F("trouble_since").asc(nulls_last=True), "id")[:SHOWN]
        ],
    )


def _open_outages() -> Attention:
    found = Outage.objects.filter(ended_at=None).select_related("group__owner")
    return Attention(
        title=_("Customers without a relay"),
        icon="cloud_off",
        link=_list("fleet_outage", "open=yes"),
        count=found.count(),
        items=[
            Item(
                f"{outage.group.owner} · {outage.group}",
                trouble(outage.cause),
                _page("fleet_outage", outage.pk),
                outage.started_at,
            )
            for outage in found.order_by("started_at")[:SHOWN]
        ],
    )


def _failed_mails() -> Attention:
    found = Notification.objects.filter(status=Notification.Status.FAILED)
    return Attention(
        title=_("Mails that could not be sent"),
        icon="unsubscribe",
        link=_list("accounts_notification", "status__exact=failed"),
        count=found.count(),
        items=[
            Item(mail.recipient, mail.last_error[:160], _page("accounts_notification", mail.pk), mail.created_at)
            for mail in found.order_by("-created_at")[:SHOWN]
        ],
    )


def _figures() -> list[Figure]:
    active = Q(status=Lease.Status.ACTIVE)
    leases = Lease.objects.aggregate(
        running=Count("id", filter=active), soon=Count("id", filter=active & Q(ends_at__lte=now() + SOON))
    )
    users = User.objects.aggregate(
        all=Count("id", filter=Q(is_active=True)),
        new=Count("id", filter=Q(is_active=True, created_at__gte=now() - SOON)),
    )
    live = Q(released_at=None, wanted=Wanted.RUNNING)
    fleet = Relay.objects.aggregate(
        due=Count("id", filter=live),
        up=Count("id", filter=live & Q(observed_state=Relay.Observed.RUNNING)),
        waiting=Count("id", filter=live & Q(server=None)),
    )
    unused = SerialNumber.objects.filter(status=SerialNumber.Status.UNUSED).count()
    waiting = _("%(count)s wait for a place") % {"count": fleet["waiting"]} if fleet["waiting"] else ""
    return [
        Figure(
            _("Users"),
            str(users["all"]),
            _list("accounts_user"),
            _("%(count)s new in 7 days") % {"count": users["new"]},
        ),
        Figure(_("Active leases"), str(leases["running"]), _list("serials_lease", "status__exact=active")),
        Figure(_("Leases that end within 7 days"), str(leases["soon"]), _list("serials_lease", "ends=7")),
        Figure(
            _("Relays running of those wanted"),
            f"{fleet['up']} / {fleet['due']}",
            _list("fleet_relay", "wanted__exact=running&released=no"),
            waiting,
        ),
        Figure(_("Unused serials"), str(unused), _list("serials_serialnumber", "status__exact=unused")),
    ]


def _rooms() -> list[RegionRoom]:
    """Room by region, the fullest first. Servers that take no relays now give no places."""
    rooms: dict[int, RegionRoom] = {}
    hosts: Iterable[Any] = servers()
    for server in hosts:
        room = rooms.setdefault(server.region_id, RegionRoom(server.region.local_name))
        room.servers += 1
        room.taken += server.carried
        if server.is_enabled and server.status == Server.Status.HEALTHY:
            room.places += server.max_relays
    new = Relay.objects.filter(released_at=None, server__isnull=False, created_at__gte=now() - PACE)
    for region_id, count in new.order_by().values_list("server__region_id").annotate(count=Count("id")):
        rooms[region_id].pace = count
    return sorted(rooms.values(), key=lambda room: (-room.share, room.name))


def _stock() -> Iterable[Plan]:
    """Plans with `unused` serials, the scarcest first, and the first last day to redeem some of them."""
    unused = Q(serials__status=SerialNumber.Status.UNUSED)
    counted = Plan.objects.annotate(
        unused=Count("serials", filter=unused), first_end=Min("serials__expires_at", filter=unused)
    )
    return counted.filter(unused__gt=0).order_by("unused", "id")


def _ending() -> list[Lease]:
    """The active leases that end first."""
    return list(
        Lease.objects.filter(status=Lease.Status.ACTIVE, ends_at__lte=now() + SOON)
        .select_related("user")
        .order_by("ends_at")[: 2 * SHOWN]
    )
