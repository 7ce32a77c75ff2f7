"""The supervisor against children that behave, die, dawdle and multiply."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from derp_portal import programs, supervisor
from derp_portal.supervisor import Program, StartFailure, Supervisor
from tests import servers
from tests.processes import is_alive

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
PARENT = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {SLEEPER!r}]); print(p.pid); p.wait()"
CHILD = "import os; print(os.getpid()); " + SLEEPER
MORTAL = "print('born'); raise SystemExit(3)"


T = TypeVar("T")


class Stream:
    """What was said, as (name, line)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __call__(self, name: str, line: str) -> None:
        self.lines.append((name, line))

    def of(self, name: str) -> list[str]:
        return [line for who, line in self.lines if who == name]


@pytest.fixture
def said() -> Stream:
    return Stream()


def python(name: str, code: str, **options: object) -> Program:
    return Program(name, [sys.executable, "-c", code], **options)  # type: ignore[arg-type]


async def until(is_true: Callable[[], object], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not is_true():  # noqa: ASYNC110 - other processes do not set our events
            await asyncio.sleep(0.02)


def run_story(story: Coroutine[Any, Any, T]) -> T:
    """Run it in a thread of its own: a browser test in this process leaves a loop running in the main one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, story).result()


def test_each_line_carries_the_name_of_the_child_that_said_it(tmp_path: Path, said: Stream) -> None:
    async def story() -> None:
        boss = Supervisor(directory=tmp_path, say=said)
        await boss.start([python("one", "print('hello'); print('half', end='')"), python("two", SLEEPER)])
        await until(lambda: "half" in said.of("one") and "up" in said.of("two"))
        await boss.stop()

    run_story(story())
    assert said.of("one")[:2] == ["hello", "half"]


def test_a_child_that_dies_is_started_again_each_time_a_little_later(
    tmp_path: Path, said: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_DELAY", 0.05)
    monkeypatch.setattr(supervisor, "STEADY_AFTER", 600)

    async def story() -> None:
        boss = Supervisor(directory=tmp_path, say=said)
        await boss.start([python("mortal", MORTAL)])
        await until(lambda: len(said.of("mortal")) >= 3)
        await boss.stop()

    run_story(story())
    assert said.of("supervisor")[:2] == [
        "mortal ended with exit code 3; starting it again in 0.05 s",
        "mortal ended with exit code 3; starting it again in 0.1 s",
    ]


def test_a_killed_child_leaves_no_children_of_its_own_before_it_starts_again(tmp_path: Path, said: Stream) -> None:
    async def story() -> bool:
        boss = Supervisor(directory=tmp_path, say=said)
        await boss.start([python("parent", PARENT)])
        await until(lambda: any(line.isdigit() for line in said.of("parent")))
        grandchild = next(int(line) for line in said.of("parent") if line.isdigit())
        os.kill(_parent_of(grandchild), signal.SIGKILL)
        await until(lambda: sum(line.isdigit() for line in said.of("parent")) == 2)
        was_alive = is_alive(grandchild)
        await boss.stop()
        second = [int(line) for line in said.of("parent") if line.isdigit()][1]
        # The signal was sent before stop() returned; a busy machine takes a moment to carry it out.
        await until(lambda: not is_alive(second))
        return was_alive

    assert run_story(story()) is False
    assert "parent was ended by SIGKILL; starting it again in 0.5 s" in said.of("supervisor")


def test_stopping_goes_backwards_and_kills_what_ignores_the_request(tmp_path: Path, said: Stream) -> None:
    async def story() -> None:
        boss = Supervisor(directory=tmp_path, say=said)
        await boss.start([python("first", SLEEPER, grace_seconds=60), python("second", STUBBORN, grace_seconds=0.3)])
        await until(lambda: said.of("first") and said.of("second"))
        await boss.stop()

    run_story(story())
    assert said.of("supervisor") == ["stopping second", "second is killed", "stopping first"]


def test_a_second_request_to_stop_does_not_wait_for_the_grace(tmp_path: Path, said: Stream) -> None:
    async def story() -> float:
        boss = Supervisor(directory=tmp_path, say=said)
        await boss.start([python("stubborn", STUBBORN, grace_seconds=100)])
        await until(lambda: said.of("stubborn"))
        began = time.monotonic()
        stopping = asyncio.create_task(boss.stop())
        await asyncio.sleep(0.2)
        boss.hurry()
        await stopping
        return time.monotonic() - began

    assert run_story(story()) < 50


def test_the_next_child_waits_until_the_one_before_it_is_ready(tmp_path: Path, said: Stream) -> None:
    flag = tmp_path / "flag"
    slow = f"import time, pathlib; time.sleep(.3); pathlib.Path({str(flag)!r}).touch(); time.sleep(600)"
    look = f"import pathlib; print(pathlib.Path({str(flag)!r}).exists())"

    async def story() -> None:
        boss = Supervisor(directory=tmp_path, say=said)
        await boss.start([python("slow", slow, is_ready=flag.exists), python("next", look)])
        await until(lambda: said.of("next"))
        await boss.stop()

    run_story(story())
    assert said.of("next")[0] == "True"


def test_a_child_that_never_gets_ready_is_told_by_name(tmp_path: Path, said: Stream) -> None:
    async def story() -> None:
        boss = Supervisor(directory=tmp_path, say=said)
        try:
            await boss.start([python("lazy", SLEEPER, is_ready=lambda: False, ready_seconds=0.3)])
        finally:
            await boss.stop()

    with pytest.raises(StartFailure, match=r"lazy was not ready within 0\.3 seconds"):
        run_story(story())


def test_a_program_that_does_not_exist_is_told_and_can_still_be_stopped(tmp_path: Path, said: Stream) -> None:
    async def story() -> None:
        boss = Supervisor(directory=tmp_path, say=said)
        await boss.start([Program("ghost", [str(tmp_path / "nothing")])])
        await until(lambda: said.of("supervisor"))
        await boss.stop()

    run_story(story())
    assert said.of("supervisor")[0].startswith("ghost could not be started (")


def test_a_killed_supervisor_leaves_nothing_behind(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom derp_portal.supervisor import Program, Supervisor\n"
        "async def main():\n"
        "    boss = Supervisor(directory=Path.cwd(), say=lambda name, line: print(line, flush=True))\n"
        f"    await boss.start([Program('child', [sys.executable, '-c', {CHILD!r}])])\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    boss = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert boss.stdout is not None
    child = int(boss.stdout.readline())
    assert is_alive(child)
    boss.kill()
    boss.wait()
    boss.stdout.close()
    run_story(until(lambda: not is_alive(child)))


def test_a_second_portal_with_the_same_data_is_refused_in_words(tmp_path: Path) -> None:
    holder = programs.lock_data_dir(tmp_path)
    try:
        with pytest.raises(StartFailure, match=rf"process {os.getpid()}\) already runs with {tmp_path}"):
            programs.lock_data_dir(tmp_path)
    finally:
        os.close(holder)
    os.close(programs.lock_data_dir(tmp_path))


def test_a_port_in_use_is_told_in_words_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(StartFailure, match=f"Cannot listen on 127.0.0.1 port {port}: Address already in use"):
            programs.check_port("127.0.0.1", port, patience=0)
    programs.check_port("127.0.0.1", port, patience=0)


def test_a_socket_that_a_killed_server_left_is_cleared_but_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with pytest.raises(StartFailure, match="Another server still answers"):
            programs.clear_socket(path)
    assert path.is_socket()
    programs.clear_socket(path)
    assert not path.exists()


def test_a_file_in_the_place_of_the_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    path.write_text("something of somebody")
    with pytest.raises(StartFailure, match="should be a socket"):
        programs.clear_socket(path)
    assert path.read_text() == "something of somebody"


def test_the_embedded_broker_keeps_what_it_was_given_across_a_restart(tmp_path: Path) -> None:
    import redis

    folder, listen = tmp_path / "valkey", tmp_path / "v.sock"
    with servers.valkey(folder, listen), redis.Redis(unix_socket_path=str(listen)) as client:
        client.rpush("queue", "task")
        assert client.config_get("port") == {"port": "0"}
    with servers.valkey(folder, listen), redis.Redis(unix_socket_path=str(listen)) as client:
        assert client.lrange("queue", 0, -1) == [b"task"]
    assert listen.parent.stat().st_mode & 0o077 == 0


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
