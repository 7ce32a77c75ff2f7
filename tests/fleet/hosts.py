"""Whole Docker hosts for the tests: each a machine of its own as far as network, processes and mounts go.

A host is a set of Linux namespaces around a real dockerd. It can be cut off, frozen, killed, switched off and given
an old disk. However the test process ends, no process, mount or address of a host outlives it. Tests that use hosts
carry `@pytest.mark.xdist_group("docker-hosts")`, so that with `--dist loadgroup` one worker starts them.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from docker import APIClient
from docker.errors import APIError, NotFound

from fleet.runtimes.base import TlsCredentials, Unavailable
from fleet.runtimes.docker import DockerRuntime
from fleet.runtimes.image import DERPER_VERSION, image_name, stored_archive
from tests.fleet.engines import freeze, wait_until
from tests.parts import missing, need
from tests.processes import children_of, is_alive

NETWORK = "10.203"
"""Host N is 10.203.N.2; this side of its cable is 10.203.N.1."""
ENGINE_PORT = 2376
UNREACHABLE = ("route", "{verb}", "unreachable", f"{NETWORK}.0.0/16", "metric", "4000")

# The first process of a host. It adopts the orphans (an ignored SIGCHLD buries them at once) and lives until this
# process closes the pipe or dies, by whatever signal; everything else on the host ends with it.
_INIT = "hostname {name} && mount -t tmpfs tmpfs /run && trap '' CHLD && exec cat"


class Authority:
    """A certificate authority with a client certificate, as PEM strings that a server row can hold."""

    def __init__(self, name: str = "test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.ca_pem = _pem(builder.sign(self._key, hashes.SHA256()))
        self.cert_pem, self.key_pem = self.issue("test client", ExtendedKeyUsageOID.CLIENT_AUTH)

    def issue(self, name: str, usage: x509.ObjectIdentifier, *, ip: str = "") -> tuple[str, str]:
        """A certificate for `name` (and `ip`), and its private key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(subject, key.public_key())
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if ip:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(ip))])
            builder = builder.add_extension(names, critical=False)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return _pem(builder.sign(self._key, hashes.SHA256())), private.decode()

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        start = datetime.now(UTC) - timedelta(days=1)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(start).not_valid_after(start + timedelta(days=30))


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


class DockerHost:
    """One machine with a real dockerd, on a cable of its own to this one.

    The engine listens on a Unix socket (`endpoint`, which no fault of the network touches) and on `tcp_endpoint` with
    mutual TLS (`tls`); published ports answer on `ip`, TCP and UDP. From its containers every other host can be
    reached, and every address of this side: a portal's door on any host's `gateway` serves all. `live-restore` is on.
    """

    def __init__(self, authority: Authority, images: Path) -> None:
        self.authority, self.images = authority, images
        self.ca_pem, self.cert_pem, self.key_pem = authority.ca_pem, authority.cert_pem, authority.key_pem
        self.tls = TlsCredentials(self.ca_pem, self.cert_pem, self.key_pem)
        self.image = image_name(DERPER_VERSION)
        self.home = Path(tempfile.mkdtemp(prefix="dh-", dir="/tmp"))
        self.number, self._reservation = _reserve_number()
        self.ip, self.gateway = f"{NETWORK}.{self.number}.2", f"{NETWORK}.{self.number}.1"
        self.name = f"dh{os.getpid()}-{self.number}"
        self.endpoint = f"unix://{self.home}/docker.sock"
        self.tcp_endpoint = f"tcp://{self.ip}:{ENGINE_PORT}"
        self._cable = f"v{self.name}"
        self._data, self._old_data = self.home / "data", self.home / "old-data"
        self._machine: subprocess.Popen[bytes] | None = None
        self._engine: subprocess.Popen[bytes] | None = None

    def runtime(self, **changes: Any) -> DockerRuntime:
        """Speaks over the Unix socket: past every cut, not past a frozen or dead engine."""
        values: dict[str, Any] = {"image_archive": lambda image: stored_archive(image, self.images), **changes}
        return DockerRuntime(self.endpoint, **values)

    def tls_runtime(self, **changes: Any) -> DockerRuntime:
        """Speaks over the network, as the portal does with a server row of this host."""
        return DockerRuntime(self.tcp_endpoint, **{"tls": self.tls, "timeouts": (1, 5), **changes})

    def api(self) -> APIClient:
        """The bare engine, to look behind the runtime's back."""
        client = APIClient(base_url=self.endpoint, version="auto", timeout=60)
        client.trust_env = False
        return client

    def containers(self, *, running: bool = False) -> list[str]:
        """Names of the containers that exist, or of those that run, whoever made them."""
        with contextlib.closing(self.api()) as api:
            return sorted(row["Names"][0].lstrip("/") for row in api.containers(all=not running))

    def pull_image(self) -> None:
        """See to it that the host has the relay image."""
        with contextlib.closing(self.runtime()) as runtime:
            runtime.ensure_image(self.image)

    # Life and death.

    def boot(self) -> None:
        """Make the machine, plug the cable in and start the engine. Returns when it answers."""
        command = ["unshare", "--net", "--uts", "--mount", "--propagation", "private", "--pid", "--fork"]
        command += ["--kill-child", "--mount-proc", "sh", "-c", _INIT.format(name=self.name)]
        with (self.home / "machine.log").open("ab") as log:
            self._machine = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        wait_until(self._has_booted, what=f"the machine {self.name} (log: {log.name})")
        self._plug_in()
        self._write_config()
        self.start()

    def start(self) -> None:
        """Start the engine unless it runs, also after it was killed; returns when it answers."""
        if self.is_engine_alive:
            return
        for stale in ("docker.pid", "exec/containerd/containerd.pid"):
            (self.home / stale).unlink(missing_ok=True)
        command = [*self._inside("net", "uts", "mount", "pid"), "dockerd", f"--config-file={self.home}/daemon.json"]
        with (self.home / "dockerd.log").open("ab") as log:
            self._engine = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait_until(self.is_ready, seconds=120, what=f"dockerd (log: {log.name})")

    def stop(self) -> None:
        """End the engine in peace. Relays stay up, as `live-restore` promises."""
        self._end_engine(signal.SIGTERM)

    def kill9(self) -> None:
        """End the engine as the out-of-memory killer does it: only dockerd itself. `start` brings it back."""
        self._end_engine(signal.SIGKILL)

    def freeze(self) -> None:
        """The engine accepts connections and never answers; relays know nothing of it."""
        freeze(self._engine_pid)

    def thaw(self) -> None:
        if self._engine is not None and self.is_engine_alive:
            # nsenter, which holds the engine's place among our children, stops along with it.
            for pid in (self._engine_pid, self._engine.pid):
                os.kill(pid, signal.SIGCONT)

    def power_off(self) -> None:
        """The machine loses its power: the engine and every relay end at once and the cable goes silent."""
        self._run("ip", "link", "set", "eth0", "down")
        self._signal_everybody("KILL")
        if self._engine is not None:
            self._engine.send_signal(signal.SIGCONT)
            self._engine.wait(60)
            self._engine = None
        # A signal is not yet an end: what still dies must not write to a disk that is about to be exchanged.
        wait_until(
            lambda: not any(map(is_alive, children_of(self._machine_pid))), what=f"the last process of {self.name}"
        )
        # umount reads /proc, which shows a process only to those who share its process namespace.
        while mounts := self._mounts():
            self._run("umount", "--lazy", mounts[-1], namespaces=("mount", "pid"))
        self._run("sh", "-c", "rm -rf /run/*", namespaces=("mount", "pid"))
        self._run("ip", "link", "del", "docker0", check=False)
        shutil.rmtree(self.home / "exec", ignore_errors=True)
        self._remove_cgroups()

    def power_on(self) -> None:
        """Boot again on what the disk holds; returns when the engine answers."""
        self.heal()
        self.start()

    def snapshot_disk(self) -> None:
        """Keep a copy of the disk as it is now, for `restore_disk`. The engine may run."""
        shutil.rmtree(self._old_data, ignore_errors=True)
        # The databases on it survive a copy of one moment, as they would survive a crash.
        self._signal_everybody("STOP")
        try:
            subprocess.run(["cp", "-a", "--reflink=auto", self._data, self._old_data], check=True)
        finally:
            self._signal_everybody("CONT")
            self.thaw()

    def restore_disk(self) -> None:
        """The machine crashes and comes back with the disk of the last `snapshot_disk`."""
        if not self._old_data.exists():
            raise AssertionError("snapshot_disk() comes first")
        self.power_off()
        shutil.rmtree(self._data)
        subprocess.run(["cp", "-a", "--reflink=auto", self._old_data, self._data], check=True)
        self.power_on()

    # The network.

    def cut(self) -> None:
        """Nobody reaches the host and it reaches nobody; it runs on. Packets vanish without an answer."""
        self._run("ip", "link", "set", "eth0", "down")

    def cut_portal_only(self) -> None:
        """The engine cannot be reached over the network while relays answer as ever."""
        self.block(ENGINE_PORT, "tcp")

    def block(self, port: int, protocol: str) -> None:
        """Drop what comes for this port ("tcp" or "udp"), as a provider's firewall does."""
        rule = ("-i", "eth0", "-p", protocol, "--dport", str(port), "-j", "DROP")
        self._run("iptables", "-w", "-t", "mangle", "-A", "PREROUTING", *rule)

    def heal(self) -> None:
        """Undo every cut and block."""
        self._run("iptables", "-w", "-t", "mangle", "-F", "PREROUTING")
        self._run("ip", "link", "set", "eth0", "up")
        # A route through a gateway goes with its link and does not come back by itself.
        self._run("ip", "route", "replace", f"{NETWORK}.0.0/16", "via", self.gateway)
        # What this side remembers of the silence must not outlast it.
        _ip("neigh", "flush", "dev", self._cable)

    # Between tests and at the end.

    def recover(self) -> None:
        """Undo every fault, and remove every container and every volume."""
        self.heal()
        self.thaw()
        self.start()
        self.sweep()

    def sweep(self) -> None:
        """Remove every container and every volume, whoever made them."""

        def each(call: Callable[[APIClient, str], object], names: Sequence[str]) -> None:
            def one(name: str) -> None:
                with contextlib.closing(self.api()) as own, contextlib.suppress(NotFound):
                    call(own, name)

            list(pool.map(one, names))

        with contextlib.closing(self.api()) as api, ThreadPoolExecutor(8) as pool:
            each(_remove_container, [row["Id"] for row in api.containers(all=True)])
            each(APIClient.remove_volume, [row["Name"] for row in api.volumes()["Volumes"] or ()])

    def destroy(self) -> None:
        """Leave nothing behind, in whatever state the host is."""
        if self._machine is not None:
            # The kernel ends every process of the host with the first one, and its mounts with them.
            self._machine.kill()
            self._machine.wait(60)
        if self._engine is not None:
            self._engine.send_signal(signal.SIGCONT)
            self._engine.wait(60)
        self._forward("--delete")
        _ip("link", "del", self._cable, check=False)
        if f" {NETWORK}." not in _ip("-4", "-o", "addr"):
            _ip(*(word.format(verb="del") for word in UNREACHABLE), check=False)
        self._remove_cgroups()
        shutil.rmtree(self.home, ignore_errors=True)
        self._reservation.close()

    @property
    def is_engine_alive(self) -> bool:
        """Whether dockerd exists, frozen or not."""
        return self._engine is not None and self._engine.poll() is None

    def is_ready(self) -> bool:
        """Whether the engine answers."""
        assert self.is_engine_alive, (self.home / "dockerd.log").read_text()[-2000:]
        try:
            with contextlib.closing(self.runtime(timeouts=(1, 10))) as runtime:
                runtime.info()
        except Unavailable:
            return False
        return True

    @property
    def _machine_pid(self) -> int:
        assert self._machine is not None, "boot() comes first"
        return _child_of(self._machine.pid)

    @property
    def _engine_pid(self) -> int:
        assert self._engine is not None, "the engine does not run"
        return _child_of(self._engine.pid)

    def _has_booted(self) -> bool:
        assert self._machine is not None
        assert self._machine.poll() is None, (self.home / "machine.log").read_text()
        with contextlib.suppress(LookupError, FileNotFoundError):
            return Path(f"/proc/{self._machine_pid}/comm").read_text() == "cat\n"
        return False

    def _plug_in(self) -> None:
        _ip(*(word.format(verb="add") for word in UNREACHABLE), check=False)
        _ip(*f"link add {self._cable} type veth peer name eth0 netns {self._machine_pid}".split())
        _ip("addr", "add", f"{self.gateway}/24", "dev", self._cable)
        _ip("link", "set", self._cable, "up")
        # Hosts reach each other through this machine, which forwards for their cables and for nobody else.
        Path(f"/proc/sys/net/ipv4/conf/{self._cable}/forwarding").write_text("1")
        self._forward("--delete")  # Of the boot before, if there was one.
        self._forward("--insert")
        self._run("ip", "link", "set", "lo", "up")
        self._run("ip", "addr", "add", f"{self.ip}/24", "dev", "eth0")
        self.heal()

    def _forward(self, verb: str) -> None:
        # A Docker engine of this machine's own would have it forward nothing that is not its own.
        _run("iptables", "--wait", verb, "FORWARD", "--in-interface", self._cable, "--jump", "ACCEPT", check=False)

    def _write_config(self) -> None:
        names = {"tlscacert": "ca.pem", "tlscert": "cert.pem", "tlskey": "key.pem"}
        issued = self.authority.issue(self.name, ExtendedKeyUsageOID.SERVER_AUTH, ip=self.ip)
        for name, pem in zip(names.values(), (self.ca_pem, *issued), strict=True):
            (self.home / name).write_text(pem)
        config = {
            "hosts": [self.endpoint, self.tcp_endpoint],
            "tlsverify": True,
            **{option: str(self.home / name) for option, name in names.items()},
            "data-root": str(self._data),
            "exec-root": str(self.home / "exec"),
            "pidfile": str(self.home / "docker.pid"),
            "deprecated-key-path": str(self.home / "key.json"),
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "cgroup-parent": f"/{self.name}",
            "live-restore": True,
        }
        (self.home / "daemon.json").write_text(json.dumps(config))

    def _end_engine(self, number: signal.Signals) -> None:
        if self._engine is None:
            return
        if self.is_engine_alive:
            os.kill(self._engine_pid, number)
            self._engine.send_signal(signal.SIGCONT)
        self._engine.wait(120)
        self._engine = None

    def _mounts(self) -> list[str]:
        """Where the engine mounted something, in the order it did."""
        lines = Path(f"/proc/{self._machine_pid}/mounts").read_text().splitlines()
        return [mount for line in lines if (mount := line.split()[1]).startswith(f"{self.home}/")]

    def _signal_everybody(self, name: str) -> None:
        """Signal every process of the host but its first, which the kernel spares."""
        self._run("sh", "-c", f"kill -s {name} -- -1", namespaces=("pid",))

    def _inside(self, *namespaces: str) -> list[str]:
        return ["nsenter", f"--target={self._machine_pid}", *(f"--{name}" for name in namespaces)]

    def _run(self, *command: str, namespaces: Sequence[str] = ("net",), check: bool = True) -> str:
        return _run(*self._inside(*namespaces), *command, check=check)

    def _remove_cgroups(self) -> None:
        for top in itertools.chain(*(Path("/sys/fs/cgroup").glob(f"{where}{self.name}") for where in ("", "*/"))):
            for folder, _, _ in os.walk(top, topdown=False):
                wait_until(lambda: _is_removed(folder), what=f"the end of the processes in {folder}")  # noqa: B023


def _run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _ip(*words: str, check: bool = True) -> str:
    return _run("ip", *words, check=check)


def _child_of(pid: int) -> int:
    """The only child; LookupError while there is none."""
    return children_of(pid)[0]


def _is_removed(folder: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        try:
            os.rmdir(folder)
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise
            return False
    return True


def _remove_container(api: APIClient, name: str) -> None:
    try:
        api.remove_container(name, force=True)
    except APIError as error:
        # Somebody else's removal is under way.
        if error.status_code != 409:
            raise


def _reserve_number() -> tuple[int, socket.socket]:
    """A subnet that no test run on this machine uses, and what keeps it ours until closed."""
    taken = _ip("-4", "-o", "addr")
    first = os.getpid() % 250
    for number in (*range(first, 255), *range(first)):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0derp-portal-test-host-{number}")
        except OSError:
            claim.close()
            continue
        if f" {NETWORK}.{number}." not in taken:
            return number, claim
        claim.close()
    raise AssertionError("every subnet for test hosts is taken")


def _on_each(hosts: Sequence[DockerHost], call: Callable[[DockerHost], object]) -> None:
    """Call for all at once; every call ends before the first failure is raised."""
    with ThreadPoolExecutor(len(hosts) or 1) as pool:
        futures = [pool.submit(call, host) for host in hosts]
    for future in futures:
        future.result()


@pytest.fixture(scope="session")
def docker_hosts(relay_images: Path) -> Iterator[list[DockerHost]]:
    """Three hosts per session, without the relay image until somebody pulls it."""
    need("docker")
    for program in ("ip", "iptables", "nsenter", "unshare"):
        if shutil.which(program) is None:
            missing("docker", f"{program} is not on the PATH (apt install iproute2 iptables util-linux)")
    authority = Authority()
    hosts: list[DockerHost] = []
    try:
        hosts.extend(DockerHost(authority, relay_images) for _ in range(3))
        _on_each(hosts, DockerHost.boot)
        yield hosts
    finally:
        _on_each(hosts, DockerHost.destroy)


@pytest.fixture
def fresh_hosts(docker_hosts: list[DockerHost]) -> Iterator[list[DockerHost]]:
    """The three hosts in good health, empty, with the relay image; whatever the test did to them is undone."""
    _on_each(docker_hosts, DockerHost.pull_image)
    yield docker_hosts
    _on_each(docker_hosts, DockerHost.recover)
