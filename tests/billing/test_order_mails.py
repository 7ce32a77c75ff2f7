"""What customers are written about their orders: in their language, with the amount, and what happens next."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
import time_machine
from django.template import Context, Engine

from accounts.models import Notification, User
from billing.models import Order, Refund
from billing.services import refund_order
from billing.services.fulfilment import deliver
from billing.services.orders import expire_orders
from billing.services.refunds import send, settle_by_hand
from derp_portal.lib.clock import now
from serials.models import Lease
from tests.billing.till import Kind, begin, call, callback_about, order_of, paid_order, priced_plan
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
