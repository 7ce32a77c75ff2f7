"""Every mode × known or unknown key × inside or outside the network × lease active, expired, over quota."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.acl.decision import Decision, Door, Mode, Reason, Standing, decide, is_within, parse_networks

NOON = datetime(2031, 3, 1, 12, tzinfo=UTC)
INSIDE, OUTSIDE = "192.0.2.7", "198.51.100.7"
ACTIVE = Door(
    relay_id=1,
    owner_id=2,
    should_run=True,
    run_until=NOON + timedelta(days=1),
    networks=("192.0.2.0/24",),
    learns_until=NOON + timedelta(hours=1),
)
LEASES = {
    "active": (ACTIVE, None),
    "expired": (replace(ACTIVE, run_until=NOON), Reason.ENDED),
    # A group over its quota is wanted stopped.
    "over quota": (replace(ACTIVE, should_run=False), Reason.STOPPED),
}
UNKNOWN_FROM_OUTSIDE = {
    Mode.CLOSED: Decision(False, Reason.NOT_LISTED),
    Mode.LEARN: Decision(True, Reason.LEARNED),
    Mode.OPEN: Decision(True, Reason.OPEN),
    Mode.DELEGATE: None,
}


def test_every_mode_is_in_the_matrix() -> None:
    assert set(UNKNOWN_FROM_OUTSIDE) == set(Mode)


@pytest.mark.parametrize(
    ("mode", "standing", "source", "lease"), list(product(Mode, Standing, (INSIDE, OUTSIDE), LEASES))
)
def test_the_matrix(mode: Mode, standing: Standing, source: str, lease: str) -> None:
    door, refusal = LEASES[lease]
    decision = decide(replace(door, mode=mode), source=source, standing=standing, is_probe=False, moment=NOON)
    if refusal:
        assert decision == Decision(False, refusal)
    elif standing == Standing.REMOVED:
        assert decision == Decision(False, Reason.REMOVED)
    elif standing == Standing.LISTED:
        assert decision == Decision(True, Reason.LISTED)
    elif source == INSIDE:
        assert decision == Decision(True, Reason.NETWORK)
    else:
        assert decision == UNKNOWN_FROM_OUTSIDE[mode]


def unknown(door: Door, moment: datetime = NOON) -> Decision | None:
    return decide(door, source=OUTSIDE, standing=Standing.UNKNOWN, is_probe=False, moment=moment)


def test_a_door_that_has_learned_is_closed_before_any_sweep_says_so() -> None:
    learning = replace(ACTIVE, mode=Mode.LEARN)
    assert unknown(learning, NOON + timedelta(minutes=59)) == Decision(True, Reason.LEARNED)
    assert unknown(learning, NOON + timedelta(hours=1)) == Decision(False, Reason.NOT_LISTED)
    assert unknown(replace(learning, learns_until=None)) == Decision(False, Reason.NOT_LISTED)


@pytest.mark.parametrize("mode", Mode)
def test_the_portals_probe_gets_in_wherever_the_relay_should_run(mode: Mode) -> None:
    door = replace(ACTIVE, mode=mode)
    probe = decide(door, source=OUTSIDE, standing=Standing.UNKNOWN, is_probe=True, moment=NOON)
    assert probe == Decision(True, Reason.PROBE)
    ended = decide(replace(door, run_until=NOON), source=OUTSIDE, standing=Standing.UNKNOWN, is_probe=True, moment=NOON)
    assert ended == Decision(False, Reason.ENDED)


@pytest.mark.parametrize(
    ("source", "networks", "expected"),
    [
        ("192.0.2.255", ["192.0.2.0/24"], True),
        ("192.0.3.0", ["192.0.2.0/24"], False),
        ("::ffff:192.0.2.1", ["192.0.2.0/24"], True),
        ("2001:db8::1", ["192.0.2.0/24", "2001:db8::/32"], True),
        ("2001:db9::1", ["2001:db8::/32"], False),
        ("192.0.2.1", [], False),
        ("192.0.2.1", ["0.0.0.0/0"], True),
    ],
)
def test_an_address_is_in_a_network_or_not(source: str, networks: list[str], expected: bool) -> None:
    assert is_within(source, networks) is expected


@given(st.text(max_size=60))
def test_no_source_brings_the_door_down(source: str) -> None:
    is_within(source, ["192.0.2.0/24", "::/0"])


def test_networks_are_kept_in_their_plain_form() -> None:
    said = [" 192.0.2.7/24 ", "", "192.0.2.0/24", "198.51.100.7", "2001:DB8::/32"]
    assert parse_networks(said) == ("192.0.2.0/24", "198.51.100.7/32", "2001:db8::/32")
    with pytest.raises(ValueError, match=r"^nonsense/8$"):
        parse_networks(["nonsense/8"])
