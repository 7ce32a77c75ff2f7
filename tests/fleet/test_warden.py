"""The relay image's entry point, run outside any container: its fence, its signals, and its port checks."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from fleet.derp import stun
from fleet.derp.identity import make_identity, relay_files
from fleet.runtimes.image import WARDEN_SOURCE, WARDEN_VERSION, build_warden
from tests.fleet.engines import deadline_in, wait_until
from tests.parts import need
from tests.ports import free_port
from tests.processes import is_alive

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

RELAY = """
import os, signal, sys, time
def on(number, frame):
    print("got", signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM:
        sys.exit(0)
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, on)
print("up", os.getpid(), flush=True)
while True:
    time.sleep(0.05)
"""
STUBBORN = RELAY.replace("sys.exit(0)", "pass")


@pytest.fixture(scope="session")
def warden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("go")
    return build_warden(ARCHITECTURES[platform.machine()], tmp_path_factory.mktemp("warden"))


class Warden:
    """A running `warden run`, with all that it and its child say in one file."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program, self.folder = program, folder
        self.deadline, self.log = folder / "deadline", folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, script: str, *, env: dict[str, str] | None = None) -> None:
        self.command(sys.executable, "-c", script, env=env)

    def command(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.program, "run", *arguments],
                env={**os.environ, **(env or {}), "WARDEN_DEADLINE": str(self.deadline)},
                stdout=log,
                stderr=log,
            )

    def set_deadline(self, content: bytes) -> None:
        draft = self.folder / "draft"
        draft.write_bytes(content)
        draft.rename(self.deadline)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, words: str, *, times: int = 1) -> None:
        wait_until(lambda: self.said().count(words) >= times, what=f"{words!r} in {self.said()!r}")

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def exit_code(self) -> int:
        assert self.process is not None
        return self.process.wait(60)

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def children(self) -> list[int]:
        assert self.process is not None
        found: list[int] = []
        for task in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            # Threads come and go.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, task.read_text().split())
        return found


@pytest.fixture
def kept(warden: Path, tmp_path: Path) -> Iterator[Warden]:
    """A warden whose deadline is an hour away."""
    one = Warden(warden, tmp_path)
    one.set_deadline(deadline_in(3600))
    yield one
    if one.process is not None:
        one.process.kill()
        one.process.wait()


def test_the_childs_exit_code_is_the_wardens(kept: Warden) -> None:
    kept.start("import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)")
    assert kept.exit_code() == 7
    assert "out" in kept.said()
    assert "err" in kept.said()


def test_a_child_that_was_killed_counts_as_shells_count_it(kept: Warden) -> None:
    kept.start("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert kept.exit_code() == 128 + signal.SIGKILL


def test_a_program_that_is_not_there_is_named(kept: Warden) -> None:
    kept.command("/nowhere/derper")
    assert kept.exit_code() == 127
    assert "/nowhere/derper" in kept.said()


def test_the_child_has_the_same_environment_and_arguments(kept: Warden) -> None:
    kept.start("import json, os; print(json.dumps(dict(os.environ)))", env={"A": "b c", "EMPTY": ""})
    assert kept.exit_code() == 0
    told = json.loads(kept.said())
    told.pop("LC_CTYPE", None)  # Python's own.
    mine = {**os.environ, "A": "b c", "EMPTY": "", "WARDEN_DEADLINE": str(kept.deadline)}
    mine.pop("LC_CTYPE", None)
    assert told == mine


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_reaches_the_child(kept: Warden, number: signal.Signals) -> None:
    kept.start(RELAY)
    kept.wait_for("up")
    kept.send(number)
    kept.wait_for(f"got {number.name}")
    assert kept.is_running()


def test_sigterm_ends_the_child_and_then_the_warden(kept: Warden) -> None:
    kept.start(RELAY)
    kept.wait_for("up")
    kept.send(signal.SIGTERM)
    assert kept.exit_code() == 0
    assert "got SIGTERM" in kept.said()


def test_at_the_deadline_the_child_is_asked_to_end_and_a_new_deadline_starts_it_again(kept: Warden) -> None:
    kept.start(RELAY)
    kept.wait_for("up")
    kept.set_deadline(deadline_in(4))
    kept.wait_for("ended with exit code 0")
    assert "got SIGTERM" in kept.said()
    assert "has passed: stopping" in kept.said()
    assert kept.is_running()
    assert kept.children() == []
    kept.set_deadline(deadline_in(3600))
    kept.wait_for("up", times=2)
    assert "starting" in kept.said()


def test_an_idle_warden_ends_at_once_when_asked_and_ignores_a_reload(kept: Warden) -> None:
    kept.set_deadline(deadline_in(-1))
    kept.start(RELAY)
    kept.wait_for("is not started")
    kept.send(signal.SIGHUP)
    time.sleep(0.3)
    assert kept.is_running()
    kept.send(signal.SIGTERM)
    assert kept.exit_code() == 0
    assert "up" not in kept.said()


def test_a_child_that_ignores_its_deadline_is_killed_after_five_seconds(kept: Warden) -> None:
    kept.start(STUBBORN)
    kept.wait_for("up")
    began = time.monotonic()
    kept.set_deadline(deadline_in(-1))
    kept.wait_for("ended with exit code 137")
    assert "got SIGTERM" in kept.said()
    assert 5 <= time.monotonic() - began < 60
    assert kept.children() == []


def test_a_deadline_moved_while_the_child_ends_starts_it_anew(kept: Warden) -> None:
    kept.start(STUBBORN)
    kept.wait_for("up")
    kept.set_deadline(deadline_in(-1))
    kept.wait_for("got SIGTERM")
    kept.set_deadline(deadline_in(3600))
    kept.wait_for("up", times=2)


def test_a_clock_that_was_set_is_noticed(kept: Warden) -> None:
    # A clock put forward and a deadline put back are the same to the warden: it sleeps for no longer than a look.
    kept.start(RELAY)
    kept.wait_for("up")
    kept.set_deadline(b"1\n")
    kept.wait_for("got SIGTERM")


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"tomorrow", b"-1", b"+9999999999", b" 9999999999", b"9999999999\n\n", b"9" * 13, b"9" * 1_000_000],
    ids=lambda content: repr(content[:14]),
)
def test_a_deadline_that_cannot_be_read_has_passed(kept: Warden, content: bytes) -> None:
    kept.set_deadline(content)
    kept.start(RELAY)
    kept.wait_for("no valid deadline")
    assert kept.children() == []


@pytest.mark.parametrize("form", [b"%d", b"%d\n"], ids=["bare", "with a newline"])
def test_a_deadline_may_lack_its_newline(kept: Warden, form: bytes) -> None:
    kept.set_deadline(form % (time.time() + 60))
    kept.start(RELAY)
    kept.wait_for("up")


def test_a_deadline_file_that_is_gone_for_a_moment_stops_nothing(kept: Warden) -> None:
    kept.start(RELAY)
    kept.wait_for("up")
    # The warden looks every two seconds, and has patience for five.
    kept.deadline.unlink()
    time.sleep(2.2)
    kept.set_deadline(deadline_in(3600))
    time.sleep(5)
    assert "got" not in kept.said()


def test_a_deadline_file_that_stays_gone_stops_the_child(kept: Warden) -> None:
    kept.start(RELAY)
    kept.wait_for("up")
    kept.deadline.unlink()
    kept.wait_for("got SIGTERM")
    kept.wait_for("no valid deadline")


def test_a_child_does_not_outlive_a_warden_that_is_killed(kept: Warden) -> None:
    kept.start(RELAY)
    kept.wait_for("up")
    (child,) = kept.children()
    kept.send(signal.SIGKILL)
    kept.exit_code()
    wait_until(lambda: not is_alive(child))


def checked(warden: Path, *targets: str, seconds: int = 3) -> dict[str, dict[str, object]]:
    command = [str(warden), "check", "--seconds", str(seconds), *targets]
    done = subprocess.run(command, capture_output=True, check=True, timeout=seconds + 60)
    answer: dict[str, dict[str, object]] = json.loads(done.stdout)
    return answer


OPEN = {"tcp": True, "udp": True, "tcp_error": "", "udp_error": ""}


def test_a_check_finds_a_listener_on_both_protocols_even_one_that_comes_late(warden: Path) -> None:
    port, closed = free_port(), free_port()
    target = f"127.0.0.1:{port}"
    listeners: list[subprocess.Popen[bytes]] = []

    def listen_later() -> None:
        time.sleep(0.7)
        listeners.append(subprocess.Popen([warden, "listen", str(port), "--seconds", "12"], stderr=subprocess.DEVNULL))

    thread = threading.Thread(target=listen_later)
    thread.start()
    told = checked(warden, target, f"127.0.0.1:{closed}", seconds=8)
    thread.join()
    assert told[target] == OPEN
    assert told[f"127.0.0.1:{closed}"] == {"tcp": False, "udp": False, "tcp_error": "refused", "udp_error": "refused"}
    assert listeners[0].wait(60) == 0


def test_a_check_says_which_protocol_is_closed(warden: Path) -> None:
    port = free_port()
    with socket.socket() as silent:
        # Accepts like an engine's port proxy, but nobody speaks behind it.
        silent.bind(("127.0.0.1", port))
        silent.listen()
        told = checked(warden, f"127.0.0.1:{port}", seconds=3)
    assert told == {f"127.0.0.1:{port}": {"tcp": False, "udp": False, "tcp_error": "timeout", "udp_error": "refused"}}


def test_a_host_that_nobody_knows_is_called_so(warden: Path) -> None:
    told = checked(warden, "nobody.invalid:1", seconds=2)["nobody.invalid:1"]
    assert (told["tcp"], told["udp"]) == (False, False)
    assert told["tcp_error"] in ("unknown_host", "timeout")


@pytest.fixture
def relay_port(tmp_path: Path) -> Iterator[int]:
    """A derper without a container, on both protocols."""
    port, name = free_port(), "r1.relay.internal"
    for file_name, content in relay_files(make_identity(name), name).items():
        (tmp_path / file_name).write_bytes(content)
    command = [need("derper"), "-a", f"127.0.0.1:{port}", "-http-port", "-1", "-stun", "-stun-port", str(port)]
    command += ["-c", f"{tmp_path}/derper.key", "-certmode", "manual", "-certdir", str(tmp_path), "-hostname", name]
    with (tmp_path / "relay.log").open("wb") as log:
        relay = subprocess.Popen(command, stdout=log, stderr=log)
    yield port
    relay.terminate()
    relay.wait(60)


def test_a_check_finds_a_relay(warden: Path, relay_port: int) -> None:
    told = checked(warden, f"127.0.0.1:{relay_port}", seconds=60)
    assert told[f"127.0.0.1:{relay_port}"] == OPEN


def test_the_probe_is_a_request_that_relays_answer(warden: Path) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as relay:
        relay.bind(("127.0.0.1", 0))
        relay.settimeout(60)
        target = f"127.0.0.1:{relay.getsockname()[1]}"
        check = subprocess.Popen([warden, "check", target, "--seconds", "6"], stdout=subprocess.PIPE)
        request, sender = relay.recvfrom(1500)
        relay.sendto(b"noise", sender)
        relay.sendto(stun.encode_response(b"x" * 12, "127.0.0.1", 1), sender)
        assert len(stun.decode_request(request)) == stun.TRANSACTION_LENGTH
        relay.settimeout(0.2)
        told = _after(check, lambda: _answer_all(relay))
    assert told[target]["udp"] is True


def _answer_all(relay: socket.socket) -> None:
    try:
        request, sender = relay.recvfrom(1500)
    except TimeoutError:
        return
    relay.sendto(stun.encode_response(stun.decode_request(request), "127.0.0.1", 1), sender)


def _after(check: subprocess.Popen[bytes], meanwhile: Callable[[], None]) -> dict[str, dict[str, object]]:
    while check.poll() is None:
        meanwhile()
    output: IO[bytes] | None = check.stdout
    assert output is not None
    with output:
        told: dict[str, dict[str, object]] = json.load(output)
    return told


def test_a_port_that_somebody_holds_cannot_be_listened_on(warden: Path) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as squatter:
        squatter.bind(("", 0))
        port = squatter.getsockname()[1]
        done = subprocess.run([warden, "listen", str(port), "--seconds", "1"], capture_output=True, check=False)
    assert done.returncode == 1
    assert b"address already in use" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        "",
        "fly",
        "run",
        "listen",
        "listen 0",
        "listen 70000",
        "listen 1 2",
        "listen 8080 --seconds 0",
        "check",
        "check here",
        "check :1",
        "check a:b",
        "check --seconds x a:1",
    ],
)
def test_a_wrong_command_is_explained(warden: Path, words: str) -> None:
    done = subprocess.run([warden, *words.split()], capture_output=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stdout == b""
    assert b"usage:" in done.stderr


def test_it_tells_its_version(warden: Path) -> None:
    done = subprocess.run([warden, "version"], capture_output=True, check=True, text=True)
    assert done.stdout == f"{WARDEN_VERSION}\n"


def test_its_source_is_in_order() -> None:
    go = need("go")
    env = {**os.environ, "GOPROXY": "off", "GOFLAGS": "-mod=readonly"}
    subprocess.run([go, "vet", "."], cwd=WARDEN_SOURCE, env=env, check=True)
    formatter = Path(go).resolve().with_name("gofmt")
    done = subprocess.run([formatter, "-l", "."], cwd=WARDEN_SOURCE, capture_output=True, check=True)
    assert done.stdout == b""
