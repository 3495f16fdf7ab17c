"""Where the numbers that a report shows are computed, from the docs' scores; significance.py compares them.

Every metric is brought to one form: a score a doc whose mean is the metric and whose variance over docs is
the metric's own. For a ratio of sums (instructions followed over instructions given, ratings over rated
turns) that is the linearised score `R + (y - R m) / mean(m)` of a doc with `y` points in `m` items (Cochran
1977, Sampling Techniques, section 6.4), so that items which share a doc are clustered by it. Sums, means and
paired differences of metrics are then sums, means and differences of these scores, and correlations within a
doc count without further formulas.

Sources: Miller 2024, "Adding Error Bars to Evals" (arXiv 2411.00640): standard errors from the docs,
clustering, paired differences, power. The others are named where they are used. Units: those of the scores,
unless `scale` multiplies them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from evals.core.metric import METRICS, Metric, of_columns

Array = np.ndarray[Any, np.dtype[Any]]
Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Estimate:
    """A measured value, its standard error (None: one doc tells none) and the number of docs."""

    value: float
    stderr: float | None
    n: int

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """The large-sample interval value ± z·stderr."""
        if self.stderr is None:
            return None
        half = two_sided_z(level) * self.stderr
        return self.value - half, self.value + half


# --- normal quantiles -----------------------------------------------------------------------------


def quantile(p: float) -> float:
    """The standard normal quantile."""
    return float(special.ndtri(p))


def two_sided_z(level: float) -> float:
    """The z of a two-sided interval: 1.96 for 0.95."""
    return quantile(0.5 + level / 2)


def upper_tail(z: float) -> float:
    """P(Z > z) of a standard normal, exact far out."""
    return float(special.ndtr(-z))


# --- from the docs' scores to metrics -------------------------------------------------------------


def linearised_ratio(points: Array, items: Array) -> Array:
    """Scores a cluster of the ratio sum(points) / sum(items): their mean is the ratio, their spread its error."""
    total = items.sum()
    if total <= 0:
        raise ValueError("no items: the ratio is undefined")
    ratio = points.sum() / total
    scores: Array = ratio + (points - ratio * items) / items.mean()
    return scores


def doc_scores(metric: Metric, columns: Columns) -> Array | None:
    """One (linearised) score a doc, in the order of the columns, [n_docs]; None where they do not hold the metric."""
    if metric.parts:
        parts = [doc_scores(METRICS[name], columns) for name in metric.parts]
        known = [part for part in parts if part is not None]
        return np.mean(known, axis=0) if len(known) == len(parts) else None
    if metric.column not in columns:
        return None
    values = columns[metric.column]
    if metric.shape == "doc":
        return np.asarray(values, dtype=np.float64)
    points = np.array([float(np.sum(items)) for items in values])
    counts = np.array([len(items) for items in values], dtype=np.float64)
    return linearised_ratio(points, counts) if counts.sum() > 0 else None


def mean(scores: Array) -> Estimate:
    """Mean of the docs' scores; standard error = sample standard deviation / sqrt(n) (Miller 2024)."""
    n = len(scores)
    if n == 0:
        raise ValueError("no scores")
    stderr = float(np.std(scores, ddof=1) / math.sqrt(n)) if n > 1 else None
    return Estimate(float(np.mean(scores)), stderr, n)


def clustered_mean(scores: Array, clusters: Sequence[Any]) -> Estimate:
    """Mean over all items, with items of one cluster counted as dependent (Miller 2024)."""
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    points, items = np.bincount(index, weights=scores), np.bincount(index).astype(np.float64)
    estimate = mean(linearised_ratio(points, items))
    return Estimate(estimate.value, estimate.stderr, len(scores))


def weighted_sum(estimates: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
    """Sum of w·value of independent estimates; its variance is the sum of w²·var."""
    value = sum(w * e.value for w, e in zip(weights, estimates, strict=True))
    known = [e.stderr for e in estimates if e.stderr is not None]
    stderr = None
    if len(known) == len(estimates):
        stderr = math.sqrt(sum((w * s) ** 2 for w, s in zip(weights, known, strict=True)))
    return Estimate(value, stderr, sum(e.n for e in estimates))


def average(estimates: Sequence[Estimate]) -> Estimate:
    """Plain mean of independent estimates (a row over several tasks)."""
    return weighted_sum(estimates, [1 / len(estimates)] * len(estimates))


def _strata(metric: Metric, columns: Columns) -> list[Array] | None:
    """The docs' scores, by group where the metric is the plain mean of its groups (MMLU's 57 subjects)."""
    scores = doc_scores(metric, columns)
    if scores is None:
        return None
    if metric.average == "docs":
        return [scores]
    labels = np.asarray(columns["group"])
    return [scores[labels == label] for label in sorted(set(columns["group"]))]


def task_estimate(metric: Metric, columns: Columns) -> Estimate | None:
    """One task's value of the metric, in the scores' own unit; None where the columns do not hold it."""
    strata = _strata(metric, _with_items(metric, columns))
    if strata is None:
        return None
    parts = [mean(scores) for scores in strata]
    return average(parts) if metric.average == "groups" else parts[0]


def row_strata(metric: Metric, samples: Sequence[Columns]) -> tuple[list[Array], list[float]] | None:
    """(scores, weights): docs' scores by task (or by a task's group) whose weighted means add up to the row's value.

    In the metric's own unit, docs in the columns' order; None where a task does not hold the metric.
    """
    scores, weights = [], []
    for columns in samples:
        parts = _strata(metric, columns)
        if parts is None:
            return None
        scores += parts
        weights += [1 / (len(samples) * len(parts))] * len(parts)
    return scores, weights


def summarize_task(columns: Columns) -> dict[str, dict[str, Any]]:
    """Every metric that one task's sample columns hold: {metric: {"value", "stderr"}} in the metric's own unit."""
    found = {metric.name: task_estimate(metric, columns) for metric in of_columns(columns)}
    return {name: {"value": e.value, "stderr": e.stderr} for name, e in found.items() if e is not None}


def row_estimate(metric: Metric, samples: Mapping[str, Columns]) -> Estimate | None:
    """The row that is the plain mean of a metric over tasks, in its own unit; None if a task has no such score."""
    parts = [task_estimate(metric, columns) for columns in samples.values()]
    known = [part for part in parts if part is not None]
    return average(known) if known and len(known) == len(parts) else None


def summarize_row(metric: Metric, samples: Mapping[str, Columns]) -> dict[str, float | int | None]:
    """A card's row from its tasks' sample columns: {"value", "stderr", "n"} in the shown unit (None: no value)."""
    estimate = row_estimate(metric, samples)
    n = sum(len(next(iter(columns.values()), ())) for columns in samples.values())
    if estimate is None:
        return {"value": None, "stderr": None, "n": n}
    stderr = None if estimate.stderr is None else estimate.stderr * metric.scale
    return {"value": estimate.value * metric.scale, "stderr": stderr, "n": estimate.n}


# --- intervals ------------------------------------------------------------------------------------


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a proportion (Wilson 1927, JASA 22): inside [0, 1], wider than nothing at 0 and n successes."""
    from scipy.stats import binomtest  # a second of imports: only where an interval is shown

    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no proportion")
    interval = binomtest(round(successes), n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def is_wilson(metric: Metric, tasks: int) -> bool:
    """Whether a row's interval is Wilson's: of one task of right or wrong docs."""
    return tasks == 1 and metric.binary and metric.shape == "doc" and metric.average == "docs"


def row_interval(metric: Metric, tasks: int, estimate: Estimate) -> tuple[float, float] | None:
    """95 % interval of a row in the shown unit: Wilson for one task of right or wrong docs, else the normal one."""
    if is_wilson(metric, tasks):
        share = min(max(estimate.value / metric.scale, 0.0), 1.0)
        low, high = wilson(share * estimate.n, estimate.n)
        return low * metric.scale, high * metric.scale
    return estimate.interval()


def _with_items(metric: Metric, columns: Columns) -> Columns:
    """Without the docs that have no item of the metric (an answer with no rating): they tell nothing of its spread."""
    if metric.shape == "doc" or metric.column not in columns:
        return columns
    return {metric.column: [items for items in columns[metric.column] if len(items)]}
