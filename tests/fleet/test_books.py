"""Readings become books: once each, in every total, whoever brings them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import Notification, User
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet.metering.books import book
from fleet.metering.counting import Counters
from fleet.metering.reading import Question, Reading
from fleet.models import Meter, QuotaPeriod, Relay, RelayGroup, Traffic, TrafficPack, Wanted
from fleet.services import GroupTerms, set_group
from fleet.services.quota_keeping import add_pack, judge_group, keep_quotas, limit_user, unlimit_user
from fleet.services.quotas import usage_of
from tests.fleet import fleet_parts

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]

GB = 1000**3
NOON = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)


def reading(relay: Relay, counters: Counters | None, *, after: float = 0, error: str = "", **fields: Any) -> Reading:
    """A reading of the relay's container as it would be taken `after` seconds from now."""
    meter = Meter.objects.filter(relay=relay, generation=fields.get("generation", relay.generation)).first()
    question = Question(
        relay=relay,
        generation=fields.get("generation", relay.generation),
        server_id=relay.server_id or 0,
        ip="192.0.2.1",
        port=21000,
        stood_at=fields.get("stood_at", meter.read_at if meter else None),
    )
    return Reading(question, now() + timedelta(seconds=after), counters, error)


@pytest.fixture
def relay(alice: User) -> Relay:
    fleet_parts.server()
    return fleet_parts.only_relay(fleet_parts.group(alice))


def totals(relay: Relay) -> tuple[int, int]:
    return Relay.objects.values_list("upload_bytes", "download_bytes").get(pk=relay.pk)


def buckets(relay: Relay, span: Traffic.Span) -> list[tuple[int, int]]:
    return list(
        Traffic.objects.filter(relay=relay, span=span)
        .order_by("starts_at", "id")
        .values_list("upload_bytes", "download_bytes")
    )


def used(relay: Relay) -> int:
    return usage_of([RelayGroup.objects.get(pk=relay.group_id)])[relay.group_id].used


@pytest.fixture
def at() -> Iterator[Callable[[datetime], None]]:
    """A clock that stands still; sets it to another moment."""
    with time_machine.travel(NOON, tick=False) as traveller:
        yield traveller.move_to


@pytest.mark.usefixtures("at")
def test_a_reading_is_booked_in_every_total_at_once(relay: Relay) -> None:
    book([reading(relay, Counters(1, 100, 40))])
    book([reading(relay, Counters(1, 150, 90), after=60)])
    assert totals(relay) == (150, 90)
    assert buckets(relay, Traffic.Span.READING) == [(100, 40), (50, 50)]
    assert sum(up for up, _down in buckets(relay, Traffic.Span.HOUR)) == 150
    assert sum(down for _up, down in buckets(relay, Traffic.Span.DAY)) == 90
    assert used(relay) == 240


def test_the_same_reading_brought_twice_counts_once(relay: Relay) -> None:
    first = reading(relay, Counters(1, 100, 40))
    book([first])
    book([first])
    assert totals(relay) == (100, 40)


def test_a_late_reading_of_a_slower_worker_is_dropped(relay: Relay) -> None:
    slow = reading(relay, Counters(1, 100, 40))
    book([reading(relay, Counters(1, 150, 90), after=1)])
    book([slow])
    assert totals(relay) == (150, 90)


def test_two_containers_of_one_relay_are_counted_side_by_side(relay: Relay) -> None:
    book([reading(relay, Counters(1, 100, 40), generation=1)])
    book([reading(relay, Counters(2, 30, 30), generation=2)])
    book([reading(relay, Counters(1, 110, 40), generation=1, after=5)], is_last=True)
    book([reading(relay, Counters(2, 35, 30), generation=2, after=6)])
    assert totals(relay) == (145, 70)
    closed, going = Meter.objects.filter(relay=relay).order_by("generation")
    assert closed.next_read_at is None
    assert going.next_read_at is not None


def test_the_portals_own_packets_are_nobodys_traffic(relay: Relay) -> None:
    book([reading(relay, Counters(1, 0, 0))])
    Meter.objects.filter(relay=relay).update(own_received=64, own_sent=64)
    book([reading(relay, Counters(1, 164, 64), after=60)])
    assert totals(relay) == (100, 0)
    assert Meter.objects.values_list("own_received", "own_sent").get(relay=relay) == (0, 0)


@pytest.mark.usefixtures("at")
def test_what_a_dead_process_carried_unread_is_unknown_and_not_zero(relay: Relay) -> None:
    book([reading(relay, Counters(1, 100, 40))])
    restarted = (now() + timedelta(seconds=30)).timestamp()
    book([reading(relay, Counters(restarted, 5, 5), after=60)])
    assert totals(relay) == (105, 45)
    assert Traffic.objects.get(relay=relay, span="day").unmeasured_seconds == 30


@pytest.mark.usefixtures("at")
def test_a_container_that_goes_unread_leaves_a_gap(relay: Relay) -> None:
    book([reading(relay, Counters(1, 100, 40))])
    book([reading(relay, None, after=45, error="refused")], is_last=True)
    book([reading(relay, None, after=50, error="refused")], is_last=True)
    gaps = Traffic.objects.filter(relay=relay, span="reading").values_list("unmeasured_seconds", flat=True)
    assert sum(gaps) == 45
    assert totals(relay) == (100, 40)


def test_a_planned_stop_leaves_no_gap(relay: Relay) -> None:
    book([reading(relay, Counters(1, 100, 40))], is_last=True)
    started = (now() + timedelta(hours=5)).timestamp()
    book([reading(relay, Counters(started, 7, 7), after=5 * 3600 + 60)])
    assert totals(relay) == (107, 47)
    assert not Traffic.objects.filter(relay=relay, unmeasured_seconds__gt=0).exists()


def test_a_failed_reading_says_why_and_loses_nothing(relay: Relay) -> None:
    book([reading(relay, Counters(1, 100, 40))])
    book([reading(relay, None, after=60, error="timeout")])
    meter = Meter.objects.get(relay=relay)
    assert (meter.error, meter.failures) == ("timeout", 1)
    book([reading(relay, Counters(1, 300, 40), after=120)])
    assert totals(relay) == (300, 40)
    assert not Traffic.objects.filter(unmeasured_seconds__gt=0).exists()


def test_the_number_of_queries_does_not_grow_with_the_relays(
    at: Callable[[datetime], None], alice: User, bob: User
) -> None:
    fleet_parts.server()
    relays = [fleet_parts.only_relay(fleet_parts.group(owner)) for owner in [alice, bob] * 10]

    def cost(some: list[Relay], received: int) -> int:
        with CaptureQueriesContext(
            connection,
        ) as queries:
            book([reading_of(relay, received) for relay in some])
        return len(queries)

    def reading_of(relay: Relay, received: int) -> Reading:
        return Reading(
            Question(relay, 1, relay.server_id or 0, "192.0.2.1", 21000, stood[relay.pk]),
            now(),
            Counters(1, received, received),
        )

    stood: dict[int, Any] = dict.fromkeys([relay.pk for relay in relays])
    cost(relays, 1)
    stood = dict(Meter.objects.values_list("relay_id", "read_at"))
    at(NOON + timedelta(minutes=1))
    assert cost(relays[:2], 10) == cost(relays[2:], 10)


def limited(owner: User, quota: int = 100 * GB, **terms: Any) -> Relay:
    fleet_parts.server()
    period = (now() - timedelta(days=1), now() + timedelta(days=29))
    return fleet_parts.only_relay(
        fleet_parts.group(owner, lasts=timedelta(days=29), quota_bytes=quota, **{"period": period, **terms})
    )


def carry(relay: Relay, count: int) -> RelayGroup:
    """Let the relay have carried so much since it was last read, book and judge."""
    meter = Meter.objects.filter(relay=relay).first()
    if meter is None:
        book([reading(relay, Counters(1, 0, 0))])
    raw = Meter.objects.get(relay=relay).raw_received
    for group_id in book([reading(relay, Counters(1, raw + count, 0), after=0.001)]):
        judge_group(group_id)
    return RelayGroup.objects.get(pk=relay.group_id)


def told() -> list[str]:
    return list(Notification.objects.filter(kind="quota").order_by("id").values_list("subject", flat=True))


def test_over_its_quota_a_group_stops_and_a_pack_starts_it_again(alice: User, root: User) -> None:
    relay = limited(alice)
    assert carry(relay, 99 * GB).wanted == Wanted.RUNNING
    stopped = carry(relay, GB)
    assert (stopped.wanted, stopped.wanted_reason) == (Wanted.STOPPED, "over_quota")
    assert Relay.objects.get(pk=relay.pk).wanted == Wanted.STOPPED
    add_pack(group_id=stopped.pk, extra_bytes=50 * GB, key="order-1", actor=root)
    again = RelayGroup.objects.get(pk=stopped.pk)
    assert (again.wanted, again.over_quota_since) == (Wanted.RUNNING, None)
    assert Relay.objects.get(pk=relay.pk).wanted == Wanted.RUNNING


def test_the_same_pack_brought_twice_adds_once(alice: User, root: User) -> None:
    relay = limited(alice)
    for _time in range(2):
        add_pack(group_id=relay.group_id, extra_bytes=GB, key="order-1", actor=root)
    assert TrafficPack.objects.count() == 1
    assert usage_of([relay.group])[relay.group_id].limit == 101 * GB


@pytest.mark.parametrize(("extra", "code"), [(0, "invalid_pack"), (-1, "invalid_pack")])
def test_an_empty_pack_is_refused(alice: User, root: User, extra: int, code: str) -> None:
    with pytest.raises(PortalError) as refusal:
        add_pack(group_id=limited(alice).group_id, extra_bytes=extra, key="k", actor=root)
    assert refusal.value.code == code


def test_owners_are_told_at_80_95_and_100_percent_once_each(alice: User, root: User) -> None:
    relay = limited(alice)
    for percent in (79, 1, 5, 10, 1, 4, 0):
        carry(relay, percent * GB)
    keep_quotas()
    assert len(told()) == 3
    add_pack(group_id=relay.group_id, extra_bytes=100 * GB, key="more", actor=root)
    carry(relay, 61 * GB)
    assert len(told()) == 4, "80 % of the larger amount is news again"


def test_an_early_renewal_alone_starts_nothing(alice: User) -> None:
    relay = limited(alice)
    group = carry(relay, 100 * GB)
    assert group.period_start
    assert group.period_end
    terms = GroupTerms(quota_bytes=100 * GB, period=(group.period_start, group.period_end))
    set_group(
        group_id=group.pk,
        wanted=Wanted.RUNNING,
        run_until=group.run_until + timedelta(days=30),
        terms=terms,
        actor=alice,
    )
    assert RelayGroup.objects.get(pk=group.pk).wanted_reason == "over_quota"


def test_the_next_term_begun_now_starts_it_at_once(alice: User) -> None:
    relay = limited(alice)
    group = carry(relay, 100 * GB)
    terms = GroupTerms(quota_bytes=100 * GB, period=(now(), now() + timedelta(days=30)))
    set_group(group_id=group.pk, wanted=Wanted.RUNNING, terms=terms, actor=alice)
    assert RelayGroup.objects.get(pk=group.pk).wanted == Wanted.RUNNING
    assert used(relay) == 0


@pytest.mark.django_db(transaction=True)
def test_a_raised_quota_starts_it_and_lifting_that_stops_it_again(alice: User, root: User) -> None:
    relay = limited(alice)
    carry(relay, 100 * GB)
    limit_user(user_id=alice.pk, quota_bytes=None, note="a friend", actor=root)
    assert RelayGroup.objects.get(pk=relay.group_id).wanted == Wanted.RUNNING
    unlimit_user(user_id=alice.pk, actor=root)
    assert RelayGroup.objects.get(pk=relay.group_id).wanted == Wanted.STOPPED


@pytest.mark.django_db(transaction=True)
def test_with_another_limit_it_is_asked_anew_how_soon_to_read(alice: User, root: User) -> None:
    relay = limited(alice)
    carry(relay, GB)
    Meter.objects.update(next_read_at=now() + timedelta(minutes=1))
    limit_user(user_id=alice.pk, quota_bytes=2 * GB, actor=root)
    assert Meter.objects.filter(relay=relay, next_read_at__lte=now()).exists()


def test_a_lease_that_ended_meanwhile_is_not_started_by_a_pack(alice: User, root: User) -> None:
    relay = limited(alice)
    carry(relay, 100 * GB)
    set_group(group_id=relay.group_id, wanted=Wanted.STOPPED, reason="expired", actor=None)
    add_pack(group_id=relay.group_id, extra_bytes=GB, key="late", actor=root)
    keep_quotas()
    group = RelayGroup.objects.get(pk=relay.group_id)
    assert (group.wanted, group.wanted_reason) == (Wanted.STOPPED, "expired")


def test_a_worker_that_dies_after_booking_leaves_the_verdict_to_the_sweep(alice: User) -> None:
    relay = limited(alice)
    book([reading(relay, Counters(1, 0, 0))])
    book([reading(relay, Counters(1, 100 * GB, 0), after=0.001)])
    assert RelayGroup.objects.get(pk=relay.group_id).wanted == Wanted.RUNNING
    assert keep_quotas() == 1
    assert RelayGroup.objects.get(pk=relay.group_id).wanted_reason == "over_quota"
    assert not QuotaPeriod.objects.filter(is_due=True).exists()


def test_a_new_month_starts_a_stopped_group_by_itself(at: Callable[[datetime], None], alice: User) -> None:
    relay = limited(alice, is_monthly=True, period=(NOON, NOON + timedelta(days=60)))
    RelayGroup.objects.update(run_until=NOON + timedelta(days=60))
    carry(relay, 100 * GB)
    at(datetime(2026, 3, 31, 15, 0, tzinfo=UTC))
    keep_quotas()
    assert RelayGroup.objects.get(pk=relay.group_id).wanted == Wanted.STOPPED, "the month has not ended"
    at(datetime(2026, 4, 1, 0, 1, tzinfo=UTC))
    keep_quotas()
    assert RelayGroup.objects.get(pk=relay.group_id).wanted == Wanted.RUNNING
    assert used(relay) == 0


def test_bytes_that_passed_before_a_period_began_are_not_the_new_ones(
    at: Callable[[datetime], None], alice: User
) -> None:
    relay = limited(alice, is_monthly=True)
    at(datetime(2026, 3, 31, 12, 0, tzinfo=UTC))
    book([reading(relay, Counters(1, 0, 0))])
    at(datetime(2026, 4, 1, 12, 0, tzinfo=UTC))
    book([reading(relay, Counters(1, 5 * GB, 0))])
    assert used(relay) == 0
    assert QuotaPeriod.objects.order_by("starts_at").values_list("used_bytes", flat=True)[0] == 5 * GB
