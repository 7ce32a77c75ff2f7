"""The script that prepares a host: nothing gets into it unchecked, and what it writes is what the real parts accept."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from derp_portal.lib.errors import PortalError
from fleet.enrolment import pki
from fleet.enrolment.script import HostKeys, ScriptOptions, enrol_script
from tests.fleet.enrolling import FreshHost, Namespaces, real_engine
from tests.parts import missing, need
from tests.ports import free_port

PORTAL = ("198.51.100.1", "2001:db8::/64")


@pytest.fixture(scope="module")
def authority() -> pki.Certified:
    return pki.make_authority("p1")


def options(**changes: Any) -> ScriptOptions:
    return ScriptOptions(**{"address": "203.0.113.7", "portal_addresses": PORTAL, **changes})


def script_for(authority: pki.Certified, **changes: Any) -> str:
    chosen = options(**changes)
    own = pki.issue_engine_certificate(authority, chosen.address)
    ssh = "ssh-ed25519 AAAA derp-portal-p1" if chosen.transport == "ssh" else ""
    return enrol_script(chosen, HostKeys(authority.cert_pem, own.cert_pem, own.key_pem, ssh))


@pytest.fixture
def host(tmp_path: Path) -> FreshHost:
    return FreshHost(tmp_path)


# --- what may get into a script ----------------------------------------------------------------------

NASTY = ["'; reboot #", "$(reboot)", "`reboot`", "a\nreboot", "x'\"$IFS", "-rf /", ""]


@pytest.mark.parametrize(
    "value", [*NASTY, "203.0.113.7.8", "fe80::1%$(reboot)", "hk_1.example.com", "hk\u0661.example.com"]
)
def test_an_address_that_is_none_is_refused_in_words(value: str) -> None:
    with pytest.raises(PortalError, match="address must be") as refusal:
        options(address=value).check()
    assert refusal.value.extra == {"field": "address"}


@pytest.mark.parametrize("value", [*NASTY, "198.51.100.1/24", "fe80::1%$(reboot)", "0.0.0.0/0", "::/0"])
def test_portal_addresses_that_are_none_or_everybodys_are_refused(value: str) -> None:
    with pytest.raises(PortalError) as refusal:
        options(portal_addresses=("198.51.100.1", value)).check()
    assert refusal.value.extra == {"field": "portal_addresses"}


@pytest.mark.parametrize(
    "value",
    [*NASTY, "mirror.example.com", "ftp://m.example.com", "https://m.example.com:x", "https://u:p@m.example.com",
     "https://m.example.com/a b", "https://m.example.com/$(reboot)", "https://m.example.com?a=b", "https://[::1%eth0]/",
     "https://m.example.com/a\n deb [trusted=yes] https://evil.example.com x y", "https://m.example.com:99999"],
)  # fmt: skip
def test_mirrors_that_are_no_plain_addresses_are_refused(value: str) -> None:
    for field, given in (("mirrors", (value,)), ("apt_mirror", value)):
        if not value and field == "apt_mirror":
            continue  # No mirror at all.
        with pytest.raises(PortalError) as refusal:
            options(**{field: given}).check()
        assert refusal.value.extra == {"field": field}


@pytest.mark.parametrize("url", ["https://m.example.com", "http://10.0.0.1:5000/", "https://[2001:db8::1]:5000"])
def test_mirrors_by_name_and_by_address_are_taken(url: str) -> None:
    options(mirrors=(url,), apt_mirror=f"{url.rstrip('/')}/debian").check()


def test_a_docker_mirror_with_a_path_is_refused_as_the_engine_would_refuse_it() -> None:
    with pytest.raises(PortalError, match="without a path"):
        options(mirrors=("https://m.example.com/docker",)).check()


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("ports", {"ports": (22, 21999)}),
        ("ports", {"ports": (21999, 21000)}),
        ("ports", {"ports": (2000, 3000)}),
        ("ports", {"ports": (9000, 9200)}),
        ("engine_port", {"engine_port": 22}),
        ("engine_port", {"engine_port": 9100}),
        ("transport", {"transport": "tcp"}),
        ("region", {"region": "hk; reboot"}),
        ("name", {"name": "hk\nreboot"}),
        ("name", {"name": "x" * 81}),
        ("portal_addresses", {"portal_addresses": ()}),
    ],
)
def test_what_cannot_work_is_refused_by_the_name_of_its_field(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(PortalError) as refusal:
        options(**changes).check()
    assert refusal.value.code == "invalid_enrolment"
    assert refusal.value.extra == {"field": field}


def test_a_name_full_of_shell_is_printed_and_not_run(authority: pki.Certified, host: FreshHost) -> None:
    name = "'; touch /tmp/injected; $(touch /tmp/injected) `touch /tmp/injected` \\"
    done = host.run(script_for(authority, name=name))
    assert done.returncode == 0, done.stderr
    assert name in done.stdout
    assert not Path("/tmp/injected").exists()


@pytest.mark.parametrize("transport", ["tls", "ssh"])
def test_the_script_is_good_bash(authority: pki.Certified, transport: str) -> None:
    script = script_for(authority, transport=transport, mirrors=("https://m.example.com",), name="it's hk-1")
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    if shutil.which("shellcheck"):
        told = subprocess.run(["shellcheck", "-"], input=script, capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stdout


def test_a_script_that_was_cut_off_on_its_way_does_nothing(authority: pki.Certified, host: FreshHost) -> None:
    before = host.everything()
    for share in (0.5, 0.9, 0.999):
        script = script_for(authority)
        host.run(script[: int(len(script) * share)])
        assert host.everything() == before
        assert not host.log.exists()


# --- what it does to a host --------------------------------------------------------------------------


def test_it_prepares_a_fresh_host(authority: pki.Certified, host: FreshHost) -> None:
    done = host.run(script_for(authority, mirrors=("https://m.example.com/",), region="hk", name="hk-1"))

    assert done.returncode == 0, done.stderr
    ours = "/etc/docker/derp-portal"
    assert host.daemon() == {
        "live-restore": True,
        "log-driver": "json-file",
        "log-opts": {"max-size": "10m", "max-file": "3"},
        "registry-mirrors": ["https://m.example.com"],
        "tls": True,
        "tlsverify": True,
        "tlscacert": f"{ours}/ca.pem",
        "tlscert": f"{ours}/server-cert.pem",
        "tlskey": f"{ours}/server-key.pem",
        "hosts": ["fd://", "tcp://0.0.0.0:2376"],
    }
    for name in ("ca", "server-cert", "server-key"):
        assert (host.root / f"etc/docker/derp-portal/{name}.pem").stat().st_mode & 0o777 == 0o600
    assert host.text("etc/docker/derp-portal/ca.pem") == authority.cert_pem
    assert host.text("etc/systemd/system/docker.service.d/derp-portal.conf") == (
        "[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd --containerd=/run/containerd/containerd.sock $DOCKER_OPTS\n"
    )
    installed = " ".join(line for line in host.calls("apt-get") if " install " in line)
    assert all(package in installed for package in ("docker.io", "prometheus-node-exporter", "nftables", "apparmor"))
    assert "systemd-timesyncd" in installed
    assert host.calls("systemctl").count("restart docker.service") == 1
    assert "tcp://203.0.113.7:2376" in done.stdout
    assert "21000, 21999" in done.stdout
    assert "PRIVATE KEY" not in done.stdout + done.stderr


def test_the_firewall_stands_before_anything_listens(authority: pki.Certified, host: FreshHost) -> None:
    host.run(script_for(authority))
    calls = host.log.read_text().splitlines()
    guarded = calls.index("systemctl restart derp-portal-firewall.service")
    assert guarded < next(i for i, call in enumerate(calls) if "docker.io" in call)
    assert guarded < next(i for i, call in enumerate(calls) if "install" in call and "node-exporter" in call)


def test_a_second_run_changes_nothing_and_restarts_no_engine(authority: pki.Certified, host: FreshHost) -> None:
    (host.root / "etc/docker/daemon.json").write_text('{"debug": true}')
    script = script_for(authority)
    host.run(script)
    before = host.everything()

    done = host.run(script)

    assert done.returncode == 0, done.stderr
    assert host.everything() == before
    assert "restart docker.service" not in host.calls("systemctl")


def test_another_certificate_is_taken_over_by_running_a_new_script(authority: pki.Certified, host: FreshHost) -> None:
    host.run(script_for(authority))
    first = host.text("etc/docker/derp-portal/server-cert.pem")
    host.run(script_for(authority))
    assert host.text("etc/docker/derp-portal/server-cert.pem") != first
    assert "restart docker.service" in host.calls("systemctl")


def test_what_the_operator_had_in_daemon_json_is_kept(authority: pki.Certified, host: FreshHost) -> None:
    theirs = {
        "data-root": "/big/docker",
        "log-driver": "local",
        "registry-mirrors": ["https://theirs.example.com", "https://m.example.com"],
        "hosts": ["unix:///run/docker.sock", "tcp://0.0.0.0:2375", "tcp://10.0.0.1:2376"],
    }
    path = host.root / "etc/docker/daemon.json"
    path.write_text(json.dumps(theirs))

    assert host.run(script_for(authority, mirrors=("https://m.example.com",))).returncode == 0

    merged = host.daemon()
    assert merged["data-root"] == "/big/docker"
    assert merged["log-driver"] == "local"
    assert "log-opts" not in merged
    assert merged["registry-mirrors"] == ["https://m.example.com", "https://theirs.example.com"]
    # The port that was open to everybody without certificates is not.
    assert merged["hosts"] == ["unix:///run/docker.sock", "tcp://10.0.0.1:2376", "tcp://0.0.0.0:2376"]
    assert json.loads(host.text("etc/docker/daemon.json.before")) == theirs

    host.run(script_for(authority, engine_port=2377))
    assert "tcp://0.0.0.0:2377" in host.daemon()["hosts"]
    assert "tcp://0.0.0.0:2376" not in host.daemon()["hosts"]
    assert json.loads(host.text("etc/docker/daemon.json.before")) == theirs


@pytest.mark.parametrize("broken", ["{not json", "[]"])
def test_a_broken_daemon_json_is_left_as_it_is(authority: pki.Certified, host: FreshHost, broken: str) -> None:
    (host.root / "etc/docker/daemon.json").write_text(broken)
    done = host.run(script_for(authority))
    assert done.returncode == 1
    assert "is not valid JSON" in done.stderr
    assert host.text("etc/docker/daemon.json") == broken
    assert "restart docker.service" not in host.calls("systemctl")


def test_a_configuration_that_the_engine_refuses_is_not_installed(authority: pki.Certified, host: FreshHost) -> None:
    host.stub("dockerd", 'case "$*" in --help) echo "      --validate" ;; *) echo "bad option" >&2; exit 1 ;; esac')
    done = host.run(script_for(authority))
    assert done.returncode == 1
    assert "does not take its new configuration" in done.stderr
    assert not (host.root / "etc/docker/daemon.json").exists()


def test_an_engine_that_does_not_start_says_why(authority: pki.Certified, host: FreshHost) -> None:
    host.stub("systemctl", 'case "$*" in is-active*) exit 3 ;; "restart docker.service") exit 1 ;; esac')
    done = host.run(script_for(authority))
    assert done.returncode == 1
    assert "the engine said why" in done.stderr
    assert "the engine does not start" in done.stderr


@pytest.mark.parametrize("system", ["ubuntu 23.10", "fedora 40"])
def test_other_systems_are_refused_in_words(authority: pki.Certified, tmp_path: Path, system: str) -> None:
    host = FreshHost(tmp_path, system)
    done = host.run(script_for(authority))
    assert done.returncode == 1
    assert f"{system} is not supported" in done.stderr
    assert not host.log.exists()


def test_whoever_is_not_root_is_refused_in_words(authority: pki.Certified) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        host = FreshHost(Path(folder))
        done = host.run(script_for(authority), user=65534)
    assert done.returncode == 1
    assert "must run as root" in done.stderr


def test_options_of_the_engines_command_line_are_not_contradicted(authority: pki.Certified, host: FreshHost) -> None:
    (host.root / "etc/default").mkdir()
    (host.root / "etc/default/docker").write_text('DOCKER_OPTS="-H tcp://0.0.0.0:2375"\n')
    done = host.run(script_for(authority))
    assert done.returncode == 1
    assert "DOCKER_OPTS" in done.stderr


def test_over_ssh_the_portal_gets_a_key_that_speaks_to_the_engine_only(
    authority: pki.Certified, host: FreshHost
) -> None:
    done = host.run(script_for(authority, transport="ssh"))
    assert done.returncode == 0, done.stderr
    assert host.text("var/lib/derp-portal/.ssh/authorized_keys") == (
        'restrict,command="/usr/bin/docker system dial-stdio" ssh-ed25519 AAAA derp-portal-p1\n'
    )
    assert "hosts" not in host.daemon()
    assert "tls" not in host.daemon()
    assert not (host.root / "etc/docker/derp-portal/server-key.pem").exists()
    assert any("--groups docker derp-portal" in call for call in host.calls("usermod"))
    assert "ssh://derp-portal@203.0.113.7" in done.stdout
    assert "ssh-ed25519 HOSTKEY" in done.stdout


def test_without_firewall_none_is_touched_and_the_operator_is_told(authority: pki.Certified, host: FreshHost) -> None:
    done = host.run(script_for(authority, has_firewall=False, portal_addresses=()), UFW="active")
    assert done.returncode == 0, done.stderr
    assert not (host.root / "etc/docker/derp-portal/firewall.nft").exists()
    assert host.calls("nft") == host.calls("ufw") == []
    assert "no firewall, as asked" in done.stderr


def test_an_active_ufw_is_opened_for_relays_and_for_the_portal(authority: pki.Certified, host: FreshHost) -> None:
    assert host.run(script_for(authority), UFW="active").returncode == 0
    assert host.calls("ufw") == [
        "status",
        "allow 21000:21999/tcp",
        "allow 21000:21999/udp",
        "allow from 198.51.100.1 to any port 2376 proto tcp",
        "allow from 198.51.100.1 to any port 9100 proto tcp",
        "allow from 2001:db8::/64 to any port 2376 proto tcp",
        "allow from 2001:db8::/64 to any port 9100 proto tcp",
    ]


def test_a_clock_that_is_kept_already_is_left_alone(authority: pki.Certified, host: FreshHost) -> None:
    host.stub("systemctl", 'case "$*" in "is-active --quiet chrony") exit 0 ;; is-active*) exit 3 ;; esac')
    host.run(script_for(authority))
    assert not any("timesyncd" in call for call in host.calls("apt-get"))


@pytest.mark.parametrize(
    ("system", "lines"),
    [
        ("debian 12", ["deb https://m.example.com/d bookworm main",
                       "deb https://m.example.com/d-security bookworm-security main"]),
        ("ubuntu 22.04", ["deb https://m.example.com/d jammy main universe",
                          "deb https://m.example.com/d jammy-updates main universe",
                          "deb https://m.example.com/d jammy-security main universe"]),
    ],
)  # fmt: skip
def test_a_package_mirror_serves_the_script_and_leaves_the_hosts_sources_alone(
    authority: pki.Certified, tmp_path: Path, system: str, lines: list[str]
) -> None:
    host = FreshHost(tmp_path, system)
    assert host.run(script_for(authority, apt_mirror="https://m.example.com/d/")).returncode == 0
    assert host.text("etc/docker/derp-portal/apt.list").splitlines() == lines
    assert all("Dir::Etc::SourceParts=-" in call for call in host.calls("apt-get"))
    assert not (host.root / "etc/apt").exists()


# --- what the real parts say -------------------------------------------------------------------------


@pytest.fixture
def namespaces(tmp_path: Path) -> Iterator[Namespaces]:
    need("root")
    need("nftables")
    for program in ("ip", "ss"):
        if shutil.which(program) is None:
            missing("root", f"{program} is not on the PATH (apt install iproute2)")
    world = Namespaces(tmp_path)
    try:
        yield world
    finally:
        world.close()


def test_the_firewall_opens_the_engine_for_the_portal_and_published_ports_for_all(
    authority: pki.Certified, host: FreshHost, namespaces: Namespaces
) -> None:
    host.run(script_for(authority, portal_addresses=("10.9.1.3", "10.9.1.3/32", "2001:db8::/64")))
    rules = str(host.root / "etc/docker/derp-portal/firewall.nft")
    world = namespaces
    # What Docker does for published ports 21500 and 8080.
    published = b"table ip nat { chain pre { type nat hook prerouting priority -100;\n%s\n}\n}\n" % b"\n".join(
        b"tcp dport %d dnat to 10.9.2.2:80" % port for port in (21500, 8080)
    )
    world.on(world.host, "nft", "-f", "-", input=published)
    world.serve(world.container, 80)
    for port in (22, 2376, 9100):
        world.serve(world.host, port)
    assert all(world.reaches(port) for port in (22, 2376, 9100, 8080, 21500)), "control: without rules all is open"

    for _again in range(2):
        world.on(world.host, "nft", "-f", rules)

    assert {port for port in (22, 2376, 9100, 8080, 21500) if world.reaches(port)} == {22, 21500}
    assert {port for port in (22, 2376, 9100) if world.reaches(port, source="10.9.1.3")} == {22, 2376, 9100}


@pytest.mark.parametrize("addresses", [("198.51.100.1",), ("2001:db8::1",), ("198.51.100.0/25", "198.51.100.128/25")])
def test_nft_takes_the_rules_for_either_family(
    authority: pki.Certified, host: FreshHost, namespaces: Namespaces, addresses: tuple[str, ...]
) -> None:
    host.run(script_for(authority, portal_addresses=addresses))
    rules = str(host.root / "etc/docker/derp-portal/firewall.nft")
    namespaces.on(namespaces.host, "nft", "-c", "-f", rules)


@pytest.mark.xdist_group("docker")
def test_a_real_engine_runs_on_what_the_script_wrote_and_lets_only_the_portal_in(
    authority: pki.Certified, host: FreshHost, tmp_path: Path
) -> None:
    need("docker")
    port = free_port()
    host.run(script_for(authority, address="127.0.0.1", engine_port=port, ports=(40000, 40099)))
    pair, stranger, ca = tmp_path / "client.pem", tmp_path / "stranger.pem", tmp_path / "ca.pem"
    ca.write_text(authority.cert_pem)
    client = pki.issue_client_certificate(authority, "p1")
    pair.write_text(client.cert_pem + client.key_pem)
    other = pki.issue_client_certificate(pki.make_authority("p1"), "p1")
    stranger.write_text(other.cert_pem + other.key_pem)

    with real_engine(host, port) as url, requests.Session() as session:
        session.trust_env = False
        assert session.get(url, cert=str(pair), verify=str(ca), timeout=10).json()["ApiVersion"]
        for cert in (None, str(stranger)):
            # Another session each: a kept connection would still be the portal's.
            with requests.Session() as outsider, pytest.raises(requests.RequestException):
                outsider.trust_env = False
                outsider.get(url, cert=cert, verify=str(ca), timeout=10)
