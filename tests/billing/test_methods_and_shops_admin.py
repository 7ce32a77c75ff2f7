"""Payment methods and outside shops: what is secret goes in and never comes out again."""

from __future__ import annotations

import json

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEntry, User
from billing import services
from billing.models import (
    PaymentMethod,
    SalesChannel,
)
from serials.models import Plan, SerialBatch
from serials.services import generate
from tests.billing.desk import ACCOUNT, SECRET, last_event, make_shop, method_form, page, told, transfer_method
from tests.billing.till import (
    begin,
    make_method,
    order_of,
    paid_order,
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


def test_the_gateway_is_chosen_first(roots: Client) -> None:
    text = told(roots.get(page("paymentmethod_add")))
    for kind in ("offline", "alipay", "wechat", "stripe", "epay", "sandbox"):
        assert f"?kind={kind}" in text
    assert "TEST" in text
    form = roots.get(page("paymentmethod_add"), {"kind": "alipay"}).context["adminform"].form
    assert {"setting_app_id", "setting_app_private_key", "name", "code"} <= set(form.fields)
    assert "settings" not in form.fields
    assert "Which gateway?" in told(roots.get(page("paymentmethod_add"), {"kind": "unknown"}))


def test_a_method_is_set_up_and_its_secret_is_never_shown_again(roots: Client) -> None:
    address = page("paymentmethod_add") + "?kind=sandbox"
    answer = roots.post(address, method_form())
    assert answer.status_code == 302
    method = PaymentMethod.objects.get(code="try")
    assert (method.kind, method.fee_basis_points) == ("sandbox", 60)
    assert services.settings_of(method) == {"key": SECRET}
    text = told(roots.get(page("paymentmethod_change", method.pk)))
    assert f"/pay/callback/{method.code}/" in text
    assert "Left empty, it is kept." in text
    assert "TEST" in text
    assert 'value="0.6"' in text
    entry = AuditEntry.objects.get(event="paymentmethod.added")
    assert "key" in entry.data["fields"]
    assert last_event() == ("paymentmethod.added", "root")
    for shown in (
        text,
        told(roots.get(page("paymentmethod_changelist"))),
        told(roots.get(reverse("admin:accounts_auditentry_change", args=[entry.pk]))),
        str(entry.data),
    ):
        assert SECRET not in shown


def test_an_empty_secret_is_kept_and_a_new_one_replaces_it(roots: Client) -> None:
    roots.post(page("paymentmethod_add") + "?kind=sandbox", method_form())
    method = PaymentMethod.objects.get(code="try")
    roots.post(page("paymentmethod_change", method.pk), method_form(setting_key="", name="Renamed"))
    method.refresh_from_db()
    assert (method.name, services.settings_of(method)) == ("Renamed", {"key": SECRET})
    roots.post(page("paymentmethod_change", method.pk), method_form(setting_key="another secret of ours", code="x"))
    method.refresh_from_db()
    assert (method.code, services.settings_of(method)) == ("try", {"key": "another secret of ours"})
    assert AuditEntry.objects.filter(event="paymentmethod.changed").latest("id").data["fields"] == ["key", "name"]


def test_settings_that_cannot_work_are_refused_and_not_shown(roots: Client) -> None:
    address = page("paymentmethod_add") + "?kind=sandbox"
    answer = roots.post(address, method_form(setting_key="zu-kurz"))
    assert "at least 16 characters" in told(answer)
    assert "zu-kurz" not in told(answer)
    assert not PaymentMethod.objects.filter(code="try").exists()
    kept = roots.post(page("paymentmethod_add") + "?kind=alipay", method_form(setting_app_private_key="-----BEGIN x"))
    assert "-----BEGIN x" not in told(kept)
    missing = roots.post(address, method_form(setting_key=""))
    assert list(missing.context["adminform"].form.errors) == ["setting_key"]


def test_a_currency_that_the_gateway_does_not_take_is_refused_beside_its_field(roots: Client) -> None:
    settings = {"setting_api_url": "https://pay.example.com/", "setting_pid": "1001"}
    form = method_form(currency="USD", **settings)
    answer = roots.post(page("paymentmethod_add") + "?kind=epay", form)
    assert list(answer.context["adminform"].form.errors) == ["currency"]


def test_instructions_of_a_transfer_are_shown_to_be_edited(roots: Client) -> None:
    method = transfer_method()
    text = told(roots.get(page("paymentmethod_change", method.pk)))
    assert ACCOUNT in text
    assert "/pay/callback/" not in text


def test_a_method_is_deleted_only_when_it_was_never_used(roots: Client, sold: Plan, alice: User) -> None:
    fresh, used = make_method("fresh"), make_method("used")
    begin(order_of(alice, sold), used)
    assert roots.post(page("paymentmethod_delete", used.pk), {"post": "yes"}).status_code == 403
    roots.post(page("paymentmethod_delete", fresh.pk), {"post": "yes"})
    assert list(PaymentMethod.objects.filter(code__in=["fresh", "used"])) == [used]


def test_a_shop_is_added_with_its_share_in_percent(roots: Client, sold: Plan) -> None:
    form = {"name": "Taobao", "code": "taobao", "plans": [sold.pk], "low_stock": "5", "fee_basis_points": "1.25"}
    stock = {"stock-TOTAL_FORMS": "0", "stock-INITIAL_FORMS": "0", "is_enabled": "on"}
    roots.post(page("saleschannel_add"), form | stock)
    channel = SalesChannel.objects.get()
    assert (channel.fee_basis_points, list(channel.plans.all())) == (125, [sold])
    assert "no token yet" in told(roots.get(page("saleschannel_changelist")))


def test_a_new_token_is_shown_once(roots: Client, sold: Plan) -> None:
    channel = make_shop(sold)
    roots.get(page("saleschannel_new_token", channel.pk))
    channel.refresh_from_db()
    assert not channel.token_digest
    answer = roots.post(page("saleschannel_new_token", channel.pk))
    secret = answer.context["secret"]
    assert secret in told(answer)
    assert "no-store" in answer.headers["Cache-Control"]
    assert services.channel_of_token(secret) == channel
    text = told(roots.get(page("saleschannel_change", channel.pk)))
    assert secret not in text
    assert secret[:11] in text
    assert secret not in told(roots.get(page("saleschannel_changelist")))
    assert secret not in json.dumps([entry.data for entry in AuditEntry.objects.all()])
    assert "stops working at once" in told(roots.get(page("saleschannel_new_token", channel.pk)))
    roots.post(page("saleschannel_new_token", channel.pk))
    assert services.channel_of_token(secret) is None


def test_a_batch_is_set_aside_for_a_shop(roots: Client, sold: Plan, root: User, alice: User) -> None:
    channel = make_shop(sold)
    fits = generate(count=3, plan=sold, actor=root, note="for the fair")
    other = generate(count=3, plan=make_plan(90), actor=root)
    services.deliver(order_id=paid_order(alice, sold).pk, actor=root)
    address = page("saleschannel_add_batch", channel.pk)
    form = roots.get(address).context["question"].form
    assert list(form.fields["batch"].queryset) == [fits]
    assert list(roots.post(address, {"batch": other.pk}).context["question"].form.errors) == ["batch"]
    roots.post(address, {"batch": fits.pk})
    assert [(stock.batch, stock.channel) for stock in channel.stock.all()] == [(fits, channel)]
    assert last_event() == ("channel.stock_added", "root")
    assert list(roots.get(address).context["question"].form.fields["batch"].queryset) == []
    text = told(roots.get(page("saleschannel_change", channel.pk)))
    assert "test-30: 3" in text
    assert "for the fair" in text


def test_serials_are_made_for_a_shop(roots: Client, sold: Plan) -> None:
    channel = make_shop(sold, low_stock=20)
    address = page("saleschannel_make_serials", channel.pk)
    refused = roots.post(address, {"count": "5", "plan": make_plan(90).pk})
    assert list(refused.context["question"].form.errors) == ["plan"]
    assert not SerialBatch.objects.exists()
    assert "low" in told(roots.get(page("saleschannel_changelist")))
    roots.post(address, {"count": "25", "plan": sold.pk, "activate_before": ""})
    [level] = services.stock_levels([channel])
    assert (level.left, level.is_low) == (25, False)


def test_a_shop_that_sold_cannot_be_deleted(roots: Client, sold: Plan, root: User) -> None:
    channel = make_shop(sold)
    services.add_stock(channel_id=channel.pk, batch=generate(count=1, plan=sold, actor=root), actor=root)
    services.pick_up(channel=channel, external_number="1")
    roots.post(page("saleschannel_delete", channel.pk), {"post": "yes"})
    assert SalesChannel.objects.get() == channel
