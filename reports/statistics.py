"""The one place where the numbers that a report shows are computed, from the docs' scores.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
BOOTSTRAP_SEED = 42


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


@dataclass(frozen=True)
class Difference:
    """Second less first, on the same docs. `p` is two-sided; `p_drop` is against "no drop" (one-sided).

    `mde` is the smallest true difference that a two-sided test at `alpha` finds with 80 % power. `test` names
    the test behind both p. `changed`: docs whose score differs.
    """

    value: float
    stderr: float
    low: float
    high: float
    p: float
    p_drop: float
    mde: float
    n: int
    changed: int
    test: str


@dataclass(frozen=True)
class Reproduction:
    """A measured value against a printed one. `verdict`: "reproduced", "differs" or "cannot tell".

    `stderr` is that of the difference; `p_differs` two-sided, `p_equivalent` of the two one-sided tests;
    `needed`: the docs that could show equivalence within `margin` (None: not even all of the benchmark's).
    """

    difference: float
    stderr: float | None
    margin: float
    p_differs: float
    p_equivalent: float
    verdict: str
    needed: int | None


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
    points, items = _cluster_sums(scores, clusters)
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


# --- two runs on the same docs --------------------------------------------------------------------


def mcnemar(worse: int, better: int) -> tuple[float, float]:
    """Exact test of `worse` against `better` flips: (two-sided p, one-sided p of "worse is not more
    frequent").

    McNemar 1947, Psychometrika 12; exact form: under no difference each flip is a fair coin.
    """
    flips = worse + better
    if flips == 0:
        return 1.0, 1.0
    logs = [
        math.lgamma(flips + 1) - math.lgamma(k + 1) - math.lgamma(flips - k + 1) for k in range(flips + 1)
    ]
    masses = np.exp(np.array(logs) - flips * math.log(2))
    small = min(worse, better)
    return min(1.0, 2 * float(masses[: small + 1].sum())), min(1.0, float(masses[worse:].sum()))


def bootstrap_test(
    differences: Sequence[Array], resamples: int = 10_000, seed: int = BOOTSTRAP_SEED
) -> tuple[float, float]:
    """Paired bootstrap of the mean over tasks of the mean difference: (two-sided p, one-sided p of "no
    drop").

    Docs are drawn with replacement within each task; the test compares the observed difference with the
    spread of the resampled ones about it (Efron and Tibshirani 1993, An Introduction to the Bootstrap,
    chapter 16). Docs of equal difference are drawn together, as one multinomial count, so that the cost does
    not grow with the docs.
    """
    generator = np.random.default_rng(seed)
    observed = float(np.mean([values.mean() for values in differences]))
    shifts = np.zeros(resamples)
    for values in differences:
        kinds, counts = np.unique(np.round(values, 12), return_counts=True)
        draws = generator.multinomial(len(values), counts / len(values), size=resamples)
        shifts += (draws @ kinds / len(values) - values.mean()) / len(differences)
    slack = 1e-12
    two_sided = (1 + np.count_nonzero(np.abs(shifts) >= abs(observed) - slack)) / (resamples + 1)
    drop = (1 + np.count_nonzero(shifts <= observed + slack)) / (resamples + 1)
    return float(two_sided), float(drop)


def paired_difference(
    first: Sequence[Array],
    second: Sequence[Array],
    *,
    scale: float = 1.0,
    alpha: float = 0.05,
    clusters: Sequence[Sequence] | None = None,
) -> Difference:
    """Second less first for a row: one array of doc scores a task, the docs of both in the same order.

    Standard error from the docs' differences (Miller 2024), tasks weighted equally. `clusters`,
    one sequence a task, names docs that depend on each other. p: exact McNemar for one task of right or wrong
    docs, else the paired bootstrap.
    """
    differences = [np.asarray(b, float) - np.asarray(a, float) for a, b in zip(first, second, strict=True)]
    units = differences
    if clusters is not None:
        units = [linearised_ratio(*_cluster_sums(d, c)) for d, c in zip(differences, clusters, strict=True)]
    estimate = average([mean(values) for values in units])
    changed = int(sum(np.count_nonzero(np.abs(values) > 1e-12) for values in differences))
    if estimate.stderr is None:
        stderr, test, p, p_drop = math.inf, "none (one doc)", 1.0, 1.0
    elif changed == 0:
        stderr, test, p, p_drop = 0.0, "no doc changed", 1.0, 1.0
    elif len(units) == 1 and clusters is None and _right_or_wrong(first[0]) and _right_or_wrong(second[0]):
        worse, better = int(np.sum(differences[0] < 0)), int(np.sum(differences[0] > 0))
        stderr, test = estimate.stderr, "exact McNemar"
        p, p_drop = mcnemar(worse, better)
    else:
        stderr, test = estimate.stderr, "paired bootstrap"
        p, p_drop = bootstrap_test(units)
    value, stderr = estimate.value * scale, stderr * scale
    half = two_sided_z(0.95) * stderr
    n = int(sum(len(values) for values in differences))
    return Difference(
        value, stderr, value - half, value + half, p, p_drop, detectable(stderr, alpha), n, changed, test
    )


def detectable(stderr: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true difference that a two-sided test finds with that power (Miller 2024)."""
    return (quantile(1 - alpha / 2) + quantile(power)) * stderr


def detectable_drop(stderr: float, allowed: float, alpha: float, power: float = 0.8) -> float:
    """The true drop that a gate finds with that power, when it asks for a drop above `allowed` and p below
    alpha.
    """
    return max(allowed, quantile(1 - alpha) * stderr) + quantile(power) * stderr


# --- a run against a printed number ---------------------------------------------------------------


def equivalence(difference: float, stderr: float, margin: float) -> float:
    """p of "the true difference is margin or more": the larger of two one-sided tests (Schuirmann 1987, JPB
    15).
    """
    if stderr == 0:
        return 0.0 if abs(difference) < margin else 1.0
    return max(upper_tail((margin - difference) / stderr), upper_tail((margin + difference) / stderr))


def reproduction(
    measured: Estimate,
    published: float,
    decimals: int,
    docs: int,
    *,
    margin: float,
    correlation: float = 0.0,
    alpha: float = 0.05,
) -> Reproduction:
    """Does `measured` (n of the benchmark's `docs`) reproduce a number printed with `decimals`, measured on
    all docs?

    The printed number's error is unknown. Its docs are taken to vary as ours do (s² a doc) and to be answered
    alike with the correlation r: var(ours - theirs) = s²/n + s²/docs - 2 r s²/docs, plus the rounding's
    step²/12. With r = 0 the two are independent samples; with r = 1 only the docs that we left out count.
    "reproduced" when the equivalence test within ±margin succeeds, "differs" when the difference is real at
    alpha, else "cannot tell".
    """
    difference = measured.value - published
    if measured.stderr is None:
        return Reproduction(difference, None, margin, 1.0, 1.0, "cannot tell", None)
    unit = measured.n * measured.stderr**2
    rounding = 10.0 ** (-2 * decimals) / 12

    def stderr_at(n: int) -> float:
        return math.sqrt(max(0.0, unit / n + unit / docs * (1 - 2 * correlation)) + rounding)

    stderr = stderr_at(min(measured.n, docs))
    p_differs = 2 * upper_tail(abs(difference) / stderr)
    p_equivalent = equivalence(difference, stderr, margin)
    verdict = _verdict(p_equivalent, p_differs, alpha)
    # planned for a true difference of zero: both one-sided tests must then succeed with 80 % power
    reach = margin / (quantile(1 - alpha) + quantile(0.9))
    needed = next((n for n in _candidates(measured.n, docs) if stderr_at(n) <= reach), None)
    return Reproduction(difference, stderr, margin, p_differs, p_equivalent, verdict, needed)


def with_holm(results: Sequence[Reproduction], alpha: float = 0.05) -> list[Reproduction]:
    """The rows of one table together: "differs" stands only where it holds after Holm's correction."""
    adjusted = holm([result.p_differs for result in results])
    return [
        replace(result, p_differs=p, verdict=_verdict(result.p_equivalent, p, alpha))
        for result, p in zip(results, adjusted, strict=True)
    ]


# --- many rows, many models -----------------------------------------------------------------------


def holm(p_values: Sequence[float]) -> list[float]:
    """p adjusted for the number of tests (Holm 1979, Scandinavian Journal of Statistics 6), in the given
    order.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def ranks(values: Sequence[float], p_value: Callable[[int, int], float], alpha: float = 0.05) -> list[int]:
    """Rank of each value (largest first): 1 + how many are larger and significantly so (Holm over all pairs).

    Values that cannot be told apart from the best share rank 1. `p_value(i, j)` is the two-sided p of i
    against j.
    """
    pairs = [(i, j) for i in range(len(values)) for j in range(i)]
    adjusted = holm([p_value(i, j) for i, j in pairs])
    ranked = [1] * len(values)
    for (i, j), p in zip(pairs, adjusted, strict=True):
        if p < alpha and values[i] != values[j]:
            ranked[i if values[i] < values[j] else j] += 1
    return ranked


def independent_p(first: Estimate, second: Estimate) -> float:
    """Two-sided p of a difference between estimates on different docs."""
    if first.stderr is None or second.stderr is None:
        return 1.0
    stderr = math.hypot(first.stderr, second.stderr)
    if stderr == 0:
        return 1.0 if first.value == second.value else 0.0
    return 2 * upper_tail(abs(first.value - second.value) / stderr)


def _with_items(columns: Columns, metric: str) -> Columns:
    """Without the docs that have no item of a metric (an answer with no rating): they tell nothing of its spread."""
    if metric not in PER_ITEM or metric not in columns:
        return columns
    return {metric: [items for items in columns[metric] if len(items)]}


def _verdict(p_equivalent: float, p_differs: float, alpha: float) -> str:
    if p_equivalent < alpha:
        return "reproduced"
    return "differs" if p_differs < alpha else "cannot tell"


def _cluster_sums(scores: Array, clusters: Sequence) -> tuple[Array, Array]:
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    return np.bincount(index, weights=scores), np.bincount(index).astype(np.float64)


def _right_or_wrong(scores: Array) -> bool:
    return bool(np.isin(scores, (0.0, 1.0)).all())


def _candidates(start: int, docs: int) -> list[int]:
    steps = [docs * k // 100 for k in range(1, 101)]
    return [n for n in steps if n > start]
