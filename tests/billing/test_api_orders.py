"""The API for prices, orders and payments: what a customer's program does, what staff's does, and what neither may."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import ApiToken, User
from accounts.services import issue_token
from accounts.services.tokens import log_in
from billing import services
from billing.gateways.base import Demand, Opened, Unavailable
from billing.gateways.sandbox import SandboxGateway
from billing.models import Coupon, CouponUse, Order, PackOffer, Payment, Price, Refund, Transfer, WholesalePrice
from billing.services import pricing
from billing.services.fulfilment import deliver
from derp_portal.lib.clock import now
from fleet.models import RelayGroup
from serials.models import Lease, Plan, SerialNumber
from tests.api_client import Caller, make_server
from tests.billing.till import (
    Kind,
    begin,
    call,
    callback_about,
    make_bank,
    make_method,
    order_of,
    paid_order,
    priced_plan,
)
from tests.conftest import PASSWORD
from tests.serials.shop import START

pytestmark = pytest.mark.django_db


def refusal(answer: tuple[int, Any]) -> tuple[int, str]:
    status, body = answer
    assert body["success"] is False
    assert body["error"]["message"]
    return status, body["error"]["code"]


def said_about(answer: tuple[int, Any]) -> dict[str, str]:
    """What was wrong, by field."""
    status, body = answer
    assert (status, body["error"]["code"]) == (422, "invalid_input")
    return {one["field"]: one["message"] for one in body["error"]["fields"]}


def gift(plan: Plan, quantity: int = 1) -> dict[str, Any]:
    return {"kind": "gift", "plan": plan.code, "quantity": quantity}


def create(user: User, plan: Plan, **more: Any) -> dict[str, Any]:
    status, answer = Caller(user).post("order/create", **({"items": [gift(plan)]} | more))
    assert status == 200, answer
    found: dict[str, Any] = answer
    return found


def held_money(user: User, plan: Plan, **said: Any) -> Transfer:
    """Money that does not fit the user's order."""
    payment = begin(order_of(user, plan))
    call(payment, callback_about(payment, **said))
    return Transfer.objects.get(state=Transfer.State.HELD)


# --- what is on sale --------------------------------------------------------------------------------


def test_plans_come_with_their_prices_in_every_currency_and_keep_what_they_said_before(db: None) -> None:
    plan = priced_plan(30, 1990, sale_amount=990, sale_until=now() + timedelta(days=1), per_user_limit=3)
    Price.objects.create(plan=plan, currency="JPY", amount=400)
    Price.objects.create(plan=plan, currency="EUR", amount=300, is_active=False)
    _status, answer = Caller(None).get("plan/list", per_page=200)
    [shown] = [one for one in answer["items"] if one["code"] == plan.code]
    assert {"days", "relay_count", "speed_bytes_per_second", "quota_bytes", "regions", "name"} <= set(shown)
    yuan, yen = shown["prices"]
    assert (yuan["currency"], yuan["amount"], yuan["amount_minor"]) == ("CNY", "9.90", 990)
    assert (yuan["regular_amount"], yuan["regular_amount_minor"]) == ("19.90", 1990)
    assert yuan["sale_until"] is not None
    assert (yuan["per_user_limit"], yuan["is_trial"]) == (3, False)
    assert (yen["currency"], yen["amount"], yen["amount_minor"], yen["sale_until"]) == ("JPY", "400", 400, None)


def test_the_price_that_began_last_counts_and_one_to_come_does_not(db: None) -> None:
    plan = priced_plan(30, 1000)
    Price.objects.create(plan=plan, amount=1200, valid_from=now() - timedelta(hours=1))
    Price.objects.create(plan=plan, amount=1500, valid_from=now() + timedelta(hours=1))
    _status, answer = Caller(None).get("plan/list", per_page=200)
    [shown] = [one for one in answer["items"] if one["code"] == plan.code]
    assert [price["amount"] for price in shown["prices"]] == ["12.00"]


def test_lists_take_the_same_number_of_queries_however_long_they_are(alice: User, root: User) -> None:
    plans = [priced_plan(days, 100 * days) for days in (30, 31)]
    order_of(alice, plans[0])

    def count(caller: Caller, path: str, **query: Any) -> int:
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert caller.get(path, **query)[0] == 200
        return len(queries)

    readers = [(Caller(alice), "order/list"), (Caller(root), "order/list"), (Caller(None), "plan/list")]
    for caller, path in readers:
        caller.get(path)
    before = [count(caller, path) for caller, path in readers]
    for days in (32, 33, 34):
        order_of(alice, priced_plan(days), quantity=2)
    assert [count(caller, path) for caller, path in readers] == before


def test_packs_on_sale_are_listed_for_everybody(db: None) -> None:
    PackOffer.objects.all().delete()
    PackOffer.objects.create(code="more", name="More", name_zh="更多", extra_bytes=10**9, amount=500)
    PackOffer.objects.create(code="old", name="Old", extra_bytes=10**9, amount=500, is_active=False)
    assert Caller(None).get("pack/list")[1]["items"] == [
        {
            "code": "more",
            "name": "More",
            "extra_bytes": 10**9,
            "currency": "CNY",
            "amount": "5.00",
            "amount_minor": 500,
        }
    ]
    assert Caller(None).get("pack/list", currency="usd")[1]["total"] == 0
    assert "CNY" in said_about(Caller(None).get("pack/list", currency="XXX"))["currency"]


def test_payment_methods_are_listed_without_their_secrets(alice: User) -> None:
    make_method()
    make_method("closed", is_enabled=False)
    make_bank()
    answer = Client().get("/api/payment/methods", headers=Caller(alice).headers)
    shown = {one["code"]: one for one in answer.json()["items"]}
    assert set(shown) == {"test", "bank"}
    assert shown["test"] == {
        "code": "test",
        "name": "Test payment",
        "kind": "sandbox",
        "currency": "CNY",
        "is_automatic": True,
    }
    assert shown["bank"]["is_automatic"] is False
    assert b"only tests know" not in answer.content


# --- scopes -----------------------------------------------------------------------------------------


def test_orders_want_a_scope_of_their_own_which_a_login_has(alice: User, rf: Any) -> None:
    assert refusal(Caller(alice, "account", "serials", "relays").get("order/list")) == (403, "missing_scope")
    token, _secret = log_in(request=rf.post("/"), login="alice", password=PASSWORD)
    assert ApiToken.Scope.ORDERS in token.scopes
    assert Caller(alice, "orders").get("order/list")[0] == 200


def test_an_administrator_without_the_staff_scope_sees_only_their_own_orders(alice: User, root: User) -> None:
    order = order_of(alice, priced_plan())
    assert Caller(root, "orders").get("order/list")[1]["total"] == 0
    assert refusal(Caller(root, "orders").get(f"order/{order.number}")) == (404, "not_found")
    assert Caller(root).get(f"order/{order.number}")[0] == 200
    assert Caller(root).get("order/list", own="true")[1]["total"] == 0


# --- quoting and ordering ---------------------------------------------------------------------------


def test_a_quote_says_what_it_would_cost_and_orders_nothing(alice: User) -> None:
    plan = priced_plan(30, 1990)
    Coupon.objects.create(code="TEN", percent=10)
    status, answer = Caller(alice).post("order/quote", items=[gift(plan, 2)], coupon="ten")
    assert status == 200
    assert answer["quote"] == {
        "currency": "CNY",
        "subtotal": "39.80",
        "subtotal_minor": 3980,
        "discount": "3.98",
        "discount_minor": 398,
        "total": "35.82",
        "total_minor": 3582,
        "coupon": "TEN",
        "lines": [
            {
                "kind": "gift",
                "name": plan.name,
                "plan": plan.code,
                "pack": None,
                "lease_id": None,
                "quantity": 2,
                "currency": "CNY",
                "unit_amount": "19.90",
                "unit_amount_minor": 1990,
                "amount": "35.82",
                "amount_minor": 3582,
            }
        ],
    }
    assert not Order.objects.exists()
    assert not CouponUse.objects.exists()


def test_an_order_is_placed_paid_delivered_and_shows_its_codes_to_its_owner_only(
    alice: User, bob: User, root: User
) -> None:
    make_method()
    number = create(alice, priced_plan(30), items=[gift(priced_plan(30), 2)])["order"]["number"]
    status, answer = Caller(alice).post("order/pay", number=number, method="test")
    assert status == 200
    paying = answer["payment"]
    assert (paying["amount"], paying["state"], paying["instructions"]) == ("39.80", "open", None)
    assert paying["redirect_url"]
    call(Payment.objects.get(reference=paying["reference"]))
    deliver(order_id=Order.objects.get().pk)

    _status, answer = Caller(alice).get(f"order/{number}")
    shown = answer["order"]
    assert (shown["state"], shown["received_minor"], len(shown["codes"])) == ("fulfilled", 3980, 2)
    assert [step["to_state"] for step in shown["steps"]] == ["pending", "paid", "fulfilled"]
    assert [step["by"] for step in shown["steps"]] == ["customer", "system", "system"]
    [payment] = shown["payments"]
    assert (payment["state"], payment["transfers"][0]["amount"]) == ("paid", "39.80")
    assert Caller(root).get(f"order/{number}")[1]["order"]["codes"] is None
    assert refusal(Caller(bob).get(f"order/{number}")) == (404, "not_found")


def test_the_first_answer_says_how_to_pay_when_asked_for(alice: User) -> None:
    make_method()
    make_bank()
    plan = priced_plan(30)
    answer = create(alice, plan, pay_with="test")
    assert answer["payment"]["redirect_url"]
    assert answer["payment_error"] is None
    answer = create(alice, plan, pay_with="bank")
    assert answer["payment"]["instructions"] == "To account 7"
    assert answer["payment"]["redirect_url"] is None
    # Who transfers has days, and the order says so.
    assert answer["payment"]["expires_at"] == answer["order"]["expires_at"]


def test_an_unknown_way_to_pay_orders_nothing(alice: User) -> None:
    make_method("closed", is_enabled=False)
    for code in ("closed", "nosuch"):
        answer = Caller(alice).post("order/create", items=[gift(priced_plan(30))], pay_with=code)
        assert refusal(answer) == (409, "method_not_offered")
    assert not Order.objects.exists()


def test_an_order_whose_payment_cannot_begin_stands_and_says_so(alice: User) -> None:
    make_method("dollars", currency="USD")
    answer = create(alice, priced_plan(30), pay_with="dollars")
    assert answer["payment"] is None
    assert answer["payment_error"]["code"] == "method_not_offered"
    assert answer["order"]["state"] == "pending"


def test_the_same_key_orders_once_in_the_header_and_in_the_body(alice: User, bob: User) -> None:
    plan = priced_plan(30)
    headers = Caller(alice).headers | {"Idempotency-Key": "basket 7"}
    body = {"items": [gift(plan)]}
    answers = [
        Client().post("/api/order/create", body, "application/json", headers=headers).json() for _time in range(2)
    ]
    answers.append(create(alice, plan, client_key="basket 7"))
    assert len({answer["order"]["number"] for answer in answers}) == 1
    assert create(bob, plan, client_key="basket 7")["order"]["number"] != answers[0]["order"]["number"]
    assert Order.objects.count() == 2


def test_a_key_does_not_stand_for_two_different_orders(alice: User) -> None:
    plan = priced_plan(30)
    create(alice, plan, client_key="basket 7")
    again = Caller(alice).post("order/create", items=[gift(plan, 2)], client_key="basket 7")
    assert refusal(again) == (409, "key_taken")
    headers = Caller(alice).headers | {"Idempotency-Key": "one"}
    body = {"items": [gift(plan)], "client_key": "two"}
    answer = Client().post("/api/order/create", body, "application/json", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_input")
    headers["Idempotency-Key"] = "x" * 81
    answer = Client().post("/api/order/create", body, "application/json", headers=headers)
    assert "Idempotency-Key" in {one["field"] for one in answer.json()["error"]["fields"]}
    assert Order.objects.count() == 1


def test_what_costs_nothing_needs_no_payment_and_is_had_once(alice: User) -> None:
    make_method()
    plan = priced_plan(3, 0, is_trial=True)
    answer = create(alice, plan, items=[{"kind": "self", "plan": plan.code}], pay_with="test", client_key="try")
    assert (answer["order"]["state"], answer["payment"], answer["payment_error"]) == ("paid", None, None)
    again = Caller(alice).post("order/create", items=[{"kind": "self", "plan": plan.code}])
    assert refusal(again) == (409, "trial_used")


@pytest.mark.parametrize(
    ("item", "field", "word"),
    [
        ({"kind": "gift"}, "items.0", "plan"),
        ({"kind": "pack", "plan": "test-30"}, "items.0", "pack"),
        ({"kind": "renewal", "plan": "test-30"}, "items.0", "lease_id"),
        ({"kind": "gift", "plan": "test-30", "lease_id": 1}, "items.0", "lease_id"),
        ({"kind": "gift", "plan": "test-30", "new_lease": True}, "items.0", "new_lease"),
        ({"kind": "outside", "plan": "test-30"}, "items.0.kind", "gift"),
        ({"kind": "gift", "plan": "test-30", "quantity": 0}, "items.0.quantity", "1"),
    ],
)
def test_a_basket_that_makes_no_sense_is_refused_in_words(
    alice: User, item: dict[str, Any], field: str, word: str
) -> None:
    priced_plan(30)
    for operation in ("quote", "create"):
        assert word in said_about(Caller(alice).post(f"order/{operation}", items=[item]))[field]
    assert "items" in said_about(Caller(alice).post("order/quote", items=[]))
    assert "currency" in said_about(Caller(alice).post("order/quote", items=[item], currency="BTC"))


def test_what_is_not_for_sale_has_a_code_of_its_own_and_orders_nothing(alice: User, bob: User) -> None:
    plan, hidden = priced_plan(30), priced_plan(5)
    Plan.objects.filter(pk=hidden.pk).update(is_public=False)
    Coupon.objects.create(code="LATE", percent=10, valid_until=now())
    make_server()
    lease = _lease_of(bob, plan)
    cases: list[tuple[dict[str, Any], tuple[int, str]]] = [
        ({"items": [gift(hidden)]}, (409, "not_on_sale")),
        ({"items": [{"kind": "gift", "plan": "nosuch"}]}, (409, "not_on_sale")),
        ({"items": [{"kind": "pack", "pack": "nosuch", "lease_id": lease.pk}]}, (404, "lease_not_found")),
        ({"items": [{"kind": "renewal", "plan": plan.code, "lease_id": lease.pk}]}, (404, "lease_not_found")),
        ({"items": [{"kind": "wholesale", "plan": plan.code, "quantity": 50}]}, (403, "not_a_reseller")),
        ({"items": [gift(plan, 101)]}, (400, "invalid_quantity")),
        ({"items": [gift(plan)], "currency": "EUR"}, (409, "not_on_sale")),
        ({"items": [gift(plan)], "coupon": "nosuch"}, (404, "coupon_unknown")),
        ({"items": [gift(plan)], "coupon": "LATE"}, (409, "coupon_expired")),
    ]
    for asked, expected in cases:
        for operation in ("quote", "create"):
            assert refusal(Caller(alice).post(f"order/{operation}", **asked)) == expected, asked
    assert not Order.objects.filter(user=alice).exists()


def _lease_of(user: User, plan: Plan) -> Lease:
    deliver(order_id=paid_order(user, plan, Kind.SELF).pk)
    return Lease.objects.get(user=user)


def test_a_renewal_and_a_pack_go_to_the_lease_they_name(alice: User) -> None:
    make_server()
    plan = priced_plan(30)
    lease = _lease_of(alice, plan)
    RelayGroup.objects.filter(pk=lease.relay_group_id).update(quota_bytes=10**9)
    pack = PackOffer.objects.create(code="more", name="More", extra_bytes=10**9, amount=500)
    items = [
        {"kind": "renewal", "plan": plan.code, "lease_id": lease.pk},
        {"kind": "pack", "pack": pack.code, "lease_id": lease.pk},
    ]
    shown = create(alice, plan, items=items)["order"]
    assert [(line["kind"], line["lease_id"]) for line in shown["lines"]] == [
        ("renewal", lease.pk),
        ("pack", lease.pk),
    ]
    assert (shown["lines"][1]["plan"], shown["lines"][1]["pack"], shown["total"]) == (None, "more", "24.90")


def test_a_second_lease_is_asked_for(alice: User) -> None:
    make_server()
    plan = priced_plan(30)
    _lease_of(alice, plan)
    make_method()
    items = [{"kind": "self", "plan": plan.code, "new_lease": True}]
    answers = [create(alice, plan, items=items, client_key="office", pay_with="test") for _time in range(2)]
    assert answers[0]["order"]["number"] == answers[1]["order"]["number"]
    call(Payment.objects.get(reference=answers[0]["payment"]["reference"]))
    deliver(order_id=Order.objects.get(number=answers[0]["order"]["number"]).pk)
    assert Lease.objects.filter(user=alice).count() == 2


def test_a_reseller_buys_wholesale(rita: User) -> None:
    plan = priced_plan(30)
    WholesalePrice.objects.create(plan=plan, from_quantity=50, amount=1200)
    shown = create(rita, plan, items=[{"kind": "wholesale", "plan": plan.code, "quantity": 50}])["order"]
    assert (shown["total"], shown["lines"][0]["unit_amount"]) == ("600.00", "12.00")


def test_too_many_open_orders_and_a_cancelled_one_make_room(alice: User) -> None:
    plan = priced_plan(30)
    numbers = [create(alice, plan)["order"]["number"] for _time in range(5)]
    assert refusal(Caller(alice).post("order/create", items=[gift(plan)])) == (409, "too_many_open_orders")
    status, answer = Caller(alice).post("order/cancel", number=numbers[0], reason="changed my mind")
    assert (status, answer["order"]["state"]) == (200, "cancelled")
    assert Caller(alice).post("order/cancel", number=numbers[0])[0] == 200
    create(alice, plan)


@time_machine.travel(START, tick=False)
def test_guessing_coupons_is_slowed_down(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricing, "MOST_COUPONS", 3)
    plan = priced_plan(30)
    caller = Caller(alice)
    answers = [caller.post("order/quote", items=[gift(plan)], coupon=f"GUESS{n}") for n in range(4)]
    assert refusal(answers[2]) == (404, "coupon_unknown")
    assert refusal(answers[3]) == (429, "rate_limited")
    assert answers[3][1]["error"]["retry_after"] > 0
    assert caller.post("order/quote", items=[gift(plan)])[0] == 200


# --- paying and cancelling --------------------------------------------------------------------------


def test_paying_again_goes_on_with_the_same_attempt(alice: User) -> None:
    make_method()
    number = create(alice, priced_plan(30))["order"]["number"]
    first, second = (Caller(alice).post("order/pay", number=number, method="test")[1] for _time in range(2))
    assert first == second
    assert Payment.objects.count() == 1


def test_what_is_paid_or_given_up_cannot_be_paid_and_what_is_paid_not_cancelled(alice: User) -> None:
    make_method()
    plan = priced_plan(30)
    paid, open_one = paid_order(alice, plan), order_of(alice, plan)
    caller = Caller(alice)
    assert refusal(caller.post("order/cancel", number=paid.number)) == (409, "order_paid")
    assert refusal(caller.post("order/pay", number=paid.number, method="test")) == (409, "order_not_open")
    caller.post("order/cancel", number=open_one.number)
    assert refusal(caller.post("order/pay", number=open_one.number, method="test")) == (409, "order_not_open")


def test_a_gateway_that_does_not_answer_is_asked_again_about_the_same_attempt(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_answer(gateway: SandboxGateway, demand: Demand) -> Opened:
        raise Unavailable("timeout")

    make_method()
    with monkeypatch.context() as broken:
        broken.setattr(SandboxGateway, "start", no_answer)
        answer = create(alice, priced_plan(30), pay_with="test")
        assert (answer["payment"], answer["payment_error"]["code"]) == (None, "gateway_unavailable")
        number = answer["order"]["number"]
        again = Caller(alice).post("order/pay", number=number, method="test")
        assert refusal(again) == (502, "gateway_unavailable")
    assert Caller(alice).post("order/pay", number=number, method="test")[1]["payment"]["redirect_url"]
    assert Payment.objects.count() == 1


@pytest.mark.parametrize("operation", ["pay", "cancel"])
def test_a_strangers_order_is_not_there(alice: User, bob: User, operation: str) -> None:
    make_method()
    order = order_of(alice, priced_plan(30))
    answer = Caller(bob).post(f"order/{operation}", number=order.number, method="test")
    assert refusal(answer) == (404, "not_found")
    order.refresh_from_db()
    assert order.state == Order.State.PENDING
    assert not Payment.objects.exists()


def test_staff_may_cancel_but_not_pay_for_others(alice: User, root: User) -> None:
    make_method()
    order = order_of(alice, priced_plan(30))
    assert refusal(Caller(root).post("order/pay", number=order.number, method="test")) == (404, "not_found")
    assert Caller(root).post("order/cancel", number=order.number)[1]["order"]["state"] == "cancelled"


def test_the_list_of_orders_is_ones_own_and_staff_may_filter_all(alice: User, bob: User, root: User) -> None:
    plan = priced_plan(30)
    mine, other = order_of(alice, plan), paid_order(bob, priced_plan(5))
    payment = Payment.objects.get()
    assert [one["number"] for one in Caller(alice).get("order/list")[1]["items"]] == [mine.number]
    assert Caller(alice).get("order/list", q=other.number)[1]["total"] == 0
    assert Caller(alice).get("order/list", q=plan.name)[1]["total"] == 1
    assert Caller(bob).get("order/list", q=f"tx-{payment.reference}")[1]["total"] == 1
    assert Caller(alice).get("order/list", q=payment.reference)[1]["total"] == 0
    assert refusal(Caller(alice).get("order/list", user_id=bob.pk)) == (404, "not_found")
    staff = Caller(root)
    asked: list[tuple[dict[str, Any], int]] = [
        ({}, 2),
        ({"state": "paid"}, 1),
        ({"user_id": bob.pk}, 1),
        ({"q": mine.number[3:].lower()}, 1),
        ({"q": payment.reference}, 1),
        ({"q": f"tx-{payment.reference}"}, 1),
        ({"own": "true"}, 0),
        ({"channel": "nosuch"}, 0),
        ({"since": now() + timedelta(minutes=1)}, 0),
        ({"since": timezone.localdate(mine.created_at)}, 2),
        ({"until": timezone.localdate(other.created_at)}, 2),
        ({"until": now() + timedelta(minutes=1)}, 2),
    ]
    for filters, total in asked:
        status, answer = staff.get("order/list", **filters)
        assert (status, answer["total"]) == (200, total), filters
    assert said_about(staff.get("order/list", state="lost"))["state"]


def test_a_customers_search_looks_at_their_own_orders_alone(alice: User) -> None:
    with CaptureQueriesContext(connection) as queries:
        assert Caller(alice).get("order/list", q="tx-1")[0] == 200
    searches = [query["sql"] for query in queries if "LIKE" in query["sql"].upper()]
    assert searches
    assert not [sql for sql in searches if " IN (SELECT" in sql], "everybody's lines are searched"


# --- what staff do ----------------------------------------------------------------------------------


def confirmation(order: Order, **changes: Any) -> dict[str, Any]:
    return {
        "number": order.number,
        "method": "bank",
        "transaction_id": "bank 7",
        "amount": "19.90",
        "evidence": "statement of 31 May",
    } | changes


def test_staff_confirms_a_transfer_once(alice: User, root: User) -> None:
    make_bank()
    order = order_of(alice, priced_plan(30))
    caller = Caller(root)
    status, answer = caller.post("order/confirm", **confirmation(order))
    assert (status, answer["verdict"], answer["problem"]) == (200, "counted", "")
    assert answer["order"]["state"] == "paid"
    assert caller.post("order/confirm", **confirmation(order))[1]["verdict"] == "repeated"
    # Nor does it pay for anything else.
    other = order_of(alice, priced_plan(30))
    _status, answer = caller.post("order/confirm", **confirmation(other))
    assert (answer["verdict"], answer["problem"], answer["order"]["state"]) == ("repeated", "other_payment", "pending")
    assert Transfer.objects.count() == 1


def test_a_confirmed_transfer_that_does_not_fit_is_held(alice: User, root: User) -> None:
    make_bank()
    order = order_of(alice, priced_plan(30))
    _status, answer = Caller(root).post("order/confirm", **confirmation(order, amount=19.8))
    assert (answer["verdict"], answer["problem"], answer["order"]["state"]) == ("held", "partial", "pending")


@pytest.mark.parametrize("amount", ["19.905", "-1", "0", 0, "free", "1e3", "", 10**12, "NaN", "１９.９０"])
def test_an_amount_that_is_none_is_refused_in_words(alice: User, root: User, amount: Any) -> None:
    make_bank()
    order = order_of(alice, priced_plan(30))
    answer = Caller(root).post("order/confirm", **confirmation(order, amount=amount))
    said = said_about(answer)["amount"]
    assert said == "At most CN¥1,000,000,000.00." if amount == 10**12 else "19.90" in said
    assert not Transfer.objects.exists()


def test_confirming_wants_evidence_and_things_that_exist(alice: User, root: User) -> None:
    make_bank()
    order = order_of(alice, priced_plan(30))
    caller = Caller(root)
    assert said_about(caller.post("order/confirm", **confirmation(order, evidence="")))["evidence"]
    assert refusal(caller.post("order/confirm", **confirmation(order, evidence=" "))) == (400, "evidence_needed")
    assert refusal(caller.post("order/confirm", **confirmation(order, number="X"))) == (404, "not_found")
    assert refusal(caller.post("order/confirm", **confirmation(order, method="nosuch"))) == (404, "not_found")


def test_staff_gives_back_a_part_and_then_the_rest(alice: User, root: User) -> None:
    order = deliver(order_id=paid_order(alice, priced_plan(30)).pk)
    caller = Caller(root)
    first = {"number": order.number, "amount": "5", "reason": "was slow", "refunded": "0"}
    status, answer = caller.post("order/refund", **first)
    assert (status, answer["refund"]["amount"], answer["order"]["refunded"]) == (200, "5.00", "5.00")
    assert answer["refund"]["takes_back"] is False
    # The program did not get the answer and asks again: nothing more goes back.
    assert refusal(caller.post("order/refund", **first)) == (409, "refunded_meanwhile")
    _status, answer = caller.post("order/refund", number=order.number, reason="asked for")
    assert (answer["refund"]["amount_minor"], answer["order"]["state"]) == (1490, "refunded")
    assert SerialNumber.objects.get().status == SerialNumber.Status.REVOKED
    assert refusal(caller.post("order/refund", number=order.number, reason="again")) == (409, "not_refundable")
    shown = Caller(alice).get(f"order/{order.number}")[1]["order"]
    assert [one["amount"] for one in shown["refunds"]] == ["14.90", "5.00"]
    # What staff wrote for each other is not for the customer.
    assert {one["reason"] for one in shown["refunds"]} == {None}
    assert {step["reason"] for step in shown["steps"]} == {None}
    assert {step["by"] for step in shown["steps"]} == {"customer", "system", "staff"}


def test_more_than_was_paid_is_not_given_back(alice: User, root: User) -> None:
    order = paid_order(alice, priced_plan(30))
    answer = Caller(root).post("order/refund", number=order.number, amount="1", reason="x", refunded="none")
    assert "19.90" in said_about(answer)["refunded"]
    answer = Caller(root).post("order/refund", number=order.number, amount="19.91", reason="x")
    assert refusal(answer) == (400, "invalid_amount")
    assert answer[1]["error"]["most"] == 1990
    assert not Refund.objects.exists()


def test_a_refund_that_the_gateway_cannot_send_is_settled_by_a_person(alice: User, root: User) -> None:
    order = paid_order(alice, priced_plan(30))
    refund = services.refund_order(order_id=order.pk, reason="asked for", actor=root)
    caller = Caller(root)
    assert refusal(caller.post("order/refund_settle", refund=refund.number, reference="bank 9")) == (
        409,
        "not_by_hand",
    )
    Refund.objects.filter(pk=refund.pk).update(state=Refund.State.BY_HAND)
    [listed] = caller.get("payment/refunds", state="by_hand")[1]["items"]
    assert (listed["number"], listed["order"], listed["reason"]) == (refund.number, order.number, "asked for")
    for _time in range(2):
        status, answer = caller.post("order/refund_settle", refund=refund.number, reference="bank 9")
        assert (status, answer["refund"]["state"], answer["refund"]["reference"]) == (200, "done", "bank 9")
    status, answer = caller.post("order/refund_settle", refund=refund.number, reference="bank 10")
    assert (status, answer["error"]["code"]) == (409, "already_decided")
    assert "bank 9" in answer["error"]["message"]
    assert refusal(caller.post("order/refund_settle", refund="X", reference="bank 9")) == (404, "not_found")


def test_staff_delivers_again_and_nothing_comes_twice(alice: User, root: User) -> None:
    order = paid_order(alice, priced_plan(30))
    for _time in range(2):
        status, answer = Caller(root).post("order/deliver", number=order.number)
        assert (status, answer["order"]["state"], answer["order"]["codes"]) == (200, "fulfilled", None)
    assert SerialNumber.objects.count() == 1


def test_held_money_is_listed_and_accepted(alice: User, root: User) -> None:
    transfer = held_money(alice, priced_plan(30), amount=1980)
    caller = Caller(root)
    [listed] = caller.get("payment/held")[1]["items"]
    assert (listed["transfer_id"], listed["amount"], listed["problem"]) == (transfer.pk, "19.80", "partial")
    assert listed["order"] == Order.objects.get().number
    for _time in range(2):
        status, answer = caller.post("payment/accept", transfer_id=transfer.pk, reason="close enough")
        assert (status, answer["order"]["state"], answer["order"]["received"]) == (200, "paid", "19.80")
    assert caller.get("payment/held")[1]["total"] == 0


def test_held_money_is_given_back_once(alice: User, root: User) -> None:
    transfer = held_money(alice, priced_plan(30), currency="USD")
    caller = Caller(root)
    assert refusal(caller.post("payment/accept", transfer_id=transfer.pk, reason="x")) == (409, "not_acceptable")
    status, answer = caller.post("payment/return", transfer_id=transfer.pk, reason="other currency")
    assert (status, answer["refund"]["currency"], answer["refund"]["amount"]) == (200, "USD", "19.90")
    again = caller.post("payment/return", transfer_id=transfer.pk, reason="other currency")
    assert refusal(again) == (409, "not_refundable")
    assert refusal(caller.post("payment/return", transfer_id=10**6, reason="x")) == (404, "not_found")
    assert said_about(caller.post("payment/return", transfer_id=transfer.pk))["reason"]


def test_a_customers_token_with_every_scope_does_none_of_staffs_work(alice: User) -> None:
    order = order_of(alice, priced_plan(30))
    for operation in ("confirm", "refund", "deliver", "refund_settle"):
        answer = Caller(alice).post(f"order/{operation}", number=order.number)
        assert refusal(answer) == (403, "missing_scope")
    secret = issue_token(user=alice, name="t", scopes=["orders"], actor=alice)[1]
    held = Client().get("/api/payment/held", headers={"Authorization": f"Bearer {secret}"})
    assert held.status_code == 403
