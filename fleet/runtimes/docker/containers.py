"""What every container of ours is denied, and the ones that are thrown away after one answer."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import requests
from docker.errors import DockerException
from docker.types import LogConfig

from fleet.runtimes.base import LABEL_TASK, TASK_OUTPUT, RelaySpec, TaskResult, TaskSpec

from .client import EngineClient

MOUNT = "/relay"
RELAY_UID = 65532
USER = f"{RELAY_UID}:{RELAY_UID}"

TASK_MEMORY = 64 * 1024 * 1024
TASK_PIDS = 64
TASK_GRACE = 10
"""Seconds a task gets on top of its own to start, and to end by itself."""
LEFTOVER_SECONDS = 300
"""A task that is older than any task may be was left behind by a worker that died."""

# `always` brings a stopped container back with the engine, and `unless-stopped` forgets one that ever got a SIGHUP.
# So the policy itself says what is wanted: ADR 0003.
WANTED_UP: Any = {"Name": "always"}
WANTED_DOWN: Any = {"Name": "no"}


def relay_host_config(api: EngineClient, spec: RelaySpec) -> dict[str, Any]:
    return _host_config(
        api,
        port=spec.port,
        bind_ip=spec.bind_ip,
        memory=spec.memory_bytes,
        pids=spec.pids_limit,
        binds={spec.volume: {"bind": MOUNT, "mode": "rw"}},
        extra_hosts={"host.docker.internal": "host-gateway"},
    )


def run_task(api: EngineClient, task: TaskSpec, connect_seconds: float) -> TaskResult:
    """See `Runtime.run_task`. A container that could not be removed goes when the next task runs."""
    task.check()
    created = api.create_container(
        task.image,
        command=list(task.args),
        entrypoint=[task.entrypoint],
        labels={LABEL_TASK: task.portal_id},
        user=USER,
        ports=[(task.port, "tcp"), (task.port, "udp")] if task.port else None,
        use_config_proxy=False,
        host_config=_host_config(api, port=task.port, bind_ip="", memory=TASK_MEMORY, pids=TASK_PIDS),
    )
    name = str(created["Id"])
    try:
        _sweep(api, task.portal_id, name)
        api.start(name)
        patience: Any = (connect_seconds, task.seconds + TASK_GRACE)
        ended = api.wait(name, timeout=patience)
        output = api.logs(name, stdout=True, stderr=False)
    finally:
        with suppress(DockerException, requests.RequestException):
            api.remove_container(name, force=True)
    return TaskResult(int(ended["StatusCode"]), output[:TASK_OUTPUT].decode(errors="replace"))


def _sweep(api: EngineClient, portal_id: str, newest: str) -> None:
    rows = api.containers(all=True, filters={"label": f"{LABEL_TASK}={portal_id}"})
    # The host's own clock tells ages: the container that was made this moment is now.
    moment = next(int(row["Created"]) for row in rows if row["Id"] == newest)
    for row in rows:
        if moment - int(row["Created"]) > LEFTOVER_SECONDS:
            with suppress(DockerException):  # Another worker may be at it.
                api.remove_container(row["Id"], force=True)


def _host_config(api: EngineClient, *, port: int, bind_ip: str, memory: int, pids: int, **more: Any) -> dict[str, Any]:
    config: dict[str, Any] = api.create_host_config(
        port_bindings={f"{port}/{kind}": (bind_ip, port) for kind in ("tcp", "udp")} if port else None,
        restart_policy=WANTED_DOWN,
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        mem_limit=memory,
        memswap_limit=memory,
        pids_limit=pids,
        log_config=LogConfig(type="json-file", config={"max-size": "1m", "max-file": "2"}),
        **more,
    )
    return config
