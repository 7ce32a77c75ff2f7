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

from accounts.models import ApiToken, Notification, User
from accounts.services import issue_token
from derp_portal.api import api
from derp_portal.lib.clock import now
from fleet import services as fleet
from fleet.models import Alert, ControlServer, Evacuation, Knock, MapPush, NodeKey, Relay, RelayGroup, Rollout, Server
from fleet.services.alerts import raise_alert
from serials import services as serials
from serials.models import Lease, SerialBatch
from tests.api_client import Caller, make_batch, make_code, make_server

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


@pytest.fixture
def world(alice: User, bob: User, rita: User, root: User) -> World:
    server = make_server()
    code = make_code()
    _serial, lease = serials.activate(user=alice, code=code)
    return World(alice, bob, server, lease, Relay.objects.get(), code)


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


PAGES = {
    "healthz": Rule(For.EVERYBODY),
    # Everybody on this machine, that is; tests/test_prometheus.py says who else.
    "metrics": Rule(For.EVERYBODY),
    "home": Rule(For.EVERYBODY),
    "set_language": Rule(For.EVERYBODY, get=302, post=302, data=lambda w: {"language": "en"}),
    # doors for machines: whoever knows the secret
    "admit": Rule(For.EVERYBODY, get=405, post=400, args=lambda w: {"secret": "unknown"}),
    "derp_map": Rule(For.EVERYBODY, args=lambda w: {"token": w.lease.relay_group.map_token}),
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
    "GET plan/list": Rule(For.EVERYBODY),
    "GET lease/list": Rule(For.OWNER_AND_STAFF, data=lambda w: {"user_id": w.alice.pk}),
    "POST lease/notify": Rule(For.STAFF, post=200, data=lambda w: of_lease(w) | {"kind": "reminder"}),
    "POST lease/start_next": Rule(For.OWNER_AND_STAFF, post=409, data=lambda w: of_lease(w) | {"term_id": 0}),
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
    if role == "anonymous":
        return "log in"
    if rule.who == For.MEMBERS:
        return allowed
    if rule.who == For.STAFF:
        return allowed if role == "root" else 403
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
