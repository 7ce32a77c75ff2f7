"""What a host must be able to do for us, whatever runs the relays there.

The reconciler speaks only this protocol. `docker` and `process` implement it, and the same
contract tests (`tests/fleet/test_runtime_contract.py`) run against both.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

LABEL_PORTAL = "derp-portal.portal"
LABEL_RELAY = "derp-portal.relay"
LABEL_GENERATION = "derp-portal.generation"
LABEL_DIGEST = "derp-portal.digest"
LABEL_PORT = "derp-portal.port"
LABEL_HOST = "derp-portal.host"
"""On the volume that says which portal a host belongs to."""
LABEL_TASK = "derp-portal.task"
"""On throw-away containers. They have no `LABEL_PORTAL`: nobody lists them as relays."""

RELAY_DIR = "{dir}"
"""Stands in arguments, environment and nowhere else for the folder that holds `RelaySpec.files`."""

DEADLINE_FILE = "deadline"
"""The file until whose moment the host lets the relay run: ASCII decimal Unix seconds and a newline.

While it is missing, unreadable or has passed, the host keeps the relay down without being asked, across restarts
of everything; once it lies ahead again, the host brings the relay back. In between the state stays `RUNNING`,
because the container is as wanted (`docs/adr/0008-warden.md`).
"""

PLAIN_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,99}")
"""Names of containers and volumes: what every engine takes, and never a path."""

FILE_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,239}")
"""Names of a relay's files: long enough for a host name; never hidden, never a path."""


class RuntimeFailure(Exception):
    """A host did not do what was asked. `code` is stable and translated for people elsewhere."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class Unavailable(RuntimeFailure):
    """The host could not be asked, or could not answer now. Trying again later may help.

    Codes: `unreachable` (the line broke, or no way leads there), `connection_refused`, `name_unknown`, `no_socket`,
    `ssh_failed`, `timeout`, `busy`.
    """


class Rejected(RuntimeFailure):
    """The host understood and refused. Only a change on our side or the operator's helps.

    `refused` is what no other code says; its detail is the engine's own words.
    Codes: `image_missing`, `image_build_failed`, `disk_full`, `port_taken`, `name_taken`,
    `not_found`, `invalid_spec`, `unsupported`, `refused`.
    Codes of pulling an image: `pull_failed`, `registry_denied`.
    Codes of a wrong address, or of what answers there: `invalid_endpoint`, `insecure_endpoint`, `not_an_engine`,
    `engine_too_old`, `no_permission`.
    Codes of TLS: `wrong_ca`, `wrong_name`, `certificate_expired`, `client_refused`, `bad_credentials`.
    Codes of ssh: `ssh_denied`, `host_key_changed`, `ssh_failed`, `bad_credentials`.
    Codes of what the host tells of itself, judged by whoever enrols it: `clock_off`, `enrolled_twice`,
    `foreign_portal`.
    """


@dataclass(frozen=True, slots=True)
class TlsCredentials:
    """What proves an engine to us and us to the engine, as PEM text. Never printed: it holds a key."""

    ca_pem: str = field(repr=False)
    cert_pem: str = field(repr=False)
    key_pem: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SshCredentials:
    """The portal's key, and the host key that must answer, as `ssh-ed25519 AAAA…` ("" = whichever answers first)."""

    private_key_pem: str = field(repr=False)
    host_key: str = ""


class State(StrEnum):
    """What the host says of a container; everything it may invent else is `EXITED`."""

    CREATED = "created"
    RUNNING = "running"
    RESTARTING = "restarting"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class RelaySpec:
    """One container as it should be. Two specs with the same digest need no replacement.

    `digest` stands for everything that only a replacement can change; who makes the spec says what that is.
    `files` maps plain file names to contents; they are put where `{dir}` points.
    `port` is published on TCP and UDP under the same number on `bind_ip` ("" = every address).
    """

    name: str
    volume: str
    portal_id: str
    relay_id: int
    generation: int
    digest: str
    image: str
    args: tuple[str, ...]
    env: Mapping[str, str]
    files: Mapping[str, bytes]
    port: int
    bind_ip: str = ""
    memory_bytes: int = 128 * 1024 * 1024
    pids_limit: int = 128

    def check(self) -> None:
        """Raise `Rejected("invalid_spec")` for what no host may be asked to do."""
        for pattern, names in ((PLAIN_NAME, (self.name, self.volume)), (FILE_NAME, self.files)):
            for name in names:
                if not pattern.fullmatch(name):
                    raise Rejected("invalid_spec", f"{name!r} is not a plain name")
        if not 1 <= self.port <= 65535:
            raise Rejected("invalid_spec", f"port {self.port} is out of range")
        if self.bind_ip:
            try:
                ipaddress.ip_address(self.bind_ip)
            except ValueError as error:
                raise Rejected("invalid_spec", str(error)) from error

    def command(self, directory: str) -> list[str]:
        """The arguments, with `{dir}` resolved."""
        return [arg.replace(RELAY_DIR, directory) for arg in self.args]

    def environment(self, directory: str) -> dict[str, str]:
        """The environment, with `{dir}` resolved."""
        return {key: value.replace(RELAY_DIR, directory) for key, value in self.env.items()}

    @property
    def labels(self) -> dict[str, str]:
        return {
            LABEL_PORTAL: self.portal_id,
            LABEL_RELAY: str(self.relay_id),
            LABEL_GENERATION: str(self.generation),
            LABEL_DIGEST: self.digest,
            LABEL_PORT: str(self.port),
        }


@dataclass(frozen=True, slots=True)
class Observed:
    """One container as the host listed it. Labels that are missing or unreadable read as 0 or ""."""

    id: str
    name: str
    portal_id: str
    relay_id: int
    generation: int
    digest: str
    state: State
    started_at: datetime | None = None
    port: int = 0

    @classmethod
    def from_labels(
        cls, *, id: str, name: str, labels: Mapping[str, str], state: State, started_at: datetime | None = None
    ) -> Observed:
        """Read our labels back; somebody may have edited them, so nothing here raises."""

        def number(key: str) -> int:
            text = labels.get(key, "")
            return int(text) if text.isascii() and text.isdigit() else 0

        return cls(
            id=id,
            name=name,
            portal_id=labels.get(LABEL_PORTAL, ""),
            relay_id=number(LABEL_RELAY),
            generation=number(LABEL_GENERATION),
            digest=labels.get(LABEL_DIGEST, ""),
            state=state,
            started_at=started_at,
            port=number(LABEL_PORT),
        )


@dataclass(frozen=True, slots=True)
class HostInfo:
    """What the host tells of itself: engine name and version, cores, memory in bytes, free text hardware.

    `engine_id` is the same under every address the engine has; "" when unknown. `clock` is the host's, aware.
    `host_key` is the one that answered over ssh, fit for `SshCredentials`.
    """

    engine: str
    version: str
    cores: int
    memory_bytes: int
    hardware: dict[str, str] = field(default_factory=dict)
    engine_id: str = ""
    clock: datetime | None = None
    host_key: str = ""


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A program of the relay image to be run once, for at most `seconds`; `port` is published on TCP and UDP."""

    image: str
    args: tuple[str, ...]
    port: int = 0
    seconds: int = 20
    portal_id: str = ""
    entrypoint: str = "/warden"

    def check(self) -> None:
        """Raise `Rejected("invalid_spec")` for what no host may be asked to do."""
        if not 0 <= self.port <= 65535:
            raise Rejected("invalid_spec", f"port {self.port} is out of range")
        if not 1 <= self.seconds <= TASK_SECONDS:
            raise Rejected("invalid_spec", f"a task takes 1 to {TASK_SECONDS} seconds, not {self.seconds}")


TASK_SECONDS = 120
TASK_OUTPUT = 64 * 1024
"""Bytes of its standard output a task gives back at most; what comes later is cut off."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    exit_code: int
    output: str


class Runtime(Protocol):
    """One host. Instances are cheap and used by one thread. Every call raises `RuntimeFailure` only.

    Every call is safe to repeat, also when an earlier one took effect but its answer was lost: `remove` and
    `stop` of what is gone do nothing; `create` of a name that exists raises `Rejected("name_taken")`; `start` of
    what runs does nothing; `start`, `put_files` and `reload` of what is gone raise `Rejected("not_found")`.

    What runs comes back by itself when the relay, the engine or the machine dies; what was stopped, or never
    started, does not (`docs/adr/0003-restart-policy.md`).
    """

    def info(self) -> HostInfo: ...

    def claim(self, portal_id: str) -> str:
        """Mark the host as that portal's unless it is another's already; returns the owner's portal id."""

    def ensure_image(self, image: str) -> None:
        """Make `image` present on the host: from the portal's stored archive, else from the registry it names."""

    def list_volumes(self, portal_id: str) -> list[str]:
        """Names of our volumes on the host, so that the ones nobody owns can be dropped."""

    def list(self, portal_id: str) -> list[Observed]:
        """Every container with our portal label, running or not. One engine call, however many there are."""

    def create(self, spec: RelaySpec) -> str:
        """Create without starting, and the volume too if it is new; returns the container id."""

    def put_files(self, spec: RelaySpec) -> None:
        """Write `spec.files` where the container sees them; before or after the start. Other files stay."""

    def start(self, name: str) -> None:
        """Start it. A port that somebody holds is `Rejected("port_taken")`; it may be started again later."""

    def stop(self, name: str, *, grace_seconds: int = 5) -> None:
        """SIGTERM, then SIGKILL after the grace. Returns when it no longer runs; it stays stopped across reboots."""

    def reload(self, name: str) -> None:
        """Send SIGHUP, so that the relay reads its rate file again. One that does not run reads it at its start."""

    def remove(self, name: str, *, volume: str = "") -> None:
        """Kill without grace, remove, and drop `volume` too when it is named. Call `stop` first for a gentle end."""

    def remove_volume(self, name: str) -> None:
        """Drop it. One that a container still refers to is `Unavailable("busy")`."""

    def run_task(self, task: TaskSpec) -> TaskResult:
        """Run a throw-away container to its end; it is removed whatever happens. `Unavailable("timeout")` if it hangs.

        A port that somebody holds is `Rejected("port_taken")`. A host without containers says `unsupported`.
        """

    def carried_bytes(self, name: str) -> int | None:
        """Bytes in and out of a running container since it was started, with every overhead, as the engine counts.

        None where nobody counts, or nothing runs. `Rejected("not_found")` for what is gone.
        """

    def close(self) -> None: ...
