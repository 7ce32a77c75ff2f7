"""Says in our codes what the SDK, requests, urllib3, the kernel or the engine itself said in theirs."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from collections.abc import Iterator

import requests
import urllib3
from docker.errors import APIError, DockerException, ImageNotFound

from fleet.runtimes.base import Rejected, RuntimeFailure, Unavailable

# The engine has no codes of its own, only these words (20.10 to 29).
_REFUSALS = (
    (re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE), "disk_full"),
    (re.compile(r"port is already allocated|address already in use|port not available", re.IGNORECASE), "port_taken"),
    (re.compile(r"cannot assign requested address", re.IGNORECASE), "invalid_spec"),
    (re.compile(r"name .* is already in use", re.IGNORECASE), "name_taken"),
)
# The relay died while the engine looked at it: the change was undone, and works a moment later.
IN_BETWEEN = re.compile(r"cannot update container|marked for removal", re.IGNORECASE)
_TIMED_OUT = re.compile(r"timed out", re.IGNORECASE)

# What OpenSSL calls its findings about a certificate (x509_vfy.h); every other finding is the authority's.
_CERTIFICATE_CODES = {9: "certificate_expired", 10: "certificate_expired", 62: "wrong_name", 64: "wrong_name"}
_ALERT_ABOUT_OUR_CERTIFICATE = re.compile(r"alert.*(certificate|unknown.ca|access.denied|decrypt.error)", re.IGNORECASE)

# What may stand between us and an engine sends pages for people. These say that the engine behind it is away.
_GATEWAY_TROUBLE = (502, 503, 504)


def words_of(error: BaseException) -> str:
    explanation = getattr(error, "explanation", None)
    if isinstance(explanation, bytes):
        return explanation.decode(errors="replace")
    return str(explanation or error)


def refusal(words: str) -> Rejected:
    """What the engine refused, by its own words."""
    code = next((code for pattern, code in _REFUSALS if pattern.search(words)), "refused")
    return Rejected(code, words)


def failure(error: BaseException) -> RuntimeFailure:
    """What `error` means. The truth is often far down: every layer wraps what the one below threw."""
    for cause in reversed(list(_chain(error))):
        known = _known(cause)
        if known is not None:
            return known
    words = words_of(error)
    if _TIMED_OUT.search(words):
        return Unavailable("timeout", words)
    if isinstance(error, DockerException) and not isinstance(error.__cause__, (OSError, requests.RequestException)):
        return Rejected("not_an_engine", words)
    return Unavailable("unreachable", words)


def tls_failure(error: ssl.SSLError) -> RuntimeFailure:
    """What went wrong between our TLS and theirs."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Rejected(_CERTIFICATE_CODES.get(error.verify_code, "wrong_ca"), error.verify_message)
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return Unavailable("unreachable", "the connection was closed without an answer")
    reason = error.reason or str(error)
    if _ALERT_ABOUT_OUR_CERTIFICATE.search(reason):
        return Rejected("client_refused", reason)
    return Rejected("not_an_engine", f"TLS: {reason}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _known(cause: BaseException) -> RuntimeFailure | None:
    """What one error of the chain means by itself; None when only its neighbours can tell."""
    words = words_of(cause)
    match cause:
        case RuntimeFailure():
            return cause
        case APIError():
            return _api_failure(cause)
        case ssl.SSLError():
            return tls_failure(cause)
        case requests.exceptions.JSONDecodeError() | requests.TooManyRedirects():
            return Rejected("not_an_engine", words)
        case requests.Timeout() | TimeoutError() | urllib3.exceptions.TimeoutError():
            return Unavailable("timeout", words)
        case socket.gaierror():
            return Unavailable("name_unknown", words)
        case ConnectionRefusedError():
            return Unavailable("connection_refused", words)
        case FileNotFoundError():
            return Unavailable("no_socket", words)
        case PermissionError():
            return Rejected("no_permission", words)
        case http.client.RemoteDisconnected():
            return Unavailable("unreachable", words)
        case http.client.BadStatusLine():
            return Rejected("not_an_engine", f"the answer is not HTTP: {words}")
    return None


def _api_failure(error: APIError) -> RuntimeFailure:
    words = words_of(error)
    if isinstance(error, ImageNotFound):
        return Rejected("image_missing", words)
    status = error.status_code
    if status not in _GATEWAY_TROUBLE and _is_a_page(error):
        return Rejected("not_an_engine", f"a web page with status {status}")
    said = refusal(words)
    if said.code != "refused":
        return said
    if IN_BETWEEN.search(words):
        return Unavailable("busy", words)
    match status:
        case 404 if re.search(r"page not found", words):
            return Rejected("not_an_engine", words)
        case 404:
            return Rejected("not_found", words)
        case 400:
            return Rejected("invalid_spec", words)
        case 409 | 429 | 502 | 503 | 504:
            # Being removed right now, a volume still in use, an engine that is starting or stopping.
            return Unavailable("busy", words)
    return said


def _is_a_page(error: APIError) -> bool:
    return error.response is not None and "html" in error.response.headers.get("Content-Type", "")
