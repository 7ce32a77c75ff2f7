"""Which account paid: known again by a digest, and never readable."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.core import serializers
from django.test import Client
from pytest_django.fixtures import Settings

from accounts.models import AuditEntry, User
from billing.gateways.sandbox import SandboxGateway
from billing.models import Order, Payment, Posting, SandboxCharge, Transfer
from billing.services import payers
from billing.services.payers import is_payer_awaited, paid_from_one_account, payer_digest
from billing.services.payments import ask_gateways
from tests.api_client import Caller
from tests.billing.desk import confirm_form, page
from tests.billing.till import begin, call, callback_about, make_bank, order_of, priced_plan
from tests.conftest import make_user

pytestmark = pytest.mark.django_db

ACCOUNT = "2088102000000001"


def paid_from(user: User, payer: str, **said: Any) -> Transfer:
    """An order of the user's, paid from that account."""
    payment = begin(order_of(user, priced_plan(30)))
    call(payment, callback_about(payment, payer=payer, **said))
    return Transfer.objects.get(payment=payment)


def test_the_account_is_kept_as_a_digest_and_nowhere_as_it_is(
    alice: User, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    transfer = paid_from(alice, ACCOUNT)
    assert len(transfer.payer_digest) == 64
    assert transfer.payer_digest == payer_digest("sandbox", ACCOUNT)
    rows = [*Transfer.objects.all(), *AuditEntry.objects.all(), *Order.objects.all(), *Posting.objects.all()]
    assert ACCOUNT not in serializers.serialize("json", rows)
    assert ACCOUNT not in caplog.text + "".join(capfd.readouterr())


def test_one_account_is_known_again_however_it_is_written_and_two_are_told_apart() -> None:
    assert payer_digest("offline", "6222 0212 3456 ") == payer_digest("offline", "622202123456")
    assert payer_digest("offline", "GB29 NWBK") == payer_digest("offline", "gb29nwbk")
    assert payer_digest("offline", "622202123456") != payer_digest("offline", "622202123457")
    assert payer_digest("alipay", ACCOUNT) != payer_digest("epay", ACCOUNT), "each kind has names of its own"


@pytest.mark.parametrize("payer", ["", "  ", "ali***@example.com", "138****1234"])
def test_an_account_that_is_not_named_or_masked_is_nobodys(payer: str, alice: User, bob: User) -> None:
    assert paid_from(alice, payer).payer_digest == ""
    paid_from(bob, payer)
    assert not paid_from_one_account(alice, bob)


@pytest.mark.parametrize(
    "payer",
    [
        *("ali＊＊＊@example.com", "138••••1234", "●●●●1234", "138····1234", "138‧‧‧1234", "138∙∙∙1234"),
        *("6222xxxxxxxx1234", "6222 XXXX XXXX 1234", "6222-xxxx-xxxx-1234", "６２２２ｘｘｘｘ１２３４"),
        *("null", "None", "UNKNOWN", "anonymous", "N/A", "-", "--", "0", "000"),
    ],
)
def test_a_mask_or_a_word_for_nothing_is_no_account(payer: str) -> None:
    assert payer_digest("offline", payer) == ""


@pytest.mark.parametrize("payer", ["xxx@example.com", "maxxx", "1xx2", "nullman@example.com", "0-1", "张三"])
def test_a_name_that_only_looks_like_that_is_an_account(payer: str) -> None:
    assert len(payer_digest("offline", payer)) == 64


def test_wide_letters_and_narrow_ones_are_the_same_account() -> None:
    assert payer_digest("offline", "６２２２０２１２３４５６") == payer_digest("offline", "622202123456")


def test_a_digest_is_no_use_without_the_portals_key(settings: Settings) -> None:
    before = payer_digest("alipay", ACCOUNT)
    settings.SECRET_KEY = "another"
    assert payer_digest("alipay", ACCOUNT) != before


def test_two_who_paid_from_one_account_are_found_by_one_query(
    alice: User, bob: User, django_assert_num_queries: Any
) -> None:
    paid_from(alice, "a")
    for account in ("b", "c"):
        paid_from(bob, account)
    paid_from(make_user("carol"), "a")
    with django_assert_num_queries(1):
        assert not paid_from_one_account(alice, bob)
    paid_from(bob, "a")
    with django_assert_num_queries(1):
        assert paid_from_one_account(alice, bob)
    assert paid_from_one_account(bob, alice)


def test_money_that_did_not_fit_tells_of_its_account_too(alice: User, bob: User) -> None:
    assert paid_from(alice, ACCOUNT, amount=5).state == Transfer.State.HELD
    paid_from(bob, ACCOUNT)
    assert paid_from_one_account(alice, bob)


def test_an_account_that_is_heard_of_later_is_kept_and_one_that_is_known_stays(alice: User) -> None:
    payment = begin(order_of(alice, priced_plan(30)))
    for payer in ("", ACCOUNT, "another"):
        call(payment, callback_about(payment, payer=payer))
    assert Transfer.objects.get().payer_digest == payer_digest("sandbox", ACCOUNT)


def paid_at_the_gateway(user: User, payer: str) -> Payment:
    """A payment that the test gateway has in its books, and the portal has not heard of."""
    payment = begin(order_of(user, priced_plan(30)))
    said = json.loads(callback_about(payment).body)
    SandboxCharge.objects.create(
        reference=payment.reference,
        method=payment.method,
        amount=payment.amount,
        currency=payment.currency,
        state="paid",
        payer=payer,
        transaction_id=said["transaction_id"],
        paid_amount=payment.amount,
        paid_at=said["paid_at"],
    )
    return payment


def test_where_only_an_answer_names_the_account_the_gateway_is_asked_after_its_call(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = paid_at_the_gateway(alice, ACCOUNT)
    call(payment)
    assert not is_payer_awaited(payment.order_id), "others name it at once, or never"
    other = paid_at_the_gateway(alice, ACCOUNT)
    monkeypatch.setattr(SandboxGateway, "names_payer_late", True)
    for _time in range(2):
        call(other)
    assert is_payer_awaited(other.order_id)
    assert ask_gateways() == 1
    assert not is_payer_awaited(other.order_id)
    assert ask_gateways() == 0
    transfer = Transfer.objects.get(payment=other)
    assert (transfer.state, transfer.payer_digest) == ("counted", payer_digest("sandbox", ACCOUNT))


def test_a_gateway_that_does_not_say_which_account_paid_is_asked_for_an_hour(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SandboxGateway, "names_payer_late", True)
    with time_machine.travel("2027-01-15T12:00:00Z", tick=False) as clock:
        payment = paid_at_the_gateway(alice, "")
        call(payment)
        asked = 0
        for _minute in range(62):
            asked += ask_gateways()
            clock.shift(timedelta(minutes=1))
        assert 4 < asked < 10
        assert not is_payer_awaited(payment.order_id)


def test_staff_who_confirm_a_transfer_may_name_the_account(client: Client, alice: User, bob: User, root: User) -> None:
    make_bank()
    client.force_login(root)
    first, second = order_of(alice, priced_plan(30)), order_of(bob, priced_plan(30))
    client.post(page("order_confirm", first.pk), confirm_form(first, payer="6222 0212"))
    seen = {"method": "bank", "transaction_id": "bank 7", "amount": "19.90", "evidence": "statement"}
    Caller(root).post("order/confirm", number=second.number, payer="62220212", **seen)
    assert Transfer.objects.count() == 2
    assert paid_from_one_account(alice, bob)
    rows = serializers.serialize("json", [*Transfer.objects.all(), *AuditEntry.objects.all()])
    # Whole: four digits stand in every thousandth digest by chance.
    assert not [written for written in ("6222 0212", "62220212") if written in rows]


def test_everybody_pays_from_an_account_of_their_own_at_the_test_cashier_unless_they_say_otherwise(
    client: Client, alice: User
) -> None:
    client.force_login(alice)
    address = begin(order_of(alice, priced_plan(30))).redirect_url
    assert client.get(address).context["payer"] == "account of alice"
    client.post(address, {"deed": "pay", "payer": "account of rita"})
    assert SandboxCharge.objects.get().payer == "account of rita"


def test_the_digest_is_long_enough_for_the_column() -> None:
    assert len(payers.payer_digest("offline", "x" * 200)) == 64
