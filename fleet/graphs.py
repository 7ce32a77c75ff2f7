"""Graphs of servers as the server draws them: what was measured, in so many steps. The templates make SVG of it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import NamedTuple

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from derp_portal.lib.clock import day_of, hour_of, now
from derp_portal.lib.units import megabits
from fleet.models import Measurement, Metric

HEIGHT = 100

Span = Measurement.Span


@dataclass(frozen=True, slots=True)
class Range:
    """How far back a graph reaches, and in which steps; what it is drawn from is kept for at least as long."""

    key: str
    label: Promise
    steps: int
    step: timedelta
    span: Measurement.Span

    def start(self, moment: datetime) -> datetime:
        """The beginning of the first step; the last one holds `moment`."""
        match self.span:
            case Span.HOUR:
                last = hour_of(moment)
            case Span.DAY:
                last = day_of(moment)
            case _:
                seconds = self.step.total_seconds()
                last = moment - timedelta(seconds=moment.timestamp() % seconds)
        return last - self.step * (self.steps - 1)


RANGES = (
    Range("3h", _("3 hours"), 36, timedelta(minutes=5), Span.READING),
    Range("48h", _("48 hours"), 48, timedelta(hours=1), Span.HOUR),
    Range("14d", _("14 days"), 14 * 24, timedelta(hours=1), Span.HOUR),
    Range("1y", _("1 year"), 365, timedelta(days=1), Span.DAY),
)


class Kind(NamedTuple):
    """One graph of every server: its metrics share an axis. `fixed_top` is where that ends, None = by the values."""

    title: Promise
    metrics: tuple[Metric, ...]
    words: Callable[[float], str]
    fixed_top: float | None = None


def _percent(value: float) -> str:
    return f"{value:.0f} %"


def _speed(value: float) -> str:
    return megabits(round(value))


KINDS = (
    Kind(_("CPU and memory"), (Metric.CPU, Metric.MEMORY), _percent, 100.0),
    Kind(_("Network"), (Metric.NETWORK_IN, Metric.NETWORK_OUT), _speed),
    Kind(_("Relays running"), (Metric.CONTAINERS,), lambda value: f"{value:.0f}"),
)

NAMES: dict[Metric, Promise] = {
    Metric.CPU: _("CPU"),
    Metric.MEMORY: _("memory"),
    Metric.NETWORK_IN: _("incoming"),
    Metric.NETWORK_OUT: _("outgoing"),
    Metric.CONTAINERS: _("relays"),
}


@dataclass(frozen=True, slots=True)
class Line:
    """One metric: SVG path data, broken where nothing was measured, and the same in words."""

    name: Promise
    path: str
    latest: str
    mean: str
    highest: str


@dataclass(frozen=True, slots=True)
class Graph:
    """Lines on one axis of `HEIGHT`, `width` wide, whose top is worth `top`."""

    title: Promise
    lines: list[Line]
    top: str
    width: int

    @property
    def is_empty(self) -> bool:
        return not self.lines


class _Step(NamedTuple):
    mean: float
    highest: float


def graphs_of(server_ids: Sequence[int], reach: Range) -> dict[int, list[Graph]]:
    """The graphs of each of these servers. One query, over what the range keeps of them."""
    start = reach.start(now())
    rows = Measurement.objects.filter(
        server__in=server_ids,
        metric__in=[metric for kind in KINDS for metric in kind.metrics],
        span=reach.span,
        timestamp__gte=start,
    ).order_by()
    found: dict[tuple[int, str, int], list[tuple[float, float]]] = defaultdict(list)
    for server_id, metric, timestamp, value, highest in rows.values_list(
        "server_id", "metric", "timestamp", "value", "highest"
    ):
        found[server_id, metric, int((timestamp - start) / reach.step)].append((value, highest))
    steps: dict[tuple[int, str], dict[int, _Step]] = defaultdict(dict)
    for (server_id, metric, number), values in found.items():
        mean = sum(value for value, _highest in values) / len(values)
        steps[server_id, metric][number] = _Step(mean, max(highest for _value, highest in values))
    return {key: [_graph(kind, key, steps, reach) for kind in KINDS] for key in server_ids}


def _graph(kind: Kind, server_id: int, steps: dict[tuple[int, str], dict[int, _Step]], reach: Range) -> Graph:
    measured = [(metric, steps[server_id, metric]) for metric in kind.metrics if steps.get((server_id, metric))]
    top = kind.fixed_top or _round_top(max((one.mean for _m, of in measured for one in of.values()), default=0.0))
    return Graph(
        kind.title, [_line(kind, metric, of, top) for metric, of in measured], kind.words(top), reach.steps - 1
    )


def _line(kind: Kind, metric: Metric, steps: dict[int, _Step], top: float) -> Line:
    means = [steps[number].mean for number in sorted(steps)]
    return Line(
        NAMES[metric],
        _path({number: step.mean for number, step in steps.items()}, top),
        kind.words(means[-1]),
        kind.words(sum(means) / len(means)),
        kind.words(max(step.highest for step in steps.values())),
    )


def _path(values: dict[int, float], top: float) -> str:
    """A stroke for each stretch without a gap; a single value is a dot, which a round cap makes visible."""
    strokes = []
    for _gap, members in groupby(enumerate(sorted(values)), key=lambda pair: pair[1] - pair[0]):
        points = [f"{x} {round(HEIGHT * (1 - min(values[x] / top, 1)), 1)}" for _number, x in members]
        strokes.append("M" + " L".join(points if len(points) > 1 else points * 2))
    return " ".join(strokes)


def _round_top(highest: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, 50 … that is not below `highest`."""
    if highest <= 1:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(highest))
    return next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= highest)
