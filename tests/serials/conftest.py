"""Fixtures of the serials' tests. Models are imported inside: this file may load before the settings are laid out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import time_machine

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from accounts.models import User
    from fleet.models import Server
    from serials.models import Lease, Plan


@pytest.fixture
def server(db: None) -> Server:
    """Somewhere to place relays, so that no outage stops a lease's clock."""
    from tests.serials.shop import make_server

    return make_server()


@pytest.fixture
def plan(server: Server) -> Plan:
    """Thirty days, one relay."""
    from tests.serials.shop import make_plan

    return make_plan(30)


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many refusals as one likes: the test is about something else than the rate limit."""
    from serials.services import attempts

    monkeypatch.setattr(attempts, "USER_LIMITS", {})


@pytest.fixture
def unlocked(monkeypatch: pytest.MonkeyPatch, db: None) -> None:
    """Row locks switched off, for controls: what the locks are for must then go wrong."""
    from django.db import connection
    from django.db.models import QuerySet

    if connection.vendor != "postgresql":
        pytest.skip("needs postgresql: SQLite lets one writer in at a time, with or without row locks")

    def select_without_locks(queryset: QuerySet[Plan], **_options: object) -> QuerySet[Plan]:
        return queryset.all()

    monkeypatch.setattr(QuerySet, "select_for_update", select_without_locks)


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    """A clock that stands until it is moved."""
    from tests.serials.shop import START

    with time_machine.travel(START, tick=False) as traveller:
        yield traveller


@pytest.fixture
def lease(alice: User, plan: Plan, clock: time_machine.Traveller) -> Lease:
    """Alice's thirty days, her relay running."""
    from serials.services import activate
    from tests.serials.shop import bring_up, new_code_of

    _serial, lease = activate(user=alice, code=new_code_of(plan))
    bring_up(lease.relay_group)
    return lease
