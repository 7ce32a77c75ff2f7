"""From a serial to a relay and to its end, on a real Docker engine with the real derper image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from pytest_django.fixtures import Settings
from pytest_django.live_server_helper import LiveServer

from accounts.models import User
from fleet.models import Server
from fleet.reconciler.volumes import reap_volumes
from tests.fleet import story
from tests.fleet.engines import DockerEngine
from tests.fleet.fleet_parts import server
from tests.ports import free_port


@pytest.fixture
def reachable_server(transactional_db: None) -> Iterator[LiveServer]:
    """The portal on every address of this machine: a container's loopback is its own."""
    portal = LiveServer("0.0.0.0")
    yield portal
    portal.stop()


@pytest.mark.xdist_group("docker")
@pytest.mark.django_db(transaction=True)
def test_a_serial_becomes_a_container_that_serves_until_its_time_is_up(
    docker_engine: DockerEngine, reachable_server: LiveServer, settings: Settings, alice: User
) -> None:
    settings.IMAGES_DIR = docker_engine.images
    settings.ADMISSION_URL = f"http://127.0.0.1:{reachable_server.thread.port}"
    port = free_port()
    here = server(
        ip="127.0.0.1",
        runtime=Server.Runtime.DOCKER,
        endpoint=docker_engine.endpoint,
        port_first=port,
        port_last=port,
    )
    try:
        relay = story.redeemed_relay(alice, here)
        story.exchange_packets(relay)
        pid = docker_engine.main_pid(relay.container_name)
        story.change_speed(relay, here)
        assert docker_engine.main_pid(relay.container_name) == pid
        story.run_out(relay, here)
        with closing(docker_engine.runtime()) as runtime:
            assert runtime.list(settings.PORTAL_ID) == []
            assert runtime.list_volumes(settings.PORTAL_ID) == []
        assert reap_volumes(here) == []
    finally:
        docker_engine.sweep()
