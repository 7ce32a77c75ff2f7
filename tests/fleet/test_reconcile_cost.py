"""What an idle pass costs: the same few queries and one listing, however many relays there are."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import User
from derp_portal.lib.clock import now
from fleet.models import Port, Relay, RelayGroup, Server
from fleet.reconciler.desired import desired, full_spec
from fleet.runtimes.base import State
from tests.fleet.fake_engine import Box
from tests.fleet.fleet_parts import Fleet, group, only_relay, server


def fill(fleet: Fleet, here: Server, owner: User, count: int) -> None:
    """`count` more relays that run on the host: copies of one, since making identities takes its time."""
    model = only_relay(group(owner))
    fleet.one_pass(here)
    spec = full_spec(model)
    fields = {
        field.attname: getattr(model, field.attname) for field in Relay._meta.concrete_fields if not field.primary_key
    }
    first = Relay.objects.count()
    groups = RelayGroup.objects.bulk_create(
        RelayGroup(owner=owner, run_until=now() + timedelta(days=1)) for _ in range(count - 1)
    )
    relays = Relay.objects.bulk_create(
        Relay(**{**fields, "code": f"copy{number}", "group_id": made.pk, "admission_hash": f"{number}"})
        for number, made in enumerate(groups, start=first)
    )
    Port.objects.bulk_create(
        Port(server=here, relay=relay, number=25000 + number) for number, relay in enumerate(relays, start=first)
    )
    wanted, rows = desired(here)
    for want in wanted:
        box = replace(spec, name=want.name, volume=want.name, digest=want.digest, relay_id=want.relay_id)
        fleet.on(here).boxes[want.name] = Box(box, State.RUNNING)
    Relay.objects.filter(pk__in=rows).update(observed_state=Relay.Observed.UNKNOWN)
    fleet.one_pass(here)


@pytest.mark.both_databases
def test_an_idle_pass_over_two_hundred_relays_asks_no_more_than_one_over_five(alice: User) -> None:
    here = server(max_relays=1000)
    fleet = Fleet([here])
    costs = []
    for count in (5, 195):
        fill(fleet, here, alice, count)
        fleet.on(here).calls.clear()
        with CaptureQueriesContext(connection) as queries:
            result = fleet.one_pass(here)
        assert result.outcomes == []
        assert fleet.on(here).calls == ["list"]
        costs.append(len(queries))
    assert Relay.objects.filter(observed_state=Relay.Observed.RUNNING).count() == 200
    assert costs[0] == costs[1] <= 8


def test_an_idle_pass_reads_no_secret(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    here = server()
    fleet = Fleet([here])
    group(alice)
    fleet.passes()
    monkeypatch.setattr("fleet.reconciler.loop.full_spec", None)
    with CaptureQueriesContext(connection) as queries:
        fleet.one_pass(here)
    secrets = ('"derper_key"', '"certificate_key"', '"admission_secret"', '"debug_key"', '"map_token"')
    assert not [query["sql"] for query in queries if any(secret in query["sql"] for secret in secrets)]
