"""What every runtime promises, asked of the real ones: a Docker engine and the process daemon."""

from __future__ import annotations

import binascii
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from fleet.runtimes.base import DEADLINE_FILE, Observed, Rejected, RelaySpec, Runtime, State, Unavailable
from fleet.runtimes.executables import IMAGE_AUTO, IMAGE_BUNDLED
from tests.fleet.engines import DockerEngine, Relayd, answers, deadline_in, relay_spec, wait_until
from tests.processes import children_of

NOBODY_THERE = ("unreachable", "connection_refused", "no_socket")


@dataclass
class Host:
    """One host under test. `image` is present on it unless a test says otherwise."""

    engine: DockerEngine | Relayd
    runtime: Runtime
    image: str
    absent_image: str
    listen: str

    def spec(self, **changes: Any) -> RelaySpec:
        return relay_spec(image=self.image, listen=self.listen, **changes)

    def running(self, **changes: Any) -> RelaySpec:
        """A relay that was created, filled, started, and answers."""
        spec = self.spec(**changes)
        self.runtime.create(spec)
        self.runtime.put_files(spec)
        self.runtime.start(spec.name)
        self.wait_for_answer(spec)
        return spec

    def observed(self, spec: RelaySpec) -> Observed | None:
        return next((one for one in self.runtime.list(spec.portal_id) if one.name == spec.name), None)

    def state(self, spec: RelaySpec) -> State | None:
        one = self.observed(spec)
        return one.state if one else None

    def relay_pid(self, spec: RelaySpec) -> int:
        """The relay's own process, which on Docker is the warden's child; 0 while there is none."""
        main = self.engine.main_pid(spec.name)
        if main == 0 or not isinstance(self.engine, DockerEngine):
            return main
        return next(iter(children_of(main)), 0)

    def said(self, spec: RelaySpec) -> str:
        """What whoever keeps the deadline logged."""
        if not isinstance(self.engine, DockerEngine):
            return (self.engine.home / "relayd.log").read_text()
        with contextlib.closing(self.engine.api()) as api:
            return str(api.logs(spec.name).decode())

    def set_deadline(self, spec: RelaySpec, seconds: float) -> RelaySpec:
        """Write a deadline so far from now, and nothing else; as the portal does at a renewal."""
        changed = replace(spec, files={**spec.files, DEADLINE_FILE: deadline_in(seconds)})
        self.runtime.put_files(changed)
        return changed

    def wait_for_silence(self, spec: RelaySpec) -> None:
        wait_until(lambda: not answers(spec.port) and self.relay_pid(spec) == 0, what="the relay's end")

    def wait_for_answer(self, spec: RelaySpec) -> None:
        wait_until(lambda: answers(spec.port), what=f"an answer on port {spec.port}")


@pytest.fixture(params=[pytest.param("docker", marks=pytest.mark.xdist_group("docker")), "process", "bundled"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A Docker engine, and the process daemon with derper (where there is one) and with the bundled relay."""
    if request.param != "docker":
        relayd: Relayd = request.getfixturevalue("relayd")
        image = IMAGE_AUTO if request.param == "process" else IMAGE_BUNDLED
        yield Host(relayd, relayd.runtime(), image, "process:unheard-of", "127.0.0.1")
        return
    engine: DockerEngine = request.getfixturevalue("docker_engine")
    runtime = engine.runtime()
    runtime.ensure_image(engine.image)
    yield Host(engine, runtime, engine.image, "derp-portal/derper:unheard-of", "")
    runtime.close()
    engine.sweep()


def refused(code: str) -> Any:
    return pytest.raises(Rejected, check=lambda error: error.code == code)


def test_a_relay_lives_from_create_to_remove(host: Host) -> None:
    spec = host.spec()
    container_id = host.runtime.create(spec)
    assert host.state(spec) == State.CREATED
    host.runtime.put_files(spec)
    host.runtime.start(spec.name)
    host.wait_for_answer(spec)
    assert host.state(spec) == State.RUNNING
    host.runtime.stop(spec.name)
    assert host.state(spec) == State.EXITED
    assert not answers(spec.port)
    host.runtime.start(spec.name)
    host.wait_for_answer(spec)
    seen = host.observed(spec)
    assert seen is not None
    assert seen.id == container_id
    host.runtime.remove(spec.name, volume=spec.volume)
    assert host.runtime.list(spec.portal_id) == []
    assert host.runtime.list_volumes(spec.portal_id) == []
    assert not answers(spec.port)


def test_the_relay_answers_stun_on_the_same_port(host: Host) -> None:
    spec = host.running()
    request = b"\x00\x01\x00\x00\x21\x12\xa4\x42" + b"abcdefghijkl"
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.settimeout(1)

        def is_answered() -> bool:
            # Plain binding requests get no answer from derper: it wants Tailscale's SOFTWARE and FINGERPRINT.
            probe.sendto(_stun_request(request), ("127.0.0.1", spec.port))
            with contextlib.suppress(OSError):
                return probe.recv(1500)[8:20] == b"abcdefghijkl"
            return False

        wait_until(is_answered, what="a STUN answer")


def _stun_request(plain: bytes) -> bytes:
    software = b"\x80\x22\x00\x08tailnode"
    head = plain[:2] + (len(software) + 8).to_bytes(2, "big") + plain[4:]
    body = head + software
    return body + b"\x80\x28\x00\x04" + (binascii.crc32(body) ^ 0x5354554E).to_bytes(4, "big")


def test_labels_and_digest_come_back_as_they_went(host: Host) -> None:
    spec = host.spec(generation=7)
    host.runtime.create(spec)
    seen = host.observed(spec)
    assert seen is not None
    assert (seen.portal_id, seen.relay_id, seen.generation) == (spec.portal_id, spec.relay_id, 7)
    assert seen.digest == spec.digest


def test_another_portals_containers_and_volumes_are_not_listed(host: Host) -> None:
    theirs = host.spec(portal_id="portal-b")
    host.runtime.create(theirs)
    assert host.runtime.list("portal-a") == []
    assert host.runtime.list_volumes("portal-a") == []
    assert [one.name for one in host.runtime.list("portal-b")] == [theirs.name]


def test_another_portals_volume_is_not_taken_over(host: Host) -> None:
    theirs = host.spec(portal_id="portal-b")
    host.runtime.create(theirs)
    with refused("name_taken"):
        host.runtime.create(host.spec(volume=theirs.volume))


def test_every_call_may_be_repeated(host: Host) -> None:
    spec = host.spec()
    host.runtime.create(spec)
    with refused("name_taken"):
        host.runtime.create(spec)
    for _ in range(2):
        host.runtime.put_files(spec)
    for _ in range(2):
        host.runtime.start(spec.name)
    host.wait_for_answer(spec)
    for _ in range(2):
        host.runtime.reload(spec.name)
    for _ in range(2):
        host.runtime.stop(spec.name)
    host.runtime.reload(spec.name)
    for _ in range(2):
        host.runtime.remove(spec.name, volume=spec.volume)
    host.runtime.stop(spec.name)
    host.runtime.remove_volume(spec.volume)


def test_what_is_gone_cannot_be_started_filled_or_reloaded(host: Host) -> None:
    spec = host.spec()
    with refused("not_found"):
        host.runtime.start(spec.name)
    with refused("not_found"):
        host.runtime.put_files(spec)
    with refused("not_found"):
        host.runtime.reload(spec.name)


def test_a_name_that_is_taken_is_refused_and_the_first_one_stays(host: Host) -> None:
    spec = host.running()
    with refused("name_taken"):
        host.runtime.create(host.spec(name=spec.name, generation=2))
    seen = host.observed(spec)
    assert seen is not None
    assert seen.generation == 1
    assert answers(spec.port)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
def test_a_port_that_somebody_holds_is_named_and_can_be_used_once_free(host: Host, kind: socket.SocketKind) -> None:
    spec = host.spec()
    host.runtime.create(spec)
    host.runtime.put_files(spec)
    with socket.socket(type=kind) as squatter:
        squatter.bind(("0.0.0.0", spec.port))
        if kind == socket.SOCK_STREAM:
            squatter.listen()
        with refused("port_taken"):
            host.runtime.start(spec.name)
        assert host.state(spec) == State.CREATED
    host.runtime.start(spec.name)
    host.wait_for_answer(spec)


def test_two_relays_cannot_have_one_port(host: Host) -> None:
    first = host.running()
    second = host.spec(port=first.port, name="second", volume="second")
    host.runtime.create(second)
    with refused("port_taken"):
        host.runtime.start(second.name)
    assert answers(first.port)


def test_an_address_of_another_machine_is_refused(host: Host) -> None:
    spec = host.spec(bind_ip="192.0.2.77")
    host.runtime.create(spec)
    with refused("invalid_spec"):
        host.runtime.start(spec.name)


@pytest.mark.parametrize(
    "change", [{"name": "../x"}, {"volume": "/etc"}, {"files": {"../x": b""}}, {"port": 70000}, {"bind_ip": "here"}]
)
def test_a_spec_that_no_host_may_be_asked_for_is_refused(host: Host, change: dict[str, Any]) -> None:
    with refused("invalid_spec"):
        host.runtime.create(replace(host.spec(), **change))
    assert host.runtime.list("portal-a") == []


def test_an_image_that_nobody_has_is_named(host: Host) -> None:
    with refused("image_missing"):
        host.runtime.create(replace(host.spec(), image=host.absent_image))
    with refused("image_missing"):
        host.runtime.ensure_image(host.absent_image)


def test_files_are_replaced_under_a_running_relay(host: Host) -> None:
    spec = host.running()
    limit = b'{"PerClientRateLimitBytesPerSec":125000,"PerClientRateBurstBytes":125000}'
    changed = replace(spec, files={**spec.files, "rate.json": limit})
    before = host.engine.main_pid(spec.name)
    host.runtime.put_files(changed)
    host.runtime.reload(spec.name)
    wait_until(lambda: answers(spec.port))
    assert host.engine.main_pid(spec.name) == before


def test_a_relay_that_dies_is_restarted(host: Host) -> None:
    spec = host.running()
    before = host.engine.main_pid(spec.name)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: host.state(spec) == State.RUNNING and host.engine.main_pid(spec.name) not in (0, before))
    host.wait_for_answer(spec)


def test_a_relay_whose_program_dies_is_restarted(host: Host) -> None:
    spec = host.running()
    before = host.relay_pid(spec)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: host.relay_pid(spec) not in (0, before))
    host.wait_for_answer(spec)


def test_a_relay_that_was_reloaded_is_still_restarted_when_it_dies(host: Host) -> None:
    spec = host.running()
    host.runtime.reload(spec.name)
    before = host.engine.main_pid(spec.name)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: host.state(spec) == State.RUNNING and host.engine.main_pid(spec.name) not in (0, before))


def test_a_relay_that_cannot_run_is_seen_restarting_and_can_be_stopped(host: Host) -> None:
    spec = host.spec()
    host.runtime.create(replace(spec, args=("-no-such-flag",)))
    host.runtime.put_files(spec)
    host.runtime.start(spec.name)
    wait_until(lambda: host.state(spec) == State.RESTARTING)
    host.runtime.stop(spec.name)
    assert host.state(spec) == State.EXITED


def test_a_relay_ends_at_its_deadline_by_itself_and_gently(host: Host) -> None:
    spec = host.running()
    host.set_deadline(spec, 4)
    container = host.observed(spec)
    assert container is not None
    host.wait_for_silence(spec)
    assert "has passed: stopping" in host.said(spec)
    wait_until(lambda: "ended with exit code 0" in host.said(spec), what="the relay's last word")
    # Still as wanted for the engine, so that no pass starts it again and again.
    seen = host.observed(spec)
    assert seen is not None
    assert (seen.id, seen.state) == (container.id, State.RUNNING)
    host.runtime.start(spec.name)
    host.runtime.reload(spec.name)
    assert host.relay_pid(spec) == 0


def test_a_moved_deadline_brings_the_relay_back_without_a_start(host: Host) -> None:
    spec = host.running()
    host.set_deadline(spec, -1)
    host.wait_for_silence(spec)
    host.set_deadline(spec, 3600)
    host.wait_for_answer(spec)
    assert host.state(spec) == State.RUNNING


def test_a_deadline_moved_in_time_costs_no_connection(host: Host) -> None:
    spec = host.running()
    before = host.relay_pid(spec)
    host.set_deadline(spec, 8)
    for _ in range(20):
        host.set_deadline(spec, 3600)
    time.sleep(9)
    assert host.relay_pid(spec) == before
    assert answers(spec.port)


def test_no_restart_of_the_engine_revives_a_relay_past_its_deadline(host: Host) -> None:
    expired, running = host.running(), host.running()
    host.set_deadline(expired, -1)
    host.wait_for_silence(expired)
    for end in (host.engine.kill9, host.engine.stop):
        end()
        host.engine.start()
        host.wait_for_answer(running)
        wait_until(lambda: host.state(expired) == State.RUNNING, what="the idle container")
        assert not answers(expired.port)
        assert host.relay_pid(expired) == 0
    host.set_deadline(expired, 3600)
    host.wait_for_answer(expired)


@pytest.mark.parametrize("told", [None, b"", b"soon\n", b"-5", b"1e12", b"9" * 13, b"9" * 100_000, b"\xff\n"])
def test_a_relay_without_a_valid_deadline_does_not_run(host: Host, told: bytes | None) -> None:
    spec = host.spec()
    files = {name: content for name, content in spec.files.items() if name != DEADLINE_FILE}
    filled = replace(spec, files=files if told is None else {**files, DEADLINE_FILE: told})
    host.runtime.create(filled)
    host.runtime.put_files(filled)
    host.runtime.start(spec.name)
    wait_until(lambda: "not started" in host.said(spec), what="a word on the deadline")
    assert host.state(spec) == State.RUNNING
    assert host.relay_pid(spec) == 0
    host.runtime.stop(spec.name)
    assert host.state(spec) == State.EXITED


def test_a_relay_past_its_deadline_can_be_stopped_and_stays_so(host: Host) -> None:
    spec = host.running()
    host.set_deadline(spec, -1)
    host.wait_for_silence(spec)
    host.runtime.stop(spec.name)
    assert host.state(spec) == State.EXITED
    host.set_deadline(spec, 3600)
    time.sleep(3)
    assert host.state(spec) == State.EXITED
    assert not answers(spec.port)


def test_what_a_relay_carries_is_counted_from_its_start_where_the_engine_counts(host: Host) -> None:
    spec = host.running()
    before = host.runtime.carried_bytes(spec.name)
    if not isinstance(host.engine, DockerEngine):
        assert before is None
        return
    assert before
    for _time in range(3):
        assert answers(spec.port)
    after = host.runtime.carried_bytes(spec.name)
    assert after
    assert after > before
    host.runtime.stop(spec.name)
    assert host.runtime.carried_bytes(spec.name) is None
    host.runtime.remove(spec.name)
    with refused("not_found"):
        host.runtime.carried_bytes(spec.name)


def test_a_volume_in_use_is_not_dropped(host: Host) -> None:
    spec = host.spec()
    host.runtime.create(spec)
    with pytest.raises(Unavailable, check=lambda error: error.code == "busy"):
        host.runtime.remove_volume(spec.volume)
    assert host.runtime.list_volumes(spec.portal_id) == [spec.volume]


def test_a_new_generation_takes_over_the_volume(host: Host) -> None:
    old = host.running()
    new = replace(old, name=f"{old.name}-next", generation=2)
    host.runtime.remove(old.name)
    host.runtime.create(new)
    host.runtime.start(new.name)
    host.wait_for_answer(new)


def assert_comes_back_as_it_was(host: Host, start: Callable[[], None]) -> None:
    """Kill the engine, `start` it again, and find up what was up and down what was down."""
    running, reloaded, stopped, created = host.running(), host.running(), host.running(), host.spec()
    host.runtime.reload(reloaded.name)
    host.runtime.stop(stopped.name)
    host.runtime.create(created)
    host.engine.kill9()
    with pytest.raises(Unavailable, check=lambda error: error.code in NOBODY_THERE):
        host.runtime.list("portal-a")
    start()
    host.wait_for_answer(running)
    host.wait_for_answer(reloaded)
    ours = (running.name, reloaded.name, stopped.name, created.name)
    assert {one.name: one.state for one in host.runtime.list("portal-a") if one.name in ours} == {
        running.name: State.RUNNING,
        reloaded.name: State.RUNNING,
        stopped.name: State.EXITED,
        created.name: State.CREATED,
    }


def test_an_engine_killed_without_warning_brings_back_what_ran_and_nothing_else(host: Host) -> None:
    assert_comes_back_as_it_was(host, host.engine.start)


@pytest.mark.parametrize("host", ["docker"], indirect=True)
@pytest.mark.xdist_group("docker")
def test_an_engine_with_live_restore_keeps_relays_up_while_it_is_dead(host: Host) -> None:
    assert isinstance(host.engine, DockerEngine)
    engine = host.engine
    engine.stop()
    engine.start(live_restore=True)
    try:
        survivor = host.running()
        before = engine.main_pid(survivor.name)
        assert_comes_back_as_it_was(host, lambda: engine.start(live_restore=True))
        assert engine.main_pid(survivor.name) == before
    finally:
        host.engine.sweep()
        engine.stop()
        engine.start()


def test_an_engine_that_was_stopped_in_peace_brings_back_what_ran(host: Host) -> None:
    running, stopped = host.running(), host.running()
    host.runtime.stop(stopped.name)
    host.engine.stop()
    assert not answers(running.port)
    host.engine.start()
    host.wait_for_answer(running)
    assert host.state(stopped) == State.EXITED


def test_the_host_tells_what_it_is(host: Host) -> None:
    info = host.runtime.info()
    assert info.engine == ("docker" if isinstance(host.engine, DockerEngine) else "process")
    assert info.version
    assert info.cores >= 1
    assert info.memory_bytes > 2**28
    assert info.hardware["architecture"]
