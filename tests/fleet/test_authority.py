"""The portal's own authority: one row whoever asks first, certificates that engines and the portal really accept."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
import time_machine
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from django.core.management import CommandError, call_command
from django.db import connection

from accounts.models import AuditEntry, User
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet.enrolment import pki
from fleet.models import Authority, Server
from fleet.services import authority as service
from tests.fleet.fleet_parts import region
from tests.serials.shop import at_once

PORTAL = ("198.51.100.1", "2001:db8::/64")
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def file_of(folder: Path, *pems: str) -> Path:
    path = folder / f"{len(list(folder.iterdir()))}.pem"
    path.write_text("".join(pems))
    return path


class Engine:
    """A TLS server on 127.0.0.1 that lets in clients of its authority only and answers "hello"."""

    def __init__(self, folder: Path, authority: pki.Certified, own: pki.Certified) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(file_of(folder, authority.cert_pem)))
        context.verify_mode = ssl.CERT_REQUIRED
        # As strict as Python 3.13 is by default.
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_cert_chain(file_of(folder, own.cert_pem, own.key_pem))
        self._context, self._socket = context, socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                raw, _address = self._socket.accept()
            except OSError:
                return  # Closed: the test is over.
            try:
                with self._context.wrap_socket(raw, server_side=True) as stream:
                    stream.sendall(b"hello")
            except OSError:
                raw.close()  # The client was refused, or refused us; it says so itself.


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def greeting(engine: Engine, folder: Path, authority: pki.Certified, client: pki.Certified, name: str) -> bytes:
    """What the engine says to this client, which looks for `name` in the engine's certificate."""
    context = ssl.create_default_context(cafile=str(file_of(folder, authority.cert_pem)))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain(file_of(folder, client.cert_pem, client.key_pem))
    with (
        socket.create_connection(("127.0.0.1", engine.port), 60) as raw,
        context.wrap_socket(raw, server_hostname=name) as stream,
    ):
        return stream.recv(10)


def start(stack: ExitStack, folder: Path, authority: pki.Certified, own: pki.Certified) -> Engine:
    engine = Engine(folder, authority, own)
    stack.callback(engine.close)
    return engine


# --- certificates ------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1", "2001:db8::7", "hk-1.example.com"])
def test_engine_and_portal_accept_each_other(tmp_path: Path, engines: ExitStack, address: str) -> None:
    authority = pki.make_authority("p1")
    client = pki.issue_client_certificate(authority, "p1")
    engine = start(engines, tmp_path, authority, pki.issue_engine_certificate(authority, address))

    assert greeting(engine, tmp_path, authority, client, address) == b"hello"


def test_a_certificate_is_good_for_its_own_address_only(tmp_path: Path, engines: ExitStack) -> None:
    authority = pki.make_authority("p1")
    client = pki.issue_client_certificate(authority, "p1")
    engine = start(engines, tmp_path, authority, pki.issue_engine_certificate(authority, "127.0.0.2"))

    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        greeting(engine, tmp_path, authority, client, "127.0.0.1")


def test_the_portal_refuses_an_engine_of_another_authority(tmp_path: Path, engines: ExitStack) -> None:
    authority, other = pki.make_authority("p1"), pki.make_authority("p1")
    engine = start(engines, tmp_path, authority, pki.issue_engine_certificate(other, "127.0.0.1"))

    with pytest.raises(ssl.SSLCertVerificationError):
        greeting(engine, tmp_path, authority, pki.issue_client_certificate(authority, "p1"), "127.0.0.1")


def test_an_engine_refuses_a_client_of_another_authority(tmp_path: Path, engines: ExitStack) -> None:
    authority, other = pki.make_authority("p1"), pki.make_authority("p1")
    engine = start(engines, tmp_path, authority, pki.issue_engine_certificate(authority, "127.0.0.1"))

    with pytest.raises(OSError, match=r"alert|reset|EOF|closed"):
        greeting(engine, tmp_path, authority, pki.issue_client_certificate(other, "p1"), "127.0.0.1")


def test_a_host_cannot_use_its_certificate_to_command_other_hosts(tmp_path: Path, engines: ExitStack) -> None:
    authority = pki.make_authority("p1")
    own = pki.issue_engine_certificate(authority, "127.0.0.1")
    engine = start(engines, tmp_path, authority, own)

    with pytest.raises(OSError, match=r"alert|reset|EOF|closed"):
        greeting(engine, tmp_path, authority, own, "127.0.0.1")


def test_the_portals_certificate_cannot_stand_in_for_an_engine(tmp_path: Path, engines: ExitStack) -> None:
    authority = pki.make_authority("p1")
    client = pki.issue_client_certificate(authority, "p1")
    engine = start(engines, tmp_path, authority, client)

    with pytest.raises(ssl.SSLCertVerificationError):
        greeting(engine, tmp_path, authority, client, "127.0.0.1")


def test_certificates_live_as_long_as_they_should_and_never_longer_than_their_authority() -> None:
    authority = pki.make_authority("p1", now=NOW)
    engine = pki.issue_engine_certificate(authority, "203.0.113.7", now=NOW)
    late = pki.issue_engine_certificate(authority, "203.0.113.7", now=NOW + timedelta(days=19 * 365))

    assert pki.ends_at(authority.cert_pem) == NOW + timedelta(days=20 * 365)
    assert pki.ends_at(engine.cert_pem) == NOW + timedelta(days=10 * 365)
    assert pki.ends_at(pki.issue_client_certificate(authority, "p1", now=NOW).cert_pem) == NOW + timedelta(days=730)
    assert pki.ends_at(late.cert_pem) == pki.ends_at(authority.cert_pem)
    begins = x509.load_pem_x509_certificate(engine.cert_pem.encode()).not_valid_before_utc
    assert begins == NOW - timedelta(hours=1)


def test_the_authority_may_sign_and_nothing_else_and_says_whose_it_is() -> None:
    certificate = x509.load_pem_x509_certificate(pki.make_authority("p1").cert_pem.encode())
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)

    assert certificate.subject.rfc4514_string() == "CN=DERP Portal p1 hosts"
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    assert basic.critical
    assert basic.value == x509.BasicConstraints(ca=True, path_length=0)
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)


def test_the_fingerprint_is_written_as_openssl_writes_it() -> None:
    cert_pem = pki.make_authority("p1").cert_pem
    told = pki.fingerprint(cert_pem)
    assert re.fullmatch(r"([0-9A-F]{2}:){31}[0-9A-F]{2}", told)
    certificate = x509.load_pem_x509_certificate(cert_pem.encode())
    assert bytes.fromhex(told.replace(":", "")) == certificate.fingerprint(hashes.SHA256())


def test_the_ssh_key_is_one_that_ssh_can_read_and_its_comment_is_one_word() -> None:
    key = pki.make_ssh_key("my portal\nno 1")
    kind, body, comment = key.public_key.split(" ")
    private = serialization.load_ssh_private_key(key.private_key.encode(), password=None)
    public = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    assert f"{kind} {body}" == public.decode()
    assert kind == "ssh-ed25519"
    assert comment == "derp-portal-my-portal-no-1"


def test_private_keys_stay_out_of_what_a_program_prints() -> None:
    assert "PRIVATE KEY" not in repr(pki.make_authority("p1"))
    assert "PRIVATE KEY" not in repr(pki.make_ssh_key("p1"))


def test_openssl_agrees_about_the_chain(tmp_path: Path) -> None:
    """A second opinion: engines are written in Go, this portal in Python, and OpenSSL is what operators look with."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on the PATH")
    authority = pki.make_authority("p1")
    own = pki.issue_engine_certificate(authority, "203.0.113.7")
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_ip", "203.0.113.7"]
    command += ["-CAfile", str(file_of(tmp_path, authority.cert_pem)), str(file_of(tmp_path, own.cert_pem))]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr


# --- the one row -------------------------------------------------------------------------------------


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_of_many_who_need_the_authority_first_all_get_the_same() -> None:
    outcomes = at_once([service.authority] * 8)

    assert Authority.objects.count() == 1
    assert [one for one in outcomes if isinstance(one, Exception)] == []
    assert {one.ca_certificate for one in outcomes if isinstance(one, Authority)} == {
        Authority.objects.get().ca_certificate
    }
    assert AuditEntry.objects.filter(event="authority.made").count() == 1


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_of_two_who_have_both_seen_that_there_is_none_one_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    barrier = threading.Barrier(2)
    make = service._new_authority

    def make_and_wait() -> Authority:
        made = make()
        barrier.wait(60)
        return made

    monkeypatch.setattr(service, "_new_authority", make_and_wait)
    first, second = at_once([service.authority] * 2)

    assert isinstance(first, Authority)
    assert isinstance(second, Authority)
    assert first.ca_key == second.ca_key == Authority.objects.get().ca_key


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_two_renewals_at_once_make_one_new_certificate() -> None:
    service.authority()
    with time_machine.travel(now() + timedelta(days=700), tick=True):
        outcomes = at_once([service.renew_client_certificate] * 2)

    assert sorted(map(str, outcomes)) == ["False", "True"]
    assert AuditEntry.objects.filter(event="authority.client_renewed").count() == 1


@pytest.mark.django_db
def test_the_client_certificate_is_renewed_when_it_is_due_and_engines_accept_the_new_one(
    tmp_path: Path, engines: ExitStack
) -> None:
    with time_machine.travel(datetime.now(UTC) - timedelta(days=680), tick=False):
        before = service.authority()
        assert not service.renew_client_certificate()

    assert service.renew_client_certificate()
    assert not service.renew_client_certificate()

    held = Authority.objects.get()
    assert held.client_certificate != before.client_certificate
    assert held.client_ends_at == pki.ends_at(held.client_certificate) > before.client_ends_at
    assert held.ca_certificate == before.ca_certificate
    signer = pki.Certified(held.ca_certificate, held.ca_key)
    client = pki.Certified(held.client_certificate, held.client_key)
    engine = start(engines, tmp_path, signer, pki.issue_engine_certificate(signer, "127.0.0.1"))
    assert greeting(engine, tmp_path, signer, client, "127.0.0.1") == b"hello"


@pytest.mark.django_db
def test_there_is_nothing_to_renew_before_anybody_needed_an_authority() -> None:
    assert not service.renew_client_certificate()
    assert not Authority.objects.exists()


@pytest.mark.django_db
def test_issuing_a_certificate_is_audited_without_its_key(root: User) -> None:
    cert_pem, key_pem = service.issue_engine_certificate("203.0.113.7", actor=root)

    entry = AuditEntry.objects.get(event="authority.certificate_issued")
    assert entry.actor == root
    assert entry.data["address"] == "203.0.113.7"
    assert entry.data["fingerprint"] == pki.fingerprint(cert_pem)
    secret = key_pem.splitlines()[1]
    assert all(secret not in str(vars(line)) for line in AuditEntry.objects.all())


@pytest.mark.django_db
def test_no_certificate_is_issued_for_what_is_no_address() -> None:
    with pytest.raises(PortalError, match="IP address or a full host name"):
        service.issue_engine_certificate("203.0.113.7; reboot")
    assert not AuditEntry.objects.exists()


@pytest.mark.django_db
def test_the_authoritys_secrets_are_encrypted_in_the_database() -> None:
    service.authority()
    with connection.cursor() as cursor:
        cursor.execute("SELECT ca_key, client_key, ssh_private_key FROM fleet_authority")
        row = cursor.fetchone()
    assert row is not None
    assert all("PRIVATE KEY" not in str(value) for value in row)


# --- the service and the command ---------------------------------------------------------------------


@pytest.mark.django_db
def test_making_a_script_is_audited_and_a_refused_one_issues_nothing(root: User) -> None:
    script = service.enrolment_script(address="203.0.113.7", actor=root, portal_addresses=PORTAL)
    assert Authority.objects.get().ca_certificate.strip() in script
    events = set(AuditEntry.objects.filter(actor=root).values_list("event", flat=True))
    assert events == {"authority.certificate_issued", "authority.script_made"}

    with pytest.raises(PortalError):
        service.enrolment_script(address="203.0.113.7", actor=root, portal_addresses=PORTAL, mirrors=("x y",))
    assert AuditEntry.objects.filter(event="authority.certificate_issued").count() == 1


def command(*words: str) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    call_command("enroll_script", *words, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


@pytest.mark.django_db
def test_the_command_prints_the_script_alone_and_warns_beside_it() -> None:
    out, err = command("--address", "203.0.113.7", "--portal-address", *PORTAL, "--ports", "22000-22099")
    assert out.startswith("#!/usr/bin/env bash\n")
    assert out.endswith("main </dev/null\n")
    assert "PORT_LAST=22099" in out
    assert "private key" in err
    assert "ssh root@203.0.113.7 bash" in err
    assert not Server.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("transport", "endpoint"), [("tls", "tcp://203.0.113.7:2377"), ("ssh", "ssh://derp-portal@203.0.113.7")]
)
def test_with_add_the_server_is_in_the_portal_already(transport: str, endpoint: str) -> None:
    region("hk")
    out, _err = command(
        *("--address", "203.0.113.7", "--portal-address", *PORTAL, "--add", "--region", "hk", "--name", "hk-1"),
        *("--engine-port", "2377", "--transport", transport),
    )
    server = Server.objects.get()
    assert (server.name, server.ip, server.endpoint, server.region.code) == ("hk-1", "203.0.113.7", endpoint, "hk")
    assert (server.port_first, server.port_last) == (21000, 21999)
    assert not server.tls_ca
    assert "IN_PORTAL=yes" in out


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--region", "nowhere"], "--add needs --region"),
        (["--region", "hk", "--name", "hk-1"], "already"),
        (["--region", "hk", "--address", "hk-1.example.com"], "IPv4 or IPv6"),
        (["--region", "hk", "--ports", "2000-3000"], "leave out port 2376"),
    ],
)
def test_what_cannot_be_added_prints_no_script_and_leaves_nothing_behind(words: list[str], reason: str) -> None:
    Server.objects.create(name="hk-1", ip="203.0.113.1", region=region("hk"))
    out = StringIO()
    with pytest.raises(CommandError, match=reason):
        call_command(
            "enroll_script", "--address", "203.0.113.7", "--portal-address", *PORTAL, "--add", *words, stdout=out
        )
    assert out.getvalue() == ""
    assert Server.objects.count() == 1
    assert not AuditEntry.objects.filter(event="authority.certificate_issued").exists()


@pytest.mark.django_db
@pytest.mark.parametrize("ports", ["21000", "a-b", "21000-", "-5-7"])
def test_a_range_of_ports_that_is_none_is_refused_in_words(ports: str) -> None:
    with pytest.raises(CommandError, match="not a range of ports"):
        command("--address", "203.0.113.7", "--portal-address", *PORTAL, f"--ports={ports}")
