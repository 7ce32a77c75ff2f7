"""What outside shops fetch: one code for one order, for ever the same; and what no shop gets to see."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError
from django.http import HttpResponse
from django.test import Client

from accounts.models import User
from billing import services
from billing.api import shops as shops_api
from billing.models import Account, Order, Posting, SalesChannel, SoldSerial
from billing.services import channels
from derp_portal.lib.clock import now
from serials import services as serials
from serials.codes import canonical
from serials.models import Lease, Plan, SerialNumber
from tests.api_client import Caller, make_server
from tests.billing.test_money_races import SURELY, meet_after
from tests.billing.till import balance, priced_plan
from tests.conftest import make_user
from tests.serials.shop import at_once, make_plan


class Shop:
    """An outside shop with its token. Answers are as they came, to the letter."""

    def __init__(self, code: str = "taobao", plans: list[Plan] | None = None, **fields: Any) -> None:
        self.channel = SalesChannel.objects.create(code=code, name=code.title(), **fields)
        self.channel.plans.set(plans or [])
        actor = User.objects.filter(username="root").first() or make_user("root", role="admin", is_superuser=True)
        self.secret = services.issue_channel_token(channel_id=self.channel.pk, actor=actor)[1]

    @property
    def headers(self) -> dict[str, str]:
        return {"Accept-Language": "en", "Authorization": f"Bearer {self.secret}"}

    def stock(self, plan: Plan, count: int = 1, **fields: Any) -> None:
        batch = serials.generate(count=count, plan=plan, actor=None, **fields)
        services.add_stock(channel_id=self.channel.pk, batch=batch, actor=None)

    def post(self, operation: str, **data: Any) -> HttpResponse:
        answer = Client().post(f"/api/serial/{operation}", data, "application/json", headers=self.headers)
        assert isinstance(answer, HttpResponse)
        return answer

    def pick_up(self, order_no: object = "A-1", **data: Any) -> HttpResponse:
        return self.post("pickup", order_no=order_no, **data)

    def code_of(self, order_no: object = "A-1", **data: Any) -> str:
        answer = self.pick_up(order_no, **data)
        assert answer.status_code == 200, answer.content
        code: str = said(answer)["code"]
        return code


def said(answer: Any) -> Any:
    return answer.json()


def refusal(answer: Any) -> tuple[int, str]:
    body = answer.json()
    assert body["success"] is False
    assert body["error"]["message"]
    return answer.status_code, body["error"]["code"]


@pytest.fixture
def plan(db: None) -> Plan:
    """Thirty days for 19.90."""
    return priced_plan(30)


@pytest.fixture
def shop(root: User, plan: Plan) -> Shop:
    """A shop of one plan, with three codes."""
    made = Shop(plans=[plan])
    made.stock(plan, 3)
    return made


# --- picking up -------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_pickup_answers_one_code_and_every_retry_the_same_bytes(shop: Shop, plan: Plan, alice: User) -> None:
    first = shop.pick_up("A-1", amount="25.00")
    assert first.status_code == 200
    code = said(first)["code"]
    assert said(first) == {
        "success": True,
        "code": code,
        "order_no": "A-1",
        "plan": plan.code,
        "duration_days": 30,
    }
    retries = [
        shop.pick_up("A-1"),
        shop.pick_up(" A-1 ", amount=99, currency="USD"),
        shop.pick_up("A-1", plan=plan.code),
    ]
    # Nothing that happens to the code or the plan later makes another answer.
    serials.activate(user=alice, code=code)
    retries.append(shop.pick_up("A-1"))
    Plan.objects.filter(pk=plan.pk).update(code="renamed", days=31)
    retries += [shop.pick_up("A-1"), shop.pick_up("A-1", plan=said(first)["plan"]), shop.pick_up("A-1", plan="renamed")]
    assert {answer.content for answer in retries} == {first.content}
    assert SoldSerial.objects.count() == 1
    order = Order.objects.get()
    assert (order.state, order.total, order.currency, order.user) == (Order.State.FULFILLED, 2500, "CNY", None)


@pytest.mark.django_db
def test_every_order_gets_a_code_of_its_own(shop: Shop) -> None:
    codes = [shop.code_of(number) for number in ("A-1", "A-2", "a-1")]
    assert len(set(codes)) == 3
    assert {canonical(code) for code in codes} == set(SerialNumber.objects.values_list("code", flat=True))


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("sent", "booked"),
    [({"amount": "25.5"}, 2550), ({"amount": 25.5}, 2550), ({"amount": 0}, 0), ({}, 1990), ({"amount": None}, 1990)],
)
def test_what_the_shop_took_is_booked_and_else_our_own_price(shop: Shop, sent: dict[str, Any], booked: int) -> None:
    SalesChannel.objects.update(fee_basis_points=1000)
    shop.code_of(**sent)
    assert Order.objects.get().received == booked
    assert balance(Account.REVENUE) == -booked
    assert balance(Account.CASH) == booked - balance(Account.GATEWAY_FEES)
    assert balance(Account.GATEWAY_FEES) == booked // 10


@pytest.mark.django_db
def test_a_shop_of_several_plans_says_which_and_gets_no_other(root: User, plan: Plan) -> None:
    short, foreign = priced_plan(3, 300), priced_plan(5, 450)
    shop = Shop(plans=[plan, short])
    shop.stock(plan)
    shop.stock(short)
    assert refusal(shop.pick_up()) == (422, "plan_needed")
    assert refusal(shop.pick_up(plan=foreign.code)) == (422, "unknown_plan")
    assert refusal(shop.pick_up(plan="nosuch")) == (422, "unknown_plan")
    assert not Order.objects.exists()
    answer = shop.pick_up(plan=short.code)
    assert (said(answer)["plan"], said(answer)["duration_days"]) == (short.code, 3)
    assert refusal(shop.pick_up(plan=plan.code)) == (409, "order_differs")
    assert shop.pick_up().content == answer.content


@pytest.mark.django_db
def test_an_empty_stock_says_when_to_ask_again_and_then_has_a_code(root: User, plan: Plan) -> None:
    shop = Shop(plans=[plan])
    answer = shop.pick_up()
    assert refusal(answer) == (503, "out_of_stock")
    assert (answer["Retry-After"], said(answer)["error"]["retry_after"]) == ("60", 60)
    assert not Order.objects.exists()
    shop.stock(plan)
    assert shop.pick_up().status_code == 200


@pytest.mark.django_db
def test_a_shop_that_may_make_serials_never_runs_out(root: User, plan: Plan) -> None:
    shop = Shop(plans=[plan], makes_serials=True)
    assert len({shop.code_of(f"A-{number}") for number in range(3)}) == 3


@pytest.mark.django_db
def test_what_is_used_withdrawn_or_about_to_expire_is_not_handed_out(root: User, alice: User, plan: Plan) -> None:
    shop = Shop(plans=[plan])
    shop.stock(plan, 3)
    shop.stock(plan, 1, activate_before=now() + timedelta(hours=2))
    used, withdrawn, good = SerialNumber.objects.filter(expires_at=None).order_by("id")
    serials.activate(user=alice, code=used.code)
    serials.revoke_serials(serials=[withdrawn.pk], actor=root)
    assert canonical(shop.code_of("A-1")) == good.code
    assert refusal(shop.pick_up("A-2")) == (503, "out_of_stock")


@pytest.mark.django_db
def test_what_expires_soonest_is_handed_out_first_and_what_never_does_last(root: User, plan: Plan) -> None:
    shop = Shop(plans=[plan])
    for last_day in (None, now() + timedelta(days=90), now() + timedelta(days=30)):
        shop.stock(plan, 1, activate_before=last_day)
    lasting, long, short = SerialNumber.objects.order_by("id")
    assert [canonical(shop.code_of(f"A-{number}")) for number in range(3)] == [short.code, long.code, lasting.code]


@pytest.mark.django_db
@pytest.mark.parametrize("order_no", ["", "   ", "x" * 81, "A\n1", None, 1.5, True, ["A"]])
def test_an_order_number_that_is_none_is_refused_in_words(shop: Shop, order_no: Any) -> None:
    for operation in ("pickup", "refund"):
        answer = shop.post(operation, order_no=order_no)
        assert refusal(answer) == (422, "invalid_input")
        assert [one["field"] for one in said(answer)["error"]["fields"]] == ["order_no"]
    assert not Order.objects.exists()


@pytest.mark.django_db
def test_a_number_may_be_sent_as_a_number(shop: Shop) -> None:
    assert shop.code_of(3141592653589793238) == shop.code_of("3141592653589793238")


@pytest.mark.django_db
@pytest.mark.parametrize("sent", [{"amount": "-1"}, {"amount": "1.999"}, {"amount": "x"}, {"currency": "BTC"}])
def test_money_that_is_none_is_refused_in_words_and_hands_out_nothing(shop: Shop, sent: dict[str, Any]) -> None:
    answer = shop.pick_up(**sent)
    assert refusal(answer) == (422, "invalid_input")
    assert [one["field"] for one in said(answer)["error"]["fields"]] == list(sent)
    assert not Order.objects.exists()


# --- who may ----------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_two_shops_have_orders_of_their_own_and_cannot_reach_the_others(shop: Shop, plan: Plan) -> None:
    other = Shop("xianyu", plans=[plan])
    other.stock(plan)
    mine = shop.code_of("A-1")
    assert refusal(other.post("refund", order_no="A-1")) == (404, "unknown_order")
    assert other.code_of("A-1") != mine
    assert other.post("refund", order_no="A-1").status_code == 200
    # The other shop's refund took back the other shop's code.
    assert shop.code_of("A-1") == mine
    assert SerialNumber.objects.get(code=canonical(mine)).status == SerialNumber.Status.UNUSED
    assert [level["left"] for level in said(Client().get("/api/serial/stock", headers=other.headers))["items"]] == [0]


@pytest.mark.django_db
def test_a_shop_that_is_switched_off_or_has_a_new_token_is_shut_out(shop: Shop, root: User) -> None:
    old = shop.headers
    shop.secret = services.issue_channel_token(channel_id=shop.channel.pk, actor=root)[1]
    assert refusal(Client().get("/api/serial/stock", headers=old)) == (401, "unauthorized")
    assert shop.pick_up().status_code == 200
    SalesChannel.objects.update(is_enabled=False)
    for answer in (shop.pick_up("A-2"), shop.pick_up("A-1"), shop.post("refund", order_no="A-1")):
        assert refusal(answer) == (401, "unauthorized")
    assert SoldSerial.objects.count() == 1


@pytest.mark.django_db
def test_a_shops_token_opens_nothing_else_and_a_persons_token_no_shop(shop: Shop, root: User) -> None:
    for path in ("user/me", "serial/list", "order/list", "payment/methods", "server/list", "finance/statistics"):
        assert refusal(Client().get(f"/api/{path}", headers=shop.headers)) == (401, "unauthorized"), path
    caller = Caller(root)
    for status, answer in (
        caller.post("serial/pickup", order_no="A-1"),
        caller.post("serial/refund", order_no="A-1"),
        caller.get("serial/stock"),
    ):
        assert (status, answer["error"]["code"]) == (401, "unauthorized")


@pytest.mark.django_db
@pytest.mark.usefixtures("clock")
def test_wrong_tokens_are_slowed_down_and_do_not_shut_out_the_shop(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shops_api, "MOST_WRONG_TOKENS", 2)
    wrong = {"Authorization": "Bearer dps_guess"}
    answers = [Client().get("/api/serial/stock", headers=wrong) for _time in range(3)]
    assert [answer.status_code for answer in answers] == [401, 401, 429]
    assert shop.pick_up().status_code == 200


@pytest.mark.django_db
@pytest.mark.usefixtures("clock")
def test_a_shop_that_asks_too_often_waits_and_the_others_do_not(
    shop: Shop, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shops_api, "MOST_CALLS", 2)
    answers = [shop.pick_up() for _time in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2]["Retry-After"]
    other = Shop("xianyu", plans=[plan])
    other.stock(plan)
    assert other.pick_up().status_code == 200


# --- taking back ------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_refund_of_a_code_nobody_used_revokes_it(shop: Shop, alice: User) -> None:
    code = shop.code_of()
    answers = [shop.post("refund", order_no="A-1", reason="buyer asked") for _time in range(2)]
    assert said(answers[0]) == {
        "success": True,
        "order_no": "A-1",
        "status": "revoked",
        "redeemed_by": None,
        "redeemed_at": None,
    }
    assert answers[0].content == answers[1].content
    assert refusal(shop.pick_up()) == (410, "order_refunded")
    _status, answer = Caller(alice).post("serial/activate", code=code)
    assert answer["error"]["code"] == "serial_revoked"
    assert Order.objects.get().state == Order.State.REFUNDED
    assert balance(Account.REVENUE) + balance(Account.REFUNDS) == 0
    # The shop gave the money back itself: nothing is owed to anybody.
    assert balance(Account.REFUNDS_DUE) == 0


@pytest.mark.django_db
def test_a_refund_of_a_redeemed_code_takes_the_days_left_and_says_who_had_it(shop: Shop, alice: User) -> None:
    make_server()
    first = shop.code_of("A-1")
    serials.activate(user=alice, code=shop.code_of("A-2"))
    serial, _lease = serials.activate(user=alice, code=first)
    answers = [shop.post("refund", order_no="A-1") for _time in range(2)]
    shown = said(answers[0])
    assert (shown["status"], shown["redeemed_by"]) == ("days_taken", "alice")
    assert shown["redeemed_at"].startswith(f"{serial.used_at:%Y-%m-%dT%H:%M:%S}")
    assert answers[0].content == answers[1].content
    lease = Lease.objects.get()
    # The other order's thirty days are still there.
    assert timedelta(days=29, hours=23) < lease.ends_at - now() <= timedelta(days=30)
    alice.refresh_from_db()
    assert alice.rental_expiry == lease.ends_at
    shop.post("refund", order_no="A-2")
    assert Lease.objects.get().status == Lease.Status.ENDED


@pytest.mark.django_db
def test_a_refund_of_what_was_free_takes_it_back_too(shop: Shop) -> None:
    shop.code_of(amount=0)
    assert [said(shop.post("refund", order_no="A-1"))["status"] for _time in range(2)] == ["revoked", "revoked"]
    assert not Posting.objects.exists()


@pytest.mark.django_db
def test_an_order_nobody_picked_up_cannot_be_refunded(shop: Shop) -> None:
    assert refusal(shop.post("refund", order_no="A-1")) == (404, "unknown_order")


# --- stock ------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_stock_says_what_is_left_of_each_plan_and_what_is_low(root: User, plan: Plan) -> None:
    short = priced_plan(3, 300)
    shop = Shop(plans=[plan, short], low_stock=2)
    shop.stock(plan, 3)
    Shop("xianyu", plans=[plan]).stock(plan, 5)
    levels = {one["plan"]: one for one in said(Client().get("/api/serial/stock", headers=shop.headers))["items"]}
    assert levels == {
        plan.code: {"plan": plan.code, "left": 3, "low_stock": 2, "is_low": False, "makes_serials": False},
        short.code: {"plan": short.code, "left": 0, "low_stock": 2, "is_low": True, "makes_serials": False},
    }
    for number in range(2):
        shop.code_of(f"A-{number}", plan=plan.code)
    levels = {one["plan"]: one for one in said(Client().get("/api/serial/stock", headers=shop.headers))["items"]}
    assert (levels[plan.code]["left"], levels[plan.code]["is_low"]) == (1, True)


# --- many at once -----------------------------------------------------------------------------------


@pytest.fixture
def stocked(transactional_db: None) -> SalesChannel:
    """A shop with as many codes as anybody asks for."""
    plan = make_plan(30)
    channel = SalesChannel.objects.create(code="taobao", name="Taobao")
    channel.plans.add(plan)
    batch = serials.generate(count=40, plan=plan, actor=None)
    services.add_stock(channel_id=channel.pk, batch=batch, actor=None)
    return channel


def picking(channel: SalesChannel, number: str) -> Callable[[], str]:
    return lambda: services.pick_up(channel=channel, external_number=number, amount=1990)[1].code


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_twenty_requests_for_one_order_at_once_get_the_same_code(
    stocked: SalesChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    meet_after(monkeypatch, channels, "_plan_of")

    outcomes = at_once([picking(stocked, "A-1")] * 20)

    assert len(set(outcomes)) == 1
    assert isinstance(outcomes[0], str)
    assert SoldSerial.objects.count() == Order.objects.count() == 1
    assert balance(Account.REVENUE) == -1990


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_two_requests_for_one_order_collide_when_unlocked(
    unlocked: None, stocked: SalesChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: both take the order for new, and only the database's constraint stops the second, without a code."""
    meet_after(monkeypatch, channels, "_plan_of", SURELY)

    outcomes = at_once([picking(stocked, "A-1")] * 2)

    assert [outcome for outcome in outcomes if isinstance(outcome, IntegrityError)], outcomes


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_twenty_orders_at_once_get_twenty_codes(stocked: SalesChannel) -> None:
    outcomes = at_once([picking(stocked, f"A-{number}") for number in range(20)])

    assert len(set(outcomes)) == 20
    assert all(isinstance(outcome, str) for outcome in outcomes), outcomes
    assert SoldSerial.objects.count() == 20


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_ten_refunds_of_one_order_at_once_take_it_back_once(stocked: SalesChannel) -> None:
    picking(stocked, "A-1")()

    outcomes = at_once([lambda: services.refund_outside(channel=stocked, external_number="A-1")] * 10)

    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)], outcomes
    assert balance(Account.REFUNDS) == 1990
    assert balance(Account.REFUNDS_DUE) == 0
    assert SerialNumber.objects.filter(status=SerialNumber.Status.REVOKED).count() == 1


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_a_pickup_that_meets_its_refund_never_hands_out_a_void_code(stocked: SalesChannel) -> None:
    code = picking(stocked, "A-1")()

    outcomes = at_once(
        [lambda: services.refund_outside(channel=stocked, external_number="A-1"), *[picking(stocked, "A-1")] * 5]
    )

    for outcome in outcomes[1:]:
        assert outcome == code or getattr(outcome, "code", "") == "order_refunded"
    assert SoldSerial.objects.count() == 1
