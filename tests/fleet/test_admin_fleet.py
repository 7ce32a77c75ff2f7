"""The operator's pages of a fleet that survives: credentials, drains, failovers, alerts, quarantine, the overview."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import AuditEntry, User
from derp_portal.lib.clock import now
from fleet import services
from fleet.enrolment import pki
from fleet.models import Alert, Authority, Evacuation, Move, Relay, RelayGroup, Server
from fleet.overview import fleet_overview, progress_of
from fleet.runtimes.base import Unavailable
from fleet.services.alerts import raise_alert, resolve_alert
from fleet.services.evacuations import carry_on
from fleet.services.moves import note_answers
from fleet.services.port_checks import PortCheck
from tests.fleet.fleet_parts import group, only_relay, region, server

VALUES = {
    "name": "hk-1",
    "runtime": "docker",
    "endpoint": "tcp://192.0.2.77:2376",
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


@pytest.fixture(scope="module")
def pems() -> dict[str, str]:
    """Certificates that fit together, as an operator would paste them."""
    signer = pki.make_authority("tests", now=now())
    client = pki.issue_client_certificate(signer, "tests", now=now())
    return {"tls_ca": signer.cert_pem, "tls_certificate": client.cert_pem, "tls_key": client.key_pem}


def page(name: str, pk: int) -> str:
    return reverse(f"admin:fleet_{name}", args=[pk])


def last_event() -> str:
    return AuditEntry.objects.order_by("-id")[0].event


def add(roots: Client, **values: Any) -> Any:
    place = {"region": region().pk, "ip": "192.0.2.77"}
    return roots.post(reverse("admin:fleet_server_add"), VALUES | place | values)


def change(roots: Client, of: Server, **values: Any) -> Any:
    return roots.post(page("server_change", of.pk), VALUES | {"region": of.region_id} | values)


def test_pasted_credentials_are_kept_and_never_shown_again(roots: Client, pems: dict[str, str]) -> None:
    answer = add(roots, **{f"{name}_text": text for name, text in pems.items()})
    assert answer.status_code == 302
    added = Server.objects.get()
    assert (added.tls_ca or "").strip() == pems["tls_ca"].strip()
    assert (added.tls_key or "").strip() == pems["tls_key"].strip()
    text = roots.get(page("server_change", added.pk)).content.decode()
    assert "BEGIN CERTIFICATE" not in text
    assert "PRIVATE KEY" not in text
    assert text.count("Set. Left empty, it is kept.") == 3


def test_credentials_may_come_as_files_stay_when_nothing_is_given_and_go_when_cleared(
    roots: Client, pems: dict[str, str]
) -> None:
    add(roots, **{f"{name}_file": SimpleUploadedFile(f"{name}.pem", text.encode()) for name, text in pems.items()})
    added = Server.objects.get()
    assert added.tls_key == pems["tls_key"]
    change(roots, added, max_relays="60")
    added.refresh_from_db()
    assert (added.max_relays, added.tls_key) == (60, pems["tls_key"])
    change(roots, added, max_relays="60", forget_credentials="on")
    added.refresh_from_db()
    assert not (added.tls_ca or added.tls_certificate or added.tls_key)


def test_refused_credentials_are_an_error_of_the_form_and_are_not_sent_back(
    roots: Client, pems: dict[str, str]
) -> None:
    answer = add(roots, tls_key_text=pems["tls_key"])
    text = answer.content.decode()
    assert "needs all three" in text
    assert "PRIVATE KEY" not in text
    answer = add(roots, tls_ca_file=SimpleUploadedFile("photo.png", b"\x89PNG\xff"))
    assert answer.context["adminform"].form.errors["tls_ca_file"]
    assert not Server.objects.exists()


@pytest.mark.parametrize(("currency", "entered", "kept"), [("CNY", "29.90", 2990), ("JPY", "980", 980)])
def test_money_and_allowance_are_entered_in_the_units_people_use(
    roots: Client, currency: str, entered: str, kept: int
) -> None:
    add(roots, monthly_cost_amount=entered, cost_currency=currency.lower(), allowance_gb="1000.5")
    added = Server.objects.get()
    assert (added.monthly_cost, added.cost_currency, added.allowance_bytes) == (kept, currency, 1_000_500_000_000)
    form = roots.get(page("server_change", added.pk)).context["adminform"].form
    assert str(form["monthly_cost_amount"].value()) == entered
    change(roots, added, monthly_cost_amount="", cost_currency="", allowance_gb="")
    added.refresh_from_db()
    assert (added.monthly_cost, added.allowance_bytes) == (None, None)


def test_money_without_a_currency_is_an_error_beside_its_field(roots: Client) -> None:
    errors = add(roots, monthly_cost_amount="5").context["adminform"].form.errors
    assert list(errors) == ["cost_currency"]
    errors = add(roots, monthly_cost_amount="5.5", cost_currency="JPY").context["adminform"].form.errors
    assert list(errors) == ["monthly_cost_amount"]


def test_trouble_on_a_servers_page_comes_with_advice(roots: Client) -> None:
    one = server(1, phase=Server.Phase.SUSPECT, status=Server.Status.UNHEALTHY, error_code="connection_refused")
    text = roots.get(page("server_change", one.pk)).content.decode()
    assert "The server refuses connections." in text
    assert "systemctl status docker" in text


@pytest.mark.parametrize("name", ["drain", "end_drain", "fail_over", "change_address", "check_ports"])
def test_asking_for_a_servers_action_changes_nothing_yet(roots: Client, relay: Relay, name: str) -> None:
    before = list(Server.objects.values().order_by("pk"))
    assert relay.server_id is not None
    assert roots.get(page(f"server_{name}", relay.server_id)).status_code == 200
    assert list(Server.objects.values().order_by("pk")) == before
    assert not Evacuation.objects.exists()


def test_a_drain_is_begun_followed_and_ended(roots: Client, relay: Relay) -> None:
    here = relay.server
    assert here is not None
    offered = roots.get(page("server_change", here.pk)).content.decode()
    assert page("server_drain", here.pk) in offered
    assert page("server_end_drain", here.pk) not in offered
    answer = roots.post(page("server_drain", here.pk), follow=True)
    evacuation = Evacuation.objects.get()
    assert answer.redirect_chain[-1][0] == page("evacuation_change", evacuation.pk)
    carry_on(evacuation.pk)
    text = roots.get(page("evacuation_change", evacuation.pk)).content.decode()
    assert "0 of 1 relays answer at their new place." in text
    assert "every 3s" in text
    text = roots.get(page("server_change", here.pk)).content.decode()
    assert page("server_end_drain", here.pk) in text
    assert "Its relays are leaving" in text
    assert "drain begun" in text
    roots.post(page("server_end_drain", here.pk))
    here.refresh_from_db()
    assert not here.is_draining
    assert "every 3s" in roots.get(page("evacuation_change", evacuation.pk)).content.decode()
    relay.refresh_from_db()
    note_answers({relay.pk: relay.generation})
    text = roots.get(page("evacuation_change", evacuation.pk)).content.decode()
    assert "1 of 1 relays answer at their new place." in text
    assert "every 3s" not in text


def test_a_failover_shows_its_plan_before_it_begins(roots: Client, relay: Relay, bob: User) -> None:
    here = relay.server
    assert here is not None
    Server.objects.filter(name="other").update(is_enabled=False)
    held = only_relay(group(bob))
    assert held.server_id == here.pk
    Server.objects.update(is_enabled=True)
    services.set_quarantine(group_id=held.group_id, is_quarantined=True, actor=None)
    answer = roots.get(page("server_fail_over", here.pk))
    assert [(planned.relay, planned.to.name) for planned in answer.context["moves"]] == [(relay, "other")]
    assert [(planned.relay, why) for planned, why in answer.context["stays"]] == [
        (held, "The relay is held where it is by the operator.")
    ]
    roots.post(page("server_fail_over", here.pk))
    assert Evacuation.objects.get().server == here
    assert last_event() == "server.failover"


def test_all_lost_servers_fail_over_at_once(roots: Client, relay: Relay) -> None:
    address = reverse("admin:fleet_server_fail_over_all")
    assert "No relay has to move." in roots.get(address).content.decode()
    assert relay.server_id is not None
    Server.objects.filter(pk=relay.server_id).update(phase=Server.Phase.UNHEALTHY, status=Server.Status.UNHEALTHY)
    assert relay.code in roots.get(address).content.decode()
    roots.post(address)
    assert Evacuation.objects.get().server_id == relay.server_id


def test_a_changed_address_is_in_every_map_and_takes_the_engines_address_along(roots: Client, relay: Relay) -> None:
    here = relay.server
    assert here is not None
    Server.objects.filter(pk=here.pk).update(endpoint=f"tcp://{here.ip}:2376")
    asked = roots.get(page("server_change_address", here.pk)).content.decode()
    assert "1 relay is there now of 1 customer." in asked
    roots.post(page("server_change_address", here.pk), {"ip": "192.0.2.99"})
    here.refresh_from_db()
    assert (here.ip, here.endpoint) == ("192.0.2.99", "tcp://192.0.2.99:2376")
    assert Move.objects.get().to_ip == "192.0.2.99"
    answer = roots.post(page("server_change_address", here.pk), {"ip": "nonsense"})
    assert answer.context["question"].form.errors["ip"]


@pytest.mark.parametrize("udp_ok", [True, False])
def test_a_port_check_says_in_words_what_it_found(
    roots: Client, relay: Relay, monkeypatch: pytest.MonkeyPatch, udp_ok: bool
) -> None:
    other = Server.objects.get(name="other")
    found = PortCheck(21007, other, tcp_ok=True, udp_ok=udp_ok, udp_error="" if udp_ok else "timeout")
    monkeypatch.setattr(services, "check_ports", lambda **_options: found)
    assert relay.server_id is not None
    text = roots.post(page("server_check_ports", relay.server_id), follow=True).content.decode()
    assert ("can be reached from other over TCP and UDP." in text) is udp_ok
    assert ("security group" in text) is not udp_ok


def test_a_port_check_that_fails_says_why(roots: Client, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(**_options: Any) -> PortCheck:
        raise Unavailable("connection_refused", "")

    monkeypatch.setattr(services, "check_ports", unreachable)
    assert relay.server_id is not None
    text = roots.post(page("server_check_ports", relay.server_id), follow=True).content.decode()
    assert "The server refuses connections." in text


def test_the_enrolment_script_is_handed_out_once_and_is_not_to_be_stored(roots: Client) -> None:
    one = server(1)
    asked = roots.get(page("server_enrolment_script", one.pk))
    values = {name: field.value() or "" for name, field in ((f.name, f) for f in asked.context["question"].form)}
    assert values["address"] == one.ip
    answer = roots.post(page("server_enrolment_script", one.pk), values | {"portal_addresses": "198.51.100.7"})
    assert answer["Content-Disposition"] == 'attachment; filename="enrol-192021.sh"'
    assert "no-store" in answer["Cache-Control"]
    assert answer.content.startswith(b"#!/usr/bin/env bash")
    assert b"PRIVATE KEY" in answer.content
    assert last_event() == "authority.script_made"
    refused = roots.post(reverse("admin:fleet_server_enrol_new"), values | {"address": "no host"})
    assert "full host name" in refused.content.decode()


def test_the_authoritys_keys_are_on_no_page(roots: Client) -> None:
    from fleet.services.authority import authority

    held: Authority = authority()
    text = roots.get(page("authority_change", held.pk)).content.decode()
    assert held.ssh_public_key.split()[1] in text
    assert "PRIVATE KEY" not in text


def test_a_host_that_is_gone_for_good_may_be_deleted_with_what_may_run_there(roots: Client) -> None:
    lost = server(1, phase=Server.Phase.UNHEALTHY, status=Server.Status.UNHEALTHY, containers=3)
    roots.post(page("server_delete", lost.pk))
    assert Server.objects.filter(pk=lost.pk).exists()
    roots.post(page("server_delete", lost.pk), {"is_gone_for_good": "on"})
    assert not Server.objects.exists()


def test_a_move_without_room_says_why_it_waits(roots: Client, relay: Relay) -> None:
    here = relay.server
    assert here is not None
    Server.objects.filter(name="other").update(max_relays=0)
    evacuation = services.drain_server(server_id=here.pk, actor=None)
    move = Move.objects.create(
        relay=relay, evacuation=evacuation, reason="drain", waits_for="no_room", from_server=here, from_generation=1
    )
    text = roots.get(page("evacuation_change", evacuation.pk)).content.decode()
    assert "Every server that may take this relay is full. (1)" in text
    progress = progress_of(evacuation)
    assert (progress.total, progress.answered, progress.to_go) == (1, 0, 0)
    listed = roots.get(reverse("admin:fleet_move_changelist"), {"q": relay.code, "state__exact": "waiting"})
    assert list(listed.context["cl"].result_list) == [move]


def test_open_alerts_come_first_and_are_resolved_by_hand(roots: Client) -> None:
    one = server(1)
    over = raise_alert(Alert.Kind.ALLOWANCE, severity=Alert.Severity.WARNING, subject="1", server=one, percent=91)
    address = reverse("admin:fleet_alert_changelist")
    chosen = {"action": "resolve", "_selected_action": [over.pk]}
    roots.post(address, chosen)
    roots.post(address, chosen)
    assert AuditEntry.objects.filter(event="alert.resolved", actor_label="root").count() == 1
    still_open = raise_alert(Alert.Kind.NO_ROOM, severity=Alert.Severity.CRITICAL, subject="fleet", count=3)
    resolve_alert(Alert.Kind.ALLOWANCE, subject="1")  # Its cause was gone for a while.
    newest = raise_alert(Alert.Kind.ALLOWANCE, severity=Alert.Severity.WARNING, subject="1", server=one, percent=92)
    answer = roots.get(address)
    assert list(answer.context["cl"].result_list) == [newest, still_open, over]
    assert "3 relays find no place" in answer.content.decode()


def test_a_group_is_quarantined_with_a_note_and_let_go(roots: Client, relay: Relay) -> None:
    address = page("relaygroup_quarantine", relay.group_id)
    assert roots.get(address).status_code == 200
    roots.post(address, {"note": "attacked since noon"})
    held = RelayGroup.objects.get()
    assert held.quarantined_at is not None
    assert held.quarantine_note == "attacked since noon"
    assert "attacked since noon" in roots.get(page("relaygroup_change", held.pk)).content.decode()
    roots.post(page("relaygroup_free", held.pk))
    assert RelayGroup.objects.get().quarantined_at is None


def test_groups_are_quarantined_by_the_handful_after_asking(roots: Client, relay: Relay, bob: User) -> None:
    group(bob)
    address = reverse("admin:fleet_relaygroup_changelist")
    chosen = {"action": "quarantine_chosen", "_selected_action": list(RelayGroup.objects.values_list("pk", flat=True))}
    asked = roots.post(address, chosen)
    assert "Quarantine the chosen groups?" in asked.content.decode()
    assert not RelayGroup.objects.exclude(quarantined_at=None).exists()
    roots.post(address, chosen | {"confirmed": "1", "note": "x" * 201})
    assert not RelayGroup.objects.exclude(quarantined_at=None).exists()
    roots.post(address, chosen | {"confirmed": "1", "note": "flood"})
    assert RelayGroup.objects.filter(quarantine_note="flood").count() == 2
    listed = roots.get(address, {"quarantined": "yes"})
    assert listed.context["cl"].result_count == 2
    roots.post(address, chosen | {"action": "free_chosen", "confirmed": "1"})
    assert not RelayGroup.objects.exclude(quarantined_at=None).exists()


def test_a_group_limited_to_servers_moves_there_or_stays_as_it_was(roots: Client, relay: Relay) -> None:
    other = Server.objects.get(name="other")
    address = page("relaygroup_limit_servers", relay.group_id)
    Server.objects.filter(pk=other.pk).update(max_relays=0)
    answer = roots.post(address, {"servers": [other.pk]})
    assert "Every server that may take this relay is full." in answer.content.decode()
    assert not relay.group.servers.exists()
    assert not Move.objects.exists()
    Server.objects.filter(pk=other.pk).update(max_relays=10)
    roots.post(address, {"servers": [other.pk]})
    relay.refresh_from_db()
    assert relay.server == other
    assert last_event() == "group.servers_limited"
    roots.post(address, {"servers": []})
    assert not relay.group.servers.exists()
    relay.refresh_from_db()
    assert relay.server == other


def world(*, start: int, count: int, owner: User) -> None:
    """Servers in several regions and phases, with relays, moves and alerts."""
    phases = [Server.Phase.HEALTHY, Server.Phase.RECOVERED, Server.Phase.SUSPECT, Server.Phase.UNHEALTHY]
    for number in range(start, start + count):
        place = region(f"r{number % 7}")
        phase = phases[number % 4]
        is_well = phase in (Server.Phase.HEALTHY, Server.Phase.RECOVERED)
        status = Server.Status.HEALTHY if is_well else Server.Status.UNHEALTHY
        one = server(number + 1, region=place, phase=phase, status=status, allowance_bytes=10**12)
        if is_well:
            group(owner)
        Evacuation.objects.create(server=one, server_name=one.name, reason="failure")
        raise_alert(
            Alert.Kind.SERVER_LOST, severity=Alert.Severity.CRITICAL, subject=str(one.pk), server=one, since="x"
        )


def queries_of(browser: Client, address: str) -> int:
    with CaptureQueriesContext(connection) as seen:
        assert browser.get(address).status_code == 200
    return len(seen)


def test_the_overview_asks_no_more_of_the_database_when_there_is_more(roots: Client, alice: User) -> None:
    address = reverse("admin:fleet_overview")
    world(start=0, count=8, owner=alice)
    roots.get(address)
    few = queries_of(roots, address)
    world(start=8, count=30, owner=alice)
    assert queries_of(roots, address) == few <= 20


def test_the_overview_counts_groups_and_narrows(roots: Client, alice: User) -> None:
    world(start=0, count=8, owner=alice)
    overview = fleet_overview()
    assert [count for _phase, count in overview.totals.phases] == [2, 2, 2, 2]
    assert overview.totals.relays_wanted == 4
    assert overview.totals.critical_alerts == 8
    assert sum(version.count for version in overview.versions) == 4
    worst = {table.region.code: table.phase for table in overview.tables}
    assert worst["r0"] == Server.Phase.UNHEALTHY
    address = reverse("admin:fleet_overview")
    lost = roots.get(address, {"phase": "unhealthy"}).context["tables"]
    assert [line.server.phase for table in lost for line in table.lines] == ["unhealthy", "unhealthy"]
    one = roots.get(address, {"phase": "unhealthy", "region": "r3"}).context["tables"]
    assert [table.region.code for table in one] == ["r3"]
    everything = roots.get(address, {"phase": "nonsense", "region": "nowhere"})
    assert everything.context["shown"] == 8


def test_the_map_is_drawn_once_a_region_says_where_it_is(roots: Client, alice: User) -> None:
    world(start=0, count=2, owner=alice)
    address = reverse("admin:fleet_overview")
    assert "fleet-map" not in roots.get(address).content.decode()
    place = region("r0")
    place.latitude, place.longitude = 22.3, 114.2
    place.save()
    text = roots.get(address, headers={"accept-language": "zh-hans"}).content.decode()
    assert 'cx="588.4"' in text
    [dot] = fleet_overview().dots
    assert (dot.x, dot.y, dot.label) == (588.4, 135.4, "R0")


def test_names_on_the_map_do_not_lie_over_each_other(alice: User) -> None:
    for number in range(6):
        place = region(f"near{number}")
        place.latitude, place.longitude = 22.3 + number / 10, 114.2
        place.save()
        server(number + 1, region=place)
    named = [dot for dot in fleet_overview().dots if dot.label]
    assert 1 <= len(named) < 6
    assert len({(dot.label_x, dot.label_y) for dot in named}) == len(named)


def test_who_may_only_look_is_offered_nothing_and_can_do_nothing(client: Client, relay: Relay) -> None:
    from django.contrib.auth.models import Permission

    from tests.conftest import make_user

    helper = make_user("helen", role="admin")
    client.force_login(helper)
    assert client.get(reverse("admin:fleet_overview")).status_code == 403
    helper.user_permissions.set(Permission.objects.filter(codename__in=["view_server", "view_relaygroup"]))
    assert client.get(reverse("admin:fleet_overview")).status_code == 200
    assert relay.server_id is not None
    text = client.get(page("server_change", relay.server_id)).content.decode()
    assert "Set. Left empty" not in text
    for name in ("drain", "end_drain", "fail_over", "change_address", "check_ports", "enrolment_script"):
        address = page(f"server_{name}", relay.server_id)
        assert address not in text
        assert client.post(address).status_code == 403
    for name in ("quarantine", "free", "limit_servers"):
        assert client.post(page(f"relaygroup_{name}", relay.group_id)).status_code == 403
    assert client.post(reverse("admin:fleet_server_fail_over_all")).status_code == 403
    assert not Evacuation.objects.exists()


def test_a_finished_failover_tells_each_relays_way(roots: Client, relay: Relay) -> None:
    other = Server.objects.get(name="other")
    begun = now() - timedelta(minutes=5)
    evacuation = Evacuation.objects.create(
        server=other, server_name="other", reason="failure", state=Evacuation.State.DONE, ended_at=now()
    )
    move = Move.objects.create(
        relay=relay,
        evacuation=evacuation,
        reason="failure",
        state=Move.State.ANSWERED,
        from_server=other,
        from_ip="192.0.2.2",
        from_port=21001,
        to_server=relay.server,
        to_ip="192.0.2.1",
        to_port=21002,
        from_generation=1,
        to_generation=2,
    )
    Move.objects.filter(pk=move.pk).update(
        created_at=begun, placed_at=begun + timedelta(seconds=1), ended_at=begun + timedelta(seconds=61)
    )
    text = roots.get(page("evacuation_change", evacuation.pk)).content.decode()
    assert "1 of 1 relays answer at their new place." in text
    assert "other · 192.0.2.2:21001" in text
    assert "server-1 · 192.0.2.1:21002" in text
    assert "0:01:01" in text
