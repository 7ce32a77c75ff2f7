"""The engine inside `relayd`: containers and volumes on disk, children in memory.

Layout under the state folder, all of it private to the user:

    containers/<name>/container.json   what was asked for, and whether it should run
    containers/<name>/relay.log        what the relay said
    volumes/<volume>/                  a relay's files; `.volume.json` holds the portal id

A relay runs until the moment in its deadline file and no longer, whoever is or is not there to stop it. This is the
same promise as the warden's in the relay image (`docs/adr/0008-warden.md`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shutil
import signal
import time
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .base import DEADLINE_FILE, LABEL_PORTAL, PLAIN_NAME, RELAY_DIR, Rejected, RuntimeFailure, State, Unavailable
from .child import BoundedLog, Child, check_port_free
from .executables import find_executable
from .wire import ProcessSpec

logger = logging.getLogger(__name__)

FIRST_DELAY = 0.1
LONGEST_DELAY = 30.0
STEADY_AFTER = 10.0
"""A child that lived so many seconds starts again with the first delay, as Docker does it."""
LOOK_EVERY = 1.0
"""Seconds between two looks at the deadlines."""
FENCE_GRACE = 5.0
"""Seconds a relay gets to end by itself at its deadline."""

_DEADLINE = re.compile(rb"([0-9]{1,12})\n?")


@dataclass(slots=True)
class Container:
    """`is_wanted_up` and `was_started` are on disk; the rest belongs to this run of the daemon.

    `is_fenced` means that the deadline keeps the child down, or is about to.
    """

    id: str
    spec: ProcessSpec
    is_wanted_up: bool = False
    was_started: bool = False
    child: Child | None = None
    is_fenced: bool = False
    fencing: asyncio.Task[None] | None = None
    failures: int = 0
    retry: asyncio.TimerHandle | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def state(self) -> State:
        # A fenced one counts as running, as on Docker: it is what was asked for; another start would change nothing.
        if self.child is not None or (self.is_wanted_up and self.is_fenced):
            return State.RUNNING
        if self.is_wanted_up:
            return State.RESTARTING
        return State.EXITED if self.was_started else State.CREATED

    def shares_port_with(self, other: Container) -> bool:
        mine, theirs = self.spec, other.spec
        overlap = mine.bind_ip == theirs.bind_ip or not mine.bind_ip or not theirs.bind_ip
        return mine.port == theirs.port and overlap


class Supervisor:
    """Every method raises `RuntimeFailure` or `OSError`; the latter is for the caller to translate."""

    def __init__(self, state_dir: Path) -> None:
        self._container_dir = state_dir / "containers"
        self._volume_dir = state_dir / "volumes"
        self._containers: dict[str, Container] = {}
        self._is_closing = False
        for folder in (self._container_dir, self._volume_dir):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def restore(self) -> None:
        """Read what an earlier run left and bring up what was running."""
        for folder in sorted(self._container_dir.iterdir()):
            if folder.name.startswith("."):
                shutil.rmtree(folder, ignore_errors=True)  # A creation or removal that was cut short.
                continue
            try:
                told = json.loads((folder / "container.json").read_bytes())
                told["spec"] = ProcessSpec(**told["spec"])
                container = Container(**told)
            except (OSError, ValueError, KeyError, TypeError, RuntimeFailure) as error:
                logger.error("%s is unreadable and left alone: %s", folder, error)
                continue
            self._containers[container.spec.name] = container
        for container in self._containers.values():
            if container.is_wanted_up:
                self._revive(container)
        logger.info("%d containers, %d running", len(self._containers), self.running)

    async def watch_deadlines(self) -> None:
        """End relays whose deadline has passed, bring back those whose deadline was moved. Runs until cancelled."""
        while True:
            for container in list(self._containers.values()):
                try:
                    self._look_at_deadline(container)
                except Exception:
                    # One relay's trouble must not take the fence away from the others; the next look tries again.
                    logger.exception("cannot enforce the deadline of %s", container.spec.name)
            # Short naps and the wall clock, so that a clock that is set counts at once.
            await asyncio.sleep(LOOK_EVERY)

    def _look_at_deadline(self, container: Container) -> None:
        if not container.is_wanted_up or self._is_closing:
            return
        may_run = self._may_run(container)
        is_ending = container.fencing is not None and not container.fencing.done()
        if container.child is not None and not may_run and not is_ending:
            logger.warning("the deadline of %s has passed: stopping it", container.spec.name)
            container.is_fenced = True
            container.fencing = asyncio.create_task(container.child.end(FENCE_GRACE))
        elif container.child is None and may_run and container.is_fenced:
            logger.info("%s has a new deadline: starting it", container.spec.name)
            container.is_fenced = False
            self._revive(container)

    def _may_run(self, container: Container) -> bool:
        """Whether the deadline lies ahead. A file that is missing or says something else is one that has passed."""
        try:
            with (self._volume_dir / container.spec.volume / DEADLINE_FILE).open("rb") as file:
                told = _DEADLINE.fullmatch(file.read(16))
        except OSError:
            return False
        return told is not None and time.time() < int(told[1])

    @property
    def running(self) -> int:
        return sum(container.child is not None for container in self._containers.values())

    def listing(self, portal_id: str) -> list[dict[str, Any]]:
        return [
            {
                "id": container.id,
                "name": container.spec.name,
                "labels": container.spec.labels,
                "state": container.state.value,
                "started_at": container.child.started_at.isoformat() if container.child else None,
            }
            for container in self._containers.values()
            if container.spec.labels.get(LABEL_PORTAL) == portal_id
        ]

    def create(self, spec: ProcessSpec) -> str:
        find_executable(spec.image)
        if spec.name in self._containers or (self._container_dir / spec.name).exists():
            raise Rejected("name_taken", spec.name)
        self._create_volume(spec)
        container = Container(id=uuid.uuid4().hex, spec=spec)
        draft = self._container_dir / f".new-{spec.name}"
        shutil.rmtree(draft, ignore_errors=True)
        try:
            draft.mkdir(mode=0o700)
            self._save(container, draft)
            draft.rename(self._container_dir / spec.name)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        self._containers[spec.name] = container
        return container.id

    def put_files(self, name: str, files: dict[str, bytes]) -> None:
        """Replace the files; each is old or new at any moment, never half of one."""
        folder = self._volume_dir / self._get(name).spec.volume
        drafts = {folder / f".new-{file_name}": content for file_name, content in files.items()}
        try:
            for draft, content in drafts.items():
                draft.unlink(missing_ok=True)
                _write(draft, content)
                draft.chmod(0o400)
            for draft in drafts:
                draft.rename(folder / draft.name.removeprefix(".new-"))
        finally:
            for draft in drafts:
                draft.unlink(missing_ok=True)

    async def start(self, name: str) -> None:
        container = self._get(name)
        async with container.lock:
            if self._is_closing or self._containers.get(name) is not container:
                raise Unavailable("busy", "it is being removed, or relayd is stopping")
            if container.child is not None:
                return
            for other in self._containers.values():
                if other is not container and other.is_wanted_up and container.shares_port_with(other):
                    raise Rejected("port_taken", f"port {container.spec.port} belongs to {other.spec.name}")
            self._spawn(container)
            _cancel_retry(container)
            container.is_wanted_up = container.was_started = True
            try:
                self._save(container)
            except OSError:
                # It would not come back after a crash of ours: as good as not started, and the caller must know.
                container.is_wanted_up = False
                await self._end(container, grace_seconds=0)
                raise

    async def stop(self, name: str, grace_seconds: float) -> None:
        container = self._containers.get(name)
        if container is None:
            return
        async with container.lock:
            container.is_wanted_up = False
            try:
                if self._containers.get(name) is container:
                    self._save(container)
            finally:
                # A full disk must not keep an unwanted relay alive.
                await self._end(container, grace_seconds)

    def reload(self, name: str) -> None:
        container = self._get(name)
        if container.child is not None:
            container.child.send(signal.SIGHUP)

    async def remove(self, name: str) -> None:
        container = self._containers.get(name)
        if container is None:
            return
        async with container.lock:
            if self._containers.get(name) is not container:
                return
            container.is_wanted_up = False
            await self._end(container, grace_seconds=0)
            trash = self._container_dir / f".old-{container.id}"
            (self._container_dir / name).rename(trash)
            del self._containers[name]
            shutil.rmtree(trash, ignore_errors=True)

    def list_volumes(self, portal_id: str) -> list[str]:
        names = (folder.name for folder in self._volume_dir.iterdir())
        return sorted(name for name in names if PLAIN_NAME.fullmatch(name) and self._volume_owner(name) == portal_id)

    def remove_volume(self, name: str) -> None:
        if not PLAIN_NAME.fullmatch(name):
            raise Rejected("invalid_spec", f"{name!r} is not a plain name")
        user = next((c.spec.name for c in self._containers.values() if c.spec.volume == name), None)
        if user is not None:
            raise Unavailable("busy", f"{name} is used by {user}")
        if (self._volume_dir / name).exists():
            shutil.rmtree(self._volume_dir / name)

    async def close(self, grace_seconds: float) -> None:
        """End all children at once. What should run stays noted, and comes back with the next start."""
        self._is_closing = True
        await asyncio.gather(*(self._end(container, grace_seconds) for container in self._containers.values()))

    def _get(self, name: str) -> Container:
        try:
            return self._containers[name]
        except KeyError:
            raise Rejected("not_found", name) from None

    def _save(self, container: Container, folder: Path | None = None) -> None:
        folder = folder or self._container_dir / container.spec.name
        kept = {
            "id": container.id,
            "spec": asdict(container.spec),
            "is_wanted_up": container.is_wanted_up,
            "was_started": container.was_started,
        }
        _write(folder / ".new", json.dumps(kept).encode())
        (folder / ".new").replace(folder / "container.json")

    def _create_volume(self, spec: ProcessSpec) -> None:
        portal_id = spec.labels.get(LABEL_PORTAL, "")
        folder = self._volume_dir / spec.volume
        if (folder / ".volume.json").exists():
            if self._volume_owner(spec.volume) != portal_id:
                raise Rejected("name_taken", f"volume {spec.volume} belongs to somebody else")
            return
        folder.mkdir(mode=0o700, exist_ok=True)
        _write(folder / ".new", json.dumps({"portal_id": portal_id}).encode())
        (folder / ".new").replace(folder / ".volume.json")

    def _volume_owner(self, name: str) -> str | None:
        try:
            return str(json.loads((self._volume_dir / name / ".volume.json").read_bytes())["portal_id"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # Half-made, so nobody's yet.

    def _spawn(self, container: Container) -> None:
        """Start the child; past the deadline check that it could be started, and leave it at that."""
        spec = container.spec
        executable = find_executable(spec.image)
        check_port_free(spec.bind_ip, spec.port)
        container.is_fenced = not self._may_run(container)
        if container.is_fenced:
            logger.warning("%s is not started: its deadline has passed, or it has none", spec.name)
            return
        directory = str((self._volume_dir / spec.volume).resolve())
        # Nothing of our own environment: it holds the portal's secrets.
        env = {"PATH": os.defpath, "HOME": directory, "LANG": "C.UTF-8", **executable.env}
        env |= {key: value.replace(RELAY_DIR, directory) for key, value in spec.env.items()}
        folder = self._container_dir / spec.name
        container.child = Child(
            [*executable.argv, *(arg.replace(RELAY_DIR, directory) for arg in spec.args)],
            env=env,
            cwd=folder,
            log=BoundedLog(folder / "relay.log"),
            on_exit=lambda child: self._exited(container, child),
        )

    def _exited(self, container: Container, child: Child) -> None:
        container.child = None
        if not container.is_wanted_up or self._is_closing:
            return
        if container.is_fenced:
            logger.warning("%s ended with exit code %s", container.spec.name, child.exit_code)
            return
        if child.age >= STEADY_AFTER:
            container.failures = 0
        logger.warning("%s ended by itself (%s)", container.spec.name, child.exit_code)
        self._retry_later(container)

    def _retry_later(self, container: Container) -> None:
        delay = min(FIRST_DELAY * 2**container.failures, LONGEST_DELAY)
        container.failures = min(container.failures + 1, 16)
        container.retry = asyncio.get_running_loop().call_later(delay, self._revive, container)

    def _revive(self, container: Container) -> None:
        if not container.is_wanted_up or container.child is not None or self._is_closing:
            return
        try:
            self._spawn(container)
        except (RuntimeFailure, OSError) as error:
            logger.warning("%s does not come back yet: %s", container.spec.name, error)
            self._retry_later(container)

    @staticmethod
    async def _end(container: Container, grace_seconds: float) -> None:
        _cancel_retry(container)
        if container.child is not None:
            await container.child.end(grace_seconds)


def _cancel_retry(container: Container) -> None:
    if container.retry is not None:
        container.retry.cancel()
    container.retry, container.failures = None, 0


def _write(path: Path, content: bytes) -> None:
    """Write and sync, so that a rename after it never exposes an empty file."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
