"""The staff scope opens the door; what may be done behind it is up to the same permissions as in the admin."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.utils import translation
from django.utils.translation import gettext

from accounts.models import User
from accounts.services import issue_token, open_ticket, send_message
from billing.models import Order
from resellers.models import Settlement
from serials import services as serials
from serials.models import Lease, SerialBatch
from tests.api_client import Caller, make_code, make_server
from tests.billing.till import order_of, priced_plan
from tests.conftest import make_user
from tests.resellers.trade import make_reseller
from tests.test_access import NODE_KEY, OPERATIONS, For

NEEDED = {
    "POST user/renew": {"accounts.change_user", "serials.change_lease"},
    "POST serial/generate": {"serials.change_serialbatch"},
    "POST serial/revoke": {"serials.change_serialnumber"},
    "POST lease/notify": {"serials.change_lease"},
    "POST lease/end": {"serials.change_lease"},
    "POST server/add": {"fleet.add_region", "fleet.add_server"},
    "GET server/list": {"fleet.view_server"},
    "POST server/update": {"fleet.change_server"},
    "POST server/delete": {"fleet.delete_server"},
    "GET server/health": {"fleet.view_server"},
    "GET server/events": {"fleet.view_server"},
    "GET server/ssh-key": {"fleet.view_server"},
    "POST server/test": {"fleet.change_server"},
    "POST server/check-ports": {"fleet.change_server"},
    "POST server/drain": {"fleet.change_server"},
    "POST server/undrain": {"fleet.change_server"},
    "POST server/enable": {"fleet.change_server"},
    "POST server/disable": {"fleet.change_server"},
    "POST server/address": {"fleet.change_server"},
    "POST server/enroll-script": {"fleet.add_server"},
    "POST region/add": {"fleet.add_region"},
    "POST container/allocate": {"fleet.add_relay"},
    "GET traffic/over_limit": {"fleet.view_relaygroup", "fleet.view_server"},
    "POST traffic/limit": {"fleet.change_userlimit"},
    "POST traffic/pack": {"fleet.add_trafficpack"},
    "GET server/traffic": {"fleet.view_server"},
    "POST server/traffic": {"fleet.change_server"},
    "POST container/restart": {"fleet.change_relay"},
    "POST container/move": {"fleet.change_relay"},
    "POST container/quarantine": {"fleet.change_relaygroup"},
    "POST container/unquarantine": {"fleet.change_relaygroup"},
    "POST container/limit-servers": {"fleet.change_relaygroup"},
    "POST container/release": {"fleet.change_relay"},
    "POST ha/failover": {"fleet.change_server", "fleet.change_relay"},
    "GET ha/failovers": {"fleet.view_evacuation"},
    "GET ha/failovers/{failover_id}": {"fleet.view_evacuation"},
    "GET ha/moves": {"fleet.view_move"},
    "GET alerts/list": {"fleet.view_alert"},
    "POST alerts/send": {"fleet.add_alert"},
    "POST alerts/acknowledge": {"fleet.change_alert"},
    "POST alerts/resolve": {"fleet.change_alert"},
    "GET alerts/silence": {"fleet.view_silence"},
    "POST alerts/silence": {"fleet.add_silence"},
    "GET logs/system": {
        *("accounts.view_auditentry", "accounts.view_taskfailure", "fleet.view_alert", "fleet.view_evacuation"),
        *("fleet.view_move", "fleet.view_relayevent", "fleet.view_serverevent"),
    },
    "GET monitoring/logs": {"fleet.view_measurement"},
    "GET monitoring/load_analysis": {"fleet.view_serverload"},
    "GET monitoring/realtime": {"fleet.view_serverload"},
    "GET monitoring/health": {"fleet.view_relayhealth", "fleet.view_server"},
    "POST acl/generate": {"fleet.add_aclconfig"},
    "POST rollout/start": {"fleet.add_rollout"},
    "GET rollout/list": {"fleet.view_rollout"},
    "GET rollout/{rollout_id}": {"fleet.view_rollout"},
    "POST rollout/stop": {"fleet.change_rollout"},
    "POST rollout/resume": {"fleet.change_rollout"},
    "POST rollout/cancel": {"fleet.change_rollout"},
    "POST rollout/rollback": {"fleet.add_rollout", "fleet.change_rollout"},
    "POST notifications/send": {"accounts.add_notification"},
    "POST order/confirm": {"billing.change_order"},
    "POST order/deliver": {"billing.change_order"},
    "POST order/refund": {"billing.change_order"},
    "POST order/refund_settle": {"billing.change_refund"},
    "GET payment/held": {"billing.view_transfer"},
    "POST payment/accept": {"billing.change_transfer"},
    "POST payment/return": {"billing.change_transfer"},
    "GET payment/refunds": {"billing.view_refund"},
    "GET finance/statistics": {"billing.view_posting"},
    "GET finance/report": {"billing.view_posting"},
    "POST finance/close_month": {"billing.add_closedmonth"},
    "GET finance/ledger": {"billing.view_posting"},
    "GET finance/payments": {"billing.view_order", "billing.view_payment"},
    "GET reseller/list": {"resellers.view_reseller"},
    "POST reseller/decide": {"resellers.change_reseller"},
    "POST reseller/run": {"resellers.add_settlement"},
    "POST reseller/settlement/decide": {"resellers.change_settlement"},
    "GET reseller/suspicions": {"resellers.view_suspicion"},
    "POST reseller/suspicion/decide": {"resellers.change_suspicion"},
    "POST reseller/assign": {"resellers.change_attribution"},
    "POST ticket/note": {"accounts.change_ticket"},
    "GET announcement/all": {"accounts.view_announcement"},
    "POST announcement/publish": {"accounts.add_announcement"},
    "POST announcement/mail": {"accounts.change_announcement"},
    "POST announcement/withdraw": {"accounts.change_announcement"},
}
SEES_ALL = {
    "GET serial/list": "serials.change_serialnumber",
    "POST serial/verify": "serials.view_serialnumber",
    "GET lease/list": "serials.view_lease",
    "POST lease/start_next": "serials.change_lease",
    "GET container/list": "fleet.view_relay",
    "GET container/usage": "fleet.view_relay",
    "GET traffic/realtime": "fleet.view_relay",
    "GET traffic/statistics": "fleet.view_relay",
    "GET acl/list": "fleet.view_aclconfig",
    "GET acl/history": "fleet.view_aclconfig",
    "POST acl/rollback": "fleet.add_aclconfig",
    "GET acl/check": "fleet.view_aclconfig",
    "GET acl/logs": "fleet.view_acllog",
    "GET acl/derpmap": "fleet.change_relaygroup",
    "GET notifications/list": "accounts.view_notification",
    "GET ticket/list": "accounts.view_ticket",
    "GET ticket/show": "accounts.view_ticket",
    "POST ticket/reply": "accounts.change_ticket",
    "POST ticket/close": "accounts.change_ticket",
    "POST ticket/pass_on": "accounts.change_ticket",
    "GET order/list": "billing.view_order",
    "GET order/{number}": "billing.view_order",
    "POST order/cancel": "billing.change_order",
    "GET reseller/commission": "resellers.view_commissionline",
    "GET reseller/settlements": "resellers.view_settlement",
    "GET reseller/settlement/{settlement_id}": "resellers.view_settlement",
}


@pytest.fixture
def helen(db: None) -> User:
    """An administrator who has been given no permission."""
    return make_user("helen", role="admin")


@pytest.fixture
def lease(alice: User, root: User) -> Lease:
    """alice's, with a relay, a serial and a message."""
    make_server()
    send_message(actor=root, user=alice, subject="Hello", body="World")
    return serials.activate(user=alice, code=make_code())[1]


def allow(user: User, *names: str) -> None:
    for name in names:
        room, codename = name.split(".")
        user.user_permissions.add(Permission.objects.get(content_type__app_label=room, codename=codename))


def ask(user: User, operation: str, **data: Any) -> tuple[int, Any]:
    method, path = operation.split()
    path = re.sub(r"{\w+}", "1", path)
    answer: tuple[int, Any] = getattr(Caller(user), method.lower())(path, **data)
    return answer


def test_every_operation_that_staff_may_more_with_names_its_permission() -> None:
    assert set(NEEDED) == {name for name, rule in OPERATIONS.items() if rule.who == For.STAFF}
    shared = (For.OWNER_AND_STAFF, For.RESELLER_AND_STAFF)
    assert set(SEES_ALL) == {name for name, rule in OPERATIONS.items() if rule.who in shared}


@pytest.mark.parametrize("operation", NEEDED)
def test_an_administrator_without_the_permission_is_refused_and_told_which(helen: User, operation: str) -> None:
    status, answer = ask(helen, operation)
    assert (status, answer["error"]["code"]) == (403, "forbidden")
    assert set(answer["error"]["permissions"]) == NEEDED[operation]


@pytest.mark.parametrize("operation", NEEDED)
def test_the_permission_opens_just_that_operation(helen: User, operation: str) -> None:
    allow(helen, *NEEDED[operation])
    for other, needed in NEEDED.items():
        assert (ask(helen, other)[0] == 403) is not (needed <= NEEDED[operation]), other


@pytest.mark.parametrize("operation", SEES_ALL)
def test_what_is_anothers_is_hidden_from_an_administrator_without_the_permission(
    helen: User, alice: User, lease: Lease, operation: str
) -> None:
    data: dict[str, Any] = {"user_id": alice.pk}
    if operation == "GET acl/derpmap":
        data = {"lease_id": lease.pk}
    elif operation == "GET traffic/realtime":
        data = {"container_id": lease.relay_group.relays.get().pk}
    elif operation == "POST lease/start_next":
        serials.activate(user=alice, code=make_code(), how=serials.How.QUEUE, lease_id=lease.pk)
        data = {"lease_id": lease.pk, "term_id": lease.terms.latest("id").pk}
    elif operation == "POST acl/rollback":
        data["version"] = 1
    elif operation == "GET acl/check":
        data["node_key"] = NODE_KEY
    elif operation == "POST serial/verify":
        data["code"] = make_code()
    elif operation in ("GET order/{number}", "POST order/cancel"):
        Order.objects.filter(pk=order_of(alice, priced_plan(30)).pk).update(number="1")
        data = {"number": "1"}
    elif " ticket/" in operation and operation != "GET ticket/list":
        ticket = open_ticket(user=alice, subject="Help", text="It is dark.", actor=alice)
        data = {"number": ticket.number, "text": "Here we are."}
    elif " reseller/" in operation:
        reseller = make_reseller(alice)
        fields = {"reseller": reseller, "month": date(2026, 1, 1), "currency": "CNY", "amount": 5, "payable": 5}
        Settlement.objects.create(pk=1, state=Settlement.State.OPEN, **fields)
        data = {"reseller_id": reseller.pk}
    assert ask(helen, operation, **data)[0] == 404
    allow(helen, SEES_ALL[operation])
    assert ask(helen, operation, **data)[0] == 200


def test_of_a_strangers_serial_an_administrator_without_the_permission_learns_only_the_status(
    helen: User, lease: Lease
) -> None:
    code = SerialBatch.objects.get().serials.get().code
    assert ask(helen, "GET serial/status", code=code)[1]["serial"]["lease_id"] is None
    allow(helen, "serials.view_serialnumber")
    assert ask(helen, "GET serial/status", code=code)[1]["serial"]["lease_id"] == lease.pk


def test_the_permission_alone_shows_nothing_without_the_staff_scope_or_the_role(
    helen: User, alice: User, lease: Lease
) -> None:
    allow(helen, "serials.view_lease")
    assert Caller(helen, "serials").get("lease/list", user_id=alice.pk)[0] == 404
    token = Caller(helen, "serials", "staff")
    assert token.get("lease/list", user_id=alice.pk)[0] == 200
    User.objects.filter(pk=helen.pk).update(role=User.Role.USER)
    assert token.get("lease/list", user_id=alice.pk)[0] == 404


def test_the_refusal_is_in_the_owners_language(helen: User) -> None:
    User.objects.filter(pk=helen.pk).update(language="zh-hans")
    _token, secret = issue_token(user=helen, name="t", scopes=["staff"], actor=helen)
    answer = Client().get("/api/server/list", headers={"Authorization": f"Bearer {secret}"})
    with translation.override("zh-hans"):
        assert answer.json()["error"]["message"] == gettext("You may not do this.") != "You may not do this."
