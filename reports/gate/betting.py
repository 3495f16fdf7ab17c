"""Tests of a bounded mean that may be looked at after every doc, for docs drawn without replacement.

A bet against a hypothesis: a stake of one grows or shrinks with each doc, and while the hypothesis is true it ever
reaches k with probability 1/k at most (Ville's inequality). So a stake of k rejects at level 1/k, whenever one stops.
Sources: Waudby-Smith and Ramdas 2020, "Confidence sequences for sampling without replacement" (arXiv 2006.04347), and
2024, "Estimating means of bounded random variables by betting" (JRSS B 86); Vovk and Wang 2021, "E-values:
calibration, combination and applications" (Annals of Statistics 49): a mean of stakes is a stake, and Holm's correction
may be applied to 1/stake.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from evals.core.statistics import Array

SEED = 42
FRACTIONS = np.array([1 / 16, 1 / 8, 1 / 4, 1 / 2, 0.9])
"""Parts of the stake put at risk with each doc. The stake is divided among them: the best one need not be known."""
GUESSED = 0.9
"""Where the true mean is guessed, the part of the stake that bets as if the guess were right."""
PRIOR, PRIOR_CHANGED = 50, 0.08
"""Made-up docs before the first, and the part of them that moved by all that a doc can."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """What the first docs of a row lost, [n_drawn] in the shown unit, of `total` docs in random order.

    Each is so weighted that the mean over all `total` docs is the row's loss; it lies within ±`bound`.
    """

    losses: Array
    bound: float
    total: int

    def above(self, limit: float) -> float:
        """The stake against "the loss over all docs is `limit` or less"."""
        return _stake(self, 1, limit, self.total)

    def below(self, limit: float) -> float:
        """The stake against "the loss over all docs is `limit` or more"; it grows fastest where nothing is lost."""
        return _stake(self, -1, limit, self.total, 0.0)

    @property
    def worse(self) -> float:
        """The stake against "nothing is lost on average", of these docs and any others."""
        return _stake(self, 1, 0.0, None)


@functools.lru_cache(maxsize=256)
def interleaved(sizes: tuple[int, ...]) -> Array:
    """A random order in which docs of several tasks are drawn, [sum of sizes] numbers of tasks: always the same one."""
    tasks = np.repeat(np.arange(len(sizes)), sizes)
    return tasks if len(sizes) == 1 else np.random.default_rng(SEED).permutation(tasks)


@functools.lru_cache(maxsize=256)  # rows are judged again at every look at any of them
def _stake(drawn: Drawn, side: int, limit: float, total: int | None, guess: float | None = None) -> float:
    """The largest stake so far of who bets that the mean loss is above `limit` (side 1) or below it (side -1).

    It is divided among FRACTIONS, and a bet on `guess`, the true mean, where there is one. Without replacement the docs
    that are left have another mean than all: what is still to come if the mean of all `total` were `limit`. Where that
    lies below what a doc can be, the hypothesis is refuted for sure.
    """
    values, mean, bound = side * drawn.losses, side * limit, drawn.bound
    if not len(values) or not np.isfinite(bound):
        return 1.0  # nothing to bet on, or a doc could lose anything
    expected = np.full(len(values), mean)
    if total is not None:
        so_far = np.concatenate([[0.0], np.cumsum(values)])
        left = total - np.arange(len(values) + 1)
        if np.any(total * mean - so_far < -left * bound - 1e-9):
            return float("inf")
        expected = (total * mean - so_far[:-1]) / left[:-1]
    most = 1 / np.maximum(expected + bound, 1e-12)
    bets = FRACTIONS[:, None] * most
    weights = np.full(len(FRACTIONS), 1 / len(FRACTIONS))
    if guess is not None:
        bets = np.vstack([_best_bet(values, expected, bound, guess).clip(0, FRACTIONS[-1] * most), bets])
        weights = np.concatenate([[GUESSED], (1 - GUESSED) * weights])
    growth = np.log1p(bets * (values - expected)).cumsum(axis=1)
    stakes = np.logaddexp.reduce(growth + np.log(weights)[:, None], axis=0)
    return float(np.exp(min(max(0.0, stakes.max()), 700.0)))


def _best_bet(values: Array, expected: Array, bound: float, guess: float) -> Array:
    """The bet on each doc under which the stake grows fastest if the mean is `guess` (Kelly 1956, "A new interpretation
    of information rate"): how much docs differ is learnt from those before it alone.
    """
    before = np.cumsum(values**2) - values**2
    square = (before + PRIOR * PRIOR_CHANGED * bound**2) / (np.arange(len(values)) + PRIOR)
    best: Array = (guess - expected) / (square - 2 * expected * guess + expected**2)
    return best
