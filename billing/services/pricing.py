"""What an order would cost: prices, limits and coupons, looked up and checked in one place. Changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db.models import F, Q, QuerySet, Sum
from django.utils.translation import gettext as _

from accounts import ratelimit
from accounts.models import User
from billing.models import BuyerTerms, Coupon, CouponUse, Order, OrderLine, PackOffer, Price, TrialUse, WholesalePrice
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from serials.models import Lease, Plan

from .ledger import allocate

MOST_LINES = 20
MOST_COUPONS, TEN_MINUTES = 60, 600
"""So many looks at a coupon one account has in that time."""
MOST_AT_ONCE = {
    OrderLine.Kind.SELF: 12,
    OrderLine.Kind.RENEWAL: 12,
    OrderLine.Kind.GIFT: 100,
    OrderLine.Kind.PACK: 1,
    OrderLine.Kind.TOP_UP: 1,
    OrderLine.Kind.WHOLESALE: 10_000,
    OrderLine.Kind.OUTSIDE: 0,
}
MOST_WHOLESALE_UNITS = MOST_AT_ONCE[OrderLine.Kind.WHOLESALE]
LEAST_TOP_UP, MOST_TOP_UP = 100, 10**9
COUNTS = [Order.State.PENDING, Order.State.PAID, Order.State.FULFILLED, Order.State.REFUNDED]
"""Orders that use up what is limited: those that are given up give it back."""

Kind = OrderLine.Kind


@dataclass(frozen=True, slots=True)
class Item:
    """Something that is wanted: of a plan, or a pack. `lease_id` is what a renewal or a pack is for.

    What is for oneself goes to the default lease unless `is_new_lease` asks for another one beside it.
    """

    kind: OrderLine.Kind
    plan: Plan | None = None
    pack: PackOffer | None = None
    quantity: int = 1
    lease_id: int | None = None
    is_new_lease: bool = False
    amount: int = 0
    """Of a top-up: how much, in minor units."""


@dataclass(frozen=True, slots=True)
class QuotedLine:
    """An item with its price; `amount` is what is left after its part of the discount."""

    item: Item
    unit_amount: int
    amount: int
    lease: Lease | None
    is_trial: bool = False

    @property
    def full_amount(self) -> int:
        return self.unit_amount * self.item.quantity


@dataclass(frozen=True, slots=True)
class Quote:
    """What an order would cost now, in minor units of `currency`."""

    currency: str
    lines: list[QuotedLine]
    coupon: Coupon | None = None
    discount: int = 0
    trials: list[Plan] = field(default_factory=list)

    @property
    def subtotal(self) -> int:
        return sum(line.full_amount for line in self.lines)

    @property
    def total(self) -> int:
        return self.subtotal - self.discount


class NotForSale(PortalError):
    """The order cannot be taken as it is; nothing was ordered. `code` says why."""

    status = 409


def current_prices(moment: datetime | None = None, currency: str = "", *, also_hidden: bool = False) -> QuerySet[Price]:
    """Prices that hold at `moment` (the present when not given), the one that counts for each plan first.

    Those of plans that customers are not shown are left out, unless `also_hidden`.
    """
    moment = moment or now()
    began = Q(valid_from=None) | Q(valid_from__lte=moment)
    lasts = Q(valid_until=None) | Q(valid_until__gt=moment)
    found = Price.objects.filter(began, lasts, is_active=True).select_related("plan")
    if not also_hidden:
        found = found.filter(plan__is_public=True)
    if currency:
        found = found.filter(currency=currency)
    return found.order_by("plan__position", "plan_id", "currency", F("valid_from").desc(nulls_last=True), "-id")


def price_list(currency: str, *, also_hidden: bool = False) -> dict[int, Price]:
    """The price that counts now for each plan on sale in the currency, by the plan's id, in the shop's order."""
    prices: dict[int, Price] = {}
    for price in current_prices(currency=currency, also_hidden=also_hidden):
        prices.setdefault(price.plan_id, price)
    return prices


def quote(*, user: User, items: Sequence[Item], coupon_code: str = "", currency: str) -> Quote:
    """Price the items for the user. Raises NotForSale, PortalError; the caller who orders has the user locked."""
    if not 1 <= len(items) <= MOST_LINES:
        raise PortalError(_("An order has 1 to %(most)s lines.") % {"most": MOST_LINES}, code="invalid_lines")
    prices = price_list(currency)
    lines = [_priced(user, item, prices, currency) for item in items]
    _check_limits(user, lines, prices)
    found = Quote(currency, lines, trials=[line.item.plan for line in lines if line.is_trial and line.item.plan])
    if not coupon_code.strip():
        return found
    coupon = find_coupon(coupon_code)
    eligible = check_coupon(coupon, user=user, quote=found)
    discount = _discount(coupon, sum(eligible))
    shares = allocate(discount, eligible)
    cheaper = [
        QuotedLine(line.item, line.unit_amount, line.full_amount - part, line.lease, line.is_trial)
        for line, part in zip(lines, shares, strict=True)
    ]
    return Quote(currency, cheaper, coupon, discount, found.trials)


def _priced(user: User, item: Item, prices: dict[int, Price], currency: str) -> QuotedLine:
    most = MOST_AT_ONCE[item.kind]
    if not 1 <= item.quantity <= most:
        raise PortalError(_("Of this, 1 to %(most)s can be ordered at once.") % {"most": most}, code="invalid_quantity")
    if item.kind == Kind.TOP_UP:
        return QuotedLine(item, unit := _top_up_amount(user, item), unit, None)
    lease = _lease_for(user, item)
    if item.kind == Kind.PACK:
        return QuotedLine(item, unit := _pack_amount(item, currency), unit, lease)
    if item.plan is None:
        raise NotForSale(_("This plan is not on sale."), code="not_on_sale")
    if item.kind == Kind.WHOLESALE:
        unit = _wholesale_amount(user, item, currency)
        return QuotedLine(item, unit, unit * item.quantity, None)
    price = prices.get(item.plan.pk)
    if price is None:
        raise NotForSale(_("This plan is not on sale."), code="not_on_sale")
    if price.is_trial and (item.kind != Kind.SELF or item.quantity != 1):
        raise NotForSale(_("A trial is for yourself, and for once."), code="trial_is_for_oneself")
    unit = price.unit_amount()
    return QuotedLine(item, unit, unit * item.quantity, lease, price.is_trial)


def _top_up_amount(user: User, item: Item) -> int:
    if user.role != User.Role.RESELLER:
        raise PortalError(_("A prepaid balance is for resellers."), code="not_a_reseller", status=403)
    if not LEAST_TOP_UP <= item.amount <= MOST_TOP_UP:
        raise PortalError(_("This amount cannot be paid in."), code="invalid_amount", status=422)
    return item.amount


def _pack_amount(item: Item, currency: str) -> int:
    pack = item.pack
    if pack is None or not pack.is_active or pack.currency != currency:
        raise NotForSale(_("This traffic pack is not on sale."), code="not_on_sale")
    return int(pack.amount)


def _lease_for(user: User, item: Item) -> Lease | None:
    """The customer's own lease that a renewal or a pack is for. Raises PortalError `lease_not_found`."""
    if item.kind not in (Kind.RENEWAL, Kind.PACK) and item.lease_id is None:
        return None
    own = Lease.objects.filter(user=user, released_at=None, relay_group__released_at=None).select_related("relay_group")
    if item.kind == Kind.PACK:
        own = own.filter(status=Lease.Status.ACTIVE)
    lease = own.filter(pk=item.lease_id).first() if item.lease_id is not None else None
    if lease is None:
        raise PortalError(_("There is no such lease of yours."), code="lease_not_found", status=404)
    if item.kind == Kind.PACK and lease.relay_group.quota_bytes is None:
        raise NotForSale(_("The traffic of this lease is not limited: it needs no pack."), code="no_limit")
    return lease


def _wholesale_amount(user: User, item: Item, currency: str) -> int:
    if user.role != User.Role.RESELLER:
        raise PortalError(_("Wholesale is for resellers."), code="not_a_reseller", status=403)
    assert item.plan is not None
    amount = price_at(wholesale_steps(user, item.plan.pk, currency), item.quantity)
    if amount is None:
        raise NotForSale(_("There is no wholesale price for this quantity of the plan."), code="no_wholesale_price")
    return amount


def wholesale_steps(user: User, plan_id: int, currency: str) -> list[list[int]]:
    """From how many on each of the plan costs how much; of those that fit the first in the list holds.

    Their own level's price goes before the one that is for all.
    """
    prices = wholesale_prices(user).filter(plan=plan_id, currency=currency).order_by("-level", "-from_quantity")
    return [[price.from_quantity, int(price.amount)] for price in prices]


def price_at(steps: Sequence[Sequence[int]], quantity: int) -> int | None:
    """What each costs when so many are bought; None where so few are not sold."""
    return next((amount for least, amount in steps if least <= quantity), None)


def wholesale_prices(user: User) -> QuerySet[WholesalePrice]:
    """The wholesale prices that hold for the reseller: those of their level, and those for all."""
    terms = BuyerTerms.objects.filter(user=user).first()
    levels = {"", terms.wholesale_level if terms else ""}
    return WholesalePrice.objects.filter(is_active=True, level__in=levels).select_related("plan")


def _check_limits(user: User, lines: Sequence[QuotedLine], prices: dict[int, Price]) -> None:
    """Raises NotForSale where an account or a person would get more of a plan than its price allows."""
    wanted: dict[int, int] = {}
    for line in lines:
        if line.item.plan and line.item.kind not in (Kind.WHOLESALE, Kind.PACK):
            wanted[line.item.plan.pk] = wanted.get(line.item.plan.pk, 0) + line.item.quantity
    for plan_id, count in wanted.items():
        price = prices[plan_id]
        if price.is_trial and (count > 1 or had_trial(user, plan_id)):
            raise NotForSale(_("You have had this trial already."), code="trial_used")
        if price.per_user_limit is not None and bought_before(user, plan_id) + count > price.per_user_limit:
            raise NotForSale(
                _("One account may buy %(most)s of this plan in all.") % {"most": price.per_user_limit},
                code="per_user_limit",
                limit=price.per_user_limit,
            )


def bought_before(user: User, plan_id: int, *, besides: Order | None = None) -> int:
    """How many serials of the plan the user's orders hold that were not given up."""
    mine = OrderLine.objects.filter(order__user=user, order__state__in=COUNTS, plan=plan_id)
    mine = mine.exclude(kind=Kind.WHOLESALE)
    if besides is not None:
        mine = mine.exclude(order=besides)
    return mine.aggregate(count=Sum("quantity"))["count"] or 0


def had_trial(user: User, plan_id: int) -> bool:
    """Whether this person, under this account or another address of theirs, has had the trial of the plan."""
    same = Q(user=user) | Q(person=person_of(user))
    return TrialUse.objects.filter(same, plan=plan_id, is_given_back=False).exists()


def person_of(user: User) -> str:
    """The user's e-mail address without what people add to have several: tags, and Gmail's dots."""
    name, _at, domain = user.email.lower().strip().rpartition("@")
    name = name.partition("+")[0]
    if domain in ("gmail.com", "googlemail.com"):
        name, domain = name.replace(".", ""), "gmail.com"
    return f"{name}@{domain}"


def slow_down_guessers(user: User, coupon_code: str) -> None:
    """Whoever looks at coupons may look at so many. Raises RateLimited; call it outside transactions."""
    if coupon_code.strip():
        ratelimit.hit(scope="coupon", key=str(user.pk), limit=MOST_COUPONS, window_seconds=TEN_MINUTES)


def find_coupon(code: str, *, lock: bool = False) -> Coupon:
    """The coupon of that code. Raises NotForSale `coupon_unknown`."""
    coupons = Coupon.objects.select_for_update(no_key=True) if lock else Coupon.objects.all()
    coupon = coupons.filter(code=code.strip().upper()[:40]).first()
    if coupon is None:
        raise NotForSale(_("We do not know this coupon."), code="coupon_unknown", status=404)
    return coupon


def check_coupon(coupon: Coupon, *, user: User, quote: Quote, besides: Order | None = None) -> list[int]:
    """What of each line the coupon counts for, in minor units. Raises NotForSale `coupon_*`.

    For an order that exists already (`besides`) its own use does not count.
    """
    moment = now()
    if not coupon.is_active or (coupon.valid_until and coupon.valid_until <= moment):
        raise NotForSale(_("This coupon is not valid any more."), code="coupon_expired")
    if coupon.valid_from and moment < coupon.valid_from:
        raise NotForSale(_("This coupon is not valid yet."), code="coupon_too_early")
    if coupon.kind == Coupon.Kind.AMOUNT and coupon.currency != quote.currency:
        raise NotForSale(_("This coupon is for another currency."), code="coupon_other_currency")
    plans = set(coupon.plans.values_list("id", flat=True))
    eligible = [line.full_amount if _is_eligible(line, plans) else 0 for line in quote.lines]
    if not sum(eligible):
        raise NotForSale(_("This coupon is not for what you chose."), code="coupon_other_plan")
    check_coupon_uses(coupon, user=user, besides=besides)
    return eligible


def check_coupon_uses(coupon: Coupon, *, user: User, besides: Order | None = None) -> None:
    """Raises NotForSale when the coupon's uses are used up. Only who has user and coupon locked may count on it."""
    uses = CouponUse.objects.filter(coupon=coupon, is_given_back=False)
    orders = Order.objects.filter(user=user, state__in=COUNTS)
    if besides is not None:
        uses, orders = uses.exclude(order=besides), orders.exclude(pk=besides.pk)
    if coupon.first_order_only and orders.exists():
        raise NotForSale(_("This coupon is for a first order."), code="coupon_first_order_only")
    if coupon.per_user_limit is not None and uses.filter(user=user).count() >= coupon.per_user_limit:
        raise NotForSale(_("You have used this coupon already."), code="coupon_used")
    if coupon.total_limit is not None and uses.count() >= coupon.total_limit:
        raise NotForSale(_("This coupon has been used up."), code="coupon_used_up")


def _is_eligible(line: QuotedLine, plans: set[int]) -> bool:
    if line.item.kind in (Kind.WHOLESALE, Kind.TOP_UP):
        return False
    if not plans:
        return True
    return line.item.plan is not None and line.item.plan.pk in plans


def _discount(coupon: Coupon, eligible: int) -> int:
    """Never more than what it counts for; a part of a fen is the shop's."""
    if coupon.kind == Coupon.Kind.PERCENT:
        return eligible * (coupon.percent or 0) // 100
    return min(coupon.amount or 0, eligible)


def snapshot_of(item: Item) -> dict[str, Any]:
    """What the plan or pack promises at this moment, to be kept with the order."""
    if item.kind == Kind.TOP_UP:
        return {"name": "Prepaid balance", "name_zh": "预付余额"}
    if item.pack:
        return {"name": item.pack.name, "name_zh": item.pack.name_zh, "extra_bytes": item.pack.extra_bytes}
    plan = item.plan
    assert plan is not None
    promised: dict[str, Any] = {
        "code": plan.code,
        "name": plan.name,
        "name_zh": plan.name_zh,
        "days": plan.days,
        "relay_count": plan.relay_count,
        "speed_bytes_per_second": plan.speed_bytes_per_second,
        "quota_bytes": plan.quota_bytes,
        "quota_period": plan.quota_period,
        "max_devices": plan.max_devices,
    }
    if item.kind == Kind.SELF and item.is_new_lease:
        promised["new_lease"] = True
    return promised
