"""One pass over one server: claim it, look, compare, act, note."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog
from django.db.models import Q

from derp_portal.lib.clock import now
from fleet.engines import image_of, open_runtime, relay_image
from fleet.metering.rounds import read_before_stop
from fleet.models import Relay, RelayEvent, Server
from fleet.runtimes.base import Observed, Rejected, RelaySpec, Runtime, RuntimeFailure, State
from fleet.services.events import relay_event
from fleet.services.outages import clear_trouble, note_trouble, open_outage_if_down
from fleet.services.placement import change_port

from .apply import Outcome, bring_images, carry_out
from .desired import SPEED_UNKNOWN, desired, full_spec, spared_containers, wanted_rows
from .observe import list_containers, note_containers, note_gone, note_observed, note_removed, note_seen
from .plan import Action, Create, Reload, Remove, Start, plan

log = structlog.get_logger(__name__)

PASS_SECONDS = 120
RETRY_SECONDS = (2, 5, 10, 20, 30, 60)


@dataclass
class PassResult:
    """What a pass did: False in `claimed` when another pass was at it; ids of relays that were just started."""

    claimed: bool = True
    reachable: bool = True
    outcomes: list[Outcome] = field(default_factory=list)
    started: list[int] = field(default_factory=list)


def reconcile(server_id: int, *, runtime_for: Callable[[Server], Runtime] = open_runtime) -> PassResult:
    """Make the server's containers match the rows, as far as it lets us. Safe to call at any time, from anywhere.

    Raises Server.DoesNotExist. A host that cannot be reached is noted, not raised.
    """
    token = secrets.token_hex(8)
    if not _claim(server_id, token):
        return PassResult(claimed=False)
    try:
        return _pass(Server.objects.get(pk=server_id), runtime_for, lambda: _renew(server_id, token))
    finally:
        Server.objects.filter(pk=server_id, pass_token=token).update(pass_token="", pass_until=None)


def _claim(server_id: int, token: str) -> bool:
    """One pass per server at a time. A worker that dies with the claim delays the next pass, no more."""
    free = Q(pass_until=None) | Q(pass_until__lt=now())
    until = now() + timedelta(seconds=PASS_SECONDS)
    return bool(Server.objects.filter(free, pk=server_id).update(pass_token=token, pass_until=until))


def _renew(server_id: int, token: str) -> None:
    """Keep the claim while the host takes its time: loading an image takes longer than a dead worker's claim stands."""
    until = now() + timedelta(seconds=PASS_SECONDS)
    if not Server.objects.filter(pk=server_id, pass_token=token).update(pass_until=until):
        log.warning("claim_lost", server=server_id)


def _pass(server: Server, runtime_for: Callable[[Server], Runtime], renew: Callable[[], None]) -> PassResult:
    runtime = runtime_for(server)
    try:
        # The listing comes before the rows are read: a container of a row that was committed in between would
        # otherwise look like nobody's and be reaped.
        observed = list_containers(server, runtime)
    except RuntimeFailure as failure:
        _note_unreachable(server, failure)
        return PassResult(reachable=False)
    finally:
        runtime.close()
    wanted, rows = desired(server)
    actions = _due(plan(wanted, observed, spared_containers(server.pk)), rows)
    # Written before anything is created: a server that is deleted meanwhile must know of it.
    containers = len(observed) + sum(isinstance(action, Create) for action in actions)
    note_seen(server, containers)
    note_observed(rows.values(), observed)
    note_gone(server, rows, observed)
    work = _Work(
        server, rows, {container.name: container for container in observed}, lambda: runtime_for(server), renew
    )
    created = {action.name: action.relay_id for action in actions if isinstance(action, Create)}
    removals = [action for action in actions if isinstance(action, Remove)]
    work.remove([action for action in removals if action.name not in created])
    # What is only replaced serves on while a new image is on its way to the host.
    work.bring_images(created.values())
    work.remove([action for action in removals if action.name in created])
    work.bring_up([action for action in actions if not isinstance(action, Remove)])
    _note_states(rows, work.result)
    if work.removed:
        note_containers(server, containers - work.removed)
    return work.result


def _due(actions: list[Action], rows: dict[int, Relay]) -> list[Action]:
    """Leave out what failed a moment ago: back-off is kept on the row, so it survives the worker.

    A removal that only makes way for a creation waits with it.
    """
    moment = now()
    waiting = {row.container_name for row in rows.values() if row.next_try_at and row.next_try_at > moment}
    return [action for action in actions if action.name not in waiting]


@dataclass
class _Work:
    """The acting half of a pass, and its notes."""

    server: Server
    rows: dict[int, Relay]
    observed: dict[str, Observed]
    open_runtime: Callable[[], Runtime]
    renew: Callable[[], None]
    removed: int = 0
    result: PassResult = field(default_factory=PassResult)
    unremoved: set[Remove] = field(default_factory=set)

    def remove(self, actions: list[Remove]) -> None:
        """All removals, noted before any secret is read: a relay whose time is up stops even if no key decrypts."""
        going = [self.observed[action.name] for action in actions if action.name in self.observed]
        read_before_stop(self.server, [container for container in going if container.state == State.RUNNING])
        for outcome in carry_out(actions, {}, self.open_runtime, self.renew):
            self.result.outcomes.append(outcome)
            if isinstance(outcome.action, Remove) and outcome.failure:
                self.unremoved.add(outcome.action)
            elif not outcome.failure:
                self.removed += 1
                note_removed(self.server, outcome.action.relay_id, outcome.action.name)

    def bring_images(self, relay_ids: Collection[int]) -> None:
        """Have on the host what these relays are made of."""
        if relay_ids:
            present = relay_image(self.server)
            bring_images({image_of(self.rows[pk], present) for pk in relay_ids}, self.open_runtime, self.renew)

    def bring_up(self, actions: list[Action]) -> None:
        """All else, except what a container that would not go stands in the way of."""
        in_the_way = {action.name for action in self.unremoved}
        due = [action for action in actions if action.name not in in_the_way]
        if not due:
            return
        # Read again with their secrets; the notes then speak of the rows that the host was told.
        fresh = {row.pk: row for row in wanted_rows(self.server.pk).filter(pk__in=[action.relay_id for action in due])}
        self.rows |= fresh
        specs = self._specs([action for action in due if action.relay_id in fresh])
        Relay.objects.filter(pk__in=specs).update(applied_speed=SPEED_UNKNOWN)
        due = [action for action in due if action.relay_id in specs]
        for outcome in carry_out(due, specs, self.open_runtime, self.renew):
            self.result.outcomes.append(outcome)
            relay = self.rows[outcome.action.relay_id]
            if outcome.failure is None:
                _note_done(relay, outcome, self.result)
            else:
                self._note_failed(relay, outcome.action, outcome.failure)

    def _specs(self, actions: list[Action]) -> dict[int, RelaySpec]:
        """What the host must be told, by relay; one whose secrets cannot be read is in trouble and stops no other."""
        specs = {}
        for action in actions:
            relay = self.rows[action.relay_id]
            try:
                specs[relay.pk] = full_spec(relay)
            except ValueError:
                # Without the error's words: they may quote what should be a key.
                self._note_failed(relay, action, Rejected("secret_unreadable"))
        return specs

    def _note_failed(self, relay: Relay, action: Action, failure: RuntimeFailure) -> None:
        wait = RETRY_SECONDS[min(relay.tries, len(RETRY_SECONDS) - 1)]
        relay.tries += 1
        relay.next_try_at = now() + timedelta(seconds=wait)
        relay.save(update_fields=["tries", "next_try_at"])
        if isinstance(action, Reload):
            return  # It serves on, at the speed and until the moment it knew.
        note_trouble(relay, failure.code, failure.detail)
        # A port that the relay's own old container still holds is not a stranger's: keep it, the map names it.
        if failure.code == "port_taken" and relay.pk not in {left.relay_id for left in self.unremoved}:
            change_port(relay.pk, relay.port.number)


def _note_done(relay: Relay, outcome: Outcome, result: PassResult) -> None:
    relay.tries, relay.next_try_at = 0, None
    relay.applied_speed, relay.applied_deadline = relay.group.speed_bytes_per_second, relay.group.run_until
    fields = ["tries", "next_try_at", "applied_speed", "applied_deadline"]
    if isinstance(outcome.action, Create | Start):
        relay.observed_state, relay.observed_generation = Relay.Observed.RUNNING, relay.generation
        relay.observed_at = relay.started_at = now()
        relay.container_id = outcome.container_id or relay.container_id
        fields += ["observed_state", "observed_generation", "observed_at", "started_at", "container_id"]
        relay_event(relay, RelayEvent.Kind.STARTED)
        result.started.append(relay.pk)
    relay.save(update_fields=fields)
    if not isinstance(outcome.action, Reload):
        clear_trouble(relay)


def _note_states(rows: dict[int, Any], result: PassResult) -> None:
    """What shows only in the listing: a relay that keeps stopping, or one that runs although trouble was noted.

    The latter came back by itself, or was brought back by a pass that died before it could say so.
    """
    acted = {outcome.action.relay_id for outcome in result.outcomes if isinstance(outcome.action, Create | Start)}
    for relay in rows.values():
        if relay.pk in acted:
            continue
        if relay.observed_state == Relay.Observed.RESTARTING:
            note_trouble(relay, "exited")
        elif relay.is_running and (relay.trouble_code or relay.clock_stands):
            clear_trouble(relay)


def _note_unreachable(server: Server, failure: RuntimeFailure) -> None:
    """Relays that were running are believed to run on; the ones that were not are down for their owners."""
    log.warning("server_unreachable", server=server.name, code=failure.code, detail=failure.detail)
    for relay in wanted_rows(server.pk):
        if not relay.is_running:
            if relay.trouble_code:
                open_outage_if_down(relay.group_id, failure.code)
            else:
                note_trouble(relay, failure.code, failure.detail)
