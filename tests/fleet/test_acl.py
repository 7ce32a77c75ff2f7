"""A customer's access policy: versions, what doors remember of it, learning, and the log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
import time_machine
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from time_machine import Traveller

from accounts.models import User
from derp_portal.lib.append_only import Unchangeable
from derp_portal.lib.errors import PortalError
from fleet import door, services
from fleet.acl import door_log, doors, versions
from fleet.acl.decision import Decision, Mode, Reason
from fleet.acl.versions import Policy, current_policy
from fleet.acl.words import differences
from fleet.derp.keys import derive_private, format_node_key, public_of
from fleet.models import AclConfig, AclLog, NodeKey, Relay, RelayGroup, Wanted
from fleet.services import acl
from fleet.services.acl import change_policy, close_what_has_learned, networks_of, roll_back, would_admit
from fleet.services.groups import set_group
from tests.fleet.fleet_parts import Fleet, group, only_relay, server
from tests.serials.shop import at_once

PHONE, LAPTOP, OTHER = (
    format_node_key(public_of(derive_private(b"tests", name))) for name in ("phone", "laptop", "other")
)
HOME = "198.51.100.7"

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def clock() -> Iterator[Traveller]:
    with time_machine.travel(datetime(2031, 3, 1, 9, tzinfo=UTC), tick=False) as travel:
        yield travel


@pytest.fixture
def relay(clock: Traveller, alice: User) -> Relay:
    server()
    return only_relay(group(alice, lasts=timedelta(days=30)))


def ask(relay: Relay, node_key: str = PHONE, source: str = HOME) -> bool:
    return door.admits(relay.admission_secret, door.Question(node_key, source))


def change(owner: User, **fields: Any) -> AclConfig:
    return change_policy(
        user_id=owner.pk, change=lambda policy: replace(policy, **fields), reason="because", actor=owner
    )


def listed(owner: User) -> set[str]:
    return set(NodeKey.objects.filter(owner=owner, is_removed=False).values_list("key", flat=True))


def test_a_version_that_was_learning_comes_back_with_what_it_had_learned(relay: Relay, alice: User) -> None:
    ask(relay, PHONE)
    door_log.write_down()
    change(alice, mode=Mode.CLOSED)
    change(alice, devices={OTHER: ""})
    back = roll_back(user_id=alice.pk, version=1, actor=alice)
    assert (back.mode, listed(alice)) == ("closed", {PHONE})


# --- learning ------------------------------------------------------------------------------------------------------


def test_a_new_customers_doors_learn_for_a_day_and_close_with_who_came(
    clock: Traveller, relay: Relay, alice: User
) -> None:
    policy = current_policy(alice.pk)
    assert policy is not None
    assert (policy.version, policy.mode, policy.author) == (1, "learn", None)
    assert ask(relay, PHONE)
    assert ask(relay, LAPTOP)
    assert close_what_has_learned() == 0
    clock.shift(timedelta(hours=24))
    assert not ask(relay, OTHER), "closed, although no sweep has said so"
    assert close_what_has_learned() == 1
    assert close_what_has_learned() == 0
    closed = current_policy(alice.pk)
    assert closed is not None
    assert (closed.version, closed.mode, {one["key"] for one in closed.devices}) == (2, "closed", {PHONE, LAPTOP})
    assert ask(relay, PHONE)
    assert not ask(relay, OTHER)


def test_a_device_that_came_while_a_change_was_made_is_not_forgotten(relay: Relay, alice: User) -> None:
    ask(relay, PHONE)
    door_log.write_down()
    change(alice, networks=("192.0.2.0/24",))
    assert listed(alice) == {PHONE}


def test_learning_doors_list_no_more_than_a_policy_may(
    relay: Relay, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "MOST_DEVICES", 2)
    for node_key in (PHONE, LAPTOP, OTHER):
        assert ask(relay, node_key)
    door_log.write_down()
    assert listed(alice) == {PHONE, LAPTOP}


def test_learning_needs_an_end_ahead(clock: Traveller, relay: Relay, alice: User) -> None:
    for end in (None, datetime(2031, 3, 1, 8, tzinfo=UTC)):
        with pytest.raises(PortalError, match="end that lies ahead"):
            change(alice, mode=Mode.LEARN, learns_until=end)
    assert AclConfig.objects.count() == 1


def test_the_api_says_what_a_learning_door_would_when_the_plan_has_no_room(relay: Relay, alice: User) -> None:
    RelayGroup.objects.update(max_devices=1)
    assert would_admit(user_id=alice.pk, node_key=PHONE, source=HOME)[0] == Decision.yes(Reason.LEARNED)
    assert ask(relay, PHONE)
    assert would_admit(user_id=alice.pk, node_key=OTHER, source=HOME)[0] == Decision.no(Reason.FULL)
    assert not ask(relay, OTHER)
    assert would_admit(user_id=alice.pk, node_key=PHONE, source=HOME)[0] == Decision.yes(Reason.LISTED)


# --- versions ------------------------------------------------------------------------------------------------------


def test_every_change_is_a_version_and_one_that_changes_nothing_is_none(relay: Relay, alice: User) -> None:
    second = change(alice, mode=Mode.CLOSED, devices={PHONE: "phone"})
    assert (second.version, second.reason, second.author, second.learns_until) == (2, "because", alice, None)
    assert change(alice, mode=Mode.CLOSED) == second
    third = change(alice, devices={PHONE: "my phone", LAPTOP: ""})
    assert third.version == 3
    assert NodeKey.objects.get(key=PHONE).name == "my phone"
    with pytest.raises(Unchangeable):
        AclConfig.objects.filter(pk=third.pk).update(mode="open")


def test_any_version_can_be_set_again_but_for_its_learning(relay: Relay, alice: User) -> None:
    change(alice, mode=Mode.CLOSED, devices={PHONE: "phone"}, networks=("192.0.2.0/24",))
    change(alice, mode=Mode.OPEN, devices={}, networks=())
    back = roll_back(user_id=alice.pk, version=2, actor=alice)
    assert (back.version, back.mode, back.networks) == (4, "closed", ["192.0.2.0/24"])
    assert listed(alice) == {PHONE}
    assert roll_back(user_id=alice.pk, version=1, actor=alice).mode == "closed"
    with pytest.raises(PortalError) as refusal:
        roll_back(user_id=alice.pk, version=99, actor=alice)
    assert refusal.value.code == "not_found"


def test_on_which_servers_relays_run_is_set_again_by_staff_only(relay: Relay, alice: User, root: User) -> None:
    assert relay.server_id is not None
    change(alice, servers=(relay.server_id,))
    change(alice, servers=(), mode=Mode.OPEN)
    assert roll_back(user_id=alice.pk, version=2, actor=alice).servers == []
    assert roll_back(user_id=alice.pk, version=2, actor=root).servers == [relay.server_id]
    back = roll_back(user_id=alice.pk, version=3, actor=alice)
    assert (back.mode, back.servers) == ("open", [relay.server_id])


def test_all_groups_are_locked_before_the_first_server(
    relay: Relay, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("needs postgresql: SQLite has no row locks")
    last = group(alice)
    free: list[Any] = []

    def look() -> list[int]:
        with transaction.atomic():
            unlocked = RelayGroup.objects.select_for_update(no_key=True, skip_locked=True).filter(pk=last.pk)
            return list(unlocked.values_list("id", flat=True))

    def look_first(**limit: Any) -> RelayGroup:
        free.extend(at_once([look]))
        return services.limit_servers(**limit)

    monkeypatch.setattr(acl, "limit_servers", look_first)
    change(alice, servers=(relay.server_id,))
    assert free == [[], []]


def test_what_changed_is_said_in_short_words_of_any_language(
    relay: Relay, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AclConfig, "get_mode_display", lambda _version: "关闭：仅限列出的设备")
    names = {f"nodekey:{number:064x}": f"device {number}" for number in range(4)}
    closed = change(alice, mode=Mode.CLOSED, devices=names)
    said = ["closed", "device added: device 0, device 1, device 2 and 1 more"]
    assert list(differences(AclConfig.objects.get(user=alice, version=1), closed)) == said


def test_too_much_and_nonsense_change_nothing(relay: Relay, alice: User) -> None:
    many = {f"nodekey:{number:064x}": "" for number in range(1001)}
    for fields, code in (
        ({"devices": many}, "too_many_devices"),
        ({"networks": tuple(f"10.0.{number}.0/24" for number in range(101))}, "too_many_networks"),
        ({"servers": (10**6,)}, "not_found"),
    ):
        with pytest.raises(PortalError) as refusal:
            change(alice, **fields)
        assert refusal.value.code == code
    with pytest.raises(PortalError, match=r"“10\.0\.0\.0/99” is not a network"):
        networks_of("10.0.0.0/8\n10.0.0.0/99")
    assert AclConfig.objects.count() == 1


# --- what doors remember -------------------------------------------------------------------------------------------


def test_a_change_reaches_the_door_at_once(relay: Relay, alice: User) -> None:
    assert ask(relay, PHONE)
    change(alice, mode=Mode.CLOSED, devices={LAPTOP: ""})
    assert not ask(relay, PHONE)
    assert ask(relay, LAPTOP)
    change(alice, networks=("198.51.100.0/24",))
    assert ask(relay, PHONE)
    set_group(group_id=relay.group_id, wanted=Wanted.STOPPED, actor=None)
    assert not ask(relay, LAPTOP)


def test_what_is_known_takes_no_query(relay: Relay) -> None:
    ask(relay)
    with CaptureQueriesContext(connection) as queries:
        assert ask(relay)
    assert len(queries) == 0


def test_what_was_read_before_a_change_and_stored_after_it_counts_for_nothing(relay: Relay, alice: User) -> None:
    assert ask(relay, PHONE)
    names = [doors._door_name(relay.admission_hash), doors._device_name(relay.admission_hash, PHONE)]
    late: Any = doors.store().mget(names)
    change(alice, mode=Mode.CLOSED, devices={LAPTOP: ""})
    doors.store().mset(dict(zip(names, late, strict=True)))
    assert not ask(relay, PHONE)


def test_two_customers_doors_never_let_in_each_others_devices(relay: Relay, alice: User, bob: User) -> None:
    others = only_relay(group(bob))
    change(alice, mode=Mode.CLOSED, devices={PHONE: ""})
    change(bob, mode=Mode.CLOSED, devices={LAPTOP: ""})
    found = [[ask(one, key) for key in (PHONE, LAPTOP)] for one in (relay, others, relay, others)]
    assert found == [[True, False], [False, True]] * 2


def test_without_the_cache_server_doors_go_by_the_database(
    relay: Relay, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:

    change(alice, mode=Mode.CLOSED, devices={PHONE: ""})
    gone = redis.Redis.from_url("unix:///nowhere/at/all.sock")
    monkeypatch.setattr(doors, "store", lambda: gone)
    monkeypatch.setattr(door_log, "store", lambda: gone)
    assert ask(relay, PHONE)
    assert not ask(relay, LAPTOP)
    assert AclLog.objects.count() == 2, "and are logged directly"


# --- live sessions -------------------------------------------------------------------------------------------------


@pytest.fixture
def running(alice: User) -> Relay:
    here = server()
    fleet = Fleet([here])
    made = only_relay(group(alice))
    fleet.passes(2)
    made.refresh_from_db()
    assert made.is_running
    return made


def test_who_is_shut_out_loses_his_session_and_ten_changes_restart_once(running: Relay, alice: User) -> None:
    change(alice, mode=Mode.CLOSED, devices={PHONE: "", LAPTOP: "", OTHER: ""})
    for devices in ({PHONE: "", LAPTOP: ""}, {PHONE: ""}, {}):
        change(alice, devices=devices)
    running.refresh_from_db()
    assert running.generation == 2


def test_letting_more_in_ends_no_session(running: Relay, alice: User) -> None:
    change(alice, mode=Mode.OPEN)
    change(alice, devices={PHONE: ""})
    change(alice, networks=("192.0.2.0/24",), devices={PHONE: "renamed", LAPTOP: ""})
    running.refresh_from_db()
    assert running.generation == 1


# --- the log -------------------------------------------------------------------------------------------------------


def test_every_answer_is_logged_with_its_reason_and_country(relay: Relay, alice: User) -> None:
    change(alice, mode=Mode.CLOSED, devices={PHONE: ""})
    ask(relay, PHONE, "8.8.8.8")
    ask(relay, LAPTOP, "not an address")
    assert door_log.write_down() == 2
    rows = AclLog.objects.order_by("is_allowed").values_list(
        "user", "node_key", "ip_address", "location", "acl_version", "is_allowed", "reason"
    )
    assert list(rows) == [
        (alice.pk, LAPTOP, None, "", 2, False, "not_listed"),
        (alice.pk, PHONE, "8.8.8.8", "US", 2, True, "listed"),
    ]


def test_an_address_with_the_name_of_a_card_is_written_without_it(relay: Relay) -> None:
    ask(relay, PHONE, "fe80::1%eth0")
    assert door_log.write_down() == 1
    assert AclLog.objects.get().ip_address == "fe80::1"


def test_a_worker_that_died_after_writing_is_repeated_without_effect(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _time in range(3):
        ask(relay)

    class Killed(BaseException):
        """As if the process had been killed: nothing after it runs."""

    def killed(_rows: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(door_log, "_list_learned", killed)
        with pytest.raises(Killed):
            door_log.write_down()
    ask(relay)
    assert list(door_log.waiting()) == [1, 3]
    assert door_log.write_down() == 4
    assert AclLog.objects.count() == 4
    assert list(door_log.waiting()) == [0]


def test_a_relay_that_is_gone_takes_its_lines_along_and_nothing_else(relay: Relay, bob: User) -> None:
    ask(relay)
    text = json.dumps(["0" * 32, relay.owner_id, 10**9, PHONE, HOME, 1, True, "open", 0.0])
    doors.store().rpush(door_log.WAITING, text)
    door_log.write_down()
    assert AclLog.objects.count() == 1


def test_a_device_is_listed_and_taken_off_by_a_version(relay: Relay, alice: User) -> None:
    change(alice, mode=Mode.CLOSED)
    services.add_node_keys(owner=alice, lines=f"{PHONE} phone\n{LAPTOP}", actor=alice)
    assert ask(relay, PHONE)
    services.remove_node_key(node_key_id=NodeKey.objects.get(key=PHONE).pk, owner=alice, actor=alice)
    assert not ask(relay, PHONE)
    policy = current_policy(alice.pk)
    assert policy is not None
    assert Policy.of(policy).devices == {LAPTOP: ""}
