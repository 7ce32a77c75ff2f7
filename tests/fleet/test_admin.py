"""What the operator does to servers and relays: through services, named in the audit trail, and asked first."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEntry, User
from fleet import services
from fleet.admin.relays import MoveForm
from fleet.models import AclConfig, Region, Relay, RelayGroup, Server, Wanted
from fleet.runtimes.base import HostInfo, Unavailable
from fleet.services.outages import note_trouble
from tests.fleet.fleet_parts import group, only_relay, region, server

NEW_SERVER = {
    "name": "hk-1",
    "ip": "192.0.2.77",
    "runtime": "docker",
    "endpoint": "unix:///var/run/docker.sock",
    "is_enabled": "on",
    "port_first": "21000",
    "port_last": "21099",
    "max_relays": "50",
    "billed_direction": "sum",
    "allowance_reset_day": "1",
}


@pytest.fixture
def roots(client: Client, root: User) -> Client:
    """root's browser."""
    client.force_login(root)
    return client


@pytest.fixture
def relay(alice: User) -> Relay:
    """alice's, on the first of two servers."""
    server(1)
    found = only_relay(group(alice))
    server(2, name="other")
    return found


def page(name: str, pk: int) -> str:
    return reverse(f"admin:fleet_{name}", args=[pk])


def last_event() -> tuple[str, str]:
    entry = AuditEntry.objects.order_by("-id")[0]
    return entry.event, entry.actor_label


def test_a_server_is_added_and_changed_through_the_service(roots: Client) -> None:
    answer = roots.post(reverse("admin:fleet_server_add"), NEW_SERVER | {"region": region().pk})
    assert answer.status_code == 302
    added = Server.objects.get(name="hk-1")
    assert last_event() == ("server.added", "root")
    roots.post(page("server_change", added.pk), NEW_SERVER | {"region": added.region_id, "max_relays": "60"})
    added.refresh_from_db()
    assert added.max_relays == 60
    entry = AuditEntry.objects.filter(event="server.changed").get()
    assert entry.data["fields"] == ["max_relays"]


def test_what_the_service_refuses_is_an_error_of_the_form(roots: Client, relay: Relay) -> None:
    here = relay.server
    assert here is not None
    values = NEW_SERVER | {"name": here.name, "ip": here.ip, "region": here.region_id, "endpoint": "tcp://elsewhere"}
    answer = roots.post(page("server_change", here.pk), values)
    assert answer.status_code == 200
    assert "Move them to another server before its engine changes." in answer.content.decode()
    here.refresh_from_db()
    assert here.endpoint != "tcp://elsewhere"


def test_a_port_range_upside_down_is_an_error_beside_its_field(roots: Client) -> None:
    answer = roots.post(reverse("admin:fleet_server_add"), NEW_SERVER | {"region": region().pk, "port_last": "2000"})
    assert answer.context["adminform"].form.errors["port_last"]
    assert not Server.objects.exists()


def test_testing_the_connection_says_in_words_what_came_of_it(roots: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    one = server(1)

    def unreachable(*, server_id: int) -> HostInfo:
        raise Unavailable("unreachable", "no route to host")

    monkeypatch.setattr(services, "look_at_server", unreachable)
    answer = roots.get(page("server_test_connection", one.pk), follow=True)
    assert "The server cannot be reached. no route to host" in answer.content.decode()


def test_the_list_of_relays_in_trouble_leaves_out_those_that_should_not_run(roots: Client, relay: Relay) -> None:
    note_trouble(relay, "disk_full")
    listed = {"yes": [relay], "no": []}
    for _ in range(2):
        for choice, expected in listed.items():
            answer = roots.get(reverse("admin:fleet_relay_changelist"), {"trouble": choice})
            assert list(answer.context["cl"].result_list) == expected, choice
        services.set_group(group_id=relay.group_id, wanted=Wanted.STOPPED, actor=None)
        listed = {"yes": [], "no": [relay]}


def test_the_form_offers_no_server_on_which_a_sibling_runs(roots: Client, alice: User) -> None:
    server(1)
    server(2)
    primary = group(alice, relays=2).relays.get(slot=0)
    third = server(3)
    server(4, ip="192.0.2.2", name="the sibling's address")
    assert list(MoveForm(None, relay=primary).fields["server"].queryset) == [third]  # type: ignore[attr-defined]


def test_a_server_is_deleted_only_when_it_is_empty_and_only_after_asking(roots: Client, relay: Relay) -> None:
    empty, full = Server.objects.get(name="other"), relay.server
    assert full is not None
    assert roots.get(page("server_delete", empty.pk)).status_code == 200
    assert Server.objects.filter(pk=empty.pk).exists()
    answer = roots.post(page("server_delete", full.pk), follow=True)
    assert "This server still carries 1 relay." in answer.content.decode()
    assert roots.post(page("server_delete", empty.pk)).status_code == 302
    assert list(Server.objects.all()) == [full]
    assert last_event() == ("server.deleted", "root")


def test_a_server_whose_relays_were_all_released_can_be_deleted(roots: Client, relay: Relay, root: User) -> None:
    services.release_relay(relay_id=relay.pk, actor=root)
    assert relay.server_id is not None
    roots.post(page("server_delete", relay.server_id))
    relay.refresh_from_db()
    assert relay.server is None


@pytest.mark.parametrize("name", ["restart", "move", "release"])
def test_asking_for_a_relays_action_changes_nothing_yet(roots: Client, relay: Relay, name: str) -> None:
    before = Relay.objects.values().get()
    assert roots.get(page(f"relay_{name}", relay.pk)).status_code == 200
    assert Relay.objects.values().get() == before


def test_a_relay_is_restarted(roots: Client, relay: Relay) -> None:
    roots.post(page("relay_restart", relay.pk))
    assert Relay.objects.get().generation == relay.generation + 1
    assert last_event() == ("relay.restarted", "root")


def test_a_relay_moves_to_the_chosen_server(roots: Client, relay: Relay) -> None:
    other = Server.objects.get(name="other")
    answer = roots.post(page("relay_move", relay.pk), {"server": other.pk}, follow=True)
    assert "moves to other" in answer.content.decode()
    assert Relay.objects.get().server == other
    assert last_event() == ("relay.moved", "root")


def test_a_move_without_a_place_is_refused_on_the_page(roots: Client, relay: Relay) -> None:
    Server.objects.filter(name="other").update(max_relays=0)
    other = Server.objects.get(name="other")
    answer = roots.post(page("relay_move", relay.pk), {"server": other.pk})
    assert "Every server that may take this relay is full." in answer.content.decode()
    assert Relay.objects.get().server == relay.server


def test_a_relay_is_released_for_good(roots: Client, relay: Relay) -> None:
    roots.post(page("relay_release", relay.pk))
    assert Relay.objects.get().released_at is not None
    assert RelayGroup.objects.get().released_at is not None
    answer = roots.post(page("relay_restart", relay.pk), follow=True)
    assert "This relay has been released." in answer.content.decode()


def test_wanted_stands_beside_observed(roots: Client, relay: Relay) -> None:
    Relay.objects.update(trouble_code="disk_full", trouble_detail="write /data: no space left on device")
    answer = roots.get(page("relay_change", relay.pk))
    rows: dict[str, Any] = {row.what: row for row in answer.context["compared"]}
    assert (rows["state"].wanted, rows["state"].observed, rows["state"].differs) == ("running", "not seen yet", True)
    text = answer.content.decode()
    assert "The server&#x27;s disk is full." in text
    assert "no space left on device" in text


def test_who_may_only_look_cannot_act(client: Client, relay: Relay) -> None:
    from django.contrib.auth.models import Permission

    from tests.conftest import make_user

    helper = make_user("helen", role="admin")
    helper.user_permissions.set(Permission.objects.filter(codename="view_relay"))
    client.force_login(helper)
    answer = client.get(page("relay_change", relay.pk))
    assert answer.status_code == 200
    assert page("relay_release", relay.pk) not in answer.content.decode()
    assert client.post(page("relay_release", relay.pk)).status_code == 403
    assert Relay.objects.get().released_at is None


def test_a_region_is_edited_with_an_entry_in_the_audit_trail(roots: Client) -> None:
    place = region("hk")
    roots.post(
        page("region_change", place.pk),
        {"code": "hk", "name": "Hong Kong", "name_zh": "香港", "latitude": "22.3", "longitude": "114.2"},
    )
    assert Region.objects.get(code="hk").name == "Hong Kong"
    assert last_event() == ("region.changed", "root")
    history = roots.get(page("region_history", place.pk), follow=True)
    assert "region.changed" in history.content.decode()


def test_relays_in_trouble_can_be_listed_alone(roots: Client, relay: Relay, alice: User) -> None:
    other = only_relay(group(alice))
    Relay.objects.filter(pk=relay.pk).update(trouble_code="no_port")
    answer = roots.get(reverse("admin:fleet_relay_changelist"), {"trouble": "yes", "released": "no"})
    text = answer.content.decode()
    assert relay.code in text
    assert other.code not in text


def test_staff_changes_a_policy_and_sets_an_old_version_again(client: Client, root: User, alice: User) -> None:
    first = server(1)
    mine = group(alice, lasts=timedelta(days=30))
    client.force_login(root)
    [version] = AclConfig.objects.filter(user=alice)
    address = f"/admin/fleet/aclconfig/{version.pk}/policy/"
    assert "loses the connection" in client.get(address).content.decode()
    form = {"mode": "closed", "hours": 24, "networks": "nonsense", "servers": [first.pk], "reason": "asked by mail"}
    assert "is not a network" in client.post(address, form).content.decode()
    client.post(address, {**form, "networks": "203.0.113.7/24"})
    newest = AclConfig.objects.get(user=alice, version=2)
    assert (newest.mode, newest.networks) == ("closed", ["203.0.113.0/24"])
    assert (newest.author, newest.reason) == (root, "asked by mail")
    assert list(mine.servers.all()) == [first]
    assert list(group(alice, lasts=timedelta(days=30)).servers.all()) == [first], "later relays too"
    again = f"/admin/fleet/aclconfig/{newest.pk}/set-again/"
    assert "becomes a new version" in client.get(again).content.decode()
    client.post(f"/admin/fleet/aclconfig/{version.pk}/set-again/")
    assert AclConfig.objects.get(user=alice, version=3).networks == []
