"""What orders earn, what refunds take back, and that it nets to zero."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
import time_machine
from django.db import IntegrityError, transaction

from accounts.models import User
from billing.finance.books import check_books
from billing.models import Account, Order
from billing.services import refund_order
from resellers import services
from resellers.models import Attribution, CommissionLine, Level, LevelPeriod, Rate, Reseller, Settlement, Suspicion
from resellers.services import commissions
from tests.billing.till import balance, priced_plan
from tests.resellers.trade import bring, customer_of, make_level, make_reseller, sale, set_least
from tests.serials.shop import START, mails

pytestmark = pytest.mark.django_db


@pytest.fixture
def reseller(rita: User) -> Reseller:
    """rita earns 15 % of everything, at once."""
    return make_reseller(rita)


def amounts() -> list[int]:
    return list(CommissionLine.objects.order_by("id").values_list("amount", flat=True))


def test_an_order_of_a_customer_earns_once(reseller: Reseller) -> None:
    order = sale(customer_of(reseller), priced_plan(30, 1990))
    assert services.accrue() == 1
    assert services.accrue() == 0
    line = CommissionLine.objects.get()
    assert (line.order, line.base, line.amount) == (order, 1990, 299)
    assert balance(Account.RESELLER_PAYABLES) == -299
    assert balance(Account.COMMISSIONS) == 299
    assert services.check_commissions() == []
    assert check_books() == []


def test_an_order_of_nobodys_customer_earns_nothing(reseller: Reseller, bob: User) -> None:
    sale(bob, priced_plan(30))
    services.accrue()
    assert not CommissionLine.objects.exists()


@pytest.mark.parametrize("parts", [[1990], [1, 1989], [500, 500, 990], [663, 663, 664]])
def test_a_whole_refund_nets_to_zero_however_it_is_cut(reseller: Reseller, root: User, parts: list[int]) -> None:
    order = sale(customer_of(reseller), priced_plan(30, 1990))
    services.accrue()
    for part in parts:
        refund_order(order_id=order.pk, amount=part, reason="asked", actor=root)
        services.accrue()
    assert sum(amounts()) == 0
    assert balance(Account.RESELLER_PAYABLES) == balance(Account.COMMISSIONS) == 0
    assert services.check_commissions() == []


def test_a_refund_before_anybody_looked_nets_to_zero_too(reseller: Reseller, root: User) -> None:
    order = sale(customer_of(reseller), priced_plan(30, 1990))
    refund_order(order_id=order.pk, reason="asked", actor=root)
    services.accrue()
    services.accrue()
    assert amounts() == [299, -299]


def test_a_refund_after_the_payout_is_carried_into_the_next_month(reseller: Reseller, root: User) -> None:
    with time_machine.travel(START, tick=False) as clock:
        order = sale(customer_of(reseller), priced_plan(30, 10_000))
        services.accrue()
        clock.shift(timedelta(days=31))
        assert services.run_months() == 1
        first = Settlement.objects.get()
        assert (first.month, first.payable, first.state) == (date(2027, 1, 1), 1500, "open")
        services.approve_settlement(settlement_id=first.pk, actor=root)
        services.pay_settlement(settlement_id=first.pk, reference="bank 7", actor=root)
        refund_order(order_id=order.pk, reason="asked", actor=root)
        services.accrue()
        assert services.check_commissions() == []
        clock.shift(timedelta(days=31))
        assert services.run_months() == 1
        second = Settlement.objects.get(month=date(2027, 2, 1))
        assert (second.amount, second.payable, second.state) == (-1500, -1500, "carried")
        sale(User.objects.get(username="carol"), priced_plan(30, 20_000))
        services.accrue()
        clock.shift(timedelta(days=31))
        services.run_months()
    third = Settlement.objects.get(month=date(2027, 3, 1))
    assert (third.amount, third.carried_in, third.payable) == (3000, -1500, 1500)
    second.refresh_from_db()
    assert second.carried_to == third
    assert services.check_commissions() == []


def test_commission_is_held_and_both_sides_of_a_refund_fall_into_one_month(rita: User, root: User) -> None:
    reseller = make_reseller(rita, make_level(hold_days=30))
    with time_machine.travel(START, tick=False):
        order = sale(customer_of(reseller), priced_plan(30, 10_000))
        services.accrue()
        refund_order(order_id=order.pk, reason="asked", actor=root)
        services.accrue()
    assert set(CommissionLine.objects.values_list("settle_month", flat=True)) == {date(2027, 2, 1)}


def test_the_rate_is_that_of_the_moment_of_the_sale(reseller: Reseller) -> None:
    plan, customer = priced_plan(30, 10_000), customer_of(reseller)
    middle = START + timedelta(days=5)
    Rate.objects.create(level=reseller.level, plan=plan, basis_points=3000, valid_from=middle)
    with time_machine.travel(START, tick=False) as clock:
        sale(customer, plan)
        clock.shift(timedelta(days=6))
        sale(customer, plan)
        services.accrue()
    assert amounts() == [1500, 3000]


def test_the_level_is_that_of_the_moment_of_the_sale(reseller: Reseller, root: User) -> None:
    plan, customer = priced_plan(30, 10_000), customer_of(reseller)
    gold = make_level("gold", 2500)
    with time_machine.travel(START, tick=False) as clock:
        sale(customer, plan)
        clock.shift(timedelta(days=1))
        services.set_level(reseller_id=reseller.pk, level=gold, actor=root)
        clock.shift(timedelta(days=1))
        sale(customer, plan)
        services.accrue()
    assert amounts() == [1500, 2500]
    assert LevelPeriod.objects.count() == 2
    assert Level.objects.count() >= 2


def test_first_orders_only(rita: User) -> None:
    reseller = make_reseller(rita, make_level(first_order_only=True))
    customer = customer_of(reseller)
    for _time in range(2):
        sale(customer, priced_plan(30, 10_000))
        services.accrue()
    assert amounts() == [1500, 0]
    assert CommissionLine.objects.get(amount=0).why == "not_first"


def test_a_late_line_goes_to_the_next_month_and_never_into_one_that_was_run(reseller: Reseller) -> None:
    customer = customer_of(reseller)
    with time_machine.travel(START, tick=False) as clock:
        sale(customer, priced_plan(30, 10_000))
        services.accrue()
        sale(customer, priced_plan(30, 10_000))
        clock.shift(timedelta(days=31))
        services.run_months()
        services.accrue()
    assert list(CommissionLine.objects.order_by("id").values_list("settle_month", flat=True)) == [
        date(2027, 1, 1),
        date(2027, 2, 1),
    ]
    assert Settlement.objects.get().amount == 1500


@pytest.mark.parametrize(
    ("zone", "moment", "month"),
    [
        ("Asia/Shanghai", datetime(2027, 1, 31, 15, 59, 59, tzinfo=UTC), date(2027, 1, 1)),
        ("Asia/Shanghai", datetime(2027, 1, 31, 16, 0, 0, tzinfo=UTC), date(2027, 2, 1)),
        ("Europe/Berlin", datetime(2027, 3, 31, 21, 59, 59, tzinfo=UTC), date(2027, 3, 1)),
        ("Europe/Berlin", datetime(2027, 3, 31, 22, 0, 0, tzinfo=UTC), date(2027, 4, 1)),
        ("Europe/Berlin", datetime(2027, 10, 31, 22, 59, 59, tzinfo=UTC), date(2027, 10, 1)),
        ("Europe/Berlin", datetime(2027, 10, 31, 23, 0, 0, tzinfo=UTC), date(2027, 11, 1)),
    ],
)
def test_months_end_in_the_operators_zone(
    reseller: Reseller, settings: object, zone: str, moment: datetime, month: date
) -> None:
    settings.TIME_ZONE = zone  # type: ignore[attr-defined]
    with time_machine.travel(moment, tick=False):
        sale(customer_of(reseller), priced_plan(30, 10_000))
        services.accrue()
    assert CommissionLine.objects.get().settle_month == month


def test_too_little_is_carried_until_it_is_enough(rita: User) -> None:
    reseller = make_reseller(rita, make_level(minimum_payout=2000))
    customer = customer_of(reseller)
    with time_machine.travel(START, tick=False) as clock:
        for _month in range(2):
            sale(customer, priced_plan(30, 10_000))
            services.accrue()
            clock.shift(timedelta(days=31))
            services.run_months()
    states = list(Settlement.objects.order_by("month").values_list("state", "payable"))
    assert states == [("carried", 1500), ("open", 3000)]


def test_each_currency_has_a_smallest_payout_of_its_own(rita: User) -> None:
    level = make_level(minimum_payout=2000)
    set_least(level, 1600, "USD")
    customer = customer_of(make_reseller(rita, level))
    with time_machine.travel(START, tick=False) as clock:
        for currency in ("CNY", "USD", "EUR"):
            sale(customer, priced_plan(30, 10_000, currency=currency), currency=currency)
        services.accrue()
        clock.shift(timedelta(days=31))
        services.run_months()
        set_least(level, 1500, "USD")
        sale(customer, priced_plan(30, 10_000, currency="USD"), currency="USD")
        services.accrue()
        clock.shift(timedelta(days=31))
        services.run_months()
    states = list(Settlement.objects.order_by("month", "currency").values_list("currency", "state", "payable"))
    assert states == [
        ("CNY", "carried", 1500),
        ("EUR", "open", 1500),
        ("USD", "carried", 1500),
        ("USD", "open", 3000),
    ]


def test_a_month_in_which_nothing_was_earned_makes_no_settlement_and_no_mail(rita: User) -> None:
    reseller = make_reseller(rita, make_level(rate=None))
    with time_machine.travel(START, tick=False) as clock:
        sale(customer_of(reseller), priced_plan(30, 10_000))
        services.accrue()
        clock.shift(timedelta(days=31))
        assert services.run_months() == 0
        assert services.send_statements() == 0
    assert CommissionLine.objects.get().kind == "nothing"
    assert services.check_commissions() == []


def test_a_rejected_settlement_is_carried_into_the_next_run(reseller: Reseller, root: User) -> None:
    with time_machine.travel(START, tick=False) as clock:
        sale(customer_of(reseller), priced_plan(30, 10_000))
        services.accrue()
        clock.shift(timedelta(days=31))
        services.run_months()
        services.reject_settlement(settlement_id=Settlement.objects.get().pk, reason="wrong account", actor=root)
        clock.shift(timedelta(days=31))
        services.run_months()
    last = Settlement.objects.get(month=date(2027, 2, 1))
    assert (last.amount, last.carried_in, last.state) == (0, 1500, "open")
    assert services.run_months() == 0
    assert services.send_statements() == 2
    assert services.send_statements() == 0
    assert len(mails("settlement")) == 2


def test_what_is_rejected_after_a_run_waits_for_the_month_to_end(reseller: Reseller, root: User) -> None:
    with time_machine.travel(START, tick=False) as clock:
        customer = customer_of(reseller)
        for _month in range(2):
            sale(customer, priced_plan(30, 10_000))
            services.accrue()
            clock.shift(timedelta(days=31))
            services.run_months()
        # In March, in which February was run: also one of January, and of a currency that February has nothing of.
        for settlement in Settlement.objects.all():
            services.reject_settlement(settlement_id=settlement.pk, reason="wrong account", actor=root)
        Settlement.objects.filter(month=date(2027, 1, 1)).update(currency="USD")
        assert services.run_months() == 0
        assert services.run_month(month=date(2027, 2, 1)) == 0
        clock.move_to(datetime(2027, 4, 1, 12, tzinfo=UTC))
        assert services.run_months() == 2
        assert services.run_months() == 0
    last = Settlement.objects.filter(month=date(2027, 3, 1)).order_by("currency")
    assert [(one.currency, one.amount, one.payable, one.state) for one in last] == [
        ("CNY", 0, 1500, "open"),
        ("USD", 0, 1500, "open"),
    ]


def test_a_settlement_cannot_be_rejected_without_a_moment(reseller: Reseller) -> None:
    """Nobody could say into which month it is carried, and it would be carried into none."""
    with pytest.raises(IntegrityError, match="rejected_settlements_say_when"), transaction.atomic():
        Settlement.objects.create(
            reseller=reseller, month=date(2027, 1, 1), currency="CNY", amount=1, payable=1, state="rejected"
        )


def test_too_little_is_paid_with_the_next_month_once_less_is_enough(rita: User) -> None:
    reseller = make_reseller(rita, make_level(minimum_payout=2000))
    with time_machine.travel(START, tick=False) as clock:
        sale(customer_of(reseller), priced_plan(30, 10_000))
        services.accrue()
        for _month in range(2):
            clock.shift(timedelta(days=31))
            services.run_months()
        assert Settlement.objects.get().state == "carried", "months in which nothing changes make no statements"
        set_least(reseller.level, 1500)
        assert services.run_months() == services.run_month(month=date(2027, 2, 1)) == 0, "a month that was run stays"
        clock.shift(timedelta(days=31))
        assert services.run_months() == 1
        set_least(reseller.level, 5000)
        assert services.run_months() == 0
    last = Settlement.objects.get(month=date(2027, 3, 1))
    assert (last.amount, last.carried_in, last.payable, last.state) == (0, 1500, 1500, "open")


def test_a_months_run_is_refused_before_it_is_over(reseller: Reseller) -> None:
    from billing.services.ledger import today
    from derp_portal.lib.errors import PortalError

    with pytest.raises(PortalError) as refusal:
        services.run_month(month=today())
    assert refusal.value.code == "month_not_over"


def test_what_looks_like_ones_own_order_waits_for_a_person(reseller: Reseller, root: User, alice: User) -> None:
    alice.email = "rita+second@example.com"
    alice.save(update_fields=["email"])
    bring(reseller, alice)
    order = sale(alice, priced_plan(30, 10_000))
    services.accrue()
    suspicion = Suspicion.objects.get()
    assert suspicion.signals == ["same_person"]
    assert amounts() == []
    refund_order(order_id=order.pk, amount=5000, reason="asked", actor=root)
    services.accrue()
    services.clear(suspicion_id=suspicion.pk, reason="a namesake", actor=root)
    services.clear(suspicion_id=suspicion.pk, reason="a namesake", actor=root)
    assert amounts() == [1500, -750]
    assert services.check_commissions() == []


def test_a_correction_counts_from_its_moment(reseller: Reseller, root: User, alice: User) -> None:
    other = make_reseller(alice)
    with time_machine.travel(START, tick=False) as clock:
        customer = customer_of(reseller)
        sale(customer, priced_plan(30, 10_000))
        clock.shift(timedelta(hours=1))
        services.correct_attribution(user_id=customer.pk, reseller=other, reason="she called", actor=root)
        clock.shift(timedelta(hours=1))
        sale(customer, priced_plan(30, 10_000))
        services.accrue()
    assert list(CommissionLine.objects.order_by("id").values_list("reseller", flat=True)) == [reseller.pk, other.pk]
    assert Attribution.objects.filter(until=None).count() == 1


def test_a_link_makes_a_customer_who_signed_up_with_it(reseller: Reseller) -> None:
    from accounts.services import register

    reference = services.reference_for(reseller)
    user = register(username="dora", email="dora@example.com", password="correct horse battery", signup_ref=reference)
    sale(user, priced_plan(30, 10_000))
    # Bought before the sweep has read the reference: it counts all the same.
    services.accrue()
    assert amounts() == [1500]
    assert services.read_signups() == 0
    assert Attribution.objects.get().user == user


@pytest.mark.parametrize("text", ["", "rubbish", "1.1.bad", "a.b.c.d", "1.99999999999.x", "²."])
def test_a_forged_reference_makes_nobody_a_customer(reseller: Reseller, text: str) -> None:
    from accounts.services import register

    register(username="dora", email="dora@example.com", password="correct horse battery", signup_ref=text)
    services.read_signups()
    assert not Attribution.objects.exists()


def test_what_was_paid_before_a_suspension_earns_and_what_comes_after_does_not(reseller: Reseller, root: User) -> None:
    with time_machine.travel(START, tick=False) as clock:
        customer = customer_of(reseller)
        sale(customer, priced_plan(30, 10_000))
        clock.shift(timedelta(hours=1))
        services.suspend(reseller_id=reseller.pk, reason="fraud", actor=root)
        clock.shift(timedelta(hours=1))
        sale(customer, priced_plan(30, 10_000))
        services.accrue()
    assert amounts() == [1500, 0]
    assert CommissionLine.objects.get(amount=0).why == "inactive"


def test_what_was_paid_during_a_suspension_earns_nothing_also_when_it_is_looked_at_after_the_end_of_it(
    reseller: Reseller, root: User
) -> None:
    with time_machine.travel(START, tick=False) as clock:
        customer, plan = customer_of(reseller), priced_plan(30, 10_000)
        sale(customer, plan)
        clock.shift(timedelta(hours=1))
        services.suspend(reseller_id=reseller.pk, reason="fraud", actor=root)
        clock.shift(timedelta(hours=1))
        sale(customer, plan)
        clock.shift(timedelta(hours=1))
        services.approve(reseller_id=reseller.pk, actor=root)
        clock.shift(timedelta(hours=1))
        sale(customer, plan)
        services.accrue()
    lines = CommissionLine.objects.order_by("id").values_list("amount", "why")
    assert list(lines) == [(1500, ""), (0, "inactive"), (1500, "")]


def test_orders_that_cannot_be_decided_keep_nobody_elses_from_being_looked_at(
    reseller: Reseller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commissions, "BATCH", 2)
    customer, plan = customer_of(reseller), priced_plan(30, 1990)
    orders = [sale(customer, plan) for _time in range(5)]
    broken, decide = {order.pk for order in orders[:3]}, commissions.earned_by

    def fail_of_some(order: Order, level_id: int) -> commissions.Earned:
        if order.pk in broken:
            raise ValueError("nobody foresaw this")
        return decide(order, level_id)

    monkeypatch.setattr(commissions, "earned_by", fail_of_some)
    assert services.accrue() == 2
    assert set(CommissionLine.objects.values_list("order", flat=True)) == {order.pk for order in orders[3:]}
    broken.clear()
    assert services.accrue() == 3, "they are tried again"
    assert services.check_commissions() == []


def test_an_administrator_is_not_made_a_reseller(root: User) -> None:
    from derp_portal.lib.errors import PortalError

    applicant = make_reseller(root, state="applied")
    User.objects.filter(pk=root.pk).update(role="admin")
    with pytest.raises(PortalError) as refusal:
        services.approve(reseller_id=applicant.pk, actor=root)
    assert refusal.value.code == "is_staff"
    root.refresh_from_db()
    assert root.is_staff
