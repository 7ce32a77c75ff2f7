"""Whatever happened, on whatever days and in whatever zone: figures, roll-ups, reports and balances are what a few
lines of plain Python count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.test import override_settings
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from billing.finance.books import check_books
from billing.finance.deferred import deferred_revenue
from billing.finance.figures import By, statistics
from billing.finance.reports import make_report
from billing.finance.roll_up import check_roll_ups, roll_up_days
from billing.finance.sums import FIELDS, OWN_SHOP, Narrowing
from billing.models import Order, Refund, Transfer
from derp_portal.lib.clock import next_month
from tests.billing import bookkeeping as books
from tests.billing.bookkeeping import Kind, Line
from tests.parts import effort

ZONES = ("Asia/Shanghai", "Europe/Berlin", "America/New_York", "Pacific/Apia")
BEGIN = datetime(2027, 3, 26, tzinfo=UTC)
"""Clocks change in Berlin two days later, and a month ends in five."""
CURRENCIES = ("CNY", "USD", "JPY")
PLANS = (3, 30)
PEOPLE = ("alice", "bob", "carol")
RESELLERS = (None, "rita")
SHOPS = ("taobao", "xianyu")


@dataclass
class Told:
    """What the plain recomputation remembers of each event: the day it belongs to, and what it brought."""

    money: list[tuple[date, str, Any, Any, Any, str, int]] = field(default_factory=list)
    orders: list[tuple[date, str, Any, Any, Any, dict[str, int], str | None, int]] = field(default_factory=list)
    placed: list[date] = field(default_factory=list)


amounts = st.integers(0, 5000)
lines = st.lists(
    st.tuples(amounts, st.sampled_from([None, *PLANS]), st.sampled_from([Kind.GIFT, Kind.RENEWAL]), st.integers(1, 3)),
    min_size=1,
    max_size=3,
)
sales = st.fixed_dictionaries(
    {
        "do": st.just("sell"),
        "lines": lines,
        "user": st.sampled_from(PEOPLE),
        "reseller": st.sampled_from(RESELLERS),
        "currency": st.sampled_from(CURRENCIES),
        "fee": st.integers(0, 30),
        "is_wholesale": st.booleans(),
    }
)
outside = st.fixed_dictionaries(
    {
        "do": st.just("outside"),
        "amount": amounts,
        "plan": st.sampled_from(PLANS),
        "shop": st.sampled_from(SHOPS),
        "fee": st.integers(0, 30),
    }
)
others = st.fixed_dictionaries(
    {
        "do": st.sampled_from(["refund", "return", "abandon", "send", "use", "roll_up"]),
        "which": st.integers(0, 50),
        "part": st.integers(1, 100),
    }
)
events = st.lists(st.tuples(st.integers(0, 30 * 60), st.one_of(sales, sales, outside, others)), min_size=1, max_size=9)


class Story:
    """Makes the events happen, and remembers them its own way."""

    def __init__(self, zone: ZoneInfo) -> None:
        self.zone, self.told, self.moment = zone, Told(), BEGIN
        self.plans = {days: books.plan(days) for days in PLANS}
        self.used: list[tuple[Any, datetime]] = []
        self.sold: list[Any] = []
        self.taken: set[int] = set()

    @property
    def day(self) -> date:
        return self.moment.astimezone(self.zone).date()

    def happen(self, minutes: int, event: dict[str, Any]) -> None:
        self.moment += timedelta(minutes=minutes)
        with books.at(self.moment):
            do: Callable[[dict[str, Any]], None] = getattr(self, event["do"])
            do(event)

    def sell(self, event: dict[str, Any]) -> None:
        kind = Kind.WHOLESALE
        wanted = [
            Line(amount, self.plans[days] if days else None, kind if event["is_wholesale"] else one, count)
            for amount, days, one, count in event["lines"]
        ]
        reseller = books.customer(event["reseller"]) if event["reseller"] else None
        user = books.customer(event["user"])
        order = books.sell(
            *wanted, user=user, reseller=reseller, currency=event["currency"], fee=min(event["fee"], _sum(wanted))
        )
        self._tell(order, wanted, reseller, None, min(event["fee"], _sum(wanted)), event["user"])

    def outside(self, event: dict[str, Any]) -> None:
        wanted = [Line(event["amount"], self.plans[event["plan"]], Kind.OUTSIDE)]
        channel = books.shop(event["shop"])
        fee = min(event["fee"], event["amount"])
        self._tell(books.sell(*wanted, channel=channel, fee=fee), wanted, None, channel, fee, None)

    def _tell(self, order: Order, wanted: list[Line], reseller: Any, channel: Any, fee: int, who: str | None) -> None:
        whose = (channel and channel.pk, reseller and reseller.pk)
        self.told.placed.append(self.day)
        for number, line in enumerate(wanted):
            plan_id = line.plan and line.plan.pk
            account = "wholesale" if line.kind == Kind.WHOLESALE and line.plan else "revenue"
            self.told.money.append((self.day, order.currency, plan_id, *whose, account, line.amount))
            counts = {
                "orders": int(number == 0),
                "first_orders": int(number == 0 and order.is_first),
                "units": line.quantity,
                "renewals": int(line.kind == Kind.RENEWAL and line.plan is not None),
            }
            self.told.orders.append((self.day, order.currency, plan_id, *whose, counts, who, order.received))
        self.told.money.append((self.day, order.currency, None, *whose, "fees", fee if order.received else 0))
        self.sold += [sold for line in order.lines.order_by("id") for sold in line.sold.order_by("id")]

    def _order(self, event: dict[str, Any]) -> Order | None:
        paid = list(Order.objects.filter(state=Order.State.FULFILLED, received__gt=0).order_by("id"))
        return paid[event["which"] % len(paid)] if paid else None

    def refund(self, event: dict[str, Any]) -> None:
        order = self._order(event)
        if order is None:
            return
        amount = max(order.refundable * event["part"] // 100, 1)
        is_all = amount == order.refundable
        refund = books.give_back(order, amount, is_sent=bool(event["which"] % 2), takes_back=is_all)
        if is_all:
            self.taken |= {sold.pk for sold in self.sold if sold.line.order_id == order.pk}
        for posting in refund.postings.filter(debit="refunds"):
            whose = (posting.line.plan_id if posting.line else None, order.channel_id, order.reseller_id)
            self.told.money.append((self.day, order.currency, *whose, "refunds", posting.amount))

    def abandon(self, event: dict[str, Any]) -> None:
        order = books.place([Line(100, self.plans[3])], user=books.customer("bob"))
        self.told.placed.append(self.day)
        if event["which"] % 2:
            books.take_in(order, event["part"], state=Transfer.State.HELD)

    def send(self, event: dict[str, Any]) -> None:
        due = Refund.objects.exclude(state=Refund.State.DONE).order_by("id").first()
        if due:
            books.send(due)

    def use(self, event: dict[str, Any]) -> None:
        known = {sold.pk for sold, _at in self.used} | self.taken
        free = [sold for sold in self.sold if sold.pk not in known]
        if free:
            sold = free[event["which"] % len(free)]
            start = self.moment + timedelta(minutes=event["part"]) if event["which"] % 3 == 0 else self.moment
            books.use(sold, books.lease_of(books.customer("alice")), start)
            self.used.append((sold, start))

    def roll_up(self, _event: dict[str, Any]) -> None:
        roll_up_days()

    def return_(self, _event: dict[str, Any]) -> None:
        held = Transfer.objects.filter(state=Transfer.State.HELD).order_by("id").first()
        if held:
            books.return_transfer(held)


setattr(Story, "return", Story.return_)


def _sum(wanted: list[Line]) -> int:
    return sum(line.amount for line in wanted)


def naive(told: Told, first: date, last: date, currency: str, only: Narrowing) -> dict[str, Any]:
    """The same figures, added up one by one."""

    def is_wanted(day: date, code: str, plan: Any, channel: Any, reseller: Any) -> bool:
        return (
            first <= day <= last
            and code == currency
            and (only.plan_id is None or plan == only.plan_id)
            and (only.channel_id is None or (channel or OWN_SHOP) == only.channel_id)
            and (only.reseller_id is None or reseller == only.reseller_id)
        )

    sums: dict[str, int] = dict.fromkeys(FIELDS, 0)
    days: dict[date, int] = defaultdict(int)
    people = set()
    sign = {"revenue": 1, "wholesale": 1, "refunds": -1, "fees": 0}
    own = 0
    for day, code, plan, channel, reseller, account, amount in told.money:
        if is_wanted(day, code, plan, channel, reseller):
            sums[account] += amount
            days[day] += sign[account] * amount
            own += sign[account] * amount if channel is None else 0
    for day, code, plan, channel, reseller, counts, who, received in told.orders:
        if is_wanted(day, code, plan, channel, reseller):
            for name, count in counts.items():
                sums[name] += count
            if who and received:
                people.add(who)
    placed = sum(first <= day <= last for day in told.placed)
    paid = sum(counts["orders"] for day, *_whose, counts, _who, _received in told.orders if first <= day <= last)
    return {"sums": sums, "days": days, "people": len(people), "own": own, "placed": placed, "paid": paid}


def compare(story: Story, first: date, last: date, currency: str, only: Narrowing) -> None:
    found = statistics(first, last, currency, only=only)
    told = naive(story.told, first, last, currency, only)
    assert {name: getattr(found.totals, name) for name in FIELDS} == told["sums"]
    assert {step.start: step.sums.net for step in found.series if step.sums.net} == {
        day: net for day, net in told["days"].items() if net
    }
    months = statistics(first, last, currency, only=only, by=By.MONTH)
    assert sum(step.sums.net for step in months.series) == sum(told["days"].values())
    assert found.customers == told["people"]
    assert found.average == (told["own"] // told["people"] if told["people"] else None)
    assert (found.conversion.placed, found.conversion.paid) == (told["placed"], told["paid"])
    for parts in (found.plans, found.channels):
        assert sum(part.sums.net for part in parts) == found.totals.net


def served(story: Story, moment: datetime) -> dict[tuple[str, int], int]:
    """What is still to be served, serial by serial."""
    starts = {sold.pk: start for sold, start in story.used}
    left: dict[tuple[str, int], int] = defaultdict(int)
    for sold in story.sold:
        if sold.pk in story.taken:
            continue
        whole = sold.serial.duration_days * 86400
        ahead = whole
        if sold.pk in starts:
            end = starts[sold.pk] + timedelta(seconds=whole)
            ahead = min(max(int((end - moment).total_seconds()), 0), whole)
        left[sold.line.order.currency, sold.serial.plan_id] += sold.amount * ahead // whole
    return {key: amount for key, amount in left.items() if amount}


@pytest.mark.both_databases
class TestWhateverHappened(TestCase):
    @hypothesis_settings(max_examples=effort(8, 30), deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        zone=st.sampled_from(ZONES),
        history=events,
        later=st.integers(0, 4 * 24 * 60),
        plan=st.sampled_from([None, *PLANS]),
        channel=st.sampled_from([None, OWN_SHOP, SHOPS[0]]),
        reseller=st.sampled_from(RESELLERS),
        currency=st.sampled_from(CURRENCIES),
    )
    def test_the_figures_are_what_plain_counting_gives(
        self,
        zone: str,
        history: list[tuple[int, dict[str, Any]]],
        later: int,
        plan: int | None,
        channel: Any,
        reseller: str | None,
        currency: str,
    ) -> None:
        with override_settings(TIME_ZONE=zone):
            story = Story(ZoneInfo(zone))
            first = story.day
            for minutes, event in history:
                story.happen(minutes, event)
            only = Narrowing(
                plan_id=story.plans[plan].pk if plan else None,
                channel_id=books.shop(channel).pk if channel else channel,
                reseller_id=books.customer(reseller).pk if reseller else None,
            )
            with books.at(story.moment + timedelta(minutes=later)):
                self.judge(story, first, currency, only)

    def judge(self, story: Story, first: date, currency: str, only: Narrowing) -> None:
        moment = story.moment
        last = datetime.now(tz=story.zone).date()
        assert check_books() == []
        for _rolled in range(2):
            compare(story, first, last, currency, Narrowing())
            compare(story, first, last, currency, only)
            compare(story, first + timedelta(days=1), last - timedelta(days=1), currency, only)
            report = make_report(first)
            month_end = next_month(first) - timedelta(days=1)
            for part in report["currencies"]:
                told = naive(story.told, first.replace(day=1), month_end, part["currency"], Narrowing())
                assert {name: part["totals"][name] for name in FIELDS} == told["sums"]
                closing = {row["account"]: row["closing"] for row in part["accounts"]}
                assert closing.get("revenue", 0) == told["sums"]["revenue"], "nothing was booked before"
                assert closing.get("gateway_fees", 0) == told["sums"]["fees"]
            roll_up_days()
            assert check_roll_ups() == []
        with books.at(moment):
            deferred = {(one.currency, one.plan_id): one.amount for one in deferred_revenue()}
            assert deferred == served(story, moment)
