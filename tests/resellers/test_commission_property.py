"""Whatever is sold, given back, changed, held, run and paid, in whatever order and zone: commissions and settlements
are what a few dozen lines of plain Python make of it, written from the words of the issue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any
from unittest.mock import patch
from zoneinfo import ZoneInfo

import pytest
from django.db.models import Count, Sum
from django.test import override_settings
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from accounts.models import User
from billing.finance.books import check_books
from billing.models import Order, Refund
from derp_portal.lib.clock import start_of_day
from resellers import services
from resellers.models import Attribution, CommissionBook, CommissionLine, Level, Rate, Settlement, Suspicion
from resellers.services import months
from tests.billing import bookkeeping as books
from tests.billing.bookkeeping import Kind, Line
from tests.billing.till import paid_order, priced_plan
from tests.conftest import make_user
from tests.parts import effort
from tests.resellers.trade import bring, customer_of, make_level, make_reseller, sale, set_least

ZONES = ("Asia/Shanghai", "Europe/Berlin", "America/New_York", "Pacific/Apia")
BEGIN = datetime(2027, 3, 25, tzinfo=UTC)
"""Clocks change in Berlin three days later, and a month ends in six."""
LONG_AGO = BEGIN - timedelta(days=1000)
LEVELS: dict[str, dict[str, Any]] = {
    "standard": {"rate": 1500},
    "gold": {"rate": 2500, "hold_days": 14, "minimum_payout": 4000},
    "first": {"rate": 3333, "hold_days": 4, "first_order_only": True},
}
PLANS = (None, 3, 30)
RESELLERS = ("rita", "sam")
CUSTOMERS = {"alice": "rita", "bob": "rita", "carol": "sam", "dora": None, "rita+two": "rita"}
"""By whose link each of them came. The last is rita herself, by another address."""

WORTH = ("month", "currency", "amount", "lines", "carried_in", "payable", "state")

amounts = st.one_of(st.sampled_from([990, 1990, 10_000, 20_000]), st.integers(0, 20_000))
sales = st.fixed_dictionaries(
    {
        "do": st.just("sell"),
        "who": st.sampled_from([*CUSTOMERS, "alice", "alice", "alice"]),
        "lines": st.lists(
            st.tuples(amounts, st.sampled_from(PLANS), st.sampled_from([Kind.GIFT, Kind.GIFT, Kind.WHOLESALE])),
            min_size=1,
            max_size=3,
        ),
        "received": st.sampled_from([100, 100, 100, 100, 97, 0]),
        "currency": st.sampled_from(["CNY", "CNY", "USD"]),
    }
)
refunds = st.fixed_dictionaries(
    {"do": st.just("refund"), "which": st.integers(0, 9), "part": st.sampled_from([1, 33, 50, 100, 100])}
)
sweeps = st.fixed_dictionaries({"do": st.sampled_from(["accrue", "run", "run"])})
rates = st.fixed_dictionaries(
    {
        "do": st.just("rate"),
        "level": st.sampled_from(list(LEVELS)),
        "plan": st.sampled_from(PLANS),
        "points": st.integers(0, 10_000),
        "lasts": st.sampled_from([None, 1, 10]),
    }
)
changes = st.fixed_dictionaries(
    {
        "do": st.sampled_from(["level", "minimum", "correct", "suspend", "approve"]),
        "reseller": st.sampled_from(RESELLERS),
        "level": st.sampled_from(list(LEVELS)),
        "minimum": st.sampled_from([0, 1000, 5000]),
        "who": st.sampled_from(["alice", "carol", "dora"]),
    }
)
decisions = st.fixed_dictionaries(
    {"do": st.sampled_from(["allow", "pay", "pay", "reject", "clear", "confirm"]), "which": st.integers(0, 9)}
)
minutes_to_days = st.one_of(st.integers(0, 60), st.integers(0, 6 * 24 * 60))
in_a_month = st.lists(
    st.tuples(minutes_to_days, st.one_of(sales, sales, sales, refunds, refunds, sweeps, rates, changes, decisions)),
    min_size=2,
    max_size=6,
)
after_its_run = st.lists(
    st.tuples(st.integers(0, 60), st.one_of(decisions, decisions, refunds, sales, sweeps)), max_size=3
)
histories = st.lists(st.tuples(in_a_month, st.sampled_from([True, True, False]), after_its_run), min_size=2, max_size=4)
"""Of each month what happens in it, whether commissions are looked at before it ends, what happens after its run."""


@dataclass
class Sold:
    """An order as the naive model knows it."""

    pk: int
    who: str
    moment: datetime
    currency: str
    received: int
    parts: list[tuple[int | None, int]]
    """The plan and the money of each line that may earn."""
    refunds: list[tuple[int, int]] = field(default_factory=list)
    earned: tuple[str, int, date] | None = None
    """By whom, how much, and when it is due."""
    taken: list[int] = field(default_factory=list)
    """The refunds that took some of it back."""

    @property
    def left(self) -> int:
        return self.received - sum(amount for _refund, amount in self.refunds)


@dataclass
class Due:
    """A settlement as the naive model knows it."""

    reseller: str
    month: date
    currency: str
    amount: int
    lines: int
    carried_in: int
    state: str
    carried_to: date | None = None
    rejected_in: date | None = None
    """The month that ran when it was."""

    @property
    def payable(self) -> int:
        return self.amount + self.carried_in


@dataclass
class Naive:
    """The issue's words, one after the other, without a database."""

    zone: ZoneInfo
    levels: dict[str, list[tuple[datetime, str]]] = field(default_factory=dict)
    rates: list[tuple[str, int | None, int, datetime, datetime | None]] = field(default_factory=list)
    minimum: dict[str, int] = field(default_factory=dict)
    active: dict[str, list[tuple[datetime, bool]]] = field(default_factory=dict)
    """Who was suspended and came back, and when: what is sold meanwhile earns nothing, whenever it is looked at."""
    brought: dict[str, list[tuple[datetime, str | None]]] = field(default_factory=dict)
    orders: list[Sold] = field(default_factory=list)
    unread: list[Sold] = field(default_factory=list)
    unread_refunds: list[tuple[Sold, int]] = field(default_factory=list)
    suspected: dict[int, tuple[Sold, str]] = field(default_factory=dict)
    lines: list[tuple[str, int, int, str, date]] = field(default_factory=list)
    """Reseller, order, amount, currency and month."""
    run_until: date | None = None
    settled: set[date] = field(default_factory=set)
    """The months that were run once."""
    dues: list[Due] = field(default_factory=list)

    def day(self, moment: datetime) -> date:
        return moment.astimezone(self.zone).date()

    def month_of(self, day: date) -> date:
        """Where a line of that day is settled: never in a month that was run."""
        month = day.replace(day=1)
        return max(month, _after(self.run_until)) if self.run_until else month

    def accrue(self, moment: datetime) -> None:
        while self.unread:
            order = self.unread.pop(0)
            reseller = _last(self.brought[order.who], order.moment)
            if reseller is None or not order.received or not order.parts:
                continue
            if order.who == f"{reseller}+two":
                self.suspected[order.pk] = (order, reseller)
            else:
                self.decide(order, reseller, moment)
        while self.unread_refunds:
            self.take_back(*self.unread_refunds.pop(0), moment)

    def decide(self, order: Sold, reseller: str, moment: datetime) -> None:
        level = _last(self.levels[reseller], order.moment)
        assert level is not None
        amount = sum(
            _half_up(Fraction(part * self.rate(level, plan, order.moment), 10_000)) for plan, part in order.parts
        )
        earlier = [one for one in self.orders if one.who == order.who and one.received and one.pk < order.pk]
        is_active = _last([(datetime.min.replace(tzinfo=UTC), True), *self.active.get(reseller, [])], order.moment)
        if not is_active or (LEVELS[level].get("first_order_only") and earlier):
            amount = 0
        due = self.day(order.moment) + timedelta(days=LEVELS[level].get("hold_days", 0))
        self.lines.append((reseller, order.pk, amount, order.currency, self.month_of(due)))
        if amount:
            order.earned = (reseller, amount, due)
            for refund, _amount in order.refunds:
                self.take_back(order, refund, moment)

    def rate(self, level: str, plan: int | None, moment: datetime) -> int:
        """The plan's own rate goes before the one for all; of several the one that began last."""
        for wanted in (plan, None):
            found = [
                (begin, number, points)
                for number, (of, for_plan, points, begin, end) in enumerate(self.rates)
                if of == level and for_plan == wanted and begin <= moment and (end is None or moment < end)
            ]
            if found:
                return max(found)[2]
        return 0

    def take_back(self, order: Sold, refund: int, moment: datetime) -> None:
        if order.earned is None or refund in order.taken:
            return
        reseller, earned, due = order.earned
        money = dict(order.refunds)
        before = sum(money[one] for one in order.taken)
        order.taken.append(refund)
        share = earned * (before + money[refund]) // order.received - earned * before // order.received
        month = self.month_of(max(self.day(moment), due))
        self.lines.append((reseller, order.pk, -share, order.currency, month))

    def run(self, moment: datetime) -> None:
        month = self.run_until or min((line[4] for line in self.lines), default=None)
        while month is not None and month < self.day(moment).replace(day=1):
            self.run_until = month
            self.settle(month)
            month = _after(month)

    def settle(self, month: date) -> None:
        waiting = [due for due in self.dues if due.state in ("carried", "rejected") and not due.carried_to]
        # What was rejected when the month was over is not carried back into it.
        waiting = [due for due in waiting if due.month < month and (due.rejected_in or month) <= month]
        # What earned nothing makes nobody a settlement of nothing.
        lines = [line for line in self.lines if line[4] == month and line[2]]
        keys = {(line[0], line[3]) for line in lines}
        keys |= {(due.reseller, due.currency) for due in waiting if due.state == "rejected"}
        if month not in self.settled:
            for due in waiting:
                left = sum(
                    one.payable for one in waiting if (one.reseller, one.currency) == (due.reseller, due.currency)
                )
                keys |= {(due.reseller, due.currency)} if left >= self.least(due.reseller, due.currency) else set()
        self.settled.add(month)
        keys -= {(due.reseller, due.currency) for due in self.dues if due.month == month}
        for reseller, currency in keys:
            found = [line[2] for line in lines if (line[0], line[3]) == (reseller, currency)]
            carried = [due for due in waiting if (due.reseller, due.currency) == (reseller, currency)]
            made = Due(reseller, month, currency, sum(found), len(found), sum(due.payable for due in carried), "")
            made.state = "open" if made.payable >= self.least(reseller, currency) else "carried"
            for due in carried:
                due.carried_to = month
            self.dues.append(made)

    def least(self, reseller: str, currency: str) -> int:
        """The smallest payouts of this story are in yuan; any amount of another currency is paid."""
        return max(self.minimum[self.levels[reseller][-1][1]] if currency == "CNY" else 0, 1)


def _after(month: date) -> date:
    return month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)


def _last(history: list[tuple[datetime, Any]], moment: datetime) -> Any:
    return [what for since, what in history if since <= moment][-1]


def _half_up(exact: Fraction) -> int:
    return int(exact + Fraction(1, 2))


def _parts(received: int, lines: list[int]) -> list[int]:
    """The money by the lines' shares, the largest remainders rounded up."""
    exact = [Fraction(received * amount, sum(lines)) if sum(lines) else Fraction(0) for amount in lines]
    parts = [int(part) for part in exact]
    order = sorted(range(len(lines)), key=lambda number: (parts[number] - exact[number], number))
    for number in order[: received - sum(parts)]:
        parts[number] += 1
    return parts


class Story:
    """Makes the events happen here and in the model."""

    def __init__(self, zone: ZoneInfo) -> None:
        self.model, self.moment = Naive(zone), BEGIN
        self.root = make_user("root", role="admin", is_superuser=True)
        self.plans = {days: books.plan(days) for days in PLANS if days}
        for code, values in LEVELS.items():
            Level.objects.filter(code=code).delete()
            made = make_level(code, **values)
            Rate.objects.filter(level=made).update(valid_from=LONG_AGO)
            self.model.rates.append((code, None, values["rate"], LONG_AGO, None))
            self.model.minimum[code] = values.get("minimum_payout", 0)
        self.resellers = {
            name: make_reseller(make_user(name), Level.objects.get(code="standard")) for name in RESELLERS
        }
        self.model.levels = {name: [(LONG_AGO, "standard")] for name in RESELLERS}
        self.people = {name: make_user(name.replace("+", ""), email=f"{name}@example.com") for name in CUSTOMERS}
        for name, by in CUSTOMERS.items():
            self.model.brought[name] = [(LONG_AGO, by)]
            if by:
                bring(self.resellers[by], self.people[name])

    def go_on_to_the_next_month(self) -> None:
        """Its first moment in the operator's zone."""
        month = _after(self.model.day(self.moment).replace(day=1))
        self.moment = start_of_day(month, self.model.zone).astimezone(UTC)

    def happen(self, minutes: int, event: dict[str, Any]) -> None:
        self.moment += timedelta(minutes=minutes)
        with books.at(self.moment):
            do: Callable[[dict[str, Any]], None] = getattr(self, event["do"])
            do(event)

    # --- what happens ---------------------------------------------------------------------------------

    def sell(self, event: dict[str, Any]) -> None:
        lines = [
            Line(amount, self.plans.get(days), kind if days else Kind.PACK) for amount, days, kind in event["lines"]
        ]
        whole = sum(line.amount for line in lines)
        received = whole * event["received"] // 100
        order = books.place(lines, user=self.people[event["who"]], currency=event["currency"])
        books.deliver(books.pay(order, received=received))
        Order.objects.filter(pk=order.pk).update(is_news=True)
        parts = _parts(received, [line.amount for line in lines])
        earning = [
            (days, part)
            for (_amount, days, kind), part in zip(event["lines"], parts, strict=True)
            if kind != Kind.WHOLESALE or not days
        ]
        sold = Sold(order.pk, event["who"], self.moment, event["currency"], received, earning)
        self.model.orders.append(sold)
        self.model.unread.append(sold)

    def refund(self, event: dict[str, Any]) -> None:
        paid = [order for order in self.model.orders if order.left]
        if not paid:
            return
        sold = paid[-1 - event["which"] % len(paid)]
        amount = max(sold.left * event["part"] // 100, 1)
        refund = books.give_back(Order.objects.get(pk=sold.pk), amount)
        Refund.objects.filter(pk=refund.pk).update(is_news=True)
        sold.refunds.append((refund.pk, amount))
        self.model.unread_refunds.append((sold, refund.pk))

    def accrue(self, _event: dict[str, Any]) -> None:
        services.accrue()
        self.model.accrue(self.moment)
        assert services.accrue() == 0

    def run(self, _event: dict[str, Any]) -> None:
        services.run_months()
        self.model.run(self.moment)
        assert services.run_months() == 0

    def rate(self, event: dict[str, Any]) -> None:
        end = self.moment + timedelta(days=event["lasts"]) if event["lasts"] else None
        Rate.objects.create(
            level=Level.objects.get(code=event["level"]),
            plan=self.plans.get(event["plan"]),
            basis_points=event["points"],
            valid_from=self.moment,
            valid_until=end,
        )
        self.model.rates.append((event["level"], event["plan"], event["points"], self.moment, end))

    def level(self, event: dict[str, Any]) -> None:
        level = Level.objects.get(code=event["level"])
        services.set_level(reseller_id=self.resellers[event["reseller"]].pk, level=level, actor=self.root)
        self.model.levels[event["reseller"]].append((self.moment, event["level"]))

    def minimum(self, event: dict[str, Any]) -> None:
        set_least(Level.objects.get(code=event["level"]), event["minimum"])
        self.model.minimum[event["level"]] = event["minimum"]

    def correct(self, event: dict[str, Any]) -> None:
        to = event["reseller"] if event["minimum"] else None
        services.correct_attribution(
            user_id=self.people[event["who"]].pk,
            reseller=self.resellers[to] if to else None,
            reason="asked",
            actor=self.root,
        )
        self.model.brought[event["who"]].append((self.moment, to))

    def suspend(self, event: dict[str, Any]) -> None:
        services.suspend(reseller_id=self.resellers[event["reseller"]].pk, reason="spam", actor=self.root)
        self.model.active.setdefault(event["reseller"], []).append((self.moment, False))

    def approve(self, event: dict[str, Any]) -> None:
        services.approve(reseller_id=self.resellers[event["reseller"]].pk, actor=self.root)
        self.model.active.setdefault(event["reseller"], []).append((self.moment, True))

    def _due(self, event: dict[str, Any], *states: str) -> tuple[int, Due] | None:
        found = [due for due in self.model.dues if due.state in states]
        if not found:
            return None
        due = found[-1 - event["which"] % len(found)]
        reseller = self.resellers[due.reseller]
        return Settlement.objects.get(reseller=reseller, month=due.month, currency=due.currency).pk, due

    def allow(self, event: dict[str, Any]) -> None:
        if found := self._due(event, "open"):
            services.approve_settlement(settlement_id=found[0], actor=self.root)
            found[1].state = "approved"

    def pay(self, event: dict[str, Any]) -> None:
        if found := self._due(event, "open", "approved"):
            services.approve_settlement(settlement_id=found[0], actor=self.root)
            services.pay_settlement(settlement_id=found[0], reference="bank", actor=self.root)
            found[1].state = "paid"

    def reject(self, event: dict[str, Any]) -> None:
        if found := self._due(event, "open", "approved"):
            services.reject_settlement(settlement_id=found[0], reason="wrong account", actor=self.root)
            found[1].state, found[1].rejected_in = "rejected", self.model.day(self.moment).replace(day=1)

    def clear(self, event: dict[str, Any]) -> None:
        if found := self._suspected(event):
            services.clear(suspicion_id=Suspicion.objects.get(order=found[0].pk).pk, reason="known", actor=self.root)
            self.model.decide(*found, self.moment)

    def confirm(self, event: dict[str, Any]) -> None:
        if found := self._suspected(event):
            services.confirm(suspicion_id=Suspicion.objects.get(order=found[0].pk).pk, reason="own", actor=self.root)
            order, reseller = found
            month = self.model.month_of(self.model.day(self.moment))
            self.model.lines.append((reseller, order.pk, 0, order.currency, month))

    def _suspected(self, event: dict[str, Any]) -> tuple[Sold, str] | None:
        open_ = sorted(self.model.suspected)
        return self.model.suspected.pop(open_[event["which"] % len(open_)]) if open_ else None

    # --- what must hold -------------------------------------------------------------------------------

    def check(self) -> None:
        """Now, whatever happened last: nothing is lost between lines, settlements, payouts and the ledger."""
        run_until = CommissionBook.objects.get(pk=1).run_until
        lines = CommissionLine.objects.order_by()
        if run_until:
            lines = lines.filter(settle_month__gt=run_until)
        earned, still_open = _sums(CommissionLine.objects.order_by(), "amount"), _sums(lines, "amount")
        settled = _sums(Settlement.objects.order_by(), "amount")
        paid = _sums(Settlement.objects.filter(state="paid").order_by(), "payable")
        owed = _sums(Settlement.objects.exclude(state="paid").filter(carried_to=None).order_by(), "payable")
        assert earned == _clean(Counter(settled), still_open)
        assert earned == _clean(Counter(paid), owed, still_open), "something was carried twice, or not at all"
        assert services.check_commissions() == []
        once = CommissionLine.objects.exclude(kind="reversed").order_by().values("order").annotate(count=Count("id"))
        assert not once.filter(count__gt=1).exists()

    def compare(self) -> None:
        """All lines and settlements are the model's, and what was given back whole has earned nothing in the end."""
        names = {reseller.pk: name for name, reseller in self.resellers.items()}
        found = CommissionLine.objects.values_list("reseller", "order", "amount", "currency", "settle_month")
        lines = [(names[row[0]], *row[1:]) for row in found]
        assert Counter(lines) == Counter(self.model.lines)
        settled = Settlement.objects.values_list("reseller", *WORTH, "carried_to__month")
        made = {(names[row[0]], *row[1:]) for row in settled}
        wanted = {(one.reseller, *(getattr(one, name) for name in WORTH), one.carried_to) for one in self.model.dues}
        assert made == wanted
        nets = dict(CommissionLine.objects.order_by().values_list("order").annotate(sum=Sum("amount")))
        unread = {order.pk for order, _refund in self.model.unread_refunds}
        whole = [
            order.pk for order in self.model.orders if order.received and not order.left and order.pk not in unread
        ]
        assert {nets.get(pk, 0) for pk in whole} <= {0}


def _sums(rows: Any, name: str) -> dict[tuple[int, str], int]:
    found = rows.values_list("reseller_id", "currency").annotate(sum=Sum(name))
    return {(reseller, currency): amount for reseller, currency, amount in found if amount}


def _clean(sums: Counter[tuple[int, str]], *more: dict[tuple[int, str], int]) -> dict[tuple[int, str], int]:
    for one in more:
        sums.update(one)
    return {key: amount for key, amount in sums.items() if amount}


@pytest.mark.both_databases
class TestWhateverHappened(TestCase):
    def setUp(self) -> None:
        # Mails have tests of their own.
        self.enterContext(patch.object(months, "notify", lambda **_mail: None))

    @hypothesis_settings(max_examples=effort(10, 40), deadline=None, suppress_health_check=list(HealthCheck))
    @given(zone=st.sampled_from(ZONES), history=histories)
    def test_commissions_and_settlements_are_what_plain_counting_gives(
        self, zone: str, history: list[tuple[Any, bool, Any]]
    ) -> None:
        with override_settings(TIME_ZONE=zone):
            with books.at(LONG_AGO):
                story = Story(ZoneInfo(zone))
            # In the end what is left is looked at, and run.
            for before, is_looked_at, after in [*history, ([], True, []), ([], True, [])]:
                look = [(0, {"do": "accrue"})] if is_looked_at else []
                for minutes, event in [*before, *look]:
                    story.happen(minutes, event)
                    story.check()
                story.go_on_to_the_next_month()
                for minutes, event in [(0, {"do": "run"}), *after]:
                    story.happen(minutes, event)
                    story.check()
                story.compare()
            assert check_books() == []


# --- what chance rarely finds -----------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("moment", "hold", "due_on"),
    [
        # The clock goes on an hour on 28 March, and back an hour on 31 October.
        (datetime(2027, 3, 27, 22, 30, tzinfo=UTC), 4, date(2027, 3, 31)),
        (datetime(2027, 10, 29, 22, 15, tzinfo=UTC), 2, date(2027, 11, 1)),
    ],
)
def test_a_clock_change_moves_what_is_held_over_no_months_border(
    rita: User, settings: Any, moment: datetime, hold: int, due_on: date
) -> None:
    settings.TIME_ZONE = "Europe/Berlin"
    reseller = make_reseller(rita, make_level(hold_days=hold))
    with books.at(moment):
        sale(customer_of(reseller), priced_plan(30, 10_000))
        services.accrue()
    line = CommissionLine.objects.get()
    assert (line.due_on, line.settle_month) == (due_on, due_on.replace(day=1))


@pytest.mark.django_db
def test_a_free_trial_is_not_the_first_order_that_a_programme_pays_for(rita: User) -> None:
    reseller = make_reseller(rita, make_level(first_order_only=True))
    customer = customer_of(reseller)
    paid_order(customer, priced_plan(3, 0, is_trial=True), Kind.SELF)
    for _number in range(2):
        sale(customer, priced_plan(30, 10_000))
    services.accrue()
    assert list(CommissionLine.objects.order_by("id").values_list("amount", flat=True)) == [1500, 0]


@pytest.mark.django_db
def test_what_one_signed_up_with_counts_until_staff_correct_it(rita: User, alice: User, root: User) -> None:
    """Even if nobody had read it yet: else it would be read later, and be a second reseller at the same time."""
    first, second = make_reseller(rita), make_reseller(alice)
    customer = make_user("dora", signup_ref=services.reference_for(first))
    services.correct_attribution(user_id=customer.pk, reseller=second, reason="she called", actor=root)
    assert services.read_signups() == 0
    assert [one.reseller for one in Attribution.objects.order_by("id")] == [first, second]
    assert Attribution.objects.get(until=None).reseller == second
