"""Reading what was granted: plans, serials, terms, leases as their owners see them. A fixed number of queries each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property

from django.db.models import Prefetch, Q, QuerySet
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from accounts.models import User
from derp_portal.lib.clock import now
from fleet.derp.map import NodeSpec, headscale_yaml, policy_snippet
from fleet.models import Move, Outage, Relay, RelayGroup, RelayHealth, Wanted
from fleet.monitoring.uptime import percent, with_uptime
from fleet.selectors import (
    STATE_WORDS,
    RelayState,
    is_map_stale,
    latest_move,
    map_digest,
    map_url_of,
    node_of,
    omits_default,
    polls_its_map,
    relay_state,
    why_in_trouble,
    with_latest_move,
)
from fleet.services.quotas import Usage, usage_of
from fleet.traffic import is_stopped_for_quota, tone_of
from serials.codes import canonical
from serials.models import Lease, LeaseTerm, Plan, SerialNumber
from serials.services.leases import default_first
from serials.services.terms import KEEP_PLACE

SOON = timedelta(days=7)
VERY_SOON = timedelta(days=1)
IN_HOURS = timedelta(days=2)
MOVE_SHOWN_FOR = timedelta(days=14)
"""For so long a relay's card says that it has moved; the history says so for ever."""
TONES = {
    RelayState.UP: "ok",
    RelayState.STARTING: "busy",
    RelayState.TROUBLE: "warn",
    RelayState.STOPPED: "off",
}


class LeaseState(StrEnum):
    """A lease in one word, as its owner sees it."""

    UP = "up"
    STARTING = "starting"
    TROUBLE = "trouble"
    STOPPED = "stopped"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class RelayCard:
    """One relay as its owner sees it. `trouble` is in words, "" when there is none."""

    relay: Relay
    state: RelayState
    trouble: str
    node: NodeSpec | None
    move: Move | None
    """Its latest move, while it is under way and for some days after."""

    @property
    def word(self) -> Promise:
        """The state in one word."""
        return STATE_WORDS[self.state]

    @property
    def tone(self) -> str:
        """The colour that helps the word."""
        return TONES[self.state]

    @property
    def is_up(self) -> bool:
        return self.state == RelayState.UP

    @property
    def latency_ms(self) -> float | None:
        """The latest ping, while it means something."""
        health = getattr(self.relay, "health", None)
        return health.latency_ms if health and self.is_up else None

    @property
    def shown_ms(self) -> str:
        """The latency in whole milliseconds; a shorter one is not called nothing."""
        latency = self.latency_ms or 0
        return "< 1" if latency < 1 else str(round(latency))

    @property
    def uptime(self) -> str:
        """The percentage of this month's probes that it answered, "" before the first."""
        return percent(self.relay.month_uptime)  # type: ignore[attr-defined]

    @property
    def last_month_uptime(self) -> str:
        """The same of the month before."""
        return percent(self.relay.last_month_uptime)  # type: ignore[attr-defined]

    @property
    def is_primary(self) -> bool:
        return self.relay.slot == 0

    @property
    def moved_at(self) -> datetime | None:
        """When it came to where it is from another address; None if it is on its way, or has long been there."""
        has_arrived = self.move is not None and self.move.state == Move.State.ANSWERED and self.move.from_ip
        return self.move.ended_at if self.move and has_arrived else None

    @property
    def address(self) -> str:
        """Where devices connect to, "" while the relay has no place."""
        if self.node is None:
            return ""
        host = f"[{self.node.ipv6}]" if self.node.ipv6 else self.node.ipv4
        return f"{host}:{self.node.derp_port}"

    @property
    def step(self) -> Promise:
        """What happens now while it starts."""
        health = getattr(self.relay, "health", None)
        if self.node is None:
            return _("Looking for a server with room")
        if not self.relay.is_running:
            return _("Starting it on the server")
        if health and health.status == RelayHealth.Status.UNHEALTHY:
            return _("Waiting for it to answer again")
        return _("Checking that it answers as your devices would ask")

    @property
    def steps_done(self) -> int:
        """How many of the three steps of starting are behind it."""
        return (self.node is not None) + (self.node is not None and self.relay.is_running)


@dataclass(frozen=True)
class LeaseCard:
    """A lease from `leases_in_full()` as its owner sees it. Queries nothing."""

    lease: Lease
    moment: datetime
    usage: Usage | None = None
    """Of its quota: None where nobody asked, or where its relays stand because it has ended."""

    @cached_property
    def outage(self) -> Outage | None:
        """The outage that stops the lease's clock now."""
        return next(iter(self.lease.relay_group.open_outages), None)  # type: ignore[attr-defined]

    @cached_property
    def relays(self) -> list[RelayCard]:
        """The relays that are not released, primary first."""
        return [
            RelayCard(relay, relay_state(relay), why_in_trouble(relay), node_of(relay), self._move_of(relay))
            for relay in self.lease.relay_group.live  # type: ignore[attr-defined]
        ]

    def _move_of(self, relay: Relay) -> Move | None:
        move = latest_move(relay)
        if move is None or (move.ended_at and move.ended_at < self.moment - MOVE_SHOWN_FOR):
            return None
        return move

    @property
    def moved_at(self) -> datetime | None:
        """When the map last changed by a move, if it was perhaps pasted before: None where the map URL is polled."""
        moments = [card.moved_at for card in self.relays if card.moved_at]
        return max(moments) if moments and not polls_its_map(self.lease.relay_group) else None

    @cached_property
    def state(self) -> LeaseState:
        """One relay that runs is enough: that is what the others are for."""
        states = {card.state for card in self.relays}
        if not self.lease.is_active:
            return LeaseState.ENDED
        if RelayState.UP in states:
            return LeaseState.UP
        if self.outage or RelayState.TROUBLE in states:
            return LeaseState.TROUBLE
        return LeaseState.STARTING if RelayState.STARTING in states else LeaseState.STOPPED

    @property
    def best(self) -> RelayCard | None:
        """The relay the state line speaks of: the first that is up, else the primary."""
        return next((card for card in self.relays if card.is_up), self.relays[0] if self.relays else None)

    @property
    def slow_one(self) -> RelayCard | None:
        """The relay whose start the progress line shows."""
        return next((card for card in self.relays if card.state == RelayState.STARTING), None)

    @cached_property
    def current(self) -> LeaseTerm | None:
        return next((term for term in self.open_terms if term.state == LeaseTerm.State.CURRENT), None)

    @property
    def open_terms(self) -> list[LeaseTerm]:
        return self.lease.terms_left  # type: ignore[attr-defined,no-any-return]

    @property
    def queued(self) -> list[LeaseTerm]:
        """Terms to come under another plan than the present one."""
        plan_id = self.current.plan_id if self.current else None
        waiting = [term for term in self.open_terms if term.state == LeaseTerm.State.QUEUED]
        return [term for term in waiting if term.plan_id != plan_id]

    @property
    def has_next_term(self) -> bool:
        """Whether a term waits that could begin now."""
        return self.lease.is_active and any(term.state == LeaseTerm.State.QUEUED for term in self.open_terms)

    @cached_property
    def left(self) -> timedelta:
        """What is left; it stands still during an outage."""
        since = self.outage.started_at if self.outage else self.moment
        return max(self.lease.ends_at - since, timedelta())

    @property
    def days_left(self) -> int:
        """Rounded: three days redeemed a minute ago are three. 0 for the last two days, which count in hours."""
        return round(self.left / timedelta(days=1)) if self.left >= IN_HOURS else 0

    @property
    def hours_left(self) -> int:
        return round(self.left / timedelta(hours=1))

    @property
    def whole(self) -> timedelta:
        """What a full bar stands for: from the start of the present term, or the last renewal, to the end."""
        begin = self.current.starts_at if self.current else self.lease.started_at
        return max(self.lease.ends_at - begin, timedelta(seconds=1))

    @property
    def percent_left(self) -> int:
        return round(100 * min(self.left / self.whole, 1))

    @property
    def tone(self) -> str:
        """How urgent renewing is."""
        if self.left > SOON or self.percent_left > 50:
            return ""
        return "warn" if self.left > VERY_SOON else "bad"

    @property
    def is_over_quota(self) -> bool:
        """Whether its relays stand because the quota is used up."""
        return self.lease.is_active and is_stopped_for_quota(self.lease.relay_group)

    @property
    def has_next_period(self) -> bool:
        """Whether another quota period follows before the lease ends."""
        return self.usage is not None and self.lease.ends_at > self.usage.period.ends_at

    @property
    def quota_tone(self) -> str:
        """How near the quota is."""
        return tone_of(self.usage) if self.usage else ""

    @property
    def kept_until(self) -> datetime | None:
        """Until when an ended lease can be renewed without a new map; None once its place is gone."""
        if self.lease.is_active or self.lease.released_at or self.lease.ended_at is None:
            return None
        return self.lease.ended_at + KEEP_PLACE

    @property
    def is_only_local(self) -> bool:
        """True when nothing but this very machine can reach the relays: a trial installation."""
        placed = [card.relay.server for card in self.relays if card.relay.server]
        return bool(placed) and all(server.is_loopback for server in placed)

    @cached_property
    def nodes(self) -> list[NodeSpec]:
        return [card.node for card in self.relays if card.node]

    @property
    def policy(self) -> str:
        """For a Tailscale policy file; "" while no relay has a place."""
        return policy_snippet(self.nodes, omits_default(self.lease.relay_group, self.nodes)) if self.nodes else ""

    @property
    def yaml(self) -> str:
        """For Headscale's `derp.paths`; "" while no relay has a place."""
        return headscale_yaml(self.nodes) if self.nodes else ""

    @property
    def is_map_stale(self) -> bool:
        """Whether the map that was pasted or pushed is not this one any more."""
        return is_map_stale(self.lease.relay_group, self.nodes)

    @property
    def map_digest(self) -> str:
        """What tells this version of the map from others; "" while no relay has a place."""
        return map_digest(self.lease.relay_group, self.nodes) if self.nodes else ""

    @property
    def can_omit_default(self) -> bool:
        """Whether Tailscale's own relays can be left out."""
        return len(self.nodes) > 1

    @property
    def map_url(self) -> str:
        return map_url_of(self.lease.relay_group)

    @property
    def map_version(self) -> str:
        """Changes whenever the hand-over card would read differently."""
        lease = self.lease
        shown = (lease.name, lease.status, self.policy, self.map_url, self.is_only_local, self.moved_at)
        parts = repr((*shown, self.is_map_stale))
        return f"{self.lease.pk}-{hashlib.sha256(parts.encode()).hexdigest()[:12]}"


def leases_in_full(user: User | None) -> QuerySet[Lease]:
    """The user's leases, or everybody's, with all that a LeaseCard reads: six queries however many there are."""
    placed = Relay.objects.select_related("server__region", "port", "health").prefetch_related(with_latest_move())
    live = with_uptime(placed.filter(released_at=None)).order_by("slot")
    terms = LeaseTerm.objects.exclude(state=LeaseTerm.State.DONE).select_related("plan").order_by("starts_at", "id")
    leases = Lease.objects.filter(user=user) if user else Lease.objects.all()
    return leases.select_related("relay_group").prefetch_related(
        Prefetch("terms", queryset=terms, to_attr="terms_left"),
        Prefetch("relay_group__relays", queryset=live, to_attr="live"),
        Prefetch("relay_group__outages", queryset=Outage.objects.filter(ended_at=None), to_attr="open_outages"),
    )


def lease_card(lease: Lease, usage: Usage | None = None) -> LeaseCard:
    """The lease, which came from `leases_in_full()`, as it is at this moment."""
    return LeaseCard(lease, now(), usage)


def usage_of_leases(leases: Iterable[Lease]) -> dict[int, Usage]:
    """What each active lease used and may use, by its id. The number of queries does not depend on theirs."""
    running = [lease for lease in leases if lease.is_active and lease.relay_group.released_at is None]
    usage = usage_of([lease.relay_group for lease in running])
    return {lease.pk: usage[lease.relay_group_id] for lease in running}


def lease_cards(user: User) -> list[LeaseCard]:
    """What the dashboard shows: active leases and those whose place is still kept, the one that ends last first."""
    leases = default_first(leases_in_full(user).filter(released_at=None))
    usage = usage_of_leases(leases)
    return [lease_card(lease, usage.get(lease.pk)) for lease in leases]


def has_had_a_lease(user: User) -> bool:
    """True for those who are not here for the first time."""
    return Lease.objects.filter(user=user).exists()


def public_plans() -> QuerySet[Plan]:
    """The plans shown to customers, with their regions."""
    return Plan.objects.filter(is_public=True).prefetch_related("regions")


def serials_of(user: User | None) -> QuerySet[SerialNumber]:
    """The serials the user has redeemed, or all there are, with plan, term and lease."""
    found = SerialNumber.objects.filter(user=user) if user else SerialNumber.objects.all()
    return found.select_related("plan", "term__lease")


def lookup_serials(found: QuerySet[SerialNumber], text: str) -> QuerySet[SerialNumber]:
    """Those of `found` whose code contains `text`, however it is typed, or that a user of that name redeemed."""
    matches = Q(user__username__icontains=text) | Q(user__email__icontains=text)
    if part := canonical(text):
        matches |= Q(code__contains=part)
    return found.filter(matches)


def groups_with_a_map(user: User) -> list[RelayGroup]:
    """The user's groups that have a map now, with their leases: those that run or, if none does, those that rest."""
    kept = list(RelayGroup.objects.filter(owner=user, released_at=None).select_related("lease"))
    return [group for group in kept if group.wanted == Wanted.RUNNING] or kept


def terms_of(user: User) -> QuerySet[LeaseTerm]:
    """Every term the user ever had, with lease, plan and serial."""
    return LeaseTerm.objects.filter(lease__user=user).select_related("lease", "plan", "serial")


def terms_of_lease(lease: Lease) -> QuerySet[LeaseTerm]:
    """Every term of the lease, with plan and serial."""
    return lease.terms.select_related("plan", "serial")
