"""A server is let go only when nothing of ours can be left on it."""

from __future__ import annotations

import pytest

from accounts.models import User
from derp_portal.lib.errors import PortalError
from fleet import services
from fleet.models import Server
from fleet.runtimes.base import Unavailable
from tests.fleet.fleet_parts import Fleet, group, only_relay, server


def attempts(here: Server) -> list[str]:
    """The codes with which deleting it, and changing its engine, are refused."""
    refused = []
    for attempt in (
        lambda: services.update_server(server_id=here.pk, endpoint="unix:///elsewhere.sock", actor=None),
        lambda: services.delete_server(server_id=here.pk, actor=None),
    ):
        try:
            attempt()
        except PortalError as error:
            refused.append(error.code)
    return refused


@pytest.mark.parametrize("way", ["released", "moved"])
def test_a_server_that_cannot_be_reached_is_kept_while_what_left_it_may_run_there(way: str, alice: User) -> None:
    here = server(1)
    fleet = Fleet([here, server(2)])
    relay = only_relay(group(alice))
    fleet.one_pass(here)
    fleet.on(here).fail(Unavailable("unreachable"))
    if way == "released":
        services.release_group(group_id=relay.group_id, actor=None)
    else:
        services.move_relay(relay_id=relay.pk, server_id=None, actor=None)
    fleet.one_pass(here)
    assert attempts(here) == ["server_in_use"] * 2
    assert fleet.on(here).boxes
    fleet.on(here).heal()
    fleet.passes()
    fleet.probe()  # Until it answers elsewhere it is left serving here.
    fleet.one_pass(here)
    assert not fleet.on(here).boxes
    assert attempts(here) == []


def test_a_container_that_would_not_go_keeps_its_server(alice: User) -> None:
    here = server()
    fleet = Fleet([here])
    bought = group(alice)
    fleet.passes()
    services.release_group(group_id=bought.pk, actor=None)
    fleet.on(here).fail(Unavailable("timeout"), "remove")
    fleet.passes(2)
    assert attempts(here) == ["server_in_use"] * 2


def test_a_relay_released_while_its_container_is_being_made_keeps_its_server(alice: User) -> None:
    here = server()
    fleet = Fleet([here])
    bought = group(alice)
    fleet.on(here).is_image_there = False
    fleet.passes()
    services.release_group(group_id=bought.pk, actor=None)
    assert attempts(here) == ["server_in_use"] * 2, "whoever made it may have died before he could say so"
    fleet.passes()
    assert attempts(here) == []
