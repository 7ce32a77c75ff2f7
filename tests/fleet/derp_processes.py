"""Start a real relay process on a free loopback port: derper where it is found, or the bundled development relay."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fleet.derp.errors import RelayFailure
from fleet.derp.identity import Identity, make_identity, new_host_name, relay_files
from fleet.derp.keys import derive_private
from fleet.derp.pinned import PinnedConnection, deadline_in
from fleet.derp.probe import Target
from tests.ports import free_port

DERPER, BUNDLED = "derper", "bundled"
ROOT = Path(__file__).resolve().parents[2]
DEBUG_KEY = "a debug key & more"
KEY_A, KEY_B, STRANGER = (derive_private(b"tests", label) for label in ("a", "b", "stranger"))
START_SECONDS = 120.0


def derper_binary() -> str | None:
    """Return the derper to test with: `DERPER_BIN`, else the one on the PATH, else None."""
    return os.environ.get("DERPER_BIN") or shutil.which("derper")


def relay_command(kind: str) -> list[str]:
    """Return the command, without flags, that runs a relay of this kind."""
    if kind == BUNDLED:
        return [sys.executable, "-m", "fleet.derp.relay"]
    binary = derper_binary()
    if binary is None:
        raise LookupError("derper is not on this machine")
    return [binary]


@dataclass(frozen=True, slots=True)
class RelayProcess:
    """A running relay. Its rate file is `folder / "rate.json"`; its output goes to `folder / "log"`."""

    process: subprocess.Popen[bytes]
    folder: Path
    identity: Identity
    host_name: str
    port: int

    @property
    def target(self) -> Target:
        return Target(
            ip="127.0.0.1",
            port=self.port,
            stun_port=self.port,
            host_name=self.host_name,
            pin=self.identity.pin,
            key_a=KEY_A,
            key_b=KEY_B,
            debug_key=DEBUG_KEY,
        )

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def set_rate(self, content: str) -> None:
        """Write the rate file and ask the relay to take it."""
        (self.folder / "rate.json").write_text(content)
        self.process.send_signal(signal.SIGHUP)


@contextmanager
def running_relay(
    kind: str,
    folder: Path,
    *,
    host_name: str = "",
    identity: Identity | None = None,
    flags: Sequence[str] = (),
) -> Iterator[RelayProcess]:
    """Run a relay of `kind` in `folder` until the block ends. It serves when the block begins."""
    host_name = host_name or new_host_name("r7k2")
    identity = identity or make_identity(host_name)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in relay_files(identity, host_name).items():
        (folder / name).write_bytes(content)
    (folder / "rate.json").write_text("{}")
    (folder / "debug.key").write_text(DEBUG_KEY + "\n")
    port = free_port()
    command = [
        *relay_command(kind),
        *("-a", f"127.0.0.1:{port}", "-http-port", "-1", "-stun", "-stun-port", str(port)),
        *("-c", str(folder / "derper.key"), "-certmode", "manual", "-certdir", str(folder)),
        *("-hostname", host_name, "-home", "blank", "-rate-config", str(folder / "rate.json")),
        *flags,
    ]
    environment = os.environ | {"TS_DEBUG_KEY_PATH": str(folder / "debug.key")}
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
    relay = RelayProcess(process, folder, identity, host_name, port)
    try:
        _wait_until_serving(relay)
        yield relay
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_serving(relay: RelayProcess) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        if relay.process.poll() is not None:
            raise RuntimeError(f"the relay ended at once: {relay.log()}")
        try:
            PinnedConnection.open(
                ip="127.0.0.1",
                port=relay.port,
                host_name=relay.host_name,
                pin=relay.identity.pin,
                deadline=deadline_in(10.0),
            ).close()
        except RelayFailure as failure:
            if failure.code == "cert_expired":
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"the relay does not serve ({failure}): {relay.log()}") from failure
            time.sleep(0.05)
        else:
            return
