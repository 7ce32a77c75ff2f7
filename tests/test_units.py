"""Amounts as people read them."""

from __future__ import annotations

import pytest
from django.utils import translation

from derp_portal.lib.units import data_amount


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (None, "0 GB"),
        (0, "0 GB"),
        (1, "1 kB"),
        (1_499, "1 kB"),
        (999_400, "999 kB"),
        (999_600, "1 MB"),
        (1_000_000, "1 MB"),
        (61_540_000, "61.5 MB"),
        (99_960_000, "100 MB"),
        (340_400_000, "340.4 MB"),
        (999_600_000, "1 GB"),
        (1_000_000_000, "1 GB"),
        (1_540_000_000, "1.5 GB"),
        (1_200_000_000_000, "1,200 GB"),
    ],
)
def test_an_amount_has_at_most_one_decimal(count: int | None, said: str) -> None:
    with translation.override("en"):
        assert data_amount(count) == said
