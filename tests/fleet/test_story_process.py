"""From a serial to a relay and to its end, on the process runtime: with derper, and with the bundled relay."""

from __future__ import annotations

import json

import pytest
from pytest_django.fixtures import Settings
from pytest_django.live_server_helper import LiveServer

from accounts.models import User
from fleet.models import Server
from fleet.runtimes.executables import IMAGE_BUNDLED, IMAGE_DERPER
from tests.fleet import story
from tests.fleet.engines import Relayd
from tests.fleet.fleet_parts import server
from tests.parts import need
from tests.ports import free_port


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("image", [IMAGE_DERPER, IMAGE_BUNDLED])
def test_a_serial_becomes_a_relay_that_serves_until_its_time_is_up(
    image: str,
    relayd: Relayd,
    live_server: LiveServer,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    alice: User,
) -> None:
    if image == IMAGE_DERPER:
        need("derper")
    settings.RELAYD_SOCKET = relayd.socket
    settings.ADMISSION_URL = live_server.url
    monkeypatch.setattr("fleet.reconciler.desired.relay_image", lambda _server: image)
    port = free_port()
    here = server(ip="127.0.0.1", runtime=Server.Runtime.PROCESS, endpoint="", port_first=port, port_last=port)
    relay = story.redeemed_relay(alice, here)
    story.exchange_packets(relay)
    pid = relayd.main_pid(relay.container_name)
    story.change_speed(relay, here)
    assert relayd.main_pid(relay.container_name) == pid
    [rate_file] = relayd.home.rglob("rate.json")
    assert json.loads(rate_file.read_bytes())["PerClientRateLimitBytesPerSec"] == story.SPEED
    story.run_out(relay, here)
    assert relayd.children() == []
    assert not list(relayd.home.rglob("derper.key")), "its keys are gone from the host"
