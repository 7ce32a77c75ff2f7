"""The decision, attacked: on a model host any plan leads to exactly what is wanted."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from fleet.reconciler.plan import Action, Create, Reload, Remove, Start, WantedRelay, plan
from fleet.runtimes.base import Observed, State

NAMES = [f"r{number}-{generation}" for number in range(1, 6) for generation in (1, 2)]


def number_of(name: str) -> int:
    return int(name[1])


@st.composite
def wanted_relays(draw: st.DrawFn) -> list[WantedRelay]:
    """At most one generation of each relay."""
    names = draw(st.lists(st.sampled_from(NAMES), unique_by=number_of))
    return [
        WantedRelay(number_of(name), name, draw(st.sampled_from(["old", "new"])), is_stale=draw(st.booleans()))
        for name in names
    ]


@st.composite
def hosts(draw: st.DrawFn) -> list[Observed]:
    """Whatever a listing may hold of ours, labels that somebody edited included."""
    names = draw(st.lists(st.sampled_from([*NAMES, "left-over"]), unique=True))
    return [
        Observed(
            id=name,
            name=name,
            portal_id="ours",
            relay_id=draw(st.sampled_from([0, number_of(name) if name in NAMES else 9])),
            generation=1,
            digest=draw(st.sampled_from(["old", "new", ""])),
            state=draw(st.sampled_from(list(State))),
        )
        for name in names
    ]


def carry_out(actions: list[Action], wanted: list[WantedRelay], host: list[Observed]) -> list[Observed]:
    """What the host looks like after the actions; an action that a host would refuse fails the test."""
    boxes = {box.name: box for box in host}
    digests = {want.name: want.digest for want in wanted}
    for action in actions:
        match action:
            case Remove():
                del boxes[action.name]
            case Create():
                assert action.name not in boxes
                box = Observed(action.name, action.name, "ours", action.relay_id, 1, "", State.RUNNING)
                boxes[action.name] = replace(box, digest=digests[action.name])
            case Start() | Reload():
                state = State.RUNNING if isinstance(action, Start) else boxes[action.name].state
                boxes[action.name] = replace(boxes[action.name], state=state)
    return list(boxes.values())


@given(wanted_relays(), hosts())
def test_a_plan_leads_to_one_container_for_each_wanted_relay_and_none_else(
    wanted: list[WantedRelay], host: list[Observed]
) -> None:
    after = carry_out(plan(wanted, host), wanted, host)
    assert {(box.name, box.digest) for box in after} == {(want.name, want.digest) for want in wanted}
    assert {box.state for box in after} <= {State.RUNNING, State.RESTARTING}


@given(wanted_relays(), hosts())
def test_planning_again_gives_nothing_to_do(wanted: list[WantedRelay], host: list[Observed]) -> None:
    after = carry_out(plan(wanted, host), wanted, host)
    reloaded = [replace(want, is_stale=False) for want in wanted]
    assert plan(reloaded, after) == []


@given(wanted_relays(), hosts(), st.data())
def test_what_failed_is_planned_again(wanted: list[WantedRelay], host: list[Observed], data: st.DataObject) -> None:
    """Any part of the plan may fail: the next plans still lead there."""
    for _ in range(3):
        actions = plan(wanted, host)
        failed = data.draw(st.sets(st.sampled_from([action.name for action in actions]))) if actions else set()
        host = carry_out([action for action in actions if action.name not in failed], wanted, host)
    after = carry_out(plan(wanted, host), wanted, host)
    assert {(box.name, box.digest) for box in after} == {(want.name, want.digest) for want in wanted}


@given(wanted_relays(), hosts())
def test_removals_come_first(wanted: list[WantedRelay], host: list[Observed]) -> None:
    kinds = [isinstance(action, Remove) for action in plan(wanted, host)]
    assert kinds == sorted(kinds, reverse=True)


@given(wanted_relays(), hosts())
def test_what_is_wanted_and_right_is_left_alone(wanted: list[WantedRelay], host: list[Observed]) -> None:
    running = {(box.name, box.digest) for box in host if box.state in (State.RUNNING, State.RESTARTING)}
    right = {want.name for want in wanted if (want.name, want.digest) in running and not want.is_stale}
    assert not right & {action.name for action in plan(wanted, host)}


@given(wanted_relays(), hosts())
def test_no_container_is_acted_on_twice_but_to_replace_it(wanted: list[WantedRelay], host: list[Observed]) -> None:
    kinds: dict[str, list[type[Action]]] = {}
    for action in plan(wanted, host):
        kinds.setdefault(action.name, []).append(type(action))
    assert all(len(made) == 1 or made == [Remove, Create] for made in kinds.values())


@given(hosts())
def test_an_empty_wish_empties_the_host(host: list[Observed]) -> None:
    assert carry_out(plan([], host), [], host) == []
