"""A customer's own verifier is asked, remembered while it is silent, and never holds the portal up."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest
import redis
import respx

from accounts.models import User
from derp_portal.lib.errors import PortalError
from derp_portal.lib.secrets import fingerprint
from fleet import door
from fleet.acl import delegate, door_log
from fleet.acl.decision import Decision, Door, Mode, Reason
from fleet.acl.doors import known_of, store
from fleet.acl.turns import turn_of
from fleet.models import AclLog, Relay, RelayGroup
from fleet.services.acl import change_policy, would_admit
from tests.fleet.engines import wait_until
from tests.fleet.fleet_parts import group, only_relay, server

URL = "https://headscale.example.com/verify"


def key(number: int) -> str:
    return f"nodekey:{number:064x}"


PHONE, OTHER = key(1), key(2)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def web() -> Iterator[respx.MockRouter]:
    with respx.mock(assert_all_called=False) as router:
        yield router


@pytest.fixture
def relay(alice: User) -> Relay:
    server()
    relay = only_relay(group(alice, lasts=timedelta(days=30)))
    change_policy(
        user_id=alice.pk,
        change=lambda policy: replace(policy, mode=Mode.DELEGATE, delegate_url=URL),
        reason="",
        actor=alice,
    )
    return relay


def ask(relay: Relay, node_key: str = PHONE) -> bool:
    return door.admits(relay.admission_secret, door.Question(node_key, "198.51.100.7"))


def reasons() -> list[str]:
    door_log.write_down()
    return list(AclLog.objects.order_by("id").values_list("reason", flat=True))


def a_minute_later() -> None:
    for name in store().scan_iter("acl:delegate:fresh:*"):
        store().delete(name)


def a_pause_later() -> None:
    for name in store().scan_iter("acl:delegate:down:*"):
        store().delete(name)


def test_it_is_asked_as_a_relay_would_and_its_word_counts_for_a_minute(relay: Relay, web: respx.MockRouter) -> None:
    route = web.post(URL).respond(json={"Allow": True})
    assert ask(relay)
    assert ask(relay)
    assert len(route.calls) == 1
    assert json.loads(route.calls.last.request.content) == {"NodePublic": PHONE, "Source": "198.51.100.7"}
    web.post(URL).respond(json={"Allow": False})
    assert not ask(relay, OTHER)
    assert ask(relay)
    a_minute_later()
    assert not ask(relay)
    assert reasons() == ["delegated", "delegated", "refused_by_delegate", "delegated", "refused_by_delegate"]


def test_while_it_is_silent_its_last_word_counts_and_for_others_what_the_plan_says(
    relay: Relay, web: respx.MockRouter
) -> None:
    web.post(URL).respond(json={"Allow": True})
    assert ask(relay)
    a_minute_later()
    for silence in (
        httpx.Response(502),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json={"Allow": "yes"}),
    ):
        a_pause_later()
        web.post(URL).mock(return_value=silence)
        assert ask(relay)
    assert ask(relay, OTHER), "the plan fails open"
    RelayGroup.objects.update(fails_open=False)
    store().delete(*store().scan_iter("acl:door:*"))
    assert not ask(relay, OTHER)
    assert ask(relay), "it was let in before"
    assert reasons()[-2:] == ["delegate_away", "delegated"]


def test_it_is_left_alone_for_a_while_after_a_silence(
    relay: Relay, web: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delegate, "DOWN_SECONDS", 600)
    route = web.post(URL).mock(side_effect=httpx.ConnectTimeout("silence"))
    for _ in range(20):
        ask(relay)
    assert len(route.calls) == 1


def test_one_that_hangs_holds_at_most_two_of_our_threads(
    relay: Relay, web: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody's turn runs out while a slow machine starts the others.
    monkeypatch.setattr(delegate, "SECONDS", 120)
    held, done = threading.Semaphore(0), threading.Event()

    def hang(request: httpx.Request) -> httpx.Response:
        held.release()
        done.wait(120)
        return httpx.Response(200, json={"Allow": True})

    route = web.post(URL).mock(side_effect=hang)
    question = {"node_key": PHONE, "source": "198.51.100.7"}
    known = known_of(fingerprint(relay.admission_secret), PHONE)
    assert known is not None
    threads = [threading.Thread(target=delegate.ask, args=(known.door,), kwargs=question) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(delegate.MOST_AT_ONCE):
        assert held.acquire(timeout=60)
    wait_until(
        lambda: sum(thread.is_alive() for thread in threads) <= delegate.MOST_AT_ONCE, what="the others' answers"
    )
    assert sum(thread.is_alive() for thread in threads) == delegate.MOST_AT_ONCE
    done.set()
    for thread in threads:
        thread.join(60)
    assert len(route.calls) == delegate.MOST_AT_ONCE


def side_by_side(door: Door, keys: list[str]) -> list[Decision]:
    """What is said of each of them, when they all come at once."""
    with ThreadPoolExecutor(len(keys)) as pool:
        return list(pool.map(lambda one: delegate.ask(door, node_key=one, source=""), keys))


def test_whoever_comes_with_many_keys_at_once_is_not_let_in_for_that(relay: Relay, web: respx.MockRouter) -> None:
    """The plan fails open; the verifier is slow, but not silent."""

    def refuse(request: httpx.Request) -> httpx.Response:
        time.sleep(delegate.PATIENCE + 0.5)
        return httpx.Response(200, json={"Allow": False})

    web.post(URL).mock(side_effect=refuse)
    known = known_of(fingerprint(relay.admission_secret), PHONE)
    assert known is not None
    said = side_by_side(known.door, [key(number) for number in range(10, 18)])
    assert not any(decision.is_allowed for decision in said)


def test_while_others_are_asked_about_its_last_word_counts(
    relay: Relay, web: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.post(URL).respond(json={"Allow": True})
    assert ask(relay)
    a_minute_later()
    monkeypatch.setattr(delegate, "MOST_AT_ONCE", 0)
    assert ask(relay)
    assert not ask(relay, OTHER)
    assert reasons() == ["delegated", "delegated", "delegate_busy"]


def test_those_who_find_others_being_asked_about_wait_for_their_turn(
    relay: Relay, web: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allow(request: httpx.Request) -> httpx.Response:
        time.sleep(0.2)
        return httpx.Response(200, json={"Allow": True})

    monkeypatch.setattr(delegate, "PATIENCE", 60)
    route = web.post(URL).mock(side_effect=allow)
    known = known_of(fingerprint(relay.admission_secret), PHONE)
    assert known is not None
    said = side_by_side(known.door, [key(number) for number in range(delegate.MOST_IN_LINE)])
    assert said == [Decision.yes(Reason.DELEGATED)] * delegate.MOST_IN_LINE
    assert len(route.calls) == delegate.MOST_IN_LINE


def test_a_refusal_counts_although_it_cannot_be_remembered(
    relay: Relay, web: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*args: object, **kwargs: object) -> None:
        raise redis.ConnectionError("gone")

    web.post(URL).respond(json={"Allow": False})
    monkeypatch.setattr(store(), "set", gone)
    assert not ask(relay)


def test_a_turn_that_ran_out_takes_nobody_elses_with_it() -> None:
    late = ExitStack()
    assert late.enter_context(turn_of("tests:turn", most=1, seconds=0.1))
    time.sleep(0.2)
    with turn_of("tests:turn", most=1, seconds=30) as following:
        assert following
        late.close()
        with turn_of("tests:turn", most=1, seconds=30) as third:
            assert not third
    assert not store().exists("tests:turn")


def test_the_api_says_what_the_door_would_while_the_verifier_is_silent(
    relay: Relay, web: respx.MockRouter, alice: User
) -> None:
    web.post(URL).respond(502)
    for fails_open in (True, False):
        RelayGroup.objects.update(fails_open=fails_open)
        for name in store().scan_iter("acl:door:*"):
            store().delete(name)
        decision, _version = would_admit(user_id=alice.pk, node_key=PHONE, source="198.51.100.7")
        assert decision == Decision(fails_open, Reason.DELEGATE_AWAY)
        assert ask(relay) == fails_open


@pytest.mark.parametrize("url", ["", "http://127.0.0.1/verify", "http://10.0.0.1/verify", "not an address"])
def test_only_a_public_address_can_be_delegated_to(relay: Relay, alice: User, url: str) -> None:
    with pytest.raises(PortalError):
        change_policy(user_id=alice.pk, change=lambda policy: replace(policy, delegate_url=url), reason="", actor=alice)


def test_a_name_that_leads_inside_is_not_asked(relay: Relay, alice: User) -> None:
    RelayGroup.objects.update(fails_open=False)
    change_policy(
        user_id=alice.pk,
        change=lambda policy: replace(policy, delegate_url="http://localhost:9/verify"),
        reason="",
        actor=alice,
    )
    assert not ask(relay)
    assert reasons() == ["delegate_away"]
