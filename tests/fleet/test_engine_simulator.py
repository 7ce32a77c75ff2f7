"""The simulated engines give `DockerRuntime` the answers that real ones give."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bench.engine_simulator import simulated_engines
from fleet.runtimes.base import Observed, Rejected, RelaySpec, State, TaskSpec, Unavailable
from fleet.runtimes.docker import DockerRuntime
from fleet.runtimes.image import pack_image
from tests.fleet.engines import ROOT, wait_until

IMAGE = "derp-portal/derper:simulated"
ENGINES = 3


@pytest.fixture(scope="module")
def endpoints() -> Iterator[list[str]]:
    with simulated_engines(ENGINES, images=[IMAGE]) as found:
        yield found


@pytest.fixture
def runtime(endpoints: list[str]) -> Iterator[DockerRuntime]:
    """The first engine, emptied afterwards."""
    with closing(DockerRuntime(endpoints[0])) as runtime:
        yield runtime
        for portal in ("portal-a", "portal-b"):
            for box in runtime.list(portal):
                runtime.remove(box.name)
            for volume in runtime.list_volumes(portal):
                runtime.remove_volume(volume)


def spec(number: int = 1, **changes: Any) -> RelaySpec:
    values: dict[str, Any] = {
        "name": f"relay-{number}",
        "volume": f"volume-{number}",
        "portal_id": "portal-a",
        "relay_id": number,
        "generation": 1,
        "digest": "d" * 64,
        "image": IMAGE,
        "args": ("-a", ":443"),
        "env": {},
        "files": {"derper.key": b"k"},
        "port": 20000 + number,
    }
    return RelaySpec(**{**values, **changes})


def observed(runtime: DockerRuntime, name: str) -> Observed:
    return next(box for box in runtime.list("portal-a") if box.name == name)


def refused(code: str) -> Any:
    return pytest.raises(Rejected, check=lambda error: error.code == code)


def busy() -> Any:
    return pytest.raises(Unavailable, check=lambda error: error.code == "busy")


def test_a_relay_lives_from_create_to_remove_and_every_call_may_be_repeated(runtime: DockerRuntime) -> None:
    relay = spec(generation=7)
    container_id = runtime.create(relay)
    with refused("name_taken"):
        runtime.create(relay)
    seen = observed(runtime, relay.name)
    assert (seen.id, seen.state, seen.relay_id, seen.generation) == (container_id, State.CREATED, 1, 7)
    assert seen.digest == relay.digest
    for _ in range(2):
        runtime.put_files(relay)
        runtime.start(relay.name)
        runtime.reload(relay.name)
        assert observed(runtime, relay.name).state == State.RUNNING
    for _ in range(2):
        runtime.stop(relay.name)
        runtime.reload(relay.name)
        assert observed(runtime, relay.name).state == State.EXITED
    for _ in range(2):
        runtime.remove(relay.name, volume=relay.volume)
    runtime.stop(relay.name)
    assert runtime.list("portal-a") == []
    assert runtime.list_volumes("portal-a") == []


def test_what_is_gone_cannot_be_started_filled_or_reloaded(runtime: DockerRuntime) -> None:
    with refused("not_found"):
        runtime.start("relay-1")
    with refused("not_found"):
        runtime.put_files(spec())
    with refused("not_found"):
        runtime.reload("relay-1")


def test_another_portals_containers_and_volumes_are_neither_listed_nor_taken_over(runtime: DockerRuntime) -> None:
    runtime.create(spec(portal_id="portal-b"))
    assert runtime.list("portal-a") == []
    assert runtime.list_volumes("portal-a") == []
    assert [box.name for box in runtime.list("portal-b")] == ["relay-1"]
    with refused("name_taken"):
        runtime.create(spec(2, volume="volume-1"))


def test_a_volume_in_use_is_not_dropped(runtime: DockerRuntime) -> None:
    runtime.create(spec())
    with busy():
        runtime.remove_volume("volume-1")
    assert runtime.list_volumes("portal-a") == ["volume-1"]


def test_two_running_relays_cannot_have_one_port_of_one_address(runtime: DockerRuntime) -> None:
    here, there = spec(1, bind_ip="192.0.2.1"), spec(2, port=20001, bind_ip="192.0.2.2")
    everywhere = spec(3, port=20001)
    for one in (here, there, everywhere):
        runtime.create(one)
    runtime.start(here.name)
    runtime.start(there.name)
    with refused("port_taken"):
        runtime.start(everywhere.name)
    assert observed(runtime, everywhere.name).state == State.CREATED
    runtime.stop(here.name)
    runtime.remove(there.name)
    runtime.start(everywhere.name)


def test_an_image_is_there_once_its_archive_was_loaded(
    runtime: DockerRuntime, tmp_path: Path, endpoints: list[str]
) -> None:
    name = f"derp-portal/derper:{time.time_ns()}"
    program = b"\x7fELF\x02\x01" + bytes(12) + b"\x3e" + bytes(45)
    (tmp_path / "image.tar").write_bytes(pack_image(name, program, program, b""))
    with refused("image_missing"):
        runtime.create(spec(image=name))
    with closing(DockerRuntime(endpoints[0], image_archive=lambda _: tmp_path / "image.tar")) as loading:
        loading.ensure_image(name)
    runtime.create(spec(image=name))
    (tmp_path / "image.tar").write_bytes(b"no archive")
    with (
        closing(DockerRuntime(endpoints[1], image_archive=lambda _: tmp_path / "image.tar")) as broken,
        pytest.raises(Rejected),
    ):
        broken.ensure_image(name)


def test_every_engine_is_somebody_else_with_a_clock(endpoints: list[str]) -> None:
    infos, begun = [], datetime.now(UTC)
    for endpoint in endpoints:
        with closing(DockerRuntime(endpoint)) as runtime:
            infos.append(runtime.info())
            assert runtime.list("portal-a") == []
    assert len({info.engine_id for info in infos}) == len({info.hardware["name"] for info in infos}) == ENGINES
    for info in infos:
        assert info.clock is not None
        assert begun - timedelta(seconds=5) < info.clock < datetime.now(UTC) + timedelta(seconds=5)


def test_the_first_portal_to_claim_an_engine_owns_it(endpoints: list[str]) -> None:
    with closing(DockerRuntime(endpoints[1])) as runtime:
        assert runtime.claim("portal-a") == "portal-a"
        assert runtime.claim("portal-b") == "portal-a"


def test_a_task_ends_well_at_once_and_leaves_nothing(runtime: DockerRuntime) -> None:
    result = runtime.run_task(TaskSpec(image=IMAGE, args=("probe",), port=20001, portal_id="portal-a"))
    assert (result.exit_code, result.output) == (0, "")
    relay = spec()
    runtime.create(relay)
    runtime.start(relay.name)


def test_threads_may_create_at_once_and_a_listing_is_never_stale(runtime: DockerRuntime, endpoints: list[str]) -> None:
    def one(number: int) -> None:
        with closing(DockerRuntime(endpoints[0])) as own:
            relay = replace(spec(number), name=f"relay-{number}")
            own.create(relay)
            own.start(relay.name)
            assert observed(own, relay.name).state == State.RUNNING

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(40)))
    assert sorted(box.relay_id for box in runtime.list("portal-a")) == list(range(40))


def test_the_simulator_ends_with_the_block_and_with_whoever_started_it(tmp_path: Path) -> None:
    with simulated_engines(1) as endpoints:
        socket = Path(endpoints[0].removeprefix("unix://"))
        assert socket.exists()
    assert not socket.exists()
    with pytest.raises(Unavailable):
        DockerRuntime(endpoints[0]).info()

    command = [sys.executable, "-m", "bench.engine_simulator", "--sockets", str(tmp_path), "--until-eof"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        wait_until((tmp_path / "0.sock").exists)
        process.stdin.close()
        assert process.wait(60) == 0
