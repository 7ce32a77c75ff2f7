"""Figures past a threshold for long enough are alerts: once, reminded of, over by themselves, quiet when seen to."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from time_machine import Traveller

from accounts.models import AuditEntry, Notification, User
from derp_portal.lib.clock import now
from fleet.models import Alert, AlertChannel, AlertDelivery, AlertRule, Breach, Metric, Server, ServerLoad, Silence
from fleet.services import alert_delivery
from fleet.services.alert_rules import FIELDS, UNITS, watch_rules
from fleet.services.alert_words import WORDS, wording
from fleet.services.alerts import acknowledge, raise_alert, resolve_alert, resolve_by_hand
from tests.api_client import Caller
from tests.conftest import make_user
from tests.fleet.fleet_parts import region, server
from tests.fleet.listener import listening
from tests.serials.shop import at_once

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

pytestmark = pytest.mark.django_db


@pytest.fixture
def clock() -> Iterator[Traveller]:
    with time_machine.travel(NOON, tick=False) as travel:
        yield travel


@pytest.fixture
def rule() -> AlertRule:
    """CPU over 90 % for five minutes, reminded of every four hours; the only one."""
    AlertRule.objects.all().delete()
    return AlertRule.objects.create(name="Busy", metric=Metric.CPU, threshold=90)


def measured(here: Server, **figures: Any) -> None:
    ServerLoad.objects.update_or_create(server=here, defaults={"measured_at": now(), **figures})


def minutes(clock: Traveller, count: float, here: Server | None = None, **figures: Any) -> None:
    """So long the sweep runs twice a minute (less often in a long time), with these figures of the server."""
    step = 240 if count > 600 else 120 if count > 60 else 30
    for _step in range(int(count * 60 / step)):
        clock.shift(timedelta(seconds=step))
        if here is not None:
            measured(here, **figures)
        watch_rules()


def open_alerts() -> list[Alert]:
    return list(Alert.objects.filter(resolved=False))


def test_a_figure_past_its_threshold_is_an_alert_once_it_has_lasted(rule: AlertRule, clock: Traveller) -> None:
    here = server(1)
    minutes(clock, 5, here, cpu_percent=97.25)
    assert open_alerts() == []
    assert Breach.objects.count() == 1
    minutes(clock, 60, here, cpu_percent=97.25)
    [alert] = open_alerts()
    assert Alert.objects.count() == 1
    assert (alert.rule, alert.server, alert.severity) == (rule, here, "warning")
    assert alert.subject == f"rule:{rule.pk}:server:{here.pk}"
    assert alert.message == "Server server-1, CPU (%): reached 97.2, threshold 90 (Busy)."


def test_it_is_over_by_itself_when_the_figure_is_back(rule: AlertRule, clock: Traveller) -> None:
    here = server(1)
    minutes(clock, 6, here, cpu_percent=97)
    minutes(clock, 0.5, here, cpu_percent=90)
    assert open_alerts() == []
    assert Alert.objects.get().resolved_at == now()
    assert not Breach.objects.exists()
    minutes(clock, 6, here, cpu_percent=97)
    assert len(open_alerts()) == 1, "the next time is another alert"


def test_a_figure_that_comes_and_goes_has_not_lasted(rule: AlertRule, clock: Traveller) -> None:
    here = server(1)
    for _turn in range(5):
        minutes(clock, 4, here, cpu_percent=97)
        minutes(clock, 0.5, here, cpu_percent=20)
    assert Alert.objects.count() == 0


def test_old_and_missing_figures_neither_raise_nor_close(rule: AlertRule, clock: Traveller) -> None:
    here = server(1)
    minutes(clock, 2, here, cpu_percent=97)
    minutes(clock, 10)
    assert Alert.objects.count() == 0, "nobody knows whether it lasted"
    minutes(clock, 6, here, cpu_percent=97)
    minutes(clock, 10)
    minutes(clock, 1, here, cpu_percent=None)
    assert len(open_alerts()) == 1


def test_a_rule_may_hold_under_a_threshold_and_for_some_servers_or_regions_only(
    rule: AlertRule, clock: Traveller
) -> None:
    idle = AlertRule.objects.create(
        name="Empty", metric=Metric.CONTAINERS, comparison="under", threshold=1, for_seconds=0, severity="critical"
    )
    one, two, far = server(1), server(2), server(3, region=region("far"))
    for here in (one, two, far):
        measured(here, containers_running=0, cpu_percent=1)
    idle.servers.set([one, far])
    idle.regions.set([region()])
    watch_rules()
    assert [alert.server for alert in open_alerts()] == [one]
    idle.servers.clear()
    watch_rules()
    assert {alert.server for alert in open_alerts()} == {one, two}
    idle.regions.set([region("far")])
    watch_rules()
    assert [alert.server for alert in open_alerts()] == [far], "what the rule does not cover any more is over"


@pytest.mark.parametrize("how", ["switched off", "deleted"])
def test_what_a_rule_raised_is_over_when_the_rule_is(rule: AlertRule, clock: Traveller, how: str) -> None:
    minutes(clock, 6, server(1), cpu_percent=97)
    if how == "deleted":
        rule.delete()
    else:
        AlertRule.objects.update(is_enabled=False)
    watch_rules()
    assert (open_alerts(), Breach.objects.count()) == ([], 0)


def test_operators_are_told_once_and_reminded_until_somebody_acknowledges_it(
    rule: AlertRule, clock: Traveller, root: User
) -> None:
    with listening() as listener:
        AlertChannel.objects.create(name="webhook", owner=root, address=listener.address)
        here = server(1)
        minutes(clock, 60 * 3, here, cpu_percent=97)
        assert alert_delivery.deliver_due() == 1
        assert AlertDelivery.objects.count() == 1
        minutes(clock, 70, here, cpu_percent=97)
        assert alert_delivery.deliver_due() == 1
        assert len(listener.arrived) == 2
        acknowledge(alert_id=open_alerts()[0].pk, actor=root)
        acknowledge(alert_id=open_alerts()[0].pk, actor=root)
        assert AuditEntry.objects.filter(event="alert.acknowledged").count() == 1
        minutes(clock, 60 * 5, here, cpu_percent=97)
        assert AlertDelivery.objects.count() == 2
        assert len(open_alerts()) == 1


def test_of_what_is_critical_operators_without_a_channel_are_reminded_by_mail_once_a_day(
    clock: Traveller, root: User
) -> None:
    raise_alert(Alert.Kind.NO_ROOM, severity=Alert.Severity.CRITICAL, subject="fleet", count=1)
    raise_alert(Alert.Kind.ALLOWANCE, severity=Alert.Severity.WARNING, subject="1", percent=91, server=server(1))
    assert Notification.objects.count() == 2
    for _hour in range(50):
        clock.shift(timedelta(hours=1))
        watch_rules()
    assert Notification.objects.count() == 4
    resolve_alert(Alert.Kind.NO_ROOM, subject="fleet")
    clock.shift(timedelta(days=2))
    watch_rules()
    assert Notification.objects.count() == 4


def test_what_outlasts_a_silence_is_told_when_the_next_reminder_is_due(
    rule: AlertRule, clock: Traveller, root: User
) -> None:
    here = server(1)
    Silence.objects.create(server=here, starts_at=now(), ends_at=now() + timedelta(hours=5))
    minutes(clock, 60 * 5 - 2, here, cpu_percent=97)
    assert (len(open_alerts()), Notification.objects.count()) == (1, 0)
    minutes(clock, 3, here, cpu_percent=97)
    assert Notification.objects.count() == 1


def test_what_was_resolved_by_hand_stays_quiet_for_a_day_while_it_lasts(
    rule: AlertRule, clock: Traveller, root: User
) -> None:
    here = server(1)
    minutes(clock, 6, here, cpu_percent=97)
    resolve_by_hand(alert_id=Alert.objects.get().pk, actor=root)
    minutes(clock, 60 * 23, here, cpu_percent=97)
    assert (Alert.objects.count(), Notification.objects.count()) == (1, 1)
    minutes(clock, 70, here, cpu_percent=97)
    assert (Alert.objects.count(), Notification.objects.count()) == (2, 2)


def test_what_was_resolved_by_hand_and_was_over_meanwhile_is_told_at_once(
    rule: AlertRule, clock: Traveller, root: User
) -> None:
    here = server(1)
    minutes(clock, 6, here, cpu_percent=97)
    resolve_by_hand(alert_id=Alert.objects.get().pk, actor=root)
    minutes(clock, 1, here, cpu_percent=20)
    minutes(clock, 6, here, cpu_percent=97)
    assert (len(open_alerts()), Notification.objects.count()) == (1, 2)


def test_every_source_of_alerts_is_quiet_after_a_resolve_by_hand(clock: Traveller, root: User) -> None:
    def sweep() -> Alert:
        return raise_alert(Alert.Kind.NO_ROOM, severity=Alert.Severity.CRITICAL, subject="fleet", count=1)

    first = sweep()
    clock.shift(timedelta(minutes=1))
    resolve_by_hand(alert_id=first.pk, actor=root)
    assert sweep() == first
    clock.shift(timedelta(minutes=1))
    resolve_alert(Alert.Kind.NO_ROOM, subject="fleet")
    assert sweep() != first


def test_an_alert_that_was_acknowledged_and_went_over_by_itself_is_told_when_it_returns(
    clock: Traveller, root: User
) -> None:
    first = raise_alert(Alert.Kind.NO_ROOM, severity=Alert.Severity.CRITICAL, subject="fleet", count=1)
    acknowledge(alert_id=first.pk, actor=root)
    clock.shift(timedelta(minutes=1))
    resolve_alert(Alert.Kind.NO_ROOM, subject="fleet")
    assert raise_alert(Alert.Kind.NO_ROOM, severity=Alert.Severity.CRITICAL, subject="fleet", count=1) != first


@pytest.mark.django_db(transaction=True)
def test_two_workers_at_once_raise_and_tell_once(root: User) -> None:
    AlertRule.objects.all().delete()
    AlertRule.objects.create(name="Busy", metric=Metric.CPU, threshold=90, for_seconds=0)
    for number in range(1, 4):
        measured(server(number), cpu_percent=99)
    assert at_once([watch_rules] * 3) == [None] * 3
    assert (Alert.objects.count(), Breach.objects.count(), Notification.objects.count()) == (3, 3, 3)


@pytest.mark.django_db(transaction=True)
def test_two_workers_at_once_remind_once(root: User) -> None:
    raise_alert(Alert.Kind.NO_ROOM, severity=Alert.Severity.CRITICAL, subject="fleet", count=1)
    long_ago = now() - timedelta(days=2)
    Alert.objects.update(told_at=long_ago, created_at=long_ago)
    at_once([watch_rules] * 3)
    assert Notification.objects.count() == 2


def test_a_look_at_more_servers_and_more_alerts_asks_the_same_few_questions(rule: AlertRule, clock: Traveller) -> None:
    def questions() -> int:
        with CaptureQueriesContext(connection) as seen:
            watch_rules()
        return len(seen)

    AlertRule.objects.update(for_seconds=0)
    counts = []
    for number in range(1, 31):
        measured(server(number), cpu_percent=99)
        if number in (3, 30):
            watch_rules()
            counts.append(questions())
    assert counts[0] == counts[1] <= 10
    assert len(open_alerts()) == 30


def test_every_metric_has_a_figure_a_unit_and_every_kind_of_alert_its_words() -> None:
    columns = {field.name for field in ServerLoad._meta.get_fields()}
    assert set(FIELDS) == set(UNITS) == set(Metric)
    assert set(FIELDS.values()) <= columns
    assert set(WORDS) == set(Alert.Kind) - {Alert.Kind.PORTAL}, "what rooms above say is taught"


def test_sensible_rules_are_shipped_and_can_be_changed_on_their_page(client: Client, root: User) -> None:
    shipped = set(AlertRule.objects.values_list("metric", "threshold", "for_seconds", "severity"))
    assert {("cpu", 90, 600, "warning"), ("memory", 92, 600, "warning"), ("disk", 95, 60, "critical")} <= shipped
    client.force_login(root)
    one = AlertRule.objects.get(metric="cpu")
    values = {"name": one.name, "metric": "cpu", "comparison": "over", "threshold": "80", "for_seconds": "60"}
    page = reverse("admin:fleet_alertrule_change", args=[one.pk])
    answer = client.post(page, {**values, "severity": "critical", "remind_seconds": "0", "is_enabled": "on"})
    assert answer.status_code == 302
    one.refresh_from_db()
    assert (one.threshold, one.severity) == (80, "critical")
    assert AuditEntry.objects.filter(event="alertrule.changed", actor_label="root").count() == 1


# --- by hand --------------------------------------------------------------------------------------


def test_staff_send_an_alert_look_into_it_and_end_it(root: User) -> None:
    staff, here = Caller(root), server(1)
    status, sent = staff.post("alerts/send", severity="critical", message="100 % of them", server_id=here.pk)
    assert status == 200
    alert = Alert.objects.get(pk=sent["alert_id"])
    assert (alert.alert_type, wording(alert), alert.server) == ("manual", "100 % of them", here)
    assert Notification.objects.filter(user=root).count() == 1
    assert staff.get("alerts/list", acknowledged="false")[1]["total"] == 1
    assert staff.post("alerts/acknowledge", alert_id=alert.pk)[0] == 200
    [shown] = staff.get("alerts/list", acknowledged="true", server_id=here.pk, alert_type="manual")[1]["items"]
    assert shown["acknowledged_at"] is not None
    assert staff.post("alerts/resolve", alert_id=alert.pk)[0] == 200
    assert staff.post("alerts/send", severity="info", message="  ")[0] == 422
    assert staff.post("alerts/send", severity="info", message="x", server_id=10**6)[0] == 404


def test_staff_silence_a_server_for_a_while(root: User, clock: Traveller) -> None:
    staff, here = Caller(root), server(1)
    status, made = staff.post("alerts/silence", minutes=30, server_id=here.pk, note="new disk")
    assert status == 200
    [shown] = staff.get("alerts/silence")[1]["items"]
    assert (shown["id"], shown["server_id"], shown["alert_type"]) == (made["silence_id"], here.pk, "")
    assert Silence.objects.get().ends_at == NOON + timedelta(minutes=30)
    assert staff.post("alerts/silence", minutes=0)[0] == 422


def test_alerts_are_acknowledged_in_the_list(client: Client, root: User) -> None:
    client.force_login(root)
    alert = raise_alert(Alert.Kind.NO_ROOM, severity=Alert.Severity.CRITICAL, subject="fleet", count=1)
    address = reverse("admin:fleet_alert_changelist")
    client.post(address, {"action": "acknowledge", "_selected_action": [alert.pk]})
    alert.refresh_from_db()
    assert (alert.acknowledged_by, alert.resolved) == (root, False)
    assert "Acknowledged" in client.get(address).content.decode()


def test_an_operator_sends_an_alert_by_hand_from_the_list(client: Client, root: User) -> None:
    client.force_login(root)
    here = server()
    address = reverse("admin:fleet_alert_send")
    assert address in client.get(reverse("admin:fleet_alert_changelist")).content.decode()
    assert "until somebody resolves it" in client.get(address).content.decode()
    answer = {"severity": "critical", "message": "Power cut tonight at 22:00.", "server": str(here.pk)}
    assert client.post(address, {**answer, "message": " "}).status_code == 200
    assert not Alert.objects.exists()
    assert "The alert is on its way." in client.post(address, answer, follow=True).content.decode()
    alert = Alert.objects.get()
    assert (alert.severity, alert.server, alert.message) == ("critical", here, "Power cut tonight at 22:00.")


def test_who_may_only_look_at_alerts_sends_none(client: Client) -> None:
    helen = make_user("helen", role="admin")
    helen.user_permissions.set(Permission.objects.filter(codename="view_alert"))
    client.force_login(helen)
    assert client.get(reverse("admin:fleet_alert_changelist")).status_code == 200
    client.post(reverse("admin:fleet_alert_send"), {"severity": "info", "message": "x"})
    assert not Alert.objects.exists()
