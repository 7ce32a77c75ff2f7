"""How an engine is reached over TLS and ssh, and what a host is told to be that cannot be reached."""

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
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from fleet.runtimes.base import Rejected, RuntimeFailure, SshCredentials, TaskSpec, TlsCredentials, Unavailable
from fleet.runtimes.docker import DockerRuntime, check_ssh, check_tls
from fleet.runtimes.image import DERPER_VERSION, image_name, stored_archive
from tests.fleet.engines import freeze, wait_until
from tests.parts import need
from tests.ports import free_port
from tests.processes import children_of, is_alive

engine_test = pytest.mark.xdist_group("docker")
PATIENCE = (1, 1)
"""With those who never answer."""
TIME_ENOUGH = (60, 60)
"""For those who do."""


@pytest.fixture(autouse=True)
def time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a second question or a last word takes says how busy the machine is."""
    monkeypatch.setattr("fleet.runtimes.docker.tls.SECOND_LOOK_SECONDS", 30)
    monkeypatch.setattr("fleet.runtimes.docker.ssh.LAST_WORDS_SECONDS", 30)


def private_pem(key: Any, form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8) -> str:
    text: bytes = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    return text.decode()


class Authority:
    """Signs certificates. Two of them may bear the same name."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        self.pem, _ = self.issue("authority", is_ca=True)

    def issue(
        self, name: str, *, ip: str = "", is_ca: bool = False, ended: timedelta = timedelta(days=-1)
    ) -> tuple[str, str]:
        """Certificate and key for `name`, valid until `ended` ago."""
        key = self.key if is_ca else ec.generate_private_key(ec.SECP256R1())
        end = datetime.now(UTC) - ended
        builder = x509.CertificateBuilder().issuer_name(self.name).public_key(key.public_key())
        builder = builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(end - timedelta(days=9)).not_valid_after(end)
        builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        if ip:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(ip))])
            builder = builder.add_extension(names, critical=False)
        signed = builder.sign(self.key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM).decode(), private_pem(key)

    def credentials(self) -> TlsCredentials:
        return TlsCredentials(self.pem, *self.issue("client"))


@dataclass
class Engine:
    """A dockerd without networks of its own, on a Unix socket and on loopback TCP with mutual TLS."""

    home: Path
    authority: Authority
    port: int
    process: subprocess.Popen[bytes]

    @property
    def socket(self) -> str:
        return f"unix://{self.home}/docker.sock"

    @property
    def tcp(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"


def launch(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    need("docker")
    home, authority, port = Path(tempfile.mkdtemp(prefix="dr-", dir="/tmp")), Authority(), free_port()
    certificate, key = authority.issue("localhost", ip="127.0.0.1")
    for name, text in (("cacert", authority.pem), ("cert", certificate), ("key", key)):
        (home / f"{name}.pem").write_text(text)
    config = {
        "hosts": [f"unix://{home}/docker.sock", f"tcp://127.0.0.1:{port}"],
        "tlsverify": True,
        **{f"tls{name}": str(home / f"{name}.pem") for name in ("cacert", "cert", "key")},
        "data-root": str(home / "data"),
        "exec-root": str(home / "exec"),
        "pidfile": str(home / "docker.pid"),
        "deprecated-key-path": str(home / "key.json"),
        "bridge": "none",
        **dict.fromkeys(("iptables", "ip6tables", "ip-forward", "ip-masq"), False),
    }
    (home / "daemon.json").write_text(json.dumps(config))
    process = launch(["dockerd", "--config-file", str(home / "daemon.json")], home / "log")
    engine = Engine(home, authority, port, process)
    try:
        wait_until(lambda: does_answer(engine.socket) or process.poll(), seconds=120, what="dockerd")
        assert process.poll() is None, (home / "log").read_text()[-2000:]
        yield engine
    finally:
        process.terminate()
        process.wait(120)
        # One that was stopped while it started leaves its own mount behind.
        if os.path.ismount(home / "data"):
            subprocess.run(["umount", "-l", home / "data"], check=True)
        shutil.rmtree(home, ignore_errors=True)


def does_answer(endpoint: str, **options: Any) -> bool:
    with contextlib.closing(DockerRuntime(endpoint, **options)) as runtime:
        try:
            runtime.info()
        except Unavailable:
            return False
        return True


@contextlib.contextmanager
def frozen(process: subprocess.Popen[bytes]) -> Iterator[None]:
    freeze(process.pid)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def asked(endpoint: str, **options: Any) -> RuntimeFailure:
    """How it failed to ask the endpoint what it is."""
    runtime = DockerRuntime(endpoint, **{"timeouts": TIME_ENOUGH, **options})
    with contextlib.closing(runtime), pytest.raises(RuntimeFailure) as caught:
        runtime.info()
    return caught.value


def assert_times_out(ask: Callable[..., RuntimeFailure], *arguments: Any, **options: Any) -> None:
    """Nobody answers, and whoever asks is let go after a while."""
    began = time.monotonic()
    assert_says(ask(*arguments, timeouts=PATIENCE, **options), Unavailable, "timeout")
    assert time.monotonic() - began < 30


def assert_says(failure: RuntimeFailure, kind: type[RuntimeFailure], code: str) -> None:
    assert (type(failure), failure.code) == (kind, code), failure


def assert_works(runtime: DockerRuntime) -> None:
    """A host reached over `runtime` takes the image and runs it: uploads, waits and outputs get through."""
    runtime.ensure_image(image_name(DERPER_VERSION))
    result = runtime.run_task(TaskSpec(image_name(DERPER_VERSION), ("-version",), entrypoint="/derper"))
    assert (result.exit_code, result.output.split("-")[0].strip()) == (0, DERPER_VERSION.removeprefix("v"))
    assert runtime.list("portal-a") == []


# TLS.


@engine_test
def test_an_engine_is_reached_over_tls(engine: Engine, relay_images: Path) -> None:
    archive = {"image_archive": lambda image: stored_archive(image, relay_images)}
    options: dict[str, Any] = {"tls": engine.authority.credentials(), "timeouts": TIME_ENOUGH, **archive}
    with (
        contextlib.closing(DockerRuntime(engine.tcp, **options)) as runtime,
        contextlib.closing(DockerRuntime(engine.socket)) as nearby,
    ):
        assert runtime.info().engine_id == nearby.info().engine_id != ""
        assert_works(runtime)


@engine_test
def test_another_authoritys_engine_is_refused_even_if_the_authority_bears_the_same_name(engine: Engine) -> None:
    credentials = replace(engine.authority.credentials(), ca_pem=Authority().pem)
    assert_says(asked(engine.tcp, tls=credentials), Rejected, "wrong_ca")


@engine_test
def test_the_environments_authorities_are_not_trusted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(engine.home / "cacert.pem"))
    credentials = replace(engine.authority.credentials(), ca_pem=Authority().pem)
    assert_says(asked(engine.tcp, tls=credentials), Rejected, "wrong_ca")


@engine_test
def test_a_certificate_for_another_address_is_refused(engine: Engine) -> None:
    # Its common name would fit; only the alternative names count.
    failure = asked(f"tcp://localhost:{engine.port}", tls=engine.authority.credentials())
    assert_says(failure, Rejected, "wrong_name")


@engine_test
def test_an_engine_that_refuses_our_certificate_says_so_every_time(engine: Engine) -> None:
    credentials = replace(Authority().credentials(), ca_pem=engine.authority.pem)
    for _ in range(20):
        assert_says(asked(engine.tcp, tls=credentials), Rejected, "client_refused")


@engine_test
def test_without_certificates_nothing_is_sent_over_tcp() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert_says(asked(f"tcp://127.0.0.1:{listener.getsockname()[1]}"), Rejected, "insecure_endpoint")
        listener.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listener.accept()


@engine_test
def test_a_frozen_engine_times_out_over_tls_on_old_and_new_connections(engine: Engine) -> None:
    tls = engine.authority.credentials()
    with contextlib.closing(DockerRuntime(engine.tcp, tls=tls, timeouts=PATIENCE)) as runtime:
        # The runtime has little patience, and a busy machine may need several of its questions.
        wait_until(lambda: is_empty(runtime))
        with frozen(engine.process):
            began = time.monotonic()
            with pytest.raises(Unavailable, match="timeout"):
                runtime.list("portal-a")
            assert time.monotonic() - began < 30
            assert_times_out(asked, engine.tcp, tls=tls)
            assert_times_out(asked, engine.socket)
        wait_until(lambda: does_answer(engine.tcp, tls=tls))


class Web(BaseHTTPRequestHandler):
    """Some web server: a page for everything."""

    def do_GET(self) -> None:
        body = b"<html>Welcome</html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Callers that hang up are what these tests are about."""


@contextlib.contextmanager
def web_server(tmp_path: Path, certificate: tuple[str, str] | None, client_ca: str = "") -> Iterator[str]:
    """A web server on loopback as an endpoint; with `client_ca` one of TLS 1.2 that wants client certificates."""
    server = QuietServer(("127.0.0.1", 0), Web)
    if certificate:
        (tmp_path / "server.pem").write_text("\n".join(certificate))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "server.pem")
        if client_ca:
            context.verify_mode, context.maximum_version = ssl.CERT_REQUIRED, ssl.TLSVersion.TLSv1_2
            context.load_verify_locations(cadata=client_ca)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_web_server_is_not_an_engine_with_or_without_tls(tmp_path: Path) -> None:
    authority = Authority()
    for certificate in (authority.issue("web", ip="127.0.0.1"), None):
        with web_server(tmp_path, certificate) as endpoint:
            assert_says(asked(endpoint, tls=authority.credentials()), Rejected, "not_an_engine")


def test_an_expired_certificate_is_named_so(tmp_path: Path) -> None:
    authority = Authority()
    with web_server(tmp_path, authority.issue("web", ip="127.0.0.1", ended=timedelta(hours=1))) as endpoint:
        assert_says(asked(endpoint, tls=authority.credentials()), Rejected, "certificate_expired")


def test_our_certificate_is_refused_in_tls_1_2_as_well(tmp_path: Path) -> None:
    authority = Authority()
    with web_server(tmp_path, authority.issue("web", ip="127.0.0.1"), client_ca=Authority().pem) as endpoint:
        assert_says(asked(endpoint, tls=authority.credentials()), Rejected, "client_refused")


def test_a_closed_port_an_unknown_name_and_silence_are_told_apart() -> None:
    tls = Authority().credentials()
    assert_says(asked(f"tcp://127.0.0.1:{free_port()}", tls=tls), Unavailable, "connection_refused")
    assert_says(asked("tcp://engine.invalid:2376", tls=tls), Unavailable, "name_unknown")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        endpoint = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        # Taken by the kernel, never by the program; from the second on not even that.
        assert_times_out(asked, endpoint, tls=tls)
        with contextlib.ExitStack() as held:
            for _ in range(3):
                waiting = held.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(silent.getsockname())
            assert_times_out(asked, endpoint, tls=tls)


def _encrypted(key: str) -> str:
    loaded = serialization.load_pem_private_key(key.encode(), None)
    secret = serialization.BestAvailableEncryption(b"secret")
    text = loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
    return text.decode()


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda ours, other: {"ca_pem": "hello"}, "authority"),
        (lambda ours, other: {"ca_pem": ""}, "authority"),
        (lambda ours, other: {"cert_pem": ours.key_pem}, "client certificate"),
        (lambda ours, other: {"cert_pem": ours.cert_pem[:200]}, "client certificate"),
        (lambda ours, other: {"key_pem": ours.cert_pem}, "client key"),
        (lambda ours, other: {"key_pem": _encrypted(ours.key_pem)}, "password"),
        (lambda ours, other: {"key_pem": other.key_pem}, "does not belong"),
    ],
)
def test_pasted_texts_that_cannot_work_are_refused_and_never_quoted(change: Callable[..., Any], hint: str) -> None:
    ours, other = Authority().credentials(), Authority().credentials()
    check_tls(ours)
    broken = replace(ours, **change(ours, other))
    with pytest.raises(Rejected, match="bad_credentials") as caught:
        check_tls(broken)
    assert hint in caught.value.detail
    assert "PRIVATE" not in repr(broken) + str(caught.value)
    assert ours.key_pem.splitlines()[1] not in repr(broken) + str(caught.value)
    assert_says(asked("tcp://127.0.0.1:1", tls=broken), Rejected, "bad_credentials")


# ssh.


@dataclass
class Sshd:
    """An sshd on loopback whose users' commands find the engine; each of our keys may do another thing."""

    port: int
    process: subprocess.Popen[bytes]
    host_keys: dict[str, str]
    keys: dict[str, str]

    @property
    def endpoint(self) -> str:
        return f"ssh://root@127.0.0.1:{self.port}"

    def runtime(self, key: str = "plain", host_key: str = "", **options: Any) -> DockerRuntime:
        credentials = SshCredentials(self.keys[key], host_key)
        return DockerRuntime(self.endpoint, ssh=credentials, **{"timeouts": TIME_ENOUGH, **options})

    def asked(self, key: str = "plain", host_key: str = "", **options: Any) -> RuntimeFailure:
        return asked(self.endpoint, ssh=SshCredentials(self.keys[key], host_key), **options)


COMMANDS = {
    "plain": "",
    "no docker": 'command="exec docker-that-is-not-there" ',
    "no engine": 'command="docker -H unix:///nowhere/docker.sock system dial-stdio" ',
    "not allowed": "command=\"echo 'Got permission denied while trying to connect' >&2; exit 1\" ",
    "talkative": 'command="echo Welcome to this machine" ',
}


@pytest.fixture(scope="module")
def sshd(engine: Engine) -> Iterator[Sshd]:
    program = need("sshd")
    home, port = Path(tempfile.mkdtemp(prefix="ss-", dir="/tmp")), free_port()
    Path("/run/sshd").mkdir(exist_ok=True)  # Where a packaged sshd locks itself up.
    host_keys = {}
    for kind in ("ed25519", "ecdsa"):
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", home / f"host_{kind}"], check=True)
        host_keys[kind] = " ".join((home / f"host_{kind}.pub").read_text().split()[:2])
    keys, allowed = {}, []
    for name, command in COMMANDS.items():
        key = ed25519.Ed25519PrivateKey.generate()
        keys[name] = private_pem(key, serialization.PrivateFormat.OpenSSH)
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        allowed.append(f"{command}{public.decode()}\n")
    keys["unknown"] = private_pem(ec.generate_private_key(ec.SECP256R1()))
    (home / "authorized_keys").write_text("".join(allowed))
    lines = [f"Port {port}", "ListenAddress 127.0.0.1", "UsePAM no", "StrictModes no", "PasswordAuthentication no"]
    lines += [f"HostKey {home}/host_{kind}" for kind in host_keys]
    lines += [
        f"AuthorizedKeysFile {home}/authorized_keys",
        f"PidFile {home}/pid",
        f"SetEnv DOCKER_HOST={engine.socket}",
    ]
    (home / "config").write_text("\n".join(["PermitRootLogin prohibit-password", "MaxStartups 100", *lines, ""]))
    process = launch([program, "-D", "-e", "-f", str(home / "config")], home / "log")
    found = Sshd(port, process, host_keys, keys)
    try:
        wait_until(
            lambda: does_answer(found.endpoint, ssh=SshCredentials(keys["plain"])) or process.poll(), what="sshd"
        )
        assert process.poll() is None, (home / "log").read_text()[-2000:]
        yield found
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(home, ignore_errors=True)


@engine_test
def test_an_engine_is_reached_over_ssh(sshd: Sshd, engine: Engine, relay_images: Path) -> None:
    with (
        contextlib.closing(sshd.runtime(image_archive=lambda image: stored_archive(image, relay_images))) as runtime,
        contextlib.closing(DockerRuntime(engine.socket)) as nearby,
    ):
        # So that the image has to go through this line.
        forget = ["docker", "-H", engine.socket, "image", "rm", "-f", image_name(DERPER_VERSION)]
        subprocess.run(forget, capture_output=True, check=False)
        assert runtime.info().engine_id == nearby.info().engine_id
        assert_works(runtime)


@engine_test
def test_the_first_host_key_is_told_and_another_one_refused_from_then_on(sshd: Sshd) -> None:
    with contextlib.closing(sshd.runtime()) as runtime:
        seen = runtime.info().host_key
    assert seen in sshd.host_keys.values()
    for known in (*sshd.host_keys.values(), f"[127.0.0.1]:{sshd.port} {seen} somebody@somewhere"):
        with contextlib.closing(sshd.runtime(host_key=known)) as runtime:
            assert runtime.info().host_key in known
    other = ed25519.Ed25519PrivateKey.generate().public_key()
    text = other.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    assert_says(sshd.asked(host_key=text), Rejected, "host_key_changed")
    assert_says(sshd.asked(host_key="ssh-rsa AAAAB3NzaC1yc2E="), Rejected, "host_key_changed")
    assert_says(sshd.asked(host_key="hello"), Rejected, "bad_credentials")


@engine_test
@pytest.mark.parametrize(
    ("key", "kind", "code"),
    [
        ("unknown", Rejected, "ssh_denied"),
        ("no docker", Rejected, "ssh_failed"),
        ("no engine", Unavailable, "no_socket"),
        ("not allowed", Rejected, "no_permission"),
        ("talkative", Rejected, "not_an_engine"),
    ],
)
def test_what_is_wrong_behind_ssh_is_named(sshd: Sshd, key: str, kind: type[RuntimeFailure], code: str) -> None:
    assert_says(sshd.asked(key), kind, code)


@engine_test
def test_only_the_given_key_is_tried(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/id_ed25519").write_text(sshd.keys["plain"])
    (tmp_path / ".ssh/id_ed25519").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert_says(sshd.asked("unknown"), Rejected, "ssh_denied")
    assert_says(asked(sshd.endpoint), Rejected, "bad_credentials")


def is_empty(runtime: DockerRuntime) -> bool:
    """Whether it answers, and has no container of ours."""
    try:
        return runtime.list("portal-a") == []
    except Unavailable:
        return False


@engine_test
def test_a_frozen_engine_and_a_frozen_sshd_time_out(sshd: Sshd, engine: Engine) -> None:
    with contextlib.closing(sshd.runtime(timeouts=PATIENCE)) as runtime:
        wait_until(lambda: is_empty(runtime))
        with frozen(engine.process):
            began = time.monotonic()
            with pytest.raises(Unavailable, match="timeout"):
                runtime.list("portal-a")
            assert time.monotonic() - began < 30
            assert_times_out(sshd.asked)
        # It has much to catch up with, and the runtime has little patience.
        wait_until(lambda: is_empty(runtime))
    with frozen(sshd.process):
        assert_times_out(sshd.asked)


@engine_test
def test_a_line_that_broke_is_made_anew_for_the_next_call(sshd: Sshd) -> None:
    with contextlib.closing(sshd.runtime()) as runtime:
        runtime.info()
        # The session's own sshd, killed as a provider's reboot would; its parent goes on.
        children = children_of(sshd.process.pid)
        for pid in children:
            with contextlib.suppress(ProcessLookupError):  # An earlier test's session may be ending by itself.
                os.kill(pid, signal.SIGKILL)
        # Until it is gone it may still answer, and the line would break at the second call only.
        wait_until(lambda: not any(is_alive(pid) for pid in children), what="the end of the session")
        with contextlib.suppress(Unavailable):  # It may notice in time.
            runtime.list("portal-a")
        assert runtime.list("portal-a") == []


@engine_test
def test_twenty_connections_leave_nothing_open(sshd: Sshd, engine: Engine) -> None:
    def open_and_close() -> None:
        for runtime in (sshd.runtime(), DockerRuntime(engine.tcp, tls=credentials)):
            runtime.info()
            runtime.close()
        sshd.asked("no engine")

    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    credentials = engine.authority.credentials()
    open_and_close()
    files, threads = open_files(), threading.active_count()
    for _ in range(20):
        open_and_close()
    wait_until(lambda: threading.active_count() <= threads, what="the end of all threads")
    wait_until(lambda: open_files() <= files + 1, what="the end of all files")


def test_what_is_no_ssh_server_is_named(tmp_path: Path) -> None:
    key = SshCredentials(private_pem(ed25519.Ed25519PrivateKey.generate()))
    check_ssh(key)
    with web_server(tmp_path, None) as endpoint:
        assert_says(asked(endpoint.replace("tcp://", "ssh://root@"), ssh=key), Unavailable, "ssh_failed")
    assert_says(asked(f"ssh://root@127.0.0.1:{free_port()}", ssh=key), Unavailable, "connection_refused")
    assert_says(asked("ssh://root@engine.invalid", ssh=key), Unavailable, "name_unknown")


@pytest.mark.parametrize("text", ["", "hello", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"])
def test_a_pasted_ssh_key_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(Rejected, match="bad_credentials"):
        check_ssh(SshCredentials(text))
