"""Uptime: which probes count, what a month comes to, and where people read it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db.models import QuerySet
from django.test import Client
from django.urls import reverse
from django.utils import translation
from time_machine import Traveller

from accounts.models import User
from fleet.derp.probe import ProbeResult
from fleet.models import Relay, RelayUptime, Server
from fleet.monitoring.probing import START_GRACE, keep
from fleet.monitoring.uptime import Uptime, percent, uptime_of, uptime_of_servers
from fleet.selectors import relays
from fleet.services.quota_keeping import judge_group
from serials.services import activate
from tests.api_client import Caller
from tests.fleet.fleet_parts import GOOD, SILENT, Fleet, group, only_relay, run_again, server, stop
from tests.serials.shop import make_plan, new_code_of

TODAY = date(2031, 3, 15)


@pytest.fixture
def clock() -> Iterator[Traveller]:
    with time_machine.travel(datetime(2031, 3, 15, 9, tzinfo=UTC), tick=False) as travel:
        yield travel


@pytest.fixture
def here(db: None) -> Server:
    return server()


@pytest.fixture
def relay(alice: User, here: Server, clock: Traveller) -> Relay:
    """alice's relay, which runs and has had its time to start."""
    bought = group(alice, lasts=timedelta(days=60))
    Fleet([here]).passes(2)
    clock.shift(START_GRACE)
    return only_relay(bought)


def counted() -> list[tuple[date, int, int]]:
    return list(RelayUptime.objects.order_by("day").values_list("day", "probes", "answered"))


def day(relay: Relay, when: date, probes: int, answered: int) -> None:
    RelayUptime.objects.create(relay=relay, day=when, probes=probes, answered=answered, latency_sum_ms=answered * 20)


# --- what counts ----------------------------------------------------------------------------------


def test_each_probe_counts_on_its_day_by_utc(relay: Relay, clock: Traveller) -> None:
    keep([(relay, GOOD)])
    keep([(relay, SILENT)])
    clock.move_to(datetime(2031, 3, 15, 23, 59, 59, tzinfo=UTC))
    keep([(relay, GOOD)])
    clock.shift(1)
    keep([(relay, GOOD)])
    assert counted() == [(TODAY, 3, 2), (date(2031, 3, 16), 1, 1)]


def test_latencies_of_answered_probes_are_summed(relay: Relay) -> None:
    for milliseconds in (10.0, 30.5):
        keep([(relay, ProbeResult(tls_ok=True, derp_ok=True, packet_ok=True, stun_ok=True, derp_ms=milliseconds))])
    # It answered the ping, and delivered nothing.
    keep([(relay, ProbeResult(tls_ok=True, derp_ok=True, derp_ms=900.0, error="no_packet"))])
    row = RelayUptime.objects.get()
    assert (row.probes, row.answered, row.latency_sum_ms) == (3, 2, 40.5)


def test_silence_while_it_starts_is_no_downtime(alice: User, here: Server, clock: Traveller) -> None:
    bought = group(alice)
    Fleet([here]).passes()
    keep([(only_relay(bought), SILENT)] * 3)
    assert counted() == []
    keep([(only_relay(bought), GOOD)])
    assert counted() == [(TODAY, 1, 1)]


def test_a_relay_that_was_stopped_while_its_probe_was_on_its_way_is_not_counted_down(relay: Relay) -> None:
    stop(relay.group)
    keep([(relay, SILENT)])
    assert counted() == []
    run_again(relay.group)
    keep([(relay, SILENT)])
    assert counted() == [(TODAY, 1, 0)]


def test_a_stop_for_the_quota_is_no_downtime(alice: User, relay: Relay) -> None:
    type(relay.group).objects.filter(pk=relay.group_id).update(quota_bytes=0)
    judge_group(relay.group_id)
    keep([(relay, SILENT)])
    assert counted() == []


def test_after_its_end_a_relay_owes_nobody_an_answer(relay: Relay, clock: Traveller) -> None:
    clock.shift(timedelta(days=61))
    keep([(relay, SILENT)])
    assert counted() == []


# --- months ---------------------------------------------------------------------------------------


def test_a_month_is_the_share_of_its_probes_and_unmeasured_is_not_nothing(
    relay: Relay, alice: User, django_assert_num_queries: object
) -> None:
    other = only_relay(group(alice))
    day(relay, date(2031, 1, 31), 100, 0)
    day(relay, date(2031, 2, 1), 30, 30)
    day(relay, date(2031, 2, 28), 10, 0)
    day(relay, date(2031, 3, 1), 1000, 999)
    day(relay, TODAY, 1000, 1000)
    day(relay, date(2031, 4, 1), 100, 0)
    with django_assert_num_queries(1):  # type: ignore[operator]
        found = uptime_of([relay.pk, other.pk])
    assert found == {relay.pk: Uptime(month=0.9995, month_before=0.75), other.pk: Uptime()}
    assert uptime_of([relay.pk], date(2031, 1, 7))[relay.pk] == Uptime(month=0.0)
    listed: QuerySet[Any] = relays().order_by("pk")
    assert list(listed.values_list("pk", "month_uptime", "last_month_uptime")) == [
        (relay.pk, 0.9995, 0.75),
        (other.pk, None, None),
    ]


def test_the_month_before_january_is_december(relay: Relay, clock: Traveller) -> None:
    day(relay, date(2031, 12, 31), 4, 3)
    day(relay, date(2032, 1, 1), 4, 4)
    clock.move_to(datetime(2032, 1, 20, tzinfo=UTC))
    assert uptime_of([relay.pk])[relay.pk] == Uptime(month=1.0, month_before=0.75)


def test_a_server_is_as_good_as_all_its_relays_together(alice: User, here: Server, relay: Relay) -> None:
    empty = server(2, is_enabled=False)
    second = only_relay(group(alice))
    day(relay, TODAY, 30, 30)
    day(second, TODAY, 10, 0)
    assert uptime_of_servers([here.pk, empty.pk]) == {here.pk: Uptime(month=0.75), empty.pk: Uptime()}


@pytest.mark.parametrize(
    ("share", "shown"),
    [(None, ""), (1.0, "100 %"), (0.99999, "99.99 %"), (0.9998, "99.98 %"), (0.29, "29.00 %"), (0.0, "0.00 %")],
)
def test_a_share_is_rounded_down_so_that_only_what_never_failed_is_whole(share: float | None, shown: str) -> None:
    with translation.override("en"):
        assert percent(share) == shown


# --- where it is read -----------------------------------------------------------------------------


def test_its_owner_reads_uptime_and_latency_through_the_api(relay: Relay, alice: User) -> None:
    [before] = Caller(alice).get("container/list")[1]["items"]
    assert (before["uptime"], before["latency_ms"]) == (None, None)
    keep([(relay, ProbeResult(tls_ok=True, derp_ok=True, packet_ok=True, stun_ok=True, derp_ms=18.4))])
    keep([(relay, SILENT)])
    [after] = Caller(alice).get("container/list")[1]["items"]
    assert (after["uptime"], after["health"]["status"]) == (0.5, "healthy")


def test_its_owner_sees_on_its_card_how_often_it_answered(
    client: Client, alice: User, here: Server, clock: Traveller
) -> None:
    relay = activate(user=alice, code=new_code_of(make_plan(30)))[1].relay_group.relays.get()
    client.force_login(alice)
    addresses = [reverse("dashboard"), reverse("lease", args=[relay.group.lease.pk])]
    for address in addresses:
        assert "this month" not in client.get(address).content.decode(), "what was not measured is not shown as nothing"
    day(relay, TODAY, 10_000, 9_998)
    day(relay, TODAY.replace(day=1) - timedelta(days=1), 2, 1)
    for address in addresses:
        shown = client.get(address).content.decode()
        assert "99.98 % this month" in shown
        assert 'title="Last month: 50.00 %"' in shown


def test_operators_see_months_on_the_relay_and_days_in_a_list(client: Client, root: User, relay: Relay) -> None:
    day(relay, date(2031, 2, 3), 10, 5)
    day(relay, TODAY, 10_000, 9_998)
    client.force_login(root)
    shown = client.get(reverse("admin:fleet_relay_change", args=[relay.pk])).content.decode()
    assert "99.98 % / 50.00 %" in shown
    listed = client.get(reverse("admin:fleet_relayuptime_changelist")).content.decode()
    assert "99.98 %" in listed
    assert "20.0 ms" in listed
    row = RelayUptime.objects.get(day=TODAY)
    assert client.get(reverse("admin:fleet_relayuptime_change", args=[row.pk])).status_code == 200
    assert client.get(reverse("admin:fleet_relayuptime_add")).status_code == 403
