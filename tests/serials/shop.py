"""What tests of serials set up: plans, a server to place relays on, codes to redeem, and many doing so at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, TypeVar

from django.apps import apps
from django.db import connection
from django.db.models import F, Max

from accounts.models import Notification, User
from fleet.models import Region, Relay, RelayGroup, Server
from fleet.services.outages import clear_trouble, note_trouble
from serials.models import Lease, LeaseTerm, Plan, SerialNumber
from serials.services import generate

T = TypeVar("T")

START = datetime(2027, 1, 15, 12, 0, tzinfo=UTC)
"""Where frozen tests begin: a plain winter day."""


def make_plan(days: int = 30, *, code: str = "", **fields: object) -> Plan:
    """A plan of the test's own; the example plans do not survive a flush of the database."""
    code = code or f"test-{days}"
    return Plan.objects.update_or_create(code=code, defaults={"name": code, "days": days, **fields})[0]


def make_server(name: str = "one", **fields: object) -> Server:
    """A healthy server with room, which nothing ever speaks to."""
    region, _created = Region.objects.get_or_create(code="test", defaults={"name": "Test"})
    ip = f"192.0.2.{Server.objects.count() + 1}"
    return Server.objects.create(**{"name": name, "ip": ip, "region": region, "max_relays": 1000, **fields})


def new_codes(plan: Plan, count: int = 1, **fields: Any) -> list[str]:
    """Codes of fresh serials."""
    batch = generate(count=count, plan=plan, actor=None, **fields)
    return list(batch.serials.order_by("id").values_list("code", flat=True))


def new_code_of(plan: Plan, **fields: Any) -> str:
    """The code of one fresh serial."""
    [code] = new_codes(plan, **fields)
    return code


def bring_up(group: RelayGroup) -> None:
    """The host shows the group's relays running, as a pass of the reconciler notes it."""
    Relay.objects.filter(group=group, released_at=None).update(
        observed_state=Relay.Observed.RUNNING, observed_generation=F("generation")
    )
    for relay in group.relays.filter(released_at=None):
        clear_trouble(relay)


def take_down(group: RelayGroup, cause: str = "disk_full") -> None:
    """The host shows none of them running, and says why."""
    Relay.objects.filter(group=group, released_at=None).update(observed_state=Relay.Observed.EXITED)
    for relay in group.relays.filter(released_at=None):
        note_trouble(relay, cause)


def mails(kind: str) -> list[Notification]:
    """What the outbox holds of that kind, oldest first."""
    return list(Notification.objects.filter(kind=kind).order_by("id"))


def assert_in_step(user: User) -> None:
    """What must hold for a user's leases after every operation, whatever it was."""
    expected = Lease.objects.filter(user=user, status=Lease.Status.ACTIVE).aggregate(end=Max("ends_at"))["end"]
    user.refresh_from_db()
    assert user.rental_expiry == expected
    for lease in Lease.objects.filter(user=user).select_related("relay_group"):
        open_terms = list(lease.terms.exclude(state=LeaseTerm.State.DONE).order_by("starts_at", "id"))
        assert lease.terms.filter(state=LeaseTerm.State.CURRENT).count() <= 1
        for earlier, later in pairwise(open_terms):
            assert earlier.ends_at == later.starts_at, "days overlap or are lost"
        if lease.is_active:
            assert lease.ends_at == open_terms[-1].ends_at
        else:
            assert open_terms == []
        assert lease.terms.count() == lease.relay_group.bindings.count()


def row_counts() -> dict[str, int]:
    """How many rows every table of ours has."""
    labels = ("accounts", "fleet", "serials", "billing", "resellers")
    return {
        model._meta.label: model._default_manager.count()
        for model in apps.get_models()
        if model._meta.app_label in labels
    }


@contextmanager
def nothing_changes() -> Iterator[None]:
    """No row of ours comes, goes, or (serials and leases) becomes another."""

    def state() -> object:
        return row_counts(), list(SerialNumber.objects.order_by("id").values()), list(Lease.objects.values())

    before = state()
    yield
    assert state() == before


def be_patient() -> None:
    """Connect this thread; on SQLite, where one writes at a time, let it wait its turn behind a crowd of others."""
    connection.ensure_connection()
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA busy_timeout = 120000")


def at_once(calls: Sequence[Callable[[], T]]) -> list[T | Exception]:
    """Run the calls at the same moment, each in a thread with a connection of its own; what came of each."""
    barrier = threading.Barrier(len(calls))
    outcomes: list[T | Exception | None] = [None] * len(calls)

    def run(position: int) -> None:
        try:
            be_patient()
            barrier.wait(120)
            outcomes[position] = calls[position]()
        except Exception as error:  # noqa: BLE001 - the test judges what came of it
            outcomes[position] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(position,)) for position in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
    assert not any(thread.is_alive() for thread in threads), "somebody never came back"
    return outcomes  # type: ignore[return-value]
