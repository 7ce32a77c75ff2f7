"""What looks like a reseller's own order waits for a person: one mailbox, address, account, browser, a circle."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.test import Client
from django.utils import translation

from accounts.models import User
from accounts.services import note_browser
from billing.models import Order, Payment, Transfer
from derp_portal.lib.clock import now
from resellers import services
from resellers.admin.words import SIGNALS, signals_in_words
from resellers.models import CommissionLine, Reseller, Suspicion
from resellers.services.suspecting import signals_of
from tests.billing.till import Kind, begin, call, callback_about, order_of, priced_plan
from tests.conftest import PASSWORD
from tests.resellers.trade import bring, make_reseller
from tests.resellers.wholesaling import wholesale_price

pytestmark = pytest.mark.django_db


@pytest.fixture
def reseller(rita: User, alice: User) -> Reseller:
    """rita, whose customer alice is."""
    found = make_reseller(rita)
    bring(found, alice)
    return found


def pay(order: Order, payer: str) -> Order:
    payment = begin(order)
    call(payment, callback_about(payment, payer=payer))
    order.refresh_from_db()
    assert order.state == Order.State.PAID
    return order


def bought(user: User, payer: str = "") -> Order:
    return pay(order_of(user, priced_plan(30, 10_000)), payer)


def held() -> list[list[str]]:
    services.accrue()
    return [suspicion.signals for suspicion in Suspicion.objects.order_by("id")]


def test_an_order_whose_account_is_still_asked_for_is_not_decided_yet(reseller: Reseller, alice: User) -> None:
    bought(reseller.user, "account of rita")
    order = bought(alice)
    # As after the call of a gateway that names the account only when asked.
    Payment.objects.filter(order=order).update(next_query_at=now())
    assert held() == []
    assert not CommissionLine.objects.exists()
    call(payment := Payment.objects.get(order=order), callback_about(payment, payer="account of rita"))
    assert held() == [["same_payer"]]


def test_an_order_paid_from_the_resellers_account_is_held(reseller: Reseller, alice: User, root: User) -> None:
    bought(reseller.user, "account of rita")
    order = bought(alice, "account of rita")
    assert held() == [["same_payer"]]
    assert not CommissionLine.objects.exists()
    suspicion = Suspicion.objects.get()
    assert (suspicion.order, suspicion.reseller) == (order, reseller)
    services.clear(suspicion_id=suspicion.pk, reason="a married couple", actor=root)
    assert CommissionLine.objects.get().amount == 1500


def test_what_the_reseller_bought_wholesale_tells_of_their_account_too(reseller: Reseller, alice: User) -> None:
    plan = priced_plan(30)
    wholesale_price(plan)
    pay(order_of(reseller.user, plan, Kind.WHOLESALE, 5), "account of rita")
    bought(alice, "account of rita")
    assert held() == [["same_payer"]]


def test_an_account_that_paid_for_both_once_speaks_against_later_orders_from_others(
    reseller: Reseller, alice: User
) -> None:
    bought(reseller.user, "account of rita")
    bought(alice, "account of rita")
    bought(alice, "account of alice")
    assert held() == [["same_payer"], ["same_payer"]]


def test_an_order_by_the_resellers_browser_is_held(reseller: Reseller, alice: User) -> None:
    browser = Client()
    for name, address in (("rita", "198.51.100.1"), ("alice", "203.0.113.9")):
        browser.post("/accounts/login/", {"login": name, "password": PASSWORD}, REMOTE_ADDR=address)
        browser.post("/accounts/logout/")
    bought(alice)
    assert held() == [["same_device"]]


def test_a_browser_counts_for_as_long_as_it_is_kept(reseller: Reseller, alice: User) -> None:
    note_browser(user=reseller.user, name="one")
    note_browser(user=alice, name="one")
    with time_machine.travel(now() + timedelta(days=399)):
        bought(alice)
        assert held() == [["same_device"]]
    with time_machine.travel(now() + timedelta(days=401)):
        bought(alice)
        assert held() == [["same_device"]]
    assert CommissionLine.objects.get().amount == 1500


def test_accounts_and_browsers_of_strangers_hold_nothing(reseller: Reseller, alice: User, bob: User) -> None:
    for user, account in ((reseller.user, "account of rita"), (bob, "account of alice"), (bob, "account of rita")):
        bought(user, account)
    note_browser(user=reseller.user, name="rita's")
    note_browser(user=bob, name="rita's")
    note_browser(user=alice, name="alice's")
    bought(alice, "account of alice")
    assert held() == [], "bob is nobody's customer"
    assert CommissionLine.objects.get().amount == 1500


def test_orders_whose_account_nobody_knows_hold_nothing(reseller: Reseller, alice: User) -> None:
    bought(reseller.user)
    bought(alice)
    assert held() == []
    assert set(Transfer.objects.values_list("payer_digest", flat=True)) == {""}


def test_looking_costs_the_same_however_much_there_is(
    reseller: Reseller, alice: User, django_assert_num_queries: Any
) -> None:
    order = Order.objects.select_related("user").get(pk=bought(alice, "a").pk)
    with django_assert_num_queries(5):
        assert signals_of(order, reseller) == []
    for number in range(5):
        bought(alice, f"a{number}")
        bought(reseller.user, f"b{number}")
        note_browser(user=alice, name=f"a{number}")
        note_browser(user=reseller.user, name=f"b{number}")
    with django_assert_num_queries(5):
        assert signals_of(order, reseller) == []


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_every_signal_has_words(language: str) -> None:
    with translation.override(language):
        for code in ("same_person", "same_address", "same_payer", "same_device", "circle"):
            assert code in SIGNALS
            assert code not in signals_in_words([code])
