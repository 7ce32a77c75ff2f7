"""The devices page: who may use a customer's relays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from fleet import services
from fleet.acl.versions import ensure_policy
from fleet.models import NodeKey

if TYPE_CHECKING:
    from accounts.models import User


@pytest.fixture
def alices(client: Client, alice: User) -> Client:
    """alice's browser."""
    client.force_login(alice)
    return client


def key(number: int) -> str:
    return f"nodekey:{number:064x}"


def test_strangers_are_asked_to_log_in(db: None, client: Client) -> None:
    assert client.get("/devices/").headers["Location"].startswith(reverse("account_login"))


def test_the_page_says_that_doors_learn_and_until_when(alices: Client, alice: User) -> None:
    assert "Your relays are learning" not in alices.get("/devices/").content.decode()
    ensure_policy(user=alice)
    assert "Your relays are learning until" in alices.get("/devices/").content.decode()


def test_devices_are_pasted_one_a_line_with_or_without_names(alices: Client, alice: User) -> None:
    pasted = f"\r\n  {key(1)}  laptop of alice\r\n{key(2)}\r\n\r\n"
    page = alices.post("/devices/", {"lines": pasted}, follow=True).content.decode()
    assert set(NodeKey.objects.filter(owner=alice).values_list("key", "name")) == {
        (key(1), "laptop of alice"),
        (key(2), ""),
    }
    assert "laptop of alice" in page
    assert "2 devices were added." in page
    assert "1 device was added." in alices.post("/devices/", {"lines": key(3)}, follow=True).content.decode()


def test_a_wrong_line_is_named_and_nothing_typed_is_lost(alices: Client) -> None:
    page = alices.post("/devices/", {"lines": f"{key(1)} laptop\nnodekey:short phone"}).content.decode()
    assert "Line 2 is not a node key" in page
    assert "nodekey:short phone" in page
    assert not NodeKey.objects.exists()


@pytest.mark.parametrize("name", [r"\u0000", r"\ud800"])
def test_a_name_that_no_database_can_keep_is_no_output_of_tailscale(alices: Client, name: str) -> None:
    pasted = f'{{"Self": {{"PublicKey": "{key(1)}", "HostName": "{name}"}}}}'
    page = alices.post("/devices/", {"lines": pasted}).content.decode()
    assert "This does not read like the whole output" in page
    assert not NodeKey.objects.exists()


def test_devices_are_found_by_name_and_key(alices: Client, alice: User) -> None:
    services.add_node_keys(owner=alice, lines=f"{key(1)} laptop\n{key(2)} phone", actor=alice)
    listed = {
        words: [name for name in ("laptop", "phone") if f">{name}<" in search(alices, words)]
        for words in ("lap", key(2)[-8:], "nothing")
    }
    assert list(listed.values()) == [["laptop"], ["phone"], []]


def search(browser: Client, words: str) -> str:
    return browser.get("/devices/", {"search": words}).content.decode()


def test_a_device_is_removed_after_asking(alices: Client, alice: User) -> None:
    services.add_node_keys(owner=alice, lines=f"{key(1)} laptop\n{key(2)} phone", actor=alice)
    address = reverse("device_remove", args=[NodeKey.objects.get(name="laptop").pk])
    assert "It is turned away from now on." in alices.get(address).content.decode()
    assert NodeKey.objects.filter(is_removed=False).count() == 2, "asking changes nothing"
    alices.post(address)
    assert [device.name for device in NodeKey.objects.filter(is_removed=False)] == ["phone"]
    assert alices.get(address).status_code == 404


def test_a_device_does_not_exist_for_anybody_else(client: Client, alice: User, bob: User) -> None:
    [device] = services.add_node_keys(owner=alice, lines=key(1), actor=alice)
    client.force_login(bob)
    assert client.post(reverse("device_remove", args=[device.pk])).status_code == 404
    assert NodeKey.objects.filter(pk=device.pk).exists()


def test_the_list_asks_the_same_number_of_questions_however_long_it_is(alices: Client, alice: User) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            alices.get("/devices/")
        return len(queries)

    services.add_node_keys(owner=alice, lines=key(1), actor=alice)
    alices.get("/devices/")
    few = count()
    services.add_node_keys(owner=alice, lines="\n".join(key(number) for number in range(2, 60)), actor=alice)
    assert count() == few
