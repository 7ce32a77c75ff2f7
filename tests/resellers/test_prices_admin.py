"""Wholesale prices in the admin: typed as people write money, for a level that there is."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import User
from billing.models import WholesalePrice
from billing.services import set_wholesale_level
from billing.services.pricing import wholesale_prices
from resellers.models import Level
from serials.models import Plan
from tests.billing.desk import told
from tests.billing.till import priced_plan
from tests.resellers.trade import make_level

LIST, ADD = "admin:billing_wholesaleprice_changelist", "admin:billing_wholesaleprice_add"


@pytest.fixture
def roots(client: Client, root: User) -> Client:
    client.force_login(root)
    return client


@pytest.fixture
def gold(db: None) -> Level:
    return make_level("gold", name="Gold", name_zh="金牌")


def form_of(plan: Plan, **more: Any) -> dict[str, Any]:
    return {
        "plan": plan.pk,
        "level": "",
        "currency": "CNY",
        "from_quantity": 10,
        "amount": "15",
        "is_active": "on",
    } | more


def test_two_prices_for_the_same_quantity_are_refused_in_words(roots: Client) -> None:
    form = form_of(priced_plan(30))
    roots.post(reverse(ADD), form)
    assert WholesalePrice.objects.get().amount == 1500
    assert "already" in told(roots.post(reverse(ADD), form))
    assert "At least" in told(roots.post(reverse(ADD), {**form, "from_quantity": 20, "amount": "0"}))


def test_a_price_is_for_a_level_that_there_is_and_its_resellers_get_it(
    roots: Client, gold: Level, rita: User, alice: User
) -> None:
    plan = priced_plan(30)
    answer = roots.post(reverse(ADD), form_of(plan, level="glod"))
    assert answer.context["adminform"].form.errors["level"]
    assert not WholesalePrice.objects.exists()
    roots.post(reverse(ADD), form_of(plan, level="gold"))
    set_wholesale_level(user_id=rita.pk, level=gold.code)
    assert wholesale_prices(rita).get().amount == 1500
    assert not wholesale_prices(alice).exists()


def test_a_price_whose_level_is_gone_stands_out_and_can_be_taken_off_sale(roots: Client) -> None:
    price = WholesalePrice.objects.create(plan=priced_plan(30), level="gone", from_quantity=10, amount=1500)
    assert "gone" in told(roots.get(reverse(LIST)))
    change = reverse("admin:billing_wholesaleprice_change", args=[price.pk])
    assert roots.post(change, form_of(price.plan, level="gone")).context["adminform"].form.errors["level"]
    assert roots.post(change, {**form_of(price.plan, level="gone"), "is_active": ""}).status_code == 302
    price.refresh_from_db()
    assert (price.level, price.is_active) == ("gone", False)


def test_the_list_calls_levels_by_their_names_and_is_narrowed_by_them(roots: Client, gold: Level) -> None:
    plan = priced_plan(30)
    for level, quantity in (("gold", 11), ("", 12)):
        WholesalePrice.objects.create(plan=plan, level=level, from_quantity=quantity, amount=1500)
    roots.cookies["django_language"] = "zh-hans"
    assert "金牌" in told(roots.get(reverse(LIST)))
    for chosen, quantity in (("gold", 11), ("-", 12)):
        page = roots.get(reverse(LIST), {"level": chosen})
        assert [row.from_quantity for row in page.context["cl"].result_list] == [quantity]
