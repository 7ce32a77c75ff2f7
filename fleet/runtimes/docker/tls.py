"""TLS with an engine: its certificate against one authority and its address, ours shown in return."""

from __future__ import annotations

import os
import socket
import ssl
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from requests.adapters import HTTPAdapter
from requests.models import PreparedRequest
from urllib3.connectionpool import HTTPConnectionPool

from fleet.runtimes.base import Rejected, RuntimeFailure, TlsCredentials

from .failures import tls_failure

SECOND_LOOK_SECONDS = 2.0


class TlsAdapter(HTTPAdapter):
    """Carries requests over one TLS context, and over nothing that requests or the environment would add to it."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=self._context)

    def get_connection_with_tls_context(
        self, request: PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> HTTPConnectionPool:
        pool: HTTPConnectionPool = self.poolmanager.connection_from_url(str(request.url))
        return pool

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing: the original would add the public authorities of the web to ours."""


def check_tls(credentials: TlsCredentials) -> None:
    """Raise `Rejected("bad_credentials")` for texts that no TLS connection can be made with; asks nobody."""
    try:
        _parsed("the authority's certificate", x509.load_pem_x509_certificates, credentials.ca_pem)
        chain = _parsed("the client certificate", x509.load_pem_x509_certificates, credentials.cert_pem)
        key = _parsed("the client key", _load_key, credentials.key_pem)
    except (ValueError, TypeError) as error:
        raise Rejected("bad_credentials", str(error)) from None
    if _public_bytes(key.public_key()) != _public_bytes(chain[0].public_key()):
        raise Rejected("bad_credentials", "the client key does not belong to the client certificate")
    tls_context(credentials)


def tls_context(credentials: TlsCredentials) -> ssl.SSLContext:
    """TLS 1.2 or newer that trusts only `ca_pem`, checks the address, and shows the client certificate.

    Raises `Rejected("bad_credentials")`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    # Without it an authority that another one signed would have to come with all of its own.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=credentials.ca_pem)
        _load_client_certificate(context, f"{credentials.cert_pem}\n{credentials.key_pem}\n".encode())
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError.
        raise Rejected("bad_credentials", str(error)) from error
    return context


def second_look(host: str, port: int, context: ssl.SSLContext, timeouts: tuple[float, float]) -> RuntimeFailure | None:
    """Why the engine hung up on us, if TLS knows why; None if it does not.

    In TLS 1.3 the engine looks at our certificate after the handshake is over for us. Its objection crosses our
    request on the way and is lost when the connection is reset. Whoever says nothing and listens hears it.
    """
    try:
        with (
            socket.create_connection((host, port), timeouts[0]) as raw,
            context.wrap_socket(raw, server_hostname=host) as link,
        ):
            link.settimeout(min(timeouts[1], SECOND_LOOK_SECONDS))
            link.recv(1)
    except ssl.SSLError as error:
        return tls_failure(error)
    except OSError:
        return None  # Silence, or a fresh break: no more than the first look has shown.
    return None


def _load_client_certificate(context: ssl.SSLContext, pem: bytes) -> None:
    """OpenSSL reads keys from files only; this one exists in memory alone, and only until it is read."""
    handle = os.memfd_create("client-certificate", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(handle), "wb") as file:
            file.write(pem)
        # The password is for a key that has one: without it OpenSSL would ask on the terminal.
        context.load_cert_chain(f"/proc/self/fd/{handle}", password=_no_password)
    finally:
        os.close(handle)


def _no_password() -> str:
    raise ValueError("the client key is protected by a password")


def _load_key(pem: bytes) -> Any:
    return serialization.load_pem_private_key(pem, password=None)


def _parsed(what: str, parse: Any, pem: str) -> Any:
    try:
        return parse(pem.encode())
    except (ValueError, TypeError) as error:
        # Not the error's own words: they may quote what should be a key.
        hint = "is protected by a password" if isinstance(error, TypeError) else "is not readable PEM"
        raise ValueError(f"{what} {hint}") from None


def _public_bytes(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return encoded
