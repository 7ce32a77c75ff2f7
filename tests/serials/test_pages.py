"""What customers see of serials, leases and relays in the browser."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import time_machine
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import translation

from derp_portal.lib.clock import now
from fleet.models import Move, MoveReason, Region, Relay, RelayGroup, RelayHealth
from fleet.services import move_relay, update_server
from fleet.services.moves import note_answers
from fleet.services.outages import note_trouble
from serials import services
from serials.codes import grouped
from serials.models import Lease, LeaseTerm, Plan, SerialNumber
from serials.selectors import lease_cards
from serials.services import How
from tests.serials.shop import bring_up, make_plan, make_server, new_code_of, new_codes

if TYPE_CHECKING:
    from accounts.models import User
    from fleet.models import Server

OWN_PAGES = ["dashboard", "redeem", "serial_history", "usage_history"]
LEASE_PAGES = ["lease", "lease_rename", "map_url_rotate", "map_url_revoke"]


@pytest.fixture
def alices(client: Client, alice: User) -> Client:
    """alice's browser."""
    client.force_login(alice)
    return client


@pytest.fixture
def lease(alice: User, plan: Plan) -> Lease:
    """alice's lease of thirty days; its relay has a place and is not running yet."""
    return services.activate(user=alice, code=new_code_of(plan))[1]


def text_of(browser: Client, address: str, **options: Any) -> str:
    response = browser.get(address, **options)
    assert response.status_code == 200, response.status_code
    return str(response.content.decode())


def answer(lease: Lease, latency_ms: float = 18.4) -> None:
    """Its relays run, and probes say so."""
    bring_up(lease.relay_group)
    for relay in Relay.objects.filter(group=lease.relay_group):
        RelayHealth.objects.update_or_create(
            relay=relay, defaults={"status": RelayHealth.Status.HEALTHY, "latency_ms": latency_ms}
        )


def region_id_address(lease: Lease) -> str:
    return reverse("region_id", args=[lease.pk, lease.relay_group.relays.get().code])


# --- for everybody --------------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_landing_page_shows_the_public_plans_and_says_what_a_custom_relay_cannot_do(client: Client) -> None:
    make_plan(7, code="shown", name="Seven days")
    make_plan(8, code="hidden", name="A secret plan", is_public=False)
    page = text_of(client, "/")
    assert "Seven days" in page
    assert "A secret plan" not in page
    for word in ("Node sharing", "1.86", "900 to 999"):
        assert word in page


@pytest.mark.django_db
@pytest.mark.parametrize("name", OWN_PAGES)
def test_strangers_are_asked_to_log_in_and_come_back_to_where_they_were_going(client: Client, name: str) -> None:
    response = client.get(reverse(name) + "?code=ABC")
    assert response.status_code == 302
    assert response.headers["Location"].startswith(reverse("account_login"))
    assert "code%3DABC" in response.headers["Location"]


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_every_page_opens_in_both_languages(alice: User, lease: Lease, client: Client, language: str) -> None:
    alice.language = language
    alice.save(update_fields=["language"])
    client.force_login(alice)
    addresses = [reverse(name) for name in ["home", *OWN_PAGES, "dashboard_live"]]
    addresses += [reverse(name, args=[lease.pk]) for name in LEASE_PAGES] + [region_id_address(lease)]
    for address in addresses:
        response = client.get(address, {"have": f"{lease.pk}-old"})
        assert response.status_code == 200, address
        assert b" style=" not in response.content, f"{address}: our policy forbids inline styles"
    translation.activate("en")


def test_a_lease_does_not_exist_for_anybody_else(lease: Lease, bob: User, client: Client) -> None:
    client.force_login(bob)
    token = lease.relay_group.map_token
    for address in [*(reverse(name, args=[lease.pk]) for name in LEASE_PAGES), region_id_address(lease)]:
        assert client.get(address).status_code == 404, address
        assert client.post(address, {"name": "x", "region_id": 960}).status_code in (404, 405), address
    lease.refresh_from_db()
    assert lease.name != "x"
    assert RelayGroup.objects.get(pk=lease.relay_group_id).map_token == token
    assert "My relay" not in text_of(client, "/dashboard/")


def test_a_relay_of_another_lease_does_not_exist_on_this_one(alices: Client, alice: User, lease: Lease) -> None:
    second = services.activate(user=alice, code=new_code_of(make_plan(30)), how=How.NEW, lease_name="Second")[1]
    code = second.relay_group.relays.get().code
    assert alices.get(reverse("region_id", args=[lease.pk, code])).status_code == 404


# --- dashboard ------------------------------------------------------------------------------------


def test_a_newcomer_finds_the_redeem_field_and_the_plans(alices: Client, plan: Plan) -> None:
    page = text_of(alices, "/dashboard/")
    assert 'name="code"' in page
    assert plan.name in page
    assert "live-poll" not in page


def test_a_relay_goes_from_starting_to_up_without_a_reload(alices: Client, lease: Lease) -> None:
    page = text_of(alices, "/dashboard/")
    assert "My relay is starting" in page
    assert 'hx-trigger="every 3s"' in page
    answer(lease)
    live = text_of(alices, "/dashboard/live/", data={"have": f"{lease.pk}-old"})
    assert "My relay is up" in live
    assert "18 ms" in live
    assert f'id="lease-{lease.pk}-live"' in live
    assert 'hx-trigger="every 15s"' in live


def test_the_map_is_sent_again_only_when_it_is_another_one(alices: Client, alice: User, lease: Lease) -> None:
    [card] = lease_cards(alice)
    known = {"have": card.map_version}
    assert "derpMap" not in text_of(alices, "/dashboard/live/", data=known)
    Relay.objects.filter(group=lease.relay_group).update(region_id=961)
    assert "derpMap" in text_of(alices, "/dashboard/live/", data=known)


def test_the_page_loads_again_when_a_lease_came_or_the_session_is_over(alices: Client, lease: Lease) -> None:
    assert alices.get("/dashboard/live/", {"have": ""}).headers["HX-Refresh"] == "true"
    gone = Client().get("/dashboard/live/", {"have": f"{lease.pk}-old"})
    assert (gone.status_code, gone.headers["HX-Refresh"]) == (401, "true")


def test_the_dashboard_hands_the_map_over_in_three_ways(alices: Client, lease: Lease) -> None:
    page = text_of(alices, "/dashboard/")
    assert "&quot;derpMap&quot;: {" in page
    assert "regions:" in page
    assert f"/derpmap/{lease.relay_group.map_token}.json" in page


def test_an_outage_says_that_the_days_are_not_running_and_the_days_stand_still(
    alices: Client, alice: User, lease: Lease
) -> None:
    note_trouble(lease.relay_group.relays.get(), "disk_full", "no space left on device: /secret/path")
    page = text_of(alices, "/dashboard/")
    assert "your days are not running" in page
    assert "disk is full" in page
    assert "/secret/path" not in page
    [before] = lease_cards(alice)
    with time_machine.travel(now() + timedelta(hours=30)):
        [after] = lease_cards(alice)
    assert after.left == before.left


def test_an_ended_lease_says_so_and_how_to_come_back_while_its_place_is_kept(alices: Client, lease: Lease) -> None:
    services.end_lease(lease_id=lease.pk, reason=Lease.EndReason.EXPIRED, actor=None)
    page = text_of(alices, "/dashboard/")
    assert "My relay has ended" in page
    assert "Its place is kept" in page
    assert "Your tailnet may still list this relay" in page
    assert f"?lease={lease.pk}" in page


def test_after_its_place_is_given_back_the_history_remains(alices: Client, lease: Lease) -> None:
    services.end_lease(lease_id=lease.pk, reason=Lease.EndReason.EXPIRED, actor=None)
    with time_machine.travel(now() + timedelta(days=15)):
        services.release_ended_leases()
    page = text_of(alices, "/dashboard/")
    assert "You have no relay at present" in page
    assert 'name="code"' in page
    assert lease.name in text_of(alices, "/history/")
    assert lease.name in text_of(alices, f"/leases/{lease.pk}/")


def test_three_days_just_redeemed_are_three_days_left(alice: User, server: Server) -> None:
    services.activate(user=alice, code=new_code_of(make_plan(3)))
    [card] = lease_cards(alice)
    assert card.days_left == 3
    with time_machine.travel(now() + timedelta(days=2)):
        [card] = lease_cards(alice)
        assert (card.days_left, card.hours_left, card.tone) == (0, 24, "bad")


# --- moves ----------------------------------------------------------------------------------------

ASKS_TO_PASTE = "copy it again"


@pytest.fixture
def moving(lease: Lease) -> Relay:
    """alice's relay on its way to a server in Singapore."""
    region = Region.objects.create(code="sg", name="Singapore")
    there = make_server("secret-name", region=region)
    relay = lease.relay_group.relays.get()
    move_relay(relay_id=relay.pk, server_id=there.pk, actor=None)
    relay.refresh_from_db()
    return relay


def arrive(relay: Relay) -> datetime:
    """It answers at its new place; when."""
    note_answers({relay.pk: relay.generation})
    moment = relay.moves.latest("id").ended_at
    assert moment is not None
    return moment


@pytest.mark.parametrize("address", ["/dashboard/", "/leases/{lease}/"])
def test_a_move_is_told_from_its_beginning_until_two_weeks_after(
    alices: Client, lease: Lease, moving: Relay, address: str
) -> None:
    address = address.format(lease=lease.pk)
    page = text_of(alices, address)
    assert "Being moved to Singapore" in page
    assert ASKS_TO_PASTE not in page
    moment = arrive(moving)
    page = text_of(alices, address)
    assert f"Moved to Singapore at {moment:%Y-%m-%d %H:%M}" in page
    assert ASKS_TO_PASTE in page
    assert "secret-name" not in page
    Move.objects.update(ended_at=now() - timedelta(days=15))
    page = text_of(alices, address)
    assert "Moved to" not in page
    assert ASKS_TO_PASTE not in page


def test_a_relay_that_waits_for_room_is_said_to_be_on_its_way(alices: Client, lease: Lease) -> None:
    relay = lease.relay_group.relays.get()
    Move.objects.create(relay=relay, reason=MoveReason.FAILURE, from_server=relay.server, from_generation=1)
    assert "Being moved: looking for a server with room" in text_of(alices, "/dashboard/")


def test_whoever_polls_the_map_is_not_asked_to_paste_it(alices: Client, lease: Lease, moving: Relay) -> None:
    RelayGroup.objects.filter(pk=lease.relay_group_id).update(map_fetched_at=now())
    arrive(moving)
    page = text_of(alices, "/dashboard/")
    assert "Moved to Singapore" in page
    assert ASKS_TO_PASTE not in page


def test_the_open_dashboard_asks_for_the_map_to_be_pasted_when_the_relay_has_arrived(
    alices: Client, alice: User, lease: Lease, moving: Relay
) -> None:
    [card] = lease_cards(alice)
    assert ASKS_TO_PASTE not in text_of(alices, "/dashboard/live/", data={"have": card.map_version})
    arrive(moving)
    assert ASKS_TO_PASTE in text_of(alices, "/dashboard/live/", data={"have": card.map_version})


def test_a_server_that_got_another_address_is_not_called_a_move(alices: Client, lease: Lease) -> None:
    relay = lease.relay_group.relays.get()
    update_server(server_id=relay.server_id or 0, ip="192.0.2.99", actor=None)
    assert "Its address is changing" in text_of(alices, "/dashboard/")
    moment = arrive(relay)
    page = text_of(alices, "/dashboard/")
    assert f"Got another address at {moment:%Y-%m-%d %H:%M}" in page
    assert ASKS_TO_PASTE in page


def test_the_history_names_regions_and_a_gentle_reason_and_no_server(
    alices: Client, moving: Relay, bob: User, client: Client
) -> None:
    arrive(moving)
    page = text_of(alices, "/history/")
    for word in ("Test", "Singapore", "moved by the operator", "done"):
        assert f">{word}<" in page, word
    assert "secret-name" not in page
    client.force_login(bob)
    assert moving.code not in text_of(client, "/history/")


def test_a_move_that_was_called_off_led_nowhere_and_is_not_told(alices: Client, moving: Relay) -> None:
    Move.objects.update(state=Move.State.CANCELLED, ended_at=now())
    assert "Being moved" not in text_of(alices, "/dashboard/")
    assert "No relay of yours has moved" in text_of(alices, "/history/")


def test_of_two_relays_one_is_the_primary_and_one_the_standby(alices: Client, alice: User, server: Server) -> None:
    make_server("two")
    services.activate(user=alice, code=new_code_of(make_plan(30, relay_count=2)))
    page = text_of(alices, "/dashboard/")
    assert page.index("<dd>Primary</dd>") < page.index("<dd>Standby</dd>")


def test_an_only_relay_has_no_role(alices: Client, lease: Lease) -> None:
    assert "Primary" not in text_of(alices, "/dashboard/")


# --- redeeming ------------------------------------------------------------------------------------


def test_a_code_is_shown_with_its_effect_and_redeemed_on_confirmation(alices: Client, alice: User, plan: Plan) -> None:
    code = new_code_of(plan)
    shown = alices.post("/redeem/", {"code": f" {grouped(code).lower()} "}).content.decode()
    assert grouped(code) in shown
    assert "Start a lease" in shown
    assert not Lease.objects.exists(), "looking changes nothing"
    done = alices.post("/redeem/", {"code": code, "choice": "new:", "name": "Office", "confirm": "1"})
    assert done.headers["Location"] == "/dashboard/"
    assert Lease.objects.get(user=alice).name == "Office"
    assert "30 days were added to “Office”." in text_of(alices, "/dashboard/")


def test_a_code_in_the_address_is_filled_in_and_not_redeemed(alices: Client, plan: Plan) -> None:
    code = new_code_of(plan)
    assert f'value="{grouped(code)}"' in text_of(alices, "/redeem/", data={"code": code.lower()})
    assert SerialNumber.objects.get(code=code).status == SerialNumber.Status.UNUSED


def test_a_handful_of_serials_can_be_redeemed_in_one_go(alices: Client, alice: User, plan: Plan) -> None:
    with time_machine.travel(now(), tick=False):
        for code in new_codes(plan, 12):
            alices.post("/redeem/", {"code": code})
            alices.post("/redeem/", {"code": code, "choice": "new:", "confirm": "1"})

    assert alice.serials.count() == 12


def test_a_double_click_redeems_once_and_ends_on_the_dashboard(alices: Client, plan: Plan) -> None:
    sent = {"code": new_code_of(plan), "choice": "new:", "confirm": "1"}
    first, second = alices.post("/redeem/", sent), alices.post("/redeem/", sent)
    assert first.headers["Location"] == second.headers["Location"] == "/dashboard/"
    assert LeaseTerm.objects.count() == 1
    assert "You have redeemed this serial number already" in text_of(alices, "/dashboard/")


@pytest.mark.parametrize("choice", ["queue", "convert", "new"])
def test_another_plans_days_can_be_queued_converted_or_kept_apart(alices: Client, lease: Lease, choice: str) -> None:
    other = make_plan(3, code="other", day_value=50)
    code = new_code_of(other)
    shown = alices.post("/redeem/", {"code": code}).content.decode()
    keys = {"queue": f"queue:{lease.pk}", "convert": f"convert:{lease.pk}", "new": "new:"}
    assert all(f'value="{key}"' in shown for key in keys.values())
    alices.post("/redeem/", {"code": code, "choice": keys[choice], "name": "", "confirm": "1"})
    current = LeaseTerm.objects.get(lease=lease, state=LeaseTerm.State.CURRENT)
    assert Lease.objects.count() == (2 if choice == "new" else 1)
    assert current.plan == (other if choice == "convert" else current.lease.terms.first().plan)  # type: ignore[union-attr]


@pytest.mark.parametrize("digits", [19, 30, 5000])
def test_a_number_that_no_lease_has_wishes_for_none(alices: Client, digits: int) -> None:
    assert alices.get("/redeem/", {"lease": "9" * digits}).status_code == 200


def test_renew_on_a_lease_preselects_that_lease(alices: Client, alice: User, lease: Lease, plan: Plan) -> None:
    longer = services.activate(user=alice, code=new_code_of(make_plan(90)), how=How.NEW, lease_name="Longer")[1]
    code = new_code_of(plan)
    for wished in (lease, longer):
        page = alices.post("/redeem/", {"code": code, "lease": wished.pk}).content.decode()
        [line] = [line for line in page.splitlines() if " checked" in line]
        assert f'value="queue:{wished.pk}"' in line


def test_a_lease_of_somebody_else_is_no_choice(alices: Client, lease: Lease, bob: User, plan: Plan) -> None:
    bobs = services.activate(user=bob, code=new_code_of(plan))[1]
    code = new_code_of(plan)
    page = alices.post("/redeem/", {"code": code, "choice": f"queue:{bobs.pk}", "confirm": "1"}).content.decode()
    assert "Please choose again" in page
    assert SerialNumber.objects.get(code=code).status == SerialNumber.Status.UNUSED


def test_each_refusal_stands_beside_the_field_and_the_field_keeps_its_text(
    alices: Client, alice: User, bob: User, plan: Plan, server: Server
) -> None:
    used, mine, revoked, late, unknown = new_codes(plan, 5)
    services.activate(user=bob, code=used)
    services.activate(user=alice, code=mine)
    services.revoke_serials(serials=[SerialNumber.objects.get(code=revoked).pk], actor=None)
    SerialNumber.objects.filter(code=late).update(expires_at=now() - timedelta(days=1))
    SerialNumber.objects.filter(code=unknown).delete()
    expected = {
        used: "by another account",
        mine: "redeemed this serial number already",
        revoked: "withdrawn by the seller",
        late: "last day to redeem",
        unknown: "do not know this serial number",
        "hello": "not a valid serial number",
    }
    for code, words in expected.items():
        page = alices.post("/redeem/", {"code": code}).content.decode()
        assert words in page
        assert f'value="{grouped(code) if code != "hello" else code}"' in page


def test_too_many_guesses_are_told_to_wait_and_lose_nothing(alices: Client, db: None) -> None:
    # Guesses are counted by the minute; none may end between two of them.
    with time_machine.travel(now(), tick=False):
        for _ in range(10):
            alices.post("/redeem/", {"code": "guess"})
        response = alices.post("/redeem/", {"code": "my precious code"})
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) > 0
    assert "my precious code" in response.content.decode()


# --- one lease ------------------------------------------------------------------------------------


def test_a_lease_is_renamed_and_an_empty_name_is_refused(alices: Client, lease: Lease) -> None:
    address = reverse("lease_rename", args=[lease.pk])
    assert alices.post(address, {"name": "   "}).status_code == 200
    alices.post(address, {"name": "Head office"})
    lease.refresh_from_db()
    assert lease.name == "Head office"


def test_a_region_id_is_chosen_and_the_customer_told_to_paste_again(alices: Client, lease: Lease) -> None:
    assert b"950" in alices.post(region_id_address(lease), {"region_id": "999"}).content, "the range is named"
    response = alices.post(region_id_address(lease), {"region_id": "977"}, follow=True)
    assert "The map has changed" in response.content.decode()
    assert lease.relay_group.relays.get().region_id == 977


def test_the_map_url_is_changed_and_turned_off_only_after_asking(alices: Client, lease: Lease) -> None:
    def map_answers(token: str | None) -> bool:
        return Client().get(f"/derpmap/{token}.json").status_code == 200

    old = lease.relay_group.map_token
    rotate, revoke = (reverse(name, args=[lease.pk]) for name in ("map_url_rotate", "map_url_revoke"))
    alices.get(rotate)
    alices.get(revoke)
    assert map_answers(old), "asking changes nothing"
    alices.post(rotate)
    new = RelayGroup.objects.get(pk=lease.relay_group_id).map_token
    assert (map_answers(old), map_answers(new)) == (False, True)
    alices.post(revoke)
    assert not map_answers(new)
    assert "The map URL is turned off." in text_of(alices, f"/leases/{lease.pk}/")


# --- histories ------------------------------------------------------------------------------------


def test_serials_are_listed_grouped_and_found_by_code_and_status(alices: Client, lease: Lease, bob: User) -> None:
    [serial] = SerialNumber.objects.filter(user=lease.user)
    bobs = services.activate(user=bob, code=new_code_of(serial.plan))[0]
    page = text_of(alices, "/serials/")
    assert grouped(serial.code) in page
    assert grouped(bobs.code) not in page
    found = {
        query: grouped(serial.code) in text_of(alices, f"/serials/?{query}")
        for query in (f"search={grouped(serial.code)[:9].lower()}", "search=nothing", "status=used", "status=expired")
    }
    assert list(found.values()) == [True, False, True, False]


def test_both_tables_of_the_usage_history_are_filtered_and_paged_on_their_own(alices: Client, lease: Lease) -> None:
    page = text_of(alices, "/history/?terms-state=queued&events-page=1")
    assert "No term found" in page
    assert "place found" in page
    page = text_of(alices, "/history/?events-kind=released&terms-page=1")
    assert "No event found" in page
    assert lease.name in page


def test_traffic_is_shown_once_there_is_some(alices: Client, lease: Lease) -> None:
    assert "No traffic has been counted yet." in text_of(alices, "/history/")
    Relay.objects.filter(group=lease.relay_group).update(upload_bytes=1_540_000_000, download_bytes=20_000)
    page = text_of(alices, "/history/")
    assert "1.5 GB" in page
    assert "20 kB" in page


@pytest.mark.parametrize("address", ["/dashboard/", "/dashboard/live/", "/serials/", "/history/", "/redeem/", "/"])
def test_a_page_asks_the_same_number_of_questions_however_much_there_is(
    alices: Client, alice: User, address: str
) -> None:
    make_server("one")
    make_server("two")
    plan = make_plan(30, relay_count=2)

    def count() -> int:
        have = ",".join(f"{lease.pk}-old" for lease in Lease.objects.filter(user=alice))
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert "HX-Refresh" not in alices.get(address, {"have": have}).headers
        return len(queries)

    def buy(number: int) -> None:
        for name in range(number):
            bought = services.activate(user=alice, code=new_code_of(plan), how=How.NEW, lease_name=f"No {name}")[1]
            answer(bought)
            Move.objects.create(relay=bought.relay_group.relays.get(slot=0), reason=MoveReason.DRAIN, from_generation=1)
            services.activate(user=alice, code=new_code_of(make_plan(3)), lease_id=bought.pk)

    buy(1)
    alices.get(address)
    few = count()
    buy(4)
    assert count() == few


@pytest.mark.parametrize("kind", ["started", "renewed", "reminder", "ended", "compensated"])
@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_each_mail_about_a_lease_names_it_and_its_moment(alice: User, kind: str, language: str) -> None:
    from accounts import mails

    moment = now()
    context = {"user": alice, "lease": "Bob's office", "days": 3, "minutes": 1}
    context |= dict.fromkeys(("ends_at", "ended_at", "started_at"), moment)
    mail = mails.render(f"mail/lease_{kind}.txt", context, language=language, zone=alice.zone, button_url="/dashboard/")
    assert f"{moment:%Y-%m-%d %H:%M}" in mail.text
    assert "Bob's office" in mail.subject + mail.text
    assert "/dashboard/" in mail.text
