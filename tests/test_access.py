"""Who may go where: every address of the portal and every operation of the API against every role.

A route that has no rule here fails: whoever adds one says whom it is for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from accounts.models import Announcement, ApiToken, Notification, Ticket, User
from accounts.services import issue_token, open_ticket, publish_announcement
from billing import services as billing
from billing.models import Order, PackOffer, PaymentMethod, Refund, Transfer
from derp_portal.api import api
from derp_portal.lib.clock import now
from fleet import services as fleet
from fleet.models import Alert, ControlServer, Evacuation, Knock, MapPush, NodeKey, Relay, RelayGroup, Rollout, Server
from fleet.services.alerts import raise_alert
from resellers.models import Reseller, Settlement, Suspicion
from resellers.services import stock_of
from serials import services as serials
from serials.models import Lease, Plan, SerialBatch, SerialNumber
from tests.api_client import Caller, make_batch, make_code, make_server
from tests.billing.till import begin, call, callback_about, make_bank, make_method, order_of, paid_order, priced_plan
from tests.resellers.desk import buy_serials, settle, suspect
from tests.resellers.trade import bring, make_reseller

ROLES = ["anonymous", "bob", "rita", "root", "alice"]
"""alice owns what is asked for, and comes last: what she does may use it up."""

NODE_KEY = "nodekey:" + "a" * 64
Arguments = Callable[["World"], dict[str, Any]]


class For(StrEnum):
    """Whom a route is for."""

    EVERYBODY = "everybody"
    GUESTS = "guests"
    MEMBERS = "members"
    OWNER = "owner"
    OWNER_AND_STAFF = "owner and staff"
    STAFF = "staff"
    APPLICANT = "who has applied to be a reseller"
    RESELLER = "reseller"
    RESELLER_AND_STAFF = "reseller and staff"
    SHOPS = "outside shops"
    """By a token of their own; no person's opens it."""


@dataclass(frozen=True)
class Rule:
    """Whom a route is for, and what those answer who may. None: the method is not tried."""

    who: For
    get: int | None = 200
    post: int | None = None
    args: Arguments = lambda world: {}
    data: Arguments = lambda world: {}


@dataclass
class World:
    """What alice has, and what only staff may touch."""

    alice: User
    bob: User
    server: Server
    lease: Lease
    relay: Relay
    code: str

    @property
    def token(self) -> ApiToken:
        return issue_token(user=self.alice, name="mine", scopes=["account"], actor=self.alice)[0]

    @property
    def notification(self) -> Notification:
        return Notification.objects.filter(user=self.alice, is_secret=False).latest("id")

    @property
    def announcement(self) -> Announcement:
        """To everybody with an account."""
        found = Announcement.objects.first()
        return found or publish_announcement(title="News", text="All is well.", actor=User.objects.get(username="root"))

    @property
    def ticket(self) -> Ticket:
        """alice's, open."""
        found = Ticket.objects.filter(customer=self.alice).exclude(state=Ticket.State.CLOSED).first()
        return found or open_ticket(user=self.alice, subject="Help", text="It is dark.", actor=self.alice)

    @property
    def device(self) -> NodeKey:
        return NodeKey.objects.get_or_create(owner=self.alice, key=NODE_KEY)[0]

    @property
    def by_hand(self) -> Relay:
        """A relay without a lease."""
        until = now() + timedelta(days=1)
        return fleet.allocate(owner=self.alice, server=None, run_until=until, actor=self.alice)

    @property
    def failover(self) -> Evacuation:
        return fleet.drain_server(server_id=self.server.pk, actor=None)

    @property
    def alert(self) -> Alert:
        return raise_alert(Alert.Kind.NO_ROOM, severity=Alert.Severity.WARNING, subject="fleet", count=1)

    @property
    def knock(self) -> Knock:
        """At alice's door."""
        seen = {"first_at": now(), "last_at": now()}
        return Knock.objects.get_or_create(user=self.alice, node_key=NODE_KEY, defaults=seen)[0]

    @property
    def control_server(self) -> ControlServer:
        """alice's, where nobody answers."""
        where = {"kind": "headscale", "address": "http://127.0.0.1:9", "credential": "secret"}
        return ControlServer.objects.filter(owner=self.alice).first() or ControlServer.objects.create(
            owner=self.alice, **where
        )

    @property
    def tailscale(self) -> ControlServer:
        """alice's account there, with credentials that cannot be sent."""
        where = {"kind": "tailscale", "credential": "\n"}
        return ControlServer.objects.filter(owner=self.alice, kind="tailscale").first() or ControlServer.objects.create(
            owner=self.alice, **where
        )

    @property
    def pushed(self) -> MapPush:
        """alice's map in her policy file."""
        where = {"control_server": self.tailscale, "text_before": "{}", "etag": "x", "pushed_at": now()}
        return MapPush.objects.get_or_create(group=self.relay.group, defaults=where)[0]

    @property
    def rollout(self) -> Rollout:
        return Rollout.objects.get_or_create(image="registry.example.com/derper:1", canary=self.server)[0]

    @property
    def limited(self) -> RelayGroup:
        """alice's relays, with a quota."""
        RelayGroup.objects.filter(pk=self.relay.group_id).update(quota_bytes=10**9)
        return RelayGroup.objects.get(pk=self.relay.group_id)

    @property
    def batch(self) -> SerialBatch:
        return make_batch(1)

    @property
    def plan(self) -> Plan:
        """On sale."""
        return priced_plan(30)

    @property
    def pack(self) -> PackOffer:
        defaults = {"name": "50 GB", "extra_bytes": 50 * 10**9, "amount": 300}
        return PackOffer.objects.get_or_create(code="pack", defaults=defaults)[0]

    @property
    def method(self) -> PaymentMethod:
        return make_method()

    @property
    def bank(self) -> PaymentMethod:
        return make_bank()

    @property
    def order(self) -> Order:
        """alice's, to be paid."""
        waiting = Order.objects.filter(user=self.alice, state=Order.State.PENDING).first()
        return waiting or order_of(self.alice, self.plan)

    @property
    def paid(self) -> Order:
        """alice's, paid."""
        return Order.objects.filter(user=self.alice, state=Order.State.PAID).first() or paid_order(
            self.alice, self.plan
        )

    @property
    def held(self) -> Transfer:
        """Too little for alice's order."""
        waiting = Transfer.objects.filter(state=Transfer.State.HELD).first()
        if waiting is None:
            payment = begin(self.order)
            call(payment, callback_about(payment, amount=1))
        return waiting or Transfer.objects.get(state=Transfer.State.HELD)

    @property
    def refund(self) -> Refund:
        """Of alice's order; a person must send it."""
        if not Refund.objects.exists():
            billing.refund_order(order_id=self.paid.pk, reason="asked for", actor=None)
            Refund.objects.update(state=Refund.State.BY_HAND)
        return Refund.objects.get()

    @property
    def rita(self) -> User:
        return User.objects.get(username="rita")

    @property
    def reseller(self) -> Reseller:
        """rita, whose customer alice is."""
        found = Reseller.objects.filter(user=self.rita).first()
        if found is None:
            found = make_reseller(self.rita)
            bring(found, self.alice)
        return found

    @property
    def wholesale(self) -> str:
        """A serial of rita's stock that nobody has redeemed."""
        stock = stock_of(self.reseller).filter(serial__status="unused").first()
        return stock.serial.code if stock else buy_serials(self.reseller, self.plan, 1)[0].code

    @property
    def settlement(self) -> Settlement:
        """rita's, to be approved."""
        found = Settlement.objects.filter(reseller=self.reseller).first()
        return found or settle(self.reseller, self.alice, self.plan)

    @property
    def suspicion(self) -> Suspicion:
        """About an order of alice's."""
        found = Suspicion.objects.filter(reseller=self.reseller).first()
        return found or suspect(self.reseller, self.alice, self.plan)


@pytest.fixture
def world(alice: User, bob: User, rita: User, root: User) -> World:
    server = make_server()
    code = make_code()
    _serial, lease = serials.activate(user=alice, code=code)
    return World(alice, bob, server, lease, Relay.objects.get(), code)


def of_ticket(world: World) -> dict[str, Any]:
    return {"number": world.ticket.number}


def of_lease(world: World) -> dict[str, Any]:
    return {"lease_id": world.lease.pk}


def of_pushed(world: World) -> dict[str, Any]:
    return {"lease_id": world.pushed.group.lease.pk}


def of_server(world: World) -> dict[str, Any]:
    return {"server_id": world.server.pk}


def of_relay(world: World) -> dict[str, Any]:
    return {"container_id": world.relay.pk}


def of_group(world: World) -> dict[str, Any]:
    return {"group_id": world.relay.group_id}


def of_rollout(world: World) -> dict[str, Any]:
    return {"rollout_id": world.rollout.pk}


def of_order(world: World) -> dict[str, Any]:
    return {"number": world.order.number}


def of_paid(world: World) -> dict[str, Any]:
    return {"number": world.paid.number}


def of_held(world: World) -> dict[str, Any]:
    return {"transfer_id": world.held.pk, "reason": "looked into it"}


def of_rita(world: World) -> dict[str, Any]:
    """Nothing to say, but rita must be a reseller."""
    assert world.reseller.is_active
    return {}


def of_reseller(world: World) -> dict[str, Any]:
    return {"reseller_id": world.reseller.pk}


def of_wholesale(world: World) -> dict[str, Any]:
    return {"plan": world.plan.code, "quantity": 2} if world.wholesale else {}


def basket(world: World) -> dict[str, Any]:
    return {"items": [{"kind": "gift", "plan": world.plan.code}]}


PAGES = {
    "healthz": Rule(For.EVERYBODY),
    # Everybody on this machine, that is; tests/test_prometheus.py says who else.
    "metrics": Rule(For.EVERYBODY),
    "home": Rule(For.EVERYBODY),
    "shop": Rule(For.EVERYBODY),
    "set_language": Rule(For.EVERYBODY, get=302, post=302, data=lambda w: {"language": "en"}),
    # doors for machines: whoever knows the secret
    "admit": Rule(For.EVERYBODY, get=405, post=400, args=lambda w: {"secret": "unknown"}),
    "derp_map": Rule(For.EVERYBODY, args=lambda w: {"token": w.lease.relay_group.map_token}),
    "sandbox_cashier": Rule(For.EVERYBODY, get=404, post=404),
    "gateway_callback": Rule(For.EVERYBODY, get=400, post=400, args=lambda w: {"code": w.method.code}),
    # coming in
    "account_login": Rule(For.GUESTS),
    "account_signup": Rule(For.GUESTS),
    "account_logout": Rule(For.EVERYBODY, get=None),
    "account_inactive": Rule(For.EVERYBODY),
    "account_email_verification_sent": Rule(For.EVERYBODY),
    "account_confirm_email": Rule(For.EVERYBODY, args=lambda w: {"key": "unknown"}),
    "account_reset_password": Rule(For.EVERYBODY),
    "account_reset_password_done": Rule(For.EVERYBODY),
    "account_reset_password_from_key": Rule(For.EVERYBODY, args=lambda w: {"uidb36": "1", "key": "unknown"}),
    "account_reset_password_from_key_done": Rule(For.EVERYBODY),
    "account_confirm_login_code": Rule(For.MEMBERS, get=302),
    # about oneself
    "account_reauthenticate": Rule(For.MEMBERS),
    "account_email": Rule(For.MEMBERS),
    "account_change_password": Rule(For.MEMBERS),
    "account_set_password": Rule(For.MEMBERS, get=302),
    "profile": Rule(For.MEMBERS),
    "security": Rule(For.MEMBERS),
    "end_sessions": Rule(For.MEMBERS, get=405, post=302),
    "tokens": Rule(For.MEMBERS),
    "token_create": Rule(For.MEMBERS),
    "token_revoke": Rule(For.OWNER, get=None, post=302, args=lambda w: {"token_id": w.token.pk}),
    "notifications": Rule(For.MEMBERS),
    "notification": Rule(For.OWNER, args=lambda w: {"notification_id": w.notification.pk}),
    "announcements": Rule(For.MEMBERS),
    "announcement_close": Rule(For.MEMBERS, get=405, post=302, args=lambda w: {"announcement_id": w.announcement.pk}),
    "tickets": Rule(For.MEMBERS),
    "ticket_new": Rule(For.MEMBERS),
    # For the seller whom it reached first as well: tests/resellers/test_ticket_routing.py says so.
    "ticket": Rule(For.OWNER, post=302, args=of_ticket, data=lambda w: {"text": "Hello?"}),
    "ticket_live": Rule(For.OWNER, args=of_ticket),
    "ticket_close": Rule(For.OWNER, post=302, args=of_ticket),
    "ticket_pass_on": Rule(For.OWNER, get=302, post=302, args=of_ticket),
    # what one has
    "dashboard": Rule(For.MEMBERS),
    "dashboard_live": Rule(For.MEMBERS),
    "redeem": Rule(For.MEMBERS, post=200, data=lambda w: {"code": "nonsense"}),
    "serial_history": Rule(For.MEMBERS),
    "usage_history": Rule(For.MEMBERS),
    "devices": Rule(For.MEMBERS, post=302, data=lambda w: {"lines": NODE_KEY}),
    "traffic": Rule(For.MEMBERS),
    "traffic_live": Rule(For.MEMBERS),
    "traffic_csv": Rule(For.MEMBERS),
    "policy_change": Rule(For.MEMBERS, get=405, post=302, data=lambda w: {"mode": "closed"}),
    "policy_history": Rule(For.MEMBERS),
    "policy_roll_back": Rule(For.OWNER, post=302, args=lambda w: {"version": 1}),
    "door_log": Rule(For.MEMBERS),
    "knock_answer": Rule(For.OWNER, get=None, post=302, args=lambda w: {"knock_id": w.knock.pk}),
    "knock_approve": Rule(For.EVERYBODY, get=404, post=404, args=lambda w: {"tap": "unknown"}),
    "control_servers": Rule(For.MEMBERS),
    "control_server_sync": Rule(For.OWNER, get=None, post=302, args=lambda w: {"server_id": w.control_server.pk}),
    "control_server_remove": Rule(For.OWNER, post=302, args=lambda w: {"server_id": w.control_server.pk}),
    "device_remove": Rule(For.OWNER, post=302, args=lambda w: {"node_key_id": w.device.pk}),
    "lease": Rule(For.OWNER, args=of_lease),
    "lease_rename": Rule(For.OWNER, get=None, post=302, args=of_lease, data=lambda w: {"name": "Home"}),
    "lease_next_term": Rule(For.OWNER, get=None, post=302, args=of_lease, data=lambda w: {"term_id": 0}),
    "hand_over": Rule(For.OWNER, args=of_lease),
    "hand_over_taken": Rule(For.OWNER, get=None, post=302, args=of_lease),
    "hand_over_only_ours": Rule(For.OWNER, post=302, args=of_lease),
    # What the control server says is a message on the page before.
    "hand_over_push": Rule(For.OWNER, get=302, post=302, args=lambda w: of_lease(w) | {"server_id": w.tailscale.pk}),
    "hand_over_undo": Rule(For.OWNER, get=200, post=302, args=of_pushed),
    "certificate_switch": Rule(For.OWNER, post=302, args=lambda w: {"lease_id": w.lease.pk, "code": w.relay.code}),
    "map_url_rotate": Rule(For.OWNER, get=None, post=302, args=of_lease),
    "map_url_revoke": Rule(For.OWNER, get=None, post=302, args=of_lease),
    "region_id": Rule(
        For.OWNER,
        get=None,
        post=302,
        args=lambda w: {"lease_id": w.lease.pk, "code": w.relay.code},
        data=lambda w: {"region_id": 970, f"{w.relay.code}-region_id": 970},
    ),
    # what one buys
    "shop_plan": Rule(For.MEMBERS, args=lambda w: {"code": w.plan.code}),
    "shop_pack": Rule(For.MEMBERS, args=lambda w: {"code": w.pack.code}),
    "orders": Rule(For.MEMBERS),
    "order": Rule(For.OWNER, args=of_order),
    "order_live": Rule(For.OWNER, args=of_order),
    "order_cancel": Rule(For.OWNER, post=302, args=of_order),
    "order_receipt": Rule(For.OWNER, args=lambda w: {"number": w.paid.number}),
    "order_pay": Rule(For.OWNER, get=None, post=302, args=lambda w: of_order(w) | {"method": w.method.code}),
    "order_payment": Rule(For.OWNER, args=lambda w: of_order(w) | {"reference": begin(w.order).reference}),
    "order_payment_live": Rule(
        For.OWNER, get=204, args=lambda w: of_order(w) | {"reference": begin(w.order).reference}
    ),
    # reselling
    "referral": Rule(For.EVERYBODY, args=lambda w: {"code": w.reseller.code}),
    "lease_seller": Rule(For.OWNER, args=of_lease),
    "reseller_apply": Rule(For.MEMBERS),
    "reseller_home": Rule(For.RESELLER, args=of_rita),
    "reseller_settings": Rule(For.RESELLER, post=302, args=of_rita, data=lambda w: {"contact": "rita"}),
    "reseller_payout": Rule(For.RESELLER, args=of_rita),
    "reseller_links": Rule(For.RESELLER, post=302, args=of_rita, data=lambda w: {"code": "another"}),
    "reseller_qr": Rule(For.RESELLER, args=of_rita),
    "reseller_customers": Rule(For.RESELLER, args=of_rita),
    "reseller_commissions": Rule(For.RESELLER, args=of_rita),
    "reseller_settlements": Rule(For.RESELLER, args=of_rita),
    "reseller_settlement": Rule(For.RESELLER, args=lambda w: {"settlement_id": w.settlement.pk}),
    "reseller_statement": Rule(For.RESELLER, args=lambda w: {"settlement_id": w.settlement.pk}),
    "reseller_stock": Rule(For.RESELLER, args=of_rita),
    "reseller_stock_export": Rule(For.RESELLER, args=of_rita),
    "reseller_recall": Rule(
        For.RESELLER, get=302, post=200, args=of_rita, data=lambda w: {"all": "yes"} if w.wholesale else {}
    ),
    "reseller_buy": Rule(For.RESELLER, args=of_rita),
    "reseller_top_up": Rule(For.RESELLER, post=302, args=of_rita, data=lambda w: {"amount": "100", "currency": "CNY"}),
    "reseller_prices": Rule(For.RESELLER, args=of_rita),
    "reseller_tickets": Rule(For.RESELLER, args=of_rita),
    "reseller_tickets_waiting": Rule(For.RESELLER, args=of_rita),
    "reseller_sales": Rule(For.RESELLER, args=of_rita),
    "reseller_sale": Rule(
        For.RESELLER,
        post=302,
        args=of_rita,
        data=lambda w: {"code": w.wholesale, "price": "25", "currency": "CNY", "sold_on": "2026-01-01"},
    ),
    "reseller_sale_remove": Rule(
        For.RESELLER,
        get=302,
        post=302,
        args=lambda w: {"serial_id": SerialNumber.objects.get(code=w.wholesale).pk},
    ),
    "reseller_sales_import": Rule(
        For.RESELLER, post=302, args=of_rita, data=lambda w: {"text": f"{w.wholesale},25", "currency": "CNY"}
    ),
    # the API's own pages; its operations have a table of their own
    "api:openapi-json": Rule(For.EVERYBODY),
    "api:openapi-view": Rule(For.EVERYBODY),
    "api:api-root": Rule(For.EVERYBODY, get=404),
    "api:unknown": Rule(For.EVERYBODY, get=404, post=404),
}

OPERATIONS = {
    "POST user/register": Rule(For.EVERYBODY, post=422, data=lambda w: {"username": "", "email": "", "password": ""}),
    "POST user/login": Rule(For.EVERYBODY, post=422),
    "GET user/me": Rule(For.MEMBERS),
    "POST user/renew": Rule(For.STAFF, post=200, data=lambda w: {"user_id": w.alice.pk, "until": "2040-01-01"}),
    "POST serial/generate": Rule(For.STAFF, post=200),
    "POST serial/activate": Rule(For.MEMBERS, post=200, data=lambda w: {"code": make_code()}),
    "POST serial/preview": Rule(For.MEMBERS, post=200, data=lambda w: {"code": make_code()}),
    "GET serial/status": Rule(For.MEMBERS, data=lambda w: {"code": w.code}),
    "GET serial/list": Rule(For.OWNER_AND_STAFF, data=lambda w: {"user_id": w.alice.pk}),
    "POST serial/revoke": Rule(For.STAFF, post=200, data=lambda w: {"batch_id": w.batch.pk}),
    "POST serial/verify": Rule(For.OWNER_AND_STAFF, post=200, data=lambda w: {"code": w.code, "user_id": w.alice.pk}),
    "POST serial/pickup": Rule(For.SHOPS, data=lambda w: {"order_no": "1"}),
    "POST serial/refund": Rule(For.SHOPS, data=lambda w: {"order_no": "1"}),
    "GET serial/stock": Rule(For.SHOPS),
    "GET plan/list": Rule(For.EVERYBODY),
    "GET pack/list": Rule(For.EVERYBODY),
    "GET payment/methods": Rule(For.MEMBERS),
    "POST order/quote": Rule(For.MEMBERS, post=200, data=basket),
    "POST order/create": Rule(For.MEMBERS, post=200, data=basket),
    "POST order/pay": Rule(For.OWNER, post=200, data=lambda w: of_order(w) | {"method": w.method.code}),
    "POST order/cancel": Rule(For.OWNER_AND_STAFF, post=200, data=of_order),
    "GET order/list": Rule(For.OWNER_AND_STAFF, data=lambda w: {"user_id": w.alice.pk}),
    "GET order/{number}": Rule(For.OWNER_AND_STAFF, args=of_order),
    "POST order/confirm": Rule(
        For.STAFF,
        post=200,
        data=lambda w: (
            of_order(w)
            | {"method": w.bank.code, "transaction_id": "7", "amount": "19.90", "evidence": "seen on the statement"}
        ),
    ),
    "POST order/deliver": Rule(For.STAFF, post=200, data=of_paid),
    "POST order/refund": Rule(For.STAFF, post=200, data=lambda w: of_paid(w) | {"reason": "asked for"}),
    "POST order/refund_settle": Rule(
        For.STAFF, post=200, data=lambda w: {"refund": w.refund.number, "reference": "sent by hand"}
    ),
    "GET payment/held": Rule(For.STAFF),
    "POST payment/accept": Rule(For.STAFF, post=200, data=of_held),
    "POST payment/return": Rule(For.STAFF, post=200, data=of_held),
    "GET payment/refunds": Rule(For.STAFF),
    "GET finance/statistics": Rule(For.STAFF),
    "GET finance/report": Rule(For.STAFF),
    # The present month is not over.
    "POST finance/close_month": Rule(For.STAFF, post=409, data=lambda w: {"month": f"{now():%Y-%m}"}),
    "GET finance/ledger": Rule(For.STAFF),
    "GET finance/payments": Rule(For.STAFF),
    "GET reseller/me": Rule(For.APPLICANT, data=of_rita),
    "POST reseller/apply": Rule(For.MEMBERS, post=422, data=lambda w: {"application": "x", "accepts_terms": False}),
    "GET reseller/customers": Rule(For.RESELLER, data=of_rita),
    "GET reseller/commissions": Rule(For.RESELLER, data=of_rita),
    "GET reseller/commission": Rule(For.RESELLER_AND_STAFF, data=of_reseller),
    "GET reseller/settlements": Rule(For.RESELLER_AND_STAFF, data=of_reseller),
    "GET reseller/settlement/{settlement_id}": Rule(
        For.RESELLER_AND_STAFF, args=lambda w: {"settlement_id": w.settlement.pk}
    ),
    "GET reseller/stock": Rule(For.RESELLER, data=of_rita),
    "GET reseller/serial": Rule(For.RESELLER, data=lambda w: {"code": w.wholesale}),
    "GET reseller/prices": Rule(For.RESELLER, data=of_rita),
    "POST reseller/buy": Rule(For.RESELLER, post=200, data=of_wholesale),
    "POST reseller/recall": Rule(For.RESELLER, post=200, data=lambda w: {"codes": [w.wholesale]}),
    "GET reseller/sales": Rule(For.RESELLER, data=of_rita),
    "POST reseller/sales": Rule(For.RESELLER, post=200, data=lambda w: {"code": w.wholesale, "price": "25"}),
    "POST reseller/sale/remove": Rule(For.RESELLER, post=200, data=lambda w: {"code": w.wholesale}),
    "GET reseller/list": Rule(For.STAFF),
    "POST reseller/decide": Rule(For.STAFF, post=200, data=lambda w: of_reseller(w) | {"decision": "approve"}),
    "POST reseller/run": Rule(For.STAFF, post=200),
    "POST reseller/settlement/decide": Rule(
        For.STAFF, post=200, data=lambda w: {"settlement_id": w.settlement.pk, "decision": "approve"}
    ),
    "GET reseller/suspicions": Rule(For.STAFF),
    "POST reseller/suspicion/decide": Rule(
        For.STAFF,
        post=200,
        data=lambda w: {"suspicion_id": w.suspicion.pk, "decision": "clear", "reason": "a namesake"},
    ),
    "POST reseller/assign": Rule(
        For.STAFF,
        post=200,
        data=lambda w: {"user_id": w.alice.pk, "reseller_code": w.reseller.code, "reason": "she called"},
    ),
    "GET lease/list": Rule(For.OWNER_AND_STAFF, data=lambda w: {"user_id": w.alice.pk}),
    "POST lease/notify": Rule(For.STAFF, post=200, data=lambda w: of_lease(w) | {"kind": "reminder"}),
    "POST lease/start_next": Rule(For.OWNER_AND_STAFF, post=409, data=lambda w: of_lease(w) | {"term_id": 10**9}),
    "POST lease/end": Rule(For.STAFF, post=200, data=of_lease),
    "POST server/add": Rule(For.STAFF, post=200, data=lambda w: {"ip": "203.0.113.9", "region": "hk"}),
    "GET server/list": Rule(For.STAFF),
    "POST server/update": Rule(For.STAFF, post=200, data=lambda w: {"server_id": w.server.pk}),
    "POST server/delete": Rule(For.STAFF, post=409, data=lambda w: {"server_id": w.server.pk}),
    "GET server/health": Rule(For.STAFF),
    "GET server/events": Rule(For.STAFF, data=of_server),
    "GET server/ssh-key": Rule(For.STAFF),
    # Nothing listens where the server should be, and there is no other one to ask.
    "POST server/test": Rule(For.STAFF, post=502, data=of_server),
    "POST server/check-ports": Rule(For.STAFF, post=409, data=of_server),
    "POST server/drain": Rule(For.STAFF, post=200, data=of_server),
    "POST server/undrain": Rule(For.STAFF, post=200, data=of_server),
    "POST server/enable": Rule(For.STAFF, post=200, data=of_server),
    "POST server/disable": Rule(For.STAFF, post=200, data=of_server),
    "POST server/address": Rule(For.STAFF, post=200, data=lambda w: of_server(w) | {"ip": "203.0.113.99"}),
    "POST server/enroll-script": Rule(
        For.STAFF, post=200, data=lambda w: {"address": "203.0.113.7", "has_firewall": False}
    ),
    "GET region/list": Rule(For.MEMBERS),
    "POST region/add": Rule(For.STAFF, post=200, data=lambda w: {"code": "sg", "name": "Singapore"}),
    "POST container/allocate": Rule(For.STAFF, post=200, data=lambda w: {"user_id": w.alice.pk}),
    "GET container/list": Rule(For.OWNER_AND_STAFF, data=lambda w: {"user_id": w.alice.pk}),
    "GET container/usage": Rule(For.OWNER_AND_STAFF, data=lambda w: {"user_id": w.alice.pk}),
    "GET traffic/realtime": Rule(For.OWNER_AND_STAFF, data=of_relay),
    "GET traffic/statistics": Rule(For.OWNER_AND_STAFF, data=lambda w: {"user_id": w.alice.pk}),
    "GET traffic/over_limit": Rule(For.STAFF),
    "POST traffic/limit": Rule(For.STAFF, post=200, data=lambda w: {"user_id": w.alice.pk, "quota_bytes": 10**12}),
    "POST traffic/pack": Rule(
        For.STAFF, post=200, data=lambda w: {"group_id": w.limited.pk, "bytes": 10**9, "key": "order 7"}
    ),
    "GET server/traffic": Rule(For.STAFF),
    "POST server/traffic": Rule(For.STAFF, post=200, data=lambda w: of_server(w) | {"allowance_bytes": 10**12}),
    "POST container/restart": Rule(For.STAFF, post=200, data=lambda w: {"container_id": w.relay.pk}),
    "POST container/move": Rule(For.STAFF, post=409, data=lambda w: {"container_id": w.relay.pk}),
    "POST container/quarantine": Rule(For.STAFF, post=200, data=of_group),
    "POST container/unquarantine": Rule(For.STAFF, post=200, data=of_group),
    "POST container/limit-servers": Rule(For.STAFF, post=200, data=lambda w: of_group(w) | {"server_ids": []}),
    "POST container/release": Rule(For.STAFF, post=200, data=lambda w: {"container_id": w.by_hand.pk}),
    "POST ha/failover": Rule(For.STAFF, post=200),
    "GET ha/failovers": Rule(For.STAFF),
    "GET ha/failovers/{failover_id}": Rule(For.STAFF, args=lambda w: {"failover_id": w.failover.pk}),
    "GET ha/moves": Rule(For.STAFF),
    "GET alerts/list": Rule(For.STAFF),
    "POST alerts/send": Rule(For.STAFF, post=200, data=lambda w: {"severity": "info", "message": "Hello"}),
    "POST alerts/acknowledge": Rule(For.STAFF, post=200, data=lambda w: {"alert_id": w.alert.pk}),
    "POST alerts/resolve": Rule(For.STAFF, post=200, data=lambda w: {"alert_id": w.alert.pk}),
    "GET alerts/silence": Rule(For.STAFF),
    "POST alerts/silence": Rule(For.STAFF, post=200, data=lambda w: {"minutes": 60}),
    "GET logs/system": Rule(For.STAFF),
    "GET monitoring/logs": Rule(For.STAFF),
    "GET monitoring/load_analysis": Rule(For.STAFF),
    "GET monitoring/realtime": Rule(For.STAFF),
    "GET monitoring/health": Rule(For.STAFF),
    "POST rollout/start": Rule(For.STAFF, post=409, data=lambda w: {"image": w.rollout.image}),
    "GET rollout/list": Rule(For.STAFF),
    "GET rollout/{rollout_id}": Rule(For.STAFF, args=lambda w: {"rollout_id": w.rollout.pk}),
    "POST rollout/stop": Rule(For.STAFF, post=200, data=of_rollout),
    "POST rollout/resume": Rule(For.STAFF, post=200, data=of_rollout),
    "POST rollout/cancel": Rule(For.STAFF, post=200, data=of_rollout),
    "POST rollout/rollback": Rule(For.STAFF, post=200, data=of_rollout),
    "POST acl/generate": Rule(For.STAFF, post=200, data=lambda w: {"user_id": w.alice.pk}),
    "GET acl/list": Rule(For.OWNER_AND_STAFF, data=lambda w: {"user_id": w.alice.pk}),
    "GET acl/history": Rule(For.OWNER_AND_STAFF, data=lambda w: {"user_id": w.alice.pk}),
    "POST acl/rollback": Rule(For.OWNER_AND_STAFF, post=200, data=lambda w: {"user_id": w.alice.pk, "version": 1}),
    "GET acl/check": Rule(For.OWNER_AND_STAFF, data=lambda w: {"user_id": w.alice.pk, "node_key": NODE_KEY}),
    "GET acl/logs": Rule(For.OWNER_AND_STAFF, data=lambda w: {"user_id": w.alice.pk}),
    "GET acl/derpmap": Rule(For.OWNER_AND_STAFF, data=of_lease),
    "POST notifications/send": Rule(
        For.STAFF, post=200, data=lambda w: {"user_id": w.alice.pk, "subject": "Hello", "body": "World"}
    ),
    "GET announcement/list": Rule(For.MEMBERS),
    "GET announcement/all": Rule(For.STAFF),
    "POST announcement/publish": Rule(For.STAFF, post=200, data=lambda w: {"title": "News", "text": "All is well."}),
    "POST announcement/mail": Rule(For.STAFF, post=200, data=lambda w: {"announcement_id": w.announcement.pk}),
    "POST announcement/withdraw": Rule(For.STAFF, post=200, data=lambda w: {"announcement_id": w.announcement.pk}),
    "POST ticket/create": Rule(For.MEMBERS, post=200, data=lambda w: {"subject": "Help", "text": "It is dark."}),
    "GET ticket/list": Rule(For.OWNER_AND_STAFF, data=lambda w: {"user_id": w.alice.pk}),
    "GET ticket/show": Rule(For.OWNER_AND_STAFF, data=of_ticket),
    "POST ticket/reply": Rule(For.OWNER_AND_STAFF, post=200, data=lambda w: of_ticket(w) | {"text": "Hello?"}),
    "POST ticket/note": Rule(For.STAFF, post=200, data=lambda w: of_ticket(w) | {"text": "The same host."}),
    "POST ticket/close": Rule(For.OWNER_AND_STAFF, post=200, data=of_ticket),
    "POST ticket/pass_on": Rule(For.OWNER_AND_STAFF, post=200, data=of_ticket),
    "GET notifications/list": Rule(For.OWNER_AND_STAFF, data=lambda w: {"user_id": w.alice.pk}),
}

OPEN_ADMIN = {"login", "logout"}


def routes(patterns: list[URLPattern | URLResolver], before: str = "", space: str = "") -> Iterator[tuple[str, str]]:
    """(path, full name) of every route below."""
    for entry in patterns:
        path = before + str(entry.pattern)
        if isinstance(entry, URLPattern):
            yield path, f"{space}{entry.name}"
        else:
            yield from routes(entry.url_patterns, path, f"{space}{entry.namespace}:" if entry.namespace else space)


def operations() -> set[str]:
    """`METHOD path` of every operation of the API."""
    paths = api.get_openapi_schema(path_prefix="/")["paths"]
    return {f"{method.upper()} {path.lstrip('/')}" for path, methods in paths.items() for method in methods}


def outcome(response: Any) -> int | str:
    """The status, or in a word how somebody was turned away."""
    if response.status_code == 401:
        return "log in"
    if response.status_code == 302 and response["Location"].startswith((reverse("account_login"), "/admin/login/")):
        return "log in"
    return response.status_code


def expected(rule: Rule, role: str, allowed: int, *, is_page: bool) -> int | str:
    """What `role` should be answered where those who may are answered `allowed`."""
    if rule.who == For.GUESTS:
        return allowed if role == "anonymous" else 302
    if rule.who == For.EVERYBODY:
        return allowed
    if rule.who == For.SHOPS:
        return "log in"
    if role == "anonymous":
        return "log in"
    if rule.who == For.MEMBERS:
        return allowed
    if rule.who == For.STAFF:
        return allowed if role == "root" else 403
    if rule.who == For.APPLICANT:
        return allowed if role == "rita" else 404
    if rule.who == For.RESELLER and is_page:
        return allowed if role == "rita" else 404
    if rule.who in (For.RESELLER, For.RESELLER_AND_STAFF):
        # Customers get no token for it at all.
        as_staff = allowed if rule.who == For.RESELLER_AND_STAFF else 404
        return {"rita": allowed, "root": as_staff}.get(role, 403)
    # Staff have the admin: on the pages of a customer they are strangers too.
    may = {"alice"} if is_page or rule.who == For.OWNER else {"alice", "root"}
    return allowed if role in may else 404


def client_of(role: str) -> Client:
    client = Client(headers={"Accept-Language": "en"})
    if role != "anonymous":
        client.force_login(User.objects.get(username=role))
    return client


def test_every_route_has_a_rule_and_no_rule_is_left_over() -> None:
    found = {(path, name) for path, name in routes(get_resolver().url_patterns) if not path.startswith("admin/")}
    pages = {(path, name) for path, name in found if name in PAGES or name.split(":")[0] != "api"}
    assert {name for _path, name in pages} == set(PAGES)
    # Two methods of one address are two operations and one route.
    assert len({path for path, _name in found - pages}) == len({name.split()[1] for name in operations()}), (
        found - pages
    )


def test_every_operation_of_the_api_has_a_rule_and_no_rule_is_left_over() -> None:
    assert operations() == set(OPERATIONS)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_lets_in_whom_it_is_for(world: World, name: str) -> None:
    rule = PAGES[name]
    for role in ROLES:
        url = reverse(name, kwargs=rule.args(world)) if name != "api:unknown" else "/api/no/such"
        for method, allowed in (("get", rule.get), ("post", rule.post)):
            if allowed is not None:
                answer = getattr(client_of(role), method)(url, rule.data(world) if method == "post" else {})
                assert outcome(answer) == expected(rule, role, allowed, is_page=True), (method, role)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_lets_in_whom_it_is_for(world: World, name: str) -> None:
    rule = OPERATIONS[name]
    method, path = name.split()
    for role in ROLES:
        caller = Caller(None if role == "anonymous" else User.objects.get(username=role))
        status, answer = getattr(caller, method.lower())(path.format(**rule.args(world)), **rule.data(world))
        allowed = (rule.get if method == "GET" else rule.post) or 200
        assert ("log in" if status == 401 else status) == expected(rule, role, allowed, is_page=False), (role, answer)
        assert answer.get("success", True) is (status == 200)


def test_a_session_without_a_token_opens_no_operation(world: World) -> None:
    answer = client_of("root").get("/api/server/list")
    assert answer.status_code == 401


def admin_paths() -> list[str]:
    """An address for every route of the admin, with a 1 wherever it wants an argument."""
    found = {
        "/" + re.sub(r"<[^>]+>", "1", path)
        for path, name in routes(get_resolver().url_patterns)
        if path.startswith("admin/") and "(?P" not in path and name.removeprefix("admin:") not in OPEN_ADMIN
    }
    return sorted(found)


def test_the_admin_is_for_staff_only(world: World) -> None:
    paths = admin_paths()
    assert len(paths) > 20
    for role in ROLES:
        client = client_of(role)
        for path in paths:
            if role != "root":
                assert outcome(client.get(path)) in ("log in", 403), (role, path)
    assert client_of("root").get(reverse("admin:index")).status_code == 200
