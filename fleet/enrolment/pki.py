"""The portal's own authority: a certificate authority for engines, and the portal's keys to them. No Django here."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE = timedelta(days=20 * 365)
ENGINE_LIFE = timedelta(days=10 * 365)
CLIENT_LIFE = timedelta(days=2 * 365)
# A fresh host's clock may be behind until its time service has caught up.
_CLOCK_SLACK = timedelta(hours=1)
_LONGEST_COMMON_NAME = 64


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate and its private key, both PEM. The key stays out of repr()."""

    cert_pem: str
    key_pem: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SshKey:
    """An ed25519 key: the private half as OpenSSH keeps it in a file, the public one as a line of authorized_keys."""

    private_key: str = field(repr=False)
    public_key: str


def make_authority(portal_id: str, *, now: datetime | None = None) -> Certified:
    """Make a certificate authority that may sign certificates of hosts and clients, but no further authorities."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"DERP Portal {portal_id} hosts")
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    start = _start(now)
    certificate = (
        _builder(name, name, key.public_key(), start, start + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return Certified(_pem(certificate), _private_pem(key))


def issue_engine_certificate(authority: Certified, address: str, *, now: datetime | None = None) -> Certified:
    """Issue the certificate by which the engine at `address` (an IP address or a DNS name) proves who it is."""
    return _issue(authority, address, ExtendedKeyUsageOID.SERVER_AUTH, ENGINE_LIFE, now, san=_general_name(address))


def issue_client_certificate(authority: Certified, portal_id: str, *, now: datetime | None = None) -> Certified:
    """Issue the certificate by which the portal proves to engines who it is. Engines cannot use it as their own."""
    return _issue(authority, f"DERP Portal {portal_id}", ExtendedKeyUsageOID.CLIENT_AUTH, CLIENT_LIFE, now)


def make_ssh_key(portal_id: str) -> SshKey:
    """Make the portal's key to hosts that are reached over ssh. Its comment says whose it is."""
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    # One word: the comment ends up in a line of authorized_keys.
    comment = re.sub(r"[^A-Za-z0-9._-]+", "-", f"derp-portal-{portal_id}")
    return SshKey(private.decode(), f"{public.decode()} {comment}")


def ends_at(cert_pem: str) -> datetime:
    """The last moment at which the certificate is valid, in UTC. Raises ValueError when it is not a certificate."""
    return x509.load_pem_x509_certificate(cert_pem.encode()).not_valid_after_utc


def fingerprint(cert_pem: str) -> str:
    """SHA-256 of the certificate as `openssl x509 -fingerprint -sha256` writes it: `AB:CD:…`."""
    return x509.load_pem_x509_certificate(cert_pem.encode()).fingerprint(hashes.SHA256()).hex(":").upper()


def _issue(
    authority: Certified,
    common_name: str,
    usage: x509.ObjectIdentifier,
    life: timedelta,
    now: datetime | None,
    *,
    san: x509.GeneralName | None = None,
) -> Certified:
    signer = x509.load_pem_x509_certificate(authority.cert_pem.encode())
    signing_key = serialization.load_pem_private_key(authority.key_pem.encode(), password=None)
    if not isinstance(signing_key, ec.EllipticCurvePrivateKey):
        raise ValueError("the authority's key is not an elliptic-curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    start = _start(now)
    # A certificate that outlives its authority would only look as if it worked.
    end = min(start + life, signer.not_valid_after_utc)
    builder = (
        _builder(_name(common_name), signer.subject, key.public_key(), start, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
    )
    if san is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([san]), critical=False)
    return Certified(_pem(builder.sign(signing_key, hashes.SHA256())), _private_pem(key))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _CLOCK_SLACK)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_LONGEST_COMMON_NAME])])


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _start(now: datetime | None) -> datetime:
    return (now or datetime.now(UTC)).replace(microsecond=0)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
