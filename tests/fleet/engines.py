"""Real hosts for the tests: a dockerd and a relayd of the suite's own, and what the relays on them need.

Registered once, by the top conftest. Tests that use the engine carry
`@pytest.mark.xdist_group("docker")`, so that with `--dist loadgroup` one worker starts one dockerd.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import APIClient

from fleet.derp.identity import make_identity, relay_files
from fleet.runtimes.base import DEADLINE_FILE, LABEL_PORTAL, RelaySpec, Unavailable
from fleet.runtimes.docker import DockerRuntime
from fleet.runtimes.image import DERPER_VERSION, image_name, relay_image, stored_archive
from fleet.runtimes.process import ProcessRuntime
from tests.parts import has, missing, need
from tests.ports import free_port
from tests.processes import children_of, state_of

HOST_NAME = "r1.relay.internal"
ROOT = Path(__file__).resolve().parents[2]


def wait_until(is_true: Callable[[], Any], *, seconds: float = 60, what: str = "the expected state") -> Any:
    """Poll until `is_true()` gives something true, and give that back."""
    deadline = time.monotonic() + seconds
    while True:
        result = is_true()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come within {seconds} s")
        time.sleep(0.05)


def freeze(pid: int) -> None:
    """Stop the process as it stands, and wait until all of it stands: a thread under way may still answer somebody."""
    os.kill(pid, signal.SIGSTOP)
    standing = ("T", "t", None)
    wait_until(
        lambda: all(state_of(task) in standing for task in Path(f"/proc/{pid}/task").iterdir()), what="standing still"
    )


def answers(port: int, host: str = "127.0.0.1", *, seconds: float = 20) -> bool:
    """Whether a relay answers TLS on the port. A bare connect would only meet Docker's port proxy.

    Of one that swallows everything nothing is known before the `seconds` are over.
    """
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), seconds) as raw,
            context.wrap_socket(raw, server_hostname=HOST_NAME),
        ):
            return True
    except OSError:
        return False


def deadline_in(seconds: float) -> bytes:
    """A deadline file so far from now, or, when negative, past."""
    return b"%d\n" % (time.time() + seconds)


def relay_spec(*, image: str, listen: str = "", **changes: Any) -> RelaySpec:
    """A spec that derper and the bundled relay both run, for a day. `listen` is the address inside the container."""
    port = changes.pop("port", None) or free_port()
    generation = changes.get("generation", 1)
    args = (
        *("-a", f"{listen}:{port}", "-http-port", "-1", "-stun", "-stun-port", str(port)),
        *("-c", "{dir}/derper.key", "-certmode", "manual", "-certdir", "{dir}", "-hostname", HOST_NAME),
        *("-rate-config", "{dir}/rate.json", "-home", "blank"),
    )
    values: dict[str, Any] = {
        "name": f"relay-{port}-{generation}",
        "volume": f"relay-{port}",
        "portal_id": "portal-a",
        "relay_id": port,
        "generation": generation,
        "image": image,
        "args": args,
        "env": {"TS_DEBUG_KEY_PATH": "{dir}/debug.key"},
        "files": {
            **relay_files(make_identity(HOST_NAME), HOST_NAME),
            DEADLINE_FILE: deadline_in(86_400),
            "debug.key": b"d" * 64,
            "rate.json": b"{}",
        },
        "port": port,
        "digest": "d" * 64,
    }
    return RelaySpec(**{**values, **changes})


class DockerEngine:
    """A dockerd of our own: own bridge, folders and socket, no firewall rules, stopped by its own pid only.

    Published ports answer on 127.0.0.1 through the engine's userland proxy.
    """

    def __init__(self, home: Path, images: Path) -> None:
        self.home, self.images = home, images
        self.endpoint = f"unix://{home}/docker.sock"
        self.image = image_name(DERPER_VERSION)
        self.bridge = f"dt{os.getpid()}"
        self._process: subprocess.Popen[bytes] | None = None
        self._has_bridge = False

    def runtime(self, **changes: Any) -> DockerRuntime:
        values: dict[str, Any] = {"image_archive": lambda image: stored_archive(image, self.images), **changes}
        return DockerRuntime(self.endpoint, **values)

    def api(self) -> APIClient:
        """The bare engine, to look behind the runtime's back."""
        client = APIClient(base_url=self.endpoint, version="auto", timeout=60)
        client.trust_env = False
        return client

    def start(self, *, live_restore: bool = False) -> None:
        """Start it and wait until it answers. Also brings back an engine that was killed."""
        self._make_bridge()
        for stale in ("docker.pid", "exec/containerd/containerd.pid"):
            (self.home / stale).unlink(missing_ok=True)
        config = {"live-restore": live_restore, "deprecated-key-path": str(self.home / "key.json")}
        (self.home / "daemon.json").write_text(json.dumps(config))
        options = {
            "config-file": self.home / "daemon.json",
            "data-root": self.home / "data",
            "exec-root": self.home / "exec",
            "pidfile": self.home / "docker.pid",
            "host": self.endpoint,
            "bridge": self.bridge,
            "iptables": "false",
            "ip6tables": "false",
            "ip-forward": "false",
            "ip-masq": "false",
        }
        command = ["dockerd", *(f"--{key}={value}" for key, value in options.items())]
        with (self.home / "dockerd.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait_until(self._is_ready, seconds=120, what=f"dockerd (log: {self.home}/dockerd.log)")

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill9(self) -> None:
        """As the out-of-memory killer does it: only dockerd itself; its shims are left to themselves."""
        self._end(signal.SIGKILL)

    def main_pid(self, name: str) -> int:
        with contextlib.closing(self.api()) as api:
            return int(api.inspect_container(name)["State"]["Pid"])

    def restart_container(self, name: str) -> None:
        """As after a reboot of the host: the container's processes are new, its volume is not."""
        with contextlib.closing(self.api()) as api:
            api.restart(name, timeout=5)

    def has_remembered(self, volume: str, key: str) -> bool:
        """Whether the warden has written down that this one was let in."""
        with contextlib.closing(self.api()) as api:
            folder = Path(api.inspect_volume(volume)["Mountpoint"])
        memory = folder / "door" / "admitted"
        return memory.exists() and key in memory.read_text()

    def sweep(self) -> None:
        """Remove every container and volume of every portal."""
        with contextlib.closing(self.api()) as api:
            for row in api.containers(all=True):
                api.remove_container(row["Id"], force=True)
            for row in api.volumes(filters={"label": LABEL_PORTAL})["Volumes"] or ():
                api.remove_volume(row["Name"])

    def destroy(self) -> None:
        if not self._is_ready():
            self.kill9()
            self.start()
        self.sweep()
        self.stop()
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            if (mount := line.split()[1]).startswith(f"{self.home}/"):
                subprocess.run(["umount", "-l", mount], check=False)
        subprocess.run(["ip", "link", "del", self.bridge], check=False)
        shutil.rmtree(self.home, ignore_errors=True)

    def _is_ready(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            return False
        try:
            self.runtime(timeouts=(1, 10)).info()
        except Unavailable:
            return False
        return True

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(120)
            self._process = None

    def _make_bridge(self) -> None:
        if self._has_bridge:
            return
        taken = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, check=True, text=True).stdout
        subnets = list(ipaddress.IPv4Network("10.204.0.0/16").subnets(new_prefix=23))
        # Not all from the first one on: suites that start side by side would both find it free.
        first = os.getpid() % len(subnets)
        gateways = (str(next(subnet.hosts())) for subnet in (*subnets[first:], *subnets[:first]))
        gateway = next(address for address in gateways if f" {address}/" not in taken)
        for words in (f"link add {self.bridge} type bridge", f"addr add {gateway}/23 dev {self.bridge}"):
            subprocess.run(["ip", *words.split()], check=True)
        subprocess.run(["ip", "link", "set", self.bridge, "up"], check=True)
        self._has_bridge = True


class Relayd:
    """The process daemon as a test subject: started, killed and started again on the same state."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.socket = home / "relayd.sock"
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "relayd is not running"
        return self._process.pid

    def runtime(self, **changes: Any) -> ProcessRuntime:
        return ProcessRuntime(self.socket, **changes)

    def start(self) -> None:
        command = [sys.executable, "-m", "fleet.runtimes.relayd", "--socket", str(self.socket)]
        command += ["--state", str(self.home / "state")]
        with (self.home / "relayd.log").open("ab") as log:
            env = {**os.environ, **self._environment}
            self._process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)
        wait_until(self._is_ready, what=f"relayd: {(self.home / 'relayd.log').read_text()[-2000:]}")

    def stop(self) -> int:
        return self._end(signal.SIGTERM)

    def kill9(self) -> None:
        self._end(signal.SIGKILL)

    def children(self) -> list[int]:
        return children_of(self.pid)

    def main_pid(self, name: str) -> int:
        """The relay's process, the child whose folder is the container's; 0 while there is none."""
        for pid in self.children():
            # One that ends meanwhile is not found, or not ours to look at any more.
            with contextlib.suppress(OSError):
                if Path(os.readlink(f"/proc/{pid}/cwd")).name == name:
                    return pid
        return 0

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.home / "relayd.log").read_text()
        try:
            self.runtime(timeout=10).list("nobody")
        except Unavailable:
            return False
        return True

    def _end(self, number: signal.Signals) -> int:
        if self._process is None:
            return 0
        self._process.send_signal(number)
        code = self._process.wait(60)
        self._process = None
        return code


@pytest.fixture(scope="session")
def relay_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the archive of the relay image, built once per test run, from DERPER_BIN if set."""
    need("go")
    derper = Path(need("derper")) if has("derper") else None
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "images"
    relay_image(DERPER_VERSION, folder, derper=derper)
    return folder


@pytest.fixture(scope="session")
def docker_engine(relay_images: Path) -> Iterator[DockerEngine]:
    """One dockerd per session, without the relay image until somebody ensures it."""
    need("docker")
    if shutil.which("ip") is None:
        missing("docker", "ip is not on the PATH (apt install iproute2)")
    engine = DockerEngine(Path(tempfile.mkdtemp(prefix="dt-", dir="/tmp")), relay_images)
    try:
        engine.start()
        yield engine
    finally:
        engine.destroy()


@pytest.fixture
def relayd() -> Iterator[Relayd]:
    """A fresh process daemon. Its folder is short, because a Unix socket's path must be."""
    home = Path(tempfile.mkdtemp(prefix="rd-", dir="/tmp"))
    daemon = Relayd(home)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.stop()
        shutil.rmtree(home, ignore_errors=True)
