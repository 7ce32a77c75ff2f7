"""The API of resellers: what a reseller's program does, what staff's does, and what neither may."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import ApiToken, AuditEntry, User
from accounts.services import issue_token
from accounts.services.tokens import log_in
from billing import services as billing
from billing.models import Order, Refund, SoldSerial, WholesalePrice
from billing.services.ledger import today
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet.models import AclLog
from resellers import services
from resellers.models import (
    Attribution,
    CommissionLine,
    Level,
    LinkDay,
    Resale,
    Reseller,
    Settlement,
    Suspicion,
)
from serials.codes import grouped
from serials.models import Plan, SerialNumber
from tests.api_client import Caller, make_server
from tests.billing.test_api_orders import refusal, said_about
from tests.billing.till import begin, call, priced_plan
from tests.conftest import PASSWORD, make_user
from tests.resellers.desk import ACCOUNT, Trade, buy_serials, everything, put_in_trade, suspect
from tests.resellers.trade import customer_of, make_level, make_reseller, sale
from tests.serials.shop import START

pytestmark = pytest.mark.django_db


@pytest.fixture
def plan(db: None) -> Plan:
    """A plan of thirty days for ¥100."""
    make_server()
    return priced_plan(30, 10_000)


@pytest.fixture
def ritas(rita: User, plan: Plan) -> Trade:
    """All that rita has."""
    return put_in_trade(rita, plan)


def done(answer: tuple[int, Any]) -> Any:
    status, body = answer
    assert status == 200, body
    return body


# --- the scope ---------------------------------------------------------------------------------------


def test_only_resellers_and_administrators_get_the_scope(alice: User, rita: User, root: User) -> None:
    for user in (rita, root):
        token, _secret = issue_token(user=user, name="x", scopes=["reseller"], actor=user)
        assert token.scopes == ["reseller"]
    with pytest.raises(PortalError) as refused:
        issue_token(user=alice, name="x", scopes=["reseller"], actor=alice)
    assert (refused.value.code, refused.value.status) == ("invalid_scope", 403)


def test_the_login_gives_the_scope_and_the_page_offers_it_to_those_who_may(alice: User, rita: User, rf: Any) -> None:
    for user, expected in ((alice, False), (rita, True)):
        token, _secret = log_in(request=rf.post("/"), login=user.username, password=PASSWORD)
        assert (ApiToken.Scope.RESELLER in token.scopes) is expected
        browser = Client()
        browser.force_login(user)
        assert ('value="reseller"' in browser.get(reverse("token_create")).content.decode()) is expected


def test_a_token_of_who_is_no_reseller_any_more_opens_nothing(ritas: Trade, root: User) -> None:
    caller = Caller(ritas.reseller.user)
    done(caller.get("reseller/stock"))
    services.suspend(reseller_id=ritas.reseller.pk, reason="spam", actor=root)
    assert refusal(caller.get("reseller/stock")) == (403, "missing_scope")
    # What their state is they may know.
    shown = done(caller.get("reseller/me"))["reseller"]
    assert (shown["state"], shown["decision_reason"]) == ("suspended", "spam")


def test_a_reseller_by_role_alone_finds_nothing(rita: User) -> None:
    for path in ("me", "stock", "customers", "commissions", "settlements", "sales", "prices", "commission"):
        assert refusal(Caller(rita).get(f"reseller/{path}")) == (404, "not_found")


# --- becoming one ------------------------------------------------------------------------------------


def test_one_applies_and_is_approved_and_can_log_in_for_more(alice: User, root: User) -> None:
    make_level()
    Level.objects.filter(code="standard").update(is_default=True)
    caller = Caller(alice)
    assert refusal(caller.get("reseller/me")) == (404, "not_found")
    answer = done(caller.post("reseller/apply", application="In my shop.", code="Harbin", accepts_terms=True))
    assert (answer["reseller"]["code"], answer["reseller"]["state"]) == ("harbin", "applied")
    assert done(caller.get("reseller/me"))["reseller"]["state"] == "applied"
    assert refusal(caller.get("reseller/stock")) == (403, "missing_scope")
    [listed] = done(Caller(root).get("reseller/list", state="applied"))["items"]
    assert (listed["username"], listed["application"]) == ("alice", "In my shop.")
    decided = done(Caller(root).post("reseller/decide", reseller_id=listed["id"], decision="approve"))
    assert decided["reseller"]["state"] == "active"
    alice.refresh_from_db()
    assert done(Caller(alice).get("reseller/stock"))["items"] == []


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({}, (422, "terms_needed")),
        ({"accepts_terms": True, "code": "no spaces"}, (422, "link_invalid")),
        ({"accepts_terms": True, "code": "link-rita"}, (409, "link_taken")),
        ({"accepts_terms": True, "application": "x" * 4001}, (422, "invalid_input")),
    ],
)
def test_an_application_that_cannot_be_is_refused(
    ritas: Trade, alice: User, sent: dict[str, Any], expected: tuple[int, str]
) -> None:
    Level.objects.filter(code="standard").update(is_default=True)
    assert refusal(Caller(alice).post("reseller/apply", **sent)) == expected
    assert not Reseller.objects.filter(user=alice).exists()


# --- oneself -----------------------------------------------------------------------------------------


def test_me_adds_up(rita: User, root: User) -> None:
    reseller = make_reseller(rita, make_level(hold_days=0))
    with time_machine.travel(START, tick=False) as clock:
        plan, customer = priced_plan(30, 10_000), customer_of(reseller)
        LinkDay.objects.create(reseller=reseller, day=today(), clicks=7)
        sale(customer, plan)
        services.accrue()
        clock.shift(timedelta(days=31))
        services.run_months()
        settlement = Settlement.objects.get()
        services.approve_settlement(settlement_id=settlement.pk, actor=root)
        services.pay_settlement(settlement_id=settlement.pk, reference="bank 7", actor=root)
        sale(customer, plan)
        services.accrue()
        Level.objects.update(hold_days=30)
        sale(customer, plan)
        services.accrue()
        top_up = services.top_up(reseller=reseller, amount=5000, currency="CNY")
        call(begin(top_up))
        shown = done(Caller(rita).get("reseller/me"))["reseller"]
    assert shown["link"].endswith("/r/link-rita/")
    assert shown["balance"] == [{"currency": "CNY", "amount": "50.00", "amount_minor": 5000}]
    totals = shown["totals"]
    assert (totals["clicks"], totals["customers"], totals["paying_customers"]) == (7, 1, 1)
    [cny] = totals["commission"]
    assert (cny["month"], cny["held"], cny["open"], cny["paid"]) == ("30.00", "15.00", "15.00", "15.00")
    lines = sum(CommissionLine.objects.values_list("amount", flat=True))
    assert cny["held_minor"] + cny["open_minor"] + cny["paid_minor"] == lines


def test_customers_are_masked_and_say_what_they_brought(ritas: Trade) -> None:
    body = done(Caller(ritas.reseller.user).get("reseller/customers"))
    [shown] = body["items"]
    assert shown["customer"] == "cu***@e***.com"
    assert (shown["orders"], shown["commission"][0]["amount"]) == (2, "10.00")
    assert ritas.customer.email not in str(body)
    assert ritas.customer.username not in str(body)


def test_commissions_are_narrowed_and_add_up_by_month(ritas: Trade, root: User) -> None:
    caller = Caller(ritas.reseller.user)
    line = CommissionLine.objects.get()
    month = f"{line.settle_month:%Y-%m}"
    for query, count in [({}, 1), ({"month": month}, 1), ({"month": "2001-01"}, 0), ({"kind": "reversed"}, 0)]:
        assert done(caller.get("reseller/commissions", **query))["total"] == count
    [shown] = done(caller.get("reseller/commissions"))["items"]
    assert (shown["base"], shown["amount"], shown["amount_minor"]) == ("100.00", "10.00", 1000)
    assert said_about(caller.get("reseller/commissions", month="May"))["month"]
    [months] = done(caller.get("reseller/commission"))["months"]
    assert (months["month"], months["earned"], months["orders"], months["state"]) == (month, "10.00", 1, "open")
    assert months["settlement_id"] == ritas.settlement.pk
    asked = done(Caller(root).get("reseller/commission", reseller_id=ritas.reseller.pk))
    assert (asked["reseller"], asked["months"]) == ("link-rita", [months])


def test_settlements_are_ones_own_and_everybodys_for_staff(ritas: Trade, bob: User, plan: Plan, root: User) -> None:
    bobs = put_in_trade(bob, plan)
    own = done(Caller(ritas.reseller.user).get("reseller/settlements"))
    assert [one["id"] for one in own["items"]] == [ritas.settlement.pk]
    everybodys = done(Caller(root).get("reseller/settlements", state="open"))
    assert {one["reseller"] for one in everybodys["items"]} == {"link-rita", "link-bob"}
    only = done(Caller(root).get("reseller/settlements", reseller_id=bobs.reseller.pk))
    assert [one["id"] for one in only["items"]] == [bobs.settlement.pk]
    shown = done(Caller(ritas.reseller.user).get(f"reseller/settlement/{ritas.settlement.pk}"))["settlement"]
    assert (shown["month"], shown["payable"], shown["payable_minor"]) == (
        f"{ritas.settlement.month:%Y-%m}",
        "10.00",
        1000,
    )


# --- wholesale ---------------------------------------------------------------------------------------


def test_prices_are_those_of_the_level(ritas: Trade, plan: Plan) -> None:
    WholesalePrice.objects.create(plan=plan, level="standard", from_quantity=10, amount=800)
    WholesalePrice.objects.create(plan=plan, level="gold", from_quantity=10, amount=600)
    WholesalePrice.objects.create(plan=plan, from_quantity=50, amount=700)
    billing.set_wholesale_level(user_id=ritas.reseller.user_id, level="standard")
    [shown] = done(Caller(ritas.reseller.user).get("reseller/prices"))["items"]
    assert shown["plan"] == plan.code
    assert [(tier["from_quantity"], tier["amount"]) for tier in shown["tiers"]] == [(1, "10.00"), (10, "8.00")]
    assert done(Caller(ritas.reseller.user).get("reseller/prices", currency="EUR"))["items"] == []


def test_stock_is_bought_once_for_one_key(ritas: Trade, plan: Plan) -> None:
    caller, wanted = Caller(ritas.reseller.user), {"plan": plan.code, "quantity": 5, "client_key": "may"}
    answers = [done(caller.post("reseller/buy", **wanted))["order"] for _time in range(2)]
    assert answers[0] == answers[1]
    assert (answers[0]["state"], answers[0]["total"]) == ("pending", "50.00")
    assert refusal(caller.post("reseller/buy", **{**wanted, "quantity": 6})) == (409, "key_taken")
    headers = {**caller.headers, "Idempotency-Key": "june"}
    other = Client().post("/api/reseller/buy", wanted, "application/json", headers=headers)
    assert other.json()["error"]["code"] == "invalid_input"
    del wanted["client_key"]
    made = Client().post("/api/reseller/buy", wanted, "application/json", headers=headers).json()["order"]
    assert made["client_key"] == "june"


def test_stock_is_paid_from_the_balance_or_nothing_is_ordered(ritas: Trade, plan: Plan) -> None:
    seller, caller = ritas.reseller, Caller(ritas.reseller.user)
    wanted = {"plan": plan.code, "quantity": 5, "from_balance": True}
    before = Order.objects.count()
    assert refusal(caller.post("reseller/buy", **wanted)) == (409, "balance_too_small")
    assert Order.objects.count() == before
    call(begin(services.top_up(reseller=seller, amount=6000, currency="CNY")))
    bought = done(caller.post("reseller/buy", **wanted, client_key="may"))["order"]
    assert (bought["state"], bought["received"]) == ("paid", "50.00")
    assert done(caller.post("reseller/buy", **wanted, client_key="may"))["order"]["number"] == bought["number"]
    assert billing.balance_of(seller.user, "CNY") == 1000
    billing.deliver(order_id=Order.objects.get(number=bought["number"]).pk)
    assert done(caller.get("reseller/stock", q=bought["number"]))["total"] == 5


def test_a_key_of_another_order_pays_nothing_from_the_balance(ritas: Trade, plan: Plan) -> None:
    seller, caller = ritas.reseller, Caller(ritas.reseller.user)
    call(begin(services.top_up(reseller=seller, amount=9000, currency="CNY")))
    done(caller.post("reseller/buy", plan=plan.code, quantity=3, client_key="may"))
    before = everything()
    wanted = {"plan": plan.code, "quantity": 5, "client_key": "may", "from_balance": True}
    assert refusal(caller.post("reseller/buy", **wanted)) == (409, "key_taken")
    assert everything() == before


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"plan": "nosuch"}, (409, "not_on_sale")),
        ({"currency": "EUR"}, (409, "no_wholesale_price")),
        ({"quantity": 0}, (422, "invalid_input")),
        ({"quantity": 10_001}, (422, "invalid_input")),
    ],
)
def test_what_cannot_be_bought_is_refused(
    ritas: Trade, plan: Plan, sent: dict[str, Any], expected: tuple[int, str]
) -> None:
    wanted = {"plan": plan.code, "quantity": 5, **sent}
    assert refusal(Caller(ritas.reseller.user).post("reseller/buy", **wanted)) == expected


def test_the_stock_is_listed_and_narrowed(ritas: Trade, plan: Plan) -> None:
    caller = Caller(ritas.reseller.user)
    body = done(caller.get("reseller/stock"))
    assert [one["code"] for one in body["items"]] == [grouped(code) for code in reversed(ritas.codes)]
    used, sold, free = body["items"]
    assert (free["status"], free["is_recallable"], free["sale"], free["cost"]) == ("unused", True, None, "10.00")
    assert (sold["is_recallable"], sold["sale"]["price"], sold["sale"]["margin"]) == (False, "15.00", "5.00")
    assert (used["status"], used["is_recallable"]) == ("used", False)
    code = ritas.codes[0]
    found = {
        "status=unused": {"status": "unused"},
        "plan": {"plan": plan.code},
        "other plan": {"plan": "other"},
        "code": {"q": grouped(code)},
        "beginning": {"q": code[:8]},
        "end": {"q": code[-8:]},
        "customer": {"q": "walk-in of"},
        "nothing": {"q": "–"},
    }
    assert {name: done(caller.get("reseller/stock", **query))["total"] for name, query in found.items()} == {
        "status=unused": 2,
        "plan": 3,
        "other plan": 0,
        "code": 1,
        "beginning": 1,
        "end": 1,
        "customer": 1,
        "nothing": 0,
    }
    assert said_about(caller.get("reseller/stock", status="eaten"))["status"]


def test_a_serial_of_ones_own_says_what_became_of_it(ritas: Trade, root: User) -> None:
    caller, used = Caller(ritas.reseller.user), grouped(ritas.codes[2])
    assert done(caller.get("reseller/serial", code=ritas.codes[0]))["serial"]["lease"] is None
    relay = ritas.lease.relay_group.relays.first()
    assert relay is not None
    AclLog.objects.create(
        key="7d444840-9dc0-11d1-b245-5ffdce74fad2",
        user=ritas.tenant,
        relay=relay,
        node_key="nodekey:" + "a" * 64,
        acl_version=1,
        is_allowed=False,
        reason="not_listed",
        created_at=now(),
    )
    body = done(caller.get("reseller/serial", code=used.lower()))["serial"]
    assert (body["status"], body["lease"]["status"]) == ("used", "active")
    assert body["lease"]["last_refusal"]["reason"] == "not_listed"
    assert [one["status"] for one in body["lease"]["relays"]] == ["starting"]
    # Nothing by which the person could be found.
    assert ritas.tenant.username not in str(body)
    assert relay.code not in str(body)
    services.reassign_lease(lease_id=ritas.lease.pk, reseller=None, reason="asked to", actor=root)
    assert done(caller.get("reseller/serial", code=used))["serial"]["lease"] is None


@pytest.mark.parametrize("code", ["nonsense", "", "0000-0000-0000-0000-0000-0000"])
def test_a_serial_that_is_not_of_ones_stock_is_not_there(ritas: Trade, code: str) -> None:
    assert refusal(Caller(ritas.reseller.user).get("reseller/serial", code=code)) == (404, "not_found")


def test_what_is_not_sold_is_given_back_all_or_none(ritas: Trade) -> None:
    caller = Caller(ritas.reseller.user)
    before = everything()
    assert refusal(caller.post("reseller/recall", codes=ritas.codes[:2])) == (409, "not_recallable")
    assert refusal(caller.post("reseller/recall", codes=[ritas.codes[0], "X"])) == (404, "not_your_stock")
    assert "codes" in said_about(caller.post("reseller/recall", codes=[]))
    assert everything() == before
    body = done(caller.post("reseller/recall", codes=[grouped(ritas.codes[0])] * 2))
    assert (body["recalled"], [one["amount"] for one in body["refunds"]]) == (1, ["10.00"])
    assert Refund.objects.get(kind=Refund.Kind.ORDER).amount == 1000
    assert SerialNumber.objects.get(code=ritas.codes[0]).status == "revoked"
    assert done(caller.get("reseller/serial", code=ritas.codes[0]))["serial"]["taken_back_at"]


def test_one_sale_or_many_are_written_down(ritas: Trade) -> None:
    caller = Caller(ritas.reseller.user)
    one = {"code": ritas.codes[0], "price": 25, "customer": "Mr Wang", "sold_on": "2026-01-05", "note": "by phone"}
    assert done(caller.post("reseller/sales", **one))["recorded"] == 1
    assert done(caller.post("reseller/sales", sales=[one, {"code": ritas.codes[2], "price": "30.5"}]))["recorded"] == 2
    resale = Resale.objects.get(sold__serial__code=ritas.codes[0])
    assert (resale.price, resale.customer, resale.sold_on, resale.note) == (
        2500,
        "Mr Wang",
        date(2026, 1, 5),
        "by phone",
    )
    body = done(caller.get("reseller/sales"))
    assert {one["price"] for one in body["items"]} == {"15.00", "25.00", "30.50"}
    assert {one["margin_minor"] for one in body["items"]} == {500, 1500, 2050}
    [january] = done(caller.get("reseller/sales", month="2026-01"))["months"]
    assert said_about(caller.get("reseller/sales", month="9999-12"))["month"]
    assert (january["revenue"], january["cost"], january["margin"]) == ("25.00", "10.00", "15.00")
    found = [done(caller.get("reseller/sales", q=text))["total"] for text in ("wang", ritas.codes[0][:6], "nobody")]
    assert found == [1, 1, 0]


def test_a_sale_is_removed_and_twice_is_fine(ritas: Trade) -> None:
    caller, sent = Caller(ritas.reseller.user), {"code": ritas.codes[1].lower()}
    assert done(caller.post("reseller/sale/remove", **sent))["removed"] is True
    assert done(caller.post("reseller/sale/remove", **sent))["removed"] is False
    assert done(caller.get("reseller/sales"))["items"] == []
    assert done(caller.get("reseller/serial", code=ritas.codes[1]))["serial"]["is_recallable"]
    assert refusal(caller.post("reseller/sale/remove", code="0000")) == (404, "not_your_stock")


def test_what_was_bought_in_another_currency_has_no_margin(ritas: Trade) -> None:
    caller = Caller(ritas.reseller.user)
    done(caller.post("reseller/sales", code=ritas.codes[0], price="4", currency="USD", sold_on="2026-01-05"))
    [sold] = done(caller.get("reseller/sales", month="2026-01"))["items"]
    assert (sold["currency"], sold["cost_currency"], sold["margin"]) == ("USD", "CNY", None)


@pytest.mark.parametrize(
    ("sale_of", "field"),
    [
        ({"price": "cheap"}, "sales.0.price"),
        ({"price": "-1"}, "sales.0.price"),
        ({"price": "1.005"}, "sales.0.price"),
        ({}, "sales.0.price"),
        ({"price": "1", "currency": "BTC"}, "sales.0.currency"),
        ({"price": "1", "sold_on": "May"}, "sales.0.sold_on"),
    ],
)
def test_a_sale_that_makes_no_sense_is_refused_beside_its_field(
    ritas: Trade, sale_of: dict[str, Any], field: str
) -> None:
    caller, before = Caller(ritas.reseller.user), everything()
    for sent in ({"code": ritas.codes[0], **sale_of}, {"sales": [{"code": ritas.codes[0], **sale_of}]}):
        assert field in said_about(caller.post("reseller/sales", **sent))
    assert "sales" in said_about(caller.post("reseller/sales", sales=[]))
    assert "sales" in said_about(caller.post("reseller/sales"))
    assert everything() == before


def test_sales_of_what_is_not_in_the_stock_are_refused_and_none_is_written(ritas: Trade) -> None:
    before = everything()
    sales = [{"code": ritas.codes[0], "price": "25"}, {"code": "0000", "price": "25"}]
    assert refusal(Caller(ritas.reseller.user).post("reseller/sales", sales=sales)) == (404, "not_your_stock")
    to_come = {"code": ritas.codes[0], "price": "25", "sold_on": "2999-01-01"}
    assert refusal(Caller(ritas.reseller.user).post("reseller/sales", **to_come)) == (422, "day_to_come")
    assert everything() == before


# --- staff -------------------------------------------------------------------------------------------


def test_staff_reject_suspend_and_change_the_level(ritas: Trade, root: User, alice: User) -> None:
    caller = Caller(root)
    make_level("gold", 2500)
    applied = Reseller.objects.create(user=alice, code="alices", level=ritas.reseller.level)
    decide = {"reseller_id": applied.pk, "decision": "reject"}
    assert refusal(caller.post("reseller/decide", **decide)) == (400, "reason_needed")
    assert done(caller.post("reseller/decide", **decide, reason="no shop"))["reseller"]["state"] == "rejected"
    ours = {"reseller_id": ritas.reseller.pk}
    answer = done(caller.post("reseller/decide", **ours, decision="approve", level="gold"))
    assert answer["reseller"]["level"] == "gold"
    assert refusal(caller.post("reseller/decide", **ours, decision="approve", level="nosuch"))[0] == 404
    assert refusal(caller.post("reseller/decide", **ours, decision="reject", reason="x")) == (409, "already_decided")
    assert done(caller.post("reseller/decide", **ours, decision="suspend", reason="x"))["reseller"]["state"] == (
        "suspended"
    )
    assert refusal(caller.post("reseller/decide", reseller_id=10**6, decision="approve")) == (404, "not_found")
    assert said_about(caller.post("reseller/decide", **ours, decision="promote"))["decision"]


def test_bank_details_are_in_no_answer(ritas: Trade, root: User) -> None:
    for caller in (Caller(root), Caller(ritas.reseller.user)):
        for path in ("list", "me", "settlements", f"settlement/{ritas.settlement.pk}", "commission", "suspicions"):
            _status, body = caller.get(f"reseller/{path}")
            assert "1234" not in str(body)
            assert ACCOUNT not in str(body)


def test_staff_run_a_month(rita: User, root: User) -> None:
    reseller = make_reseller(rita, make_level())
    with time_machine.travel(START, tick=False) as clock:
        caller = Caller(root)
        sale(customer_of(reseller), priced_plan(30, 10_000))
        services.accrue()
        assert refusal(caller.post("reseller/run", month="2027-01")) == (409, "month_not_over")
        assert said_about(caller.post("reseller/run", month="May"))["month"]
        clock.shift(timedelta(days=20))
        caller = Caller(root)
        assert [done(caller.post("reseller/run", month="2027-01"))["made"] for _time in range(2)] == [1, 0]
        assert done(caller.post("reseller/run"))["made"] == 0
    entry = AuditEntry.objects.filter(event="settlements.run").order_by("id")[0]
    assert (entry.actor_label, entry.data) == ("root", {"count": 1, "month": "2027-01"})


def test_staff_approve_and_pay_a_settlement(ritas: Trade, root: User) -> None:
    caller, ours = Caller(root), {"settlement_id": ritas.settlement.pk}
    assert refusal(caller.post("reseller/settlement/decide", **ours, decision="pay", reference="7")) == (
        409,
        "not_approved",
    )
    for _time in range(2):
        shown = done(caller.post("reseller/settlement/decide", **ours, decision="approve"))["settlement"]
        assert shown["state"] == "approved"
    assert refusal(caller.post("reseller/settlement/decide", **ours, decision="pay")) == (400, "reason_needed")
    for _time in range(2):
        paid = done(caller.post("reseller/settlement/decide", **ours, decision="pay", reference="bank 7"))["settlement"]
        assert (paid["state"], paid["reference"]) == ("paid", "bank 7")
    assert refusal(caller.post("reseller/settlement/decide", **ours, decision="reject", reason="x"))[0] == 409
    assert refusal(caller.post("reseller/settlement/decide", settlement_id=10**6, decision="approve"))[0] == 404


def test_staff_reject_a_settlement_and_the_reseller_reads_why(ritas: Trade, root: User) -> None:
    sent = {"settlement_id": ritas.settlement.pk, "decision": "reject"}
    assert refusal(Caller(root).post("reseller/settlement/decide", **sent)) == (400, "reason_needed")
    done(Caller(root).post("reseller/settlement/decide", **sent, reason="the account is closed"))
    [shown] = done(Caller(ritas.reseller.user).get("reseller/settlements"))["items"]
    assert (shown["state"], shown["reason"]) == ("rejected", "the account is closed")


def test_staff_decide_suspicions(ritas: Trade, plan: Plan, root: User) -> None:
    second = suspect(ritas.reseller, ritas.customer, plan)
    caller = Caller(root)
    listed = done(caller.get("reseller/suspicions", state="open"))["items"]
    assert [one["id"] for one in listed] == [second.pk, ritas.suspicion.pk]
    assert listed[0]["signals"] == ["same_address", "circle"]
    first = {"suspicion_id": ritas.suspicion.pk}
    assert refusal(caller.post("reseller/suspicion/decide", **first, decision="clear", reason=" ")) == (
        400,
        "reason_needed",
    )
    for _time in range(2):
        done(caller.post("reseller/suspicion/decide", **first, decision="clear", reason="a namesake"))
    done(caller.post("reseller/suspicion/decide", suspicion_id=second.pk, decision="confirm", reason="own"))
    assert refusal(caller.post("reseller/suspicion/decide", **first, decision="confirm", reason="x")) == (
        409,
        "already_decided",
    )
    assert dict(Suspicion.objects.values_list("pk", "state")) == {
        ritas.suspicion.pk: "cleared",
        second.pk: "confirmed",
    }
    earned = CommissionLine.objects.filter(order__in=[ritas.suspicion.order_id, second.order_id]).order_by("order_id")
    assert list(earned.values_list("amount", flat=True)) == [1500, 0]


def test_staff_say_whose_customer_somebody_is(ritas: Trade, bob: User, root: User) -> None:
    other, caller = make_reseller(bob, ritas.reseller.level), Caller(root)
    ours = {"user_id": ritas.customer.pk, "reason": "she called"}
    shown = done(caller.post("reseller/assign", **ours, reseller_code="LINK-BOB"))["attribution"]
    assert (shown["reseller_code"], bool(shown["since"])) == ("link-bob", True)
    assert Attribution.objects.get(user=ritas.customer, until=None).reseller == other
    assert done(caller.post("reseller/assign", **ours, reseller_code=None))["attribution"]["since"] is None
    assert not Attribution.objects.filter(user=ritas.customer, until=None).exists()
    # Nobody is meant only when it is said.
    assert said_about(caller.post("reseller/assign", **ours))["reseller_code"]
    assert refusal(caller.post("reseller/assign", **ours, reseller_code="nosuch")) == (404, "not_found")
    own = {"user_id": bob.pk, "reseller_code": "link-bob", "reason": "x"}
    assert refusal(caller.post("reseller/assign", **own)) == (409, "own_customer")
    Reseller.objects.filter(pk=other.pk).update(state=Reseller.State.SUSPENDED)
    assert refusal(caller.post("reseller/assign", **ours, reseller_code="link-bob")) == (404, "not_found")


def test_lists_take_the_same_number_of_queries_however_long_they_are(ritas: Trade, plan: Plan, root: User) -> None:
    seller = ritas.reseller

    def count(caller: Caller, path: str) -> int:
        with CaptureQueriesContext(
            connection,
        ) as queries:
            done(caller.get(f"reseller/{path}"))
        return len(queries)

    own = ("customers", "commissions", "commission", "settlements", "stock", "sales", "prices", "me")
    readers = [(Caller(seller.user), path) for path in own]
    readers += [(Caller(root), path) for path in ("list", "settlements", "suspicions")]
    for caller, path in readers:
        caller.get(f"reseller/{path}")
    before = [count(caller, path) for caller, path in readers]
    for number in range(3):
        other = priced_plan(31 + number, 10_000)
        [serial] = buy_serials(seller, other, 1)
        Resale.objects.create(
            sold=SoldSerial.objects.get(serial=serial), price=1500, currency="CNY", sold_on=date(2026, number + 1, 1)
        )
        sale(customer_of(seller, f"guest{number}"), other)
        Settlement.objects.create(
            reseller=seller, month=date(2026, number + 1, 1), currency="CNY", amount=5, payable=5, state="open"
        )
        Reseller.objects.create(user=make_user(f"wish{number}"), code=f"wish{number}", level=seller.level)
    services.accrue()
    assert [count(caller, path) for caller, path in readers] == before
