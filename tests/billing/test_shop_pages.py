"""What customers see of the shop: prices, what a plan can be for, and ordering once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import translation
from django.utils.timezone import localtime

from accounts.models import User
from billing.forms import OrderForm
from billing.models import Coupon, Order, OrderLine, PackOffer, Price, WholesalePrice
from billing.services.fulfilment import deliver
from derp_portal.lib.clock import now
from fleet.models import RelayGroup
from serials import services as serials
from serials.models import Lease, Plan
from serials.services import How
from tests.billing.till import Kind, order_of, paid_order, priced_plan
from tests.serials.shop import make_plan, make_server, new_code_of

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
def lease(alice: User, plan: Plan) -> Lease:
    """alice's lease of the plan."""
    make_server()
    return serials.activate(user=alice, code=new_code_of(plan))[1]


def text_of(browser: Client, address: str, **options: Any) -> str:
    response = browser.get(address, **options)
    assert response.status_code == 200, response.status_code
    return str(response.content.decode())


def address_of(plan: Plan) -> str:
    return reverse("shop_plan", args=[plan.code])


def wish(total: int, way: str = "new:", **more: Any) -> dict[str, Any]:
    """What the page sends when somebody presses “Order”."""
    return {"way": way, "quantity": 1, "currency": "CNY", "total": total, "client_key": "k", "step": "order", **more}


def send(browser: Client, address: str, data: dict[str, Any], **options: Any) -> str:
    """What comes back when the form is refused."""
    response = browser.post(address, data, **options)
    assert response.status_code == 200, response.status_code
    return str(response.content.decode())


# --- looking ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["/", "/shop/"])
def test_everybody_sees_what_a_plan_costs_and_what_it_cost_before(client: Client, plan: Plan, address: str) -> None:
    until = now() + timedelta(days=3)
    Price.objects.filter(plan=plan).update(sale_amount=990, sale_until=until)
    page = text_of(client, address)
    assert "CN¥9.90" in page
    assert "<del>" in page
    assert "CN¥19.90" in page
    assert f"until {localtime(until):%Y-%m-%d}" in page
    assert address_of(plan) in page


def test_a_sale_that_is_over_is_not_shown(client: Client, plan: Plan) -> None:
    Price.objects.filter(plan=plan).update(sale_amount=990, sale_until=now() - timedelta(days=1))
    page = text_of(client, "/shop/")
    assert "CN¥19.90" in page
    assert "<del>" not in page


def test_a_plan_without_a_price_is_shown_and_cannot_be_bought(client: Client) -> None:
    plan = make_plan(9, code="unpriced")
    page = text_of(client, "/shop/")
    assert "unpriced" in page
    assert address_of(plan) not in page


def test_buying_asks_a_stranger_to_log_in_and_leads_back(client: Client, plan: Plan) -> None:
    response = client.get(address_of(plan))
    assert response.status_code == 302
    assert response.headers["Location"] == f"{reverse('account_login')}?next={address_of(plan)}"


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_every_page_opens_in_both_languages(alice: User, lease: Lease, client: Client, language: str) -> None:
    alice.language = language
    alice.save(update_fields=["language"])
    client.force_login(alice)
    RelayGroup.objects.update(quota_bytes=10**9)
    pack = PackOffer.objects.create(code="pack", name="50 GB", extra_bytes=50 * 10**9, amount=300)
    plan = Plan.objects.get(prices__isnull=False, code="test-30")
    for address in ["/", "/shop/", f"/shop/?lease={lease.pk}", address_of(plan), f"/shop/packs/{pack.code}/"]:
        response = client.get(address)
        assert response.status_code == 200, address
        assert b" style=" not in response.content, f"{address}: our policy forbids inline styles"
    translation.activate("en")


@pytest.mark.parametrize("address", ["/", "/shop/"])
def test_a_page_asks_the_same_number_of_questions_however_much_there_is(
    rita: User, client: Client, address: str
) -> None:
    client.force_login(rita)

    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            text_of(client, address)
        return len(queries)

    def sell(first: int, last: int) -> None:
        for days in range(first, last):
            WholesalePrice.objects.create(plan=priced_plan(days), amount=900)
            PackOffer.objects.create(code=f"pack-{days}", name="Pack", extra_bytes=1, amount=300)

    sell(31, 32)
    text_of(client, address)
    few = count()
    sell(32, 38)
    assert count() == few


def test_how_many_leases_one_has_does_not_matter_either(alices: Client, alice: User, lease: Lease, plan: Plan) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            text_of(alices, address_of(plan))
        return len(queries)

    text_of(alices, address_of(plan))
    few = count()
    for number in range(4):
        serials.activate(user=alice, code=new_code_of(plan), how=How.NEW, lease_name=f"No {number}")
    assert count() == few


# --- a plan -----------------------------------------------------------------------------------------


def test_the_price_is_on_the_page_before_one_orders(alices: Client, plan: Plan) -> None:
    page = text_of(alices, address_of(plan))
    assert 'name="total" value="1990"' in page
    assert "Start a lease" in page
    page = send(alices, address_of(plan), wish(0, "gift", quantity=3, step="price"))
    assert 'name="total" value="5970"' in page
    assert "3 × CN¥19.90" in page
    assert not Order.objects.exists(), "looking orders nothing"


def test_a_change_is_answered_with_the_price_alone(alices: Client, plan: Plan) -> None:
    part = send(alices, address_of(plan), wish(0, "gift", quantity=2, step=""), headers={"HX-Request": "true"})
    assert "<html" not in part
    assert 'value="3980"' in part
    assert 'id="coupon_code-errors" hx-swap-oob="true"' in part


def test_an_order_is_placed_at_the_price_that_was_shown(alices: Client, alice: User, plan: Plan) -> None:
    response = alices.post(address_of(plan), wish(1990))
    order = Order.objects.get(user=alice)
    assert response.headers["Location"] == reverse("order", args=[order.number])
    assert (order.total, order.state) == (1990, Order.State.PENDING)
    line = order.lines.get()
    assert (line.kind, line.snapshot.get("new_lease")) == (Kind.SELF, None)


def test_a_price_that_has_changed_is_shown_first(alices: Client, plan: Plan) -> None:
    page = send(alices, address_of(plan), wish(990, coupon_code=""))
    assert "This is the price now" in page
    assert 'name="total" value="1990"' in page
    assert not Order.objects.exists()


def test_a_double_click_orders_once_even_when_it_used_up_the_coupon(alices: Client, plan: Plan) -> None:
    Coupon.objects.create(code="HALF", kind="percent", percent=50, total_limit=1)
    sent = wish(995, coupon_code="half")
    first, second = alices.post(address_of(plan), sent), alices.post(address_of(plan), sent)
    assert first.headers["Location"] == second.headers["Location"]
    assert Order.objects.get().discount == 995


def test_a_key_with_a_zero_byte_is_none_and_is_looked_up_nowhere(alices: Client, plan: Plan) -> None:
    assert OrderForm({"client_key": "a\0b"}).key == ""
    assert alices.post(address_of(plan), wish(1990, client_key="a\0b")).status_code == 200
    assert not Order.objects.exists()


def test_each_page_has_a_key_of_its_own(alices: Client, plan: Plan) -> None:
    def key() -> str:
        return text_of(alices, address_of(plan)).partition('name="client_key" value="')[2].partition('"')[0]

    first, second = key(), key()
    assert len(first) > 15
    assert first != second


def test_a_lease_is_renewed_a_new_one_opened_or_a_code_bought(alices: Client, lease: Lease, plan: Plan) -> None:
    page = text_of(alices, address_of(plan))
    assert "Extend “My relay”" in page
    assert "Open another lease beside it" in page
    expected = {f"queue:{lease.pk}": (Kind.RENEWAL, lease.pk), "new:": (Kind.SELF, None), "gift": (Kind.GIFT, None)}
    for way, (kind, lease_id) in expected.items():
        alices.post(address_of(plan), wish(1990, way, client_key=way))
        line = OrderLine.objects.latest("id")
        assert (line.kind, line.lease_id) == (kind, lease_id)
        assert line.snapshot.get("new_lease", False) is (way == "new:")


def test_several_for_a_new_lease_open_one(alices: Client, alice: User, lease: Lease, plan: Plan) -> None:
    order = paid_order(alice, plan, Kind.GIFT)
    line = order.lines.get()
    line.kind, line.quantity, line.snapshot = Kind.SELF, 2, line.snapshot | {"new_lease": True}
    line.save()
    deliver(order_id=order.pk)
    [one] = Lease.objects.filter(user=alice).exclude(pk=lease.pk)
    assert (one.ends_at - one.started_at).days == 60


def test_another_plan_says_when_it_begins(alices: Client, lease: Lease) -> None:
    page = text_of(alices, address_of(priced_plan(90)))
    assert "Add it after what “My relay” has" in page


def test_buy_more_days_on_a_lease_preselects_that_lease(alices: Client, alice: User, lease: Lease, plan: Plan) -> None:
    longer = serials.activate(user=alice, code=new_code_of(make_plan(90)), how=How.NEW, lease_name="Longer")[1]
    assert f"/shop/?lease={lease.pk}" in text_of(alices, "/dashboard/")
    assert f"lease={lease.pk}" in text_of(alices, f"/shop/?lease={lease.pk}")
    for wished in (lease, longer):
        page = text_of(alices, f"{address_of(plan)}?lease={wished.pk}")
        [line] = [line for line in page.splitlines() if " checked" in line]
        assert f'value="queue:{wished.pk}"' in line


def test_a_lease_of_somebody_else_is_no_choice(alices: Client, bob: User, plan: Plan) -> None:
    make_server()
    bobs = serials.activate(user=bob, code=new_code_of(plan))[1]
    assert "Please choose again" in send(alices, address_of(plan), wish(1990, f"queue:{bobs.pk}"))
    assert not Order.objects.exists()


def test_a_hidden_plan_is_not_in_the_shop(alices: Client, plan: Plan) -> None:
    Plan.objects.filter(pk=plan.pk).update(is_public=False)
    assert alices.get(address_of(plan)).status_code == 404


# --- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("nobody", "We do not know this coupon"),
        ("old", "not valid any more"),
        ("other", "not for what you chose"),
        ("first", "for a first order"),
        ("used-up", "has been used up"),
    ],
)
def test_a_coupons_refusal_stands_beside_it_and_what_was_typed_stays(
    alices: Client, alice: User, bob: User, plan: Plan, code: str, words: str
) -> None:
    order_of(alice, plan)
    Coupon.objects.create(code="OLD", percent=10, valid_until=now() - timedelta(days=1))
    Coupon.objects.create(code="OTHER", percent=10).plans.add(make_plan(5))
    Coupon.objects.create(code="FIRST", percent=10, first_order_only=True)
    Coupon.objects.create(code="USED-UP", percent=10, total_limit=1)
    order_of(bob, plan, coupon_code="USED-UP")

    page = send(alices, address_of(plan), wish(1990, "gift", coupon_code=code, quantity=7))

    beside = page.partition('id="coupon_code-errors"')[2].partition("</div>")[0]
    assert words in beside
    assert f'value="{code}"' in page
    assert 'name="quantity" value="7"' in page
    assert Order.objects.count() == 2


@pytest.mark.parametrize(
    ("quantity", "words"),
    [("101", "1 to 100 can be ordered"), ("0", "greater than or equal to 1"), ("", "Say how many")],
)
def test_a_wrong_quantity_is_named_beside_the_field(alices: Client, plan: Plan, quantity: str, words: str) -> None:
    page = send(alices, address_of(plan), wish(1990, "gift", quantity=quantity))
    assert words in page.partition('id="quantity-errors"')[2].partition("</div>")[0]


def test_most_per_person_is_told_beside_the_quantity(alices: Client, plan: Plan) -> None:
    Price.objects.filter(plan=plan).update(per_user_limit=2)
    page = send(alices, address_of(plan), wish(1990, "gift", quantity=3))
    assert "may buy 2 of this plan in all" in page.partition('id="quantity-errors"')[2].partition("</div>")[0]


def test_a_free_trial_is_delivered_without_a_payment_and_had_once(alices: Client, alice: User) -> None:
    make_server()
    trial = priced_plan(3, 0, is_trial=True)
    page = text_of(alices, address_of(trial))
    assert "Free" in page
    assert 'value="gift"' not in page
    alices.post(address_of(trial), wish(0))
    order = Order.objects.get()
    assert order.state == Order.State.PAID
    deliver(order_id=order.pk)
    assert Lease.objects.filter(user=alice).count() == 1
    assert "had this trial already" in text_of(alices, address_of(trial))
    lease = Lease.objects.get()
    assert "had this trial already" in send(alices, address_of(trial), wish(0, f"queue:{lease.pk}", client_key="x"))


def test_too_many_unpaid_orders_are_said_above_the_button(alices: Client, alice: User, plan: Plan) -> None:
    for _number in range(5):
        order_of(alice, plan)
    assert "5 orders that are not paid yet" in send(alices, address_of(plan), wish(1990))


def test_a_plan_is_paid_in_the_currency_one_chooses(alices: Client, plan: Plan) -> None:
    Price.objects.create(plan=plan, currency="USD", amount=299)
    assert "?currency=USD" in text_of(alices, "/shop/")
    page = text_of(alices, f"{address_of(plan)}?currency=USD")
    assert "$2.99" in page
    alices.post(address_of(plan), wish(299, currency="USD"))
    assert Order.objects.get().currency == "USD"


# --- wholesale and packs ------------------------------------------------------------------------------


def test_only_resellers_see_and_get_wholesale_prices(client: Client, alice: User, rita: User, plan: Plan) -> None:
    WholesalePrice.objects.create(plan=plan, from_quantity=10, amount=1200)
    client.force_login(rita)
    assert "Wholesale, from 10: CN¥12.00 each" in text_of(client, "/shop/")
    page = send(client, address_of(plan), wish(1990, "wholesale", quantity=2))
    assert "no wholesale price for this quantity" in page
    client.post(address_of(plan), wish(12000, "wholesale", quantity=10))
    order = Order.objects.get()
    assert (order.total, order.reseller) == (12000, rita)

    client.force_login(alice)
    assert "Wholesale" not in text_of(client, "/shop/")
    assert "Please choose again" in send(client, address_of(plan), wish(12000, "wholesale", quantity=10))


def test_a_pack_is_offered_only_where_traffic_is_limited(alices: Client, alice: User, lease: Lease) -> None:
    pack = PackOffer.objects.create(code="pack", name="50 GB", extra_bytes=50 * 10**9, amount=300)
    address = reverse("shop_pack", args=[pack.code])
    assert address not in text_of(alices, "/shop/")
    assert "None of your relays needs it" in text_of(alices, address)

    RelayGroup.objects.update(quota_bytes=10**9)
    assert address in text_of(alices, "/shop/")
    page = text_of(alices, address)
    assert "My relay" in page
    assert 'name="total" value="300"' in page
    response = alices.post(address, wish(300, str(lease.pk)))
    line = Order.objects.get().lines.get()
    assert response.status_code == 302
    assert (line.kind, line.lease, line.pack) == (Kind.PACK, lease, pack)


def test_a_pack_for_somebody_elses_lease_is_refused(alices: Client, bob: User, plan: Plan) -> None:
    make_server()
    bobs = serials.activate(user=bob, code=new_code_of(plan))[1]
    RelayGroup.objects.update(quota_bytes=10**9)
    pack = PackOffer.objects.create(code="pack", name="50 GB", extra_bytes=1, amount=300)
    alices.post(reverse("shop_pack", args=[pack.code]), wish(300, str(bobs.pk)))
    assert not Order.objects.exists()


def test_who_has_nothing_yet_is_shown_the_way_to_the_shop(alices: Client) -> None:
    for address in ("/dashboard/", "/redeem/"):
        assert 'href="/shop/"' in text_of(alices, address)
