"""From an endpoint to a client of the Docker SDK that reaches it, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

import requests
from docker import APIClient
from docker.constants import MINIMUM_DOCKER_API_VERSION
from docker.utils import version_lt

from fleet.runtimes.base import Rejected, RuntimeFailure, SshCredentials, TlsCredentials

from .ssh import SshAdapter, SshLink
from .tls import TlsAdapter, second_look, tls_context

OLDEST_API = "1.41"
"""Docker 20.10: older engines do not know `host-gateway`, by which relays find the portal's door on their host."""

TLS_PORT = 2376
SSH_PORT = 22

Timeouts = tuple[float, float]
"""Seconds to connect, and seconds to wait for each piece of the answer."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an engine is: a socket's path, or host and port, for ssh with a user."""

    scheme: str
    host: str = ""
    port: int = 0
    user: str = ""
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Raises `Rejected("invalid_endpoint")` for what is none of `unix://`, `tcp://` and `ssh://`."""
        try:
            parts = urlsplit(text.strip())
            found = cls._from(parts)
        except ValueError as error:
            raise Rejected("invalid_endpoint", f"{text}: {error}") from error
        if found is None:
            raise Rejected("invalid_endpoint", text)
        return found

    @classmethod
    def _from(cls, parts: SplitResult) -> Endpoint | None:
        if parts.query or parts.fragment or parts.password:
            return None
        if parts.scheme == "unix":
            return cls("unix", path=parts.path) if parts.path.startswith("/") and not parts.netloc else None
        if not parts.hostname or parts.path not in ("", "/"):
            return None
        if parts.scheme == "tcp" and not parts.username:
            return cls("tcp", parts.hostname, parts.port or TLS_PORT)
        if parts.scheme == "ssh" and parts.username:
            return cls("ssh", parts.hostname, parts.port or SSH_PORT, parts.username)
        return None

    @property
    def url(self) -> str:
        """What the SDK is told; behind an adapter of ours only its form matters."""
        if self.scheme == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}" if self.scheme == "ssh" else f"https://{host}:{self.port}"


class EngineClient(APIClient):
    """One engine over one transport. Connects at the first call; `version=None` asks the engine which API it speaks."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        version: str | None,
        timeouts: Timeouts,
        tls: TlsCredentials | None,
        ssh: SshCredentials | None,
    ) -> None:
        """Raises `Rejected` for credentials that are missing or unusable, before anything is sent."""
        self._endpoint = endpoint
        self._context = None
        self._link: SshLink | None = None
        if endpoint.scheme == "tcp":
            if tls is None:
                raise Rejected("insecure_endpoint", endpoint.url)
            self._context = tls_context(tls)
        elif endpoint.scheme == "ssh":
            if ssh is None:
                raise Rejected("bad_credentials", "there is no ssh key for this server")
            self._link = SshLink(
                host=endpoint.host, port=endpoint.port, user=endpoint.user, credentials=ssh, timeouts=timeouts
            )
        # The constructor wants one whole number; each call afterwards takes requests' pair.
        super().__init__(endpoint.url, version or MINIMUM_DOCKER_API_VERSION, math.ceil(timeouts[1]))
        self.timeout: Any = timeouts
        # Proxies and CA bundles from our environment are for the web, not for an engine.
        self.trust_env = False
        # No engine sends us elsewhere.
        self.max_redirects = 0
        if self._context:
            self.mount("https://", TlsAdapter(self._context))
        if self._link:
            self.mount("http://", SshAdapter(self._link))
        self._is_version_known = version is not None

    @property
    def host_key(self) -> str:
        """The ssh host key that answered; "" over any other transport."""
        return self._link.host_key if self._link else ""

    def agree_on_version(self) -> str:
        """The API version from now on: the given one, else the engine's own. `engine_too_old` below `OLDEST_API`."""
        if not self._is_version_known:
            told = self.version(api_version=False)
            spoken = str(told["ApiVersion"])
            if version_lt(spoken, OLDEST_API):
                raise Rejected("engine_too_old", f"version {told.get('Version')}, API {spoken} < {OLDEST_API}")
            self._version = spoken
            self._is_version_known = True
        return str(self._version)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """As the original, except that no call waits without end: some of the SDK's set no time-out."""
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = self.timeout
        return super().send(request, **kwargs)

    @contextmanager
    def patience(self, timeout: Any) -> Iterator[None]:
        """Other time-outs for a while."""
        before, self.timeout = self.timeout, timeout
        try:
            yield
        finally:
            self.timeout = before

    def why_it_broke(self, timeouts: Timeouts) -> RuntimeFailure | None:
        """A better word than "unreachable" for a connection that the engine cut, if one can be had."""
        if self._context is None:
            return None
        return second_look(self._endpoint.host, self._endpoint.port, self._context, timeouts)
