"""The chart of a reseller's months, as the server draws it: commission and margin, standing on each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

MONTHS_SHOWN = 12
HEIGHT = 100
STEP = 10
"""How wide a bar and the space behind it are; the page stretches the whole to its own width."""
BAR = 7
SMALLEST_TOP = 1000


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a bar; y counts from the top, heights are of `HEIGHT`."""

    y: float
    height: float


@dataclass(frozen=True, slots=True)
class MonthBar:
    """One month. What brought something stands on the zero line, what cost something hangs from it."""

    month: date
    x: int
    commission: int
    margin: int
    commission_piece: Piece
    margin_piece: Piece

    @property
    def total(self) -> int:
        return self.commission + self.margin


@dataclass(frozen=True, slots=True)
class MonthChart:
    """Bars side by side; `top` is how much the highest line stands for, `bottom` the lowest, 0 or less."""

    bars: list[MonthBar]
    top: int
    bottom: int
    zero_y: float

    @property
    def width(self) -> int:
        return max(len(self.bars), 1) * STEP

    @property
    def newest_first(self) -> list[MonthBar]:
        return self.bars[::-1]

    @property
    def is_empty(self) -> bool:
        return not any(bar.commission or bar.margin for bar in self.bars)


def last_months(month: date, count: int) -> list[date]:
    """The first days of so many months up to this one, the oldest first."""
    months = [month.replace(day=1)]
    while len(months) < count:
        months.append((months[-1] - timedelta(days=1)).replace(day=1))
    return months[::-1]


def month_chart(values: Sequence[tuple[date, int, int]]) -> MonthChart:
    """The chart of months with what was earned and what was made by selling on, in minor units."""
    above = max((max(earned, 0) + max(made, 0) for _month, earned, made in values), default=0)
    below = min((min(earned, 0) + min(made, 0) for _month, earned, made in values), default=0)
    top, bottom = round_up(above), -round_up(-below) if below else 0
    scale = HEIGHT / (top - bottom)
    zero = round(top * scale, 2)
    return MonthChart([_bar(number, *value, zero, scale) for number, value in enumerate(values)], top, bottom, zero)


def round_up(amount: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50 … (times the smallest top) that is not below `amount`."""
    top = SMALLEST_TOP
    while True:
        for factor in (1, 2, 5):
            if top * factor >= amount:
                return top * factor
        top *= 10


def _bar(number: int, month: date, earned: int, made: int, zero: float, scale: float) -> MonthBar:
    first = _piece(earned, 0, zero, scale)
    # What has the same sign stands on the first; what has not begins at zero.
    second = _piece(made, earned if (earned > 0) == (made > 0) else 0, zero, scale)
    return MonthBar(month, number * STEP + (STEP - BAR) // 2, earned, made, first, second)


def _piece(amount: int, beyond: int, zero: float, scale: float) -> Piece:
    height = round(abs(amount) * scale, 2)
    start = zero - beyond * scale
    return Piece(round(start - height if amount >= 0 else start, 2), height)
