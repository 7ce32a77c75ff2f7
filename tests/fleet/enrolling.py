"""Hosts to try the enrolment script on: a folder with programs that take notes, namespaces, and a real engine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.fleet.engines import wait_until
from tests.parts import need

OS_RELEASE = {
    "debian 12": 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n',
    "ubuntu 22.04": 'ID=ubuntu\nVERSION_ID="22.04"\nVERSION_CODENAME=jammy\n',
    "ubuntu 23.10": 'ID=ubuntu\nVERSION_ID="23.10"\nVERSION_CODENAME=mantic\n',
    "fedora 40": "ID=fedora\nVERSION_ID=40\n",
}
UNIT = (
    "[Service]\nExecStart=/usr/sbin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock $DOCKER_OPTS\n"
    "ExecReload=/bin/kill -s HUP $MAINPID\n"
)
# Programs that would change this machine only write down that they were called.
STUBS = {
    "apt-get": "",
    "apt-cache": "exit 1",
    "dpkg-query": "exit 1",
    "journalctl": "echo the engine said why",
    "systemctl": 'case "$1" in is-active) exit 3 ;; restart) exit "${RESTART_FAILS:-0}" ;; esac',
    "nft": "",
    "ufw": 'if [ "$1" = status ]; then echo "Status: ${UFW:-inactive}"; fi',
    "iptables": 'echo "-P INPUT ACCEPT"',
    "useradd": "",
    "usermod": "",
    "sshd": "",
    "dockerd": "",
}


class FreshHost:
    """A folder that looks like a fresh host's /, and programs on the PATH that only take notes."""

    def __init__(self, folder: Path, system: str = "debian 12") -> None:
        self.root, self.bin, self.log = folder / "root", folder / "bin", folder / "calls"
        for name in ("etc/docker", "etc/ssh", "lib/systemd/system"):
            (self.root / name).mkdir(parents=True)
        self.bin.mkdir()
        (self.root / "etc/os-release").write_text(OS_RELEASE[system])
        (self.root / "etc/ssh/ssh_host_ed25519_key.pub").write_text("ssh-ed25519 HOSTKEY root@host\n")
        (self.root / "lib/systemd/system/docker.service").write_text(UNIT)
        for name, body in STUBS.items():
            self.stub(name, body)

    def stub(self, name: str, body: str) -> None:
        path = self.bin / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.log}\n{body}\n')
        path.chmod(0o755)

    def run(self, script: str, *, user: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run it as over ssh: bash reads it from a pipe."""
        need("root")
        env = {"PATH": f"{self.bin}:{os.environ['PATH']}", "ENROL_ROOT": str(self.root), **environment}
        self.log.unlink(missing_ok=True)
        command = ["bash"]
        return subprocess.run(command, input=script, env=env, capture_output=True, text=True, check=False, user=user)

    def calls(self, program: str) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.removeprefix(f"{program} ") for line in lines if line.startswith(f"{program} ")]

    def text(self, path: str) -> str:
        return (self.root / path).read_text()

    def daemon(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.text("etc/docker/daemon.json"))
        return found

    def everything(self) -> dict[str, tuple[str, int, int]]:
        """Each file's content, mode and time of change."""
        files = [path for path in self.root.rglob("*") if path.is_file()]
        return {str(path): (path.read_text(), path.stat().st_mode & 0o777, path.stat().st_mtime_ns) for path in files}


class Namespaces:
    """A client, a host and a container, each a network namespace, cabled in that order; nothing of it leaves them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        mark = f"en{os.getpid()}"
        self.client, self.host, self.container = (f"{mark}{end}" for end in "cho")
        for name in (self.client, self.host, self.container):
            self._ip("netns", "add", name)
            self._ip("-n", name, "link", "set", "lo", "up")
        self._cable(self.client, "10.9.1.2/24", "10.9.1.1/24")
        self._ip("-n", self.client, "addr", "add", "10.9.1.3/24", "dev", "eth0")
        self._cable(self.container, "10.9.2.2/24", "10.9.2.1/24")
        self._ip("-n", self.container, "route", "add", "default", "via", "10.9.2.1")
        self.on(self.host, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        self._servers: list[subprocess.Popen[bytes]] = []

    def on(self, where: str, *command: str, **changes: Any) -> subprocess.CompletedProcess[bytes]:
        words = ["nsenter", f"--net=/run/netns/{where}", *command]
        return subprocess.run(words, capture_output=True, **{"check": True, **changes})  # noqa: PLW1510 - it is there

    def serve(self, where: str, port: int) -> None:
        words = ["nsenter", f"--net=/run/netns/{where}", "python3", "-m", "http.server", str(port)]
        quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": self._folder}
        self._servers.append(subprocess.Popen(words, **quiet))
        listening = ("ss", "-ltnH", f"sport = {port}")
        wait_until(lambda: self.on(where, *listening).stdout, what=f"a listener on port {port}")

    def reaches(self, port: int, *, source: str = "10.9.1.2") -> bool:
        attempt = f"import socket; socket.create_connection(('10.9.1.1', {port}), 4, ('{source}', 0))"
        return self.on(self.client, "python3", "-c", attempt, check=False).returncode == 0

    def close(self) -> None:
        for server in self._servers:
            server.kill()
            server.wait(10)
        for name in (self.client, self.host, self.container):
            subprocess.run(["ip", "netns", "del", name], check=False)

    def _cable(self, end: str, address: str, host_address: str) -> None:
        cable = end[-6:]
        self._ip("-n", self.host, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", end)
        for name, link, own in ((self.host, cable, host_address), (end, "eth0", address)):
            self._ip("-n", name, "addr", "add", own, "dev", link)
            self._ip("-n", name, "link", "set", link, "up")

    @staticmethod
    def _ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def real_engine(host: FreshHost, port: int) -> Iterator[str]:
    """A real dockerd on the script's configuration; only paths and the port are this machine's. Gives its log."""
    home = Path(tempfile.mkdtemp(prefix="en-", dir="/tmp"))
    config = json.loads(json.dumps(host.daemon()).replace("/etc/docker", str(host.root / "etc/docker")))
    config["hosts"] = [f"unix://{home}/docker.sock" if one == "fd://" else one for one in config["hosts"]]
    config |= {"data-root": f"{home}/data", "exec-root": f"{home}/exec", "pidfile": f"{home}/docker.pid"}
    config |= {"bridge": "none", "iptables": False, "ip-forward": False, "storage-driver": "vfs"}
    config["deprecated-key-path"] = f"{home}/key.json"
    (home / "daemon.json").write_text(json.dumps(config))
    log = home / "log"
    with log.open("wb") as out:
        command = ["dockerd", "--config-file", str(home / "daemon.json")]
        engine = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    try:
        wait_until(lambda: "API listen on [::]" in log.read_text() or engine.poll(), seconds=120, what="dockerd")
        assert engine.poll() is None, log.read_text()
        yield f"https://127.0.0.1:{port}/version"
    finally:
        engine.terminate()
        engine.wait(120)
        shutil.rmtree(home, ignore_errors=True)
