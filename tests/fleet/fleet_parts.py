"""Regions, servers, groups and passes for tests of the fleet, in as few words as a story needs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from accounts.models import User
from derp_portal.lib.clock import now
from fleet import services
from fleet.models import Region, Relay, RelayGroup, Server, Wanted
from fleet.reconciler.loop import PassResult, reconcile
from fleet.runtimes.base import RelaySpec, Runtime
from fleet.services import GroupTerms
from tests.fleet.fake_engine import FakeEngine


def region(code: str = "here") -> Region:
    return Region.objects.get_or_create(code=code, defaults={"name": code.title()})[0]


def server(number: int = 1, **fields: Any) -> Server:
    """A server with an address of its own from the range kept for documentation."""
    values: dict[str, Any] = {
        "name": f"server-{number}",
        "ip": f"192.0.2.{number}",
        "region": region(),
        "port_first": 21000,
        "port_last": 21099,
    }
    return Server.objects.create(**{**values, **fields})


def group(owner: User, *, relays: int = 1, lasts: timedelta = timedelta(days=1), **terms: Any) -> RelayGroup:
    return services.create_group(
        owner=owner,
        label="",
        run_until=now() + lasts,
        terms=GroupTerms(relay_count=relays, **terms),
        actor=owner,
    )


def only_relay(of: RelayGroup) -> Relay:
    return of.relays.select_related("group", "server", "port").get(released_at=None)


def stop(what: RelayGroup) -> None:
    services.set_group(group_id=what.pk, wanted=Wanted.STOPPED, actor=None)


def run_again(what: RelayGroup, *, lasts: timedelta = timedelta(days=1)) -> None:
    services.set_group(group_id=what.pk, wanted=Wanted.RUNNING, run_until=now() + lasts, actor=None)


class Fleet:
    """Servers with a fake engine each, and passes over them."""

    def __init__(self, servers: Iterable[Server]) -> None:
        self.engines: dict[int, FakeEngine] = {one.pk: FakeEngine() for one in servers}

    def on(self, where: Server | Relay) -> FakeEngine:
        key = where.pk if isinstance(where, Server) else where.server_id
        assert key is not None
        return self.engines[key]

    def one_pass(self, where: Server | Relay) -> PassResult:
        key = where.pk if isinstance(where, Server) else where.server_id
        assert key is not None
        return reconcile(key, runtime_for=self.open)

    def passes(self, count: int = 1) -> None:
        """That many passes over every server."""
        for _ in range(count):
            for key in self.engines:
                reconcile(key, runtime_for=self.open)

    def open(self, where: Server) -> Runtime:
        return self.engines[where.pk].runtime()


def strangers_spec() -> RelaySpec:
    """A relay of another portal that shares our host."""
    return RelaySpec(
        name="stranger-1",
        volume="stranger-1",
        portal_id="another portal",
        relay_id=1,
        generation=1,
        digest="",
        image="",
        args=(),
        env={},
        files={},
        port=20999,
    )
