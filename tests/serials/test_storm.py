"""Everything that touches leases at the same time, for some seconds: nobody waits for each other for ever."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone

from accounts.models import User
from derp_portal.lib.errors import PortalError
from fleet.models import Outage, Port, Relay, RelayGroup, Wanted
from fleet.services import restart_relay, rotate_map_token
from fleet.services.outages import clear_trouble, note_trouble
from fleet.services.placement import change_port
from serials.models import Lease, LeaseTerm, Plan, SerialNumber
from serials.services import activate, end_lease, generate, renew_user, revoke_serials
from serials.services.leases import locked_lease
from serials.services.terms import follow
from serials.tasks import send_reminders, sweep_leases, sweep_serials
from tests.serials.shop import assert_in_step, be_patient, make_plan, make_server, new_codes

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db(transaction=True)]

SECONDS = 5.0
LONGEST_SECONDS = 90.0
"""For a busy machine, on which not everybody gets a turn so soon."""


class Storm:
    """Threads that repeat one verb each until time is up and all had a turn, and what they met.

    Refusals meant for people are no errors.
    """

    def __init__(self) -> None:
        self.errors: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self._stop = threading.Event()

    def blow(self, *verbs: Callable[[], object]) -> None:
        threads = [threading.Thread(target=self._repeat, args=(verb,)) for verb in verbs]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        while (lasted := time.monotonic() - began) < LONGEST_SECONDS:
            if lasted >= SECONDS and all(self.done[verb.__name__] for verb in verbs):
                break
            time.sleep(0.1)
        self._stop.set()
        for thread in threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in threads), "somebody never came back"

    def _repeat(self, verb: Callable[[], object]) -> None:
        try:
            be_patient()
            while not self._stop.is_set():
                self._try(verb)
        finally:
            connection.close()

    def _try(self, verb: Callable[[], object]) -> None:
        try:
            verb()
        except PortalError:
            self.done[f"{verb.__name__} refused"] += 1
        except Exception as error:  # noqa: BLE001 - the test judges what came of it
            self.errors[f"{verb.__name__}: {error!r}"[:300]] += 1
        else:
            self.done[verb.__name__] += 1


def any_relay() -> Relay | None:
    relays = Relay.objects.filter(released_at=None, server__isnull=False)
    return relays.select_related("group", "port").order_by("?").first()


def let_time_pass(lease_id: int, by: timedelta) -> None:
    """As if all of this lease had happened earlier."""
    with transaction.atomic():
        lease = locked_lease(lease_id)
        if not lease.is_active:
            return
        lease.terms.update(starts_at=F("starts_at") - by, ends_at=F("ends_at") - by)
        fields = ["ends_at", "renewed_at", "renewed_to", "active_since"]
        for name in fields:
            setattr(lease, name, getattr(lease, name) - by)
        lease.save(update_fields=fields)
        follow(lease, actor=None)


def assert_everything_in_step(people: list[User]) -> None:
    for user in people:
        assert_in_step(user)
    used = SerialNumber.objects.exclude(user=None)
    assert used.count() == LeaseTerm.objects.exclude(serial=None).count()
    for lease in Lease.objects.filter(status=Lease.Status.ACTIVE).select_related("relay_group"):
        assert lease.relay_group.wanted == Wanted.RUNNING
    assert not RelayGroup.objects.filter(wanted=Wanted.RUNNING).exclude(lease__status="active").exists()
    # A relay that waits for a place has no port; every other one has its own.
    placed = Relay.objects.filter(server__isnull=False, released_at=None)
    with_port = Port.objects.exclude(relay=None).values_list("relay", flat=True)
    assert set(with_port) == set(placed.values_list("id", flat=True))
    for outage in Outage.objects.exclude(term=None).select_related("term"):
        assert outage.ended_at is not None
        assert outage.term.ends_at - outage.term.starts_at == outage.ended_at - outage.started_at


class Verbs:
    """What people, sweeps and passes do to a few customers' leases, over and over."""

    def __init__(self, customers: list[User], root: User, plan: Plan, codes: list[str]) -> None:
        self.customers, self.root, self.plan, self.codes = customers, root, plan, codes

    def redeem(self) -> None:
        # Staff redeems for itself too, while it is the actor of other people's writes.
        user = random.choice([*self.customers, self.root])
        try:
            code = self.codes.pop()
        except IndexError:
            time.sleep(0.1)  # A long storm uses them up.
            return
        activate(user=user, code=code, actor=random.choice((None, self.root)))

    def sweep(self) -> None:
        sweep_leases()
        sweep_serials()
        send_reminders()

    def renew(self) -> None:
        until = timezone.now() + timedelta(days=random.randint(1, 400))
        renew_user(user_id=random.choice(self.customers).pk, until=until, actor=self.root)

    def age(self) -> None:
        for lease_id in self._any_lease():
            let_time_pass(lease_id, timedelta(days=random.choice((2, 30, 400))))

    def end(self) -> None:
        for lease_id in self._any_lease():
            end_lease(lease_id=lease_id, reason=Lease.EndReason.STAFF, actor=self.root)
        time.sleep(0.1)

    def fail_and_heal(self) -> None:
        if relay := any_relay():
            note_trouble(relay, "disk_full")
            clear_trouble(relay)

    def change_ports(self) -> None:
        if relay := any_relay():
            change_port(relay.pk, refused=relay.port.number)

    def press_buttons(self) -> None:
        if relay := any_relay():
            restart_relay(relay_id=relay.pk, actor=self.root)
            rotate_map_token(group_id=relay.group_id, actor=relay.owner)

    def revoke(self) -> None:
        batch = generate(count=3, plan=self.plan, actor=self.root)
        revoke_serials(serials=list(batch.serials.values_list("id", flat=True)), actor=self.root)

    def _any_lease(self) -> list[int]:
        return list(Lease.objects.filter(status="active").order_by("?").values_list("id", flat=True)[:1])


def test_activations_sweeps_renewals_and_notes_of_trouble_never_deadlock(
    alice: User, bob: User, root: User, plan: Plan
) -> None:
    make_server("two")
    codes = new_codes(plan, 600) + new_codes(make_plan(5, relay_count=2), 600)
    random.shuffle(codes)
    for user in (alice, bob, root):
        activate(user=user, code=codes.pop())
    verbs = Verbs([alice, bob], root, plan, codes)
    people = [verbs.redeem, verbs.redeem, verbs.redeem, verbs.renew, verbs.end, verbs.press_buttons, verbs.revoke]
    machines = [verbs.sweep, verbs.sweep, verbs.age, verbs.fail_and_heal, verbs.change_ports]

    storm = Storm()
    storm.blow(*people, *machines)

    assert storm.errors == {}
    for verb in {*people, *machines}:
        assert storm.done[verb.__name__], f"{verb.__name__} never got its turn: {storm.done}"
    sweep_leases()
    assert_everything_in_step([alice, bob, root])
