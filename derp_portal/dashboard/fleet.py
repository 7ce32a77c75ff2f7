"""What of the fleet and its customers needs attention, its figures, its room, and what runs out when."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db.models import Count, F, Min, Q
from django.utils.translation import gettext as _

from accounts.models import Notification, User
from derp_portal.lib.clock import now
from fleet.models import Outage, Relay, Server, Wanted
from fleet.selectors import in_trouble, relays, servers, why_in_trouble
from fleet.words import trouble
from serials.models import Lease, Plan, SerialNumber

from .shapes import PACE, SHOWN, SOON, Attention, Figure, Item, RegionRoom, list_link, page_link


def unhealthy_servers() -> Attention:
    found = Server.objects.filter(status=Server.Status.UNHEALTHY)
    return Attention(
        title=_("Unhealthy servers"),
        icon="dns",
        link=list_link("fleet_server", "status__exact=unhealthy"),
        count=found.count(),
        items=[
            Item(server.name, trouble(server.error_code), page_link("fleet_server", server.pk), server.error_since)
            for server in found.order_by(F("error_since").asc(nulls_last=True))[:SHOWN]
        ],
    )


def relays_in_trouble() -> Attention:
    found = relays().filter(in_trouble())
    return Attention(
        title=_("Relays in trouble"),
        icon="emergency",
        link=list_link("fleet_relay", "trouble=yes"),
        count=found.count(),
        items=[
            Item(
                f"{relay.code} · {relay.owner}",
                why_in_trouble(relay),
                page_link("fleet_relay", relay.pk),
                relay.trouble_since,
            )
            for relay in found.order_by(F("trouble_since").asc(nulls_last=True), "id")[:SHOWN]
        ],
    )


def open_outages() -> Attention:
    found = Outage.objects.filter(ended_at=None).select_related("group__owner")
    return Attention(
        title=_("Customers without a relay"),
        icon="cloud_off",
        link=list_link("fleet_outage", "open=yes"),
        count=found.count(),
        items=[
            Item(
                f"{outage.group.owner} · {outage.group}",
                trouble(outage.cause),
                page_link("fleet_outage", outage.pk),
                outage.started_at,
            )
            for outage in found.order_by("started_at")[:SHOWN]
        ],
    )


def failed_mails() -> Attention:
    found = Notification.objects.filter(status=Notification.Status.FAILED)
    return Attention(
        title=_("Mails that could not be sent"),
        icon="unsubscribe",
        link=list_link("accounts_notification", "status__exact=failed"),
        count=found.count(),
        items=[
            Item(mail.recipient, mail.last_error[:160], page_link("accounts_notification", mail.pk), mail.created_at)
            for mail in found.order_by("-created_at")[:SHOWN]
        ],
    )


def figures() -> list[Figure]:
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
    unused = SerialNumber.objects.filter(status=SerialNumber.Status.UNUSED, sale=None).count()
    waiting = _("%(count)s wait for a place") % {"count": fleet["waiting"]} if fleet["waiting"] else ""
    return [
        Figure(
            _("Users"),
            str(users["all"]),
            list_link("accounts_user"),
            _("%(count)s new in 7 days") % {"count": users["new"]},
        ),
        Figure(_("Active leases"), str(leases["running"]), list_link("serials_lease", "status__exact=active")),
        Figure(_("Leases that end within 7 days"), str(leases["soon"]), list_link("serials_lease", "ends=7")),
        Figure(
            _("Relays running of those wanted"),
            f"{fleet['up']} / {fleet['due']}",
            list_link("fleet_relay", "wanted__exact=running&released=no"),
            waiting,
        ),
        Figure(_("Unsold serials"), str(unused), list_link("serials_serialnumber", "status__exact=unused")),
    ]


def rooms() -> list[RegionRoom]:
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


def stock() -> Iterable[Plan]:
    """Plans with `unused` serials that nobody has bought, the scarcest first; and the first last day to redeem some."""
    unused = Q(serials__status=SerialNumber.Status.UNUSED, serials__sale=None)
    counted = Plan.objects.annotate(
        unused=Count("serials", filter=unused), first_end=Min("serials__expires_at", filter=unused)
    )
    return counted.filter(unused__gt=0).order_by("unused", "id")


def ending() -> list[Lease]:
    """The active leases that end first."""
    return list(
        Lease.objects.filter(status=Lease.Status.ACTIVE, ends_at__lte=now() + SOON)
        .select_related("user")
        .order_by("ends_at")[: 2 * SHOWN]
    )
