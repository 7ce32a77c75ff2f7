"""The hosts of the test-bed go wrong in exactly the ways their methods say."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from fleet.derp.probe import measure_stun
from fleet.runtimes.base import Rejected, RelaySpec, RuntimeFailure, TaskSpec, TlsCredentials, Unavailable
from tests.fleet.engines import ROOT, answers, relay_spec, wait_until
from tests.fleet.hosts import NETWORK, Authority, DockerHost

pytestmark = pytest.mark.xdist_group("docker-hosts")

SILENCE = 1
"""Seconds after which nothing is expected any more where nothing can come, however slow the machine is."""
PATIENCE = 30


def running(host: DockerHost) -> RelaySpec:
    """A relay on the host's address that answers."""
    spec = relay_spec(image=host.image, bind_ip=host.ip)
    with closing(host.runtime()) as runtime:
        runtime.create(spec)
        runtime.put_files(spec)
        runtime.start(spec.name)
    wait_until(lambda: answers(spec.port, host.ip), what="the relay")
    return spec


def is_silent(host: DockerHost, spec: RelaySpec) -> bool:
    """Whether nothing comes back from the relay's port over TCP."""
    return not answers(spec.port, host.ip, seconds=SILENCE)


def answers_stun(host: DockerHost, spec: RelaySpec, *, seconds: float = PATIENCE) -> bool:
    try:
        measure_stun(host.ip, spec.port, seconds)
    except OSError:
        return False
    return True


def engine_trouble(host: DockerHost, *, seconds: float = PATIENCE) -> str:
    """The code with which the engine fails over the network, "" when it does not."""
    try:
        with closing(host.tls_runtime(timeouts=(seconds, seconds))) as runtime:
            runtime.info()
    except RuntimeFailure as failure:
        return failure.code
    return ""


def test_a_healthy_host_answers_over_tls_tcp_and_udp(fresh_hosts: list[DockerHost]) -> None:
    host = fresh_hosts[0]
    spec = running(host)
    assert engine_trouble(host) == ""
    assert answers_stun(host, spec)
    with closing(host.tls_runtime()) as runtime:
        info = runtime.info()
        assert [box.name for box in runtime.list(spec.portal_id)] == [spec.name]
    assert (info.hardware["name"], info.hardware["live_restore"]) == (host.name, "yes")


def test_an_engine_refuses_strangers_and_is_known_from_impostors(docker_hosts: list[DockerHost]) -> None:
    host, others = docker_hosts[0], Authority("somebody else")
    stranger = TlsCredentials(host.ca_pem, others.cert_pem, others.key_pem)
    deceived = TlsCredentials(others.ca_pem, host.cert_pem, host.key_pem)
    for credentials, code in ((stranger, "client_refused"), (deceived, "wrong_ca")):
        runtime = host.tls_runtime(tls=credentials, timeouts=(PATIENCE, PATIENCE))
        with closing(runtime), pytest.raises(Rejected, match=code):
            runtime.info()


def test_hosts_are_different_machines(fresh_hosts: list[DockerHost]) -> None:
    identities = set()
    for host in fresh_hosts:
        with closing(host.tls_runtime()) as runtime:
            identities.add(runtime.info().engine_id)
    assert len(identities) == len({host.ip for host in fresh_hosts}) == 3
    first, second = fresh_hosts[:2]
    here, there = running(first), running(second)
    assert first.containers() == [here.name]
    first.cut()
    first.kill9()
    assert answers(there.port, second.ip)
    assert engine_trouble(second) == ""


def test_containers_reach_a_door_on_any_gateway_and_the_other_hosts(fresh_hosts: list[DockerHost]) -> None:
    first, second = fresh_hosts[:2]
    port = relay_spec(image=first.image).port

    def task(host: DockerHost, *args: str, port: int = 0) -> str:
        with closing(host.runtime()) as runtime:
            return runtime.run_task(TaskSpec(image=host.image, args=args, port=port, seconds=120)).output

    for gateway in (first.gateway, second.gateway):
        with socket.create_server((gateway, 0)) as door:
            door.settimeout(60)
            task(first, "check", "--seconds", "1", f"{gateway}:{door.getsockname()[1]}")
            door.accept()[0].close()
    with ThreadPoolExecutor() as pool:
        listening = pool.submit(task, second, "listen", str(port), "--seconds", "110", port=port)
        [listener] = wait_until(lambda: second.containers(running=True), what="the listener")
        try:
            told = task(first, "check", "--seconds", "60", f"{second.ip}:{port}")
        finally:
            with closing(second.api()) as api:
                api.kill(listener)
        listening.result()
    assert "true" in json.dumps(json.loads(told))
    assert "false" not in told


def test_a_cut_host_is_silent_until_it_is_healed_and_runs_on_meanwhile(fresh_hosts: list[DockerHost]) -> None:
    host = fresh_hosts[0]
    spec = running(host)
    for _ in range(2):
        host.cut()
        assert engine_trouble(host, seconds=SILENCE) in ("timeout", "unreachable")
        assert is_silent(host, spec)
        assert not answers_stun(host, spec, seconds=SILENCE)
        assert host.containers(running=True) == [spec.name]
        host.heal()
        assert engine_trouble(host) == ""
        assert answers(spec.port, host.ip)
        assert answers_stun(host, spec)


def test_an_open_connection_hangs_when_the_host_is_cut(fresh_hosts: list[DockerHost]) -> None:
    host = fresh_hosts[0]
    # So long it waits for the one that never comes.
    with closing(host.tls_runtime(timeouts=(10, 10))) as runtime:
        runtime.info()
        host.cut()
        with pytest.raises(Unavailable, match="timeout"):
            runtime.info()
        host.heal()
        runtime.info()


def test_an_engine_that_is_cut_off_alone_leaves_its_relays_reachable(fresh_hosts: list[DockerHost]) -> None:
    host = fresh_hosts[0]
    spec = running(host)
    host.cut_portal_only()
    assert engine_trouble(host, seconds=SILENCE) == "timeout"
    assert answers(spec.port, host.ip)
    host.heal()
    assert engine_trouble(host) == ""


def test_a_firewall_blocks_one_protocol_of_one_port(fresh_hosts: list[DockerHost]) -> None:
    host = fresh_hosts[0]
    spec, other = running(host), running(host)
    host.block(spec.port, "udp")
    assert answers(spec.port, host.ip)
    assert not answers_stun(host, spec, seconds=SILENCE)
    assert answers_stun(host, other)
    host.heal()
    host.block(spec.port, "tcp")
    assert is_silent(host, spec)
    assert answers_stun(host, spec)
    assert answers(other.port, host.ip)


def test_a_frozen_engine_times_out_while_its_relays_answer(fresh_hosts: list[DockerHost]) -> None:
    host = fresh_hosts[0]
    spec = running(host)
    for _ in range(2):
        host.freeze()
        assert engine_trouble(host, seconds=SILENCE) == "timeout"
        with closing(host.runtime(timeouts=(1, 1))) as runtime, pytest.raises(Unavailable, match="timeout"):
            runtime.info()
        assert answers(spec.port, host.ip)
        assert answers_stun(host, spec)
        host.thaw()
        assert engine_trouble(host) == ""
    assert host.containers(running=True) == [spec.name]


def test_a_frozen_engine_can_be_killed(fresh_hosts: list[DockerHost]) -> None:
    host = fresh_hosts[0]
    host.freeze()
    host.kill9()
    assert not host.is_engine_alive
    host.start()
    assert engine_trouble(host) == ""


@pytest.mark.parametrize("end", [DockerHost.kill9, DockerHost.stop])
def test_relays_answer_all_the_time_while_the_engine_is_dead(
    fresh_hosts: list[DockerHost], end: Callable[[DockerHost], None]
) -> None:
    host = fresh_hosts[0]
    spec = running(host)
    end(host)
    assert engine_trouble(host) == "connection_refused"
    for _ in range(5):
        assert answers(spec.port, host.ip)
        assert answers_stun(host, spec)
    host.start()
    assert engine_trouble(host) == ""
    assert answers(spec.port, host.ip)
    assert host.containers(running=True) == [spec.name]


def test_a_machine_without_power_loses_every_process_and_brings_back_what_ran(fresh_hosts: list[DockerHost]) -> None:
    host = fresh_hosts[0]
    ran, stopped = running(host), running(host)
    with closing(host.runtime()) as runtime:
        runtime.stop(stopped.name)
    host.power_off()
    assert not host.is_engine_alive
    assert is_silent(host, ran)
    host.power_on()
    wait_until(lambda: answers(ran.port, host.ip), what="the relay after the boot")
    assert host.containers(running=True) == [ran.name]
    assert host.containers() == sorted([ran.name, stopped.name])


def test_an_old_disk_brings_back_what_was_removed_and_forgets_what_is_new(fresh_hosts: list[DockerHost]) -> None:
    host = fresh_hosts[0]
    old = running(host)
    with closing(host.runtime()) as runtime:
        identity = runtime.info().engine_id
    host.snapshot_disk()
    assert answers(old.port, host.ip)
    with closing(host.runtime()) as runtime:
        runtime.remove(old.name, volume=old.volume)
    new = running(host)
    assert not answers(old.port, host.ip)
    host.restore_disk()
    wait_until(lambda: answers(old.port, host.ip), what="the relay of the old disk")
    assert not answers(new.port, host.ip)
    assert host.containers() == [old.name]
    with closing(host.runtime()) as runtime:
        assert runtime.list_volumes(old.portal_id) == [old.volume]
        assert runtime.info().engine_id == identity
        # It is as much alive as before: nothing of the crash is in the way of new relays.
        runtime.remove(old.name, volume=old.volume)
    running(host)


def test_whatever_a_test_did_is_undone(fresh_hosts: list[DockerHost]) -> None:
    first, second, third = fresh_hosts
    for host in fresh_hosts:
        running(host)
    first.cut()
    first.kill9()
    second.cut_portal_only()
    second.freeze()
    third.power_off()
    for host in fresh_hosts:
        host.recover()
        assert engine_trouble(host) == ""
        assert host.containers() == []
        with closing(host.runtime()) as runtime:
            assert runtime.list_volumes("portal-a") == []


def leftovers(name: str, home: Path) -> list[str]:
    """What a host left on this machine: its cable, mounts, control groups, files and processes."""
    found = [line for line in Path("/proc/mounts").read_text().splitlines() if str(home) in line]
    # os.walk passes over a folder that goes while it looks, as those of other ending hosts do; Path.glob raises.
    found += [str(Path(at) / name) for at, folders, _ in os.walk("/sys/fs/cgroup") if name in folders]
    found += [str(home)] if home.exists() else []
    found += [f"v{name}"] if Path(f"/sys/class/net/v{name}").exists() else []
    for words in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if str(home).encode() in words.read_bytes():
                found.append(str(words))
    return found


def nothing(host: DockerHost) -> None:
    """The host is well."""


@pytest.mark.parametrize("fault", [nothing, DockerHost.cut, DockerHost.freeze, DockerHost.kill9, DockerHost.power_off])
def test_a_host_leaves_nothing_behind_in_whatever_state_it_is(
    fault: Callable[[DockerHost], None], relay_images: Path, docker_hosts: list[DockerHost]
) -> None:
    host = DockerHost(docker_hosts[0].authority, relay_images)
    try:
        host.boot()
        host.pull_image()
        running(host)
        fault(host)
        assert leftovers(host.name, host.home)
    finally:
        host.destroy()
    wait_until(lambda: not leftovers(host.name, host.home), what="a clean machine")
    routes = subprocess.run(["ip", "route"], check=True, capture_output=True, text=True).stdout
    assert f"unreachable {NETWORK}.0.0/16" in routes, "the other hosts still need it"


def test_a_host_ends_with_the_process_that_made_it(relay_images: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from tests.fleet.hosts import Authority, DockerHost
host = DockerHost(Authority(), Path(sys.argv[1]))
host.boot()
print(host.name, host.home, flush=True)
os.kill(os.getpid(), 9)
"""
    command = [sys.executable, "-c", program, str(relay_images)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    name, home = done.stdout.split()
    try:
        wait_until(lambda: leftovers(name, Path(home)) == [home], what="the end of every process")
    finally:
        shutil.rmtree(home)
