"""Charts of money as the server draws them: where each bar lies. The templates make SVG of it, without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .figures import Step

HEIGHT = 100
STEP = 10
"""How wide a bar and the space behind it are; the page stretches the whole to its own width."""
BAR = 8


@dataclass(frozen=True, slots=True)
class Bar:
    """One step: wholesale stands on revenue; what was given back hangs below the line. Of `HEIGHT`, y from the top."""

    step: Step
    x: int
    revenue_y: float
    revenue_height: float
    wholesale_y: float
    wholesale_height: float
    refunds_height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars side by side; `top` is what the whole height above the line stands for, `depth` how far bars hang below."""

    bars: list[Bar]
    top: int
    depth: float

    @property
    def width(self) -> int:
        return max(len(self.bars), 1) * STEP

    @property
    def height(self) -> float:
        """All of it, above and below the line."""
        return HEIGHT + self.depth

    @property
    def newest_first(self) -> list[Step]:
        return [bar.step for bar in self.bars[::-1]]

    @property
    def is_empty(self) -> bool:
        """Nothing was sold and nothing given back."""
        return all(not bar.step.sums.gross and not bar.step.sums.refunds for bar in self.bars)


def money_chart(steps: Sequence[Step]) -> Chart:
    """The chart of a series."""
    top = round_top(max((step.sums.gross for step in steps), default=0))
    bars = [_bar(number, step, top) for number, step in enumerate(steps)]
    return Chart(bars, top, max((bar.refunds_height for bar in bars), default=0.0))


def round_top(highest: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50 … that is not below `highest`."""
    top = 1
    while True:
        for factor in (1, 2, 5):
            if top * factor >= highest:
                return top * factor
        top *= 10


def _bar(number: int, step: Step, top: int) -> Bar:
    # A reversal may leave less than nothing for a day: that has no bar.
    revenue = _height(step.sums.revenue, top)
    wholesale = _height(step.sums.wholesale, top)
    return Bar(
        step=step,
        x=number * STEP + (STEP - BAR) // 2,
        revenue_y=round(HEIGHT - revenue, 2),
        revenue_height=revenue,
        wholesale_y=round(HEIGHT - revenue - wholesale, 2),
        wholesale_height=wholesale,
        # More may be given back on a day than was ever sold on one.
        refunds_height=min(_height(step.sums.refunds, top), float(HEIGHT)),
    )


def _height(amount: int, top: int) -> float:
    return round(HEIGHT * max(amount, 0) / top, 2)
