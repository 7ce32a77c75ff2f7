"""A host with a Docker engine. The only module that may import the Docker SDK."""

from __future__ import annotations

import io
import math
import re
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import requests
import urllib3
from docker import APIClient
from docker.constants import MINIMUM_DOCKER_API_VERSION
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import LogConfig

from .base import (
    LABEL_PORTAL,
    HostInfo,
    Observed,
    Rejected,
    RelaySpec,
    RuntimeFailure,
    State,
    Unavailable,
)

MOUNT = "/relay"
RELAY_UID = 65532
IMAGE_LOAD_SECONDS = 300
POLICY_ATTEMPTS = 5
STATES = {"created": State.CREATED, "running": State.RUNNING, "restarting": State.RESTARTING}

# `always` brings a stopped container back with the engine, and `unless-stopped` forgets one that ever got a SIGHUP.
# So the policy itself says what is wanted: ADR 0003.
WANTED_UP: Any = {"Name": "always"}
WANTED_DOWN: Any = {"Name": "no"}

# The engine has no codes of its own, only these words (20.10 to 29).
_REFUSALS = (
    (re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE), "disk_full"),
    (re.compile(r"port is already allocated|address already in use|port not available", re.IGNORECASE), "port_taken"),
    (re.compile(r"cannot assign requested address", re.IGNORECASE), "invalid_spec"),
    (re.compile(r"name .* is already in use", re.IGNORECASE), "name_taken"),
)
# The relay died while the engine looked at it: the change was undone, and works a moment later.
_IN_BETWEEN = re.compile(r"cannot update container|marked for removal", re.IGNORECASE)
_TIMED_OUT = re.compile(r"timed out", re.IGNORECASE)


class DockerRuntime:
    """Speaks to one engine. `timeouts` are (connect, read) seconds for each call.

    `api_version=None` asks the engine at the first call; pass a known one to save that call.
    `image_archive(name)` gives the tar to load when the host lacks an image.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        image_archive: Callable[[str], Path] | None = None,
        api_version: str | None = None,
        timeouts: tuple[float, float] = (2, 10),
    ) -> None:
        self._endpoint = endpoint
        self._image_archive = image_archive
        self._api_version = api_version
        self._timeouts = timeouts
        self._client: APIClient | None = None

    def info(self) -> HostInfo:
        with self._engine() as api:
            told = api.info()
            if not isinstance(told, dict) or "ServerVersion" not in told:
                raise Rejected("not_an_engine", "it answers, but not as a Docker engine")
            hardware = {
                "name": told.get("Name"),
                "system": told.get("OperatingSystem"),
                "kernel": told.get("KernelVersion"),
                "architecture": told.get("Architecture"),
                "storage": told.get("Driver"),
                "live_restore": "yes" if told.get("LiveRestoreEnabled") else "no",
            }
            return HostInfo(
                engine="docker",
                version=str(told["ServerVersion"]),
                cores=int(told.get("NCPU") or 0),
                memory_bytes=int(told.get("MemTotal") or 0),
                hardware={key: str(value) for key, value in hardware.items() if value},
            )

    def ensure_image(self, image: str) -> None:
        with self._engine() as api:
            if self._has_image(api, image):
                return
            if self._image_archive is None:
                raise Rejected("image_missing", image)
            path = self._image_archive(image)
            try:
                archive = path.open("rb")
            except OSError as error:
                raise Rejected("image_missing", f"{image}: {error}") from error
            # The engine answers only after unpacking, and a slow uplink takes its time too.
            with archive, self._patience(api, (self._timeouts[0], IMAGE_LOAD_SECONDS)):
                for line in api.load_image(archive) or ():
                    if "error" in line:
                        raise _refusal(str(line["error"]))
            if not self._has_image(api, image):
                raise Rejected("image_missing", f"the stored archive does not hold {image}")

    def list_volumes(self, portal_id: str) -> list[str]:
        with self._engine() as api:
            answer = api.volumes(filters={"label": f"{LABEL_PORTAL}={portal_id}"})
            return [row["Name"] for row in answer.get("Volumes") or ()]

    def list(self, portal_id: str) -> list[Observed]:
        with self._engine() as api:
            # The low-level listing does not inspect each container, so it has no start time either.
            rows = api.containers(all=True, filters={"label": f"{LABEL_PORTAL}={portal_id}"})
            return [
                Observed.from_labels(
                    id=row["Id"],
                    name=row["Names"][0].lstrip("/") if row.get("Names") else "",
                    labels=row.get("Labels") or {},
                    state=STATES.get(row.get("State", ""), State.EXITED),
                )
                for row in rows
            ]

    def create(self, spec: RelaySpec) -> str:
        spec.check()
        with self._engine() as api:
            volume = api.create_volume(spec.volume, labels={LABEL_PORTAL: spec.portal_id})
            if (volume.get("Labels") or {}).get(LABEL_PORTAL) != spec.portal_id:
                raise Rejected("name_taken", f"volume {spec.volume} belongs to somebody else")
            created = api.create_container(
                spec.image,
                command=spec.command(MOUNT),
                environment=spec.environment(MOUNT),
                name=spec.name,
                labels=spec.labels,
                user=f"{RELAY_UID}:{RELAY_UID}",
                ports=[(spec.port, "tcp"), (spec.port, "udp")],
                # Without a stop signal of its own, the engine takes any signal we send for a wish to stop.
                stop_signal="SIGTERM",
                use_config_proxy=False,
                host_config=self._host_config(api, spec),
            )
            return str(created["Id"])

    def put_files(self, spec: RelaySpec) -> None:
        spec.check()
        with self._engine() as api:
            api.put_archive(spec.name, MOUNT, _tar(spec))

    def start(self, name: str) -> None:
        with self._engine() as api:
            # First the policy: dying in between leaves a container that a later start or the engine brings up.
            self._set_policy(api, name, WANTED_UP)
            api.start(name)

    def stop(self, name: str, *, grace_seconds: int = 5) -> None:
        with self._engine() as api:
            try:
                self._set_policy(api, name, WANTED_DOWN)
                # The SDK adds the grace to this number, and cannot add to a pair.
                with self._patience(api, self._timeouts[1]):
                    api.stop(name, timeout=grace_seconds)
            except NotFound:
                return

    def reload(self, name: str) -> None:
        with self._engine() as api:
            try:
                api.kill(name, signal="SIGHUP")
            except APIError as error:
                if "is not running" not in _words(error):
                    raise

    def remove(self, name: str, *, volume: str = "") -> None:
        with self._engine() as api, suppress(NotFound):  # An earlier call took effect.
            api.remove_container(name, force=True)
        if volume:
            self.remove_volume(volume)

    def remove_volume(self, name: str) -> None:
        with self._engine() as api, suppress(NotFound):  # An earlier call took effect.
            api.remove_volume(name)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    @contextmanager
    def _engine(self) -> Iterator[APIClient]:
        """The connected client; everything it may throw leaves as a `RuntimeFailure`."""
        try:
            if self._client is None:
                self._client = self._connect()
            yield self._client
        except RuntimeFailure:
            raise
        except (DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _failure(error) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # Something answered that speaks HTTP, but its words have not an engine's shape.
            raise Rejected("not_an_engine", repr(error)) from error

    def _connect(self) -> APIClient:
        if self._api_version is None:
            with closing(self._client_for(MINIMUM_DOCKER_API_VERSION)) as scout:
                self._api_version = str(scout.version(api_version=False)["ApiVersion"])
        return self._client_for(self._api_version)

    def _client_for(self, version: str) -> APIClient:
        client = APIClient(base_url=self._endpoint, version=version, timeout=math.ceil(self._timeouts[1]))
        # The constructor wants one whole number; each call afterwards takes requests' pair.
        pair: Any = self._timeouts
        client.timeout = pair
        # Proxies and CA bundles from our environment are for the web, not for an engine.
        client.trust_env = False
        return client

    @staticmethod
    @contextmanager
    def _patience(api: APIClient, timeout: Any) -> Iterator[None]:
        before, api.timeout = api.timeout, timeout
        try:
            yield
        finally:
            api.timeout = before

    @staticmethod
    def _set_policy(api: APIClient, name: str, policy: Any) -> None:
        for attempt in range(POLICY_ATTEMPTS):
            try:
                api.update_container(name, restart_policy=policy)
            except APIError as error:
                if not _IN_BETWEEN.search(_words(error)) or attempt == POLICY_ATTEMPTS - 1:
                    raise
                time.sleep(0.1)
            else:
                return

    @staticmethod
    def _has_image(api: APIClient, image: str) -> bool:
        try:
            api.inspect_image(image)
        except ImageNotFound:
            return False
        return True

    @staticmethod
    def _host_config(api: APIClient, spec: RelaySpec) -> dict[str, Any]:
        return api.create_host_config(
            binds={spec.volume: {"bind": MOUNT, "mode": "rw"}},
            port_bindings={f"{spec.port}/{kind}": (spec.bind_ip, spec.port) for kind in ("tcp", "udp")},
            restart_policy=WANTED_DOWN,
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            mem_limit=spec.memory_bytes,
            memswap_limit=spec.memory_bytes,
            pids_limit=spec.pids_limit,
            log_config=LogConfig(type="json-file", config={"max-size": "1m", "max-file": "2"}),
            extra_hosts={"host.docker.internal": "host-gateway"},
        )


def _tar(spec: RelaySpec) -> bytes:
    """The files as the engine unpacks them: only the relay's user may read them, nobody may write."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in sorted(spec.files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.uid, member.gid = len(content), 0o400, RELAY_UID, RELAY_UID
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _words(error: BaseException) -> str:
    explanation = getattr(error, "explanation", None)
    if isinstance(explanation, bytes):
        return explanation.decode(errors="replace")
    return str(explanation or error)


def _refusal(words: str) -> Rejected:
    code = next((code for pattern, code in _REFUSALS if pattern.search(words)), "refused")
    return Rejected(code, words)


def _failure(error: BaseException) -> RuntimeFailure:
    """Say in our codes what the SDK, requests or urllib3 threw."""
    if isinstance(error, APIError):
        return _api_failure(error)
    words = _words(error)
    cause: BaseException | None = error
    while cause is not None:
        # Version detection wraps whatever went wrong in a bare DockerException; the truth is further down.
        if isinstance(cause, APIError):
            return _api_failure(cause)
        if isinstance(cause, (requests.Timeout, TimeoutError, urllib3.exceptions.TimeoutError)):
            return Unavailable("timeout", words)
        if isinstance(cause, requests.exceptions.JSONDecodeError):
            return Rejected("not_an_engine", words)
        cause = cause.__cause__ or cause.__context__
    if _TIMED_OUT.search(words):
        return Unavailable("timeout", words)
    if isinstance(error, DockerException) and not isinstance(error.__cause__, (OSError, requests.RequestException)):
        return Rejected("not_an_engine", words)
    return Unavailable("unreachable", words)


def _api_failure(error: APIError) -> RuntimeFailure:
    words = _words(error)
    if isinstance(error, ImageNotFound):
        return Rejected("image_missing", words)
    refusal = _refusal(words)
    if refusal.code != "refused":
        return refusal
    if _IN_BETWEEN.search(words):
        return Unavailable("busy", words)
    match error.status_code:
        case 404 if re.search(r"page not found", words):
            return Rejected("not_an_engine", words)
        case 404:
            return Rejected("not_found", words)
        case 400:
            return Rejected("invalid_spec", words)
        case 409 | 429 | 502 | 503 | 504:
            # Being removed right now, a volume still in use, an engine that is starting or stopping.
            return Unavailable("busy", words)
    return refusal
