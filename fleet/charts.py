"""Charts as the server draws them: where each bar of a history lies. The templates make SVG of it, without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fleet.traffic import Bucket

HEIGHT = 100
STEP = 10
"""How wide a bar and the space behind it are; the page stretches the whole to its own width."""
BAR = 8
SMALLEST_TOP = 100 * 1000**2


@dataclass(frozen=True, slots=True)
class Bar:
    """One stretch of time: download stands on upload. Heights are of `HEIGHT`, y counts from the top."""

    bucket: Bucket
    x: int
    upload_y: float
    upload_height: float
    download_y: float
    download_height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars side by side; `top` is how many bytes the whole height stands for."""

    bars: list[Bar]
    top: int

    @property
    def width(self) -> int:
        return max(len(self.bars), 1) * STEP

    @property
    def newest_first(self) -> list[Bar]:
        return self.bars[::-1]

    @property
    def has_gap(self) -> bool:
        return any(bar.bucket.has_gap for bar in self.bars)

    @property
    def is_empty(self) -> bool:
        """Nothing passed, or nothing is known of it."""
        return all(bar.bucket.amount.total == 0 for bar in self.bars)


def traffic_chart(buckets: Sequence[Bucket]) -> Chart:
    """The chart of a history."""
    top = round_top(max((bucket.amount.total for bucket in buckets), default=0))
    return Chart([_bar(number, bucket, top) for number, bucket in enumerate(buckets)], top)


def round_top(highest: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50 … (times a tenth of a gigabyte) that is not below `highest`."""
    top = SMALLEST_TOP
    while True:
        for factor in (1, 2, 5):
            if top * factor >= highest:
                return top * factor
        top *= 10


def _bar(number: int, bucket: Bucket, top: int) -> Bar:
    upload = round(HEIGHT * bucket.amount.upload / top, 2)
    download = round(HEIGHT * bucket.amount.download / top, 2)
    return Bar(
        bucket=bucket,
        x=number * STEP + (STEP - BAR) // 2,
        upload_y=round(HEIGHT - upload, 2),
        upload_height=upload,
        download_y=round(HEIGHT - upload - download, 2),
        download_height=download,
    )
