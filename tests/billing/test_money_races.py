"""Many pay, refund and use coupons at once: money counts once, limits hold, nobody waits for ever.

Controls show that it goes wrong without the locks: what the test then finds is why they are there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from django.db import IntegrityError

from accounts.models import User
from billing import services
from billing.models import Account, Coupon, CouponUse, Order, Payment, Posting, Refund, SoldSerial, Transfer, TrialUse
from billing.services import fulfilment, orders, pricing, receiving, refund_sending, refunds
from billing.services.fulfilment import deliver
from billing.services.orders import expire_orders, place_order
from billing.services.pricing import Item
from billing.services.receiving import receive_money
from serials.models import Plan, SerialNumber
from tests.billing.till import Kind, balance, begin, call, callback_about, order_of, paid_order, priced_plan
from tests.serials.shop import at_once

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db(transaction=True)]


SURELY = 60.0
"""Seconds in which two meet whom nothing keeps apart, on however slow a machine: for controls. Where locks let only one
get there, waiting longer than a moment is for nothing."""


def meet_after(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, seconds: float = 1.0) -> None:
    """Whoever has got past `name` waits so long for another to get there too; locks let only one at a time."""
    barrier = threading.Barrier(2)
    check = getattr(module, name)

    def check_and_wait(*arguments: Any, **options: Any) -> Any:
        answer = check(*arguments, **options)
        with suppress(threading.BrokenBarrierError):
            barrier.wait(seconds)
        return answer

    monkeypatch.setattr(module, name, check_and_wait)


def paying(payment: Payment, transaction: str) -> Callable[[], Any]:
    return lambda: receive_money(
        payment_id=payment.pk,
        transaction_id=transaction,
        amount=payment.amount,
        currency=payment.currency,
        source=Transfer.Source.CALLBACK,
        actor=None,
    )


def words(outcomes: list[Any]) -> list[str]:
    """In what each ended, sorted: a verdict, a refusal's code, or the name of an error."""
    return sorted(getattr(one, "verdict", None) or getattr(one, "code", None) or type(one).__name__ for one in outcomes)


# --- money that comes in ----------------------------------------------------------------------------


def test_two_transactions_for_one_order_both_count_when_unlocked(
    unlocked: None, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: both see an order that is not paid yet, and only the ledger's unique key stops the second."""
    payment = begin(order_of(alice, priced_plan(30)))
    meet_after(monkeypatch, receiving, "_problem", SURELY)

    outcomes = at_once([paying(payment, "tx-1"), paying(payment, "tx-2")])

    assert [one for one in outcomes if isinstance(one, IntegrityError)], words(outcomes)


def test_of_two_transactions_for_one_order_one_pays_and_the_other_goes_to_a_person(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = begin(order_of(alice, priced_plan(30)))
    meet_after(monkeypatch, receiving, "_problem")

    outcomes = at_once([paying(payment, "tx-1"), paying(payment, "tx-2")])

    assert words(outcomes) == ["counted", "held"]
    assert Order.objects.get().received == 1990
    assert balance(Account.REVENUE) == -1990
    assert balance(Account.CUSTOMER_FUNDS) == -1990


def test_of_twenty_callbacks_at_once_one_counts(alice: User) -> None:
    payment = begin(order_of(alice, priced_plan(30)))
    callback = callback_about(payment)

    answers = at_once([lambda: call(payment, callback)] * 20)

    assert [answer.status for answer in answers if not isinstance(answer, Exception)] == [200] * 20
    assert Transfer.objects.count() == 1
    assert Posting.objects.filter(credit=Account.REVENUE).count() == 1


def test_money_and_expiry_at_once_end_in_a_paid_order(alice: User) -> None:
    for number in range(5):
        order = order_of(alice, priced_plan(30))
        payment = begin(order)
        Order.objects.filter(pk=order.pk).update(expires_at=order.created_at)

        at_once([paying(payment, f"tx-{number}"), expire_orders])

        order.refresh_from_db()
        assert order.state == Order.State.PAID


# --- delivery ---------------------------------------------------------------------------------------


def test_two_workers_deliver_twice_when_unlocked(unlocked: None, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: two workers make the serials of one order."""
    order = paid_order(alice, priced_plan(30))
    meet_after(monkeypatch, fulfilment, "allocate", SURELY)

    at_once([lambda: deliver(order_id=order.pk)] * 2)

    assert SoldSerial.objects.count() == 2


def test_of_many_workers_one_delivers(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    order = paid_order(alice, priced_plan(30))
    meet_after(monkeypatch, fulfilment, "allocate")

    at_once([lambda: deliver(order_id=order.pk)] * 4)

    assert SoldSerial.objects.count() == SerialNumber.objects.count() == 1
    assert Order.objects.get().transitions.filter(to_state="fulfilled").count() == 1


# --- refunds ----------------------------------------------------------------------------------------


def refunding(order: Order, amount: int, actor: User) -> Callable[[], Any]:
    return lambda: services.refund_order(order_id=order.pk, amount=amount, reason="asked for", actor=actor)


def test_two_refunds_at_once_give_back_too_much_when_unlocked(
    unlocked: None, alice: User, root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: both see that all of it is left."""
    order = deliver(order_id=paid_order(alice, priced_plan(30)).pk)
    meet_after(monkeypatch, refunds, "_decide", SURELY)

    at_once([refunding(order, 1500, root)] * 2)

    assert sum(Refund.objects.values_list("amount", flat=True)) == 3000 > order.received


def test_two_refunds_at_once_never_give_back_more_than_came(
    alice: User, root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = deliver(order_id=paid_order(alice, priced_plan(30)).pk)
    meet_after(monkeypatch, refunds, "_decide")

    outcomes = at_once([refunding(order, 1500, root)] * 4)

    assert words(outcomes).count("invalid_amount") == 3
    assert Refund.objects.get().amount == 1500
    order.refresh_from_db()
    assert order.refunded == 1500


def test_a_refund_and_the_delivery_at_once_never_leave_a_good_code_for_money_given_back(
    alice: User, root: User
) -> None:
    for _time in range(5):
        order = paid_order(alice, priced_plan(30))

        at_once([refunding(order, 1990, root), lambda order=order: deliver(order_id=order.pk)])  # type: ignore[misc]

        order.refresh_from_db()
        assert order.state == Order.State.REFUNDED
        assert not SerialNumber.objects.filter(sale__line__order=order, status=SerialNumber.Status.UNUSED).exists()


def test_a_refund_sent_by_two_workers_is_given_back_once(alice: User, root: User) -> None:
    order = deliver(order_id=paid_order(alice, priced_plan(30)).pk)
    refund = services.refund_order(order_id=order.pk, reason="asked for", actor=root)

    at_once([lambda: refund_sending.send(refund_id=refund.pk)] * 4)

    assert Posting.objects.filter(key=f"refund:{refund.pk}:sent").count() <= 1


# --- coupons, limits, trials ------------------------------------------------------------------------


def ordering(user: User, plan: Plan, coupon: str = "", kind: Any = Kind.GIFT) -> Callable[[], Any]:
    return lambda: place_order(user=user, items=[Item(kind, plan=plan)], coupon_code=coupon, actor=user)


def make_coupon(**fields: Any) -> Coupon:
    return Coupon.objects.create(code="SPRING", percent=50, **fields)


def test_two_accounts_use_up_a_last_coupon_twice_when_unlocked(
    unlocked: None, alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: both count the uses before either has used it."""
    make_coupon(total_limit=1)
    plan = priced_plan(30)
    meet_after(monkeypatch, pricing, "check_coupon_uses", SURELY)

    at_once([ordering(alice, plan, "SPRING"), ordering(bob, plan, "SPRING")])

    assert CouponUse.objects.count() == 2


def test_a_last_coupon_goes_to_one_of_two_accounts(alice: User, bob: User, monkeypatch: pytest.MonkeyPatch) -> None:
    make_coupon(total_limit=1)
    plan = priced_plan(30)
    meet_after(monkeypatch, pricing, "check_coupon_uses")

    outcomes = at_once([ordering(alice, plan, "SPRING"), ordering(bob, plan, "SPRING")])

    assert CouponUse.objects.count() == 1
    assert "coupon_used_up" in words(outcomes)


@pytest.mark.parametrize(
    ("fields", "code"),
    [({"per_user_limit": 1}, "coupon_used"), ({"first_order_only": True}, "coupon_first_order_only")],
    ids=["once an account", "first order"],
)
def test_an_account_cannot_use_a_coupon_more_often_by_ordering_at_once(
    alice: User, fields: dict[str, Any], code: str
) -> None:
    make_coupon(**fields)
    plan = priced_plan(30)

    outcomes = at_once([ordering(alice, plan, "SPRING")] * 5)

    assert CouponUse.objects.count() == 1
    assert words(outcomes).count(code) == 4


def test_an_account_cannot_buy_more_than_its_share_by_ordering_at_once(alice: User) -> None:
    plan = priced_plan(30, per_user_limit=2)

    outcomes = at_once([ordering(alice, plan)] * 4)

    assert words(outcomes).count("per_user_limit") == 2


def test_one_person_with_two_addresses_gets_one_trial(alice: User, bob: User) -> None:
    plan = priced_plan(3, 0, is_trial=True)
    alice.email, bob.email = "some.body@gmail.com", "somebody+again@googlemail.com"
    for user in (alice, bob):
        user.save(update_fields=["email"])

    outcomes = at_once([ordering(user, plan, kind=Kind.SELF) for user in (alice, bob)])

    assert TrialUse.objects.count() == 1
    assert words(outcomes).count("trial_used") == 1


def test_a_coupon_given_back_by_an_expired_order_does_not_pay_it_later_as_well(alice: User) -> None:
    make_coupon(per_user_limit=1)
    plan = priced_plan(30)
    first = order_of(alice, plan, coupon_code="SPRING")
    payment = begin(first)
    Order.objects.filter(pk=first.pk).update(expires_at=first.created_at)
    expire_orders()
    paid_order(alice, plan, coupon_code="SPRING")

    taken = paying(payment, "late")()

    assert (taken.verdict, taken.problem) == ("held", "coupon_used")
    assert CouponUse.objects.filter(is_given_back=False).count() == 1


def test_the_same_client_key_orders_once_however_often_it_is_clicked(alice: User) -> None:
    plan = priced_plan(30)

    outcomes = at_once(
        [lambda: place_order(user=alice, items=[Item(Kind.GIFT, plan=plan)], client_key="click", actor=alice)] * 8
    )

    assert len({one.pk for one in outcomes if isinstance(one, Order)}) == 1
    assert Order.objects.count() == 1


def test_no_more_orders_stay_open_than_one_account_may_have(alice: User) -> None:
    plan = priced_plan(30)

    outcomes = at_once([ordering(alice, plan)] * 8)

    assert words(outcomes).count("too_many_open_orders") == 8 - orders.MOST_OPEN_ORDERS
