"""An engine in memory that can go wrong at every step: a host as the reconciler sees it, without the host."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from fleet.runtimes.base import (
    LABEL_PORT,
    HostInfo,
    Observed,
    Rejected,
    RelaySpec,
    RuntimeFailure,
    State,
    TaskResult,
    TaskSpec,
)


class WorkerDied(BaseException):
    """The worker was killed with -9: nothing of ours runs after it, so nothing may catch it."""


@dataclass
class Box:
    """One container: what it was made of, its state, and the rate file the running relay last read."""

    spec: RelaySpec
    state: State = State.CREATED
    files: dict[str, bytes] = field(default_factory=dict)
    rate_in_force: bytes = b""
    carried_bytes: int = 0


@dataclass
class FakeEngine:
    """A host. Its runtimes share its containers; `trouble` makes every call of a name fail.

    `engine_id` ("" = unknown), `clock_error` (its clock less ours) and `owner` (the portal that claimed it) are what
    it tells of itself; `task_result` is what every task ends with, `tasks` the ones that were run.
    """

    boxes: dict[str, Box] = field(default_factory=dict)
    volumes: dict[str, str] = field(default_factory=dict)
    foreign_ports: set[int] = field(default_factory=set)
    trouble: dict[str, RuntimeFailure] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    is_image_there: bool = True
    engine_id: str = field(default_factory=lambda: secrets.token_hex(6))
    clock_error: timedelta = timedelta()
    owner: str = ""
    task_result: TaskResult = field(default_factory=lambda: TaskResult(0, ""))
    tasks: list[TaskSpec] = field(default_factory=list)

    def runtime(self) -> FakeRuntime:
        return FakeRuntime(self, Worker())

    def fail(self, failure: RuntimeFailure, *calls: str) -> None:
        """Let these calls, or every call, fail until `heal()`."""
        self.trouble |= dict.fromkeys(calls or EVERY_CALL, failure)

    def heal(self) -> None:
        """Whatever was wrong with the host goes, and what kept restarting comes up."""
        self.trouble.clear()
        self.foreign_ports.clear()
        self.is_image_there = True
        for box in self.boxes.values():
            if box.state == State.RESTARTING:
                box.state = State.RUNNING

    def holds(self, port: int, *, besides: str = "") -> bool:
        """True when a program or a running container other than `besides` has the port."""
        running = (box for name, box in self.boxes.items() if name != besides and box.state != State.CREATED)
        return port in self.foreign_ports or any(
            box.spec.port == port and box.state in (State.RUNNING, State.RESTARTING) for box in running
        )


EVERY_CALL = (
    *("info", "ensure_image", "list_volumes", "list", "create", "put_files", "start", "stop", "reload", "remove"),
    *("remove_volume", "claim", "run_task", "carried_bytes"),
)


@dataclass
class Worker:
    """Whoever makes the calls. `before` and `after` run around each one, told its number from 1 on; both may raise."""

    before: Callable[[int], None] = lambda number: None
    after: Callable[[int], None] = lambda number: None
    made: int = 0
    is_dead: bool = False


@dataclass
class FakeRuntime:
    """Keeps every promise of `fleet.runtimes.base.Runtime` that the engine's troubles leave it."""

    engine: FakeEngine
    worker: Worker

    def info(self) -> HostInfo:
        with self._call("info"):
            clock = datetime.now(UTC) + self.engine.clock_error
            return HostInfo("fake", "1", cores=1, memory_bytes=1, engine_id=self.engine.engine_id, clock=clock)

    def claim(self, portal_id: str) -> str:
        with self._call("claim"):
            self.engine.owner = self.engine.owner or portal_id
            return self.engine.owner

    def ensure_image(self, image: str) -> None:
        with self._call("ensure_image"):
            self._need_image(image)

    def list_volumes(self, portal_id: str) -> list[str]:
        with self._call("list_volumes"):
            return [name for name, owner in self.engine.volumes.items() if owner == portal_id]

    def list(self, portal_id: str) -> list[Observed]:
        with self._call("list"):
            return [
                # Without the port: nobody answers at these hosts' addresses, so nothing is to be read there.
                Observed.from_labels(
                    id=f"id-{name}", name=name, labels={**box.spec.labels, LABEL_PORT: ""}, state=box.state
                )
                for name, box in self.engine.boxes.items()
                if box.spec.portal_id == portal_id
            ]

    def create(self, spec: RelaySpec) -> str:
        spec.check()
        with self._call("create"):
            if self.engine.volumes.setdefault(spec.volume, spec.portal_id) != spec.portal_id:
                raise Rejected("name_taken", "somebody else's volume")
            self._need_image(spec.image)
            if spec.name in self.engine.boxes:
                raise Rejected("name_taken")
            self.engine.boxes[spec.name] = Box(spec)
            return f"id-{spec.name}"

    def put_files(self, spec: RelaySpec) -> None:
        with self._call("put_files"):
            self._box(spec.name).files.update(spec.files)

    def start(self, name: str) -> None:
        with self._call("start"):
            box = self._box(name)
            if box.state == State.RUNNING:
                return
            if self.engine.holds(box.spec.port, besides=name):
                raise Rejected("port_taken")
            # A relay that finds no key file stops at once, and the engine tries again and again.
            box.state = State.RUNNING if "derper.key" in box.files else State.RESTARTING
            box.rate_in_force = box.files.get("rate.json", b"")

    def stop(self, name: str, *, grace_seconds: int = 5) -> None:
        with self._call("stop"):
            if name in self.engine.boxes:
                self.engine.boxes[name].state = State.EXITED

    def reload(self, name: str) -> None:
        with self._call("reload"):
            box = self._box(name)
            box.rate_in_force = box.files.get("rate.json", b"")

    def remove(self, name: str, *, volume: str = "") -> None:
        with self._call("remove"):
            self.engine.boxes.pop(name, None)
            self.engine.volumes.pop(volume, None)

    def remove_volume(self, name: str) -> None:
        with self._call("remove_volume"):
            self.engine.volumes.pop(name, None)

    def run_task(self, task: TaskSpec) -> TaskResult:
        task.check()
        with self._call("run_task"):
            self._need_image(task.image)
            if task.port and self.engine.holds(task.port):
                raise Rejected("port_taken")
            self.engine.tasks.append(task)
            return self.engine.task_result

    def carried_bytes(self, name: str) -> int | None:
        with self._call("carried_bytes"):
            box = self._box(name)
            return box.carried_bytes if box.state == State.RUNNING else None

    def close(self) -> None:
        """Nothing is open."""

    @contextmanager
    def _call(self, name: str) -> Iterator[None]:
        worker = self.worker
        if worker.is_dead:
            raise WorkerDied
        worker.made += 1
        number = worker.made
        self.engine.calls.append(name)
        worker.before(number)
        if name in self.engine.trouble:
            raise self.engine.trouble[name]
        yield
        worker.after(number)

    def _box(self, name: str) -> Box:
        if name not in self.engine.boxes:
            raise Rejected("not_found")
        return self.engine.boxes[name]

    def _need_image(self, image: str) -> None:
        if not self.engine.is_image_there:
            raise Rejected("image_missing", image)
