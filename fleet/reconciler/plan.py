"""The decision, and nothing else: what to do so that what was observed becomes what is wanted. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from fleet.runtimes.base import Observed, State


@dataclass(frozen=True, slots=True)
class WantedRelay:
    """A relay that should run on the server being looked at. `name` carries code and generation.

    `is_stale` says that the speed limit in force, or the deadline its host knows, is not the one it should have.
    """

    relay_id: int
    name: str
    digest: str
    is_stale: bool = False


@dataclass(frozen=True, slots=True)
class Remove:
    """Stop and remove a container nobody wants in this form, with its volume."""

    name: str
    relay_id: int


@dataclass(frozen=True, slots=True)
class Create:
    """Create, fill and start a container that is missing."""

    relay_id: int
    name: str


@dataclass(frozen=True, slots=True)
class Start:
    """Fill and start a container that exists but does not run."""

    relay_id: int
    name: str


@dataclass(frozen=True, slots=True)
class Reload:
    """Write the files again and let the running relay read its speed limit and deadline."""

    relay_id: int
    name: str


Action = Remove | Create | Start | Reload


def plan(wanted: Iterable[WantedRelay], observed: Iterable[Observed], spared: Collection[str] = ()) -> list[Action]:
    """The actions that lead from `observed` to exactly one container per wanted relay and none unwanted.

    Containers named in `spared` are left as they are: their relays are moving away and serve here until the new
    place answers.

    Removals come first, since they free the ports and names that creations need. Planning again after all
    actions succeeded gives nothing to do; after some failed it gives those again.
    """
    have = {container.name: container for container in observed}
    removals: list[Action] = []
    others: list[Action] = []
    for want in wanted:
        container = have.pop(want.name, None)
        if container is None:
            others.append(Create(want.relay_id, want.name))
        elif container.digest != want.digest:
            removals.append(Remove(want.name, want.relay_id))
            others.append(Create(want.relay_id, want.name))
        elif container.state in (State.CREATED, State.EXITED):
            others.append(Start(want.relay_id, want.name))
        elif want.is_stale:
            others.append(Reload(want.relay_id, want.name))
    removals.extend(
        Remove(container.name, container.relay_id) for container in have.values() if container.name not in spared
    )
    return removals + others
