"""What staff put on sale: amounts typed as people write them, and refused in words where they are none."""

from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError
from django.test import Client

from accounts.models import AuditEntry, User
from billing import services
from billing.admin.forms import minor_of
from billing.api.amounts import in_minor_units
from billing.models import (
    Coupon,
    CouponUse,
    OrderLine,
    PackOffer,
    Price,
)
from billing.services.words import why_no_amount
from serials.models import Plan
from tests.billing.desk import last_event, page, told
from tests.billing.till import (
    Kind,
    order_of,
    priced_plan,
)
from tests.serials.shop import make_plan


@pytest.fixture
def roots(client: Client, root: User) -> Client:
    """root's browser."""
    client.force_login(root)
    return client


@pytest.fixture
def sold(db: None) -> Plan:
    """A plan of thirty days for ¥19.90."""
    return priced_plan(30, 1990)


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [("19.90", "CNY", 1990), ("19.9", "CNY", 1990), (" 19 ", "CNY", 1900), ("0", "CNY", 0), ("500", "JPY", 500)],
)
def test_an_amount_is_read_as_people_write_it(text: str, currency: str, minor: int) -> None:
    assert minor_of(text, currency) == minor


@pytest.mark.parametrize(
    ("text", "currency"),
    [
        *(("19.905", "CNY"), ("１９.９０", "CNY"), ("19,90", "CNY"), ("1,990.00", "CNY"), ("¥19.90", "CNY")),
        *(("1e3", "CNY"), ("-1", "CNY"), ("", "CNY"), ("NaN", "CNY"), ("5.5", "JPY"), ("9999999999999", "CNY")),
    ],
)
def test_what_is_no_amount_is_refused_in_words(text: str, currency: str) -> None:
    with pytest.raises(ValidationError) as refused:
        minor_of(text, currency)
    [words] = refused.value.messages
    assert "such as" in words or words.startswith(("At least", "At most"))


@pytest.mark.parametrize(
    ("text", "currency", "words"),
    [
        ("12,50", "CNY", "Write an amount such as 19.90, without other signs."),
        ("12.50", "JPY", "Write an amount such as 500, without other signs."),
        ("9" * 10, "CNY", "At most CN¥1,000,000,000.00."),
        ("9" * 12, "JPY", "At most ¥100,000,000,000."),
        ("9" * 300, "JPY", "At most ¥100,000,000,000."),
    ],
)
def test_what_is_wrong_with_an_amount_is_said_in_its_own_currency(text: str, currency: str, words: str) -> None:
    assert why_no_amount(text, currency) == words
    with pytest.raises(ValidationError) as said:
        in_minor_units(text, currency)
    assert said.value.message_dict == {"amount": [words]}
    with pytest.raises(ValidationError) as refused:
        minor_of(text, currency)
    [shown] = refused.value.messages
    assert ("such as" in shown) == ("such as" in words)
    assert "At most" in shown or "19.90" in shown or "500" in shown


def price_form(plan: Plan, amount: str, **more: str) -> dict[str, str]:
    return {"plan": str(plan.pk), "currency": "CNY", "amount": amount, "is_active": "on", **more}


@pytest.mark.parametrize("text", ["19.90", "19.9"])
def test_a_price_is_typed_in_decimals_and_read_in_decimals(roots: Client, text: str) -> None:
    plan = make_plan(40)
    answer = roots.post(page("price_add"), price_form(plan, text, sale_amount="9"))
    assert answer.status_code == 302
    price = Price.objects.get(plan=plan)
    assert (price.amount, price.sale_amount) == (1990, 900)
    assert last_event() == ("price.added", "root")
    form = told(roots.get(page("price_change", price.pk)))
    assert 'value="19.90"' in form
    assert 'value="9.00"' in form
    assert "1990" not in form
    assert "¥19.90" in told(roots.get(page("price_changelist")))


@pytest.mark.parametrize("text", ["19.905", "１９.９０", "nineteen", "-5"])
def test_a_price_that_is_no_amount_is_refused_beside_its_field(roots: Client, text: str) -> None:
    plan = make_plan(40)
    answer = roots.post(page("price_add"), price_form(plan, text))
    assert answer.status_code == 200
    assert list(answer.context["adminform"].form.errors) == ["amount"]
    assert text in told(answer)
    assert not Price.objects.filter(plan=plan).exists()


def test_yen_have_no_decimals(roots: Client) -> None:
    plan = make_plan(40)
    roots.post(page("price_add"), price_form(plan, "500", currency="JPY"))
    assert Price.objects.get(plan=plan).amount == 500
    answer = roots.post(page("price_add"), price_form(plan, "5.50", currency="JPY"))
    assert "such as 500" in told(answer)


def test_a_price_saved_as_it_was_changes_nothing(roots: Client, sold: Plan) -> None:
    price = Price.objects.get(plan=sold)
    roots.post(page("price_change", price.pk), price_form(sold, "19.9"))
    price.refresh_from_db()
    assert price.amount == 1990
    assert AuditEntry.objects.get(event="price.changed").data["fields"] == []


@pytest.mark.parametrize(
    ("more", "beside"),
    [
        ({"amount": "0"}, "__all__"),
        ({"sale_amount": "0"}, "sale_amount"),
        ({"sale_amount": "20"}, "__all__"),
        ({"sale_from_0": "2030-01-02", "sale_from_1": "00:00"}, "sale_amount"),
        (
            {
                "valid_from_0": "2030-01-02",
                "valid_from_1": "00:00",
                "valid_until_0": "2030-01-01",
                "valid_until_1": "00:00",
            },
            "valid_until",
        ),
    ],
)
def test_a_price_that_makes_no_sense_is_refused(roots: Client, more: dict[str, str], beside: str) -> None:
    answer = roots.post(page("price_add"), {**price_form(make_plan(40), "19.90"), **more})
    assert list(answer.context["adminform"].form.errors) == [beside]


def test_a_price_that_was_used_can_be_taken_off_sale_or_deleted_and_no_order_changes(
    roots: Client, sold: Plan, alice: User
) -> None:
    order = order_of(alice, sold)
    roots.post(page("price_delete", Price.objects.get(plan=sold).pk), {"post": "yes"})
    order.refresh_from_db()
    assert order.total == 1990
    assert last_event() == ("price.deleted", "root")


def test_a_pack_is_typed_in_gigabytes(roots: Client) -> None:
    form = {"code": "p", "name": "100 GB", "extra_bytes": "0.5", "currency": "CNY", "amount": "9.90", "position": "0"}
    roots.post(page("packoffer_add"), form)
    pack = PackOffer.objects.get(code="p")
    assert (pack.extra_bytes, pack.amount) == (500_000_000, 990)
    assert 'value="0.5"' in told(roots.get(page("packoffer_change", pack.pk)))


def test_a_pack_that_was_ordered_cannot_be_deleted(roots: Client, sold: Plan, alice: User) -> None:
    pack = PackOffer.objects.create(code="p", name="p", extra_bytes=1, amount=990)
    order = order_of(alice, sold)
    OrderLine.objects.create(order=order, kind=Kind.PACK, pack=pack, unit_amount=990, amount=990)
    answer = roots.post(page("packoffer_delete", pack.pk), {"post": "yes"})
    assert PackOffer.objects.filter(pk=pack.pk).exists()
    assert answer.status_code == 200


def test_coupon_codes_are_kept_in_capitals(roots: Client) -> None:
    form = {"code": " spring-26 ", "kind": "percent", "percent": "10", "currency": "CNY", "is_active": "on"}
    uses = {"uses-TOTAL_FORMS": "0", "uses-INITIAL_FORMS": "0"}
    assert roots.post(page("coupon_add"), form | uses).status_code == 302
    assert Coupon.objects.get().code == "SPRING-26"


@pytest.mark.parametrize(
    ("said", "beside"),
    [
        ({"kind": "percent"}, ["percent"]),
        ({"kind": "amount"}, ["amount"]),
        ({"kind": "amount", "amount": "0"}, ["amount"]),
        ({"kind": "percent", "percent": "10", "amount": "5"}, ["amount"]),
        ({"kind": "percent", "percent": "10", "code": "a b"}, ["code"]),
    ],
)
def test_a_coupon_takes_off_one_thing(roots: Client, said: dict[str, str], beside: list[str]) -> None:
    uses = {"uses-TOTAL_FORMS": "0", "uses-INITIAL_FORMS": "0"}
    answer = roots.post(page("coupon_add"), {"code": "ABC", "currency": "CNY", **said} | uses)
    assert list(answer.context["adminform"].form.errors) == beside


def test_a_coupon_shows_who_used_it(roots: Client, sold: Plan, alice: User) -> None:
    coupon = Coupon.objects.create(code="SAVE", kind="amount", percent=None, amount=500, total_limit=3)
    order = order_of(alice, sold, coupon_code="save")
    assert "1 / 3" in told(roots.get(page("coupon_changelist")))
    text = told(roots.get(page("coupon_change", coupon.pk)))
    assert order.number in text
    assert "1 / 3" in text
    services.cancel_order(order_id=order.pk, actor=alice)
    assert "0 / 3" in told(roots.get(page("coupon_change", coupon.pk)))
    assert roots.post(page("coupon_delete", coupon.pk), {"post": "yes"}).status_code == 200
    assert CouponUse.objects.get().coupon == coupon
