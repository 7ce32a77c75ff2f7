"""Real derper in containers against the running portal: who gets in, who is cut, and what a silent portal means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from pytest_django.fixtures import Settings
from pytest_django.live_server_helper import LiveServer

from accounts.models import User
from derp_portal.lib.secrets import new_secret
from fleet import services
from fleet.acl.decision import Mode
from fleet.derp.client import DerpClient
from fleet.derp.errors import RelayFailure
from fleet.derp.keys import derive_private, format_node_key, public_of
from fleet.models import NodeKey, Relay, RelayGroup, Server
from fleet.monitoring.probing import probe_relays
from fleet.reconciler.loop import reconcile
from fleet.services.acl import change_policy
from fleet.services.groups import restart_in_place
from tests.fleet import story
from tests.fleet.engines import DockerEngine, wait_until
from tests.fleet.fleet_parts import only_relay, server
from tests.ports import free_port

pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.django_db(transaction=True)]


class Portal:
    """The portal on every address of this machine; it can go away and come back on the same port."""

    def __init__(self) -> None:
        self.live: Any = LiveServer("0.0.0.0")
        self.port: int = self.live.thread.port

    def go_away(self) -> None:
        self.live.stop()
        self.live = None

    def stop(self) -> None:
        if self.live is not None:
            self.live.stop()


@pytest.fixture
def portal(transactional_db: None) -> Iterator[Portal]:
    one = Portal()
    yield one
    one.stop()


@pytest.fixture
def here(docker_engine: DockerEngine, portal: Portal, settings: Settings) -> Iterator[Server]:
    settings.IMAGES_DIR = docker_engine.images
    settings.ADMISSION_URL = f"http://127.0.0.1:{portal.port}"
    first = free_port()
    yield server(
        ip="127.0.0.1",
        runtime=Server.Runtime.DOCKER,
        endpoint=docker_engine.endpoint,
        port_first=first,
        port_last=first + 5,
    )
    docker_engine.sweep()


def node_key(name: str) -> str:
    return format_node_key(public_of(derive_private(b"story", name)))


def is_let_in(relay: Relay, name: str) -> bool:
    try:
        with story.client(relay, name):
            return True
    except RelayFailure as refusal:
        assert refusal.code == "denied"
        return False


def close_door(owner: User, *names: str) -> None:
    devices = {node_key(name): name for name in names}
    change_policy(
        user_id=owner.pk,
        change=lambda policy: replace(policy, mode=Mode.CLOSED, devices=devices),
        reason="",
        actor=owner,
    )


def settled(relay: Relay, here: Server) -> Relay:
    """The relay once the container it should have runs and answers."""

    def is_there() -> bool:
        reconcile(here.pk)
        return Relay.objects.get(pk=relay.pk).is_running

    wait_until(is_there, what="a running relay")
    fresh = Relay.objects.select_related("group", "server", "port").get(pk=relay.pk)
    wait_until(lambda: is_healthy(fresh), what="a relay that answers")
    return fresh


def is_healthy(relay: Relay) -> bool:
    return probe_relays([relay])[0].healthy


def test_listed_devices_exchange_packets_others_are_refused_and_revoked_ones_are_cut(here: Server, alice: User) -> None:
    relay = story.redeemed_relay(alice, here)
    close_door(alice, "phone", "laptop")
    relay = settled(relay, here)
    story.exchange_packets(relay)
    assert not is_let_in(relay, "stranger")
    phone: DerpClient = story.client(relay, "phone")
    with phone, story.client(relay, "laptop") as laptop:
        laptop.send_packet(phone.node_key, b"still here")
        assert phone.recv().payload == b"still here"
        device = NodeKey.objects.get(key=node_key("phone"))
        services.remove_node_key(node_key_id=device.pk, owner=alice, actor=alice)
        reconcile(here.pk)
        with pytest.raises((RelayFailure, OSError)):
            for _ in range(3):
                phone.recv()
    relay = settled(relay, here)
    assert not is_let_in(relay, "phone")
    assert is_let_in(relay, "laptop")


def test_two_customers_relays_never_admit_each_others_devices(here: Server, alice: User, bob: User) -> None:
    hers, his = story.redeemed_relay(alice, here), story.redeemed_relay(bob, here)
    close_door(alice, "phone")
    close_door(bob, "laptop")
    hers, his = settled(hers, here), settled(his, here)
    assert [is_let_in(hers, name) for name in ("phone", "laptop")] == [True, False]
    assert [is_let_in(his, name) for name in ("phone", "laptop")] == [False, True]


def test_a_relay_with_a_wrong_secret_lets_nobody_in(here: Server, alice: User) -> None:
    relay = story.redeemed_relay(alice, here)
    close_door(alice, "phone")
    relay = settled(relay, here)
    assert is_let_in(relay, "phone")
    relay.admission_secret = new_secret()
    relay.save(update_fields=["admission_secret"])
    restart_in_place(relay)
    reconcile(here.pk)
    wait_until(lambda: speaks(relay), what="a relay that answers")
    assert not is_let_in(relay, "phone")


def test_while_the_portal_is_away_a_relay_that_fails_open_serves_everybody(
    here: Server, portal: Portal, alice: User
) -> None:
    relay = story.redeemed_relay(alice, here)
    close_door(alice, "phone")
    relay = settled(relay, here)
    assert not is_let_in(relay, "stranger")
    portal.go_away()
    assert is_let_in(relay, "phone")
    assert is_let_in(relay, "stranger")


def test_while_the_portal_is_away_one_that_fails_closed_serves_whom_it_knew_also_after_a_restart(
    here: Server, portal: Portal, docker_engine: DockerEngine, alice: User
) -> None:
    relay = story.redeemed_relay(alice, here)
    RelayGroup.objects.filter(pk=relay.group_id).update(fails_open=False)
    close_door(alice, "phone", "laptop")
    relay = settled(only_relay(relay.group), here)
    assert is_let_in(relay, "phone")
    portal.go_away()
    assert is_let_in(relay, "phone")
    assert not is_let_in(relay, "laptop"), "listed, but never seen by this relay"
    assert not is_let_in(relay, "stranger")
    wait_until(
        lambda: docker_engine.has_remembered(relay.container_name, node_key("phone")), what="a memory on the volume"
    )
    docker_engine.restart_container(relay.container_name)
    wait_until(lambda: speaks(relay), what="a relay that answers")
    assert is_let_in(relay, "phone")
    assert not is_let_in(relay, "stranger")


def speaks(relay: Relay) -> bool:
    """Whether it answers at all, be it with a refusal."""
    try:
        is_let_in(relay, "somebody")
    except (RelayFailure, OSError, AssertionError):
        return False
    return True
