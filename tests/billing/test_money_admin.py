"""Who may do what about money, and what the operator's first page says of it."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from accounts.models import User
from billing import services
from billing.models import (
    Order,
    Payment,
    Refund,
    SalesChannel,
    Transfer,
)
from serials.models import Plan, SerialBatch
from tests.billing.desk import (
    confirm_form,
    everything,
    held_order,
    make_shop,
    method_form,
    offered,
    page,
    staff,
    told,
    transfer_method,
)
from tests.billing.till import (
    KEY,
    Kind,
    begin,
    make_method,
    order_of,
    paid_order,
    priced_plan,
)


@pytest.fixture
def roots(client: Client, root: User) -> Client:
    """root's browser."""
    client.force_login(root)
    return client


@pytest.fixture
def sold(db: None) -> Plan:
    """A plan of thirty days for ¥19.90."""
    return priced_plan(30, 1990)


def actions_of(order: Order, held: Transfer, refund: Refund, channel: SalesChannel) -> dict[str, dict[str, Any]]:
    """Every action, with an answer that would be good."""
    return {
        page("order_confirm", order.pk): confirm_form(order),
        page("order_cancel", order.pk): {"reason": "x"},
        page("order_refund", order.pk): {"amount": "1", "reason": "x"},
        page("order_deliver_again", order.pk): {},
        page("payment_ask", held.payment_id): {},
        page("transfer_accept", held.pk): {"reason": "x"},
        page("transfer_give_back", held.pk): {"reason": "x"},
        page("refund_sent", refund.pk): {"reference": "x"},
        page("saleschannel_new_token", channel.pk): {},
        page("saleschannel_add_batch", channel.pk): {},
        page("saleschannel_make_serials", channel.pk): {"count": "1", "plan": channel.plans.get().pk},
    }


def test_who_may_only_look_can_do_nothing(sold: Plan, alice: User, root: User) -> None:
    order = paid_order(alice, sold)
    held_order(alice, sold, 1000)
    refund = services.refund_order(order_id=order.pk, amount=1, reason="x", actor=root)
    channel = make_shop(sold)
    held = Transfer.objects.get(state=Transfer.State.HELD)
    actions = actions_of(order, held, refund, channel)
    before = everything()
    names = ("order", "payment", "transfer", "refund", "saleschannel", "paymentmethod", "gatewaycallback", "coupon")
    browser = staff(*(f"view_{name}" for name in names))
    assert {address: browser.post(address, form).status_code for address, form in actions.items()} == dict.fromkeys(
        actions, 403
    )
    method = make_method()
    for name, row in {"order": order, "transfer": held, "refund": refund, "paymentmethod": method}.items():
        answer = browser.get(page(f"{name}_change", row.pk))
        assert answer.status_code == 200
        assert KEY not in told(answer)
        assert not answer.context.get("actions_detail")
    assert browser.post(page("paymentmethod_change", method.pk), method_form()).status_code == 403
    assert "1 × test-30" in told(browser.get(page("order_changelist")))
    assert everything() == before


def test_asking_changes_nothing(roots: Client, sold: Plan, alice: User, root: User) -> None:
    order = paid_order(alice, sold)
    held_order(alice, sold, 1000)
    refund = services.refund_order(order_id=order.pk, amount=1, reason="x", actor=root)
    actions = actions_of(order, Transfer.objects.get(state=Transfer.State.HELD), refund, make_shop(sold))
    before = everything()
    assert {address: roots.get(address).status_code for address in actions} == dict.fromkeys(actions, 200)
    assert everything() == before


def test_making_serials_takes_the_right_to_make_serials(sold: Plan) -> None:
    channel = make_shop(sold)
    browser = staff("view_saleschannel", "change_saleschannel")
    form = {"count": "1", "plan": sold.pk}
    assert browser.post(page("saleschannel_make_serials", channel.pk), form).status_code == 403
    assert offered(browser, page("saleschannel_change", channel.pk)) == {"token", "stock"}
    assert not SerialBatch.objects.exists()


def test_no_amount_can_be_posted_into_a_row(roots: Client, sold: Plan, alice: User) -> None:
    order = paid_order(alice, sold)
    payment, transfer = Payment.objects.get(), Transfer.objects.get()
    before = everything()
    for name, row in {"order": order, "payment": payment, "transfer": transfer}.items():
        assert roots.post(page(f"{name}_change", row.pk), {"total": "1", "amount": "1"}).status_code == 403
        assert roots.get(page(f"{name}_add")).status_code == 403
    assert everything() == before


def figures(browser: Client) -> dict[str, str]:
    return {one.title: one.value for one in browser.get(reverse("admin:index")).context["money"]}


@pytest.mark.usefixtures("clock")
def test_the_first_page_counts_the_money_of_today(roots: Client, sold: Plan, alice: User, root: User) -> None:
    assert figures(roots)["Sold today"] == "CN¥0.00"
    order = paid_order(alice, sold)
    paid_order(alice, sold, Kind.GIFT, 2)
    order_of(alice, sold)
    services.refund_order(order_id=order.pk, amount=500, reason="x", actor=root)
    assert figures(roots) == {
        "Sold today": "CN¥59.70",
        "Sold this month": "CN¥59.70",
        "Orders paid today": "2",
        "Orders to be paid": "1",
        "Given back this month": "CN¥5.00",
    }
    page_text = told(roots.get(reverse("admin:index")))
    assert "<path d=" in page_text
    for one in roots.get(reverse("admin:index")).context["money"]:
        assert roots.get(one.link).status_code == 200


def test_the_first_page_leads_to_what_waits(roots: Client, sold: Plan, alice: User, root: User) -> None:
    begin(order_of(alice, sold), transfer_method())
    held_order(alice, sold, 1000)
    make_shop(sold)
    shown = {kind.title: kind for kind in roots.get(reverse("admin:index")).context["attention"]}
    assert set(shown) == {"Money to confirm", "Money that does not fit", "Outside shops that run out of serials"}
    for kind in shown.values():
        assert kind.count == len(kind.items) == 1
        assert roots.get(kind.link).status_code == 200
        assert roots.get(kind.items[0].link).status_code == 200


def test_money_is_shown_to_those_who_may_look_at_it(sold: Plan, alice: User) -> None:
    paid_order(alice, sold)
    names = ("view_order", "view_transfer", "view_refund", "view_saleschannel")
    browser = staff(*names)
    answer = browser.get(reverse("admin:index"))
    assert "money" not in answer.context, "sums are the ledger's"
    assert "CN¥" not in told(answer)
    helen = User.objects.get(username="helen")
    helen.user_permissions.add(Permission.objects.get(codename="view_posting"))
    answer = browser.get(reverse("admin:index"))
    assert "money" in answer.context
    assert "has_rooms" not in answer.context
    helen.user_permissions.clear()
    for name in ("view_server", "view_relay", "view_lease", "view_serialnumber"):
        helen.user_permissions.add(Permission.objects.get(codename=name))
    answer = browser.get(reverse("admin:index"))
    assert "has_rooms" in answer.context
    assert "money" not in answer.context
    assert "CN¥" not in told(answer)
