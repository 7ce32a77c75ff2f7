"""Doing what was planned, several containers at a time, and noting what came of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import structlog

from fleet.runtimes.base import Rejected, RelaySpec, Runtime, RuntimeFailure, Unavailable

from .plan import Action, Create, Reload, Remove, Start

log = structlog.get_logger(__name__)

THREADS = 8
BEAT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an action: the container's id when one runs now, or why not."""

    action: Action
    container_id: str = ""
    failure: RuntimeFailure | None = None


def carry_out(
    actions: Sequence[Action],
    specs: dict[int, RelaySpec],
    open_runtime: Callable[[], Runtime],
    beat: Callable[[], None],
) -> list[Outcome]:
    """Carry out the actions in no particular order, `THREADS` at a time. One that fails stops no other.

    But once the host itself does not answer, what has not begun fails with it: a frozen engine would otherwise cost
    its time-out for every action.

    `specs` has the full specification of every relay that is created, started or reloaded. Touches no database.
    `beat` is called in the caller's thread every `BEAT_SECONDS` while the host takes its time.
    """
    if not actions:
        return []
    with ThreadPoolExecutor(min(THREADS, len(actions)), thread_name_prefix="apply") as pool:
        host = _Host(open_runtime)
        futures = [pool.submit(_attempt, action, specs, host) for action in actions]
        _wait(futures, beat)
    return [future.result() for future in futures]


def _wait(futures: Iterable[Future[Any]], beat: Callable[[], None]) -> None:
    _done, pending = wait(futures, BEAT_SECONDS)
    while pending:
        beat()
        _done, pending = wait(pending, BEAT_SECONDS)


def bring_images(images: set[str], open_runtime: Callable[[], Runtime], beat: Callable[[], None]) -> None:
    """Bring the images to the host once, before many creations would each try. Failures show at the creations.

    `beat` is called as by `carry_out`: a slow line takes minutes.
    """
    if not images:
        return
    with ThreadPoolExecutor(1, thread_name_prefix="image") as pool:
        loading = pool.submit(_ensure_images, images, open_runtime)
        _wait([loading], beat)
        loading.result()


def _ensure_images(images: set[str], open_runtime: Callable[[], Runtime]) -> None:
    runtime = open_runtime()
    try:
        for image in images:
            runtime.ensure_image(image)
    except RuntimeFailure as failure:
        log.warning("image_not_ensured", code=failure.code, detail=failure.detail)
    finally:
        runtime.close()


@dataclass
class _Host:
    """The host for all threads of one call; `silence` is how it failed to answer one of them."""

    open_runtime: Callable[[], Runtime]
    silence: RuntimeFailure | None = None


def _attempt(action: Action, specs: dict[int, RelaySpec], host: _Host) -> Outcome:
    if host.silence:
        return Outcome(action, failure=host.silence)
    runtime = host.open_runtime()
    try:
        return Outcome(action, container_id=_do(action, specs, runtime))
    except RuntimeFailure as failure:
        log.warning("action_failed", action=type(action).__name__, name=action.name, code=failure.code)
        if isinstance(failure, Unavailable) and failure.code != "busy":
            host.silence = failure
        return Outcome(action, failure=failure)
    finally:
        runtime.close()


def _do(action: Action, specs: dict[int, RelaySpec], runtime: Runtime) -> str:
    if isinstance(action, Remove):
        runtime.remove(action.name, volume=action.name)
        return ""
    spec = specs[action.relay_id]
    container_id = ""
    if isinstance(action, Create):
        container_id = _create(spec, runtime)
    runtime.put_files(spec)
    if isinstance(action, Start | Create):
        runtime.start(spec.name)
    elif isinstance(action, Reload):
        runtime.reload(spec.name)
    return container_id


def _create(spec: RelaySpec, runtime: Runtime) -> str:
    try:
        return runtime.create(spec)
    except Rejected as failure:
        if failure.code != "name_taken":
            raise
        # An earlier attempt may have taken effect although it reported failure: then go on from there. But the name
        # may be somebody else's, or an older form of the relay that could not be removed.
        ours = next((container for container in runtime.list(spec.portal_id) if container.name == spec.name), None)
        if ours is None or ours.digest != spec.digest:
            raise
        return ours.id
