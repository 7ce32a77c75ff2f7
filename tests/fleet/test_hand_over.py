"""A map reaches its owner's tailnet: pasted, or pushed into a policy file that other people write in too."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import respx
import time_machine
from django.test import Client
from django.urls import reverse
from time_machine import Traveller

from accounts.models import User
from derp_portal.lib.errors import PortalError
from fleet.derp.hujson import entries_of
from fleet.models import ControlServer, MapPush, Port, Relay, RelayGroup
from fleet.selectors import derp_map_of, is_map_stale, nodes_of
from fleet.services import release_group
from fleet.services.hand_over import preview_push, push_due, push_map, set_only_ours, undo_push
from serials.models import Lease
from serials.services import activate
from tests.fleet.fleet_parts import server
from tests.serials.shop import make_plan, new_code_of

ACL = "https://api.tailscale.com/api/v2/tailnet/-/acl"
POLICY = """// ours, by hand
{
	"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}], // everybody
	"derpMap": {
		"Regions": {
			"901": {"RegionID": 901, "RegionCode": "cellar", "Nodes": []}, // do not touch
		},
	},
}
"""

pytestmark = pytest.mark.django_db(transaction=True)


class Tailnet:
    """A policy file behind Tailscale's API, as documented: tags, If-Match, 412 for another version."""

    def __init__(self, router: respx.MockRouter) -> None:
        self.text, self.version = POLICY, 1
        self.refuses = False
        self.asked = 0
        router.get(ACL).mock(side_effect=self.read)
        router.post(ACL).mock(side_effect=self.write)

    @property
    def etag(self) -> str:
        return f'"v{self.version}"'

    def read(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        assert request.headers["Authorization"] == "Bearer tskey-api-x"
        assert request.headers["Accept"] == "application/hujson"
        return self.answer()

    def write(self, request: httpx.Request) -> httpx.Response:
        if request.headers["If-Match"] != self.etag:
            return httpx.Response(412, json={"message": "precondition failed, invalid old hash"})
        if self.refuses:
            return httpx.Response(400, json={"message": "invalid derpMap"})
        self.edit(request.content.decode())
        return self.answer()

    def edit(self, text: str) -> None:
        self.text, self.version = text, self.version + 1

    def answer(self) -> httpx.Response:
        return httpx.Response(200, text=self.text, headers={"ETag": self.etag, "Content-Type": "application/hujson"})

    @property
    def entries(self) -> dict[str, Any]:
        return entries_of(self.text, "derpMap", "Regions")


@pytest.fixture
def clock() -> Iterator[Traveller]:
    with time_machine.travel(datetime(2031, 3, 1, 9, tzinfo=UTC), tick=False) as travel:
        yield travel


@pytest.fixture
def tailnet(clock: Traveller) -> Iterator[Tailnet]:
    with respx.mock(assert_all_called=False) as router:
        yield Tailnet(router)


@pytest.fixture
def lease(clock: Traveller, alice: User) -> Lease:
    """alice's, with two relays on two servers."""
    server(1)
    server(2)
    return activate(user=alice, code=new_code_of(make_plan(30)))[1]


@pytest.fixture
def group(lease: Lease) -> RelayGroup:
    return RelayGroup.objects.get(pk=lease.relay_group_id)


@pytest.fixture
def account(alice: User) -> ControlServer:
    return ControlServer.objects.create(owner=alice, kind="tailscale", credential="tskey-api-x")


def push(group: RelayGroup, account: ControlServer, *, is_automatic: bool = True, etag: str = "") -> MapPush:
    return push_map(
        group_id=group.pk,
        server_id=account.pk,
        etag=etag or preview_push(group=group, server=account).etag,
        is_automatic=is_automatic,
        actor=group.owner,
    )


def map_of(group: RelayGroup) -> dict[str, Any]:
    content = derp_map_of(RelayGroup.objects.get(pk=group.pk))
    assert content is not None
    return content


def move_one(group: RelayGroup) -> None:
    """A relay gets another port, as a move does to the map."""
    Port.objects.filter(relay=group.relays.order_by("slot").first()).update(number=21999)


def stale(group: RelayGroup) -> bool:
    fresh = RelayGroup.objects.get(pk=group.pk)
    return is_map_stale(fresh, nodes_of(fresh))


def test_only_our_entries_are_written_after_a_look_at_the_difference(
    tailnet: Tailnet, group: RelayGroup, account: ControlServer
) -> None:
    preview = preview_push(group=group, server=account)
    assert tailnet.text == POLICY
    assert all(line.startswith(("+", " ", "@@")) for line in preview.lines)
    push(group, account)
    assert tailnet.entries == {"901": entries_of(POLICY, "derpMap", "Regions")["901"], **map_of(group)["Regions"]}
    lines = POLICY.splitlines()
    assert [line for line in tailnet.text.splitlines() if line in lines] == lines
    assert not stale(group)


def test_a_file_that_changed_since_the_look_is_not_written(
    tailnet: Tailnet, group: RelayGroup, account: ControlServer
) -> None:
    etag = preview_push(group=group, server=account).etag
    tailnet.edit(POLICY + "// one more line\n")
    with pytest.raises(PortalError) as refusal:
        push(group, account, etag=etag)
    assert refusal.value.code == "conflict"
    assert tailnet.text == POLICY + "// one more line\n"
    assert not MapPush.objects.exists()


def test_a_change_in_the_very_moment_of_writing_is_not_lost(
    tailnet: Tailnet, group: RelayGroup, account: ControlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = tailnet.answer

    def answer_and_change() -> httpx.Response:
        told = answer()
        tailnet.edit(POLICY + "// somebody else\n")
        return told

    etag = tailnet.etag
    monkeypatch.setattr(tailnet, "answer", answer_and_change)
    with pytest.raises(PortalError, match="changed meanwhile"):
        push(group, account, etag=etag)
    assert tailnet.text == POLICY + "// somebody else\n"


def test_an_entry_of_our_number_that_is_not_ours_is_left_alone(
    tailnet: Tailnet, group: RelayGroup, account: ControlServer
) -> None:
    taken = next(iter(map_of(group)["Regions"]))
    tailnet.edit(POLICY.replace("901", taken))
    with pytest.raises(PortalError) as refusal:
        push(group, account, etag=tailnet.etag)
    assert refusal.value.code == "not_ours"


def test_an_entry_that_was_pasted_from_us_is_taken_over(
    tailnet: Tailnet, group: RelayGroup, account: ControlServer
) -> None:
    push(group, account)
    MapPush.objects.all().delete()
    move_one(group)
    push(group, account)
    assert map_of(group)["Regions"].items() <= tailnet.entries.items()


def test_what_the_control_server_refuses_is_said(tailnet: Tailnet, group: RelayGroup, account: ControlServer) -> None:
    tailnet.refuses = True
    with pytest.raises(PortalError) as refusal:
        push(group, account)
    assert refusal.value.code == "refused_policy"
    tailnet.refuses = False
    tailnet.edit("{ this is no policy")
    with pytest.raises(PortalError) as refusal:
        preview_push(group=group, server=account)
    assert refusal.value.code == "bad_policy_file"


def test_undoing_puts_back_every_byte(tailnet: Tailnet, group: RelayGroup, account: ControlServer) -> None:
    push(group, account)
    assert undo_push(group_id=group.pk, actor=group.owner)
    assert tailnet.text == POLICY
    assert not undo_push(group_id=group.pk, actor=group.owner)


def test_undoing_takes_only_our_entries_out_of_a_file_that_others_changed(
    tailnet: Tailnet, group: RelayGroup, account: ControlServer
) -> None:
    push(group, account)
    tailnet.edit(tailnet.text.replace("// everybody", "// everybody, still"))
    undo_push(group_id=group.pk, actor=group.owner)
    assert tailnet.text == POLICY.replace("// everybody", "// everybody, still")


@pytest.mark.parametrize("is_edited", [False, True])
def test_undoing_after_several_pushes_leaves_nothing_of_ours(
    clock: Traveller, tailnet: Tailnet, group: RelayGroup, account: ControlServer, is_edited: bool
) -> None:
    push(group, account)
    expected = POLICY
    if is_edited:
        expected = POLICY.replace("// everybody", "// everybody, still")
        tailnet.edit(tailnet.text.replace("// everybody", "// everybody, still"))
    move_one(group)
    clock.shift(timedelta(minutes=6))
    assert push_due() == 1
    assert undo_push(group_id=group.pk, actor=group.owner)
    assert tailnet.text == expected


def test_pushing_the_same_map_again_keeps_what_others_wrote_meanwhile(
    tailnet: Tailnet, group: RelayGroup, account: ControlServer
) -> None:
    push(group, account)
    tailnet.edit(tailnet.text.replace("// everybody", "// everybody, still"))
    push(group, account)
    undo_push(group_id=group.pk, actor=group.owner)
    assert tailnet.text == POLICY.replace("// everybody", "// everybody, still")


def test_a_changed_map_follows_by_itself_and_only_where_that_is_wanted(
    clock: Traveller, tailnet: Tailnet, group: RelayGroup, account: ControlServer
) -> None:
    push(group, account, is_automatic=True)
    move_one(group)
    assert stale(group)
    assert push_due() == 0, "not yet"
    clock.shift(timedelta(minutes=6))
    assert push_due() == 1
    assert map_of(group)["Regions"].items() <= tailnet.entries.items()
    assert not stale(group)
    asked = tailnet.asked
    clock.shift(timedelta(minutes=6))
    assert push_due() == 0
    assert tailnet.asked == asked, "nothing is asked while the map stays"
    MapPush.objects.update(is_automatic=False)
    move_back = Port.objects.filter(relay__group=group).order_by("id").first()
    assert move_back is not None
    Port.objects.filter(pk=move_back.pk).update(number=21998)
    clock.shift(timedelta(hours=1))
    assert push_due() == 0
    assert stale(group)


def test_an_entry_of_a_relay_that_is_gone_is_taken_out(
    clock: Traveller, tailnet: Tailnet, group: RelayGroup, account: ControlServer
) -> None:
    push(group, account)
    gone = group.relays.order_by("slot").last()
    assert gone is not None
    Relay.objects.filter(pk=gone.pk).update(region_id=970)
    clock.shift(timedelta(minutes=6))
    push_due()
    assert set(tailnet.entries) == {"901", *map_of(group)["Regions"]}


def test_failures_are_tried_less_and_less_often_and_shown(
    clock: Traveller, tailnet: Tailnet, group: RelayGroup, account: ControlServer
) -> None:
    push(group, account)
    move_one(group)
    tailnet.refuses = True
    pauses = []
    for _ in range(9):
        row = MapPush.objects.get()
        clock.move_to(row.next_run_at)
        push_due()
        following = MapPush.objects.get().next_run_at
        assert following is not None
        pauses.append(following - datetime.now(UTC))
    assert MapPush.objects.get().error_code == "refused_policy"
    assert pauses[-1] > pauses[0] * 20
    tailnet.refuses = False
    clock.move_to(MapPush.objects.get().next_run_at)
    push_due()
    assert not stale(group)


def test_another_users_group_or_account_cannot_be_pushed(
    tailnet: Tailnet, group: RelayGroup, account: ControlServer, bob: User
) -> None:
    with pytest.raises(RelayGroup.DoesNotExist):
        push_map(group_id=group.pk, server_id=account.pk, etag="x", is_automatic=True, actor=bob)
    ControlServer.objects.update(owner=bob)
    with pytest.raises(ControlServer.DoesNotExist):
        push_map(group_id=group.pk, server_id=account.pk, etag="x", is_automatic=True, actor=group.owner)


def test_tailscales_own_relays_are_left_out_only_while_there_is_a_standby(
    tailnet: Tailnet, group: RelayGroup, account: ControlServer
) -> None:
    set_only_ours(group_id=group.pk, is_wanted=True, actor=group.owner)
    assert map_of(group)["OmitDefaultRegions"] is True
    push(RelayGroup.objects.get(pk=group.pk), account)
    assert '"OmitDefaultRegions": true' in tailnet.text
    Relay.objects.filter(group=group, slot=1).update(server=None)
    assert "OmitDefaultRegions" not in map_of(group), "the standby is gone"
    set_only_ours(group_id=group.pk, is_wanted=False, actor=group.owner)
    with pytest.raises(PortalError) as refusal:
        set_only_ours(group_id=group.pk, is_wanted=True, actor=group.owner)
    assert refusal.value.code == "no_standby"


# --- the pages ------------------------------------------------------------------------------------------------------


def test_the_wizard_pushes_and_undoes(
    tailnet: Tailnet, lease: Lease, account: ControlServer, alice: User, client: Client
) -> None:
    client.force_login(alice)
    page = client.get(reverse("hand_over", args=[lease.pk])).content.decode()
    assert "1.86" in page
    assert "tailscale netcheck" in page
    address = reverse("hand_over_push", args=[lease.pk, account.pk])
    preview = client.get(address).content.decode()
    assert "+" in preview
    assert "derpMap" in preview or "Regions" in preview
    page = client.post(address, {"etag": tailnet.etag, "is_automatic": "on"}, follow=True).content.decode()
    assert "The map is in your policy file." in page
    assert "Later maps follow by themselves." in page
    undo = reverse("hand_over_undo", args=[lease.pk])
    assert "unless somebody changed it since" in client.get(undo).content.decode()
    assert "taken out of your policy file" in client.post(undo, follow=True).content.decode()
    assert tailnet.text == POLICY


def test_a_released_lease_has_no_map_to_push(
    tailnet: Tailnet, lease: Lease, account: ControlServer, alice: User, client: Client
) -> None:
    client.force_login(alice)
    release_group(group_id=lease.relay_group_id, actor=None)
    address = reverse("hand_over_push", args=[lease.pk, account.pk])
    for answer in (client.get(address, follow=True), client.post(address, {"etag": tailnet.etag}, follow=True)):
        assert answer.status_code == 200
        assert "Its relays have been released." in answer.content.decode()
    assert tailnet.text == POLICY


def test_a_pasted_map_is_called_stale_after_a_move(
    lease: Lease, group: RelayGroup, alice: User, client: Client
) -> None:
    client.force_login(alice)
    page = client.get(reverse("hand_over", args=[lease.pk]))
    assert "Your map is stale" not in page.content.decode()
    digest = page.context["card"].map_digest
    taken = reverse("hand_over_taken", args=[lease.pk])
    assert "we tell you to paste it again" in client.post(taken, {"digest": digest}, follow=True).content.decode()
    move_one(group)
    assert "Your map is stale" in client.get(reverse("hand_over", args=[lease.pk])).content.decode()
    assert "Your map is stale" in client.get(reverse("dashboard")).content.decode()
    answer = client.post(taken, {"digest": digest}, follow=True).content.decode()
    assert "has changed meanwhile" in answer, "what was copied is the old map"
    fresh = client.get(reverse("hand_over", args=[lease.pk])).context["card"].map_digest
    client.post(taken, {"digest": fresh})
    assert "Your map is stale" not in client.get(reverse("dashboard")).content.decode()


def test_leaving_tailscales_relays_out_is_asked_and_its_price_said(lease: Lease, alice: User, client: Client) -> None:
    client.force_login(alice)
    address = reverse("hand_over_only_ours", args=[lease.pk])
    assert "that device is cut off until one is back" in client.get(address).content.decode()
    client.post(address)
    assert "OmitDefaultRegions" in client.get(reverse("hand_over", args=[lease.pk])).content.decode()
    Relay.objects.filter(slot=1).update(server=None)
    client.post(address)
    assert "you need a second relay" in client.get(reverse("hand_over", args=[lease.pk])).content.decode()
