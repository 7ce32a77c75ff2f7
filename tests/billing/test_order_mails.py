"""What customers are written about their orders: in their language, with the amount, and what happens next."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
import time_machine
from django.template import Context, Engine

from accounts.models import Notification, User
from billing.models import Order, Refund
from billing.services import pay_from_balance, refund_order
from billing.services.fulfilment import deliver
from billing.services.orders import expire_orders
from billing.services.refund_sending import send, settle_by_hand
from derp_portal.lib.clock import now
from resellers.services import buy_stock, recall
from serials.models import Lease
from tests.billing.till import Kind, begin, call, callback_about, order_of, paid_order, priced_plan
from tests.resellers.trade import make_reseller
from tests.resellers.wholesaling import fill_balance, stock, wholesale_price
from tests.serials.shop import mails, make_server

pytestmark = pytest.mark.django_db

LANGUAGES = ["en", "zh-hans"]
PROBLEMS = [
    "partial",
    "over",
    "other_currency",
    "paid_before",
    "cancelled",
    "too_old",
    "coupon_used",
    "coupon_used_up",
    "coupon_first_order_only",
    "per_user_limit",
    "trial_used",
    "",
]


def placed(user: User) -> Order:
    return order_of(user, priced_plan())


def received(user: User) -> Order:
    return paid_order(user, priced_plan())


def held(user: User) -> Order:
    order = placed(user)
    payment = begin(order)
    call(payment, callback_about(payment, amount=1000))
    return order


def failed(user: User) -> Order:
    order = placed(user)
    payment = begin(order)
    call(payment, callback_about(payment, "closed"))
    return order


def delivered(user: User) -> Order:
    return deliver(order_id=received(user).pk)


def expired(user: User) -> Order:
    order = placed(user)
    with time_machine.travel(now() + timedelta(hours=1)):
        expire_orders()
    return order


def given_back(user: User) -> Order:
    order = delivered(user)
    refund_order(order_id=order.pk, amount=None, reason="asked for", actor=None)
    return order


def sent_back(user: User) -> Order:
    order = given_back(user)
    refund = Refund.objects.get()
    send(refund_id=refund.pk)  # The test gateway's books know nothing of what the tests' callbacks say.
    settle_by_hand(refund_id=refund.pk, reference="bank transfer 7", actor=user)
    return order


STORIES: dict[str, Callable[[User], Order]] = {
    "order_placed": placed,
    "payment_received": received,
    "payment_held": held,
    "payment_failed": failed,
    "order_delivered": delivered,
    "order_expired": expired,
    "refund_decided": given_back,
    "refund_done": sent_back,
}


def mail_after(kind: str, user: User) -> tuple[Order, Notification]:
    order = STORIES[kind](user)
    [mail] = mails(kind)
    return order, mail


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", STORIES)
def test_each_mail_names_its_order_and_leads_to_it(alice: User, kind: str, language: str) -> None:
    alice.language = language
    alice.save(update_fields=["language"])
    order, mail = mail_after(kind, alice)
    assert order.number in mail.subject
    assert order.number in mail.body_text
    assert "alice" in mail.body_text
    assert ("/shop/" if kind == "order_expired" else f"/orders/{order.number}/") in mail.body_text
    assert "{" not in mail.body_text + mail.subject
    assert "\n\n\n" not in mail.body_text
    assert mail.language == language


@pytest.mark.parametrize("kind", [kind for kind in STORIES if kind not in ("payment_failed", "payment_held")])
def test_each_mail_about_money_says_how_much(alice: User, kind: str) -> None:
    _order, mail = mail_after(kind, alice)
    assert "CN¥19.90" in mail.body_text


def test_an_order_says_what_it_is_for_and_by_when_it_is_to_be_paid(alice: User) -> None:
    order, mail = mail_after("order_placed", alice)
    assert "1 × test-30 (serial number to hand on)\nTotal: CN¥19.90" in mail.body_text
    assert order.expires_at
    assert f"{order.expires_at:%Y-%m-%d %H:%M}" in mail.body_text


def test_money_that_does_not_fit_is_explained_in_the_same_words_as_on_the_page(alice: User) -> None:
    _order, mail = mail_after("payment_held", alice)
    assert "CN¥10.00 has arrived, but the order costs CN¥19.90." in mail.body_text
    assert "Nothing is lost" in mail.body_text


def test_every_problem_has_words_of_its_own() -> None:
    template = Engine.get_default().get_template("billing/why_held.html")
    words = {
        problem: template.render(Context({"problem": problem, "amount": "¥1", "total": "¥2"})) for problem in PROBLEMS
    }
    assert all("¥1" in text and "\n" not in text.strip() for text in words.values())
    # A coupon that is used is one story, however it came about.
    assert len(set(words.values())) == len(PROBLEMS) - 2


def test_the_receipt_lists_what_was_bought_and_keeps_the_codes_to_the_page(alice: User) -> None:
    order, mail = mail_after("order_delivered", alice)
    assert "1 × test-30" in mail.body_text
    assert "This mail is your receipt" in mail.body_text
    assert "are on the page of the order" in mail.body_text
    code = order.lines.get().sold.get().serial.code
    assert code not in mail.body_text.replace("-", "")


def test_what_was_redeemed_at_once_needs_nothing_more(alice: User) -> None:
    make_server()
    deliver(order_id=paid_order(alice, priced_plan(), Kind.SELF).pk)
    [mail] = mails("order_delivered")
    assert Lease.objects.filter(user=alice).exists()
    assert "on your relay already" in mail.body_text


def test_a_balance_that_was_topped_up_is_in_the_balance_and_on_no_relay(rita: User) -> None:
    fill_balance(make_reseller(rita), 5000)
    [mail] = mails("order_delivered")
    assert "It is in your balance already" in mail.body_text
    assert "relay" not in mail.body_text


def test_a_plan_that_was_bought_for_oneself_is_no_serial_number_that_was_redeemed(alice: User) -> None:
    make_server()
    deliver(order_id=paid_order(alice, priced_plan(), Kind.SELF).pk)
    [mail] = mails("lease_started")
    assert "your days have begun" in mail.body_text
    assert "serial" not in mail.body_text


def test_what_is_paid_from_the_balance_at_once_is_never_said_to_be_unpaid(rita: User) -> None:
    reseller = make_reseller(rita)
    fill_balance(reseller, 5000)
    assert len(mails("order_placed")) == 1, "the top-up"
    stock(reseller, priced_plan(), 2, from_balance=True)
    assert len(mails("order_placed")) == 1
    assert len(mails("order_delivered")) == 2


def test_an_order_that_waited_before_it_was_paid_from_the_balance_was_told(rita: User) -> None:
    reseller = make_reseller(rita)
    plan = priced_plan()
    wholesale_price(plan)
    fill_balance(reseller, 5000)
    order = buy_stock(reseller=reseller, plan=plan, quantity=2, currency="CNY", from_balance=False)
    Notification.objects.update(status=Notification.Status.SENT)
    pay_from_balance(order_id=order.pk, actor=rita)
    assert len(mails("order_placed")) == 2


def test_what_went_back_into_the_balance_needs_no_bank(rita: User) -> None:
    reseller = make_reseller(rita)
    fill_balance(reseller, 5000)
    kept, *others = stock(reseller, priced_plan(), 3, from_balance=True)
    recall(reseller=reseller, serial_ids=[one.serial_id for one in others], actor=rita)
    [mail] = mails("refund_done")
    assert mails("refund_decided") == []
    assert mail.subject.endswith("is in your balance")
    assert "CN¥20.00" in mail.body_text
    assert "in your prepaid balance again" in mail.body_text
    assert "bank" not in mail.body_text
    assert "the others of the order stay as they are" in mail.body_text
    assert "nobody has redeemed" not in mail.body_text
    assert "\n\n\n" not in mail.body_text

    refund_order(order_id=kept.line.order_id, reason="all of it", actor=None)
    assert "nobody has redeemed" in mails("refund_done")[1].body_text


def test_a_recall_of_what_was_paid_by_a_gateway_says_which_serials_are_over(rita: User) -> None:
    reseller = make_reseller(rita)
    _kept, *others = stock(reseller, priced_plan(), 3)
    recall(reseller=reseller, serial_ids=[one.serial_id for one in others], actor=rita)
    [mail] = mails("refund_decided")
    assert "the others of the order stay as they are" in mail.body_text
    refund = Refund.objects.get()
    send(refund_id=refund.pk)
    settle_by_hand(refund_id=refund.pk, reference="bank transfer 7", actor=rita)
    [mail] = mails("refund_done")
    assert "the others of the order stay as they are" in mail.body_text
    assert "Your bank or payment service" in mail.body_text


def test_a_free_order_says_that_it_was_free(alice: User) -> None:
    make_server()
    deliver(order_id=paid_order(alice, priced_plan(3, 0, is_trial=True), Kind.SELF).pk)
    [mail] = mails("order_delivered")
    assert "it was free" in mail.body_text
    assert mails("order_placed") == []


def test_a_refund_says_what_is_taken_back_with_it(alice: User) -> None:
    _order, mail = mail_after("refund_decided", alice)
    assert "taken back with it" in mail.body_text
    assert "goes back the way it was paid" in mail.body_text
