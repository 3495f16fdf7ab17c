"""Numbers and pictures ready for a page: a value never without its interval, an axis with round ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evals.core import statistics
from evals.core.metric import Metric
from evals.core.statistics import Estimate
from reports.runs import RowResult

UNEVEN = 0.15
"""Share of an interval's half width by which its middle may miss the value before "±" would mislead."""


@dataclass(frozen=True)
class Figure:
    """A value in the card's unit with its 95 % interval (None: unknown), and how often it was measured."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    decimals: int = 1

    @property
    def text(self) -> str:
        """The value as printed, or a dash."""
        return "–" if self.value is None else f"{self.value:.{self.decimals}f}"

    @property
    def spread_text(self) -> str:
        """Half the interval's width, as "±0.9"; its ends, as "0.9–2.2", where it is uneven; "±?" where unknown."""
        if self.value is None or self.low is None or self.high is None:
            return "±?"
        half = (self.high - self.low) / 2
        if abs(self.high - self.value - half) > UNEVEN * half:
            return f"{self.low:.{self.decimals}f}–{self.high:.{self.decimals}f}"
        return f"±{half:.{self.decimals}f}"

    @property
    def interval_text(self) -> str:
        """The interval as "41.2 to 43.0", or nothing."""
        if self.low is None or self.high is None:
            return ""
        return f"{self.low:.{self.decimals}f} to {self.high:.{self.decimals}f}"


def row_figure(row: RowResult) -> Figure:
    """A row of a card as a figure."""
    low, high = row.interval or (None, None)
    return Figure(row.value, low, high, row.n, row.metric.digits)


def mean_figure(mean: Estimate | None) -> Figure | None:
    """A mean over rows as a figure."""
    if mean is None:
        return None
    low, high = mean.interval() or (None, None)
    return Figure(mean.value, low, high, mean.n)


def task_figure(metric: Metric, columns: statistics.Columns) -> Figure | None:
    """A metric of one task from its score columns; None where the task has no such score."""
    measured = statistics.task_estimate(metric, columns)
    return None if measured is None else metric_figure(metric, measured)


def metric_figure(metric: Metric, measured: Estimate) -> Figure:
    """A measured value of one task or of a part of it, in the metric's own unit, as a figure."""
    stderr = None if measured.stderr is None else measured.stderr * metric.scale
    estimate = Estimate(measured.value * metric.scale, stderr, measured.n)
    low, high = statistics.row_interval(metric, 1, estimate) or (None, None)
    return Figure(estimate.value, low, high, estimate.n, metric.digits)


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high` in the values' unit."""

    low: float
    high: float
    step: float

    def place(self, value: float) -> float:
        """Where a value stands along the axis, in percent; what is outside stands at the edge."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 2)

    def below(self, value: float) -> float:
        """The same for an axis that rises, in percent from its top."""
        return round(100 - self.place(value), 2)

    def ticks(self) -> list[float]:
        """Round values along the axis."""
        return [self.low + k * self.step for k in range(round((self.high - self.low) / self.step) + 1)]


def axis(values: Iterable[float | None]) -> Axis:
    """An axis that holds all values, from a round number to a round number in at most eight steps."""
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    width = max(high - low, 1e-6)
    power = 10.0 ** math.floor(math.log10(width / 4))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10, 20) if width / (power * factor) <= 6)
    start, end = math.floor(low / step) * step, math.ceil(high / step) * step
    return Axis(start, max(end, start + step), step)


@dataclass(frozen=True)
class Line:
    """One line of a picture: a name, a figure, and a published number beside it (None: there is none)."""

    label: str
    figure: Figure
    published: float | None = None

    @property
    def words(self) -> str:
        """The line for who cannot see it."""
        figure = self.figure
        interval = figure.interval_text or "unknown"
        words = f"{self.label}: {figure.text}, 95 % interval {interval}, n = {figure.n:,}"
        return words if self.published is None else f"{words}, published {self.published:g}"


@dataclass(frozen=True)
class Forest:
    """Lines with intervals on one axis."""

    title: str
    caption: str
    lines: Sequence[Line]
    axis: Axis


def forest(lines: Iterable[Line], title: str, caption: str) -> Forest | None:
    """The lines that have a value on an axis that holds them; None where none has."""
    known = [line for line in lines if line.figure.value is not None]
    bounds = [b for one in known for b in (one.figure.value, one.figure.low, one.figure.high, one.published)]
    return Forest(title, caption, known, axis(bounds)) if known else None
