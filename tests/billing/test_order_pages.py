"""What customers see of their orders: what is to be paid, how, what became of it, and the codes they bought."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import translation

from accounts.models import User
from billing import sandbox
from billing.models import (
    Coupon,
    Order,
    Payment,
    PaymentMethod,
    Refund,
    SandboxCallback,
    SandboxCharge,
    Transfer,
)
from billing.order_pages import is_phone
from billing.services import cancel_order, codes_of, refund_order
from billing.services.fulfilment import deliver
from billing.services.orders import expire_orders
from billing.services.payments import ask_gateways
from derp_portal.lib.clock import now
from serials import services as serials
from serials.models import Lease, Plan
from tests.billing.till import Kind, begin, call, callback_about, make_method, order_of, paid_order, priced_plan
from tests.serials.shop import make_server

pytestmark = pytest.mark.django_db


@pytest.fixture
def alices(client: Client, alice: User) -> Client:
    """alice's browser."""
    client.force_login(alice)
    return client


@pytest.fixture
def plan() -> Plan:
    """Thirty days for CN¥19.90."""
    return priced_plan(30, 1990)


@pytest.fixture
def order(alice: User, plan: Plan) -> Order:
    """alice's order of one serial number to hand on, not paid yet."""
    return order_of(alice, plan)


@pytest.fixture
def offline(db: None) -> PaymentMethod:
    """Payment by transfer."""
    told = {"instructions": "Account 622202 of Rita's bank", "instructions_zh": "转到账户 622202"}
    return make_method("transfer", kind="offline", name="Bank transfer", settings=json.dumps(told))


def text_of(browser: Client, address: str, **options: Any) -> str:
    response = browser.get(address, **options)
    assert response.status_code == 200, response.status_code
    return str(response.content.decode())


def page(name: str, order: Order, *more: Any) -> str:
    return reverse(name, args=[order.number, *more])


def pay(browser: Client, order: Order, method: PaymentMethod | None = None, **options: Any) -> Payment:
    """Press the button of a way to pay."""
    browser.post(page("order_pay", order, (method or make_method()).code), **options)
    return order.payments.latest("id")


def delivered(user: User, plan: Plan, kind: Any = Kind.GIFT, quantity: int = 1, **more: Any) -> Order:
    return deliver(order_id=paid_order(user, plan, kind, quantity, **more).pk)


# --- one's own, and nobody else's ---------------------------------------------------------------------


def test_an_order_does_not_exist_for_anybody_else(alice: User, bob: User, plan: Plan, client: Client) -> None:
    order = delivered(alice, plan)
    payment = order.payments.get()
    [code] = codes_of(order)
    client.force_login(bob)
    for name in ("order", "order_live", "order_cancel", "order_receipt"):
        assert client.get(page(name, order)).status_code == 404, name
    for name in ("order_payment", "order_payment_live"):
        assert client.get(page(name, order, payment.reference)).status_code == 404, name
    assert client.post(page("order_pay", order, "test")).status_code == 404
    assert client.post(page("order_cancel", order)).status_code == 404
    assert order.number not in text_of(client, "/orders/")
    client.force_login(alice)
    assert code in text_of(client, page("order", order))


def test_a_payment_of_another_order_does_not_exist_on_this_one(alices: Client, alice: User, plan: Plan) -> None:
    one, other = order_of(alice, plan), order_of(alice, plan)
    assert alices.get(page("order_payment", one, begin(other).reference)).status_code == 404


def test_codes_are_never_cached(alices: Client, alice: User, plan: Plan) -> None:
    response = alices.get(page("order", delivered(alice, plan)))
    assert "no-store" in response.headers["Cache-Control"]


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_every_page_opens_in_both_languages_in_every_state(
    alice: User, plan: Plan, offline: PaymentMethod, client: Client, language: str
) -> None:
    make_server()
    alice.language = language
    alice.save(update_fields=["language"])
    client.force_login(alice)
    waiting, paid, cancelled = order_of(alice, plan), paid_order(alice, plan), order_of(alice, plan)
    begin(waiting), begin(waiting, offline)
    cancel_order(order_id=cancelled.pk, actor=alice)
    refunded = delivered(alice, plan, Kind.SELF)
    refund_order(order_id=refunded.pk, amount=None, reason="asked for", actor=alice)
    held = order_of(alice, plan)
    call(payment := begin(held), callback_about(payment, amount=5))
    orders = [waiting, paid, cancelled, refunded, held, delivered(alice, plan), delivered(alice, plan, Kind.GIFT, 30)]
    addresses = ["/orders/", "/orders/?state=pending", page("order_cancel", waiting)]
    addresses += [page("order", order) for order in orders]
    addresses += [page("order_payment", waiting, payment.reference) for payment in waiting.payments.all()]
    addresses.append(waiting.payments.get(method__kind="sandbox").redirect_url)
    for address in addresses:
        response = client.get(address)
        assert response.status_code == 200, address
        assert b" style=" not in response.content, f"{address}: our policy forbids inline styles"
    translation.activate("en")


# --- to be paid ---------------------------------------------------------------------------------------


def test_what_is_to_be_paid_by_when_and_how(alices: Client, order: Order, offline: PaymentMethod) -> None:
    make_method()
    make_method("dollars", currency="USD", name="Dollars only")
    make_method("off", is_enabled=False, name="Switched off")
    shown = text_of(alices, page("order", order))
    assert "CN¥19.90 to be paid" in shown
    assert "To be paid until" in shown
    for method in ("test", "transfer"):
        assert page("order_pay", order, method) in shown
    assert "Dollars only" not in shown
    assert "Switched off" not in shown
    assert "Receipt" not in shown


def test_paying_leads_to_a_page_of_ours_that_links_to_the_gateways(alices: Client, order: Order) -> None:
    response = alices.post(page("order_pay", order, make_method().code))
    payment = Payment.objects.get()
    assert response.headers["Location"] == page("order_payment", order, payment.reference)
    shown = text_of(alices, response.headers["Location"])
    assert "Go on to Test payment" in shown
    assert payment.redirect_url.replace("&", "&amp;") in shown
    assert 'rel="noreferrer"' in shown
    assert 'hx-trigger="every 3s"' in shown
    assert pay(alices, order) == payment, "the same attempt goes on"


def test_a_qr_code_is_a_picture_of_our_own(alices: Client, order: Order) -> None:
    payment = begin(order)
    Payment.objects.update(redirect_url="", qr_text="weixin://wxpay/bizpayurl?pr=abc")
    shown = text_of(alices, page("order_payment", order, payment.reference))
    assert 'src="data:image/svg+xml' in shown
    assert "weixin:" not in shown


def test_a_transfer_shows_where_to_and_what_to_write_and_no_secret(
    alices: Client, alice: User, order: Order, offline: PaymentMethod
) -> None:
    begin(order)
    payment = pay(alices, order, offline)
    for address in (page("order_payment", order, payment.reference), page("order", order)):
        shown = text_of(alices, address)
        assert "Account 622202 of Rita&#x27;s bank" in shown
        assert payment.reference in shown
        assert "a key that only tests know" not in shown
    alice.language = "zh-hans"
    alice.save(update_fields=["language"])
    assert "转到账户 622202" in text_of(alices, page("order", order))
    translation.activate("en")


def test_a_gateway_that_does_not_answer_is_said_to_and_nothing_is_lost(
    alices: Client, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    from billing.gateways.base import Unavailable
    from billing.gateways.sandbox import SandboxGateway

    def is_away(*_args: object) -> None:
        raise Unavailable("timeout")

    monkeypatch.setattr(SandboxGateway, "start", is_away)
    response = alices.post(page("order_pay", order, make_method().code), follow=True)
    assert "Nothing was charged" in response.content.decode()
    assert "Choose how to pay" in response.content.decode() or "Go on paying" in response.content.decode()


def test_an_unknown_method_does_not_exist_and_one_of_another_currency_is_refused(alices: Client, order: Order) -> None:
    make_method("dollars", currency="USD")
    assert alices.post(page("order_pay", order, "nothing")).status_code == 404
    response = alices.post(page("order_pay", order, "dollars"), follow=True)
    assert "is not offered" in response.content.decode()


def test_the_waiting_page_leads_on_when_the_money_has_come(alices: Client, order: Order) -> None:
    payment = begin(order)
    live = page("order_payment_live", order, payment.reference)
    assert alices.get(live).status_code == 204
    call(payment)
    there = alices.get(live).headers["HX-Redirect"]
    assert alices.get(there).headers["Location"] == page("order", order)
    assert Client().get(live).status_code == 401


def test_a_payment_that_was_given_up_says_so_and_offers_the_others(alices: Client, order: Order) -> None:
    payment = begin(order)
    call(payment, callback_about(payment, "closed"))
    response = alices.get(page("order_payment", order, payment.reference), follow=True)
    assert "did not come about" in response.content.decode()
    assert "Choose how to pay" in response.content.decode()


def test_the_order_asks_for_news_and_loads_again_only_when_there_are_some(alices: Client, order: Order) -> None:
    begin(order)
    shown = text_of(alices, page("order", order))
    have = shown.partition("/live/?have=")[2].partition('"')[0]
    assert alices.get(page("order_live", order), {"have": have}).status_code == 204
    call(order.payments.get())
    assert alices.get(page("order_live", order), {"have": have}).headers["HX-Refresh"] == "true"
    assert Client().get(page("order_live", order), {"have": have}).status_code == 401


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Mobile/15E148", True),
        ("Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 Chrome/131 Mobile Safari/537.36", True),
        ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/131 Safari/537.36", False),
        ("", False),
    ],
)
def test_a_phone_is_told_from_a_computer(rf: Any, agent: str, expected: bool) -> None:
    assert is_phone(rf.get("/", headers={"user-agent": agent})) is expected


# --- what became of it --------------------------------------------------------------------------------


def test_codes_are_shown_with_buttons_and_redeemed_ones_no_more(
    alices: Client, alice: User, bob: User, plan: Plan
) -> None:
    make_server()
    order = delivered(alice, plan, Kind.GIFT, 2)
    first, second = codes_of(order)
    shown = text_of(alices, page("order", order))
    assert shown.count('data-copy-target="#code-') == 2
    assert "http://testserver/redeem/" in shown
    serials.activate(user=bob, code=first)
    shown = text_of(alices, page("order", order))
    assert (first in shown, second in shown) == (False, True)
    assert "are not shown any more" in shown


def test_many_codes_are_one_block(alices: Client, alice: User, plan: Plan) -> None:
    order = delivered(alice, plan, Kind.GIFT, 21)
    shown = text_of(alices, page("order", order))
    assert 'data-copy-target="#codes"' in shown
    assert "\n".join(codes_of(order)) in shown


def test_what_was_bought_for_oneself_is_on_the_relay(alices: Client, alice: User, plan: Plan) -> None:
    make_server()
    shown = text_of(alices, page("order", delivered(alice, plan, Kind.SELF)))
    assert "the days are on your relay" in shown
    assert "serial number of" not in shown


def test_days_for_a_lease_that_is_gone_are_a_code_and_the_page_says_why(
    alices: Client, alice: User, plan: Plan
) -> None:
    make_server()
    delivered(alice, plan, Kind.SELF)
    lease = Lease.objects.get()
    order = paid_order(alice, plan, Kind.RENEWAL, lease_id=lease.pk)
    Lease.objects.update(released_at=now())
    deliver(order_id=order.pk)
    shown = text_of(alices, page("order", order))
    assert "could not take it any more" in shown
    assert codes_of(order)[0] in shown


def test_a_discount_is_accounted_for(alices: Client, alice: User, plan: Plan) -> None:
    Coupon.objects.create(code="SPRING", percent=10)
    shown = text_of(alices, page("order", order_of(alice, plan, coupon_code="spring")))
    for words in ("CN¥19.90", "Coupon SPRING", "−CN¥1.99", "CN¥17.91"):
        assert words in shown


def test_money_that_does_not_fit_is_explained_and_no_more_is_asked_for(alices: Client, order: Order) -> None:
    payment = begin(order)
    call(payment, callback_about(payment, amount=1000))
    shown = text_of(alices, page("order", order))
    assert "CN¥10.00 has arrived, but the order costs CN¥19.90." in shown
    assert "Nothing is lost" in shown
    assert "Choose how to pay" not in shown
    assert page("order_cancel", order) not in shown


def test_an_order_that_cannot_be_delivered_says_that_a_person_looks(alices: Client, alice: User, plan: Plan) -> None:
    order = paid_order(alice, plan)
    Order.objects.filter(pk=order.pk).update(trouble="lease_ended")
    shown = text_of(alices, page("order", order))
    assert "Nothing is lost. A person looks at it" in shown
    assert "lease_ended" not in shown


def test_an_order_that_was_not_paid_in_time_says_so_at_once(alices: Client, alice: User, order: Order) -> None:
    payment = begin(order)
    with time_machine.travel(now() + timedelta(minutes=31)):
        alices.force_login(alice)
        for _sweep in range(2):
            shown = text_of(alices, page("order", order))
            assert "The time to pay is over" in shown
            assert "Choose how to pay" not in shown
            assert "do not pay any more" in text_of(alices, page("order_payment", order, payment.reference))
            expire_orders()


def test_a_refund_is_shown_until_it_has_been_sent(alices: Client, alice: User, root: User, plan: Plan) -> None:
    order = delivered(alice, plan)
    refund_order(order_id=order.pk, amount=500, reason="for the trouble", actor=root)
    shown = text_of(alices, page("order", order))
    refund = Refund.objects.get()
    for words in ("CN¥5.00", refund.number, "on its way"):
        assert words in shown
    assert "for the trouble" not in shown, "what staff write is for staff"
    Refund.objects.update(state=Refund.State.DONE, done_at=now())
    assert "sent" in text_of(alices, page("order", order))


def test_a_paid_order_has_a_receipt_and_an_unpaid_one_has_none(alices: Client, alice: User, plan: Plan) -> None:
    order = delivered(alice, plan)
    assert page("order_receipt", order) in text_of(alices, page("order", order))
    response = alices.get(page("order_receipt", order))
    assert response.content.startswith(b"%PDF")
    assert order.number in response.headers["Content-Disposition"]
    assert alices.get(page("order_receipt", order_of(alice, plan))).status_code == 409


# --- cancelling ---------------------------------------------------------------------------------------


def test_an_order_is_cancelled_only_after_asking(alices: Client, order: Order) -> None:
    begin(order)
    assert "You have begun to pay" in text_of(alices, page("order_cancel", order))
    order.refresh_from_db()
    assert order.state == Order.State.PENDING
    response = alices.post(page("order_cancel", order), follow=True)
    assert "This order was cancelled" in response.content.decode()
    order.refresh_from_db()
    assert order.state == Order.State.CANCELLED


def test_a_paid_order_is_not_cancelled(alices: Client, alice: User, plan: Plan) -> None:
    order = paid_order(alice, plan)
    assert "cannot be cancelled" in alices.get(page("order_cancel", order), follow=True).content.decode()
    assert "ask for a refund" in alices.post(page("order_cancel", order), follow=True).content.decode()
    order.refresh_from_db()
    assert order.state == Order.State.PAID


# --- the list -----------------------------------------------------------------------------------------


def test_orders_are_found_by_state_plan_number_and_reference(alices: Client, alice: User, plan: Plan) -> None:
    open_one, paid_one = order_of(alice, plan), paid_order(alice, plan)
    reference = begin(open_one).reference

    def found(query: str) -> list[bool]:
        shown = text_of(alices, f"/orders/?{query}")
        return [page("order", one) in shown for one in (open_one, paid_one)]

    assert found("") == [True, True]
    assert found("state=paid") == [False, True]
    assert found(f"search={open_one.number}") == [True, False]
    assert found(f"search={reference}") == [True, False]
    assert found(f"search={plan.name}") == [True, True]
    assert found("search=nothing") == [False, False]


def test_the_list_asks_the_same_number_of_questions_however_long_it_is(alices: Client, alice: User, plan: Plan) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            text_of(alices, "/orders/")
        return len(queries)

    paid_order(alice, plan)
    text_of(alices, "/orders/")
    few = count()
    for _number in range(4):
        paid_order(alice, plan)
    assert count() == few


def test_an_order_asks_the_same_number_of_questions_whatever_happened_to_it(
    alices: Client, alice: User, root: User, plan: Plan
) -> None:
    def count(order: Order) -> int:
        with CaptureQueriesContext(connection) as queries:
            text_of(alices, page("order", order))
        return len(queries)

    order = delivered(alice, plan)
    refund_order(order_id=order.pk, amount=1, reason="one", actor=root)
    text_of(alices, page("order", order))
    few = count(order)
    for number in range(3):
        refund_order(order_id=order.pk, amount=1, reason="more", actor=root)
        payment = Payment.objects.create(
            order=order, method=make_method(f"more-{number}"), reference=f"MORE{number}", amount=1
        )
        Transfer.objects.create(
            payment=payment,
            method=payment.method,
            transaction_id=f"more-{number}",
            amount=1,
            state=Transfer.State.HELD,
            source=Transfer.Source.QUERY,
            paid_at=now(),
        )
    assert count(order) == few


# --- the test cashier ---------------------------------------------------------------------------------


def cashier_of(order: Order) -> str:
    return begin(order).redirect_url


@pytest.mark.parametrize(
    ("deed", "state", "amount", "is_told"),
    [
        ("pay", "paid", 1990, True),
        ("quietly", "paid", 1990, False),
        ("less", "paid", 995, True),
        ("more", "paid", 2090, True),
        ("give_up", "closed", 0, True),
    ],
)
def test_the_cashier_does_what_its_buttons_say_and_leads_back(
    client: Client, order: Order, deed: str, state: str, amount: int, is_told: bool
) -> None:
    address = cashier_of(order)
    shown = text_of(client, address)
    assert "TEST: no money moves here" in shown
    assert f'value="{deed}"' in shown
    response = client.post(address, {"deed": deed})
    assert response.headers["Location"] == page("order_payment", order, order.payments.get().reference)
    charge = SandboxCharge.objects.get()
    assert (charge.state, charge.paid_amount) == (state, amount)
    assert SandboxCallback.objects.exists() is is_told
    assert 'name="deed"' not in text_of(client, address), "what is paid is paid"


def test_the_portal_asks_about_what_was_paid_in_silence(client: Client, order: Order) -> None:
    client.post(cashier_of(order), {"deed": "quietly"})
    with time_machine.travel(now() + timedelta(minutes=1)):
        ask_gateways()
    order.refresh_from_db()
    assert order.state == Order.State.PAID


def test_a_link_to_the_cashier_that_is_not_ours_is_refused(client: Client, order: Order) -> None:
    address = cashier_of(order)
    for wrong in ("/pay/sandbox/", address.replace("amount=1990", "amount=1")):
        for response in (client.get(wrong), client.post(wrong, {"deed": "pay"})):
            assert response.status_code == 404
            assert "not one that this portal has made" in response.content.decode()
    assert not SandboxCharge.objects.exists()


def test_without_a_test_gateway_there_is_no_cashier(client: Client, order: Order) -> None:
    address = cashier_of(order)
    PaymentMethod.objects.update(kind="offline")
    assert client.get(address).status_code == 404
    assert sandbox.said_of(order.payments.get().reference)["outcome"] == "pending"
