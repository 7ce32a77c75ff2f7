"""Amounts: read strictly, written exactly, never rounded behind anybody's back."""

from __future__ import annotations

import pytest
from django.utils import translation
from hypothesis import given
from hypothesis import strategies as st

from derp_portal.lib import money


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [("19.90", "CNY", 1990), ("19.9", "CNY", 1990), ("0.01", "USD", 1), ("500", "JPY", 500), (" 7 ", "EUR", 700)],
)
def test_an_amount_is_read_in_its_smallest_unit(text: str, currency: str, minor: int) -> None:
    assert money.to_minor(text, currency) == minor


@pytest.mark.parametrize(
    "text", ["", "19,90", "1e3", "19.905", "NaN", "Infinity", "１９.９０", "0x10", "1_000", "- 5", "9" * 14, "--1"]
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"amount|finer|large"):
        money.to_minor(text, "CNY")


def test_half_a_yen_is_refused() -> None:
    with pytest.raises(ValueError, match="finer"):
        money.to_minor("0.5", "JPY")


@given(st.integers(0, money.LARGEST), st.sampled_from(["CNY", "JPY", "USD"]))
def test_what_is_written_is_read_again(amount: int, currency: str) -> None:
    assert money.to_minor(money.to_text(amount, currency), currency) == amount


def test_people_read_amounts_in_their_language() -> None:
    with translation.override("en"):
        assert money.for_people(123456, "CNY") == "CN¥1,234.56"
    with translation.override("zh-hans"):
        assert money.for_people(123456, "CNY") == "¥1,234.56"


@given(st.integers(0, 10**9), st.integers(1, 500))
def test_shares_add_up_and_differ_by_one_at_most(amount: int, parts: int) -> None:
    shares = money.share(amount, parts)
    assert sum(shares) == amount
    assert max(shares) - min(shares) <= 1


def test_a_part_of_a_percent_is_rounded_half_up() -> None:
    assert [money.percent_of(amount, 60) for amount in (0, 83, 84, 10_000)] == [0, 0, 1, 60]
