"""The books against the truth, over any history of traffic, restarts, lost and repeated readings. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.metering.counting import READ_DENSELY_EVERY, READ_EVERY, Counters, Difference, difference, next_reading

T0 = datetime(2026, 3, 1, tzinfo=UTC)
AMOUNT = st.integers(0, 10**12)
HISTORY = st.lists(
    st.one_of(
        st.tuples(st.just("traffic"), AMOUNT, AMOUNT),
        st.tuples(st.just("probe"), st.integers(1, 64)),
        st.tuples(st.just("read")),
        st.tuples(st.just("read twice")),
        st.tuples(st.just("dies")),
        st.tuples(st.just("planned stop")),
    ),
    max_size=40,
)


@given(HISTORY)
def test_the_books_never_hold_more_than_passed_and_lose_only_what_an_unplanned_death_took(
    history: list[Any],
) -> None:
    true_up = true_down = booked_up = booked_down = lost_up = lost_down = probed = 0
    received = sent = unread_up = unread_down = 0
    since = T0.timestamp()
    before: Counters | None = None
    own = (0, 0)
    moment = T0

    def read() -> None:
        nonlocal before, own, booked_up, booked_down, unread_up, unread_down
        after = Counters(since, received, sent)
        counted, own = difference(before, after, read_before=moment, own=own)
        before = after
        booked_up += counted.upload
        booked_down += counted.download
        unread_up = unread_down = 0

    for step in history:
        moment += timedelta(seconds=1)
        match step:
            case ("traffic", up, down):
                true_up, true_down = true_up + up, true_down + down
                received, sent = received + up, sent + down
                unread_up, unread_down = unread_up + up, unread_down + down
            case ("probe", length):
                # Noted before it is sent.
                own = own[0] + length, own[1] + length
                received, sent, probed = received + length, sent + length, probed + length
            case ("read",):
                read()
            case ("read twice",):
                read()
                read()
            case ("dies",) | ("planned stop",):
                if step == ("planned stop",):
                    read()
                lost_up, lost_down = lost_up + unread_up, lost_down + unread_down
                received = sent = unread_up = unread_down = 0
                since = moment.timestamp()
        assert booked_up <= true_up
        assert booked_down <= true_down
    read()
    # What the portal's own probes were taken off too much for is at most what they sent.
    assert booked_up >= true_up - lost_up - probed
    assert booked_down >= true_down - lost_down - probed


def test_another_process_counts_from_zero_and_says_what_is_unknown() -> None:
    before = Counters(T0.timestamp(), 1000, 2000)
    after = Counters((T0 + timedelta(seconds=90)).timestamp(), 1500, 10)
    counted, _own = difference(before, after, read_before=T0 + timedelta(seconds=60))
    assert counted == Difference(1500, 10, timedelta(seconds=30))


def test_a_smaller_reading_of_the_same_process_counts_from_zero() -> None:
    counted, _own = difference(Counters(1, 1000, 2000), Counters(1, 30, 2005), read_before=T0)
    assert counted == Difference(30, 5)


def test_a_container_whose_last_reading_was_taken_has_nothing_unknown() -> None:
    counted, _own = difference(Counters(1, 1000, 2000), Counters(T0.timestamp(), 7, 8), read_before=None)
    assert counted == Difference(7, 8)


@pytest.mark.parametrize(
    ("left", "passed", "expected"),
    [
        (None, 10**12, READ_EVERY),
        (10**9, 0, READ_EVERY),
        (10**9, 60, READ_EVERY),
        # 1 MB/s, 120 MB left: a quarter of it passes in 30 s.
        (120 * 10**6, 60 * 10**6, timedelta(seconds=30)),
        (10**6, 60 * 10**6, READ_DENSELY_EVERY),
        (0, 60 * 10**6, READ_DENSELY_EVERY),
        (-5, 60 * 10**6, READ_DENSELY_EVERY),
    ],
)
def test_readings_get_denser_near_the_limit(left: int | None, passed: int, expected: timedelta) -> None:
    assert next_reading(left=left, passed=passed, took=timedelta(seconds=60)) == expected


def test_near_the_limit_an_idle_relay_is_read_as_if_it_were_busy() -> None:
    idle: dict[str, Any] = {"passed": 0, "took": timedelta(minutes=1)}
    assert next_reading(left=10**9, speed=10**6, **idle) == READ_EVERY
    assert next_reading(left=10**8, speed=10**6, **idle) == timedelta(seconds=12.5)
    assert next_reading(left=10**8, **idle) == READ_EVERY, "without a limit nothing is known of what could pass"


@given(
    quota=st.integers(1, 10**13),
    speed=st.integers(10**3, 10**9),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=400),
)
def test_a_group_gets_no_further_over_its_quota_than_its_speed_allows_in_ten_seconds(
    quota: int, speed: int, shares: list[float]
) -> None:
    used, passed, took = 0, 0, READ_EVERY
    for share in shares:
        wait = next_reading(left=quota - used, passed=passed, took=took, speed=speed)
        # Both directions count, each of them at some share of its limit since the reading before.
        passed, took = int(2 * speed * share * wait.total_seconds()), wait
        used += passed
        if used >= quota:
            break
    assert used - quota <= 2 * speed * READ_DENSELY_EVERY.total_seconds()


@given(quota=st.integers(1, 10**13), rate=st.integers(1, 10**9))
def test_without_a_speed_limit_a_steady_rate_is_stopped_within_ten_seconds_of_it(quota: int, rate: int) -> None:
    used, passed, took = 0, 60 * rate, READ_EVERY
    for _reading in range(1000):
        wait = next_reading(left=quota - used, passed=passed, took=took)
        passed, took = int(rate * wait.total_seconds()), wait
        used += passed
        if used >= quota:
            break
    assert used - quota <= rate * READ_DENSELY_EVERY.total_seconds()
