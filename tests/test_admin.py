"""The operator's pages as a whole: every one opens for staff and for nobody else, and none slows down as rows grow."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.apps import apps
from django.contrib import admin
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from unfold.mixins import ActionModelAdminMixin

from accounts import services as accounts
from accounts.models import Notification, User
from derp_portal.lib.clock import now
from fleet.models import (
    AclLog,
    Alert,
    AlertChannel,
    AlertDelivery,
    AlertRule,
    Breach,
    ControlServer,
    Evacuation,
    Knock,
    MapPush,
    Measurement,
    Meter,
    Metric,
    Move,
    MoveReason,
    NodeKey,
    Outage,
    QuotaPeriod,
    Relay,
    RelayHealth,
    RelayUptime,
    Rollout,
    Server,
    ServerEvent,
    ServerLoad,
    Silence,
    Traffic,
    TrafficPack,
    UserLimit,
)
from fleet.services import restart_relay
from fleet.services.authority import authority
from fleet.services.outages import note_trouble
from serials import services
from serials.models import Reminder
from tests.billing.desk import put_on_the_desk
from tests.conftest import make_user
from tests.resellers.desk import put_resellers_on_the_desk
from tests.serials.shop import make_plan, make_server, new_code_of

ROOMS = ("accounts", "fleet", "serials", "billing", "resellers", "django_celery_beat")
MAY_BE_EMPTY = {"clockedschedule", "crontabschedule", "port"}
SECRETS = ("derper_key", "certificate_key", "admission_secret", "debug_key")


def populate(count: int, *, start: int = 0) -> None:
    """That many of everything, each with troubles of its own."""
    root = User.objects.get(username="root")
    for number in range(start, start + count):
        server = make_server(f"server {number}", status=Server.Status.HEALTHY)
        plan = make_plan(3 + number)
        user = make_user(f"customer{number}")
        _serial, lease = services.activate(user=user, code=new_code_of(plan), actor=user)
        relay = lease.relay_group.relays.get(slot=0)
        restart_relay(relay_id=relay.pk, actor=root)
        RelayHealth.objects.create(relay=relay, status=RelayHealth.Status.UNHEALTHY, error="timeout", checked_at=now())
        RelayUptime.objects.create(relay=relay, day=now().date(), probes=3, answered=2, latency_sum_ms=36.8)
        note_trouble(relay, "disk_full", "no space left")
        server.status, server.phase, server.error_code = Server.Status.UNHEALTHY, Server.Phase.SUSPECT, "unreachable"
        server.save()
        ServerEvent.objects.create(server=server, kind=ServerEvent.Kind.SUSPECT, detail="unreachable")
        ServerLoad.objects.create(server=server, cpu_percent=12.5, error="timeout", measured_at=now())
        Measurement.objects.create(server=server, metric=Metric.CPU, value=12.5, highest=12.5, timestamp=now())
        evacuation = Evacuation.objects.create(server=server, server_name=server.name, reason=MoveReason.FAILURE)
        Move.objects.create(
            relay=relay,
            evacuation=evacuation,
            reason=MoveReason.FAILURE,
            waits_for="no_room",
            from_server=server,
            from_generation=1,
        )
        alert = Alert.objects.create(
            alert_type=Alert.Kind.SERVER_LOST,
            severity=Alert.Severity.CRITICAL,
            subject=str(server.pk),
            server=server,
            params={"server": server.name, "since": "noon"},
        )
        rule = AlertRule.objects.create(name=f"rule {number}", metric=Metric.CPU, threshold=number)
        rule.servers.add(server)
        Breach.objects.create(rule=rule, server=server, since=now())
        channel = AlertChannel.objects.create(
            name=f"channel {number}", owner=user, address="json://192.0.2.1/", is_enabled=False
        )
        AlertDelivery.objects.create(alert=alert, channel=channel, not_before=now())
        Silence.objects.create(server=server, starts_at=now(), ends_at=now() + timedelta(hours=1))
        Rollout.objects.create(image=f"derper:{number}", state=Rollout.State.DONE, ended_at=now())
        Outage.objects.create(
            group=lease.relay_group, cause="timeout", started_at=now() - timedelta(hours=2), ended_at=now()
        )
        Meter.objects.create(relay=relay, generation=1, read_at=now())
        Traffic.objects.create(relay=relay, server=server, span=Traffic.Span.DAY, starts_at=now(), upload_bytes=number)
        period = QuotaPeriod.objects.create(
            group=lease.relay_group, starts_at=now(), ends_at=now() + timedelta(days=3), used_bytes=number
        )
        TrafficPack.objects.create(group=lease.relay_group, period=period, extra_bytes=1, key=f"pack {number}")
        UserLimit.objects.create(owner=user, quota_bytes=number)
        Reminder.objects.create(lease=lease, lease_end=lease.ends_at, days=7)
        NodeKey.objects.create(owner=user, key=f"nodekey:{number:064x}")
        seen = {"user": user, "node_key": f"nodekey:{number:064x}"}
        Knock.objects.create(**seen, first_at=now(), last_at=now())
        AclLog.objects.create(
            **seen, key=uuid4(), relay=relay, acl_version=1, is_allowed=True, reason="listed", created_at=now()
        )
        account = ControlServer.objects.create(owner=user, kind="tailscale", credential="secret")
        MapPush.objects.create(
            group=lease.relay_group, control_server=account, text_before="{}", etag="x", pushed_at=now()
        )
        accounts.open_ticket(user=user, subject="Help", text="It is dark.", about=f"lease:{lease.pk}", actor=user)
        accounts.issue_token(user=user, name="x", scopes=["account"], actor=user)
        accounts.publish_announcement(title=f"News {number}", text="All is well.", by_mail=True, actor=root)
        put_on_the_desk(user, plan, number, root)
        put_resellers_on_the_desk(user, plan, number)
        accounts.note_failure(task="t", task_id=str(number), args=(number,), error="e")
    authority()
    Notification.objects.update(status=Notification.Status.FAILED)


def own_pages() -> list[str]:
    """Pages of the admin that list no single model."""
    return [reverse(name) for name in ("admin:index", "admin:fleet_overview", "admin:fleet_graphs", "system_log")]


def lists() -> dict[str, type[Model]]:
    """The addresses of every list of rooms that are ours to show."""
    return {
        reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist"): model
        for model in admin.site._registry
        if model._meta.app_label in ROOMS
    }


def queries_of(browser: Client, address: str) -> int:
    with CaptureQueriesContext(
        connection,
    ) as seen:
        assert browser.get(address).status_code == 200
    return len(seen)


@pytest.fixture
def roots(client: Client, root: User) -> Client:
    """root's browser."""
    client.force_login(root)
    return client


def test_every_table_has_a_page_for_the_operator() -> None:
    shown = {model._meta.label for model in admin.site._registry}
    tables = {model._meta.label for room in ROOMS[:5] for model in apps.get_app_config(room).get_models()}
    # These are seen on the pages of what they belong to.
    assert tables - shown == {
        *(
            "accounts.TicketMessage",
            "accounts.ClosedAnnouncement",
            "fleet.Port",
            "serials.LeaseTerm",
            "serials.Reminder",
        ),
        *("billing.OrderLine", "billing.OrderTransition", "billing.SoldSerial", "billing.CouponUse"),
        *("billing.TrialUse", "billing.ChannelStock", "billing.RolledDay"),
        *("resellers.Rate", "resellers.PayoutMinimum", "resellers.LevelPeriod", "resellers.CommissionBook"),
        # Digests that only suspicions compare: there is nothing to look at.
        "accounts.Browser",
        # The other side of the test gateway is no business of ours.
        *("billing.SandboxCharge", "billing.SandboxCallback"),
    }


def test_every_list_and_every_page_opens_for_staff_and_for_nobody_else(roots: Client) -> None:
    populate(2)
    stranger = Client()
    stranger.force_login(User.objects.get(username="customer0"))
    addresses = [*own_pages()]
    for address, model in lists().items():
        row = model._default_manager.order_by("pk").first()
        assert row is not None or model._meta.model_name in MAY_BE_EMPTY, f"{model} has no row to look at"
        addresses += [address, f"{address}?q=server"]
        if row is not None:
            addresses.append(f"{address}{row.pk}/change/")
    assert {address: roots.get(address).status_code for address in addresses} == dict.fromkeys(addresses, 200)
    assert {address: stranger.get(address).status_code for address in addresses} == dict.fromkeys(addresses, 302)


def test_an_address_that_names_no_row_is_answered_everywhere(roots: Client) -> None:
    addresses = {
        f"{address}{row_id}/change/" for address in [*lists(), "/admin/auth/group/"] for row_id in ("abc", "9" * 30)
    }
    assert {address: roots.get(address).status_code for address in addresses} == dict.fromkeys(addresses, 302)


def test_an_action_on_no_row_is_refused_everywhere(roots: Client) -> None:
    rows = [its for its in admin.site._registry.values() if isinstance(its, ActionModelAdminMixin)]
    names = {one.action_name for its in rows for one in its._get_base_actions_detail()}
    assert len(names) > 20
    answers = {name: roots.get(reverse(f"admin:{name}", args=["abc"])).status_code for name in names}
    assert {name for name, status in answers.items() if status not in (302, 403, 404)} == set()


def test_no_list_and_not_the_overview_asks_more_of_the_database_when_there_is_more(roots: Client) -> None:
    addresses = [*lists(), *own_pages()]
    populate(3)
    for address in addresses:
        roots.get(address)  # Content types and the like are asked for once a process.
    few = {address: queries_of(roots, address) for address in addresses}
    populate(6, start=3)
    many = {address: queries_of(roots, address) for address in addresses}
    assert many == few
    assert few.pop(reverse("admin:index")) <= 40
    assert max(few.values()) <= 25


def test_the_overview_says_first_what_needs_attention(roots: Client) -> None:
    populate(1)
    page = roots.get(reverse("admin:index"))
    titles = [kind.title for kind in page.context["attention"]]
    assert titles == [
        "Unhealthy servers",
        "Relays in trouble",
        "Customers without a relay",
        "Tickets that wait for an answer",
        "Paid orders that cannot be delivered",
        "Money that does not fit",
        "Money to confirm",
        "Refunds to send by hand",
        "Outside shops that run out of serials",
        "Applications of resellers",
        "Orders that may be a reseller's own",
        "Settlements to approve",
        "Settlements to pay",
        "Mails that could not be sent",
    ]
    text = page.content.decode()
    assert "The server cannot be reached." in text
    assert text.index("Needs attention") < text.index("Room by region")


def test_the_overview_is_calm_when_nothing_is_wrong(roots: Client) -> None:
    page = roots.get(reverse("admin:index"))
    assert page.context["attention"] == []
    assert "There is no server yet." in page.content.decode()


def test_the_overview_counts_what_is_there(roots: Client) -> None:
    server = make_server(max_relays=10)
    plan = make_plan(3)
    user = make_user("alice")
    services.generate(count=4, plan=plan, actor=None)
    services.activate(user=user, code=new_code_of(plan), actor=user)
    Relay.objects.update(observed_state=Relay.Observed.RUNNING)
    page = roots.get(reverse("admin:index"))
    assert [figure.value for figure in page.context["figures"]] == ["2", "1", "1", "1 / 1", "4"]
    [room] = page.context["rooms"]
    assert (room.taken, room.places, room.share, room.days_left) == (1, 10, 10, 270)
    server.is_enabled = False
    server.save()
    [room] = roots.get(reverse("admin:index")).context["rooms"]
    assert (room.places, room.share, room.days_left) == (0, 100, None)


def test_staff_without_rights_see_no_figures_and_no_lists(client: Client, db: None) -> None:
    client.force_login(make_user("helen", role="admin"))
    assert "figures" not in client.get(reverse("admin:index")).context
    answers: dict[str, Any] = {address: client.get(address).status_code for address in lists()}
    assert answers == dict.fromkeys(answers, 403)


def test_secrets_of_relays_are_on_no_page(roots: Client) -> None:
    populate(1)
    relay = Relay.objects.get(owner__username="customer0")
    page = roots.get(reverse("admin:fleet_relay_change", args=[relay.pk])).content.decode()
    group = roots.get(reverse("admin:fleet_relaygroup_change", args=[relay.group_id])).content.decode()
    for name in SECRETS:
        assert getattr(relay, name) not in page
    assert relay.group.map_token is not None
    assert relay.group.map_token not in group


def test_no_row_that_is_history_can_be_deleted(roots: Client) -> None:
    populate(1)
    kept = [
        *("serials_lease", "serials_serialnumber", "serials_serialbatch", "serials_binding"),
        *("fleet_relay", "fleet_relaygroup", "fleet_relayevent", "fleet_relayhealth", "fleet_outage", "fleet_nodekey"),
        *("fleet_region", "django_celery_beat_periodictask", "django_celery_beat_intervalschedule"),
        *("accounts_ticket", "accounts_announcement"),
        *("billing_order", "billing_payment", "billing_transfer", "billing_refund", "billing_gatewaycallback"),
        *("resellers_reseller", "resellers_attribution", "resellers_commissionline", "resellers_settlement"),
        *("resellers_suspicion", "resellers_signup", "resellers_linkday", "resellers_resale", "resellers_leasecontact"),
    ]
    models = {f"{model._meta.app_label}_{model._meta.model_name}": model for model in lists().values()}
    for name in kept:
        row = models[name]._default_manager.first()
        assert row is not None
        assert roots.post(reverse(f"admin:{name}_delete", args=[row.pk]), {"post": "yes"}).status_code == 403
        page = roots.get(reverse(f"admin:{name}_changelist")).content.decode()
        assert "delete_selected" not in page
