"""What only a Docker host can get wrong: hardening, images, and an engine that is ill."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fleet.runtimes.base import LABEL_TASK, Rejected, RelaySpec, RuntimeFailure, TaskSpec, Unavailable
from fleet.runtimes.docker import HOST_VOLUME, RELAY_UID, DockerRuntime
from fleet.runtimes.image import DERPER_VERSION
from tests.fleet.engines import DockerEngine, answers, relay_spec, wait_until
from tests.ports import free_port

engine_test = pytest.mark.xdist_group("docker")


@pytest.fixture
def runtime(docker_engine: DockerEngine) -> Iterator[DockerRuntime]:
    runtime = docker_engine.runtime()
    runtime.ensure_image(docker_engine.image)
    yield runtime
    runtime.close()
    docker_engine.sweep()


@pytest.fixture
def relay(docker_engine: DockerEngine, runtime: DockerRuntime) -> RelaySpec:
    spec = relay_spec(image=docker_engine.image, env={"TS_DEBUG_KEY_PATH": "{dir}/debug.key"})
    runtime.create(spec)
    runtime.put_files(spec)
    runtime.start(spec.name)
    wait_until(lambda: answers(spec.port))
    return spec


@engine_test
def test_a_relay_runs_without_any_privilege(docker_engine: DockerEngine, relay: RelaySpec) -> None:
    status = Path(f"/proc/{docker_engine.main_pid(relay.name)}/status").read_text()
    told = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert told["Uid"].split() == told["Gid"].split() == [str(RELAY_UID)] * 4
    assert int(told["CapEff"], 16) == int(told["CapBnd"], 16) == 0
    assert told["NoNewPrivs"] == "1"


@engine_test
def test_a_relay_is_limited_in_memory_processes_and_log(docker_engine: DockerEngine, relay: RelaySpec) -> None:
    with contextlib.closing(docker_engine.api()) as api:
        limits = api.inspect_container(relay.name)["HostConfig"]
    assert limits["Memory"] == limits["MemorySwap"] == relay.memory_bytes
    assert limits["PidsLimit"] == relay.pids_limit
    assert limits["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}}
    assert limits["ReadonlyRootfs"] is True


@engine_test
def test_only_the_relay_reads_its_files_and_only_the_wardens_memory_is_written(
    docker_engine: DockerEngine, relay: RelaySpec
) -> None:
    folder = Path(f"/proc/{docker_engine.main_pid(relay.name)}/root/relay")
    assert folder.stat().st_uid == 0
    assert not folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    assert {path.name for path in folder.iterdir()} == {*relay.files, "door"}
    memory = folder / "door"
    assert (memory.stat().st_uid, stat.S_IMODE(memory.stat().st_mode)) == (RELAY_UID, 0o700), "the warden's own"
    for path in folder.iterdir():
        if path == memory:
            continue
        assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (RELAY_UID, 0o400)


@engine_test
def test_a_relay_gets_the_environment_of_its_spec_and_finds_the_host(
    docker_engine: DockerEngine, relay: RelaySpec
) -> None:
    pid = docker_engine.main_pid(relay.name)
    names = {entry.split("=")[0] for entry in Path(f"/proc/{pid}/environ").read_text().split("\0") if entry}
    assert names == {"PATH", "HOSTNAME", "HOME", "SSL_CERT_FILE", "TS_DEBUG_KEY_PATH"}
    with contextlib.closing(docker_engine.api()) as api:
        hosts = Path(api.inspect_container(relay.name)["HostsPath"]).read_text()
    assert "host.docker.internal" in hosts


@engine_test
def test_the_image_is_loaded_where_it_is_missing(docker_engine: DockerEngine, runtime: DockerRuntime) -> None:
    with contextlib.closing(docker_engine.api()) as api:
        api.remove_image(docker_engine.image, force=True)
    spec = relay_spec(image=docker_engine.image)
    with pytest.raises(Rejected, match="image_missing"):
        runtime.create(spec)
    runtime.ensure_image(docker_engine.image)
    runtime.create(spec)


@engine_test
def test_an_archive_that_is_no_image_is_refused(docker_engine: DockerEngine, tmp_path: Path) -> None:
    (tmp_path / "broken.tar").write_bytes(b"not a tar")
    runtime = docker_engine.runtime(image_archive=lambda _: tmp_path / "broken.tar")
    with pytest.raises(Rejected) as caught:
        runtime.ensure_image("derp-portal/derper:broken")
    assert caught.value.code in ("refused", "image_missing")


@engine_test
def test_a_full_disk_is_called_a_full_disk_and_heals(docker_engine: DockerEngine, runtime: DockerRuntime) -> None:
    spec = relay_spec(image=docker_engine.image)
    runtime.create(spec)
    volume = docker_engine.home / "data/volumes" / spec.volume / "_data"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", volume], check=True)
    try:
        with pytest.raises(Rejected, match="disk_full"):
            runtime.put_files(replace(spec, files={**spec.files, "big": os.urandom(200_000)}))
    finally:
        subprocess.run(["umount", volume], check=True)
    runtime.put_files(spec)
    runtime.start(spec.name)
    wait_until(lambda: answers(spec.port))


class LossyLink:
    """Stands between a runtime and its engine; the answer to a request that holds `lose` never arrives."""

    def __init__(self, folder: Path, engine_socket: str) -> None:
        self.lose = b"\0"
        self._engine_socket = engine_socket
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / "l"))
        self._listener.listen()
        self.endpoint = f"unix://{folder}/l"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # Closing alone would leave the thread in accept().
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as engine, contextlib.suppress(OSError):
            engine.connect(self._engine_socket)
            is_lost = False
            while True:
                for ready in select.select([client, engine], [], [])[0]:
                    data = ready.recv(65536)
                    if not data or (ready is engine and is_lost):
                        return
                    is_lost = is_lost or (ready is client and self.lose in data)
                    (engine if ready is client else client).sendall(data)


@engine_test
def test_a_call_that_took_effect_without_an_answer_is_safe_to_repeat(
    docker_engine: DockerEngine, runtime: DockerRuntime, tmp_path_factory: pytest.TempPathFactory
) -> None:
    link = LossyLink(tmp_path_factory.mktemp("l"), docker_engine.endpoint.removeprefix("unix://"))
    deaf = DockerRuntime(link.endpoint)
    spec = relay_spec(image=docker_engine.image)
    deaf.info()

    def lose(request: bytes, call: Callable[[], object]) -> None:
        link.lose = request
        with pytest.raises(Unavailable, match="unreachable"):
            call()

    lose(b"/containers/create", lambda: deaf.create(spec))
    assert [one.name for one in runtime.list(spec.portal_id)] == [spec.name]
    with pytest.raises(Rejected, match="name_taken"):
        runtime.create(spec)
    lose(b"/archive", lambda: deaf.put_files(spec))
    runtime.put_files(spec)
    lose(b"/start", lambda: deaf.start(spec.name))
    wait_until(lambda: answers(spec.port))
    runtime.start(spec.name)
    lose(b"/stop", lambda: deaf.stop(spec.name))
    wait_until(lambda: not answers(spec.port))
    runtime.stop(spec.name)
    lose(b"DELETE /", lambda: deaf.remove(spec.name))
    wait_until(lambda: not runtime.list(spec.portal_id))
    lose(b"DELETE /", lambda: deaf.remove(spec.name, volume=spec.volume))
    runtime.remove(spec.name, volume=spec.volume)
    assert runtime.list_volumes(spec.portal_id) == []
    link.close()


def answering(folder: Path, reply: bytes | None) -> DockerRuntime:
    """A runtime whose endpoint says `reply` to everything; None accepts and stays silent."""
    path = folder / "s"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        held = []
        while True:
            link, _ = listener.accept()
            held.append(link)
            if reply is not None:
                link.recv(65536)
                link.sendall(reply)
                link.close()

    threading.Thread(target=serve, daemon=True).start()
    patience = 60 if reply is not None else 0.5
    return DockerRuntime(f"unix://{path}", timeouts=(patience, patience))


def http(status: str, body: bytes, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    ("reply", "failure", "code"),
    [
        pytest.param(http("200 OK", b"<html>", "text/html"), Rejected, "not_an_engine", id="a web server"),
        pytest.param(http("200 OK", b"[]"), Rejected, "not_an_engine", id="another API"),
        pytest.param(http("200 OK", b"{}"), Rejected, "not_an_engine", id="yet another API"),
        pytest.param(http("404 Not Found", b'{"message":"page not found"}'), Rejected, "not_an_engine", id="a 404"),
        pytest.param(b"", Unavailable, "unreachable", id="one that hangs up"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", Rejected, "not_an_engine", id="another protocol"),
        pytest.param(
            http("302 Found", b"", "text/html\r\nLocation: http://127.0.0.1:1/"), Rejected, "not_an_engine", id="a hint"
        ),
        pytest.param(http("404 Gone", b"<html>", "text/html"), Rejected, "not_an_engine", id="a page that is missing"),
        pytest.param(http("401 No", b"<html>", "text/html"), Rejected, "not_an_engine", id="a page with a password"),
        pytest.param(http("502 Bad", b"<html>", "text/html"), Unavailable, "busy", id="a gateway to nothing"),
        pytest.param(
            http("200 OK", b'{"Version":"19.03.15","ApiVersion":"1.40"}'), Rejected, "engine_too_old", id="an old one"
        ),
        pytest.param(http("200 OK", b'{"ApiVersion":"new"}'), Rejected, "not_an_engine", id="a strange version"),
        pytest.param(None, Unavailable, "timeout", id="one that is silent"),
        pytest.param(http("503 Busy", b'{"message":"starting"}'), Unavailable, "busy", id="one that is starting"),
        pytest.param(
            http("500 Oh", b'{"message":"Cannot update container x: task x not found: not found"}'),
            Unavailable,
            "busy",
            id="a relay that died this moment",
        ),
        pytest.param(http("403 No", b'{"message":"denied by policy"}'), Rejected, "refused", id="one that forbids"),
        pytest.param(
            http("500 Oh", b'{"message":"mkdir /x: no space left on device"}'), Rejected, "disk_full", id="a full disk"
        ),
    ],
)
def test_an_endpoint_that_is_not_well_is_named_for_what_it_is(
    tmp_path_factory: pytest.TempPathFactory, reply: bytes | None, failure: type[RuntimeFailure], code: str
) -> None:
    runtime = answering(tmp_path_factory.mktemp("e"), reply)
    began = time.monotonic()
    with pytest.raises(failure) as caught:
        runtime.info()
    assert caught.value.code == code
    assert time.monotonic() - began < 30


def test_a_socket_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no_socket"):
        DockerRuntime(f"unix://{tmp_path}/none").list("portal-a")


def test_a_socket_that_a_dead_engine_left_refuses(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("e") / "s"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with pytest.raises(Unavailable, match="connection_refused"):
        DockerRuntime(f"unix://{path}").list("portal-a")


@pytest.mark.parametrize(
    "endpoint",
    [
        *("", "here", "http://127.0.0.1:80", "unix://relative", "tcp://", "tcp://host:port", "tcp://host/path"),
        *("tcp://u@host:1", "ssh://no-user", "ssh://user:password@host", "ssh://user@host:99999", "tcp://[::1"),
    ],
)
def test_an_address_of_no_engine_is_refused_unasked(endpoint: str) -> None:
    with pytest.raises(Rejected, match="invalid_endpoint"):
        DockerRuntime(endpoint).info()


@engine_test
def test_the_host_tells_its_identity_and_its_clock(docker_engine: DockerEngine, runtime: DockerRuntime) -> None:
    before = datetime.now(UTC)
    info = runtime.info()
    after = datetime.now(UTC)
    with contextlib.closing(docker_engine.api()) as api:
        assert info.engine_id == api.info()["ID"]
    assert info.clock is not None
    assert before - timedelta(seconds=5) < info.clock < after + timedelta(seconds=5)
    assert re.fullmatch(r"1\.\d+", info.hardware["api_version"])
    assert info.host_key == ""


@engine_test
def test_of_two_portals_that_claim_a_host_at_once_exactly_one_owns_it(
    docker_engine: DockerEngine, runtime: DockerRuntime
) -> None:
    runtime.remove_volume(HOST_VOLUME)  # An earlier test's portal may have been here.
    portals = [f"portal-{number}" for number in range(8)]

    def claim(portal_id: str) -> str:
        with contextlib.closing(docker_engine.runtime()) as own:
            return own.claim(portal_id)

    try:
        with ThreadPoolExecutor(len(portals)) as pool:
            owners = set(pool.map(claim, portals))
        assert len(owners) == 1
        assert owners < set(portals)
        assert {runtime.claim(portal_id) for portal_id in portals} == owners
        assert [runtime.list_volumes(portal_id) for portal_id in portals] == [[]] * len(portals)
    finally:
        runtime.remove_volume(HOST_VOLUME)


@engine_test
def test_a_volume_of_the_claims_name_that_is_no_claim_is_not_taken_for_one(
    docker_engine: DockerEngine, runtime: DockerRuntime
) -> None:
    runtime.remove_volume(HOST_VOLUME)
    with contextlib.closing(docker_engine.api()) as api:
        api.create_volume(HOST_VOLUME)
    try:
        with pytest.raises(Rejected, match="name_taken"):
            runtime.claim("portal-a")
    finally:
        runtime.remove_volume(HOST_VOLUME)


def tasks_on(engine: DockerEngine) -> list[str]:
    with contextlib.closing(engine.api()) as api:
        return [row["Id"] for row in api.containers(all=True, filters={"label": LABEL_TASK})]


def version_task(engine: DockerEngine, **changes: Any) -> TaskSpec:
    return TaskSpec(**{"image": engine.image, "args": ("-version",), "entrypoint": "/derper", **changes})


@engine_test
def test_a_task_gives_back_what_it_said_and_is_gone(docker_engine: DockerEngine, runtime: DockerRuntime) -> None:
    result = runtime.run_task(version_task(docker_engine, port=free_port(), portal_id="portal-a"))
    assert (result.exit_code, result.output.split("-")[0].strip()) == (0, DERPER_VERSION.removeprefix("v"))
    assert runtime.run_task(version_task(docker_engine, args=("-no-such-flag",))).exit_code != 0
    assert tasks_on(docker_engine) == []


@engine_test
def test_a_task_that_cannot_start_or_does_not_end_is_gone_too(
    docker_engine: DockerEngine, runtime: DockerRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.runtimes.docker.containers.TASK_GRACE", 0)
    with pytest.raises(Unavailable, match="timeout"):
        runtime.run_task(version_task(docker_engine, args=("-dev",), seconds=1))
    with pytest.raises(RuntimeFailure):
        runtime.run_task(version_task(docker_engine, entrypoint="/no-such-program"))
    with socket.socket() as squatter:
        squatter.bind(("0.0.0.0", port := free_port()))
        squatter.listen()
        with pytest.raises(Rejected, match="port_taken"):
            runtime.run_task(version_task(docker_engine, port=port))
    with pytest.raises(Rejected, match="image_missing"):
        runtime.run_task(version_task(docker_engine, image="derp-portal/derper:unheard-of"))
    with pytest.raises(Rejected, match="invalid_spec"):
        runtime.run_task(version_task(docker_engine, seconds=10_000))
    assert tasks_on(docker_engine) == []


@engine_test
def test_what_a_dead_worker_left_of_its_task_goes_with_the_next_one(
    docker_engine: DockerEngine, runtime: DockerRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(docker_engine.api()) as api:
        left, theirs = (
            api.create_container(docker_engine.image, labels={LABEL_TASK: portal})["Id"] for portal in ("a", "b")
        )
        try:
            runtime.run_task(version_task(docker_engine, portal_id="a"))
            assert set(tasks_on(docker_engine)) == {left, theirs}  # It may still be at work.
            monkeypatch.setattr("fleet.runtimes.docker.containers.LEFTOVER_SECONDS", 0)
            time.sleep(1)
            runtime.run_task(version_task(docker_engine, portal_id="a"))
            assert tasks_on(docker_engine) == [theirs]
        finally:
            api.remove_container(theirs, force=True)
