"""An engine behind ssh: each HTTP connection is one `docker system dial-stdio` on the far side.

The portal's own key and the host key it was told decide; no agent, no configuration and no known hosts of the
user that runs the portal.
"""

from __future__ import annotations

import io
import logging
import re
import socket
import threading
from typing import Any

import paramiko
from cryptography.hazmat.primitives import serialization
from requests.adapters import HTTPAdapter
from requests.models import PreparedRequest
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from fleet.runtimes.base import Rejected, RuntimeFailure, SshCredentials, Unavailable

COMMAND = "docker system dial-stdio"
LAST_WORDS_SECONDS = 2.0

_KEY_CLASSES = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
_HOST_KEY = re.compile(r"(?P<kind>ssh-[a-z0-9]+|ecdsa-sha2-nistp\d+) (?P<text>[A-Za-z0-9+/]+=*)")
_RSA_SIGNATURES = ("rsa-sha2-512", "rsa-sha2-256")

# It writes every failure with its stack to the log; ours leave as `RuntimeFailure`.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


def check_ssh(credentials: SshCredentials) -> None:
    """Raise `Rejected("bad_credentials")` for a key, or a host key, that cannot be read; asks nobody."""
    _load_private_key(credentials.private_key_pem)
    _load_host_key(credentials.host_key)


class SshLink:
    """One ssh connection, made at the first stream and again when it broke. Used by one thread."""

    def __init__(
        self, *, host: str, port: int, user: str, credentials: SshCredentials, timeouts: tuple[float, float]
    ) -> None:
        self._address, self._user, self._timeouts = (host, port), user, timeouts
        self._key = _load_private_key(credentials.private_key_pem)
        self._pinned = _load_host_key(credentials.host_key)
        self._transport: paramiko.Transport | None = None
        self.host_key = ""
        """The key that answered, as `SshCredentials` takes it; "" before the first stream."""

    def open_stream(self) -> Stream:
        """A fresh connection to the engine. Raises `RuntimeFailure`, or `OSError` from the way there."""
        if self._transport is None or not self._transport.is_active():
            self.close()
            self._transport = self._connect()
        return Stream(self._open_channel(self._transport))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _connect(self) -> paramiko.Transport:
        raw = socket.create_connection(self._address, self._timeouts[0])
        transport = paramiko.Transport(raw)
        transport.daemon = True
        try:
            self._greet(transport)
            self._check_host_key(transport)
            transport.auth_publickey(self._user, self._key)
        except BaseException as error:
            transport.close()
            raise self._failure(error) from error
        return transport

    def _greet(self, transport: paramiko.Transport) -> None:
        patience = self._timeouts[1]
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = patience
        if self._pinned:
            # A host has several keys: ask for the one we know.
            kind = self._pinned.split()[0]
            transport.get_security_options().key_types = _RSA_SIGNATURES if kind == "ssh-rsa" else (kind,)
        try:
            transport.start_client(timeout=patience)
        except paramiko.SSHException as error:
            if not transport.remote_version and isinstance(error.__context__, EOFError):
                # Another kind of server, or an sshd that has too many callers at this moment.
                raise Unavailable("ssh_failed", "it hung up without greeting as an ssh server") from error
            raise
        if not transport.initial_kex_done:
            raise Unavailable("timeout", f"no ssh key exchange within {patience:g} s")

    def _check_host_key(self, transport: paramiko.Transport) -> None:
        key = transport.get_remote_server_key()
        self.host_key = f"{key.get_name()} {key.get_base64()}"
        if self._pinned and self.host_key != self._pinned:
            raise Rejected("host_key_changed", f"it shows {key.get_name()} {key.fingerprint}")

    def _open_channel(self, transport: paramiko.Transport) -> paramiko.Channel:
        patience = self._timeouts[1]
        try:
            channel = transport.open_session(timeout=patience)
            # paramiko waits for the answer to the command without end.
            watchdog = threading.Timer(patience, channel.close)
            watchdog.start()
            try:
                channel.exec_command(COMMAND)
            except paramiko.SSHException as error:
                if watchdog.finished.is_set():
                    raise Unavailable("timeout", f"no answer to the command within {patience:g} s") from error
                raise
            finally:
                watchdog.cancel()
        except (paramiko.SSHException, EOFError) as error:
            raise self._failure(error) from error
        return channel

    def _failure(self, error: BaseException) -> BaseException:
        """What paramiko's error means; what is not paramiko's stays as it is."""
        words = str(error)
        match error:
            case paramiko.ssh_exception.IncompatiblePeer() if self._pinned and "host key" in words:
                return Rejected("host_key_changed", "it no longer has a key of the kind it had")
            case paramiko.AuthenticationException() if "imeout" in words or isinstance(error.__context__, TimeoutError):
                return Unavailable("timeout", words)
            case paramiko.AuthenticationException() if "EOF" not in words:
                return Rejected("ssh_denied", words)
            case paramiko.ChannelException():
                return Rejected("ssh_failed", words)
            case paramiko.SSHException() if "imeout" in words or isinstance(error.__context__, TimeoutError):
                return Unavailable("timeout", words)
            case paramiko.SSHException() if isinstance(error.__context__, EOFError | OSError):
                return Unavailable("unreachable", words)
            case paramiko.AuthenticationException() | EOFError():
                return Unavailable("unreachable", words or "the ssh connection broke")
            case paramiko.SSHException():
                return Rejected("ssh_failed", words)
        return error


class Stream:
    """One channel as `http.client` knows sockets: it stays open until the last file made of it is closed, too."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self._has_answered = False
        self._users = 1

    @property
    def is_usable(self) -> bool:
        return not (self._channel.closed or self._channel.eof_received)

    def settimeout(self, seconds: float | None) -> None:
        self._channel.settimeout(seconds)

    def sendall(self, data: bytes) -> None:
        try:
            self._channel.sendall(data)
        except TimeoutError:
            raise
        except OSError:
            self._explain_silence()
            raise

    def recv_into(self, buffer: memoryview) -> int:
        data = self._channel.recv(len(buffer))
        if data:
            self._has_answered = True
        else:
            self._explain_silence()
        buffer[: len(data)] = data
        return len(data)

    def makefile(self, mode: str = "rb", buffering: int = -1) -> io.BufferedReader:
        self._users += 1
        return io.BufferedReader(_StreamReader(self))

    def close(self) -> None:
        self._users -= 1
        if self._users <= 0:
            self._channel.close()

    def _explain_silence(self) -> None:
        """Raise what the far side says about a command that ended before a single answer came."""
        if self._has_answered:
            return
        if not self._channel.status_event.wait(LAST_WORDS_SECONDS) or self._channel.exit_status < 0:
            raise Unavailable("unreachable", "the ssh connection broke")
        said = self._channel.recv_stderr(4096) if self._channel.recv_stderr_ready() else b""
        raise _command_failure(self._channel.exit_status, said.decode(errors="replace").strip())


class _StreamReader(io.RawIOBase):
    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._stream.recv_into(memoryview(buffer))

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._stream.close()


def _command_failure(status: int, said: str) -> RuntimeFailure:
    if re.search(r"permission denied", said, re.IGNORECASE):
        return Rejected("no_permission", said)
    if re.search(r"cannot connect to the docker daemon|connection refused|no such file", said, re.IGNORECASE):
        return Unavailable("no_socket", said)
    return Rejected("ssh_failed", said or f"{COMMAND} ended with {status}")


class SshAdapter(HTTPAdapter):
    """Carries requests over the streams of one link; closing it closes the link."""

    def __init__(self, link: SshLink) -> None:
        self.link = link
        self._pool = _SshPool(link)
        super().__init__()

    def get_connection_with_tls_context(
        self, request: PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> HTTPConnectionPool:
        return self._pool

    def close(self) -> None:
        super().close()
        self._pool.close()
        self.link.close()


class _SshPool(HTTPConnectionPool):
    def __init__(self, link: SshLink) -> None:
        self._link = link
        super().__init__("localhost", maxsize=2)

    def _new_conn(self) -> HTTPConnection:
        return _SshConnection(self._link)


class _SshConnection(HTTPConnection):
    def __init__(self, link: SshLink) -> None:
        super().__init__("localhost")
        self._link = link

    def connect(self) -> None:
        stream: Any = self._link.open_stream()
        stream.settimeout(self.timeout)
        self.sock = stream

    @property
    def is_connected(self) -> bool:
        # The original polls the descriptor, and a channel would open a pipe to have one.
        stream: Any = self.sock
        return stream is not None and bool(stream.is_usable)


def _load_private_key(pem: str) -> paramiko.PKey:
    try:
        key = _parse_private_key(pem.encode())
        # paramiko reads one format of the many that people have.
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        ).decode()
    except (ValueError, TypeError, AttributeError):
        raise Rejected("bad_credentials", "the ssh key is not a readable private key without a password") from None
    for kind in _KEY_CLASSES:
        try:
            return kind.from_private_key(io.StringIO(text))
        except paramiko.SSHException:
            continue  # A key of another kind.
    raise Rejected("bad_credentials", "the ssh key is of a kind that ssh does not use")


def _parse_private_key(pem: bytes) -> Any:
    if b"OPENSSH PRIVATE KEY" in pem:
        return serialization.load_ssh_private_key(pem, password=None)
    return serialization.load_pem_private_key(pem, password=None)


def _load_host_key(text: str) -> str:
    """Kind and key of a line of `known_hosts` or of a public key file; "" of nothing."""
    if not text.strip():
        return ""
    found = _HOST_KEY.search(text)
    if found is None:
        raise Rejected("bad_credentials", "the host key is not one such as ssh-ed25519 AAAA…")
    return f"{found['kind']} {found['text']}"
