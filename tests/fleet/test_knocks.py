"""Devices that are turned away: their owner is told once of each and lists it with one tap."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
import time_machine
from django.test import Client
from django.urls import reverse

from accounts.models import Notification, User
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet import door, services
from fleet.acl import door_log, knocks
from fleet.acl.decision import Mode
from fleet.models import AclConfig, AclLog, Alert, Knock, NodeKey, Relay
from fleet.services.acl import change_policy
from fleet.services.devices import dismiss_knock
from fleet.services.door_watch import MOST_IN_THE_OPEN, MOST_SOURCES, MOST_UNKNOWN, count_error, watch_doors
from tests.fleet.fleet_parts import group, only_relay, server

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db(transaction=True)]


def key(number: int) -> str:
    return f"nodekey:{number:064x}"


@pytest.fixture
def relay(alice: User) -> Relay:
    """alice's, whose door is closed."""
    server()
    relay = only_relay(group(alice, lasts=timedelta(days=30)))
    set_mode(alice, Mode.CLOSED)
    return relay


def set_mode(owner: User, mode: Mode, learns_until: datetime | None = None) -> None:
    change_policy(
        user_id=owner.pk,
        change=lambda policy: replace(policy, mode=mode, learns_until=learns_until),
        reason="",
        actor=owner,
    )


def knock(relay: Relay, number: int = 1, *, source: str = "1.1.1.1", times: int = 1) -> bool:
    answers = {door.admits(relay.admission_secret, door.Question(key(number), source)) for _ in range(times)}
    door_log.write_down()
    return answers == {True}


def mails() -> list[Notification]:
    return list(Notification.objects.filter(kind="knock"))


def tap(mail: Notification) -> str:
    found = re.search(r"/let-in/[^/\s]+/", mail.body_text)
    assert found
    return found[0]


def test_the_owner_is_told_once_of_a_device_and_lists_it_with_one_tap(
    relay: Relay, alice: User, client: Client
) -> None:
    assert not knock(relay, times=3)
    assert not knock(relay)
    [mail] = mails()
    assert mail.recipient == alice.email
    assert key(1) in mail.body_text
    [row] = Knock.objects.all()
    assert (row.times, row.location) == (4, "AU")
    page = client.get(tap(mail))
    assert key(1) in page.content.decode()
    assert Knock.objects.exists(), "a mail program that looks at links lists nothing"
    assert "gets in when it tries again" in client.post(tap(mail), {"name": "new phone"}).content.decode()
    assert knock(relay)
    device = NodeKey.objects.get()
    assert (device.name, device.source) == ("new phone", "approved")
    assert AclConfig.objects.filter(user=alice).latest("version").author == alice
    assert client.get(tap(mail)).status_code == 404


def test_a_forged_or_old_link_lists_nothing(relay: Relay, client: Client) -> None:
    knock(relay)
    link = tap(mails()[0])
    assert client.post(link[:-3] + "xx/").status_code == 404
    with time_machine.travel(now() + timedelta(days=8)):
        assert client.post(link).status_code == 404
    assert not NodeKey.objects.exists()


def test_on_the_page_it_is_let_in_or_put_aside(relay: Relay, alice: User, bob: User, client: Client) -> None:
    knock(relay, 1)
    knock(relay, 2)
    first, second = Knock.objects.order_by("node_key")
    client.force_login(bob)
    assert client.post(reverse("knock_answer", args=[first.pk]), {"answer": "approve"}).status_code == 404
    client.force_login(alice)
    assert "Turned away lately" in client.get("/devices/").content.decode()
    client.post(reverse("knock_answer", args=[first.pk]), {"answer": "approve"})
    client.post(reverse("knock_answer", args=[second.pk]), {"answer": "dismiss"})
    assert "Turned away lately" not in client.get("/devices/").content.decode()
    assert knock(relay, 1)
    assert not knock(relay, 2)
    assert len(mails()) == 2, "what was put aside is not told of again"


def test_whoever_knocks_with_ever_new_keys_fills_no_table_and_no_mailbox(relay: Relay) -> None:
    for number in range(1, knocks.MOST_KNOCKS + 20):
        door.admits(relay.admission_secret, door.Question(key(number), "1.1.1.1"))
    door_log.write_down()
    assert Knock.objects.count() == knocks.MOST_KNOCKS
    assert len(mails()) == knocks.MAILS_A_DAY
    assert AclLog.objects.count() == knocks.MOST_KNOCKS + 19


def test_what_was_put_aside_takes_nobodys_place(relay: Relay, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knocks, "MOST_KNOCKS", 1)
    monkeypatch.setattr(knocks, "MOST_ROWS", 2)
    knock(relay, 1)
    knock(relay, 2)
    assert Knock.objects.count() == 1
    dismiss_knock(knock_id=Knock.objects.get().pk, owner=alice)
    knock(relay, 2)
    assert Knock.objects.filter(node_key=key(2), dismissed_at=None).exists()
    Knock.objects.update(dismissed_at=now())
    knock(relay, 3)
    assert Knock.objects.count() == 2, "but not without end"


def test_a_removed_device_and_a_stopped_relay_are_not_told_of(relay: Relay, alice: User) -> None:
    [device] = services.add_node_keys(owner=alice, lines=key(1), actor=alice)
    services.remove_node_key(node_key_id=device.pk, owner=alice, actor=alice)
    assert not knock(relay, 1)
    Relay.objects.update(wanted="stopped")
    assert not knock(relay, 2)
    assert not Knock.objects.exists()


def test_a_removed_device_is_turned_away_while_the_door_learns_or_is_open(relay: Relay, alice: User) -> None:
    [device] = services.add_node_keys(owner=alice, lines=key(1), actor=alice)
    services.remove_node_key(node_key_id=device.pk, owner=alice, actor=alice)
    set_mode(alice, Mode.LEARN, learns_until=now() + timedelta(hours=1))
    assert not knock(relay, 1)
    set_mode(alice, Mode.OPEN)
    assert not knock(relay, 1)
    assert knock(relay, 2)
    services.add_node_keys(owner=alice, lines=key(1), actor=alice)
    assert knock(relay, 1)


def test_a_listed_device_was_last_seen(relay: Relay, alice: User) -> None:
    services.add_node_keys(owner=alice, lines=key(1), actor=alice)
    before = now()
    knock(relay, 1)
    seen = NodeKey.objects.get().last_seen_at
    assert seen is not None
    assert seen >= before - timedelta(seconds=1)


def test_a_plan_with_few_devices_learns_no_more_of_them(relay: Relay, alice: User) -> None:
    relay.group.max_devices = 2
    relay.group.save()
    set_mode(alice, Mode.LEARN, learns_until=now() + timedelta(hours=1))
    assert [knock(relay, number) for number in (1, 2, 3, 1)] == [True, True, False, True]
    assert AclLog.objects.filter(reason="full").count() == 1
    with pytest.raises(PortalError, match="At most 2"):
        services.add_node_keys(owner=alice, lines=key(9), actor=alice)


def test_the_log_is_found_by_name_key_address_and_answer(relay: Relay, alice: User, client: Client) -> None:
    services.add_node_keys(owner=alice, lines=f"{key(1)} laptop", actor=alice)
    knock(relay, 1, source="1.1.1.1")
    knock(relay, 2, source="8.8.8.8")
    client.force_login(alice)

    def found(**query: str) -> set[str]:
        page = client.get(reverse("door_log"), query).content.decode()
        return {address for address in ("1.1.1.1", "8.8.8.8") if f"{address} · " in page}

    assert found() == {"1.1.1.1", "8.8.8.8"}
    assert found(search="lap") == found(search=key(1)) == found(is_allowed="true") == {"1.1.1.1"}
    assert found(search=key(2)[-6:]) == found(search="8.8.8.8") == found(is_allowed="false") == {"8.8.8.8"}
    assert found(search="nobody") == found(search="lap", is_allowed="false") == set()


# --- what operators are told ----------------------------------------------------------------------------------------


def kinds() -> set[str]:
    watch_doors()
    return set(Alert.objects.filter(resolved=False).values_list("alert_type", flat=True))


def test_operators_hear_of_strangers_who_try_keys_until_it_is_over(relay: Relay) -> None:
    for number in range(1, MOST_UNKNOWN + 1):
        assert kinds() == set()
        knock(relay, number)
    assert kinds() == {"unknown_keys"}
    with time_machine.travel(now() + timedelta(hours=2)):
        assert kinds() == set()


def test_operators_hear_of_a_device_that_is_everywhere(relay: Relay, alice: User) -> None:
    services.add_node_keys(owner=alice, lines=key(1), actor=alice)
    for number in range(MOST_SOURCES):
        knock(relay, 1, source=f"1.1.1.{number}")
    assert kinds() == {"many_sources"}


def test_operators_hear_of_an_open_relay_that_was_found(relay: Relay, alice: User) -> None:
    set_mode(alice, Mode.OPEN)
    for number in range(1, MOST_IN_THE_OPEN + 1):
        knock(relay, number)
    assert kinds() == {"open_relay"}


def test_operators_hear_of_a_door_that_cannot_answer(relay: Relay) -> None:
    count_error()
    assert kinds() == {"door_errors"}
    assert kinds() == set()
