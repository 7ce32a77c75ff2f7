"""What only the process daemon can get wrong: orphans, bad clients, a full disk, and its own restart."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fleet.runtimes.base import DEADLINE_FILE, Rejected, RelaySpec, State, Unavailable
from fleet.runtimes.child import LOG_LIMIT
from fleet.runtimes.executables import IMAGE_AUTO, IMAGE_BUNDLED, IMAGE_DERPER
from fleet.runtimes.process import ProcessRuntime
from fleet.runtimes.wire import LINE_LIMIT
from tests.fleet.engines import ROOT, Relayd, answers, deadline_in, freeze, relay_spec, wait_until
from tests.parts import need
from tests.processes import is_alive

LISTENER = """
import os, signal, socket, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
host, port = sys.argv[sys.argv.index("-a") + 1].rsplit(":", 1)
server = socket.create_server((host, int(port)))
while True:
    print("x" * 1000, flush=True)
    time.sleep(0.0005)
"""


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="rd-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def relayd_with(home: Path) -> Iterator[Callable[..., Relayd]]:
    """Start a daemon whose relay is this Python program, in place of derper."""
    started: list[Relayd] = []

    def start(program: str) -> Relayd:
        stand_in = home / "derper"
        stand_in.write_text(f"#!{sys.executable}\n{program}")
        stand_in.chmod(0o755)
        daemon = Relayd(home, DERPER_BIN=str(stand_in))
        daemon.start()
        started.append(daemon)
        return daemon

    yield start
    for daemon in started:
        daemon.kill9()


def started(daemon: Relayd, *, image: str = IMAGE_AUTO) -> RelaySpec:
    spec = relay_spec(image=image, listen="127.0.0.1")
    runtime = daemon.runtime()
    runtime.create(spec)
    runtime.put_files(spec)
    runtime.start(spec.name)
    return spec


def listening(daemon: Relayd) -> RelaySpec:
    """A relay of LISTENER that has come so far as to ignore SIGTERM."""
    spec = started(daemon)
    log = daemon.home / "state/containers" / spec.name / "relay.log"
    wait_until(lambda: log.exists() or log.with_suffix(".log.1").exists(), what="its first word")
    return spec


def said(daemon: Relayd, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(60)
        link.connect(str(daemon.socket))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            link.sendall(data)
        link.shutdown(socket.SHUT_WR)
        with link.makefile("rb") as answer:
            return answer.read()


def test_no_relay_survives_a_daemon_that_is_killed(relayd: Relayd) -> None:
    for _ in range(3):
        started(relayd)
    children = relayd.children()
    assert len(children) == 3
    relayd.kill9()
    wait_until(lambda: not any(map(is_alive, children)))


def test_no_relay_survives_a_daemon_that_is_stopped_even_one_that_ignores_it(
    relayd_with: Callable[..., Relayd],
) -> None:
    daemon = relayd_with(LISTENER)
    listening(daemon)
    children = daemon.children()
    began = time.monotonic()
    assert daemon.stop() == 0
    assert not any(map(is_alive, children))
    assert time.monotonic() - began > 4
    assert not daemon.socket.exists()


def test_a_relay_that_ignores_sigterm_is_killed_after_the_grace(relayd_with: Callable[..., Relayd]) -> None:
    daemon = relayd_with(LISTENER)
    spec = listening(daemon)
    began = time.monotonic()
    daemon.runtime(timeout=60).stop(spec.name, grace_seconds=1)
    assert time.monotonic() - began > 0.9
    assert "ignored SIGTERM for 1 s" in (daemon.home / "relayd.log").read_text(), "and no longer"
    assert daemon.children() == []


def test_a_relay_that_ignores_its_deadline_is_killed_after_the_grace_and_delays_nobody(
    relayd_with: Callable[..., Relayd],
) -> None:
    daemon = relayd_with(LISTENER)
    stubborn, other = listening(daemon), listening(daemon)
    began = time.monotonic()
    daemon.runtime().put_files(replace(stubborn, files={DEADLINE_FILE: deadline_in(-1)}))
    while daemon.main_pid(stubborn.name):
        # Whoever had to wait for its end would wait for five seconds.
        assert {one.state for one in daemon.runtime(timeout=4).list("portal-a")} == {State.RUNNING}
        assert time.monotonic() - began < 60
    assert time.monotonic() - began > 4
    # The killed one stays a child for the moment until the daemon has reaped it.
    wait_until(lambda: len(daemon.children()) == 1)
    assert daemon.main_pid(other.name)


def test_a_relay_that_keeps_dying_is_left_in_peace_at_its_deadline(relayd_with: Callable[..., Relayd]) -> None:
    daemon = relayd_with("print('no', flush=True)")
    spec, log = started(daemon), daemon.home / "relayd.log"
    # By then it rests for three seconds. A deadline that met it alive would be its end instead.
    wait_until(lambda: log.read_text().count("ended by itself") == 6, what="a long rest")
    daemon.runtime().put_files(replace(spec, files={DEADLINE_FILE: deadline_in(-1)}))
    wait_until(lambda: "is not started" in log.read_text(), what="the fence")
    assert daemon.runtime().list(spec.portal_id)[0].state == State.RUNNING
    time.sleep(2)
    assert log.read_text().count("is not started") == 1
    assert daemon.children() == []


def test_what_a_relay_says_is_kept_but_never_fills_the_disk(relayd_with: Callable[..., Relayd]) -> None:
    daemon = relayd_with(LISTENER)
    spec = started(daemon)
    folder = daemon.home / "state/containers" / spec.name
    wait_until((folder / "relay.log.1").exists)
    time.sleep(1)
    freeze(daemon.pid)  # Or a log would get its other name between two looks.
    assert sum(path.stat().st_size for path in folder.glob("relay.log*")) < 2 * (LOG_LIMIT + 65536)


def test_a_relay_that_keeps_dying_is_started_less_and_less_often(relayd_with: Callable[..., Relayd]) -> None:
    daemon = relayd_with("print('no', flush=True)")
    began = time.monotonic()
    spec, log = started(daemon), daemon.home / "relayd.log"
    wait_until(lambda: log.read_text().count("ended by itself") >= 5, what="five ends")
    # Before the fifth start it rested for 0.1 + 0.2 + 0.4 + 0.8 seconds; an eager daemon would be there much earlier.
    assert time.monotonic() - began >= 1.5
    seen = wait_until(lambda: [one for one in daemon.runtime().list(spec.portal_id) if one.state == State.RESTARTING])
    assert seen[0].started_at is None


def test_a_relay_learns_nothing_of_the_daemons_environment(home: Path) -> None:
    daemon = Relayd(home, SECRET_KEY="hush", DATABASE_URL="postgres://u:p@h/d")
    daemon.start()
    try:
        spec = started(daemon)
        environ = Path(f"/proc/{daemon.main_pid(spec.name)}/environ").read_text()
        names = {entry.split("=")[0] for entry in environ.split("\0") if entry}
        assert names <= {"PATH", "HOME", "LANG", "TS_DEBUG_KEY_PATH", "PYTHONPATH"}
        assert f"TS_DEBUG_KEY_PATH={home}/state/volumes/{spec.volume}/debug.key" in environ
    finally:
        daemon.stop()


def test_socket_state_and_files_are_private(relayd: Relayd) -> None:
    spec = started(relayd)
    assert stat.S_IMODE(relayd.socket.stat().st_mode) == 0o600
    state = relayd.home / "state"
    for folder in (state, state / "volumes" / spec.volume, state / "containers" / spec.name):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    key = state / "volumes" / spec.volume / "derper.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o400
    kept = (state / "containers" / spec.name / "container.json").read_bytes()
    assert key.read_bytes() not in kept
    assert b"privkey" not in kept


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"not json\n",
        b"[]\n",
        b"{}\n",
        b'"op"\n',
        b"\xff\xfe\n",
        b'{"op":"rm"}\n',
        b'{"op":"start"}\n',
        b'{"op":"start","name":"x","y":1}\n',
        b'{"op":"create","spec":{}}\n',
        b'{"op":"start","name":["x"]}\n',
        b'{"op":"remove_volume","name":"../containers"}\n',
        b'{"op":"info"',
        b"[" * 100_000 + b"\n",
        b"x" * (LINE_LIMIT + 10),
    ],
    ids=lambda line: line[:20].decode(errors="replace"),
)
def test_a_bad_client_is_answered_and_harms_nobody(relayd: Relayd, line: bytes) -> None:
    spec = started(relayd)
    told = json.loads(said(relayd, line))
    assert told["ok"] is False
    assert told["kind"] == "rejected"
    assert relayd.runtime().list(spec.portal_id)[0].state == State.RUNNING


def test_clients_that_leave_early_or_stay_silent_harm_nobody(relayd: Relayd) -> None:
    silent = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for link in silent:
        link.connect(str(relayd.socket))
    for link in silent[:10]:
        link.sendall(b'{"op":"list","portal_id":"a"}\n')
        link.close()
    assert relayd.runtime(timeout=60).list("a") == []
    for link in silent[10:]:
        link.close()


def test_many_clients_at_once_get_each_their_own_answer(relayd: Relayd) -> None:
    specs = [relay_spec(image=IMAGE_AUTO, listen="127.0.0.1", portal_id=f"portal-{n}") for n in range(20)]

    def live(spec: RelaySpec) -> list[str]:
        runtime = relayd.runtime(timeout=60)
        runtime.create(spec)
        runtime.put_files(spec)
        runtime.start(spec.name)
        names = [one.name for one in runtime.list(spec.portal_id)]
        runtime.remove(spec.name, volume=spec.volume)
        return names

    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(live, specs)) == [[spec.name] for spec in specs]
    assert relayd.children() == []


def test_only_one_of_two_creations_of_a_name_wins(relayd: Relayd) -> None:
    spec = relay_spec(image=IMAGE_AUTO)

    def create(_: int) -> str:
        try:
            return relayd.runtime().create(spec)
        except Rejected as refusal:
            return refusal.code

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(create, range(8)))
    assert results.count("name_taken") == 7


@pytest.fixture
def small_disk(home: Path) -> Iterator[Relayd]:
    need("root")
    state = home / "state"
    state.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", state], check=True)
    daemon = Relayd(home)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.stop()
        subprocess.run(["umount", state], check=True)


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return ballast


def test_a_full_disk_is_called_so_keeps_the_old_files_and_heals(small_disk: Relayd) -> None:
    runtime, state = small_disk.runtime(), small_disk.home / "state"
    spec = relay_spec(image=IMAGE_AUTO, listen="127.0.0.1")
    runtime.create(spec)
    runtime.put_files(spec)
    ballast = fill(state)
    with pytest.raises(Rejected, match="disk_full"):
        runtime.put_files(replace(spec, files={**spec.files, "rate.json": b" " * 50_000}))
    with pytest.raises(Rejected, match="disk_full"):
        runtime.create(relay_spec(image=IMAGE_AUTO))
    folder = state / "volumes" / spec.volume
    assert {path.name: path.read_bytes() for path in folder.glob("[!.]*")} == spec.files
    ballast.unlink()
    runtime.start(spec.name)
    wait_until(lambda: answers(spec.port))


def test_a_relay_can_be_ended_on_a_full_disk(small_disk: Relayd) -> None:
    spec = started(small_disk)
    fill(small_disk.home / "state")
    with contextlib.suppress(Rejected):
        small_disk.runtime().stop(spec.name)
    assert small_disk.children() == []
    small_disk.runtime().remove(spec.name, volume=spec.volume)
    assert small_disk.runtime().list(spec.portal_id) == []


def test_a_damaged_container_does_not_keep_the_others_down(relayd: Relayd) -> None:
    good, bad = started(relayd), started(relayd)
    relayd.kill9()
    (relayd.home / "state/containers" / bad.name / "container.json").write_text('{"id":')
    relayd.start()
    wait_until(lambda: answers(good.port))
    assert [one.name for one in relayd.runtime().list("portal-a")] == [good.name]
    with pytest.raises(Rejected, match="name_taken"):
        relayd.runtime().create(bad)


def test_a_relay_whose_port_is_held_at_the_restart_comes_back_when_it_is_free(relayd: Relayd) -> None:
    spec = started(relayd)
    relayd.kill9()
    squatter = wait_until(lambda: _try_listen(spec.port))
    with squatter:
        relayd.start()
        assert relayd.runtime().list(spec.portal_id)[0].state == State.RESTARTING
    wait_until(lambda: answers(spec.port))


def _try_listen(port: int) -> socket.socket | None:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError:
        return None


def test_a_second_daemon_on_the_same_state_or_socket_is_refused(relayd: Relayd, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fleet.runtimes.relayd"]
    for where, owner, words in (
        (relayd.home / "other.sock", relayd.home / "state", "owns"),
        (relayd.socket, tmp_path, "answers on"),
    ):
        options = ["--socket", str(where), "--state", str(owner)]
        done = subprocess.run([*command, *options], cwd=ROOT, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert words in done.stderr
    assert relayd.runtime().list("portal-a") == []


def test_the_bundled_relay_is_run_where_derper_is_missing(home: Path) -> None:
    daemon = Relayd(home, DERPER_BIN="", PATH="/nowhere")
    daemon.start()
    try:
        assert daemon.runtime().info().hardware["relay"] == "bundled"
        with pytest.raises(Rejected, match="image_missing"):
            daemon.runtime().ensure_image(IMAGE_DERPER)
        for image in (IMAGE_AUTO, IMAGE_BUNDLED):
            wait_until(partial(answers, started(daemon, image=image).port))
    finally:
        daemon.stop()


def test_a_derper_bin_that_is_not_there_is_named_rather_than_replaced(home: Path) -> None:
    daemon = Relayd(home, DERPER_BIN="/nowhere/derper")
    daemon.start()
    try:
        with pytest.raises(Rejected, match="DERPER_BIN names /nowhere/derper"):
            daemon.runtime().ensure_image(IMAGE_AUTO)
    finally:
        daemon.stop()


def test_a_socket_path_that_the_kernel_would_cut_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="invalid_spec"):
        ProcessRuntime(tmp_path / ("x" * 108))
    options = ["--socket", f"/tmp/{'x' * 108}", "--state", str(tmp_path)]
    command = [sys.executable, "-m", "fleet.runtimes.relayd", *options]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "107" in done.stderr


@pytest.mark.parametrize(
    ("reply", "code"),
    [(b"hello\n", "not_an_engine"), (b"[]\n", "not_an_engine"), (b"", "unreachable"), (None, "timeout")],
    ids=["words", "other JSON", "hanging up", "silence"],
)
def test_a_socket_that_is_not_relayds_is_named_for_what_it_is(home: Path, reply: bytes | None, code: str) -> None:
    listener, is_over = socket.socket(socket.AF_UNIX), threading.Event()
    listener.bind(str(home / "s"))
    listener.listen()

    def serve() -> None:
        link, _ = listener.accept()
        link.recv(65536)
        if reply is None:
            is_over.wait(60)
        else:
            link.sendall(reply)
        link.close()

    threading.Thread(target=serve, daemon=True).start()
    try:
        with pytest.raises((Unavailable, Rejected)) as caught:
            ProcessRuntime(home / "s", timeout=0.5 if reply is None else 60).list("portal-a")
    finally:
        is_over.set()
    assert caught.value.code == code


def test_the_start_time_is_the_childs_own(relayd: Relayd) -> None:
    spec = started(relayd)
    first = relayd.runtime().list(spec.portal_id)[0].started_at
    os.kill(relayd.main_pid(spec.name), signal.SIGKILL)
    wait_until(lambda: relayd.runtime().list(spec.portal_id)[0].started_at not in (None, first))
