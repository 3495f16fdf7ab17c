"""Whether a difference is one: two runs on the same docs, a run against a printed number, many rows or models at once.

Works on the scores of statistics.py. Sources: Miller 2024, "Adding Error Bars to Evals" (arXiv 2411.00640), for paired
differences and power; the others are named where they are used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, special

from evals.core.metric import Metric
from evals.core.statistics import (
    Array,
    Estimate,
    average,
    mean,
    quantile,
    two_sided_z,
    upper_tail,
    weighted_sum,
)

BOOTSTRAP_SEED = 42


@dataclass(frozen=True)
class Difference:
    """Second less first, on the same docs. `p` is two-sided; `p_worse` is against "not worse" (one-sided).

    Worse is lower, or higher for a metric of which less is better. `test` names the test behind both p. `changed`: docs
    whose own scores differ. `spread` is the value's variance if the true difference is zero; `share` is what one doc
    adds to the variance for each unit of its own (sum of squared weights over docs): both for planning (`detectable`).
    """

    value: float
    stderr: float
    p: float
    p_worse: float
    n: int
    changed: int
    test: str
    spread: float = 0.0
    share: float = 0.0

    @property
    def low(self) -> float:
        """The 95 % interval's lower end."""
        return self.value - two_sided_z(0.95) * self.stderr

    @property
    def high(self) -> float:
        """The 95 % interval's upper end."""
        return self.value + two_sided_z(0.95) * self.stderr

    @property
    def estimate(self) -> Estimate:
        """Value, standard error (None: one doc tells none) and docs."""
        return Estimate(self.value, self.stderr if math.isfinite(self.stderr) else None, self.n)


@dataclass(frozen=True)
class Noise:
    """`spread` and `share` of a difference that is still to be measured (see Difference)."""

    spread: float
    share: float

    @property
    def stderr(self) -> float:
        """Of the difference, if the true one is zero."""
        return math.sqrt(self.spread)


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
    """Exact test of `worse` against `better` flips: (two-sided p, one-sided p of "worse is not more frequent").

    McNemar 1947, Psychometrika 12; exact form: under no difference each flip is a fair coin.
    """
    flips = worse + better
    if flips == 0:
        return 1.0, 1.0
    two_sided = 2 * special.bdtr(min(worse, better), flips, 0.5)
    one_sided = special.bdtrc(worse - 1, flips, 0.5) if worse else 1.0
    return min(1.0, float(two_sided)), float(one_sided)


def bootstrap_test(
    differences: Sequence[Array], weights: Sequence[float], resamples: int = 10_000
) -> tuple[float, float]:
    """Paired bootstrap of the weighted sum of tasks' mean differences: (two-sided p, one-sided p of "no drop").

    Docs are drawn with replacement within each task; the test compares the observed difference with the spread of the
    resampled ones about it (Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 16). Docs of equal
    difference are drawn together, as one multinomial count, so that the cost does not grow with the docs.
    """
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    observed = float(sum(w * values.mean() for w, values in zip(weights, differences, strict=True)))
    shifts = np.zeros(resamples)
    for share, values in zip(weights, differences, strict=True):
        kinds, counts = np.unique(np.round(values, 12), return_counts=True)
        draws = generator.multinomial(len(values), counts / len(values), size=resamples)
        shifts += (draws @ kinds / len(values) - values.mean()) * share
    slack = 1e-12
    two_sided = (1 + np.count_nonzero(np.abs(shifts) >= abs(observed) - slack)) / (resamples + 1)
    drop = (1 + np.count_nonzero(shifts <= observed + slack)) / (resamples + 1)
    return float(two_sided), float(drop)


def paired_difference(
    first: Sequence[Array],
    second: Sequence[Array],
    *,
    weights: Sequence[float] | None = None,
    scale: float = 1.0,
    changed: int | None = None,
    higher_is_better: bool = True,
    resamples: int = 10_000,
) -> Difference:
    """Second less first for a row: arrays of doc scores whose weighted means are the row, docs of both in one order.

    Standard error from the docs' differences (Miller 2024). `weights`: equal ones unless given (those of
    statistics.row_strata); `changed`: docs whose own scores differ, counted from the arrays unless given. p: exact
    McNemar for one task of right or wrong docs, else the paired bootstrap.
    """
    differences = [np.asarray(b, float) - np.asarray(a, float) for a, b in zip(first, second, strict=True)]
    shares = weights or [1 / len(differences)] * len(differences)
    estimate = weighted_sum([mean(values) for values in differences], shares)
    if changed is None:
        changed = int(sum(np.count_nonzero(np.abs(values) > 1e-12) for values in differences))
    gains = differences if higher_is_better else [-values for values in differences]
    stderr, p, p_worse = estimate.stderr or 0.0, 1.0, 1.0
    if estimate.stderr is None:
        stderr, test = math.inf, "none (one doc)"
    elif changed == 0:
        stderr, test = 0.0, "no doc changed"
    elif len(gains) == 1 and all(np.isin(scores, (0.0, 1.0)).all() for scores in (first[0], second[0])):
        test = "exact McNemar"
        p, p_worse = mcnemar(int(np.sum(gains[0] < 0)), int(np.sum(gains[0] > 0)))
    else:
        test = "paired bootstrap"
        p, p_worse = bootstrap_test(gains, shares, resamples)
    parts = list(zip(shares, differences, strict=True))
    spread = sum(w * w * np.mean(values**2) / len(values) for w, values in parts)
    return Difference(
        value=estimate.value * scale, stderr=stderr * scale, p=p, p_worse=p_worse, n=estimate.n, changed=changed,
        test=test, spread=float(spread) * scale**2, share=sum(w * w / len(values) for w, values in parts),
    )  # fmt: skip


def of_estimate(difference: Estimate, changed: int) -> Difference:
    """A difference whose estimate is known, such as a mean over rows, tested by its normal error."""
    stderr = math.inf if difference.stderr is None else difference.stderr
    p = z_test(difference)
    worse = p / 2 if difference.value < 0 else 1 - p / 2
    return Difference(difference.value, stderr, p, worse, difference.n, changed, "z")


def detectable(
    difference: Difference | Noise, reach: float, level: float, allowed: float = 0.0, power: float = 0.8
) -> float:
    """The smallest true loss D, in the shown unit, that a test on these docs finds with that power.

    Found is a loss above `allowed` with a one-sided p below `level` (of two sides: half of alpha; of several rows: a
    part of it). A loss brings flips of its own beside those seen: D is solved from
    D = max(allowed, z_level se(D)) + z_power se(D), where se(D)² = spread + share (D reach - D²) and `reach` is how far
    one doc's score can fall, in the shown unit; for right or wrong docs it is (changed / n + D - D²) / n. Infinite for
    one doc.
    """
    if not math.isfinite(difference.stderr):
        return math.inf
    z_level, z_power = quantile(1 - level), quantile(power)

    def asked(loss: float) -> float:
        own = difference.share * (loss * reach - loss**2) if math.isfinite(reach) else 0.0
        stderr = math.sqrt(difference.spread + max(0.0, own))
        return max(allowed, z_level * stderr) + z_power * stderr

    if not math.isfinite(reach):
        return asked(0.0)
    if asked(reach) >= reach:
        return reach  # not even the loss of everything would show
    return float(optimize.brentq(lambda loss: asked(loss) - loss, 1e-9 * reach, reach))


# --- a run against a printed number ---------------------------------------------------------------


def equivalence(difference: float, stderr: float, margin: float) -> float:
    """p of "the true difference is margin or more": the larger of two one-sided tests (Schuirmann 1987, JPB 15)."""
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
    """Does `measured` (n of the benchmark's `docs`) reproduce a number printed with `decimals`, measured on all docs?

    The printed number's error is unknown. Its docs are taken to vary as ours do (s² a doc) and to be answered alike
    with the correlation r: var(ours - theirs) = s²/n + s²/docs - 2 r s²/docs, plus the rounding's step²/12. With r = 0
    the two are independent samples; with r = 1 only the docs that we left out count. "reproduced" when the equivalence
    test within ±margin succeeds, "differs" when the difference is real at alpha, else "cannot tell".
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
    sizes = [docs * k // 100 for k in range(1, 101)]
    needed = next((n for n in sizes if n > measured.n and stderr_at(n) <= reach), None)
    return Reproduction(difference, stderr, margin, p_differs, p_equivalent, verdict, needed)


def with_holm(results: Sequence[Reproduction], alpha: float = 0.05) -> list[Reproduction]:
    """The rows of one table together: "differs" stands only where it holds after Holm's correction."""
    adjusted = holm([result.p_differs for result in results])
    return [
        replace(result, p_differs=p, verdict=_verdict(result.p_equivalent, p, alpha))
        for result, p in zip(results, adjusted, strict=True)
    ]


# --- many rows, many models -----------------------------------------------------------------------

MEAN = "Mean of all rows"
MEAN_WORDS = (
    "plain mean of the rows in percent that all sides have; rows of another unit (ratings) are not in it; its error "
    "takes the rows' errors as independent"
)


def mean_of_rows(parts: Iterable[tuple[Metric, Estimate | None]]) -> Estimate | None:
    """The one definition of a table's mean (MEAN_WORDS): of rows' values, or of their paired differences.

    `parts`: each row's metric and estimate in the shown unit (None: no value). None where no row is in percent.
    """
    known = [estimate for metric, estimate in parts if metric.in_percent and estimate is not None]
    return average(known) if known else None


def holm(p_values: Sequence[float]) -> list[float]:
    """p adjusted for the number of tests (Holm 1979, Scandinavian Journal of Statistics 6), in the given order."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, np.arange(len(p), 0, -1) * p[order]))
    return [float(one) for one in adjusted]


def ranks(
    values: Sequence[float],
    p_value: Callable[[int, int], float],
    alpha: float = 0.05,
    higher_is_better: bool = True,
) -> list[int]:
    """Rank of each value (best first): 1 + how many are better and significantly so (Holm over all pairs).

    Values that cannot be told apart from the best share rank 1. `p_value(i, j)` is the two-sided p of i against j.
    """
    pairs = [(i, j) for i in range(len(values)) for j in range(i)]
    adjusted = holm([p_value(i, j) for i, j in pairs])
    ranked = [1] * len(values)
    for (i, j), p in zip(pairs, adjusted, strict=True):
        if p < alpha and values[i] != values[j]:
            ranked[i if (values[i] < values[j]) == higher_is_better else j] += 1
    return ranked


def z_test(difference: Estimate) -> float:
    """Two-sided p of "the true difference is zero", by its normal error."""
    if difference.stderr is None:
        return 1.0
    if difference.stderr == 0:
        return float(difference.value == 0)
    return 2 * upper_tail(abs(difference.value) / difference.stderr)


def _verdict(p_equivalent: float, p_differs: float, alpha: float) -> str:
    if p_equivalent < alpha:
        return "reproduced"
    return "differs" if p_differs < alpha else "cannot tell"
