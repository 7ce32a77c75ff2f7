"""What makes a relay the same relay wherever it runs: its DERP key, host name and pinned certificate."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleet.derp.keys import derper_key_file, format_private, new_private

PIN_PREFIX = "sha256-raw:"
KEY_FILE = "derper.key"
HOST_NAME_SUFFIX = ".relay.internal"

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# Apple's platforms refuse certificates that live longer than 398 days, so the back-dating must stay under one day.
_CLOCK_SLACK = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Identity:
    """`private_key` (`privkey:…`) and `key_pem` are secrets and stay out of repr(). `pin` goes into the derp map."""

    private_key: str = field(repr=False)
    cert_pem: str
    key_pem: str = field(repr=False)
    pin: str
    not_after: datetime


def new_host_name(code: str) -> str:
    """Return the host name for the relay with this code, e.g. `r7k2.relay.internal`.

    ICANN has set `.internal` aside for private use for good: nobody can register such a name, so nobody can ever
    answer for it, it needs no filing, and it cannot fall into anybody's list of unfiled domains. Clients never look it
    up, because the derp map gives the address. `.invalid` is not used: Tailscale gives it a meaning in its own tests.

    Raises ValueError when the code cannot be one DNS label after lower-casing.
    """
    label = code.lower()
    if not _LABEL.fullmatch(label):
        raise ValueError("a relay's code must be a DNS label: letters, digits, inner hyphens, at most 63")
    return label + HOST_NAME_SUFFIX


def make_identity(host_name: str, days: int = 397, *, now: datetime | None = None) -> Identity:
    """Make a fresh DERP key and a self-signed certificate that is valid for `host_name` for `days` from `now`.

    `host_name` may be an IP address: then the certificate carries it as an IP and clients send no server name.
    """
    start = (now or datetime.now(UTC)).replace(microsecond=0)
    not_after = start + timedelta(days=days)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host_name[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _CLOCK_SLACK)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectAlternativeName([_general_name(host_name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Identity(
        private_key=format_private(new_private()),
        cert_pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        key_pem=key_pem.decode(),
        pin=pin_of(certificate.public_bytes(serialization.Encoding.DER)),
        not_after=not_after,
    )


def pin_of(certificate_der: bytes) -> str:
    """Return the derp map's `CertName` that pins exactly this certificate."""
    return PIN_PREFIX + hashlib.sha256(certificate_der).hexdigest()


def covers(certificate: x509.Certificate, host_name: str) -> bool:
    """Say whether the certificate is valid for this host name or IP address. Wildcards are not honoured."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    return _general_name(host_name) in names


def certificate_stem(host_name: str) -> str:
    """Return the file name, without `.crt` or `.key`, under which derper looks for a certificate in `-certdir`."""
    return re.sub(r"[^a-zA-Z0-9.-]", "", host_name)


def relay_files(identity: Identity, host_name: str) -> dict[str, bytes]:
    """Return the files a relay with this identity needs, by name: the `-c` file and the pair for `-certdir`."""
    stem = certificate_stem(host_name)
    return {
        KEY_FILE: derper_key_file(identity.private_key),
        f"{stem}.crt": identity.cert_pem.encode(),
        f"{stem}.key": identity.key_pem.encode(),
    }


def is_ip(host_name: str) -> bool:
    """Say whether a host name is an IP address literal."""
    try:
        ip_address(host_name)
    except ValueError:
        return False
    return True


def _general_name(host_name: str) -> x509.GeneralName:
    return x509.IPAddress(ip_address(host_name)) if is_ip(host_name) else x509.DNSName(host_name)
