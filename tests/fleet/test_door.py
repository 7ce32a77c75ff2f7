"""The admission door: who gets in, until when, and that nothing a client sends can break it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
import time_machine
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_django.live_server_helper import LiveServer
from time_machine import Traveller

from accounts.models import User
from derp_portal.lib.clock import now
from fleet import services
from fleet.acl.decision import Mode
from fleet.acl.doors import store
from fleet.derp.client import DerpClient
from fleet.derp.errors import Denied
from fleet.derp.keys import derive_private, format_node_key, public_of
from fleet.door import BODY_LIMIT
from fleet.models import NodeKey, Relay, Wanted
from fleet.monitoring.probe_keys import probe_node_keys
from fleet.services import set_group
from fleet.services.acl import change_policy
from tests.fleet.derp_processes import BUNDLED, DERPER, derper_binary, running_relay
from tests.fleet.fleet_parts import group, only_relay, run_again, server, stop
from tests.parts import need

PHONE_PRIVATE = derive_private(b"tests", "phone")
PHONE, LAPTOP = (format_node_key(public_of(derive_private(b"tests", name))) for name in ("phone", "laptop"))


@pytest.fixture
def clock() -> Iterator[Traveller]:
    with time_machine.travel(datetime(2031, 3, 1, 9, tzinfo=UTC), tick=False) as travel:
        yield travel


@pytest.fixture
def relay(alice: User) -> Relay:
    server()
    return only_relay(group(alice))


def close(owner: User) -> None:
    change_policy(user_id=owner.pk, change=lambda policy: replace(policy, mode=Mode.CLOSED), reason="", actor=owner)


def ask(relay: Relay | str, node_key: str = PHONE) -> bool:
    # What is committed while a test runs is announced to nobody; what doors remember has tests of its own.
    store().flushdb()
    secret = relay if isinstance(relay, str) else relay.admission_secret
    body = json.dumps({"NodePublic": node_key, "Source": "192.0.2.77"})
    answer = Client().post(f"/derp/admit/{secret}", body, content_type="application/json")
    assert answer.status_code == 200
    allowed = answer.json()["Allow"]
    assert isinstance(allowed, bool)
    return allowed


def test_a_device_gets_in_until_the_deadline_and_not_at_it(clock: Traveller, relay: Relay) -> None:
    assert ask(relay)
    clock.move_to(relay.group.run_until - timedelta(seconds=1))
    assert ask(relay)
    clock.move_to(relay.group.run_until)
    assert not ask(relay)


def test_a_stopped_relay_lets_nobody_in_and_a_renewed_one_does(relay: Relay) -> None:
    stop(relay.group)
    assert not ask(relay)
    run_again(relay.group)
    assert ask(relay)


def test_a_released_relay_lets_nobody_in(relay: Relay) -> None:
    services.release_relay(relay_id=relay.pk, actor=None)
    assert not ask(relay)
    assert not ask(relay, min(probe_node_keys(relay)))


def test_a_locked_owners_relay_lets_nobody_in(relay: Relay, alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert not ask(relay)


def test_a_secret_that_nobody_has_is_a_plain_no(relay: Relay) -> None:
    for secret in ("wrong", relay.admission_hash, "x" * 3000, "ü%00'\"", "%ff%fe"):
        assert not ask(secret)


def test_the_portals_own_probe_gets_in_through_a_closed_door_and_no_other_relays(
    relay: Relay, alice: User, bob: User
) -> None:
    close(alice)
    keys = probe_node_keys(relay)
    assert len(keys) == 2
    assert all(ask(relay, key) for key in keys)
    other = only_relay(group(bob))
    close(bob)
    assert not any(ask(relay, key) for key in probe_node_keys(other))


@pytest.mark.parametrize("listed", [0, 300])
def test_an_answer_takes_at_most_four_queries_however_many_devices_are_listed(
    listed: int, relay: Relay, alice: User
) -> None:
    NodeKey.objects.bulk_create(NodeKey(owner=alice, key=f"nodekey:{number:064x}") for number in range(listed))
    for secret in (relay, "wrong"):
        with CaptureQueriesContext(connection) as queries:
            ask(secret)
        assert len(queries) <= 4


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'"nodekey:"',
        b'{"NodePublic": null}',
        b'{"NodePublic": ["nodekey:00"]}',
        b'{"NodePublic": "nodekey:00"}',
        b'{"NodePublic": "\\ud800"}',
        b"\xff\xfe\x00",
        b"[" * BODY_LIMIT,
        b"9" * BODY_LIMIT,
        b'{"NodePublic": NaN}',
        json.dumps({"NodePublic": PHONE}).encode() + b" " * BODY_LIMIT,
        b"x" * 5_000_000,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_no_request_is_refused_in_words(body: bytes, relay: Relay) -> None:
    answer = Client().post(f"/derp/admit/{relay.admission_secret}", body, content_type="application/json")
    assert answer.status_code == 400
    assert answer["Content-Type"].startswith("text/plain")


def test_a_request_of_exactly_the_limit_is_read(relay: Relay) -> None:
    body = json.dumps({"NodePublic": PHONE}).encode()
    answer = Client().post(
        f"/derp/admit/{relay.admission_secret}", body.ljust(BODY_LIMIT), content_type="application/json"
    )
    assert answer.json() == {"Allow": True}


@pytest.mark.parametrize("method", ["get", "head", "put", "delete", "patch"])
def test_the_door_only_takes_posts(method: str, relay: Relay) -> None:
    assert getattr(Client(), method)(f"/derp/admit/{relay.admission_secret}").status_code == 405


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.just(PHONE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("NodePublic"), inner, max_size=3),
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()), secret=st.text())
def test_no_body_and_no_secret_breaks_the_door(db: None, body: bytes, secret: str) -> None:
    path = quote(secret.encode("utf-8", "surrogatepass"), safe="") or "none"
    answer = Client().post(f"/derp/admit/{path}", body, content_type="application/json")
    # 404: a secret with a slash in it is another address.
    assert answer.status_code in (200, 400, 404)
    if answer.status_code == 200:
        assert answer.json() == {"Allow": False}


@pytest.fixture(params=[DERPER, BUNDLED])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == DERPER and derper_binary() is None:
        need("derper")
    return str(request.param)


@pytest.mark.django_db(transaction=True)
def test_a_real_relay_asks_the_door_and_turns_away_after_the_end(
    kind: str, live_server: LiveServer, alice: User, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server()
    relay = only_relay(group(alice))
    url = f"{live_server.url}/derp/admit/{relay.admission_secret}"
    with running_relay(kind, tmp_path_factory.mktemp("door"), flags=["-verify-client-url", url]) as running:
        target = running.target

        def connect() -> None:
            with DerpClient(
                ip=target.ip,
                port=target.port,
                host_name=target.host_name,
                pin=target.pin,
                private_key=PHONE_PRIVATE,
            ) as client:
                client.ping()

        connect()
        close(alice)
        with pytest.raises(Denied):
            connect()
        services.add_node_keys(owner=alice, lines=PHONE, actor=alice)
        connect()
        set_group(group_id=relay.group_id, wanted=Wanted.RUNNING, run_until=now(), actor=None)
        with pytest.raises(Denied):
            connect()
