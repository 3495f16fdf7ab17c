"""The one rule for which differences count: against a printed number, between two runs, and for a gate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from evals.core.errors import UserError
from evals.core.metric import Metric

POINTS = 2.0
"""The margin of rows in percent, for which a metric of another unit has its own (Metric.margin)."""


@dataclass(frozen=True)
class Tolerance:
    """A difference within the margin counts as none; one beyond it counts if it is real at `alpha` (after Holm).

    The margin is `points` in percent rows and the same multiple of the metric's own elsewhere, but at most the share
    `relative` of the value compared with: near zero, 2 points would let anything pass.
    """

    points: float = POINTS
    alpha: float = 0.05
    relative: float | None = 0.25

    def __post_init__(self) -> None:
        if not (math.isfinite(self.points) and self.points >= 0):
            raise UserError(f"--margin {self.points:g}: it must be zero or more, in points of percent")
        if not 0 < self.alpha < 0.5:
            raise UserError(f"--alpha {self.alpha:g}: it must lie between 0 and 0.5")

    def margin(self, metric: Metric, reference: float) -> float:
        """The largest difference from `reference` that counts as none, in the metric's shown unit."""
        own = metric.margin * self.points / POINTS
        return own if self.relative is None else min(own, self.relative * abs(reference))

    @property
    def words(self) -> str:
        """The rule for a footnote."""
        share = (
            ""
            if self.relative is None
            else f", but at most {100 * self.relative:g} % of the value compared with,"
        )
        return (
            f"a difference within ±{self.points:g} points (other units alike){share} counts as none; "
            f"tests at alpha {self.alpha:g}, Holm's correction"
        )


USUAL = Tolerance()
"""What counts unless a user says otherwise."""
