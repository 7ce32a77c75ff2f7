"""A host with a Docker engine, as the reconciler knows hosts."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import requests
import urllib3
from docker.errors import APIError, DockerException, NotFound

from fleet.runtimes.base import (
    LABEL_HOST,
    LABEL_PORTAL,
    HostInfo,
    Observed,
    Rejected,
    RelaySpec,
    RuntimeFailure,
    SshCredentials,
    State,
    TaskResult,
    TaskSpec,
    TlsCredentials,
)

from . import images
from .client import Endpoint, EngineClient, Timeouts
from .containers import MOUNT, RELAY_UID, USER, WANTED_DOWN, WANTED_UP, relay_host_config, run_task
from .failures import IN_BETWEEN, failure, words_of

HOST_VOLUME = "derp-portal-host"
POLICY_ATTEMPTS = 5
STATES = {"created": State.CREATED, "running": State.RUNNING, "restarting": State.RESTARTING}


class DockerRuntime:
    """Speaks to one engine at `unix:///path`, `tcp://host:port` (TLS only) or `ssh://user@host:port`.

    `timeouts` are (connect, read) seconds for each call. `api_version=None` asks the engine at the first call; pass
    a known one to save that call. `image_archive(name)` gives the tar to load when the host lacks an image, or
    raises `Rejected("image_missing")`; `registry_auth` is user and password for images that name a registry.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        image_archive: Callable[[str], Path] | None = None,
        api_version: str | None = None,
        timeouts: Timeouts = (2, 10),
        tls: TlsCredentials | None = None,
        ssh: SshCredentials | None = None,
        registry_auth: images.RegistryAuth | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._image_archive = image_archive
        self._api_version = api_version
        self._timeouts = timeouts
        self._tls, self._ssh = tls, ssh
        self._registry_auth = registry_auth
        self._client: EngineClient | None = None

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
                "api_version": self._api_version,
            }
            return HostInfo(
                engine="docker",
                version=str(told["ServerVersion"]),
                cores=int(told.get("NCPU") or 0),
                memory_bytes=int(told.get("MemTotal") or 0),
                hardware={key: str(value) for key, value in hardware.items() if value},
                engine_id=str(told.get("ID") or ""),
                clock=_moment(told.get("SystemTime")),
                host_key=api.host_key,
            )

    def claim(self, portal_id: str) -> str:
        with self._engine() as api:
            # Creating what exists gives what exists: of two portals at once one is first, and both are told which.
            owner = _volume_labels(api, HOST_VOLUME, {LABEL_HOST: portal_id}).get(LABEL_HOST)
            if not owner:
                raise Rejected("name_taken", f"volume {HOST_VOLUME} is there and not a portal's")
            return str(owner)

    def ensure_image(self, image: str) -> None:
        with self._engine() as api:
            if images.has_image(api, image):
                return
            try:
                archive = self._stored_archive(image)
            except Rejected as absent:
                if absent.code != "image_missing" or not images.registry_of(image):
                    raise
                images.pull(api, image, self._registry_auth)
            else:
                images.load(api, image, archive)

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
            labels = _volume_labels(api, spec.volume, {LABEL_PORTAL: spec.portal_id})
            if labels.get(LABEL_PORTAL) != spec.portal_id:
                raise Rejected("name_taken", f"volume {spec.volume} belongs to somebody else")
            created = api.create_container(
                spec.image,
                command=spec.command(MOUNT),
                environment=spec.environment(MOUNT),
                name=spec.name,
                labels=spec.labels,
                user=USER,
                ports=[(spec.port, "tcp"), (spec.port, "udp")],
                # Without a stop signal of its own, the engine takes any signal we send for a wish to stop.
                stop_signal="SIGTERM",
                use_config_proxy=False,
                host_config=relay_host_config(api, spec),
            )
            return str(created["Id"])

    def put_files(self, spec: RelaySpec) -> None:
        spec.check()
        with self._engine() as api:
            api.put_archive(spec.name, MOUNT, _tar(spec))

    def start(self, name: str) -> None:
        with self._engine() as api:
            # First the policy: dying in between leaves a container that a later start or the engine brings up.
            _set_policy(api, name, WANTED_UP)
            api.start(name)

    def stop(self, name: str, *, grace_seconds: int = 5) -> None:
        with self._engine() as api:
            try:
                _set_policy(api, name, WANTED_DOWN)
                # The SDK adds the grace to this number, and cannot add to a pair.
                with api.patience(self._timeouts[1]):
                    api.stop(name, timeout=grace_seconds)
            except NotFound:
                return

    def reload(self, name: str) -> None:
        with self._engine() as api:
            try:
                api.kill(name, signal="SIGHUP")
            except APIError as error:
                if "is not running" not in words_of(error):
                    raise

    def remove(self, name: str, *, volume: str = "") -> None:
        with self._engine() as api, suppress(NotFound):  # An earlier call took effect.
            api.remove_container(name, force=True)
        if volume:
            self.remove_volume(volume)

    def remove_volume(self, name: str) -> None:
        with self._engine() as api, suppress(NotFound):  # An earlier call took effect.
            api.remove_volume(name)

    def run_task(self, task: TaskSpec) -> TaskResult:
        with self._engine() as api:
            return run_task(api, task, self._timeouts[0])

    def carried_bytes(self, name: str) -> int | None:
        with self._engine() as api:
            told = api.stats(name, stream=False, one_shot=True)
            networks = told.get("networks")
            return sum(link["rx_bytes"] + link["tx_bytes"] for link in networks.values()) if networks else None

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    @contextmanager
    def _engine(self) -> Iterator[EngineClient]:
        """The connected client; everything it may throw leaves as a `RuntimeFailure`."""
        try:
            yield self._connected()
        except RuntimeFailure:
            raise
        except (DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            found = failure(error)
            if found.code == "unreachable" and self._client is not None:
                found = self._client.why_it_broke(self._timeouts) or found
            raise found from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # Something answered that speaks HTTP, but its words have not an engine's shape.
            raise Rejected("not_an_engine", repr(error)) from error

    def _connected(self) -> EngineClient:
        if self._client is None:
            self._client = EngineClient(
                Endpoint.parse(self._endpoint),
                version=self._api_version,
                timeouts=self._timeouts,
                tls=self._tls,
                ssh=self._ssh,
            )
        self._api_version = self._client.agree_on_version()
        return self._client

    def _stored_archive(self, image: str) -> Path:
        if self._image_archive is None:
            raise Rejected("image_missing", image)
        return self._image_archive(image)


def _set_policy(api: EngineClient, name: str, policy: Any) -> None:
    for attempt in range(POLICY_ATTEMPTS):
        try:
            api.update_container(name, restart_policy=policy)
        except APIError as error:
            if not IN_BETWEEN.search(words_of(error)) or attempt == POLICY_ATTEMPTS - 1:
                raise
            time.sleep(0.1)
        else:
            return


def _volume_labels(api: EngineClient, name: str, labels: dict[str, str]) -> dict[str, str]:
    """Create the volume unless it exists; the labels it has then, its own or an older one's."""
    created = api.create_volume(name, labels=labels)
    # An engine that was restarted answers for an old volume without its labels, although it knows them.
    known = created.get("Labels") or api.inspect_volume(name).get("Labels")
    return dict(known or {})


def _moment(text: Any) -> datetime | None:
    """The engine's clock with its nanoseconds cut off; None for what is no time, or has no zone."""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo else None


def _tar(spec: RelaySpec) -> bytes:
    """The files as the engine unpacks them: only the relay's user may read them, nobody may write."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in sorted(spec.files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.uid, member.gid = len(content), 0o400, RELAY_UID, RELAY_UID
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
