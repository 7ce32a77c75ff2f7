"""The map a customer's control plane gets: true, stable, and never one that stops it from starting."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from fleet import services
from fleet.derp.map import headscale_yaml
from fleet.models import RelayGroup, Server
from fleet.selectors import derp_map_of, map_url_of, nodes_of
from tests.fleet.fleet_parts import group, only_relay, server, stop


@pytest.fixture
def bought(alice: User) -> RelayGroup:
    server(1)
    server(2)
    return group(alice, relays=2)


def path_of(what: RelayGroup) -> str:
    what.refresh_from_db()
    return f"/derpmap/{what.map_token}.json"


def fetch(what: RelayGroup) -> Any:
    answer = Client().get(path_of(what))
    assert answer.status_code == 200
    assert answer["Content-Type"] == "application/json"
    return answer.json()


def test_the_map_names_every_relay_by_address_port_and_pin(bought: RelayGroup) -> None:
    regions = fetch(bought)["Regions"]
    relays = list(bought.relays.select_related("server", "port"))
    assert {int(key) for key in regions} == {relay.region_id for relay in relays} == {950, 951}
    for relay in relays:
        assert relay.server is not None
        [node] = regions[str(relay.region_id)]["Nodes"]
        assert (node["IPv4"], node["DERPPort"], node["STUNPort"]) == (
            relay.server.ip,
            relay.port.number,
            relay.port.number,
        )
        assert (node["HostName"], node["CertName"], node["IPv6"]) == (relay.host_name, relay.pin, "none")


def test_the_two_relays_stand_at_two_addresses(bought: RelayGroup) -> None:
    addresses = {region["Nodes"][0]["IPv4"] for region in fetch(bought)["Regions"].values()}
    assert len(addresses) == 2


def test_an_ipv6_server_is_named_by_its_family(alice: User) -> None:
    server(ip="2001:db8::1")
    [node] = fetch(group(alice))["Regions"]["950"]["Nodes"]
    assert (node["IPv6"], node["IPv4"]) == ("2001:db8::1", "none")


def test_before_there_is_a_place_the_answer_is_text_and_says_try_again(alice: User) -> None:
    answer = Client().get(path_of(group(alice)))
    assert answer.status_code == 503
    assert answer["Content-Type"].startswith("text/plain")
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.content)


def test_an_unknown_address_is_text_and_not_json(db: None) -> None:
    for token in ("unknown", "x" * 2000, "%01", "%ff"):
        answer = Client().get(f"/derpmap/{token}.json")
        assert answer.status_code == 404
        assert not answer["Content-Type"].startswith("application/json")
        with pytest.raises(json.JSONDecodeError):
            json.loads(answer.content)


def test_the_map_stays_after_the_end_and_after_the_release(bought: RelayGroup) -> None:
    before = fetch(bought)
    stop(bought)
    assert fetch(bought) == before
    services.release_group(group_id=bought.pk, actor=None)
    assert fetch(bought) == before


def test_the_map_stays_when_relays_are_released_one_by_one(bought: RelayGroup) -> None:
    for relay in bought.relays.order_by("slot"):
        services.release_relay(relay_id=relay.pk, actor=None)
        assert fetch(bought)["Regions"]
    bought.refresh_from_db()
    assert bought.released_at is not None


def test_the_map_stays_when_its_server_is_deleted_after_the_release(bought: RelayGroup) -> None:
    services.release_group(group_id=bought.pk, actor=None)
    before = fetch(bought)
    for one in Server.objects.all():
        services.delete_server(server_id=one.pk, actor=None)
    assert fetch(bought) == before


def test_a_poll_that_finds_nothing_new_gets_no_body(bought: RelayGroup) -> None:
    path = path_of(bought)
    etag = Client().get(path)["ETag"]
    again = Client().get(path, headers={"if-none-match": etag})
    assert (again.status_code, again.content, again["ETag"]) == (304, b"", etag)
    relay = bought.relays.get(slot=0)
    server(3)
    services.move_relay(relay_id=relay.pk, server_id=None, actor=None)
    assert Client().get(path, headers={"if-none-match": etag}).status_code == 200


def test_head_is_answered_and_post_is_not(bought: RelayGroup) -> None:
    assert Client().head(path_of(bought)).status_code == 200
    assert Client().post(path_of(bought)).status_code == 405


def test_a_new_address_replaces_the_old_one_and_revoking_turns_it_off(bought: RelayGroup, alice: User) -> None:
    old = path_of(bought)
    url = services.rotate_map_token(group_id=bought.pk, actor=alice)
    assert Client().get(old).status_code == 404
    assert url.endswith(path_of(bought))
    assert fetch(bought)["Regions"]
    new = path_of(bought)
    services.revoke_map_token(group_id=bought.pk, actor=alice)
    bought.refresh_from_db()
    assert Client().get(new).status_code == 404
    assert (map_url_of(bought), bought.map_token_hash) == ("", None)


def test_the_headscale_file_says_what_the_map_says(bought: RelayGroup) -> None:
    text = headscale_yaml(nodes_of(bought))
    told = derp_map_of(bought)
    assert told is not None
    for region in told["Regions"].values():
        [node] = region["Nodes"]
        assert f"  {region['RegionID']}:\n" in text
        for name in ("HostName", "CertName", "IPv4", "DERPPort", "STUNPort"):
            assert f"{name.lower()}: {json.dumps(node[name])}\n" in text


def test_a_chosen_region_id_shows_in_the_map_and_is_there_once(bought: RelayGroup, alice: User) -> None:
    relay = bought.relays.get(slot=0)
    services.choose_region_id(relay_id=relay.pk, region_id=977, actor=alice)
    assert set(fetch(bought)["Regions"]) == {"951", "977"}
    services.release_relay(relay_id=relay.pk, actor=alice)
    assert set(fetch(bought)["Regions"]) == {"951"}


def test_a_move_changes_the_address_and_nothing_of_the_identity(alice: User) -> None:
    server(1)
    there = server(2)
    relay = only_relay(group(alice))
    [before] = fetch(relay.group)["Regions"]["950"]["Nodes"]
    services.move_relay(relay_id=relay.pk, server_id=there.pk, actor=None)
    [after] = fetch(relay.group)["Regions"]["950"]["Nodes"]
    assert after["IPv4"] == there.ip != before["IPv4"]
    assert (after["HostName"], after["CertName"]) == (before["HostName"], before["CertName"])
