"""Callback sequences at random: every paid order is delivered exactly once, nothing unpaid is, the books balance.

`.ci/run` tries ten thousand of them on each database, `make test` alone some hundreds.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from django.db.models import Count, Sum

from billing.finance.books import check_books
from billing.models import GatewayCallback, Order, OrderLine, SoldSerial, Transfer
from billing.services import orders, payments, receiving
from billing.services.fulfilment import deliver_paid
from serials.models import SerialNumber
from tests.billing import storm
from tests.billing.till import make_method, priced_plan
from tests.parts import effort

SHARDS = effort(16, 80)
SEQUENCES = effort(400, 10_000)
AT_ONCE = 25
"""So many orders' callbacks overtake one another."""


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mails and alerts have tests of their own; rendering a hundred thousand of them is not what is tried here."""
    from billing.services import fulfilment

    for module in (orders, receiving, fulfilment):
        monkeypatch.setattr(module, "notify", lambda **_mail: None)
    for name in ("tell_staff", "told_staff_is_over"):
        for module in (payments, receiving, fulfilment):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda *_topic, **_params: None)
    monkeypatch.setattr(orders, "wake_delivery", lambda _order_id: None)
    monkeypatch.setattr(orders, "MOST_OPEN_ORDERS", 10**6)


@pytest.mark.both_databases
@pytest.mark.django_db
@pytest.mark.parametrize("shard", range(SHARDS))
def test_every_paid_order_is_delivered_exactly_once_and_nothing_unpaid_is(shard: int, quiet: None) -> None:
    dice = random.Random(f"storm {shard}")
    method, other = (
        make_method("one", fee_basis_points=60),
        make_method("two", settings='{"key": "another key of a method"}'),
    )
    plans: list[Any] = [priced_plan(30, 1990), priced_plan(3, 301), priced_plan(365, 19_900)]
    people = storm.crowd(AT_ONCE)
    rows: list[storm.Sequence] = []
    for _round in range(SEQUENCES // SHARDS // AT_ONCE):
        batch = list(storm.sequences(dice, people, plans, method))
        storm.play(dice, batch, other)
        if dice.random() < 0.5:
            orders.expire_orders()
        rows += batch
    storm.settle()

    found = Order.objects.in_bulk([row.order.pk for row in rows])
    wrong = [row for row in rows if (found[row.order.pk].state == Order.State.FULFILLED) != row.is_paid]
    assert wrong == []
    sold = dict(SoldSerial.objects.order_by().values_list("line__order").annotate(count=Count("id")))
    wanted = dict(
        OrderLine.objects.filter(order__state=Order.State.FULFILLED)
        .order_by()
        .values_list("order")
        .annotate(count=Sum("quantity"))
    )
    assert sold == wanted
    assert SerialNumber.objects.count() == sum(sold.values()), "serials that belong to no order"
    assert Transfer.objects.filter(state=Transfer.State.HELD).count() == sum(row.held for row in rows)
    assert check_books() == []
    assert deliver_paid() == 0
    # The storm is one: hardly any kind of event is missing from what came in.
    assert set(GatewayCallback.objects.values_list("verdict", flat=True)) >= {"counted", "repeated", "held", "refused"}
