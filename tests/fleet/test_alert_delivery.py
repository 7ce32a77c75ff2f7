"""Alerts reach people: by their channels, grouped, tried again, once; by mail for who has no channel."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.core.exceptions import ValidationError
from django.test import Client
from django.urls import reverse
from time_machine import Traveller

from accounts.models import AuditEntry, Notification, User
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet.models import Alert, AlertChannel, AlertDelivery, Silence
from fleet.services import alert_delivery
from fleet.services.alert_words import undelivered
from fleet.services.alerts import raise_alert, resolve_alert, resolve_by_hand
from tests.conftest import make_user
from tests.fleet.fleet_parts import server
from tests.fleet.listener import Listener, listening
from tests.serials.shop import at_once

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
Severity = Alert.Severity


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as one:
        yield one


@pytest.fixture
def clock() -> Iterator[Traveller]:
    with time_machine.travel(NOON, tick=False) as travel:
        yield travel


@pytest.fixture
def channel(root: User, listener: Listener) -> AlertChannel:
    """root's, for warnings and worse."""
    return AlertChannel.objects.create(name="webhook", owner=root, address=listener.address)


def no_room(subject: str = "fleet", *, severity: Alert.Severity = Severity.CRITICAL, **more: Any) -> Alert:
    return raise_alert(Alert.Kind.NO_ROOM, severity=severity, subject=subject, **{"count": 3, **more})


def sweep(clock: Traveller, *, after: int) -> int:
    clock.shift(timedelta(seconds=after))
    return alert_delivery.deliver_due()


def test_an_alert_arrives_once_and_only_after_others_had_time_to_join_it(
    channel: AlertChannel, listener: Listener, clock: Traveller
) -> None:
    no_room()
    no_room()
    assert sweep(clock, after=5) == 0
    assert [sweep(clock, after=10) for _more in range(3)] == [1, 0, 0]
    [message] = listener.arrived
    assert message["title"] == "[critical] Relays find no place"
    assert "3 relays find no place" in message["message"]
    assert message["type"] == "failure"
    channel.refresh_from_db()
    assert (channel.last_sent_at, channel.last_error) == (AlertDelivery.objects.get().sent_at, "")


def test_the_message_is_in_the_language_of_the_channels_owner(listener: Listener, clock: Traveller, db: None) -> None:
    owner = make_user("wei", role="admin", language="zh-hans")
    AlertChannel.objects.create(name="webhook", owner=owner, address=listener.address)
    no_room()
    sweep(clock, after=15)
    assert "3 relays find no place" not in listener.texts[0]


def test_who_was_told_of_an_alert_is_told_of_its_end(
    channel: AlertChannel, listener: Listener, clock: Traveller
) -> None:
    no_room()
    sweep(clock, after=15)
    resolve_alert(Alert.Kind.NO_ROOM, subject="fleet")
    resolve_alert(Alert.Kind.NO_ROOM, subject="fleet")
    assert [sweep(clock, after=15) for _more in range(2)] == [1, 0]
    [_began, ended] = listener.arrived
    assert (ended["title"], ended["type"]) == ("[Over] Relays find no place", "success")
    assert "over by now" in ended["message"]


def test_what_was_over_before_anybody_was_told_is_told_once(
    channel: AlertChannel, listener: Listener, clock: Traveller
) -> None:
    no_room()
    resolve_alert(Alert.Kind.NO_ROOM, subject="fleet")
    assert [sweep(clock, after=15) for _more in range(2)] == [1, 0]


def test_an_operator_who_resolved_it_by_hand_needs_no_message(
    channel: AlertChannel, listener: Listener, clock: Traveller, root: User
) -> None:
    alert = no_room()
    sweep(clock, after=15)
    resolve_by_hand(alert_id=alert.pk, actor=root)
    resolve_alert(Alert.Kind.NO_ROOM, subject="fleet")
    assert sweep(clock, after=15) == 0


def test_notes_of_deliveries_are_forgotten_after_three_months_and_alerts_are_not(
    channel: AlertChannel, listener: Listener, clock: Traveller
) -> None:
    no_room()
    sweep(clock, after=15)
    clock.shift(timedelta(days=89))
    no_room("later")
    clock.shift(timedelta(days=2))
    alert_delivery.forget_old_deliveries()
    assert [delivery.alert.subject for delivery in AlertDelivery.objects.all()] == ["later"]
    assert Alert.objects.count() == 2


def test_a_storm_is_one_message_with_the_worst_first(
    channel: AlertChannel, listener: Listener, clock: Traveller
) -> None:
    for number in range(29):
        no_room(f"place {number}", severity=Severity.WARNING)
    no_room("the worst", count=77)
    assert sweep(clock, after=15) == 1
    [text] = listener.texts
    assert text.startswith("[critical] 77 relays")
    assert "and 10 more" in text
    assert AlertDelivery.objects.filter(sent_at=None).count() == 0
    for _minute in range(6):
        no_room(f"later {_minute}")
        sweep(clock, after=9)
    assert len(listener.texts) == 1, "a storm goes on: what follows is gathered for a minute"
    assert sweep(clock, after=10) == 1


def test_a_channel_hears_of_its_severity_and_up(channel: AlertChannel, listener: Listener, clock: Traveller) -> None:
    no_room("a", severity=Severity.INFO)
    assert sweep(clock, after=15) == 0
    no_room("b", severity=Severity.WARNING)
    assert sweep(clock, after=15) == 1


@pytest.mark.parametrize("how", ["every kind", "this kind", "this server"])
def test_a_silence_keeps_the_alert_and_tells_nobody_not_even_by_mail(
    channel: AlertChannel, clock: Traveller, how: str
) -> None:
    make_user("mary", role="admin")
    here = server(1)
    scopes: dict[str, dict[str, Any]] = {
        "every kind": {},
        "this kind": {"alert_type": Alert.Kind.NO_ROOM},
        "this server": {"server": here},
    }
    Silence.objects.create(starts_at=now(), ends_at=now() + timedelta(hours=1), **scopes[how])
    alert = no_room(server=here)
    assert (alert.resolved, alert.told_at) == (False, None)
    assert sweep(clock, after=15) == 0
    assert not Notification.objects.exists()
    clock.shift(timedelta(hours=1))
    no_room("another", server=here)
    assert sweep(clock, after=15) == 1
    assert Notification.objects.count() == 1


def test_a_silence_of_another_server_or_kind_changes_nothing(channel: AlertChannel, clock: Traveller) -> None:
    until = now() + timedelta(hours=1)
    Silence.objects.create(starts_at=now(), ends_at=until, server=server(2))
    Silence.objects.create(starts_at=now(), ends_at=until, alert_type=Alert.Kind.METRIC)
    no_room(server=server(1))
    assert sweep(clock, after=15) == 1


def test_who_has_a_channel_gets_no_mail_and_who_has_none_does(channel: AlertChannel, clock: Traveller) -> None:
    mary = make_user("mary", role="admin")
    AlertChannel.objects.create(name="off", owner=mary, address="json://192.0.2.1", is_enabled=False)
    no_room()
    assert [mail.user for mail in Notification.objects.all()] == [mary]
    assert [delivery.channel for delivery in AlertDelivery.objects.all()] == [channel]


def test_channels_of_people_who_are_no_operators_any_more_are_not_used(
    channel: AlertChannel, listener: Listener, clock: Traveller, root: User
) -> None:
    no_room("before")
    User.objects.filter(pk=root.pk).update(is_active=False)
    no_room("after")
    assert sweep(clock, after=15) == 0
    assert AlertDelivery.objects.count() == 1


def test_what_does_not_arrive_is_tried_again_with_growing_pauses_and_then_given_up(
    channel: AlertChannel, listener: Listener, clock: Traveller
) -> None:
    listener.status = 503
    no_room()
    for _sweep in range(400):
        sweep(clock, after=10)
    delivery = AlertDelivery.objects.get()
    assert (delivery.tries, delivery.sent_at) == (6, None)
    assert "error=503" in delivery.error
    channel.refresh_from_db()
    assert channel.last_error == delivery.error
    assert "KeyThatNobodySees1" not in delivery.error


def test_a_channel_that_comes_back_gets_all_that_waited_in_one_message(
    channel: AlertChannel, listener: Listener, clock: Traveller
) -> None:
    listener.status = 500
    no_room("one")
    assert sweep(clock, after=15) == 0
    resolve_alert(Alert.Kind.NO_ROOM, subject="one")
    no_room("two")
    listener.status = 200
    assert sweep(clock, after=40) == 1
    [text] = listener.texts
    assert text.count("relays find no place") == 2
    assert text.count("(over by now)") == 1


def test_what_the_portal_says_of_a_failure_is_in_the_readers_language(
    client: Client, channel: AlertChannel, clock: Traveller, root: User
) -> None:
    AlertChannel.objects.update(address="nowhere")
    no_room()
    assert sweep(clock, after=15) == 0
    channel.refresh_from_db()
    delivery = AlertDelivery.objects.get()
    assert channel.last_error == delivery.error == "invalid_address"
    User.objects.update(language="zh-hans")
    client.force_login(root)
    lists = [reverse(f"admin:fleet_{name}_changelist") for name in ("alertchannel", "alertdelivery")]
    rows = [reverse(f"admin:fleet_{row._meta.model_name}_change", args=[row.pk]) for row in (channel, delivery)]
    for page in (*lists, *rows):
        text = client.get(page).content.decode()
        assert "该地址已失效。" in text
        assert "invalid_address" not in text
    assert undelivered("503 said the service") == "503 said the service"


def test_nothing_follows_a_channel_to_another_address(
    channel: AlertChannel, listener: Listener, clock: Traveller
) -> None:
    listener.status = 302
    no_room()
    assert sweep(clock, after=15) == 0
    assert "302" in AlertDelivery.objects.get().error


def test_a_channel_that_does_not_answer_is_not_waited_for_long(
    channel: AlertChannel, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_delivery, "SEND_SECONDS", 0.3)
    monkeypatch.setattr(alert_delivery, "GROUPING", timedelta(0))
    listener.hold = threading.Event()
    no_room()
    assert alert_delivery.deliver_due() == 0
    assert "did not finish" in AlertDelivery.objects.get().error


@pytest.mark.django_db(transaction=True)
def test_two_workers_at_once_deliver_once(
    channel: AlertChannel, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_delivery, "GROUPING", timedelta(0))
    for number in range(3):
        no_room(str(number))
    outcomes = at_once([alert_delivery.deliver_due] * 4)
    assert sorted(outcomes, key=str) == [0, 0, 0, 1]
    assert len(listener.arrived) == 1


@pytest.mark.django_db(transaction=True)
def test_without_the_claim_two_workers_at_once_deliver_twice(
    channel: AlertChannel, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_delivery, "GROUPING", timedelta(0))
    no_room()
    untaken = AlertDelivery.objects.get().not_before
    both_have_read, compose = threading.Barrier(2), alert_delivery._compose

    def compose_together(alerts: list[Alert]) -> tuple[str, str]:
        both_have_read.wait(60)
        return compose(alerts)

    monkeypatch.setattr(alert_delivery, "_claim", lambda _channel: untaken)
    monkeypatch.setattr(alert_delivery, "_compose", compose_together)
    assert at_once([alert_delivery.deliver_due] * 2) == [1, 1]
    assert len(listener.arrived) == 2


def test_a_worker_that_died_on_its_claim_only_delays_the_message(
    channel: AlertChannel, listener: Listener, clock: Traveller
) -> None:
    no_room()
    clock.shift(timedelta(seconds=15))
    alert_delivery._claim(channel)
    assert sweep(clock, after=60) == 0
    assert sweep(clock, after=90) == 1


def test_what_could_not_be_told_for_a_day_is_not_told_any_more(
    channel: AlertChannel, listener: Listener, clock: Traveller
) -> None:
    no_room()
    AlertChannel.objects.update(is_enabled=False)
    assert sweep(clock, after=25 * 3600) == 0
    AlertChannel.objects.update(is_enabled=True)
    assert sweep(clock, after=10) == 0


@pytest.mark.parametrize("address", ["", "nonsense", "nope://x", "tgram://", "syslog://", "dbus://", "file:///etc/x"])
def test_what_is_no_address_of_a_person_is_refused(address: str) -> None:
    with pytest.raises(ValidationError):
        alert_delivery.check_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "mailto://user:password@example.com",
        "tgram://123456789:abcdefghijklmnopqrstuvwxyz123456789/12345678",
        "dingtalk://abcdefgh12345678",
        "wecombot://abcdefgh12345678",
        "feishu://abcdefgh12345678",
        "schan://SCT123456abcdefgh",
        "barks://api.day.app/abcdefgh",
        "jsons://hooks.example.com/alerts",
    ],
)
def test_the_channels_that_operators_have_are_addresses(address: str) -> None:
    alert_delivery.check_address(address)


# --- the page -------------------------------------------------------------------------------------


@pytest.fixture
def roots(client: Client, root: User) -> Client:
    """root's browser."""
    client.force_login(root)
    return client


VALUES = {"name": "webhook", "min_severity": "warning", "is_enabled": "on"}


def test_a_channel_is_added_kept_and_never_shows_its_address(roots: Client, listener: Listener, root: User) -> None:
    address = reverse("admin:fleet_alertchannel_add")
    refused = roots.post(address, {**VALUES, "address": "nope://KeyThatNobodySees1"})
    assert refused.status_code == 200
    assert "KeyThatNobodySees1" not in refused.content.decode()
    assert roots.post(address, {**VALUES, "address": listener.address}).status_code == 302
    channel = AlertChannel.objects.get()
    assert (channel.owner, channel.address) == (root, listener.address)
    page = reverse("admin:fleet_alertchannel_change", args=[channel.pk])
    assert "KeyThatNobodySees1" not in roots.get(page).content.decode()
    assert roots.post(page, {**VALUES, "address": "", "min_severity": "critical"}).status_code == 302
    channel.refresh_from_db()
    assert (channel.address, channel.min_severity) == (listener.address, "critical")
    assert roots.post(address, {**VALUES, "address": listener.address}).status_code == 200, "the name is taken"
    assert "KeyThatNobodySees1" not in str(list(AuditEntry.objects.values()))


def test_the_test_button_delivers_and_says_so_or_says_what_is_wrong(
    roots: Client, channel: AlertChannel, listener: Listener
) -> None:
    button = reverse("admin:fleet_alertchannel_test", args=[channel.pk])
    assert "A greeting goes to webhook at once." in roots.get(button).content.decode()
    assert listener.arrived == []
    assert "A message was delivered to webhook." in roots.post(button, follow=True).content.decode()
    assert [message["title"] for message in listener.arrived] == ["Test"]
    listener.status = 404
    said = roots.post(button, follow=True).content.decode()
    assert "error=404" in said
    assert "KeyThatNobodySees1" not in said
    assert AuditEntry.objects.filter(event="alertchannel.tested").count() == 2


def test_a_failed_test_is_an_error_for_people(channel: AlertChannel, listener: Listener, root: User) -> None:
    listener.status = 500
    with pytest.raises(PortalError, match="could not be delivered") as refusal:
        alert_delivery.test_channel(channel_id=channel.pk, actor=root)
    assert (refusal.value.status, refusal.value.code) == (502, "not_delivered")


def test_anothers_channel_is_hidden_from_whoever_is_no_superuser(client: Client, channel: AlertChannel) -> None:
    from django.contrib.auth.models import Permission

    helen = make_user("helen", role="admin")
    helen.user_permissions.set(Permission.objects.filter(codename__endswith="_alertchannel"))
    client.force_login(helen)
    assert client.get(reverse("admin:fleet_alertchannel_changelist")).status_code == 200
    assert client.get(reverse("admin:fleet_alertchannel_change", args=[channel.pk])).status_code == 302
    assert client.get(reverse("admin:fleet_alertchannel_test", args=[channel.pk])).status_code in (403, 404)
