"""One process that keeps others running: starts them in order, restarts what dies, ends them in reverse.

It knows nothing of the portal; `derp_portal.programs` says what runs. Linux only.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
STEADY_AFTER = 10.0
"""A child that lived so many seconds starts again with the first delay."""

READY_POLL = 0.1
LONGEST_LINE = 64 * 1024

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

Say = Callable[[str, str], None]
"""Takes a child's name and one line of what it said."""


class StartFailure(Exception):
    """Something cannot start. The message is for the operator and says what to do."""


@dataclass(frozen=True, slots=True)
class Program:
    """A child to be. `is_ready` may block for a moment; it runs in a thread.

    `orphan_signal` is what the child gets when the supervisor is killed: SIGKILL, but SIGTERM for one that has
    children of its own to end.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    is_ready: Callable[[], bool] | None = None
    ready_seconds: float = 60.0
    grace_seconds: float = 10.0
    orphan_signal: signal.Signals = signal.SIGKILL


def tie_to(parent: int, number: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """A `preexec_fn`: the child gets signal `number` when `parent`, our own process id, is gone, however it ended."""

    def run() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # It died before we were tied to it.
            os._exit(1)

    return run


class Supervisor:
    """Use it from one event loop: `start` some programs, perhaps more later, and `stop` them all at the end."""

    def __init__(self, *, directory: Path, say: Say) -> None:
        self._directory = directory
        self._say = say
        self._children: list[_Child] = []
        self._hurry = asyncio.Event()

    async def start(self, programs: Sequence[Program]) -> None:
        """Start them in order, each when the one before it is ready. Raises StartFailure when one never is."""
        for program in programs:
            child = _Child(program, self._directory, self._say)
            self._children.append(child)
            child.begin()
            await self._until_ready(program)

    async def stop(self) -> None:
        """End all in reverse order: SIGTERM, then SIGKILL for the whole group after the grace. None is left."""
        while self._children:
            child = self._children[-1]
            self._say("supervisor", f"stopping {child.program.name}")
            await child.end(self._hurry)
            self._children.pop()

    def hurry(self) -> None:
        """Make `stop` kill without grace, also one that is under way."""
        self._hurry.set()

    async def _until_ready(self, program: Program) -> None:
        if program.is_ready is None:
            return
        try:
            async with asyncio.timeout(program.ready_seconds):
                # What is asked runs in another process, so there is nothing to be woken by.
                while not await asyncio.to_thread(program.is_ready):  # noqa: ASYNC110
                    await asyncio.sleep(READY_POLL)
        except TimeoutError:
            raise StartFailure(
                f"{program.name} was not ready within {program.ready_seconds:g} seconds; its own lines above say why."
            ) from None


class _Child:
    """A program that is kept running until `end`."""

    def __init__(self, program: Program, directory: Path, say: Say) -> None:
        self.program = program
        self._directory = directory
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._unwanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._task = asyncio.create_task(self._keep_running(), name=self.program.name)

    async def end(self, hurry: asyncio.Event) -> None:
        """Return when the process and everything in its group is gone."""
        self._unwanted.set()
        if self._task is None:
            return
        if not hurry.is_set():
            self._signal(signal.SIGTERM)
            impatience = asyncio.create_task(hurry.wait())
            await asyncio.wait(
                {self._task, impatience},
                timeout=self.program.grace_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            impatience.cancel()
        if not self._task.done():
            self._say("supervisor", f"{self.program.name} is killed")
            self._kill_group()
        await self._task

    async def _keep_running(self) -> None:
        loop = asyncio.get_running_loop()
        delay = FIRST_DELAY
        while not self._unwanted.is_set():
            began = loop.time()
            how = await self._live_once()
            if self._unwanted.is_set():
                return
            if loop.time() - began >= STEADY_AFTER:
                delay = FIRST_DELAY
            self._say("supervisor", f"{self.program.name} {how}; starting it again in {delay:g} s")
            with suppress(TimeoutError):  # The usual way: nobody ended us while we waited.
                await asyncio.wait_for(self._unwanted.wait(), delay)
            delay = min(delay * 2, LONGEST_DELAY)

    async def _live_once(self) -> str:
        """Run it once to its end; tells how that came."""
        # A pipe of our own: asyncio's would make `wait` wait for everybody who inherited it.
        reading, writing = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self.program.argv,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.program.env},
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=subprocess.STDOUT,
                # Its own group: a Ctrl-C reaches us alone, so that the order is ours; and what it leaves can be killed.
                start_new_session=True,
                preexec_fn=tie_to(os.getpid(), self.program.orphan_signal),
            )
        except OSError as error:
            os.close(reading)
            return f"could not be started ({error})"
        finally:
            os.close(writing)
        if self._unwanted.is_set():
            self._signal(signal.SIGTERM)  # The end came while it was being born.
        output = asyncio.create_task(self._forward_output(reading))
        code = await self._process.wait()
        self._kill_group()  # Workers that outlived their master would hold its port.
        with suppress(TimeoutError):  # Somebody outside the group holds the pipe; that must not stop the restart.
            await asyncio.wait_for(output, 2)
        self._process = None
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    async def _forward_output(self, reading: int) -> None:
        stream = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reading, "rb", buffering=0)
        )
        rest = b""
        try:
            while data := await stream.read(LONGEST_LINE):
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > LONGEST_LINE:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._say(self.program.name, line.decode(errors="replace").rstrip())
            if rest:
                self._say(self.program.name, rest.decode(errors="replace").rstrip())
        finally:
            transport.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):  # It has just ended by itself.
                self._process.send_signal(number)

    def _kill_group(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):  # The usual way: nothing was left.
                os.killpg(self._process.pid, signal.SIGKILL)
