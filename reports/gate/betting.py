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


@dataclass(frozen=True)
class Drawn:
    """What the first docs of a row lost, [n_drawn] in the shown unit, of `total` docs in random order.

    Each is so weighted that the mean over all `total` docs is the row's loss; it lies within ±`bound`.
    """

    losses: Array
    bound: float
    total: int

    def above(self, limit: float) -> float:
        """The stake against "the loss over all docs is `limit` or less"."""
        return _stake(self.losses, limit, self.bound, self.total)

    def below(self, limit: float) -> float:
        """The stake against "the loss over all docs is `limit` or more"."""
        return _stake(-self.losses, -limit, self.bound, self.total)

    @functools.cached_property
    def worse(self) -> float:
        """The stake against "nothing is lost on average", of these docs and any others."""
        return _stake(self.losses, 0.0, self.bound, None)


@functools.lru_cache(maxsize=256)
def interleaved(sizes: tuple[int, ...]) -> Array:
    """A random order in which docs of several tasks are drawn, [sum of sizes] numbers of tasks: always the same one."""
    tasks = np.repeat(np.arange(len(sizes)), sizes)
    return tasks if len(sizes) == 1 else np.random.default_rng(SEED).permutation(tasks)


def _stake(values: Array, mean: float, bound: float, total: int | None) -> float:
    """The largest stake so far of who bets that the mean of values within ±bound is above `mean`.

    Without replacement the docs that are left have another mean than all: what is still to come if the mean of all
    `total` were `mean`. Where that lies below what a doc can be, the hypothesis is refuted for sure.
    """
    if not len(values) or not np.isfinite(bound):
        return 1.0  # nothing to bet on, or a doc could lose anything
    expected = np.full(len(values), mean)
    if total is not None:
        drawn = np.concatenate([[0.0], np.cumsum(values)])
        left = total - np.arange(len(values) + 1)
        if np.any(total * mean - drawn < -left * bound - 1e-9):
            return float("inf")
        expected = (total * mean - drawn[:-1]) / left[:-1]
    risked = FRACTIONS[:, None] / np.maximum(expected + bound, 1e-12)
    growth = np.log1p(risked * (values - expected)).cumsum(axis=1)
    stakes = np.logaddexp.reduce(growth, axis=0) - np.log(len(FRACTIONS))
    return float(np.exp(min(max(0.0, stakes.max()), 700.0)))
