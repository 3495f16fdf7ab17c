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
from statistics import NormalDist

import numpy as np

Array = np.ndarray
Columns = Mapping[str, Sequence]

PER_DOC = (
    "acc",
    "acc_norm_nospace",
    "alias_match",
    "final_answer_match",
    "exact_match",
    "prompt_level_strict_acc",
    "prompt_level_loose_acc",
)
PER_ITEM = ("inst_level_strict_acc", "inst_level_loose_acc", "judge_score")
"""Columns that hold a list a doc: one score an instruction, one rating a turn (unrated turns left out)."""
MEANS = {
    "ifeval": ("prompt_level_strict_acc", "inst_level_strict_acc"),
    "ifeval_loose": ("prompt_level_loose_acc", "inst_level_loose_acc"),
}
"""Metrics that are the plain mean of two others of the same docs."""
MACRO = "_macro"
"""Ending of a metric that is the plain mean over groups of docs (MMLU: subjects)."""


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
    return NormalDist().inv_cdf(p)


def two_sided_z(level: float) -> float:
    """The z of a two-sided interval: 1.96 for 0.95."""
    return quantile(0.5 + level / 2)


def upper_tail(z: float) -> float:
    """P(Z > z) of a standard normal, exact far out."""
    return 0.5 * math.erfc(z / math.sqrt(2))


# --- from the docs' scores to metrics -------------------------------------------------------------


def linearised_ratio(points: Array, items: Array) -> Array:
    """Scores a cluster of the ratio sum(points) / sum(items): their mean is the ratio, their spread its
    error.
    """
    total = items.sum()
    if total <= 0:
        raise ValueError("no items: the ratio is undefined")
    ratio = points.sum() / total
    return ratio + (points - ratio * items) / items.mean()


def doc_scores(columns: Columns) -> dict[str, Array]:
    """Per metric of a task, one (linearised) score a doc, in the order of the columns: {metric: [n_docs]}."""
    scores = {name: np.asarray(columns[name], dtype=np.float64) for name in PER_DOC if name in columns}
    for name in PER_ITEM:
        if name in columns:
            points = np.array([float(np.sum(items)) for items in columns[name]])
            counts = np.array([len(items) for items in columns[name]], dtype=np.float64)
            if counts.sum() > 0:
                scores[name] = linearised_ratio(points, counts)
    for name, parts in MEANS.items():
        if all(part in scores for part in parts):
            scores[name] = np.mean([scores[part] for part in parts], axis=0)
    return scores


def mean(scores: Array) -> Estimate:
    """Mean of the docs' scores; standard error = sample standard deviation / sqrt(n) (Miller 2024)."""
    n = len(scores)
    if n == 0:
        raise ValueError("no scores")
    stderr = float(np.std(scores, ddof=1) / math.sqrt(n)) if n > 1 else None
    return Estimate(float(np.mean(scores)), stderr, n)


def clustered_mean(scores: Array, clusters: Sequence) -> Estimate:
    """Mean over all items, with items of one cluster counted as dependent (Miller 2024)."""
    points, items = cluster_sums(scores, clusters)
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


def group_average(scores: Array, groups: Sequence) -> Estimate:
    """Plain mean over groups of each group's mean (MMLU's macro average over its 57 subjects)."""
    labels = np.asarray(groups)
    return average([mean(scores[labels == label]) for label in sorted(set(groups))])


def summarize_task(columns: Columns) -> dict[str, dict[str, float | None]]:
    """Every metric of one task from its sample columns: {metric: {"value", "stderr"}}, as fractions (ratings:
    1 to 10).

    Beside the score columns: "ifeval" and "ifeval_loose" (mean of prompt and instruction level), and, where
    `group` is filled (MMLU), each likelihood metric's macro average over groups under the metric's name +
    "_macro".
    """
    scores = doc_scores(columns)
    rated = {name: doc_scores(_with_items(columns, name))[name] for name in PER_ITEM if name in scores}
    metrics = {name: mean(values) for name, values in (scores | rated).items()}
    groups = columns.get("group")
    if groups is not None and len(groups) and all(group is not None for group in groups):
        for name in ("acc", "acc_norm_nospace"):
            if name in scores:
                metrics[name + MACRO] = group_average(scores[name], groups)
    return {name: {"value": e.value, "stderr": e.stderr} for name, e in metrics.items()}


def row_estimate(metric: str, samples: Mapping[str, Columns]) -> Estimate | None:
    """The row that is the plain mean of `metric` over tasks, in the scores' units; None if a task has no such
    score.
    """
    parts = []
    for columns in samples.values():
        if metric.endswith(MACRO):
            scores = doc_scores(columns).get(metric.removesuffix(MACRO))
            parts.append(None if scores is None else group_average(scores, columns["group"]))
        else:
            scores = doc_scores(_with_items(columns, metric)).get(metric)
            parts.append(None if scores is None else mean(scores))
    known = [part for part in parts if part is not None]
    return average(known) if known and len(known) == len(parts) else None


def row_scale(metric: str) -> float:
    """What turns a metric into the card's unit: percent, but a judge's ratings stay 1 to 10."""
    return 1.0 if metric == "judge_score" else 100.0


def summarize_row(metric: str, samples: Mapping[str, Columns]) -> dict[str, float | int | None]:
    """A card's row from its tasks' sample columns: {"value", "stderr", "n"} in the card's unit (None: no
    value).
    """
    estimate = row_estimate(metric, samples)
    n = sum(len(next(iter(columns.values()), ())) for columns in samples.values())
    if estimate is None:
        return {"value": None, "stderr": None, "n": n}
    scale = row_scale(metric)
    stderr = None if estimate.stderr is None else estimate.stderr * scale
    return {"value": estimate.value * scale, "stderr": stderr, "n": estimate.n}


# --- intervals ------------------------------------------------------------------------------------


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a proportion (Wilson 1927, JASA 22): inside [0, 1], wider than nothing at 0 and n
    successes.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no proportion")
    z = two_sided_z(level)
    p, z2 = successes / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def row_interval(metric: str, tasks: int, estimate: Estimate) -> tuple[float, float] | None:
    """95 % interval of a row in the card's unit: Wilson for one task of right or wrong docs, else the normal
    one.
    """
    scale = row_scale(metric)
    if tasks == 1 and metric in PER_DOC:
        share = min(max(estimate.value / scale, 0.0), 1.0)
        low, high = wilson(share * estimate.n, estimate.n)
        return low * scale, high * scale
    return estimate.interval()


def _with_items(columns: Columns, metric: str) -> Columns:
    """Without the docs that have no item of a metric (an answer with no rating): they tell nothing of its spread."""
    if metric not in PER_ITEM or metric not in columns:
        return columns
    return {metric: [items for items in columns[metric] if len(items)]}


def cluster_sums(scores: Array, clusters: Sequence) -> tuple[Array, Array]:
    """(sum of the scores, number of docs) of each cluster."""
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    return np.bincount(index, weights=scores), np.bincount(index).astype(np.float64)
