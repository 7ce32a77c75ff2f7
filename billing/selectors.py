"""Reading orders, payments and prices."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Exists, OuterRef, Prefetch, Q, QuerySet
from django.utils.functional import cached_property
from django.utils.translation import get_language

from accounts.models import User
from billing.gateways.offline import OfflineGateway
from billing.models import (
    CURRENCIES,
    Order,
    OrderLine,
    OrderTransition,
    PackOffer,
    Payment,
    PaymentMethod,
    Price,
    Refund,
    Transfer,
    WholesalePrice,
)
from billing.services.methods import gateway_of
from billing.services.pricing import current_prices, price_list, wholesale_prices
from billing.services.words import name_of, what_it_gives
from derp_portal.lib.clock import days, now
from serials.models import Lease, LeaseTerm, Plan
from serials.selectors import public_plans
from serials.services.activation import Effect, How
from serials.services.leases import default_first
from serials.services.terms import end_of_queue


def orders_of(user: User | None) -> QuerySet[Order]:
    """The user's orders, or everybody's, newest first, with what a list of them shows."""
    found = Order.objects.filter(user=user) if user else Order.objects.all()
    lines = OrderLine.objects.select_related("plan", "pack", "lease")
    return found.select_related("user", "coupon", "channel").prefetch_related(Prefetch("lines", queryset=lines))


def orders_in_full() -> QuerySet[Order]:
    """Everybody's orders with all that the page of one shows: six queries however many there are."""
    return orders_of(None).prefetch_related(
        Prefetch("payments", queryset=Payment.objects.select_related("method").prefetch_related("transfers")),
        Prefetch("transitions", queryset=OrderTransition.objects.select_related("actor")),
        Prefetch("refunds", queryset=Refund.objects.select_related("transfer__method")),
    )


def lookup_orders(found: QuerySet[Order], text: str, *, is_of_one: bool = False) -> QuerySet[Order]:
    """Those of `found` with that piece of a number, of a plan's name, or of a payment's or transfer's.

    `is_of_one`: they are one customer's, so few that their parts are looked at one order after the other.
    """
    text = text.strip()
    named = Q(number__icontains=text) | Q(external_number__icontains=text)
    bought = OrderLine.objects.filter(Q(plan__name__icontains=text) | Q(plan__name_zh__icontains=text))
    paid = Payment.objects.filter(Q(reference__icontains=text) | Q(transfers__transaction_id__icontains=text))
    if is_of_one:
        # Else everybody's lines and payments would be searched for them.
        of_it = {"order": OuterRef("pk")}
        return found.filter(named | Exists(bought.filter(**of_it)) | Exists(paid.filter(**of_it)))
    return found.filter(named | Q(pk__in=bought.values("order")) | Q(pk__in=paid.values("order")))


def plans_with_prices(currency: str = "CNY") -> list[tuple[Plan, Price | None]]:
    """The plans shown to customers in the shop's order, each with the price that counts now, if it has one."""
    prices = price_list(currency)
    return [(plan, prices.get(plan.pk)) for plan in public_plans()]


def packs_on_sale(currency: str = "CNY") -> QuerySet[PackOffer]:
    """The traffic packs on sale, in the shop's order."""
    return PackOffer.objects.filter(is_active=True, currency=currency)


def leases_that_take_packs(user: User) -> QuerySet[Lease]:
    """The user's active leases whose traffic is limited."""
    return Lease.objects.filter(
        user=user,
        status=Lease.Status.ACTIVE,
        relay_group__released_at=None,
        relay_group__quota_bytes__isnull=False,
    ).select_related("relay_group")


def order_of_key(user: User, client_key: str) -> Order | None:
    """The order that the user has placed with this key already."""
    return Order.objects.filter(user=user, client_key=client_key).first() if client_key else None


# --- the shop ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Offer:
    """A plan as the shop shows it: the price that counts now, and for resellers what it costs in number."""

    plan: Plan
    price: Price | None
    tiers: list[WholesalePrice]
    moment: datetime

    @property
    def unit_amount(self) -> int:
        """What one costs now, in minor units."""
        return self.price.unit_amount(self.moment) if self.price else 0

    @property
    def is_on_sale(self) -> bool:
        """Whether it costs less than usual just now."""
        return self.price is not None and self.unit_amount < self.price.amount

    @property
    def is_for_sale(self) -> bool:
        return self.price is not None or bool(self.tiers)


def offers(user: User | None, currency: str) -> list[Offer]:
    """The plans shown to customers, in the shop's order; `user` is who looks, if we know."""
    tiers = wholesale_tiers(user, currency)
    moment = now()
    return [Offer(plan, price, tiers.get(plan.pk, []), moment) for plan, price in plans_with_prices(currency)]


def offer_of(user: User, plan: Plan, currency: str) -> Offer:
    """One plan as the shop shows it."""
    tiers = wholesale_tiers(user, currency).get(plan.pk, [])
    return Offer(plan, price_list(currency).get(plan.pk), tiers, now())


def wholesale_tiers(user: User | None, currency: str) -> dict[int, list[WholesalePrice]]:
    """What a reseller pays, by the plan's id, the smallest quantity first; nothing for anybody else.

    Where their level has prices of its own, those for all hold only for fewer than these begin at.
    """
    tiers: dict[int, list[WholesalePrice]] = {}
    if user is None or user.role != User.Role.RESELLER:
        return tiers
    # Those of the level first: what is for all then counts only below them.
    for tier in wholesale_prices(user).filter(currency=currency).order_by("-level", "from_quantity"):
        known = tiers.setdefault(tier.plan_id, [])
        if tier.level or not known or not known[0].level or tier.from_quantity < known[0].from_quantity:
            known.append(tier)
    return {plan_id: sorted(found, key=lambda tier: tier.from_quantity) for plan_id, found in tiers.items()}


def currencies_on_sale(plan: Plan | None = None) -> list[str]:
    """The currencies that plans, or this one, can be paid in now, in the order of the list of all."""
    found = current_prices()
    found = found.filter(plan=plan) if plan else found
    known = set(found.order_by().values_list("currency", flat=True).distinct())
    return [code for code, _label in CURRENCIES if code in known]


@dataclass(frozen=True, slots=True)
class Way:
    """Something that what is bought can be for. `effect` says what it does to a lease, where it is redeemed at once."""

    key: str
    effect: Effect | None = None

    @property
    def lease_id(self) -> int | None:
        return self.effect.lease.pk if self.effect and self.effect.lease else None


GIFT, WHOLESALE = "gift", "wholesale"


def ways_to_use(user: User, offer: Offer) -> list[Way]:
    """What a plan could be bought for, the usual way first: leases to renew, a new one, a code to hand on, wholesale.

    The dates are those of somebody who pays now.
    """
    ways = []
    if offer.price is not None:
        effects = _effects(user, offer.plan)
        ways = [Way(effect.key, effect) for effect in effects]
        if not offer.price.is_trial:
            ways.append(Way(GIFT))
    if offer.tiers:
        ways.append(Way(WHOLESALE))
    return ways


def _effects(user: User, plan: Plan) -> list[Effect]:
    waiting = LeaseTerm.objects.exclude(state=LeaseTerm.State.DONE).order_by("starts_at", "id")
    usable = Lease.objects.filter(user=user, released_at=None, relay_group__released_at=None)
    kept = usable.select_related("relay_group").prefetch_related(
        Prefetch("terms", queryset=waiting, to_attr="terms_left")
    )
    duration = days(plan.days)
    effects = []
    for lease in default_first(kept):
        start = end_of_queue(lease)
        is_other = any(term.plan_id != plan.pk for term in lease.terms_left)  # type: ignore[attr-defined]
        effects.append(Effect(How.QUEUE, lease, start, start + duration, is_other_plan=is_other))
    effects.append(Effect(How.NEW, None, now(), now() + duration))
    return effects


def instructions_of(method: PaymentMethod) -> str:
    """Where a transfer is to go, in the reader's language; "" for methods that tell the payer themselves."""
    if method.kind != OfflineGateway.kind:
        return ""
    gateway = gateway_of(method)
    assert isinstance(gateway, OfflineGateway)
    return gateway.instructions(get_language() or "")


# --- one order, as its customer sees it ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LineCard:
    """A line of an order in the reader's words. Queries nothing."""

    line: OrderLine

    @property
    def name(self) -> str:
        return name_of(self.line)

    @property
    def gives(self) -> str:
        """Days or traffic; "" for money paid in."""
        return "" if self.line.kind == OrderLine.Kind.TOP_UP else what_it_gives(self.line)

    @property
    def full_amount(self) -> int:
        """Before its part of the discount."""
        return int(self.line.unit_amount * self.line.quantity)

    @property
    def is_new_lease(self) -> bool:
        return bool(self.line.snapshot.get("new_lease"))


@dataclass(frozen=True)
class OrderCard:
    """An order from `orders_in_full()` as its customer sees it. Queries nothing."""

    order: Order
    moment: datetime

    @cached_property
    def lines(self) -> list[LineCard]:
        return [LineCard(line) for line in self.order.lines.all()]

    @cached_property
    def payments(self) -> list[Payment]:
        """The attempts to pay it, the latest first."""
        return list(self.order.payments.all())

    @cached_property
    def refunds(self) -> list[Refund]:
        return list(self.order.refunds.all())

    @cached_property
    def held(self) -> list[Transfer]:
        """Money that came in and waits for a person."""
        found = [transfer for payment in self.payments for transfer in payment.transfers.all()]
        return [transfer for transfer in found if transfer.state == Transfer.State.HELD]

    @cached_property
    def open_payments(self) -> list[Payment]:
        return [payment for payment in self.payments if payment.state == Payment.State.OPEN]

    @property
    def is_open(self) -> bool:
        """Whether it waits for its money and the time for that is not over."""
        order = self.order
        return order.state == Order.State.PENDING and (order.expires_at is None or self.moment < order.expires_at)

    @property
    def can_be_paid(self) -> bool:
        """Money that waits for a person may be all that is missing: nobody is asked for more meanwhile."""
        return self.is_open and not self.held

    @property
    def can_be_cancelled(self) -> bool:
        return self.order.state == Order.State.PENDING and not self.held

    @property
    def is_paid(self) -> bool:
        return self.order.paid_at is not None

    @property
    def has_codes(self) -> bool:
        """Whether it delivers serial numbers to be read on its page."""
        handed_on = (OrderLine.Kind.GIFT, OrderLine.Kind.WHOLESALE)
        return any(card.line.kind in handed_on or card.line.problem for card in self.lines)

    @property
    def has_problem(self) -> bool:
        """Whether something was delivered otherwise than ordered."""
        return any(card.line.problem for card in self.lines)

    @property
    def was_redeemed(self) -> bool:
        """Whether days of it went onto a lease at once."""
        at_once = (OrderLine.Kind.SELF, OrderLine.Kind.RENEWAL)
        return any(card.line.kind in at_once and not card.line.problem for card in self.lines)

    @property
    def was_taken_back(self) -> bool:
        """Whether a refund took back what was delivered."""
        return any(refund.takes_back for refund in self.order.refunds.all())

    @property
    def has_pack(self) -> bool:
        return any(card.line.kind == OrderLine.Kind.PACK for card in self.lines)

    @property
    def coded_count(self) -> int:
        """How many serial numbers it delivered to be handed on."""
        handed_on = (OrderLine.Kind.GIFT, OrderLine.Kind.WHOLESALE)
        return sum(card.line.quantity for card in self.lines if card.line.kind in handed_on)

    @property
    def seconds(self) -> int:
        """How often its page asks for news; 0 when none is to be expected."""
        if self.order.state == Order.State.PAID and not self.order.trouble:
            return 3
        if self.order.state == Order.State.PENDING and self.open_payments:
            return 5
        return 15 if any(refund.state == Refund.State.DUE for refund in self.refunds) else 0

    @property
    def version(self) -> str:
        """Changes whenever its page would read differently."""
        order = self.order
        paid = [(payment.pk, payment.state) for payment in self.payments]
        back = [(refund.pk, refund.state) for refund in self.refunds]
        shown = (order.state, order.trouble, order.refunded, self.is_open, len(self.held), paid, back)
        return hashlib.sha256(repr(shown).encode()).hexdigest()[:12]


def order_card(order: Order) -> OrderCard:
    """The order, which came from `orders_in_full()`, as it is at this moment."""
    return OrderCard(order, now())
