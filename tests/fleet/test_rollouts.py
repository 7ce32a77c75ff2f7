"""A new relay image reaches the fleet in steps, stops when it fails, and no relay loses its identity on the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings
from time_machine import Traveller

from accounts.models import AuditEntry, User
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet import services
from fleet.admin import rollouts as rollout_pages
from fleet.engines import fleet_image
from fleet.models import Alert, Relay, RelayEvent, RelayHealth, Rollout, Server
from fleet.monitoring.probing import probe_relays
from fleet.reconciler.loop import reconcile
from fleet.runtimes.base import Rejected
from fleet.runtimes.image import archive_path, build_warden, image_name, pack_image
from fleet.services.rollout_relays import progress_of
from fleet.services.rollouts import (
    advance_rollout,
    cancel_rollout,
    resume_rollout,
    roll_back,
    start_rollout,
    stop_rollout,
    why_stopped,
)
from tests.api_client import Caller
from tests.fleet.engines import DockerEngine, wait_until
from tests.fleet.fleet_parts import Fleet, group, only_relay, run_again, server, stop
from tests.parts import need
from tests.ports import free_port
from tests.serials.shop import at_once

NEW = "derp-portal/derper:9.9.9-w2"
OTHER = "derp-portal/derper:9.9.8-w2"
SWEEP, MINUTE = timedelta(seconds=20), timedelta(minutes=1)
State = Rollout.State


@pytest.fixture
def clock() -> Iterator[Traveller]:
    with time_machine.travel(datetime(2031, 3, 1, 9, tzinfo=UTC), tick=False) as travel:
        yield travel


@pytest.fixture(autouse=True)
def images(settings: Settings, tmp_path: Path) -> Path:
    """What the portal has stored: the image of today and two newer ones."""
    settings.IMAGES_DIR = tmp_path
    for image in (image_name(), NEW, OTHER):
        archive_path(image, tmp_path).touch()
    return tmp_path


class Story:
    """A fleet with a fake engine per server, whose relays answer probes unless they are named in `silent`."""

    def __init__(self, clock: Traveller, *servers: Server) -> None:
        self.clock, self.fleet = clock, Fleet(servers)
        self.silent: set[int] = set()

    def settle(self) -> None:
        """Everything that should run runs and has answered."""
        self.fleet.passes(2)
        self.probe()

    def probe(self) -> None:
        for relay in Relay.objects.filter(observed_state=Relay.Observed.RUNNING, released_at=None):
            health, _made = RelayHealth.objects.get_or_create(relay=relay)
            health.checked_at = now()
            if relay.pk in self.silent:
                health.status, health.failures = RelayHealth.Status.UNHEALTHY, 3
            else:
                health.status, health.healthy_at, health.version = RelayHealth.Status.HEALTHY, now(), relay.image
            health.save()

    def sweep(self) -> Rollout | None:
        """What happens within one interval of the sweep."""
        self.clock.shift(SWEEP)
        rollout = advance_rollout()
        self.fleet.passes()
        self.clock.shift(1)
        self.probe()
        return rollout

    def run(self, length: timedelta, *, every: timedelta = SWEEP) -> None:
        """Sweeps for so long."""
        until = now() + length
        while now() < until:
            self.clock.shift(every - SWEEP)
            self.sweep()

    def pass_canary(self, image: str = NEW, **pace: int) -> Rollout:
        """Begin, and come to the moment at which the canary has shown that the image works."""
        rollout = start_rollout(image=image, actor=None, **pace)
        for _ in range(20):
            self.sweep()
            rollout.refresh_from_db()
            if rollout.state == State.RUNNING:
                return rollout
        raise AssertionError(f"the canary did not pass: {rollout.state} {rollout.stopped_because}")


def relays_on(owner: User, where: Server, count: int) -> list[Relay]:
    until = now() + timedelta(days=9)
    return [services.allocate(owner=owner, server=where, run_until=until, actor=owner) for _ in range(count)]


def with_image(image: str = NEW) -> set[int]:
    return set(Relay.objects.filter(image=image, released_at=None).values_list("pk", flat=True))


def ids(relays: list[Relay]) -> set[int]:
    return {relay.pk for relay in relays}


def identities() -> list[Any]:
    what = ("code", "host_name", "pin", "port__number", "server", "generation", "region_id", "admission_hash")
    return list(Relay.objects.order_by("pk").values_list(*what))


@pytest.fixture
def story(db: None, clock: Traveller) -> Story:
    return Story(clock, server(1), server(2))


@pytest.fixture
def canary_relays(story: Story, alice: User) -> list[Relay]:
    """Two relays on the first server, which therefore is the canary."""
    return relays_on(alice, Server.objects.get(name="server-1"), 2)


@pytest.fixture
def others(story: Story, alice: User, canary_relays: list[Relay]) -> list[Relay]:
    """Eighteen relays on the second server; then all run."""
    made = relays_on(alice, Server.objects.get(name="server-2"), 18)
    story.settle()
    return made


def test_the_canary_goes_first_and_must_still_answer_after_two_minutes(
    story: Story, canary_relays: list[Relay], others: list[Relay], root: User
) -> None:
    rollout = start_rollout(image=NEW, actor=root)
    assert rollout.canary is not None
    assert rollout.canary.name == "server-1"
    story.sweep()
    assert with_image() == ids(canary_relays)
    assert {box.spec.image for box in story.fleet.on(canary_relays[0]).boxes.values()} == {NEW}
    story.run(timedelta(seconds=90))
    rollout.refresh_from_db()
    assert (rollout.state, with_image()) == (State.CANARY, ids(canary_relays))
    story.run(timedelta(minutes=2))
    rollout.refresh_from_db()
    assert rollout.state == State.RUNNING
    assert with_image() > ids(canary_relays)


def test_relays_follow_at_the_pace_and_keep_their_identity(story: Story, others: list[Relay]) -> None:
    before = identities()
    story.pass_canary(percent_per_hour=20)
    counts = []
    for _ in range(3):
        story.run(timedelta(hours=1), every=5 * MINUTE)
        counts.append(len(with_image() & ids(others)))
    assert counts == [4, 8, 12], "a fifth of twenty relays in every hour"
    story.run(timedelta(hours=2), every=5 * MINUTE)
    rollout = Rollout.objects.get()
    assert rollout.state == State.DONE
    assert rollout.ended_at is not None
    assert identities() == before
    assert {box.spec.image for engine in story.fleet.engines.values() for box in engine.boxes.values()} == {NEW}
    assert fleet_image() == NEW
    assert advance_rollout() is None


def test_the_first_relay_after_the_canary_does_not_wait_for_its_share(story: Story, others: list[Relay]) -> None:
    story.pass_canary(percent_per_hour=1)
    story.run(timedelta(minutes=5))
    assert len(with_image() & ids(others)) == 1


def test_time_in_which_nothing_could_be_done_is_not_made_up_for(story: Story, others: list[Relay]) -> None:
    story.pass_canary(percent_per_hour=20)
    story.clock.shift(timedelta(hours=5))  # No worker ran.
    story.probe()
    before = len(with_image())
    story.run(timedelta(minutes=14), every=MINUTE)
    assert len(with_image()) - before <= 2


def test_failing_probes_of_the_canary_stop_it_before_anybody_else_is_touched(
    story: Story, canary_relays: list[Relay], others: list[Relay], root: User
) -> None:
    rollout = start_rollout(image=NEW, actor=root)
    story.sweep()
    story.silent = {canary_relays[0].pk}
    story.run(timedelta(hours=1), every=5 * MINUTE)
    rollout.refresh_from_db()
    assert (rollout.state, rollout.stopped_because) == (State.STOPPED, "probes_fail")
    assert with_image() == ids(canary_relays)
    alert = Alert.objects.get(alert_type=Alert.Kind.ROLLOUT_STOPPED, resolved=False)
    assert NEW in alert.message
    assert canary_relays[0].code in alert.message
    assert AuditEntry.objects.filter(event="rollout.stopped").count() == 1


def test_failing_probes_later_on_stop_it_too_and_resuming_goes_on_without_a_burst(
    story: Story, canary_relays: list[Relay], others: list[Relay]
) -> None:
    rollout = story.pass_canary(percent_per_hour=20)
    story.run(timedelta(minutes=20), every=MINUTE)
    story.silent = {min(with_image() & ids(others))}
    story.run(timedelta(hours=3), every=5 * MINUTE)
    rollout.refresh_from_db()
    assert (rollout.state, rollout.stopped_because) == (State.STOPPED, "probes_fail")
    before = len(with_image())
    resume_rollout(rollout_id=rollout.pk, actor=None)
    assert not Alert.objects.filter(resolved=False).exists()
    story.run(timedelta(minutes=10), every=MINUTE)
    rollout.refresh_from_db()
    assert rollout.state == State.RUNNING, "what failed at the resumption stops it no more"
    assert len(with_image()) - before == 1
    story.silent.add(max(with_image() & ids(others)))
    story.sweep()
    story.sweep()
    rollout.refresh_from_db()
    assert rollout.state == State.STOPPED, "another one does"


def test_an_image_that_does_not_start_stops_it_with_the_reason(
    story: Story, canary_relays: list[Relay], others: list[Relay]
) -> None:
    rollout = start_rollout(image=NEW, actor=None)
    story.fleet.on(canary_relays[0]).fail(Rejected("image_missing", NEW), "create")
    story.run(timedelta(minutes=5))
    rollout.refresh_from_db()
    assert (rollout.state, rollout.stopped_because) == (State.STOPPED, "image_missing")
    assert why_stopped(rollout) == "The relay image is not on the server and could not be loaded."
    # The operator sees to it and resumes: the canary's relays get another chance, and have to work.
    story.fleet.on(canary_relays[0]).heal()
    resume_rollout(rollout_id=rollout.pk, actor=None)
    story.run(timedelta(minutes=5))
    rollout.refresh_from_db()
    assert rollout.state == State.RUNNING


def test_a_relay_that_is_replaced_and_never_comes_up_stops_it_after_three_minutes(
    story: Story, canary_relays: list[Relay], others: list[Relay]
) -> None:
    rollout = start_rollout(image=NEW, actor=None)
    story.fleet.on(canary_relays[0]).fail(Rejected("port_taken"), "start")
    story.sweep()
    Relay.objects.filter(pk__in=ids(canary_relays)).update(observed_state=Relay.Observed.CREATED, trouble_code="")
    advance_rollout()
    rollout.refresh_from_db()
    assert rollout.state == State.CANARY
    story.clock.shift(timedelta(minutes=4))
    advance_rollout()
    rollout.refresh_from_db()
    assert (rollout.state, rollout.stopped_because) == (State.STOPPED, "does_not_start")


def test_relays_made_meanwhile_get_the_old_image_and_are_picked_up(
    story: Story, others: list[Relay], alice: User
) -> None:
    rollout = story.pass_canary(percent_per_hour=100)
    late = only_relay(group(alice))
    assert late.image == image_name()
    story.run(timedelta(hours=2), every=5 * MINUTE)
    rollout.refresh_from_db()
    assert rollout.state == State.DONE
    assert late.pk in with_image()
    assert only_relay(group(alice)).image == NEW


def test_a_server_that_is_lost_neither_stops_it_nor_is_touched(
    story: Story, canary_relays: list[Relay], others: list[Relay]
) -> None:
    rollout = story.pass_canary(percent_per_hour=100)
    story.run(timedelta(minutes=10), every=MINUTE)
    some = with_image() & ids(others)
    assert some
    lost = Server.objects.filter(name="server-2")
    lost.update(phase=Server.Phase.UNHEALTHY, status=Server.Status.UNHEALTHY)
    Relay.objects.filter(server__in=lost).update(
        trouble_code="host_lost", trouble_since=now(), observed_state=Relay.Observed.UNKNOWN
    )
    story.fleet.engines.pop(lost.get().pk)
    story.run(timedelta(minutes=30), every=MINUTE)
    rollout.refresh_from_db()
    assert (rollout.state, with_image() & ids(others)) == (State.RUNNING, some)
    story.fleet = Fleet(Server.objects.all())
    lost.update(phase=Server.Phase.HEALTHY, status=Server.Status.HEALTHY)
    story.settle()
    story.run(timedelta(hours=2), every=5 * MINUTE)
    rollout.refresh_from_db()
    assert rollout.state == State.DONE


def test_a_canary_that_is_lost_before_it_was_touched_is_replaced(
    story: Story, canary_relays: list[Relay], others: list[Relay]
) -> None:
    rollout = start_rollout(image=NEW, actor=None)
    Server.objects.filter(name="server-1").update(phase=Server.Phase.UNHEALTHY, status=Server.Status.UNHEALTHY)
    advance_rollout()
    rollout.refresh_from_db()
    assert rollout.canary is not None
    assert rollout.canary.name == "server-2"


def test_one_relay_of_a_map_is_changed_only_while_the_other_serves(story: Story, alice: User) -> None:
    both = list(group(alice, relays=2).relays.order_by("slot"))
    assert len(both) == 2
    story.settle()
    start_rollout(image=NEW, canary_id=both[0].server_id, actor=None)
    story.silent = {both[1].pk}
    Relay.objects.filter(pk=both[1].pk).update(observed_state=Relay.Observed.RESTARTING)
    advance_rollout()
    assert with_image() == set(), "the standby does not run"
    story.silent = set()
    story.settle()
    story.run(timedelta(seconds=30))
    assert with_image() == {both[0].pk}
    Rollout.objects.update(state=State.RUNNING, paced_from=now() - timedelta(days=1), percent_per_hour=100)
    Relay.objects.filter(pk=both[0].pk).update(observed_state=Relay.Observed.RESTARTING)
    advance_rollout()
    assert with_image() == {both[0].pk}, "the primary has yet to come up"
    story.settle()
    story.run(timedelta(minutes=2))
    assert with_image() == ids(both)


def test_two_relays_of_a_map_are_never_changed_in_one_step(story: Story, alice: User) -> None:
    both = list(group(alice, relays=2).relays.all())
    story.settle()
    start_rollout(image=NEW, actor=None)
    Rollout.objects.update(state=State.RUNNING, paced_from=now() - timedelta(days=1), percent_per_hour=100)
    advance_rollout()
    advance_rollout()
    assert len(with_image() & ids(both)) == 1


def test_relays_that_do_not_run_get_the_image_without_waiting_their_turn(
    story: Story, others: list[Relay], alice: User
) -> None:
    resting = group(alice)
    story.settle()
    stop(resting)
    story.fleet.passes()
    story.pass_canary(percent_per_hour=1)
    story.sweep()
    assert only_relay(resting).pk in with_image()
    run_again(resting)
    story.settle()
    assert story.fleet.on(only_relay(resting)).boxes[only_relay(resting).container_name].spec.image == NEW


def test_a_relay_that_was_ill_before_goes_last_and_says_nothing_about_the_image(
    story: Story, others: list[Relay]
) -> None:
    ill = others[0]
    story.silent = {ill.pk}
    story.probe()
    rollout = story.pass_canary(percent_per_hour=100)
    story.run(timedelta(minutes=20), every=MINUTE)
    assert ill.pk not in with_image()
    story.run(timedelta(hours=2), every=5 * MINUTE)
    rollout.refresh_from_db()
    assert (rollout.state, ill.pk in with_image()) == (State.DONE, True)


def test_a_fleet_without_relays_takes_the_image_for_those_to_come(story: Story) -> None:
    start_rollout(image=NEW, actor=None)
    advance_rollout()
    assert (Rollout.objects.get().state, fleet_image()) == (State.DONE, NEW)


def test_calling_it_off_leaves_what_is_changed_and_touches_no_more(story: Story, others: list[Relay]) -> None:
    rollout = story.pass_canary()
    story.run(timedelta(minutes=40), every=MINUTE)
    changed = with_image()
    for _ in range(2):
        assert cancel_rollout(rollout_id=rollout.pk, actor=None).state == State.CANCELLED
    story.run(timedelta(hours=1), every=5 * MINUTE)
    assert with_image() == changed
    assert fleet_image() == image_name()
    assert AuditEntry.objects.filter(event="rollout.cancelled").count() == 1
    with pytest.raises(PortalError) as refusal:
        resume_rollout(rollout_id=rollout.pk, actor=None)
    assert refusal.value.code == "rollout_ended"


def test_rolling_back_heals_the_broken_at_once_and_the_others_within_an_hour(
    story: Story, canary_relays: list[Relay], others: list[Relay], root: User
) -> None:
    rollout = story.pass_canary(percent_per_hour=60)
    story.run(timedelta(minutes=30), every=MINUTE)
    before, changed = identities(), with_image()
    assert len(changed) > 4
    broken = min(changed & ids(others))
    story.silent = {broken}
    story.sweep()
    story.sweep()
    back = roll_back(rollout_id=rollout.pk, actor=root)
    rollout.refresh_from_db()
    assert (rollout.state, back.image, back.state) == (State.CANCELLED, image_name(), State.RUNNING)
    assert broken not in with_image()
    story.silent = set()
    story.run(timedelta(minutes=61), every=MINUTE)
    back.refresh_from_db()
    assert (with_image(), back.state) == (set(), State.DONE)
    assert identities() == before
    assert not Alert.objects.filter(resolved=False).exists()


def test_one_that_was_done_is_rolled_back_to_the_one_before(story: Story, others: list[Relay]) -> None:
    story.pass_canary(OTHER, percent_per_hour=100)
    story.run(timedelta(hours=2), every=5 * MINUTE)
    rollout = story.pass_canary(NEW, percent_per_hour=100)
    story.run(timedelta(hours=2), every=5 * MINUTE)
    assert fleet_image() == NEW
    roll_back(rollout_id=rollout.pk, actor=None)
    assert fleet_image() == OTHER, "new relays get it from now on"
    story.run(timedelta(hours=2), every=5 * MINUTE)
    assert len(with_image(OTHER)) == 20
    with pytest.raises(PortalError) as refusal:
        roll_back(rollout_id=rollout.pk, actor=None)
    assert refusal.value.code == "not_latest"


@pytest.mark.parametrize(
    ("image", "code"),
    [
        ("", "invalid_image"),
        ("derper", "invalid_image"),
        ("registry.example.com/derper", "invalid_image"),
        ("Derp Portal:1", "invalid_image"),
        ("registry.example.com/derper:1; rm -rf /", "invalid_image"),
        ("derper:1@sha256:abc", "invalid_image"),
        ("../../etc/passwd:1", "invalid_image"),
        ("a" * 201 + ":1", "invalid_image"),
        ("derp-portal/derper:0.0.0", "image_missing"),
        ("process:auto", "image_missing"),
    ],
)
def test_an_image_no_host_could_get_is_refused_in_words(db: None, image: str, code: str) -> None:
    with pytest.raises(PortalError) as refusal:
        start_rollout(image=image, actor=None)
    assert (refusal.value.code, refusal.value.status) == (code, 422)
    assert len(str(refusal.value)) > 30
    assert not Rollout.objects.exists()


@pytest.mark.parametrize(
    "image",
    ["registry.example.com/derper:1", "localhost/derper:1", "10.0.0.1:5000/a/b@sha256:" + "0" * 64, NEW, f" {NEW} "],
)
def test_an_image_that_is_stored_or_in_a_registry_is_taken(db: None, image: str) -> None:
    assert start_rollout(image=image, actor=None).image == image.strip()


def test_what_makes_no_sense_is_refused(story: Story, others: list[Relay]) -> None:
    def refused(code: str, **values: Any) -> None:
        with pytest.raises(PortalError) as refusal:
            start_rollout(**{"image": NEW, "actor": None, **values})
        assert refusal.value.code == code

    refused("nothing_to_do", image=image_name())
    refused("invalid_pace", percent_per_hour=0)
    refused("canary_unfit", canary_id=server(3).pk)
    rollout = start_rollout(image=NEW, actor=None)
    refused("rollout_open", image=OTHER)
    stop_rollout(rollout_id=rollout.pk, actor=None)
    refused("rollout_open", image=OTHER)


def test_a_stop_by_hand_holds_until_it_is_resumed(story: Story, others: list[Relay], root: User) -> None:
    rollout = start_rollout(image=NEW, actor=root)
    stop_rollout(rollout_id=rollout.pk, actor=root)
    story.run(timedelta(minutes=10), every=MINUTE)
    assert with_image() == set()
    rollout.refresh_from_db()
    assert why_stopped(rollout) == "An operator stopped it."
    assert not Alert.objects.exists()
    assert resume_rollout(rollout_id=rollout.pk, actor=root).state == State.CANARY
    story.sweep()
    assert len(with_image()) == 2


@pytest.mark.django_db(transaction=True)
def test_several_workers_at_once_share_one_pace(clock: Traveller, alice: User) -> None:
    story = Story(clock, server(1))
    relays_on(alice, Server.objects.get(), 12)
    story.settle()
    start_rollout(image=NEW, actor=None)
    Rollout.objects.update(state=State.RUNNING, paced_from=now(), percent_per_hour=100)
    counts = []
    for _ in range(4):
        outcomes = at_once([advance_rollout] * 4)
        assert not [one for one in outcomes if isinstance(one, Exception)]
        counts.append(len(with_image()))
        clock.shift(timedelta(minutes=5))
        story.settle()
    assert counts == [1, 1, 2, 3], "one in five minutes, the first in advance"
    assert RelayEvent.objects.filter(kind=RelayEvent.Kind.RESTARTED).count() == 3


def test_the_progress_is_told_for_every_server(story: Story, canary_relays: list[Relay], others: list[Relay]) -> None:
    rollout = start_rollout(image=NEW, actor=None)
    story.sweep()
    progress = progress_of(rollout)
    assert (progress.done, progress.total, progress.percent) == (2, 20, 10)
    assert [(row.server, row.done, row.total) for row in progress.servers] == [("server-1", 2, 2), ("server-2", 0, 18)]
    assert [row.versions for row in progress.servers] == [{NEW: 2}, {image_name(): 18}]


# --- pages and API --------------------------------------------------------------------------------


@pytest.fixture
def roots(client: Client, root: User) -> Client:
    """root's browser."""
    client.force_login(root)
    return client


def test_an_operator_starts_stops_resumes_and_rolls_back_in_the_admin(
    story: Story, others: list[Relay], roots: Client
) -> None:
    add = reverse("admin:fleet_rollout_add")
    refused = roots.post(add, {"image": "nonsense", "percent_per_hour": "20"})
    assert "This is not an image&#x27;s name" in refused.content.decode()
    answer = roots.post(add, {"image": NEW, "percent_per_hour": "20"})
    assert answer.status_code == 302
    rollout = Rollout.objects.get()
    story.sweep()
    page = roots.get(reverse("admin:fleet_rollout_change", args=[rollout.pk]))
    assert "2 of 20 relays have the image" in page.content.decode()
    assert roots.get(reverse("admin:fleet_rollout_changelist")).status_code == 200
    for name, expected in (("stop", State.STOPPED), ("resume", State.CANARY), ("roll_back", State.CANCELLED)):
        address = reverse(f"admin:fleet_rollout_{name}", args=[rollout.pk])
        state = rollout.state
        assert roots.get(address).status_code == 200
        rollout.refresh_from_db()
        assert rollout.state == state, "asked first"
        roots.post(address)
        rollout.refresh_from_db()
        assert rollout.state == expected
    roots.post(reverse("admin:fleet_rollout_cancel", args=[Rollout.objects.first().pk]))  # type: ignore[union-attr]
    assert set(Rollout.objects.values_list("state", flat=True)) == {State.CANCELLED}
    entry = AuditEntry.objects.filter(event="rollout.cancelled").get()
    assert entry.actor_label == "root"


def test_the_form_offers_only_healthy_docker_hosts(db: None) -> None:
    fit = server(1)
    server(2, runtime=Server.Runtime.PROCESS)
    server(3, phase=Server.Phase.SUSPECT, status=Server.Status.UNHEALTHY)
    assert list(rollout_pages.RolloutForm().fields["canary"].queryset) == [fit]  # type: ignore[attr-defined]


def test_a_roll_out_is_driven_over_the_api(story: Story, others: list[Relay], root: User) -> None:
    caller = Caller(root)
    status, answer = caller.post("rollout/start", image="nonsense")
    assert (status, answer["error"]["code"]) == (422, "invalid_image")
    status, answer = caller.post("rollout/start", image=NEW, percent_per_hour=10)
    number = answer["rollout_id"]
    assert (status, answer["rollout"]["state"], answer["rollout"]["total"]) == (200, "canary", 20)
    assert caller.post("rollout/start", image=OTHER)[1]["error"]["code"] == "rollout_open"
    story.sweep()
    shown = caller.get(f"rollout/{number}")[1]["rollout"]
    assert [(row["server"], row["done"]) for row in shown["servers"]] == [("server-1", 2), ("server-2", 0)]
    assert caller.post("rollout/stop", rollout_id=number)[1]["rollout"]["reason"] == "An operator stopped it."
    assert caller.post("rollout/resume", rollout_id=number)[1]["rollout"]["state"] == "canary"
    back = caller.post("rollout/rollback", rollout_id=number)[1]
    assert (back["rollout_id"] > number, back["rollout"]["image"]) == (True, image_name())
    assert caller.post("rollout/cancel", rollout_id=back["rollout_id"])[1]["rollout"]["state"] == "cancelled"
    assert [one["id"] for one in caller.get("rollout/list", state="cancelled")[1]["items"]] == [number + 1, number]
    assert caller.get("rollout/999")[0] == 404
    assert caller.post("rollout/start", image=NEW, canary_id=999)[0] == 404


# --- on a real engine -----------------------------------------------------------------------------


@pytest.mark.xdist_group("docker")
def test_a_real_container_changes_its_image_and_answers_with_the_same_pin(
    docker_engine: DockerEngine, settings: Settings, db: None, alice: User, images: Path
) -> None:
    derper, warden = Path(need("derper")).read_bytes(), build_warden("amd64", images).read_bytes()
    for image in (image_name(), NEW):
        archive_path(image, images).write_bytes(pack_image(image, derper, warden, b""))
    port = free_port()
    here = server(ip="127.0.0.1", endpoint=docker_engine.endpoint, port_first=port, port_last=port)
    try:
        relay = only_relay(group(alice))

        def image_of_container() -> str:
            with closing(docker_engine.api()) as api:
                return str(api.inspect_container(relay.container_name)["Config"]["Image"])

        reconcile(here.pk)
        wait_until(lambda: probe_relays([only_relay(relay.group)])[0].tls_ok, what="the relay's answer")
        assert image_of_container() == image_name()
        RelayHealth.objects.update(status=RelayHealth.Status.HEALTHY, healthy_at=now())
        before = identities()
        start_rollout(image=NEW, actor=None)
        advance_rollout()
        reconcile(here.pk)
        assert only_relay(relay.group).trouble_code == ""
        assert image_of_container() == NEW
        # TLS is checked against the pin the relay always had.
        wait_until(lambda: probe_relays([only_relay(relay.group)])[0].tls_ok, what="the replaced relay's answer")
        assert identities() == before
    finally:
        docker_engine.sweep()
