"""The mail that tells a customer which lines of a pasted map have changed."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from accounts.models import Notification
from derp_portal.lib.clock import now
from fleet import services
from fleet.models import Move, Relay, RelayGroup
from fleet.selectors import derp_map_of
from fleet.services.moves import note_answers
from tests.fleet.fleet_parts import group, region, server

if TYPE_CHECKING:
    from accounts.models import User


@pytest.fixture
def relay(alice: User) -> Relay:
    """alice's only relay, on the first of two servers."""
    server(1)
    bought = group(alice)
    server(2, region=region("there"), port_first=31001, port_last=31001)
    return bought.relays.get()


def answer(relay: Relay) -> None:
    """It answers a probe where it is now."""
    relay.refresh_from_db()
    note_answers({relay.pk: relay.generation})


def move(relay: Relay) -> Move:
    """It goes to another server and answers there."""
    services.move_relay(relay_id=relay.pk, server_id=None, actor=None)
    answer(relay)
    return Move.objects.latest("id")


def mails() -> list[Notification]:
    return list(Notification.objects.filter(kind="relay_moved").order_by("id"))


def lines(ip: str, port: int) -> list[str]:
    """What stands in the map as it is pasted into a policy file."""
    is_v6 = ":" in ip
    return [
        f'"IPv4": "{"none" if is_v6 else ip}",',
        f'"IPv6": "{ip if is_v6 else "none"}",',
        f'"DERPPort": {port},',
        f'"STUNPort": {port}',
    ]


def test_the_mail_shows_the_lines_as_they_stood_in_the_map_and_as_they_stand_there_now(relay: Relay) -> None:
    old_port = relay.port.number
    move(relay)
    [mail] = mails()
    assert "\n".join(["Before:", *lines("192.0.2.1", old_port)]) in mail.body_text
    assert "\n".join(["Now:", *lines("192.0.2.2", 31001)]) in mail.body_text
    assert f"region {relay.region_id} " in mail.body_text
    assert "has moved to There" in mail.body_text
    [node] = (derp_map_of(relay.group) or {})["Regions"][str(relay.region_id)]["Nodes"]
    shown = dict(line.rstrip(",").split(": ") for line in lines("192.0.2.2", 31001))
    members = {name.strip('"'): value.strip('"') for name, value in shown.items()}
    assert {name: str(node[name]) for name in members} == members


def test_the_html_part_says_the_same_line_by_line(relay: Relay) -> None:
    old_port = relay.port.number
    move(relay)
    [mail] = mails()
    escaped = "<br>".join(lines("192.0.2.1", old_port)).replace('"', "&quot;")
    assert f"Before:<br>{escaped}" in mail.body_html
    assert "{%" not in mail.body_html + mail.body_text


def test_an_address_of_the_other_family_changes_both_members(alice: User) -> None:
    server(1)
    bought = group(alice)
    server(2, ip="2001:db8::2")
    move(bought.relays.get())
    [mail] = mails()
    assert '"IPv4": "192.0.2.1",\n"IPv6": "none"' in mail.body_text
    assert '"IPv4": "none",\n"IPv6": "2001:db8::2"' in mail.body_text


def test_whoever_polls_the_map_url_has_nothing_to_do(relay: Relay) -> None:
    RelayGroup.objects.filter(pk=relay.group_id).update(map_fetched_at=now() - timedelta(hours=1))
    move(relay)
    [mail] = mails()
    assert "there is nothing you need to do" in mail.body_text
    assert "copy it again" not in mail.body_text


def test_whoever_pasted_the_map_copies_it_again_and_a_standby_bridges_the_time(alice: User) -> None:
    server(1)
    server(2)
    first = group(alice, relays=2).relays.get(slot=0)
    server(3)
    move(first)
    [mail] = mails()
    assert "copy it again from the dashboard. Until then your devices use the other relay" in mail.body_text


def test_without_a_standby_the_mail_says_that_devices_do_not_find_the_relay(relay: Relay) -> None:
    move(relay)
    assert "until then your devices do not find this relay" in mails()[0].body_text


def test_one_move_is_told_once_and_the_next_one_again(relay: Relay) -> None:
    move(relay)
    answer(relay)
    assert len(mails()) == 1
    move(relay)
    assert len(mails()) == 2


def test_nobody_is_told_before_the_relay_answers_at_its_new_place(relay: Relay) -> None:
    services.move_relay(relay_id=relay.pk, server_id=None, actor=None)
    assert mails() == []


def test_a_relay_that_had_no_address_before_is_worth_no_mail(relay: Relay) -> None:
    services.move_relay(relay_id=relay.pk, server_id=None, actor=None)
    Move.objects.update(from_ip=None)
    answer(relay)
    assert Move.objects.get().state == Move.State.ANSWERED
    assert mails() == []


def test_a_server_that_got_another_address_is_told_as_that(relay: Relay) -> None:
    services.update_server(server_id=relay.server_id or 0, ip="192.0.2.77", actor=None)
    answer(relay)
    [mail] = mails()
    assert "has got another address" in mail.body_text
    assert '"IPv4": "192.0.2.77"' in mail.body_text
