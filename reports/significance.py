"""Whether a difference is one: two runs on the same docs, a run against a printed number, many rows or models at once.

Works on the scores of statistics.py. Sources: Miller 2024, "Adding Error Bars to Evals" (arXiv 2411.00640), for paired
differences and power; the others are named where they are used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evals.core.statistics import (
    Array,
    Estimate,
    average,
    cluster_sums,
    linearised_ratio,
    mean,
    quantile,
    two_sided_z,
    upper_tail,
)

BOOTSTRAP_SEED = 42


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
        units = [linearised_ratio(*cluster_sums(d, c)) for d, c in zip(differences, clusters, strict=True)]
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


def _verdict(p_equivalent: float, p_differs: float, alpha: float) -> str:
    if p_equivalent < alpha:
        return "reproduced"
    return "differs" if p_differs < alpha else "cannot tell"


def _right_or_wrong(scores: Array) -> bool:
    return bool(np.isin(scores, (0.0, 1.0)).all())


def _candidates(start: int, docs: int) -> list[int]:
    steps = [docs * k // 100 for k in range(1, 101)]
    return [n for n in steps if n > start]
